"""A fleet of 20 workers is replaced under load, one part after the other: no run notices."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.probes import ROOT, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene
from tests.scenarios.rolling import APP, noted, noted_load
from tests.servers import RealServer

WORKERS = [f"w{number}" for number in range(20)]
PROCESSES = WORKERS[::7]  # the others are cheaper to start and to run
AT_ONCE = 5


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as opened:
        opened.working_dir = ROOT
        opened.create_pool(lease_ms=15_000, renew_ms=5_000)
        yield opened


def start(scene: Scene, names: list[str]) -> dict[str, Process]:
    kinds = {
        name: [] if name in PROCESSES else ["--type", "handler", "--app", APP] for name in names
    }
    return {name: scene.worker(name, "--limit", "2", *kinds[name]) for name in names}


def drain(scene: Scene, names: list[str]) -> Counter[str]:
    """Let these workers end; return what became of the runs that they had."""
    done = scene.command("dispatcher", "worker", "drain", *names, "--json")
    fates = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert sorted(fate["name"] for fate in fates) == sorted(names)
    return Counter({each: sum(f[each] for f in fates) for each in ("ended", "released", "lost")})


def test_20_workers_are_replaced_under_load_and_each_run_runs_once(scene, tmp_path):
    parts = [WORKERS[i : i + AT_ONCE] for i in range(0, len(WORKERS), AT_ONCE)]
    dispatcher = scene.ready_dispatcher()
    old: dict[str, Process] = {}
    for part in parts:
        begun = start(scene, part)
        for worker in begun.values():
            worker.wait_said("registered")
        old |= begun
    before = {holder.id for holder in scene.inspector.holders(POOL)}
    file = tmp_path / "noted"
    load = noted_load(scene.server.url, scene.prefix, file)
    wait_until(lambda: len(load.runs) > 20, "there is load", timeout_s=PATIENCE_S)

    drained, new = Counter[str](), dict[str, Process]()
    for part in parts:
        drained += drain(scene, part)
        assert [old[name].exit_code() for name in part] == [0] * len(part)
        begun = start(scene, part)
        for worker in begun.values():
            worker.wait_said("registered")
        new |= begun
    accepted = len(load.runs)
    wait_until(lambda: len(load.runs) > accepted + 20, "there is load", timeout_s=PATIENCE_S)
    runs = load.stop()

    ended = [scene.wait_end(run_id) for run_id in runs]
    assert Counter((run.state_type, run.delivery, run.run_count) for run in ended) == {
        ("COMPLETED", 1, 1): len(runs)
    }
    # One beginning, one end, both with the token of the worker that has the run by its record.
    incarnations = {run.id: run.deliveries[0].holder.rpartition(".")[2] for run in ended}
    assert noted(file) == {
        run_id: Counter({"began": 1, "ended": 1, incarnation: 2})
        for run_id, incarnation in incarnations.items()
    }
    assert drained["ended"] > 0
    assert drained["released"] == drained["lost"] == 0
    after = {holder.id for holder in scene.inspector.holders(POOL)}
    assert len(before) == len(after) == len(WORKERS)
    assert before & after == set()
    # Old ones and new ones have all had their part.
    assert {run.deliveries[0].holder for run in ended} & before
    assert {run.deliveries[0].holder for run in ended} & after
    assert not dispatcher.said("worker-recovered")
    for worker in (*old.values(), *new.values()):
        assert not worker.said("claim-lost")
        assert not worker.said("lease-lost")
