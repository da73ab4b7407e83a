"""Fleets for the conformance suite: what is told of a type of worker, and how to start one."""

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from dispatcher.records import Word
from dispatcher.stored import RunRecord
from tests.conftest import OURS
from tests.probes import ROOT, process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene
from tests.scenarios.gate import Gate
from tests.servers import RealServer

WORK = Path(__file__).with_name("work.py")
OUTPUT_BYTES = 65_536
Member = Any  # a Process, or what has its methods


class Fleet(Scene, ABC):
    """A pool of one type, with a dispatcher; `gate` is a way to the server that can be stopped."""

    kind: ClassVar[str]
    # Not renewed during a test, so that only what is pushed is heard of at once.
    leisure_ms: ClassVar[dict[str, int]] = {"lease_ms": 60_000, "renew_ms": 20_000}
    failure: ClassVar[str]  # the message of work that raises an error
    own_mb: ClassVar[int] = 0  # what the work itself takes of its worker's memory

    def __init__(self, server: RealServer, directory: Path, gate: Gate) -> None:
        super().__init__(server, "fleet", directory)
        self.working_dir = ROOT
        self.gate = gate

    def environment(self, **settings: str) -> dict[str, str]:
        """Return that of a scene, without what of ours is set outside the tests."""
        env = super().environment()
        mine = {name: value for name, value in env.items() if not name.startswith(OURS)}
        ours = {name: env[name] for name in ("DISPATCHER_REDIS_URL", "DISPATCHER_KEY_PREFIX")}
        logs = {"DISPATCHER_LOG_FORMAT": "json", "DISPATCHER_LOG_LEVEL": "debug"}
        return mine | ours | logs | settings

    def begin(self, name: str, *arguments: str, gated: bool = False) -> Member:
        """Start a worker and wait until it is registered; a gated one goes through the gate."""
        through = {"DISPATCHER_REDIS_URL": self.gate.url} if gated else {}
        return self.ready_worker(name, "--type", self.kind, *arguments, **through)

    def put(self, what: str, **fields: Any) -> str:
        """Submit a run that does one of the `WORKS`, and return its id."""
        variables = self.variables(what) | fields.pop("job_variables", {})
        parameters = {"directory": str(self.directory)}
        return self.submit(None, job_variables=variables, parameters=parameters, **fields)

    @abstractmethod
    def variables(self, what: str) -> dict[str, Any]:
        """Return the job variables of one of the `WORKS`; another name cannot be run."""

    def written(self, run: RunRecord) -> bytes:
        """Return what a run's work has written, of what was kept."""
        return self.inspector.output(run)

    @abstractmethod
    def kept(self, written: bytes) -> bytes:
        """Return what is to be kept of a long output."""

    def told(self, run: RunRecord) -> dict[str, Any]:
        """Return what a run's work has told about what it was given."""
        seen: dict[str, Any] = json.loads(self.written(run))
        return seen

    def let_go(self, run_id: str = "", what: str = "go") -> None:
        """Let the work of a run end, or go on."""
        (self.directory / f"{what}.{run_id}").touch()

    def begun(self, run_id: str) -> list[int]:
        """Return which deliveries of a run have begun to work."""
        files = self.directory.glob(f"begun.{run_id}.*")
        return sorted(int(file.name.rpartition(".")[2]) for file in files)

    def wait_begun(self, run_id: str, delivery: int = 1, what: str = "begun") -> int:
        """Wait until the work of a run has begun, and return the process that does it."""
        file = self.directory / f"{what}.{run_id}.{delivery}"
        wait_until(file.exists, f"delivery {delivery} tells {what}", timeout_s=PATIENCE_S)
        return int(file.read_text())

    def wait_over(self, run_id: str, delivery: int = 1) -> None:
        """Wait until the work of a delivery is over: it tells so, or its process is gone."""
        pid = self.wait_begun(run_id, delivery)
        stopped = self.directory / f"stopped.{run_id}.{delivery}"
        wait_until(
            lambda: stopped.exists() or not process_state(pid),
            f"the work of delivery {delivery} is over",
            timeout_s=PATIENCE_S,
        )

    def cancel(self, run_id: str) -> Word:
        """Cancel a run."""
        return self.store.cancel(POOL, run_id, reason="no longer needed", by="me").word

    def wait_lost(self, worker: Member) -> None:
        """Wait until it was noticed that a worker is gone."""
        wait_until(lambda: self.events("worker-lost"), "it is missed", timeout_s=PATIENCE_S)

    def memory_mb(self, worker: Member) -> float:
        """Return the resident memory of the process that runs the runs."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(worker.pid)], capture_output=True, text=True
        )
        return int(shown.stdout) / 1024


class ProcessFleet(Fleet):
    """Workers that run child processes."""

    kind = "process"
    failure = "exit code 1"

    def variables(self, what: str) -> dict[str, Any]:
        """Return a command; one that is not there for a name that is none."""
        if what == "no-such-one":
            return {"command": what}
        return {"command": [sys.executable, "-I", "-S", str(WORK), what, str(self.directory)]}

    def kept(self, written: bytes) -> bytes:
        """Return the end of it."""
        return written[-OUTPUT_BYTES:]


class HandlerFleet(Fleet):
    """Workers that call handlers; what their work writes is what the handler returns."""

    kind = "handler"
    failure = "ValueError: no luck"
    own_mb = 40  # it gathers its ten megabytes before it returns them

    def begin(self, name: str, *arguments: str, gated: bool = False) -> Member:
        """Start one with the app of the suite."""
        app = ("--app", "tests.scenarios.work_app:app")
        return super().begin(name, *app, *arguments, gated=gated)

    def variables(self, what: str) -> dict[str, Any]:
        """Return the name of a handler."""
        return {"handler": what}

    def written(self, run: RunRecord) -> bytes:
        """Return the result as the bytes that the work wrote."""
        result: str = json.loads(super().written(run))
        return result.encode(errors="surrogateescape")

    def kept(self, written: bytes) -> bytes:
        """Return the beginning of the result."""
        return json.dumps(written.decode()).encode()[:OUTPUT_BYTES]
