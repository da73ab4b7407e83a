"""CANCELLING ends only as CANCELLED, whoever ends it; the first of finish and cancel wins."""

from typing import Any

import pytest

from dispatcher.controls import Told
from dispatcher.records import Claim, Finish, Start, Word
from tests.builders import OUTCOMES, POOL, Fleet

HELD_BY_W = Told(Word.CANCELLING, "w.1")
POLICY = {"retries": 3, "deployment": "dep"}


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, not started."""
    fleet.put("a", **POLICY)
    return fleet.claim_one(fleet.register())


@pytest.fixture
def running(fleet: Fleet, claim: Claim) -> Claim:
    """The claim of the run "a" by w.1, started."""
    fleet.start(claim)
    return claim


def late_start(fleet: Fleet, claim: Claim) -> None:
    assert fleet.start(claim) is Word.CANCELLING
    assert fleet.finish(claim, "CANCELLED") is Word.FINISHED


def late_start_that_is_counted(fleet: Fleet, claim: Claim) -> None:
    assert fleet.start(claim) is Word.CANCELLING
    finish = Finish("a", claim.token, OUTCOMES["CANCELLED"], run_count=claim.run_count + 1)
    assert fleet.store.report(POOL, finish) is Word.FINISHED


def release(fleet: Fleet, claim: Claim) -> None:
    assert fleet.release(claim) is Word.FINISHED


def taken_away(fleet: Fleet, claim: Claim) -> None:
    assert fleet.take_away(claim) is Word.FINISHED


def worker_lost(fleet: Fleet, claim: Claim) -> None:
    fleet.store.now_ms = fleet.client.zscore(fleet.keys["holders"], "w.1")
    recovered = fleet.store.recover(POOL, "w.1")
    assert (recovered.requeued, recovered.dead, recovered.ended) == ([], [], ["a"])


def finish_as(state: str) -> Any:
    def finish(fleet: Fleet, claim: Claim) -> None:
        assert fleet.finish(claim, state) is Word.FINISHED

    finish.__name__ = f"finish_as_{state}"
    return finish


FINISHES = [finish_as(state) for state in OUTCOMES]
OTHER_ENDS = [late_start, late_start_that_is_counted, release, taken_away, worker_lost]
ENDS = pytest.mark.parametrize("end", [*FINISHES, *OTHER_ENDS])


@ENDS
@pytest.mark.parametrize("started", [False, True])
def test_a_cancelling_run_ends_as_cancelled_whoever_ends_it(fleet, claim, end, started):
    if started:
        fleet.start(claim)
    fleet.cancel("a", reason="not wanted")

    end(fleet, claim)

    run = fleet.run("a")
    fields = ("place", "state_type", "state_name", "message")
    assert [run[f] for f in fields] == ["ended", "CANCELLED", "Cancelled", "not wanted"]
    told = [e["event"] for e in fleet.dump()["events"] if e.get("to") == "CANCELLED"]
    assert told == ["finished"]


@ENDS
def test_nothing_is_left_of_the_order_or_the_claim_when_the_run_has_ended(fleet, claim, end):
    fleet.cancel("a")

    end(fleet, claim)

    dump = fleet.dump()
    assert [n for n in dump if n.startswith(("orders:", "claims:", "slots:", "scheduled:"))] == []
    assert dump["stream:default"]["entries"] == {}
    assert fleet.dispatch().moved == []


@pytest.mark.parametrize("state", OUTCOMES)
def test_what_the_run_came_to_is_kept_beside(fleet, running, state):
    fleet.cancel("a")
    fleet.finish(running, state)
    assert fleet.run("a")["outcome"] == state


def test_the_output_of_a_cancelled_run_is_kept(fleet, running):
    fleet.cancel("a")
    fleet.finish(running, "FAILED")
    assert fleet.run("a")["output"] == "no such file"


@pytest.mark.parametrize("started", [False, True])
def test_a_start_after_the_cancel_changes_nothing(fleet, claim, started):
    if started:
        fleet.start(claim)
    fleet.cancel("a")
    before = fleet.dump()

    assert fleet.start(claim) is Word.CANCELLING
    assert fleet.dump() == before


@pytest.mark.parametrize("state", OUTCOMES)
def test_a_cancel_after_the_finish_comes_too_late_and_changes_nothing(fleet, state):
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()), state)
    before = fleet.dump()

    assert fleet.cancel("a") == Told(Word.ENDED, state)
    assert fleet.dump() == before


@pytest.mark.parametrize("state", OUTCOMES)
def test_the_same_finish_of_a_cancelling_run_again_changes_nothing(fleet, running, state):
    fleet.cancel("a")
    fleet.finish(running, state)
    before = fleet.dump()

    assert fleet.finish(running, state) is Word.FINISHED
    assert fleet.dump() == before


def test_a_dead_lettered_run_has_ended_for_a_cancel(fleet):
    fleet.set_queue(max_deliveries=1)
    fleet.put("a")
    fleet.start(fleet.claim_one(fleet.register()))
    fleet.lose("w.1")
    before = fleet.dump()

    assert fleet.cancel("a") == Told(Word.ENDED, "CRASHED")
    assert fleet.dump() == before


# --- In the pause before a retry under the same claim


@pytest.fixture
def between(fleet: Fleet) -> Claim:
    """The claim of the run "a", which failed and is to be started again under it."""
    fleet.put("a", retries=1, retry_type="in_process", retry_delay_ms=1000)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.advance(7)
    assert report(fleet, claim, 1) is Word.RETRYING
    return claim


def report(fleet: Fleet, claim: Claim, run_count: int, state: str = "FAILED") -> Word:
    finish = Finish("a", claim.token, OUTCOMES[state], run_count=run_count)
    return fleet.store.report(POOL, finish)


def test_a_cancel_in_the_pause_before_a_retry_is_an_order_to_the_worker(fleet, between):
    assert fleet.cancel("a") == HELD_BY_W
    assert fleet.store.renew(POOL, "w.1", held=1, number=1).orders == ("a",)
    assert fleet.store.report(POOL, Start("a", between.token, 2)) is Word.CANCELLING


@pytest.mark.parametrize("run_count", [1, 2])
@pytest.mark.parametrize("state", ["CANCELLED", "FAILED"])
def test_a_finish_in_the_pause_before_a_retry_ends_a_cancelling_run(
    fleet, between, run_count, state
):
    fleet.cancel("a")

    assert report(fleet, between, run_count, state) is Word.FINISHED
    assert fleet.run("a")["state_type"] == "CANCELLED"
    assert report(fleet, between, run_count, state) is Word.FINISHED


@pytest.mark.parametrize("end", [release, taken_away, worker_lost])
def test_the_pause_before_a_retry_ends_as_cancelled_whoever_ends_it(fleet, between, end):
    fleet.cancel("a")
    end(fleet, between)
    assert fleet.run("a")["state_type"] == "CANCELLED"


@pytest.mark.parametrize("end", [release, worker_lost, late_start])
def test_the_pause_before_a_retry_is_no_time_of_running(fleet, between, end):
    fleet.cancel("a")
    fleet.advance(1000)
    end(fleet, between)
    assert fleet.run("a")["ran_ms"] == "7"


def test_a_repeated_finish_of_an_earlier_attempt_does_not_end_a_cancelling_run(fleet, between):
    fleet.store.report(POOL, Start("a", between.token, 2))
    fleet.cancel("a")
    before = fleet.dump()

    assert report(fleet, between, 1) is Word.RETRYING
    assert fleet.dump() == before
