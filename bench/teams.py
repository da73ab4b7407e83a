"""Workers as the processes that users start, one type at a time, with runs that only take time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from bench.fixture import POOL, answer, empty_server, pause, peer, ready
from dispatcher import Inspector, Pool, Producer, RunRecord

LEASE_MS, RENEW_MS = 1_000, 333
PATIENCE_S = 60.0
POLL_S = 0.002
T = TypeVar("T")
Process = subprocess.Popen[bytes]


class Member:
    """One worker; what is behind the first of its processes is RQ's, and forks for its jobs."""

    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes

    def kill(self) -> None:
        """End it as kill -9 does, RQ's jobs with it; children of ours have a guardian."""
        forked = [pid for process in self._processes[1:] for pid in _children(process.pid)]
        for process in self._processes:
            process.kill()
        for pid in forked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def drain(self) -> None:
        """Send it SIGTERM and wait for its end."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(PATIENCE_S)


class Team:
    """A dispatcher, and workers of a type in a pool of that type, whose lease is short."""

    kind = "process"
    arguments: tuple[str, ...] = ()

    def __init__(self, url: str, lease_ms: int = LEASE_MS, renew_ms: int = RENEW_MS) -> None:
        self.url = url
        self._store = empty_server(url)
        self.inspector = Inspector(self._store.connection, self._store.prefix)
        pool = Pool(POOL, str(uuid4()), self.kind, lease_ms=lease_ms, renew_ms=renew_ms)
        self._store.create_pool(pool, default_queue_id=str(uuid4()))
        self._producer = Producer(self._store, self.inspector)
        self._members: list[Member] = []
        self._dispatcher: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for member in self._members:
            member.kill()
        if self._dispatcher is not None:
            answer(self._dispatcher)

    def dispatch(self) -> None:
        """Start a dispatcher."""
        self._dispatcher = peer("dispatcher", self.url, "info", silent=True)
        ready(self._dispatcher)

    def begin(self, name: str, *, alone: bool = False) -> Member:
        """Start a worker and wait until it is registered; `alone` without what others send."""
        member = Member(self._processes(name, alone=alone))
        self._members.append(member)
        _wait_for(lambda: self._is_there(name, alone=alone), name)
        return member

    def put(self, seconds: float) -> str:
        """Submit a run that takes so long, and return its id."""
        run_id = str(uuid4())
        run = {"id": run_id, "flow_id": str(uuid4()), "name": "stand"} | self._work(seconds)
        self._producer.submit(run, pool=POOL)
        return run_id

    def wait_started(self, run_id: str, delivery: int = 1) -> RunRecord:
        """Wait until a delivery of a run has started."""
        _wait_for(
            lambda: self._is_started(self.inspector.run(run_id, POOL), delivery),
            f"start {delivery}",
        )
        return self.inspector.run(run_id, POOL)

    def end(self, run_id: str) -> None:
        """Cancel a run and wait for its end."""
        self._store.cancel(POOL, run_id)
        _wait_for(lambda: self.inspector.run(run_id, POOL).ended_ms, "an end")

    def _is_there(self, name: str, *, alone: bool) -> bool:
        return name in {holder.worker for holder in self.inspector.holders(POOL)}

    def _is_started(self, run: RunRecord, delivery: int) -> bool:
        return run.delivery >= delivery and run.state_type == "RUNNING"

    def _processes(self, name: str, *, alone: bool) -> list[Process]:
        options = ("--name", name, "--type", self.kind, *self.arguments)
        return [self._start("-m", "consumers", "run", "--pool", POOL, *options)]

    def _start(self, *words: str) -> Process:
        """Start a program of Python that writes nowhere."""
        here = {"DISPATCHER_REDIS_URL": self.url, "DISPATCHER_KEY_PREFIX": self._store.prefix}
        return subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | here,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _work(self, seconds: float) -> dict[str, Any]:
        return {"job_variables": {"command": f"sleep {seconds}"}}


class HandlerTeam(Team):
    """Workers that call a handler."""

    kind = "handler"
    arguments = ("--app", "bench.handlers:app")

    def _work(self, seconds: float) -> dict[str, Any]:
        return {"parameters": {"seconds": seconds}}


class RqTeam(Team):
    """Consumers that hand over to RQ, each with an RQ worker; alone it is the consumer only."""

    kind = "rq"
    arguments = ("--rq-queue", POOL)

    def _processes(self, name: str, *, alone: bool) -> list[Process]:
        consumer = super()._processes(name, alone=alone)
        if alone:
            return consumer
        options = ("--url", self.url, "--serializer", "json", "--name", name)
        return [*consumer, self._start("-m", "rq.cli", "worker", *options, POOL)]

    def _is_there(self, name: str, *, alone: bool) -> bool:
        known = self._store.connection.read(lambda c: c.exists(f"rq:worker:{name}"))
        return super()._is_there(name, alone=alone) and (alone or bool(known))


TEAMS: dict[str, type[Team]] = {"process": Team, "handler": HandlerTeam, "rq": RqTeam}


def _children(pid: int) -> list[int]:
    shown = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
    rows = [line.split() for line in shown.stdout.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(pid)]


def _wait_for(look: Callable[[], T], what: str) -> T:
    until_s = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        if time.monotonic() > until_s:
            raise RuntimeError(f"there is no {what} within {PATIENCE_S:g} s")
        pause(POLL_S)
    return seen
