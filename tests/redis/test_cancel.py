"""The atomic step `cancel`: at once while nobody has the run, else by an order to its worker.

How a run ends from there is in test_cancelling.py.
"""

from typing import Any

import pytest

from dispatcher.controls import Told
from dispatcher.errors import NotFound
from dispatcher.keys import TABLE
from dispatcher.records import Claim, Moved, Word
from tests.builders import POOL, T0, Fleet, changed

HELD_BY_W = Told(Word.CANCELLING, "w.1")


def scheduled(fleet: Fleet) -> None:
    fleet.submit("a", deployment="dep", due_ms=T0 + 60_000)


def waiting(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")


def in_stream(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep")
    fleet.client.delete(fleet.keys["wake"] + "default")


UNCLAIMED = pytest.mark.parametrize("place", [scheduled, waiting, in_stream])


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, not started."""
    fleet.put("a", deployment="dep")
    return fleet.claim_one(fleet.register())


@pytest.fixture
def running(fleet: Fleet, claim: Claim) -> Claim:
    """The claim of the run "a" by w.1, started."""
    fleet.start(claim)
    return claim


def orders(fleet: Fleet, holder: str = "w.1") -> tuple[str, ...]:
    """What a renewal of the holder answers; it holds one run."""
    return fleet.store.renew(POOL, holder, held=1, number=fleet.numbers[holder]).orders


# --- A run that nobody has claimed


def what_goes(fleet: Fleet, place: Any, before: dict[str, Any]) -> dict[str, Any]:
    """How the place of the run is left."""
    if place is scheduled:
        return {"scheduled:default": None, "unstarted": None}
    if place is waiting:
        return {"waiting:dep:default": None, "waits": None}
    return {
        "unstarted": None,
        "ready": None,
        "slots:deployment:dep": None,
        "stream:default": {"entries": {before["run:a"]["entry"]: None}},
        "queue:default": {"unclaimed_bytes": "0"},
    }


@UNCLAIMED
def test_a_run_that_nobody_has_claimed_is_cancelled_at_once(fleet, place):
    place(fleet)
    before = fleet.dump()
    fleet.advance(3)

    assert fleet.cancel("a", reason="not wanted", by="ana") == Told(Word.CANCELLED)

    at_ms = str(T0 + 3)
    ended = {"place": "ended", "state_type": "CANCELLED", "state_name": "Cancelled"}
    gone = {"payload": None} | ({"entry": None} if place is in_stream else {})
    told = {"from": "SCHEDULED", "to": "CANCELLED", "reason": "not wanted", "by": "ana"}
    assert changed(before, fleet.dump()) == what_goes(fleet, place, before) | {
        "run:a": ended | gone | {"message": "not wanted", "ended_ms": at_ms},
        "finished": {"a": T0 + 3},
        "expiring": ["finished", "run:a"],
        "events": [{"event": "cancelled", "at_ms": at_ms, "run": "a", "queue": "default"} | told],
    }


@UNCLAIMED
def test_a_cancelled_run_is_never_handed_out(fleet, place):
    place(fleet)
    fleet.cancel("a")
    fleet.set_deployment("dep", None)
    fleet.advance(60_000)

    assert fleet.dispatch().moved == []
    assert fleet.claim(fleet.register()) == []


@UNCLAIMED
def test_a_run_that_was_cancelled_at_once_is_told_to_have_ended_and_stays_so(fleet, place):
    place(fleet)
    fleet.cancel("a")
    before = fleet.dump()

    assert fleet.cancel("a", reason="other") == Told(Word.ENDED, "CANCELLED")
    assert fleet.dump() == before


def test_a_cancel_of_an_entry_lets_the_next_run_of_its_deployment_in(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")

    fleet.cancel("a")

    assert fleet.dispatch().moved == [Moved("b", "default", T0)]
    assert fleet.dump()["slots:deployment:dep"] == {"b": T0}


def test_a_cancel_of_one_of_two_waiting_runs_leaves_the_other(fleet):
    fleet.set_deployment("dep", 0)
    fleet.put("a", "b", deployment="dep")

    fleet.cancel("a")
    fleet.set_deployment("dep", 1)

    assert fleet.dispatch().moved == [Moved("b", "default", T0)]


def test_a_run_that_waits_for_its_retry_is_cancelled_at_once(fleet):
    fleet.put("a", retries=1)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")

    assert fleet.cancel("a") == Told(Word.CANCELLED)
    assert fleet.run("a")["state_type"] == "CANCELLED"


def test_a_run_that_is_not_known_cannot_be_cancelled(fleet):
    before = fleet.dump()
    with pytest.raises(NotFound, match=f"run a is not known in pool '{POOL}'"):
        fleet.cancel("a")
    assert fleet.dump() == before


# --- The order to its worker


@pytest.mark.parametrize("started", [False, True])
def test_a_claimed_run_is_cancelling_and_its_worker_is_told(fleet, claim, started):
    if started:
        fleet.start(claim)
    before = fleet.dump()

    assert fleet.cancel("a", reason="not wanted", by="ana") == HELD_BY_W

    state = "RUNNING" if started else "PENDING"
    told = {"worker": "w.1", "from": state, "to": "CANCELLING", "reason": "not wanted", "by": "ana"}
    state_now = {"state_type": "CANCELLING", "state_name": "Cancelling", "message": "not wanted"}
    event = {"event": "cancelling", "at_ms": str(T0), "run": "a", "queue": "default"} | told
    assert changed(before, fleet.dump()) == {
        "run:a": state_now,
        "orders:w.1": ["a"],
        "inbox:w.1": ["1"],
        "events": [event],
    } | ({} if started else {"unstarted": None})


def test_a_run_keeps_its_slots_while_it_is_cancelling(fleet, running):
    held = {n: v for n, v in fleet.dump().items() if n.startswith("slots:")}
    fleet.cancel("a")
    assert {n: v for n, v in fleet.dump().items() if n.startswith("slots:")} == held


def test_the_same_cancel_again_changes_nothing_but_answers_the_same(fleet, running):
    fleet.cancel("a")
    fleet.client.delete(fleet.keys["inbox"] + "w.1")
    before = fleet.dump()

    assert fleet.cancel("a", reason="other", by="bo") == HELD_BY_W
    assert fleet.dump() == before


def test_every_renewal_answers_the_order_until_the_run_has_ended(fleet, running):
    fleet.cancel("a")
    answers = [orders(fleet), orders(fleet)]
    fleet.finish(running, "CANCELLED")

    assert answers == [("a",), ("a",)]
    assert fleet.store.renew(POOL, "w.1", held=0, number=1).orders == ()


def test_a_worker_that_renews_after_its_lease_ended_still_gets_the_order(fleet, running):
    fleet.cancel("a")
    fleet.advance(60_000)
    assert orders(fleet) == ("a",)


def test_a_renewal_answers_the_orders_of_its_own_holder_only(fleet, running):
    fleet.put("b")
    other = fleet.claim_one(fleet.register("other"))
    fleet.cancel("a")
    assert (orders(fleet), orders(fleet, "other.1")) == (("a",), ())
    assert fleet.finish(other) is Word.FINISHED


def test_a_renewal_answers_all_orders(fleet):
    fleet.put("a", "b", "c")
    fleet.claim(fleet.register())
    fleet.cancel("a")
    fleet.cancel("c")
    assert sorted(orders(fleet)) == ["a", "c"]


# --- What a cancelled run leaves


@UNCLAIMED
def test_the_payload_of_a_cancelled_run_is_kept_where_the_pool_keeps_all(client, prefix, place):
    fleet = Fleet(client, prefix, keep_payload=True)
    place(fleet)
    fleet.cancel("a")
    assert fleet.run("a")["payload"] == "payload of a"


@UNCLAIMED
def test_all_that_a_cancelled_run_leaves_has_a_ttl(fleet, leaks, place):
    place(fleet)
    fleet.set_deployment("dep", None)
    fleet.cancel("a")
    fleet.dispatch()

    permanent = ["pool", "queues", "events"]
    names = [fleet.keys[n] for n in permanent] + [fleet.keys["queue"] + "default"]
    stream = [fleet.keys["stream"] + "default"] if place is in_stream else []
    assert leaks() == sorted([*names, *stream, f"{fleet.store.prefix}:pools"])
    assert {row.name for row in TABLE if "TTL" in row.ends} == {"run", "idempotency", "events"}


def test_the_idempotency_key_of_a_cancelled_run_has_its_ttl_from_then_on(fleet):
    fleet.set_pool(idempotency_ttl_ms=50_000)
    fleet.submit("b", idempotency="digest")
    key = fleet.keys["idempotency"] + "digest"
    assert fleet.client.ttl(key) == -1

    fleet.cancel("b")

    assert 40_000 < fleet.client.pttl(key) <= 50_000
