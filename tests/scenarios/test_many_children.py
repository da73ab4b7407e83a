"""200 children at a time in one process worker on two cores: its lease holds, it stays small."""

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.probes import wait_until
from tests.scenarios.fleet import POOL, TERMINAL, Scene
from tests.servers import RealServer

CHILDREN = 200
MOST_KB = 150_000
MOST_KB_EACH = 200
BEGUN_S, ENDED_S = 60.0, 50.0  # on a machine with much else to do
WAIT_AND_SLEEP = 'read -r _ < "$0"; exec sleep 5'


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as opened:
        opened.create_pool(lease_ms=15_000, renew_ms=5_000)
        yield opened


def knock(fifo: Path) -> None:
    """Let go those who wait to read: there is a writer, and then there is none."""
    with suppress(OSError):  # nobody waits
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


def peak_kb(pid: int) -> int:
    """Return the most memory that a process has had; where nothing tells that, what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        assert found
        return int(found[1])
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(shown.stdout)


def test_200_children_in_one_worker_all_end_well_within_its_lease_and_150_mb(scene, tmp_path):
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--limit", str(CHILDREN))
    scene.wait_end(scene.submit("true"))
    idle_kb = peak_kb(worker.pid)
    command = ["/bin/sh", "-c", WAIT_AND_SLEEP, str(fifo)]
    runs = [scene.submit(command) for _ in range(CHILDREN)]

    def states() -> Counter[str]:
        return Counter(run.state_type for run in scene.inspector.records(POOL, runs))

    wait_until(lambda: states()["RUNNING"] == CHILDREN, "all run", timeout_s=BEGUN_S)
    wait_until(
        lambda: (knock(fifo), states().keys() <= set(TERMINAL))[1], "all end", timeout_s=ENDED_S
    )

    records = scene.inspector.records(POOL, runs)
    assert Counter((run.state_type, run.delivery, run.run_count) for run in records) == {
        ("COMPLETED", 1, 1): CHILDREN
    }
    most_kb = peak_kb(worker.pid)
    assert most_kb < MOST_KB
    assert most_kb - idle_kb < CHILDREN * MOST_KB_EACH
    for event in ("lease-lost", "claim-lost", "claim-loop-stuck", "runner-failed"):
        assert not worker.said(event)
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
