"""The atomic step `start`: a claimed run runs, counted once."""

import pytest

from dispatcher.records import Claim, Finish, Start, Word
from tests.builders import COMPLETED, POOL, T0, Fleet, changed, refused

OLD_TOKEN = "a start with an old token"


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, not started."""
    fleet.put("a")
    return fleet.claim_one(fleet.register())


def test_a_started_run_is_running(fleet, claim):
    before = fleet.dump()
    fleet.advance(7)

    assert fleet.start(claim) is Word.STARTED

    assert changed(before, fleet.dump()) == {
        "unstarted": None,
        "run:a": {
            "state_type": "RUNNING",
            "state_name": "Running",
            "run_count": "1",
            "started_ms": str(T0 + 7),
            "first_started_ms": str(T0 + 7),
            "delivery.1.started_ms": str(T0 + 7),
        },
        "events": [
            {
                "event": "started",
                "at_ms": str(T0 + 7),
                "run": "a",
                "queue": "default",
                "from": "PENDING",
                "to": "RUNNING",
                "worker": "w.1",
            }
        ],
    }


def test_the_same_start_again_gets_the_same_answer_and_changes_nothing(fleet, claim):
    fleet.start(claim)
    before = fleet.dump()
    fleet.advance(1)

    assert fleet.start(claim) is Word.STARTED
    assert fleet.dump() == before


def test_a_retry_under_the_same_claim_is_another_start(fleet, claim):
    fleet.start(claim)
    assert fleet.store.report(POOL, Start("a", claim.token, 2)) is Word.STARTED
    assert fleet.run("a")["run_count"] == "2"


@pytest.mark.parametrize("run_count", [0, 2, 9])
def test_a_start_that_skips_a_count_is_refused_and_leaves_an_event_alone(fleet, claim, run_count):
    before = fleet.dump()
    assert fleet.store.report(POOL, Start("a", claim.token, run_count)) is Word.LOST
    assert changed(before, fleet.dump()) == refused("a", "a start with an old run count")


def test_a_run_counts_the_starts_before_its_submission(fleet):
    fleet.put("a", run_count=3)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    assert fleet.run("a")["run_count"] == "4"


def test_a_second_delivery_goes_on_counting(fleet, claim):
    fleet.start(claim)
    fleet.release(claim)
    fleet.dispatch()

    second = fleet.claim_one("w.1")

    assert second.run_count == 1
    assert fleet.start(second) is Word.STARTED
    assert fleet.run("a")["run_count"] == "2"


def released(fleet: Fleet) -> None:
    fleet.release(fleet.claim("w.1", number=1)[0])


def finished(fleet: Fleet) -> None:
    fleet.finish(fleet.claim("w.1", number=1)[0])


def recovered(fleet: Fleet) -> None:
    fleet.lose("w.1")


def claimed_by_another(fleet: Fleet) -> None:
    fleet.lose("w.1")
    fleet.dispatch()
    fleet.claim_one(fleet.register("another"))


@pytest.mark.parametrize("since", [released, finished, recovered, claimed_by_another])
def test_a_token_of_a_claim_that_is_over_starts_nothing(fleet, claim, since):
    since(fleet)
    before, at_ms = fleet.dump(), fleet.store.now_ms
    assert fleet.start(claim) is Word.LOST
    assert changed(before, fleet.dump()) == refused("a", OLD_TOKEN, at_ms=at_ms)


def test_a_token_of_another_run_starts_nothing(fleet, claim):
    fleet.put("b")
    other = fleet.claim_one("w.1")
    before = fleet.dump()
    assert fleet.store.report(POOL, Start("a", other.token, 1)) is Word.LOST
    assert changed(before, fleet.dump()) == refused("a", OLD_TOKEN)


def test_a_run_that_is_not_known_is_not_started(fleet, claim):
    before = fleet.dump()
    assert fleet.store.report(POOL, Start("unknown", claim.token, 1)) is Word.LOST
    assert fleet.dump() == before


def test_a_holder_may_start_after_its_lease_ended_if_nobody_recovered_it(fleet, claim):
    fleet.advance(60_000)
    assert fleet.start(claim) is Word.STARTED


def test_reports_of_a_batch_are_done_in_order(fleet, claim):
    reports = [Start("a", claim.token, 1), Finish("a", claim.token, COMPLETED)]
    assert fleet.store.report_many(POOL, reports) == [Word.STARTED, Word.FINISHED]
