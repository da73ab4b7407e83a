"""The collision strategy CANCEL_NEW: a run that finds its deployment full is cancelled, if new."""

from collections.abc import Callable

import pytest

from dispatcher.records import Skipped
from tests.builders import T0, Fleet, changed, shown

FULL = "Deployment concurrency limit reached."


def test_a_new_run_is_cancelled_when_its_deployment_is_full_and_says_so(fleet):
    fleet.set_deployment("dep", 1, "CANCEL_NEW")
    fleet.submit("a", "b", deployment="dep")
    fleet.dispatch(limit=1)
    before = fleet.dump()

    answer = fleet.dispatch()

    assert (answer.skipped, answer.waiting) == ([Skipped("b", "default", FULL)], [])
    assert changed(before, fleet.dump()) == {
        "scheduled:default": None,
        "unstarted": {"b": None},
        "finished": {"b": T0},
        "expiring": ["finished", "run:b"],
        "queue:default": {"skipped": "1"},
        "run:b": {
            "place": "ended",
            "state_type": "CANCELLED",
            "state_name": "Cancelled",
            "message": FULL,
            "ended_ms": str(T0),
            "payload": None,
        },
        "events": [
            shown(
                "skipped",
                run="b",
                queue="default",
                reason=FULL,
                **{"from": "SCHEDULED", "to": "CANCELLED"},
            )
        ],
    }


def waited(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")
    fleet.set_deployment("dep", 1)


def waited_and_retimed(fleet: Fleet) -> None:
    waited(fleet)
    fleet.retime("a", T0 - 1)


def released(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep")
    fleet.release(fleet.claim_one(fleet.register()))


def failed(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep", retries=1)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")


def withdrawn(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep")
    fleet.pause("default")
    fleet.withdraw()
    fleet.resume("default")


@pytest.mark.parametrize("admit", [waited, waited_and_retimed, released, failed, withdrawn])
def test_a_run_that_was_admitted_or_waited_before_waits(fleet, admit: Callable[[Fleet], None]):
    fleet.create_queue("low")
    admit(fleet)
    fleet.put("x", queue="low", deployment="dep")
    fleet.set_deployment("dep", 0, "CANCEL_NEW")

    answer = fleet.dispatch("default")

    assert (answer.skipped, fleet.run("a")["place"]) == ([], "waiting")


def test_a_new_run_is_not_cancelled_for_being_behind_others(fleet):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")
    fleet.set_deployment("dep", 1, "CANCEL_NEW")

    fleet.submit("new", queue="low", deployment="dep")
    answer = fleet.dispatch("low")

    assert (answer.skipped, answer.waiting) == ([], [("new", "low")])
