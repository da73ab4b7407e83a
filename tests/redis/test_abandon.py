"""The step `abandon`, which takes one run back from RQ, and what a token stands for there."""

from collections.abc import Callable

import pytest

from dispatcher.records import Claim, Word
from tests.builders import POOL, Fleet, changed, refused
from tests.redis.test_hand_over import (
    SHARED,
    abandon,
    claimed_by_another,
    gone,
    hand_over,
    released,
    renew,
    share,
    started,
    unregistered,
)


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, not started; RQ's holder is registered."""
    fleet.put("a")
    share(fleet)
    return fleet.claim_one(fleet.register())


def not_started(fleet: Fleet, claim: Claim) -> None:
    renew(fleet, claim)


@pytest.mark.parametrize(
    ("happens", "counts", "told"),
    [
        (not_started, {"unstarted": "1"}, "before start: gone"),
        (started, {"losses": "1"}, "while running: gone"),
    ],
)
def test_an_abandoned_run_is_lost_as_with_a_worker(fleet, claim, happens, counts, told):
    hand_over(fleet, claim)
    happens(fleet, claim)

    assert abandon(fleet, claim, "gone") is Word.REQUEUED
    run = fleet.run("a")
    assert run["place"] == "scheduled"
    assert {name: run[name] for name in ("losses", "unstarted") if name in run} == counts
    assert not {"executor", "handed_ms", "renewed_ms", "token", "holder"} & run.keys()
    assert fleet.dump()["events"][-1]["reason"] == told
    assert fleet.dump()[f"inbox:{SHARED}"] == ["1"]


def test_an_abandoned_run_that_its_queue_does_not_run_again_ends(fleet, claim):
    fleet.set_queue(on_worker_lost="crash")
    hand_over(fleet, claim)
    fleet.start(claim)

    assert abandon(fleet, claim, "gone") is Word.ENDED
    assert fleet.run("a")["message"] == "its worker was lost while running it: gone"


def test_a_run_that_is_abandoned_too_often_is_dead_lettered_with_the_last_reason(fleet, claim):
    fleet.set_queue(max_deliveries=1)
    hand_over(fleet, claim)
    fleet.start(claim)

    assert abandon(fleet, claim, "gone") is Word.DEAD
    assert fleet.run("a")["message"] == "lost while running 1 time: gone"


def test_an_abandoned_run_that_was_being_cancelled_is_cancelled(fleet, claim):
    hand_over(fleet, claim)
    fleet.cancel("a")
    assert abandon(fleet, claim) is Word.ENDED
    assert fleet.run("a")["state_type"] == "CANCELLED"


def finished(fleet: Fleet, claim: Claim) -> None:
    fleet.finish(claim)


@pytest.mark.parametrize("happens", [finished, gone, claimed_by_another])
def test_a_loss_with_an_old_token_is_refused_and_leaves_an_event_alone(fleet, claim, happens):
    happens(fleet, claim)
    before, at_ms = fleet.dump(), fleet.store.now_ms

    assert abandon(fleet, claim) is Word.LOST
    told = refused("a", "a loss with an old token", at_ms=at_ms)
    assert changed(before, fleet.dump()) == told


def test_a_holder_that_nobody_knows_is_not_nudged(fleet, claim):
    hand_over(fleet, claim)
    unregistered(fleet)
    assert abandon(fleet, claim) is Word.REQUEUED
    assert f"inbox:{SHARED}" not in fleet.dump()


def test_a_report_of_an_abandoned_run_is_refused(fleet, claim):
    hand_over(fleet, claim)
    fleet.start(claim)
    abandon(fleet, claim)
    assert fleet.finish(claim) is Word.LOST


def test_the_claim_of_a_token_is_what_its_worker_got(fleet, claim):
    hand_over(fleet, claim)
    assert fleet.store.claim_of(POOL, "a", claim.token) == claim


@pytest.mark.parametrize("setting", [{"timeout_ms": 7_000}, {"cancel_grace_ms": 0}, {}])
def test_the_claim_of_a_token_has_what_its_queue_says(fleet, setting):
    fleet.set_queue(**setting)
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    assert fleet.store.claim_of(POOL, "a", claim.token) == claim


OLD: list[Callable[[Fleet, Claim], None]] = [released, finished, claimed_by_another]


@pytest.mark.parametrize("happens", OLD)
def test_an_old_token_stands_for_no_claim(fleet, claim, happens):
    happens(fleet, claim)
    assert fleet.store.claim_of(POOL, "a", claim.token) is None
    assert fleet.store.claim_of(POOL, "unknown", claim.token) is None
