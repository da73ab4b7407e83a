"""The whole way: what a Prefect server answered is submitted, and children see its bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.intake import read_elements
from tests.probes import ROOT, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, TERMINAL, Scene
from tests.servers import RealServer

SHARED = ROOT.parent / "shared"
RECORDED = sorted((SHARED / "fixtures/prefect").glob("scheduled.*.body.json"))
SEED = SHARED / "seed/load_scheduled_runs.response.json"
COPY = """
import os, shutil, sys
there = os.path.join(sys.argv[1], os.environ["DISPATCHER_RUN_ID"])
shutil.copy(os.environ["DISPATCHER_RUN_PAYLOAD_FILE"], there)
"""


def elements(source: Path) -> list[bytes]:
    with source.open("rb") as stream:
        return [element.raw for element in read_elements(stream, max_payload_bytes=1_048_576)]


def id_of(element: bytes) -> str:
    return str(json.loads(element)["flow_run"]["id"])


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        (tmp_path / "copy.py").write_text(COPY)
        (tmp_path / "seen").mkdir()
        # One of the recorded runs brings a command of its own, which begins with `python`.
        (tmp_path / "bin").mkdir()
        for name in ("python", "copy"):
            program = tmp_path / "bin" / name
            program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{tmp_path}/copy.py' $SEEN\n")
            program.chmod(0o700)
        scene.create_pool(command="copy")
        yield scene


def ready_worker(scene: Scene, tmp_path: Path) -> None:
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    scene.ready_worker("a", "--limit", "4", PATH=path, SEEN=str(tmp_path / "seen"))


def submit(scene: Scene, *words: str) -> "subprocess.CompletedProcess[str]":
    settings = {
        "DISPATCHER_REDIS_URL": scene.server.url,
        "DISPATCHER_KEY_PREFIX": scene.store.prefix,
    }
    command = [sys.executable, "-m", "dispatcher.cli", "submit", *words]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)


@pytest.mark.parametrize("source", [*RECORDED, SEED], ids=lambda source: source.stem)
def test_every_recorded_run_comes_to_its_end_and_its_child_sees_its_bytes(scene, source, tmp_path):
    assert len(RECORDED) == 4
    given = {id_of(element): element for element in elements(source)}
    scene.ready_dispatcher()
    ready_worker(scene, tmp_path)

    # Queues by the names that runs bring; the seed's run brings a placeholder.
    queue = ["--queue", "default"] if source is SEED else []
    done = submit(scene, str(source), "--pool", POOL, "--create", *queue)
    assert (done.returncode, done.stdout.count("accepted ")) == (0, len(given))
    wait_until(
        lambda: all(run.state_type in TERMINAL for run in scene.inspector.records(POOL, given)),
        "all runs have ended",
        timeout_s=PATIENCE_S,
    )

    seen = {file.name: file.read_bytes() for file in (tmp_path / "seen").iterdir()}
    assert seen == given
    for run_id in given:
        run = scene.run(run_id)
        assert (run.state_type, run.delivery) == ("COMPLETED", 1)


def test_a_bare_run_reaches_its_child_byte_for_byte_inside_its_envelope(scene, tmp_path):
    (element,) = elements(SHARED / "fixtures/prefect/scheduled.one.body.json")
    bare = element[element.index(b'"flow_run":') + len(b'"flow_run":') : -1]
    scene.ready_dispatcher()
    ready_worker(scene, tmp_path)

    receipt = scene.producer.submit(bare, pool=POOL)
    scene.wait_end(receipt.run_id)

    seen = (tmp_path / "seen" / receipt.run_id).read_bytes()
    assert seen.endswith(b'"flow_run":' + bare + b"}")
    pool = scene.inspector.pool(POOL)
    assert json.loads(seen)["work_pool_id"] == pool.id
