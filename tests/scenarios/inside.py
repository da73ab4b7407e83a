"""Workers inside the test process, for faults between a worker and its server."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from consumers.doors import Doors
from consumers.runners import Stop
from consumers.worker import Worker
from dispatcher import Claim, Clock, Connection, Inspector, Outcome, Store
from tests.builders import a_submission
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene

QUICK_MS = {"lease_ms": 3_000, "renew_ms": 100}


class Recorder:
    """A runner that notes what it ran; the payload tells what a run does.

    It raises, holds until `may_end` or a stop, or `fail N` fails that often before it succeeds.
    """

    guarded = True

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.may_end = threading.Event()
        self.promises = 0

    def run(self, claim: Claim, stop: Stop) -> Outcome:
        """Do what the payload says."""
        self.ran[claim.run_id] += 1
        if claim.payload == b"raise":
            raise RuntimeError("a fault of the runner")
        if claim.payload == b"hold":
            wait_until(lambda: stop.reason or self.may_end.is_set(), "it may end", timeout_s=60)
        if claim.payload.startswith(b"fail "):
            times = int(claim.payload.removeprefix(b"fail "))
            if self.ran[claim.run_id] <= times:
                return Outcome("FAILED", "Failed", f"time {self.ran[claim.run_id]}")
        return Outcome("COMPLETED", "Completed")

    def alive(self, timeout_s: float) -> None:
        """Count the promises."""
        self.promises += 1

    def close(self) -> None:
        """There is nothing to free."""


class Workers(ExitStack):
    """Starts workers of a scene's pool, and closes them at its end."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene = scene

    def start(
        self,
        kind: type[Connection] = Connection,
        *,
        limit: int = 5,
        clock: Clock | None = None,
        name: str = "w",
        **options: Any,
    ) -> tuple[Worker, Recorder]:
        """Start a worker whose connections are of a kind, with other options of a `Worker`."""

        def open_doors(timeout_s: float | None) -> tuple[Store, Inspector]:
            connection = kind.open(self._scene.server.url, read_timeout_s=timeout_s or 10.0)
            return Store(connection, self._scene.prefix), Inspector(connection, self._scene.prefix)

        runner = Recorder()
        doors = Doors(open_doors)
        options |= {"pool": POOL, "name": name, "limit": limit, "clock": clock}
        worker = Worker(doors, runner, **options)
        worker.start()
        self.callback(worker.close)
        return worker, runner


def put(scene: Scene, count: int, **fields: Any) -> list[str]:
    """Submit and dispatch runs, and return their ids."""
    runs = [f"run-{i}" for i in range(count)]
    for run in runs:
        scene.store.submit(POOL, a_submission(run, **fields))
    while scene.store.dispatch(POOL, ["default"]).moved:
        pass
    return runs


def wait_ends(scene: Scene, runs: list[str]) -> Counter[tuple[str, int]]:
    """Wait for the end of runs, and count their states and numbers of claims."""
    wait_until(
        lambda: all(run.ended_ms for run in scene.inspector.records(POOL, runs)),
        "all runs have ended",
        timeout_s=PATIENCE_S,
    )
    return Counter((r.state_type, r.delivery) for r in scene.inspector.records(POOL, runs))


StartWorker = Callable[..., tuple[Worker, Recorder]]
