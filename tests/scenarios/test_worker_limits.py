"""Limits with real workers: never exceeded, used to the full, and a freed slot is used at once."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene, outcomes
from tests.servers import RealServer

DEFAULT_MS = {"lease_ms": 60_000, "renew_ms": 20_000}
PROMPT_MS = 3_000  # for a busy machine; far less than a renewal or a sweep
AT_LEISURE = {"DISPATCHER_SWEEP_S": "60"}
DEPLOYMENT = str(uuid4())
# From which event to which a run counts for a limit of each kind.
TAKES = {"pool": "claimed", "queue": "claimed", "deployment": "dispatched"}


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(**DEFAULT_MS)
        yield scene


def limit(scene: Scene, kind: str, most: int | None) -> None:
    """Set the limit of the pool, of the queue, or of the deployment of all runs."""
    if kind == "pool":
        scene.store.set_pool(POOL, {"limit": most})
    elif kind == "queue":
        scene.set_queue(limit=most)
    else:
        scene.store.set_deployment(POOL, DEPLOYMENT, most)


def held_at_a_time(scene: Scene, takes: str) -> list[int]:
    """How many runs held a slot after each event, as the events tell."""
    holding: set[str] = set()
    counts = []
    for event in scene.events(takes, "finished", "released", "lost", "retrying"):
        if event["event"] == takes:
            holding.add(event["run"])
        elif event["event"] != "retrying":
            holding.discard(event["run"])
        counts.append(len(holding))
    return counts


@pytest.mark.parametrize("kind", TAKES)
def test_three_workers_never_run_more_than_two_of_thirty_runs_at_a_time(scene, kind):
    limit(scene, kind, 2)
    scene.ready_dispatcher(**AT_LEISURE)
    workers = [scene.ready_worker(name, "--limit", "5") for name in ("a", "b", "c")]

    runs = [scene.submit("sleep 0.05", deployment_id=DEPLOYMENT) for _ in range(30)]

    for run in runs:
        assert scene.wait_end(run).state_type == "COMPLETED"
    assert max(held_at_a_time(scene, TAKES[kind])) == 2
    assert sum(len(worker.said("finished")) for worker in workers) == 30


def test_all_limits_hold_together(scene):
    limit(scene, "pool", 3)
    limit(scene, "deployment", 2)
    scene.create_queue("small", limit=1)
    scene.ready_dispatcher(**AT_LEISURE)
    for name in ("a", "b", "c"):
        scene.ready_worker(name, "--limit", "4")

    kinds = [{"queue": "small"}, {"deployment_id": DEPLOYMENT}, {}]
    runs = {scene.submit("sleep 0.05", **kinds[i % 3]): kinds[i % 3] for i in range(30)}

    for run in runs:
        assert scene.wait_end(run).state_type == "COMPLETED"
    assert max(held_at_a_time(scene, "claimed")) == 3
    claimed = [run.claimed_ms for run in map(scene.run, runs) if run.queue == "small"]
    ended = [run.ended_ms for run in map(scene.run, runs) if run.queue == "small"]
    assert all(end <= start for end, start in zip(sorted(ended), sorted(claimed)[1:], strict=False))


@pytest.mark.parametrize("kind", TAKES)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_freed_slot_starts_the_next_waiter_at_once(scene, kind, workers):
    limit(scene, kind, 1)
    scene.ready_dispatcher(**AT_LEISURE)
    for name in ("a", "b")[:workers]:
        scene.ready_worker(name)
    first = scene.hold(deployment_id=DEPLOYMENT)
    scene.child(first)
    second, third = (scene.submit("true", deployment_id=DEPLOYMENT) for _ in range(2))
    scene.let_pass(0.5)
    assert {scene.run(run).claimed_ms for run in (second, third)} == {None}

    scene.let_go()

    runs = [scene.wait_end(run) for run in (first, second, third)]
    assert [e["run"] for e in scene.events("claimed")] == [first, second, third]
    for earlier, later in pairwise(runs):
        assert 0 <= later.claimed_ms - earlier.ended_ms < PROMPT_MS


@pytest.mark.parametrize("kind", TAKES)
@pytest.mark.parametrize("most", [2, None])
def test_a_limit_that_is_raised_or_removed_lets_the_next_in_at_once(scene, kind, most):
    limit(scene, kind, 1)
    scene.ready_dispatcher(**AT_LEISURE)
    scene.ready_worker("a")
    scene.child(scene.hold(deployment_id=DEPLOYMENT))
    second = scene.hold(deployment_id=DEPLOYMENT)
    scene.let_pass(0.3)
    assert scene.run(second).claimed_ms is None

    limit(scene, kind, most)
    raised_ms = scene.now_ms()

    scene.child(second)
    assert scene.run(second).claimed_ms - raised_ms < PROMPT_MS


def test_what_runs_goes_on_below_a_limit_of_zero_and_nothing_more_begins(scene):
    scene.ready_dispatcher(**AT_LEISURE)
    scene.ready_worker("a")
    running = scene.hold()
    scene.child(running)

    limit(scene, "pool", 0)
    waiting = scene.submit("true")
    scene.let_go()

    assert scene.wait_end(running).state_type == "COMPLETED"
    scene.let_pass(0.5)
    assert scene.run(waiting).claimed_ms is None
    limit(scene, "pool", 1)
    assert scene.wait_end(waiting).state_type == "COMPLETED"


def cancel(scene: Scene, run_id: str) -> None:
    scene.store.cancel(POOL, run_id)


def release(scene: Scene, run_id: str) -> None:
    scene.release(run_id)


@pytest.mark.parametrize("kind", TAKES)
@pytest.mark.parametrize("end", [cancel, release])
def test_the_slot_of_a_claim_that_ends_otherwise_is_free_too(scene, kind, end: Callable):
    limit(scene, kind, 1)
    scene.ready_dispatcher(**AT_LEISURE)
    scene.ready_worker("a")
    held = scene.hold(deployment_id=DEPLOYMENT)
    scene.child(held)
    second = scene.submit("true", deployment_id=DEPLOYMENT)

    end(scene, held)
    scene.let_go()

    assert scene.wait_end(second).state_type == "COMPLETED"


@pytest.mark.parametrize("kind", TAKES)
def test_a_killed_workers_slot_is_free_when_its_run_was_taken_back(scene, kind):
    scene.store.set_pool(POOL, {"lease_ms": 2_000, "renew_ms": 667})
    limit(scene, kind, 1)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold(deployment_id=DEPLOYMENT)
    scene.child(run_id)
    scene.ready_worker("b")
    later = scene.submit("true", deployment_id=DEPLOYMENT)

    worker.kill()

    scene.child(run_id, delivery=2)
    scene.let_go()
    assert outcomes(scene.wait_end(run_id)) == [("a", "lost"), ("b", "COMPLETED")]
    assert scene.wait_end(later).state_type == "COMPLETED"
    assert max(held_at_a_time(scene, TAKES[kind])) == 1


def test_a_retry_in_process_keeps_the_slot_of_a_limit(scene):
    limit(scene, "pool", 1)
    scene.ready_dispatcher(**AT_LEISURE)
    scene.ready_worker("a")
    policy = {"retries": 1, "retry_delay": 1, "retry_type": "in_process"}
    first = scene.submit("false", empirical_policy=policy)
    wait_until(lambda: scene.events("retrying"), "it has failed once", timeout_s=PATIENCE_S)
    second = scene.submit("true")

    scene.wait_end(first)

    assert scene.wait_end(second).state_type == "COMPLETED"
    assert max(held_at_a_time(scene, "claimed")) == 1
