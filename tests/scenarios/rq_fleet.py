"""Workers of type rq for the conformance suite: each is a consumer with an RQ worker of its own."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tests.probes import ROOT
from tests.scenarios.fleet import PATIENCE_S, Process, Scene, freeze
from tests.scenarios.gate import Gate
from tests.scenarios.rq_scene import RqScene
from tests.scenarios.teams import ProcessFleet
from tests.servers import RealServer


class RqMember:
    """A consumer and its RQ worker: ended together; of the two the RQ worker is the one to kill.

    `wait_blocked` waits until that waits for a job.
    """

    def __init__(
        self, consumer: Process, rq_worker: Process, wait_blocked: Callable[[], None]
    ) -> None:
        self._consumer, self._rq_worker = consumer, rq_worker
        self._wait_blocked = wait_blocked
        self._frozen: list[int] = []

    @property
    def pid(self) -> int:
        """The process of the job at work, else that of the RQ worker."""
        return next(iter(self._rq_worker.children()), self._rq_worker.pid)

    def kill(self) -> None:
        """End the RQ worker as kill -9 does, and its job, which has a process group of its own."""
        jobs = self._rq_worker.children()
        self._rq_worker.kill()
        for pid in jobs:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the RQ worker and its job until `thaw`; RQ sees the worker all the same."""
        self._frozen = [self._rq_worker.pid, *self._rq_worker.children()]
        for pid in self._frozen:
            freeze(pid)

    def thaw(self) -> None:
        """Let both go on."""
        for pid in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send both a signal.

        RQ raises an error in its handler, which logging swallows in a worker that still says that
        it listens.
        """
        if not self._rq_worker.children():
            self._wait_blocked()
        self._consumer.signal(number)
        self._rq_worker.signal(number)

    def exit_code(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end of both, and return the first exit code that is not 0."""
        codes = [each.exit_code(timeout_s) for each in (self._rq_worker, self._consumer)]
        return next((code for code in codes if code), 0)

    def wait_said(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Wait until the consumer has logged an event."""
        return self._consumer.wait_said(event, **fields)


class RqFleet(RqScene, ProcessFleet):
    """Workers that hand over to RQ, whose jobs run the same child processes."""

    kind = "rq"
    # A job hears at once that it is cancelled, but of a claim that was taken away as it renews.
    leisure_ms: ClassVar[dict[str, int]] = {"lease_ms": 6_000, "renew_ms": 300}

    def __init__(self, server: RealServer, directory: Path, gate: Gate) -> None:
        Scene.__init__(self, server, "fleet", directory)
        self.working_dir, self.gate, self._client = ROOT, gate, server.client()

    def begin(self, name: str, *arguments: str, gated: bool = False) -> Any:
        """Start a consumer, and an RQ worker of the same name, which alone may be gated."""
        consumer = self.consumer(name, *arguments)
        rq_worker = self.rq_worker(name=name, gated=gated)
        return RqMember(consumer, rq_worker, partial(self.wait_blocked, name))

    def wait_lost(self, worker: Any) -> None:
        """Wait until the consumers have looked at what RQ says."""
        self.wait_renewed(times=2)
