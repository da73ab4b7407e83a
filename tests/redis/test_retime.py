"""The atomic step `retime`: what nobody has claimed gets another time; its place number stays."""

from typing import Any

import pytest

from dispatcher.controls import Told
from dispatcher.errors import NotFound
from dispatcher.records import Moved, Receipt, Word
from tests.builders import OUTCOMES, POOL, T0, Fleet, changed

LATER_MS = T0 + 60_000


def scheduled(fleet: Fleet) -> None:
    fleet.submit("a", deployment="dep", due_ms=T0 + 5)


def waiting(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")


def in_stream(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep")


UNCLAIMED = pytest.mark.parametrize("place", [scheduled, waiting, in_stream])


def what_goes(fleet: Fleet, place: Any, before: dict[str, Any]) -> dict[str, Any]:
    """How the place of the run is left."""
    if place is scheduled:
        return {}
    if place is waiting:
        return {"waiting:dep:default": None, "waits": None}
    return {
        "ready": None,
        "slots:deployment:dep": None,
        "stream:default": {"entries": {before["run:a"]["entry"]: None}},
        "queue:default": {"unclaimed_bytes": "0"},
    }


@UNCLAIMED
def test_a_run_that_nobody_has_claimed_gets_the_time_and_keeps_its_place_number(fleet, place):
    place(fleet)
    before = fleet.dump()
    fleet.advance(3)

    assert fleet.retime("a", LATER_MS, by="ana") == Told(Word.RETIMED, str(LATER_MS))

    record: dict[str, str | None] = {"due_ms": str(LATER_MS)}
    if place is not scheduled:
        record |= {"place": "scheduled"}
    if place is waiting:
        record |= {"state_name": "Scheduled"}
    if place is in_stream:
        record |= {"entry": None}
    member = before["run:a"]["member"]
    told = {"run": "a", "queue": "default", "due_ms": str(LATER_MS), "by": "ana"}
    assert changed(before, fleet.dump()) == what_goes(fleet, place, before) | {
        "scheduled:default": {member: LATER_MS},
        "unstarted": {"a": LATER_MS},
        "run:a": record,
        "events": [{"event": "retimed", "at_ms": str(T0 + 3)} | told],
    }


@UNCLAIMED
def test_the_same_retime_again_changes_nothing(fleet, place):
    place(fleet)
    fleet.retime("a", LATER_MS)
    before = fleet.dump()
    fleet.advance(3)

    assert fleet.retime("a", LATER_MS, by="ana") == Told(Word.RETIMED, str(LATER_MS))
    assert fleet.dump() == before


@pytest.mark.parametrize("place", [waiting, in_stream])
def test_a_retime_to_the_time_that_a_run_has_leaves_it_where_it_is(fleet, place):
    place(fleet)
    before = fleet.dump()
    assert fleet.retime("a", T0) == Told(Word.RETIMED, str(T0))
    assert fleet.dump() == before


@UNCLAIMED
def test_a_retime_without_a_time_makes_a_run_due_now(fleet, place):
    place(fleet)
    fleet.set_deployment("dep", None)
    fleet.advance(3)

    assert fleet.retime("a") == Told(Word.RETIMED, str(T0 + 3))
    assert fleet.dispatch().moved == [Moved("a", "default", T0 + 3)]


@UNCLAIMED
def test_a_retimed_run_is_not_handed_out_before_its_new_time(fleet, place):
    place(fleet)
    fleet.set_deployment("dep", None)
    fleet.retime("a", LATER_MS)
    fleet.advance(59_999)

    assert fleet.dispatch().moved == []
    assert fleet.claim(fleet.register()) == []
    fleet.advance(1)
    assert fleet.dispatch().moved == [Moved("a", "default", LATER_MS)]


def test_a_retimed_entry_lets_the_next_run_of_its_deployment_in(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")

    fleet.retime("a", LATER_MS)

    assert fleet.dispatch().moved == [Moved("b", "default", T0)]


def test_a_run_retimed_to_the_time_of_others_goes_by_its_place_number(fleet):
    fleet.submit("a", due_ms=T0)
    fleet.submit("b", "c", due_ms=T0 + 5)

    fleet.retime("a", T0 + 5)

    fleet.advance(5)
    assert [run.run_id for run in fleet.dispatch().moved] == ["a", "b", "c"]


def test_a_run_may_be_retimed_before_all_others(fleet):
    fleet.submit("a", "b", due_ms=T0 + 5)
    fleet.retime("b", T0 - 1)
    assert fleet.dispatch().moved == [Moved("b", "default", T0 - 1)]


def test_a_run_that_waits_for_its_retry_keeps_the_name_of_its_state(fleet):
    fleet.put("a", retries=1)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")

    fleet.retime("a", LATER_MS)

    assert fleet.run("a")["state_name"] == "AwaitingRetry"


# --- What is refused


@pytest.mark.parametrize("started", [False, True])
def test_a_claimed_run_keeps_its_time(fleet, started):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    if started:
        fleet.start(claim)
    before = fleet.dump()

    assert fleet.retime("a", LATER_MS) == Told(Word.CLAIMED, "w.1")
    assert fleet.dump() == before


@pytest.mark.parametrize("state", OUTCOMES)
def test_an_ended_run_keeps_its_time(fleet, state):
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()), state)
    before = fleet.dump()

    assert fleet.retime("a", LATER_MS) == Told(Word.ENDED, state)
    assert fleet.dump() == before


def test_a_dead_lettered_run_keeps_its_time(fleet):
    fleet.set_queue(max_deliveries=1)
    fleet.put("a")
    fleet.start(fleet.claim_one(fleet.register()))
    fleet.lose("w.1")
    before = fleet.dump()

    assert fleet.retime("a", LATER_MS) == Told(Word.ENDED, "CRASHED")
    assert fleet.dump() == before


def test_a_run_that_is_not_known_gets_no_time(fleet):
    before = fleet.dump()
    with pytest.raises(NotFound, match=f"run a is not known in pool '{POOL}'"):
        fleet.retime("a")
    assert fleet.dump() == before


# --- Who hears of it


def test_dispatchers_hear_of_a_run_that_is_due_before_all_others_now(fleet, listener):
    fleet.submit("a", due_ms=T0 + 9)
    fleet.submit("b", due_ms=T0 + 10)
    listener.heard()

    fleet.retime("b", T0 + 5)
    fleet.retime("a", T0 + 6)

    assert listener.heard() == [f"default {T0 + 5}"]


def test_a_retimed_entry_makes_room_for_what_was_blocked(fleet, listener):
    fleet.set_queue(max_unclaimed=1)
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")
    listener.heard()

    fleet.retime("a", LATER_MS)

    assert "default 0" in listener.heard()
    assert fleet.dispatch().moved == [Moved("b", "default", T0)]


def test_the_source_that_offers_a_retimed_run_again_as_it_was_does_not_undo_it(fleet):
    fleet.submit("a", due_ms=T0 + 5)
    fleet.retime("a", LATER_MS)
    before = fleet.dump()

    answers = fleet.submit("a", due_ms=T0 + 5, request="other")

    assert answers == [Receipt("a", Word.DUPLICATE, POOL, "default", state="SCHEDULED")]
    assert fleet.dump() == before
