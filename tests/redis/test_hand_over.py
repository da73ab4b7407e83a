"""The steps of claims in RQ: `hand_over` and `renew_run`."""

from typing import Any

import pytest

from dispatcher.errors import InvalidName, NotFound, Refused
from dispatcher.hand_overs import rq_queue_of, shared_holder
from dispatcher.records import Claim, Renewed, Word
from tests.builders import ODD_NAMES, POOL, T0, Fleet, changed, refused

SHARED = "rq.flows"
LEASE_MS, RENEW_MS = 15_000, 5_000


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, not started; RQ's holder is registered."""
    fleet.put("a")
    share(fleet)
    return fleet.claim_one(fleet.register())


def share(fleet: Fleet, **fields: Any) -> str:
    return fleet.store.register_shared(POOL, "flows", **{"slots": 10} | fields).holder


def hand_over(fleet: Fleet, claim: Claim, holder: str = SHARED) -> Word:
    """Hand a run over, and enqueue it in a list that is no key of ours."""
    queue = fleet.store.prefix + "-queue"
    return fleet.store.hand_over(
        POOL, claim, holder, enqueue=lambda pipe: pipe.rpush(queue, claim.run_id)
    )


def enqueued(fleet: Fleet) -> list[bytes]:
    queue = fleet.store.prefix + "-queue"
    found = fleet.client.lrange(queue, 0, -1)
    fleet.client.delete(queue)
    return found


def renew(fleet: Fleet, claim: Claim, executor: str = "w.1", holder: str = SHARED) -> Renewed:
    return fleet.store.renew_run(POOL, claim.run_id, claim.token, holder=holder, executor=executor)


def abandon(fleet: Fleet, claim: Claim, reason: str = "") -> Word:
    return fleet.store.abandon(POOL, claim.run_id, claim.token, reason=reason)


# --- The shared holder


def test_a_shared_holder_is_adopted_by_whoever_registers_it_again(fleet):
    share(fleet, host="h1", pid=1)
    before = fleet.dump()
    fleet.advance(5_000)

    assert share(fleet, host="h2", pid=2) == SHARED
    assert changed(before, fleet.dump()) == {"holders": {SHARED: T0 + 5_000 + LEASE_MS}}
    assert before[f"holder:{SHARED}"]["type"] == "rq"


def test_a_shared_holder_that_is_being_recovered_is_not_adopted(fleet, claim):
    hand_over(fleet, claim)
    fleet.advance(LEASE_MS)
    fleet.store.recover(POOL, SHARED, limit=1)
    fleet.client.hset(fleet.keys["holder"] + SHARED, mapping={"worker": SHARED, "dead": "1"})

    with pytest.raises(Refused, match=r"what rq\.flows had is being taken back"):
        share(fleet)


def test_a_shared_holder_of_a_pool_that_is_not_there_is_refused(fleet):
    with pytest.raises(NotFound):
        fleet.store.register_shared("nowhere", "flows", slots=1)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_rq_queue_of_a_shared_holder_is_told_by_its_id(name):
    assert rq_queue_of(shared_holder(name)) == name


def test_a_worker_cannot_have_the_name_of_a_shared_holder(fleet):
    with pytest.raises(InvalidName, match=r"begins with rq\."):
        fleet.register("rq.flows")


def test_the_holders_of_two_rq_queues_live_side_by_side(fleet):
    share(fleet)
    fleet.store.register_shared(POOL, "others", slots=1)
    assert fleet.members("holders") == ["rq.flows", "rq.others"]


# --- The hand-over


def test_a_handed_over_run_belongs_to_the_shared_holder_under_its_token(fleet, claim):
    before = fleet.dump()
    fleet.advance(3)

    assert hand_over(fleet, claim) is Word.HANDED_OVER
    entry = before["run:a"]["entry"]
    workers = {"consumers": [SHARED, "w.1"], "pending": {entry: SHARED}}
    assert changed(before, fleet.dump()) == {
        "claims:w.1": None,
        f"claims:{SHARED}": ["a"],
        "stream:default": {"groups": {"workers": workers}},
        "run:a": {"holder": SHARED, "handed_ms": str(T0 + 3), "delivery.1.holder": SHARED},
        "events": [
            {
                "event": "handed-over",
                "at_ms": str(T0 + 3),
                "run": "a",
                "queue": "default",
                "worker": SHARED,
                "by": "w.1",
            }
        ],
    }
    assert enqueued(fleet) == [b"a"]


