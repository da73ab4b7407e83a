"""Real workers that `dispatcher worker drain` lets end, of all types."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.probes import ROOT
from tests.scenarios.fleet import POOL, Scene
from tests.servers import RealServer


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as opened:
        opened.create_pool(lease_ms=15_000, renew_ms=5_000)
        opened.ready_dispatcher()
        yield opened


def test_a_worker_that_is_told_to_drain_ends_its_runs_and_exits_0(scene):
    worker = scene.ready_worker("a", "--limit", "1")
    held = scene.hold()
    scene.child(held)
    command = scene.start("dispatcher", "worker", "drain", "a")
    worker.wait_said("draining", reason="an operator says so", running=1)
    later = scene.wait_dispatched(scene.submit("true"))

    scene.let_go()

    assert command.exit_code() == 0
    assert worker.exit_code() == 0
    assert scene.run(held).state_type == "COMPLETED"
    assert scene.run(later.id).place == "stream"
    *_, row = command.plain
    assert row.split()[:8] == ["a", POOL, socket.gethostname(), "drained", "1", "0", "0", "0"]


def test_what_runs_longer_than_the_grace_of_its_worker_is_given_back(scene):
    worker = scene.ready_worker("a", "--grace", "0.2")
    held = scene.hold()
    scene.child(held)

    done = scene.command("dispatcher", "worker", "drain", "a", "--json")

    fate = json.loads(done.stdout)
    assert (done.returncode, fate["result"], fate["released"], fate["ended"]) == (
        0,
        "drained",
        1,
        0,
    )
    assert worker.exit_code() == 0
    assert scene.run(held).losses == 0


def test_an_idle_fleet_drains_at_once_whatever_its_types(scene):
    workers = [scene.worker("a"), scene.worker("b")]
    app = ["--type", "handler", "--app", "tests.scenarios.flows:app"]
    workers.append(scene.worker("c", *app, PYTHONPATH=str(ROOT)))
    workers.append(scene.worker("d", "--type", "rq", "--rq-queue", scene.prefix))
    for worker in workers:
        worker.wait_said("registered")

    done = scene.command("dispatcher", "worker", "drain", "--all", "--yes", "--json")

    assert done.returncode == 0
    fates = {each["name"]: each["result"] for each in map(json.loads, done.stdout.splitlines())}
    assert fates == dict.fromkeys("abcd", "drained")
    assert [worker.exit_code() for worker in workers] == [0, 0, 0, 0]
    assert scene.inspector.holders(POOL) == []
