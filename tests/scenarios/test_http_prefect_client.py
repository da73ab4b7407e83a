"""Prefect's own client polls a pool of a real dispatcher, from an environment of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from dispatcher.clock import from_ms
from tests.scenarios.fleet import POOL, Scene

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-prefect/bin/python"
LOGIN = "admin:pass word"
SOON_MS, IN_AN_HOUR_MS = 10_000, 3_600_000


@pytest.fixture
def scene(real_server, prefix, tmp_path):
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


def polled(scene: Scene, address: str, queue: str) -> dict:
    """What the client says to each of its questions."""
    assert PYTHON.exists(), "no environment with prefect-client: run `make setup`"
    soon = from_ms(scene.now_ms() + SOON_MS).isoformat()
    done = subprocess.run(
        [PYTHON, ROOT / "tests/scenarios/prefect_poll.py", POOL, queue, soon],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(scene.directory),
            "PREFECT_HOME": str(scene.directory / "prefect"),
            "PREFECT_API_URL": f"{address}/api",
            "PREFECT_API_AUTH_STRING": LOGIN,
            "DO_NOT_TRACK": "1",
        },
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_client_of_prefect_gets_the_runs_of_a_poll_pool(scene):
    scene.create_pool(handout="poll")
    scene.create_queue("bulk")
    dispatcher = scene.dispatcher("--http", "127.0.0.1:0", DISPATCHER_API_AUTH_STRING=LOGIN)
    (started,) = dispatcher.wait_said("http-started")
    due, later = scene.submit("true"), scene.submit("true", due_in_ms=IN_AN_HOUR_MS)
    bulk = scene.submit("true", queue="bulk", parameters={"day": "2026-11-25"}, tags=["etl"])

    answers = polled(scene, started["address"], "bulk")

    ids = {name: rows and [row["flow_run"]["id"] for row in rows] for name, rows in answers.items()}
    assert ids == {
        "all": [due, later, bulk],
        "soon": [bulk],
        "unknown queue": None,
        "unknown pool": None,
    }
    (row,) = answers["soon"]
    run = row["flow_run"]
    assert row["work_pool_id"] == scene.inspector.pool(POOL).id
    assert row["work_queue_id"] == scene.inspector.queue(POOL, "bulk").id
    assert (run["state_type"], run["state_name"], run["run_count"]) == ("SCHEDULED", "Scheduled", 0)
    assert (run["parameters"], run["tags"]) == ({"day": "2026-11-25"}, ["etl"])
    assert scene.run(bulk).place == "scheduled"  # to read claims nothing