def test_the_same_hand_over_again_says_so_and_enqueues_nothing(fleet, claim):
    hand_over(fleet, claim)
    enqueued(fleet)
    before = fleet.dump()
    fleet.advance(1)

    assert hand_over(fleet, claim) is Word.HANDED_OVER
    assert fleet.dump() == before
    assert enqueued(fleet) == []


def cancelled(fleet: Fleet, claim: Claim) -> None:
    fleet.cancel("a")


def released(fleet: Fleet, claim: Claim) -> None:
    fleet.release(claim)


def started(fleet: Fleet, claim: Claim) -> None:
    fleet.start(claim)


def claimed_by_another(fleet: Fleet, claim: Claim) -> None:
    fleet.lose("w.1")
    fleet.dispatch()
    fleet.claim_one(fleet.register("v"))


def without_holder(fleet: Fleet, claim: Claim) -> None:
    fleet.advance(LEASE_MS)
    fleet.store.recover_all(POOL, SHARED)


def dying_holder(fleet: Fleet, claim: Claim) -> None:
    fleet.client.hset(fleet.keys["holder"] + SHARED, "dead", "1")


UNFIT = [
    (cancelled, Word.CANCELLING, None),
    (released, Word.LOST, "a hand-over with an old token"),
    (started, Word.LOST, "a hand-over after the start"),
    (claimed_by_another, Word.LOST, "a hand-over with an old token"),
    (without_holder, Word.UNKNOWN, None),
    (dying_holder, Word.UNKNOWN, None),
]


@pytest.mark.parametrize(("happens", "word", "_"), UNFIT)
def test_a_run_that_cannot_be_handed_over_stays_where_it_is(fleet, claim, happens, word, _):
    happens(fleet, claim)
    before = fleet.dump()

    assert hand_over(fleet, claim) is word
    assert fleet.dump() == before
    assert enqueued(fleet) == []


@pytest.mark.parametrize(("happens", "word", "reason"), UNFIT)
def test_the_step_by_itself_refuses_what_its_caller_would_not_ask(
    fleet, claim, happens, word, reason
):
    happens(fleet, claim)
    before, at_ms = fleet.dump(), fleet.store.now_ms
    answer = fleet.store._step("hand_over", POOL, run_id="a", token=claim.token, holder=SHARED)

    assert answer.decode() == word
    told = refused("a", reason, at_ms=at_ms) if reason else {}
    assert changed(before, fleet.dump()) == told


def test_the_step_by_itself_changes_nothing_when_it_is_repeated(fleet, claim):
    hand_over(fleet, claim)
    before = fleet.dump()
    fleet.advance(1)
    args = {"run_id": "a", "token": claim.token, "holder": SHARED}

    assert fleet.store._step("hand_over", POOL, **args) == b"handed_over"
    assert fleet.dump() == before


def test_what_changes_on_the_way_is_seen_before_anything_is_enqueued(fleet, claim, connect):
    other, times = connect(), []

    def enqueue(pipe: Any) -> None:
        times.append(1)
        if len(times) == 1:
            other.hset(fleet.keys["run"] + "a", "state_type", "CANCELLING")
        pipe.rpush(fleet.store.prefix + "-queue", "a")

    assert fleet.store.hand_over(POOL, claim, SHARED, enqueue=enqueue) is Word.CANCELLING
    assert enqueued(fleet) == []
    assert fleet.run("a")["holder"] == "w.1"


def test_a_claim_whose_group_is_gone_can_be_handed_over(fleet, claim):
    fleet.client.xgroup_destroy(fleet.keys["stream"] + "default", "workers")
    assert hand_over(fleet, claim) is Word.HANDED_OVER
    assert fleet.members("claims", SHARED) == ["a"]


def test_the_token_of_a_handed_over_run_starts_and_ends_it(fleet, claim):
    hand_over(fleet, claim)

    assert fleet.start(claim) is Word.STARTED
    assert fleet.finish(claim, nudge=True) is Word.FINISHED
    dump = fleet.dump()
    assert dump[f"inbox:{SHARED}"] == ["1"]
    assert f"claims:{SHARED}" not in dump
    assert not {"executor", "handed_ms", "renewed_ms"} & dump["run:a"].keys()


