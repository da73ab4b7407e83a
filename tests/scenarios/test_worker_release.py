"""An operator takes a claim away: the worker stops the work at once, and another one does it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.records import Release, Word
from tests.probes import process_state
from tests.scenarios.fleet import POOL, Process, Scene, outcomes, wait_gone
from tests.servers import RealServer

DEFAULT_MS = {"lease_ms": 60_000, "renew_ms": 20_000}
PROMPT_MS = 3_000  # for a busy machine; far less than a renewal of DEFAULT_MS


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(**DEFAULT_MS)
        yield scene


def be_full(scene: Scene, worker: Process) -> None:
    """Do nothing: it has one slot, and one run."""


@pytest.mark.parametrize(
    ("limit", "become"),
    [("1", be_full), ("1", Scene.drain), ("3", Scene.drain)],
    ids=["full", "full-and-draining", "draining"],
)
def test_a_run_that_was_taken_away_is_stopped_at_once_and_run_elsewhere(scene, limit, become):
    scene.ready_dispatcher()
    a = scene.ready_worker("a", "--limit", limit)
    run_id = scene.hold(stubborn=True)  # so that the worker has no free slot for some seconds
    first = scene.child(run_id)
    scene.ready_worker("b")
    become(scene, a)

    scene.release(run_id)
    released_ms = scene.now_ms()

    second = scene.child(run_id, delivery=2)
    assert scene.run(run_id).claimed_ms - released_ms < PROMPT_MS
    wait_gone(first, "the child of the claim that was taken away")
    assert process_state(second)
    assert scene.now_ms() - released_ms < 5_000 + PROMPT_MS
    scene.let_go()
    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "released"), ("b", "COMPLETED")]
    assert (run.losses, run.run_count) == (0, 2)
    assert a.wait_said("claim-lost", run=run_id, reason="its work was stopped")
    (event,) = scene.events("released", run=run_id)
    assert (event["worker"].split(".")[0], event["by"]) == ("a", "operator")


def test_what_else_the_worker_has_goes_on(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--limit", "2")
    kept, taken = scene.hold(), scene.hold()
    children = {run: scene.child(run) for run in (kept, taken)}

    scene.release(taken)
    released_ms = scene.now_ms()

    wait_gone(children[taken], "the child of the claim that was taken away")
    again = scene.child(taken, delivery=2)
    assert scene.run(taken).claimed_ms - released_ms < PROMPT_MS
    assert process_state(children[kept])
    assert process_state(again)
    scene.let_go()
    assert outcomes(scene.wait_end(kept)) == [("a", "COMPLETED")]
    assert outcomes(scene.wait_end(taken)) == [("a", "released"), ("a", "COMPLETED")]
    assert len(worker.said("claim-lost")) == 1


def test_a_release_of_a_run_that_is_being_cancelled_ends_it(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    child = scene.child(run_id)
    scene.store.cancel(POOL, run_id)
    worker.wait_said("cancelling", run=run_id)

    release = Release(run_id, scene.run(run_id).token, "taken away", by="operator")
    word = scene.store.report(POOL, release)

    assert word is Word.FINISHED
    run = scene.run(run_id)
    assert (run.state_type, outcomes(run)) == ("CANCELLED", [("a", "released")])
    wait_gone(child, "the child, long before the grace of a cancel is over")
    assert worker.wait_said("claim-lost", run=run_id)
