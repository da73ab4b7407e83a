"""The atomic step `release`: a run goes back unfinished, to its old place."""

import pytest

from dispatcher.records import Claim, Release, Word
from tests.builders import POOL, T0, Fleet, changed, refused


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, started."""
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    return claim


def test_a_released_run_is_scheduled_at_its_old_place(fleet, claim):
    before = fleet.dump()
    fleet.advance(3)

    assert fleet.release(claim, "worker stops") is Word.RELEASED

    entry = before["run:a"]["entry"]
    assert changed(before, fleet.dump()) == {
        "scheduled:default": {before["run:a"]["member"]: T0},
        "stream:default": {
            "entries": {entry: None},
            "groups": {"workers": {"pending": {entry: None}}},
        },
        "claims:w.1": None,
        "slots:pool": None,
        "slots:queue:default": None,
        "run:a": {
            "place": "scheduled",
            "state_type": "SCHEDULED",
            "state_name": "Scheduled",
            "delivery.1.ended_ms": str(T0 + 3),
            "delivery.1.outcome": "released",
            "ran_ms": "3",
            "answer_token": claim.token,
            "answer": "released",
            "entry": None,
            "token": None,
            "holder": None,
            "claim": None,
        },
        "events": [
            {
                "event": "released",
                "at_ms": str(T0 + 3),
                "run": "a",
                "queue": "default",
                "from": "RUNNING",
                "to": "SCHEDULED",
                "worker": "w.1",
                "reason": "worker stops",
            }
        ],
    }


def test_a_released_run_is_dispatched_before_runs_that_came_after_it(fleet):
    fleet.put("a", "b")
    holder = fleet.register()
    first = fleet.claim_one(holder)
    fleet.submit("c")
    fleet.release(first)

    assert [run.run_id for run in fleet.dispatch().moved] == ["a", "c"]


def test_dispatchers_hear_of_a_released_run(fleet, claim, listener):
    fleet.release(claim)
    assert listener.heard() == [f"default {T0}"]


def nothing(fleet: Fleet) -> None:
    pass


def dispatched(fleet: Fleet) -> None:
    fleet.dispatch()


def claimed(fleet: Fleet) -> None:
    fleet.dispatch()
    fleet.claim_one(fleet.register("another"))


@pytest.mark.parametrize("since", [nothing, dispatched, claimed])
def test_the_same_release_again_gets_the_same_answer_and_changes_nothing(fleet, claim, since):
    fleet.release(claim)
    since(fleet)
    before = fleet.dump()
    fleet.advance(1)

    assert fleet.release(claim, nudge=True) is Word.RELEASED
    assert fleet.dump() == before


def test_a_finish_after_the_release_hears_that_it_was_released(fleet, claim):
    fleet.release(claim)
    before = fleet.dump()
    assert fleet.finish(claim) is Word.RELEASED
    assert fleet.dump() == before


def test_a_release_after_the_finish_hears_that_it_was_finished(fleet, claim):
    fleet.finish(claim)
    before = fleet.dump()
    assert fleet.release(claim) is Word.FINISHED
    assert fleet.dump() == before


def recovered(fleet: Fleet) -> None:
    fleet.lose("w.1")


def claimed_after_recovery(fleet: Fleet) -> None:
    fleet.lose("w.1")
    claimed(fleet)


@pytest.mark.parametrize("since", [recovered, claimed_after_recovery])
def test_a_release_with_an_old_token_is_lost_and_leaves_an_event_alone(fleet, claim, since):
    since(fleet)
    before, at_ms = fleet.dump(), fleet.store.now_ms
    assert fleet.release(claim, nudge=True) is Word.LOST
    reason = "a release with an old token"
    assert changed(before, fleet.dump()) == refused("a", reason, at_ms=at_ms)


def test_a_run_that_is_not_known_is_lost_and_changes_nothing(fleet, claim):
    before = fleet.dump()
    report = Release("unknown", claim.token, "test", nudge=True)
    assert fleet.store.report(POOL, report) is Word.LOST
    assert fleet.dump() == before


def test_a_release_is_nobodys_loss(fleet):
    fleet.submit("a")
    holder = fleet.register()
    for _ in range(12):
        fleet.dispatch()
        claim = fleet.claim_one(holder)
        fleet.start(claim)
        fleet.release(claim)

    run = fleet.run("a")
    assert (run["place"], run["delivery"], run["run_count"]) == ("scheduled", "12", "12")
    assert (run.get("losses"), run.get("unstarted")) == (None, None)


@pytest.mark.parametrize("nudge", [True, False])
def test_a_holder_is_nudged_if_it_asks_for_it(fleet, claim, nudge):
    fleet.release(claim, nudge=nudge)
    assert fleet.dump().get("inbox:w.1") == (["1"] if nudge else None)