def test_a_shared_holder_whose_lease_ends_loses_its_runs_as_a_worker_does(fleet, claim):
    hand_over(fleet, claim)
    fleet.start(claim)
    fleet.lose(SHARED)

    run = fleet.run("a")
    assert (run["place"], run["losses"]) == ("scheduled", "1")
    assert fleet.members("holders") == ["w.1"]


def test_a_cancel_of_a_handed_over_run_is_ordered_of_the_shared_holder(fleet, claim):
    hand_over(fleet, claim)
    fleet.cancel("a")

    assert fleet.members("orders", SHARED) == ["a"]
    assert fleet.dump()[f"inbox:{SHARED}"] == ["1"]
    answer = fleet.store.renew(POOL, SHARED, held=1, number=0)
    assert (answer.word, answer.orders) == (Word.RENEWED, ("a",))


# --- The work on it


def test_the_first_who_works_on_a_run_has_it_and_prolongs_its_lease(fleet, claim):
    hand_over(fleet, claim)
    before = fleet.dump()
    fleet.advance(4_000)

    assert renew(fleet, claim) == Renewed(Word.RENEWED, LEASE_MS, RENEW_MS)
    assert changed(before, fleet.dump()) == {
        "run:a": {"executor": "w.1", "renewed_ms": str(T0 + 4_000)},
        "holders": {SHARED: T0 + 4_000 + LEASE_MS},
    }


def test_another_one_is_told_that_it_has_not_got_the_run(fleet, claim):
    hand_over(fleet, claim)
    renew(fleet, claim)
    before = fleet.dump()
    fleet.advance(1)

    assert renew(fleet, claim, "w.2") == Renewed(Word.LOST)
    assert fleet.dump() == before
    assert renew(fleet, claim, "w.1").word is Word.RENEWED


def test_who_works_on_a_run_hears_that_it_is_to_be_cancelled(fleet, claim):
    hand_over(fleet, claim)
    renew(fleet, claim)
    fleet.cancel("a")
    assert renew(fleet, claim).word is Word.CANCELLING


def gone(fleet: Fleet, claim: Claim) -> None:
    abandon(fleet, claim)


@pytest.mark.parametrize("happens", [released, gone, without_holder, dying_holder])
def test_who_works_on_a_run_hears_that_it_is_lost(fleet, claim, happens):
    hand_over(fleet, claim)
    renew(fleet, claim)
    happens(fleet, claim)
    before = fleet.dump()

    assert renew(fleet, claim) == Renewed(Word.LOST)
    assert fleet.dump() == before


def test_who_had_an_earlier_claim_of_a_run_hears_that_it_is_lost(fleet, claim):
    hand_over(fleet, claim)
    abandon(fleet, claim)
    fleet.dispatch()
    hand_over(fleet, fleet.claim_one("w.1"))
    before = fleet.dump()

    assert renew(fleet, claim) == Renewed(Word.LOST)
    assert fleet.dump() == before


def unregistered(fleet: Fleet) -> None:
    fleet.client.delete(fleet.keys["holder"] + SHARED)


def test_who_works_for_a_holder_that_nobody_knows_hears_that_it_is_lost(fleet, claim):
    hand_over(fleet, claim)
    unregistered(fleet)
    assert renew(fleet, claim) == Renewed(Word.LOST)


def test_a_run_that_was_not_handed_over_cannot_be_worked_on_elsewhere(fleet, claim):
    before = fleet.dump()
    assert renew(fleet, claim).word is Word.LOST
    assert fleet.dump() == before


def test_a_lease_that_is_longer_already_stays_so(fleet, claim):
    hand_over(fleet, claim)
    fleet.client.zadd(fleet.keys["holders"], {SHARED: T0 + 99_000})
    renew(fleet, claim)
    assert fleet.dump()["holders"][SHARED] == T0 + 99_000


def test_what_works_on_a_run_can_be_told_to_renew_now(fleet, claim):
    hand_over(fleet, claim)
    fleet.store.nudge_run(POOL, "a", holder=SHARED)
    fleet.store.nudge_run(POOL, "a", holder=SHARED)

    dump = fleet.dump()
    assert dump[f"inbox:{SHARED}.a"] == ["1"]
    assert dump["expiring"] == [f"inbox:{SHARED}.a"]
    assert fleet.store.wait_run(POOL, "a", holder=SHARED, timeout_s=1)
    assert not fleet.store.wait_run(POOL, "a", holder=SHARED, timeout_s=0.01)
