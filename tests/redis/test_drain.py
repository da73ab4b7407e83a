"""The atomic step `drain`: a holder claims nothing more and keeps what it has."""

import pytest

from dispatcher.records import Word
from tests.builders import POOL, T0, Fleet, changed


@pytest.fixture
def holder(fleet: Fleet) -> str:
    return fleet.register()


def drain(fleet: Fleet, holder: str, reason: str = "update") -> Word:
    return fleet.store.drain(POOL, holder, reason=reason)


def test_a_holder_of_nothing_is_drained_at_once(fleet, holder):
    before = fleet.dump()

    assert drain(fleet, holder) is Word.DRAINED

    assert changed(before, fleet.dump()) == {
        "holder:w.1": {"draining": "1"},
        "inbox:w.1": ["1"],
        "events": [{"event": "draining", "at_ms": str(T0), "worker": holder, "reason": "update"}],
    }


def test_a_holder_of_runs_is_draining_until_the_last_one_is_gone(fleet, holder):
    fleet.put("a", "b")
    a, b = fleet.claim(holder)

    words = [drain(fleet, holder)]
    fleet.finish(a)
    words.append(drain(fleet, holder))
    fleet.release(b)
    words.append(drain(fleet, holder))

    assert words == [Word.DRAINING, Word.DRAINING, Word.DRAINED]


@pytest.mark.parametrize("holds", [False, True])
def test_draining_again_gets_the_same_answer_and_changes_nothing(fleet, holder, holds):
    if holds:
        fleet.put("a")
        fleet.claim(holder)
    first = drain(fleet, holder)
    before = fleet.dump()
    fleet.advance(1)

    assert drain(fleet, holder, "another reason") is first
    assert fleet.dump() == before


def test_a_draining_holder_claims_nothing(fleet, holder):
    drain(fleet, holder)
    fleet.put("a")
    before = fleet.dump()
    assert fleet.answer(holder).word is Word.DRAINING
    assert fleet.dump() == before


def test_a_draining_holder_is_refused_also_the_claim_that_it_repeats(fleet, holder):
    fleet.put("a")
    fleet.claim(holder)
    drain(fleet, holder)
    assert fleet.answer(holder, number=1).word is Word.DRAINING


def test_a_draining_holder_starts_and_finishes_what_it_has(fleet, holder):
    fleet.put("a")
    claim = fleet.claim_one(holder)
    drain(fleet, holder)
    assert fleet.start(claim) is Word.STARTED
    assert fleet.finish(claim) is Word.FINISHED


def test_a_drained_holder_leaves_although_its_lease_goes_on(fleet, holder):
    drain(fleet, holder)
    assert fleet.store.recover_all(POOL, holder).word is Word.RECOVERED
    assert [name for name in fleet.dump() if holder in name] == []
    events = [event["event"] for event in fleet.dump()["events"]]
    assert events[-3:] == ["draining", "drained", "recovered"]


def test_a_holder_that_still_has_runs_does_not_leave(fleet, holder):
    fleet.put("a")
    fleet.claim(holder)
    drain(fleet, holder)
    before = fleet.dump()
    assert fleet.store.recover(POOL, holder).word is Word.ALIVE
    assert fleet.dump() == before


def test_the_wakes_of_a_draining_holder_go_on_to_others(fleet, holder):
    fleet.put("a")
    fleet.client.lpop(fleet.keys["wake"] + "default")
    drain(fleet, holder)
    assert fleet.dump()["wake:default"] == ["1"]


def recovered(fleet: Fleet, holder: str) -> None:
    fleet.lose(holder)


def displaced(fleet: Fleet, holder: str) -> None:
    fleet.register(incarnation="2")


@pytest.mark.parametrize("case", [recovered, displaced])
def test_who_is_no_longer_a_holder_is_lost_and_changes_nothing(fleet, holder, case):
    case(fleet, holder)
    before = fleet.dump()
    assert drain(fleet, holder) is Word.LOST
    assert fleet.dump() == before


def test_who_never_was_a_holder_is_lost_and_changes_nothing(fleet):
    before = fleet.dump()
    assert drain(fleet, "nobody.1") is Word.LOST
    assert fleet.dump() == before
