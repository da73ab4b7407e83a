"""The atomic step `register`: a worker's incarnation becomes a holder of claims."""

import pytest

from dispatcher.errors import InvalidName, NotFound, RedisRefused, Refused
from dispatcher.records import Registered, Registration, Word
from tests.builders import ODD_NAMES, POOL, T0, changed

W = Registration("w", "1", slots=4, queues=("a b", "default"), host="host", pid=7, type="rq")
W_AGAIN = Registration("w", "2", slots=4)


def test_a_registered_holder_has_a_lease(fleet):
    before = fleet.dump()

    assert fleet.store.register(POOL, W) == Registered("w.1", lease_ms=15_000, renew_ms=5_000)

    assert changed(before, fleet.dump()) == {
        "holders": {"w.1": T0 + 15_000},
        "holder:w.1": {
            "worker": "w",
            "queues": "a%20b default",
            "slots": "4",
            "host": "host",
            "pid": "7",
            "type": "rq",
            "registered_ms": str(T0),
            "claim_number": "0",
        },
        "workers": {"w": "w.1"},
        "events": [{"event": "registered", "at_ms": str(T0), "worker": "w.1"}],
    }


def test_the_same_incarnation_again_gets_the_same_answer_and_changes_nothing(fleet):
    first = fleet.store.register(POOL, W)
    before = fleet.dump()

    assert fleet.store.register(POOL, W) == first
    assert fleet.dump() == before


def test_the_same_incarnation_again_keeps_its_claims_and_prolongs_its_lease(fleet):
    holder = fleet.register()
    fleet.put("a")
    fleet.claim_one(holder)
    before = fleet.dump()
    fleet.advance(2)

    fleet.register()

    assert changed(before, fleet.dump()) == {"holders": {holder: T0 + 15_002}}


def test_a_new_incarnation_displaces_the_old_one(fleet):
    fleet.store.register(POOL, W)
    before = fleet.dump()

    assert fleet.store.register(POOL, W_AGAIN).displaced == "w.1"

    difference = changed(before, fleet.dump())
    assert difference.pop("holder:w.2")["worker"] == "w"
    assert difference == {
        "holders": {"w.1": 0, "w.2": T0 + 15_000},
        "holder:w.1": {"dead": "1"},
        "inbox:w.1": ["1"],
        "workers": {"w": "w.2"},
        "events": [{"event": "registered", "at_ms": str(T0), "worker": "w.2"}],
    }


def test_a_new_incarnation_again_gets_the_same_answer_and_changes_nothing(fleet):
    fleet.store.register(POOL, W)
    first = fleet.store.register(POOL, W_AGAIN)
    before = fleet.dump()

    assert fleet.store.register(POOL, W_AGAIN) == first
    assert fleet.dump() == before


def test_a_displaced_incarnation_is_recovered_although_its_lease_goes_on(fleet):
    old = fleet.register(incarnation="1")
    fleet.put("a")
    fleet.claim_one(old)
    new = fleet.register(incarnation="2")

    recovered = fleet.store.recover_all(POOL, old)

    assert (recovered.word, recovered.requeued) == (Word.RECOVERED, ["a"])
    fleet.dispatch()
    assert fleet.claim_one(new).run_id == "a"


def test_a_displaced_incarnation_claims_nothing(fleet):
    old = fleet.register(incarnation="1")
    fleet.put("a")
    fleet.register(incarnation="2")

    assert fleet.answer(old).word is Word.LOST


def test_a_displaced_incarnation_cannot_register_again(fleet):
    fleet.store.register(POOL, W)
    fleet.store.register(POOL, W_AGAIN)
    before = fleet.dump()

    with pytest.raises(Refused, match=r"worker w\.1 was recovered; register a new incarnation"):
        fleet.store.register(POOL, W)
    assert fleet.dump() == before


def test_a_name_whose_last_holder_has_left_displaces_nobody(fleet):
    fleet.lose(fleet.register(incarnation="1"))
    assert fleet.store.register(POOL, W_AGAIN).displaced == ""


def test_workers_of_different_names_do_not_displace_each_other(fleet):
    fleet.register("one")
    assert fleet.store.register(POOL, Registration("two", "1", slots=1)).displaced == ""


def test_a_pool_that_does_not_exist_registers_nobody(fleet):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        fleet.store.register("nowhere", W)
    assert list(fleet.client.scan_iter(f"{fleet.store.prefix}:*nowhere*")) == []


def test_a_pool_of_a_newer_release_registers_no_worker_of_this_one(fleet):
    fleet.client.hset(fleet.keys["pool"], "version", 2)
    before = fleet.dump()
    with pytest.raises(RedisRefused, match="data version 2"):
        fleet.store.register(POOL, W)
    assert fleet.dump() == before


def test_a_worker_name_against_the_rule_registers_nobody(fleet):
    before = fleet.dump()
    with pytest.raises(InvalidName):
        fleet.register("a/b")
    assert fleet.dump() == before


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_worker_may_have_an_odd_name(fleet, name):
    holder = fleet.register(name)
    fleet.put("a")

    claim = fleet.claim_one(holder)

    assert fleet.renew(holder, held=1) == "renewed"
    assert fleet.start(claim) == "started"
    assert fleet.finish(claim) == "finished"
