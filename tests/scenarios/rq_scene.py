"""A pool whose runs are handed over to RQ: RQ consumers, and real `rq worker` processes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from consumers.runners.rq_queue import job_id
from tests.conftest import embedded
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene, wait_gone
from tests.scenarios.gate import Gate
from tests.servers import RealServer

RQ_QUEUE = "flows"
HOLDER = f"rq.{RQ_QUEUE}"


class RqScene(Scene):
    """A scene on a server that RQ shares; `gate` is a way to the server that can be stopped.

    RQ's own commands go straight to the server, those of our job through the gate if one is asked.
    """

    def __init__(
        self, server: RealServer, directory: Path, gate: Gate, *, prefix: str = "fleet"
    ) -> None:
        super().__init__(server, prefix, directory)
        self.gate = gate
        self._client = server.client()

    def consumer(self, name: str = "c", *arguments: str, **settings: str) -> Process:
        """Start an RQ consumer and wait until it watches."""
        rq = ("--type", "rq", "--rq-queue", RQ_QUEUE)
        process = self.ready_worker(name, *rq, *arguments, **settings)
        process.wait_said("watching")
        return process

    def rq_worker(
        self,
        *queues: str,
        name: str = "w",
        serializer: str = "json",
        gated: bool = False,
        **settings: str,
    ) -> Process:
        """Start an `rq worker` and wait until it waits for jobs."""
        through = {"DISPATCHER_REDIS_URL": self.gate.url} if gated else {}
        url = f"{self.server.url}?client_name={name}"
        options = ("--url", url, "--serializer", serializer, "--name", name)
        command = ("rq", "worker", *options, *(queues or (RQ_QUEUE,)))
        process = self.start(*command, **(through | settings))
        wait_until(lambda: "Listening on" in process.text, f"{name} listens", timeout_s=PATIENCE_S)
        return process

    def rq(self, *arguments: str) -> str:
        """Run a command of RQ to its end and return what it printed."""
        done = self.command("rq", *arguments, "--url", self.server.url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def job(self, run_id: str) -> Job:
        """Return the RQ job of a run that is claimed."""
        return self.job_of(run_id, self.run(run_id).token)

    def job_of(self, run_id: str, token: str) -> Job:
        """Return the RQ job of a claim."""
        return Job.fetch(job_id(run_id, token), self._client, JSONSerializer)

    def queue(self) -> Queue:
        """Return the RQ queue."""
        return Queue(RQ_QUEUE, connection=self._client, serializer=JSONSerializer)

    def registered(self) -> list[str]:
        """Return the names of the RQ workers that are registered."""
        return sorted(worker.name for worker in Worker.all(connection=self._client))

    def wait_handed(self, run_id: str) -> None:
        """Wait until a run was handed over."""
        self.wait_run(run_id, lambda run: run.handed_ms, "is handed over")

    def wait_blocked(self, name: str) -> None:
        """Wait until an RQ worker waits in Redis for a job."""

        def blocks() -> bool:
            clients = [each for each in self._client.client_list() if each["name"] == name]
            return any("b" in each["flags"] for each in clients)

        wait_until(blocks, f"{name} waits for a job", timeout_s=PATIENCE_S)

    def horse(self, worker: Process) -> int:
        """Wait for the process in which an RQ worker runs a job, and return its id."""
        wait_until(worker.children, "an RQ worker has forked", timeout_s=PATIENCE_S)
        (pid,) = worker.children()
        return pid

    def kill_whole(self, worker: Process) -> None:
        """End an RQ worker and what it has forked as kill -9 does."""
        horse = self.horse(worker)
        worker.kill()
        with suppress(ProcessLookupError):
            os.kill(horse, signal.SIGKILL)
        wait_gone(horse, "the horse")

    def __exit__(self, *args: Any) -> None:
        horses = [pid for process in self._processes for pid in process.children()]
        super().__exit__(*args)
        for pid in horses:  # they are in groups of their own, and would finish their jobs
            if process_state(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._client.close()


@contextmanager
def rq_scene(directory: Path, **pool: Any) -> Iterator[RqScene]:
    """Start a server, a pool of type rq and a dispatcher of it; all end with the scene."""
    with (
        RealServer(embedded(), directory / "server") as server,
        Gate(server.url) as gate,
        RqScene(server, directory, gate) as scene,
    ):
        scene.create_pool(**{"type": "rq"} | pool)
        scene.ready_dispatcher()
        yield scene


__all__ = ["HOLDER", "POOL", "RQ_QUEUE", "RqScene", "rq_scene"]
