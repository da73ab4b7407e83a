"""Real processes on a Redis Cluster: pools on all nodes, a pool that moves, a node that is gone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.clock import from_ms
from dispatcher.stored import RunRecord
from tests.conftest import embedded
from tests.probes import wait_until
from tests.scenarios.fleet import HOLD, LEASE_MS, PATIENCE_S, TERMINAL, Process, Scene, outcomes
from tests.scenarios.load import Submitting, send
from tests.topologies import Nodes, cluster

PLACES = (0, 1, 2, 0)  # which node has which pool
# Hints alone move runs: a sweep would hide one that was not heard.
NO_SWEEP = {"DISPATCHER_SWEEP_S": "600"}


class Spread(Scene):
    """A scene of four pools on a cluster of three nodes."""

    def __init__(self, nodes: Nodes, prefix: str, directory: Path) -> None:
        super().__init__(nodes, prefix, directory)  # type: ignore[arg-type]
        self.nodes = nodes
        self.pools = [nodes.pool_on(at, f"p{i}") for i, at in enumerate(PLACES)]
        for pool in self.pools:
            self.create_pool(name=pool)

    def serve(self, pool: str, name: str = "") -> Process:
        """Start a worker of a pool and wait until it is registered."""
        worker = self.worker(name or f"{pool}-worker", "--pool", pool)
        worker.wait_said("registered")
        return worker

    def serve_all(self) -> dict[str, Process]:
        """Start a worker for each pool."""
        return {pool: self.serve(pool) for pool in self.pools}

    def dispatch_all(self) -> Process:
        """Start a dispatcher and wait until it has looked at each pool."""
        dispatcher = self.dispatcher(**NO_SWEEP)
        for pool in self.pools:
            dispatcher.wait_said("leases-renewed", pool=pool)
        return dispatcher

    def send(self, pool: str, command: object = "true", *, due_in_s: float = 0.0) -> str:
        """Submit a run to a pool and return its id."""
        at = from_ms(self.clock.now_ms() + round(due_in_s * 1000)) if due_in_s else None
        return send(self.producer, pool, command, at=at)

    def hold_in(self, pool: str) -> str:
        """Submit a run that works until `let_go`, wait for its child and return its id."""
        run_id = self.send(pool, ["/bin/sh", "-c", HOLD, str(self.directory)])
        self.child(run_id)
        return run_id

    def ended(self, pool: str, run_id: str) -> RunRecord:
        """Wait until a run of a pool has ended and return its record."""
        wait_until(
            lambda: self.inspector.run(run_id, pool).state_type in TERMINAL,
            f"run {run_id} of {pool} ends",
            timeout_s=PATIENCE_S,
        )
        return self.inspector.run(run_id, pool)


@pytest.fixture
def scene(prefix: str, tmp_path: Path) -> Iterator[Spread]:
    """Four pools on three nodes of its own, which serve on when one of them is gone."""
    config = {"cluster-require-full-coverage": "no"}
    with (
        cluster(embedded(), tmp_path / "nodes", nodes=3, **config) as nodes,
        Spread(nodes, prefix, tmp_path) as opened,
    ):
        yield opened


def late_ms(run: RunRecord) -> int:
    assert run.dispatched_ms is not None
    return run.dispatched_ms - run.due_ms


def test_one_dispatcher_serves_pools_on_all_nodes_by_hints_alone(scene):
    dispatcher = scene.dispatch_all()
    scene.serve_all()

    runs = [(pool, scene.send(pool)) for _ in range(5) for pool in scene.pools]

    ended = [scene.ended(pool, run_id) for pool, run_id in runs]
    assert {(run.state_type, run.delivery) for run in ended} == {("COMPLETED", 1)}
    assert max(map(late_ms, ended)) < 10_000
    assert not dispatcher.said("redis-away")


def test_work_goes_on_while_the_slot_of_its_pool_moves_and_no_live_worker_is_recovered(scene):
    pool = scene.pools[0]
    key = scene.store.keys(pool)["pool"]
    dispatcher, _ = scene.dispatch_all(), scene.serve(pool)
    held = scene.hold_in(pool)
    (holder,) = scene.inspector.holders(pool)
    load = Submitting(scene.nodes.url, scene.prefix, pool)
    wait_until(lambda: len(load.runs) > 10, "there is load")

    scene.nodes.begin_move(key, 1)
    scene.nodes.move_keys(key, 1, most=10)
    scene.let_pass(LEASE_MS / 1000 + 1)  # nobody can renew
    scene.nodes.move_keys(key, 1)
    scene.nodes.end_move(key, 1)
    before = len(load.runs)
    wait_until(lambda: len(load.runs) > before + 10, "submits go on", timeout_s=PATIENCE_S)
    scene.let_pass(LEASE_MS / 1000 + 1)

    runs = [*load.stop(), held]
    assert [each.id for each in scene.inspector.holders(pool)] == [holder.id]
    scene.let_go()
    ended = [outcomes(scene.ended(pool, run_id)) for run_id in runs]
    assert ended == [[(holder.worker, "COMPLETED")]] * len(runs)
    assert not dispatcher.said("worker-recovered")


def test_pools_of_other_nodes_go_on_and_dead_workers_there_are_recovered_when_a_node_is_gone(scene):
    dispatcher, workers = scene.dispatch_all(), scene.serve_all()
    one, gone, other, _ = scene.pools
    held = {pool: scene.hold_in(pool) for pool in (gone, other)}
    later = scene.send(gone, due_in_s=1)

    scene.nodes.servers[1].kill()
    dispatcher.wait_said("redis-away", pool=gone, level="warning")
    assert late_ms(scene.ended(one, scene.send(one))) < 10_000
    workers[other].kill()
    scene.serve(other, "another")
    scene.let_go()
    assert outcomes(scene.ended(other, held[other])) == [
        (f"{other}-worker", "lost"),
        ("another", "COMPLETED"),
    ]

    scene.nodes.servers[1].start()
    dispatcher.wait_said("redis-back", pool=gone)
    ended = [outcomes(scene.ended(gone, run_id)) for run_id in (held[gone], later)]
    assert ended == [[(f"{gone}-worker", "COMPLETED")]] * 2
    assert not dispatcher.said("worker-recovered", pool=gone)
