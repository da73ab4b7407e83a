"""Real processes on a master with a replica and three sentinels, through failovers under load."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import embedded
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene
from tests.scenarios.load import Submitting
from tests.topologies import Watched, until, watched

WITHIN_S = 20.0  # 1 s until the sentinels think it is down, and their election


@pytest.fixture
def redis_(tmp_path: Path) -> Iterator[Watched]:
    """A master with a replica and three sentinels."""
    with watched(embedded(), tmp_path / "servers") as started:
        yield started


@pytest.fixture
def scene(redis_: Watched, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    """A pool on it."""
    with Scene(redis_, prefix, tmp_path) as opened:  # type: ignore[arg-type]
        opened.create_pool()
        yield opened


def test_what_was_replicated_ends_exactly_once_when_the_master_is_killed_under_load(redis_, scene):
    dispatcher = scene.ready_dispatcher()
    workers = [scene.ready_worker(name, "--limit", "4") for name in ("a", "b")]
    held = scene.hold()
    scene.child(held)
    runs = [scene.submit("sleep 0.2", due_in_ms=100 * i) for i in range(60)]  # around the failover
    scene.wait_end(runs[5])
    before = {holder.id for holder in scene.inspector.holders(POOL)}
    redis_.wait_replicated()

    killed_s = scene.clock.monotonic_s()
    redis_.master.kill()
    load = Submitting(redis_.url, scene.prefix, POOL)
    wait_until(lambda: load.runs, "a run is accepted again", timeout_s=PATIENCE_S)
    scene.wait_end(load.runs[0])
    assert scene.clock.monotonic_s() - killed_s < WITHIN_S
    wait_until(lambda: len(load.runs) > 30, "submits go on", timeout_s=PATIENCE_S)
    scene.let_go()

    runs += [*load.stop(), held]
    ended = [scene.wait_end(run_id) for run_id in runs]
    assert {run.state_type for run in ended} == {"COMPLETED"}
    assert Counter(event["run"] for event in scene.events("finished")) == Counter(runs)
    assert {holder.id for holder in scene.inspector.holders(POOL)} == before
    assert not dispatcher.said("worker-recovered")
    assert not any(worker.said("lease-lost") for worker in workers)


def test_a_master_that_comes_back_as_a_replica_is_not_asked_again(redis_, scene):
    dispatcher = scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    redis_.wait_replicated()
    redis_.master.kill()
    redis_.wait_failed_over()
    first = scene.submit("true")
    redis_.master.start()
    with redis_.master.client() as client:
        until(lambda: client.info("replication")["role"] == "slave", "it is a replica")

    later = scene.submit("true")

    for run_id in (first, later):
        run = scene.wait_end(run_id)
        assert (run.state_type, run.delivery) == ("COMPLETED", 1)
    assert not dispatcher.said("worker-recovered")
    assert not worker.said("lease-lost")


def test_a_planned_failover_loses_nothing_where_a_write_needs_a_replica(redis_, scene):
    # Without it the old master accepts runs until it is told that it is a replica now.
    for server in (redis_.master, redis_.replica):
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
    dispatcher = scene.ready_dispatcher()
    workers = [scene.ready_worker(name) for name in ("a", "b")]
    held = scene.hold()
    scene.child(held)
    before = {holder.id for holder in scene.inspector.holders(POOL)}
    load = Submitting(redis_.url, scene.prefix, POOL)
    wait_until(lambda: len(load.runs) > 20, "there is load", timeout_s=PATIENCE_S)

    redis_.fail_over()
    accepted = len(load.runs)
    wait_until(lambda: len(load.runs) > accepted + 20, "submits go on", timeout_s=PATIENCE_S)
    scene.wait_renewed(times=3)  # for longer than a lease
    scene.let_go()

    runs = [*load.stop(), held]
    ended = [scene.wait_end(run_id) for run_id in runs]
    assert {run.state_type for run in ended} == {"COMPLETED"}
    assert Counter(event["run"] for event in scene.events("finished")) == Counter(runs)
    assert {holder.id for holder in scene.inspector.holders(POOL)} == before
    assert not dispatcher.said("worker-recovered")
    assert not any(worker.said("lease-lost") for worker in workers)
