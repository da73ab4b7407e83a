"""What every measurement shares: a real server, a pool, runs with the seed's 2.3 kB payload."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

from dispatcher import Connection, Pool, Store
from dispatcher.embedded import find_server
from dispatcher.records import Submission

PAYLOAD_BYTES = 2_300
POOL = "bench"
PREFIX = "bench"
BATCH = 100


@contextmanager
def server() -> Iterator[str]:
    """Start a server without persistence of its own choosing on a socket; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="dsp") as directory:
        socket = Path(directory) / "s"
        options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(
            [find_server(), *options, "--dir", directory], stdout=subprocess.DEVNULL
        )
        try:
            url = f"unix://{socket}"
            Connection.open(url, patience_s=10).read(lambda c: c.ping())
            yield url
        finally:
            process.terminate()
            process.wait()


def payload(run_id: str) -> bytes:
    """Return an endpoint object of the seed's size for this run."""
    flow_run: dict[str, object] = {
        "id": run_id,
        "name": "no-op",
        "flow_id": str(uuid4()),
        "state_type": "SCHEDULED",
    }
    flow_run |= {"parameters": {"fill": ""}, "job_variables": {"command": "true"}}
    envelope = {"work_pool_id": str(uuid4()), "work_queue_id": str(uuid4()), "flow_run": flow_run}
    missing = PAYLOAD_BYTES - len(json.dumps(envelope))
    flow_run["parameters"] = {"fill": "x" * missing}
    return json.dumps(envelope).encode()


def submission(
    due_ms: int | None = None, queue: str = "default", deployment: str = ""
) -> Submission:
    """Return a run that is due now or at `due_ms`."""
    run_id, request = str(uuid4()), uuid4().hex
    data = payload(run_id)
    return Submission(run_id, queue, data, "no-op", request, due_ms=due_ms, deployment=deployment)


def submit(store: Store, runs: Sequence[Submission], pool: str = POOL) -> None:
    """Submit runs in batches; raises RuntimeError when one is refused."""
    for i in range(0, len(runs), BATCH):
        for answer in store.submit_many(pool, runs[i : i + BATCH]):
            if isinstance(answer, Exception):
                raise RuntimeError(f"a run was refused: {answer}")


def dispatch(store: Store, queues: Sequence[str] = ("default",), pool: str = POOL) -> None:
    """Dispatch all that is due."""
    while queues:
        queues = store.dispatch(pool, queues).more


def empty_server(url: str) -> Store:
    """Empty the server and return a store."""
    connection = Connection.open(url)
    connection.read(lambda c: c.flushdb())
    return Store(connection, PREFIX)


def create_pool(store: Store, name: str) -> None:
    """Create a pool that keeps what has ended as long as the benchmark lasts."""
    pool = Pool(name, str(uuid4()), "process", retention_ms=600_000)
    store.create_pool(pool, default_queue_id=str(uuid4()))


def fresh_pool(url: str) -> Store:
    """Empty the server and return a store with one pool whose queue takes all runs at once."""
    store = empty_server(url)
    create_pool(store, POOL)
    limits = {"max_unclaimed": 1_000_000, "max_unclaimed_bytes": 1 << 40}
    store.connection.read(lambda c: c.hset(store.keys(POOL)["queue"] + "default", mapping=limits))
    return store


def peer(*words: str, silent: bool = False) -> "subprocess.Popen[str]":
    """Start another process of the benchmark; one that is `silent` logs into nothing."""
    command = [sys.executable, "-m", "bench.peers", *words]
    logs = subprocess.DEVNULL if silent else None
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stdin=pipe, stderr=logs, text=True)


def ready(process: "subprocess.Popen[str]") -> None:
    """Wait until a peer has said that it is ready."""
    assert process.stdout
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError("a process of the benchmark did not start")


def answer(process: "subprocess.Popen[str]") -> dict[str, list[Any]]:
    """Return what a peer printed when it ended."""
    text, _ = process.communicate(timeout=300)
    result: dict[str, list[Any]] = json.loads(text.strip().splitlines()[-1])
    return result


def late_ms(ran: dict[str, list[Any]]) -> list[float]:
    """Return how long after its due time each run of a worker's answer started."""
    return [s - d for s, d in zip(ran["started_ms"], ran["due_ms"], strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def pause(seconds: float) -> None:
    """Let the machine settle between rounds."""
    Event().wait(seconds)
