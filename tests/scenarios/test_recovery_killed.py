"""kill -9 of workers and dispatchers, and a group that is destroyed under them: work goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.keys import GROUP
from dispatcher.stored import Place
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import LEASE_MS, PATIENCE_S, POOL, Scene, outcomes, wait_gone
from tests.servers import RealServer

WITHIN_MS = 1_000  # what recovery may take beyond the lease
PROMPT_MS = 5_000  # far less than a lease of DEFAULT_MS
DEFAULT_MS = {"lease_ms": 60_000, "renew_ms": 20_000}
AT_LEISURE = {"DISPATCHER_SWEEP_S": "60"}


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


def test_runs_of_a_killed_worker_run_elsewhere_within_its_lease_and_a_second(scene):
    scene.create_pool()
    scene.ready_dispatcher(**AT_LEISURE)
    a = scene.ready_worker("a", "--limit", "2")
    runs = [scene.hold(), scene.hold()]
    children = [scene.child(run) for run in runs]
    scene.ready_worker("b")
    scene.wait_renewed()

    a.kill()
    killed_ms = scene.now_ms()

    for run, child in zip(runs, children, strict=True):
        scene.child(run, delivery=2)
        wait_gone(child, "the killed worker's child")
        took_ms = scene.run(run).deliveries[1].claimed_ms - killed_ms
        assert took_ms <= LEASE_MS + WITHIN_MS
    scene.let_go()
    for run in runs:
        assert outcomes(scene.wait_end(run)) == [("a", "lost"), ("b", "COMPLETED")]


def test_a_killed_workers_children_end_at_once(scene):
    scene.create_pool(**DEFAULT_MS)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    child = scene.child(scene.hold())
    guardian = worker.guardian()

    worker.kill()

    wait_gone(child, "the child")
    wait_gone(guardian, "the guardian")


@pytest.mark.parametrize("name", ["a", None], ids=["by-name", "by-index"])
def test_what_a_killed_worker_had_is_recovered_when_it_comes_back_under_its_name(scene, name):
    scene.create_pool(**DEFAULT_MS)
    scene.ready_dispatcher()
    worker = scene.ready_worker(name)
    run_id = scene.hold()
    first = scene.child(run_id)

    worker.kill()
    again = scene.ready_worker(name)
    back_ms = scene.now_ms()

    scene.child(run_id, delivery=2)
    run = scene.run(run_id)
    assert run.deliveries[1].claimed_ms - back_ms < PROMPT_MS
    old, new = (each.holder.rpartition(".")[0] for each in run.deliveries)
    assert old == new
    assert again.said("recovered-predecessor", requeued=[run_id])
    wait_gone(first, "the first child")
    scene.let_go()
    assert outcomes(scene.wait_end(run_id)) == [(old, "lost"), (old, "COMPLETED")]


def test_two_workers_without_a_name_have_two_and_a_third_gets_the_killed_ones(scene):
    scene.create_pool(**DEFAULT_MS)
    scene.ready_worker(None)
    second = scene.ready_worker(None)
    names = sorted(holder.worker for holder in scene.inspector.holders(POOL))

    second.kill()
    scene.ready_worker(None)

    assert len(set(names)) == 2
    assert sorted(holder.worker for holder in scene.inspector.holders(POOL)) == names


def test_no_run_is_late_for_a_dispatcher_that_is_killed(scene):
    scene.create_pool()
    one, _ = (scene.ready_dispatcher(**AT_LEISURE) for _ in range(2))
    runs = [scene.submit("true", due_in_ms=1_000 + 50 * i) for i in range(60)]

    scene.wait_dispatched(runs[20])
    one.kill()
    scene.wait_dispatched(runs[-1])

    records = list(scene.inspector.records(POOL, runs))
    late_ms = [record.dispatched_ms - record.due_ms for record in records]
    assert len(late_ms) == len(runs)
    assert min(late_ms) >= 0
    assert max(late_ms) < WITHIN_MS, late_ms


def test_a_group_destroyed_under_working_workers_gives_nobody_what_somebody_holds(scene):
    scene.create_pool()
    scene.ready_dispatcher()
    workers = [scene.ready_worker(name, "--limit", "2") for name in ("a", "b")]
    held = [scene.hold() for _ in range(4)]
    children = [scene.child(run) for run in held]
    waiting = [scene.submit("true") for _ in range(3)]
    wait_until(
        lambda: all(scene.run(run).place is Place.STREAM for run in waiting), "they are dispatched"
    )

    with scene.server.client() as client:
        client.xgroup_destroy(scene.store.keys(POOL)["stream"] + "default", GROUP)
    later = [scene.submit("true") for _ in range(3)]
    scene.wait_renewed(times=2)
    assert all(process_state(child) for child in children)
    scene.let_go()

    for run in [*held, *waiting, *later]:
        record = scene.wait_end(run)
        assert (record.state_type, record.delivery, record.run_count) == ("COMPLETED", 1, 1)
    assert not any(worker.said("claim-lost") for worker in workers)
    wait_until(
        lambda: scene.inspector.queue(POOL, "default").claimed == 0,
        "nothing is pending",
        timeout_s=PATIENCE_S,
    )
