"""A fleet of real processes: dispatchers and workers on a real server, and the runs they get."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from dispatcher.clock import Clock, from_ms
from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from dispatcher.records import Release, Word
from dispatcher.store import Store
from dispatcher.stored import Pool, Queue, RunRecord
from tests.probes import process_state, wait_until
from tests.servers import RealServer

BIN = Path(sys.executable).parent
POOL = "etl"
LEASE_MS = 2_000
RENEW_MS = 667
SLOW_MS = 30_000  # what a scenario waits for on a machine with much else to do
PATIENCE_S = 30.0
TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# Tells its pid in the scene's directory, then works until the scene lets it go.
HOLD = """
told="$0/pid.$DISPATCHER_RUN_ID.$DISPATCHER_RUN_DELIVERY"
echo $$ > "$told.new" && mv "$told.new" "$told"
until [ -e "$0/go" ] || [ -e "$0/go.$DISPATCHER_RUN_FENCING_TOKEN" ]; do sleep 0.05; done
"""


class Process:
    """One `dispatcher run` or `consumers run` in a session of its own, with its log in a file."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [BIN / arguments[0], *arguments[1:]],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def text(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    @property
    def plain(self) -> list[str]:
        """The lines it has written that are no log lines."""
        return [line for line in self.text.splitlines() if line and not line.startswith("{")]

    def said(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the log lines of an event that have these fields."""
        rows = [json.loads(row) for row in re.findall(r"^\{.*\}$", self.text, re.MULTILINE)]
        return [r for r in rows if r["event"] == event and fields.items() <= r.items()]

    def wait_said(self, event: str, *, times: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """Wait until it has logged an event, so often."""
        what = f"{self._log.name} says {event} {fields} {times} times"
        return wait_until(
            lambda: rows if len(rows := self.said(event, **fields)) >= times else [],
            what,
            timeout_s=PATIENCE_S,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does, until `thaw`."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as kill -9 does; also one that is frozen."""
        self._process.kill()
        self._process.wait()

    def exit_code(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end and return its exit code."""
        return self._process.wait(timeout_s)

    def children(self) -> dict[int, str]:
        """Return the processes that it started, with their command lines."""
        shown = subprocess.run(
            ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True
        )
        rows = [line.split(None, 2) for line in shown.stdout.splitlines()]
        return {int(row[0]): row[2] for row in rows if row[1] == str(self.pid)}

    def guardian(self) -> int:
        """Return the process id of a worker's guardian."""
        found = [pid for pid, command in self.children().items() if "guardian" in command]
        assert len(found) == 1, f"guardians: {found}"
        return found[0]


class Scene:
    """A pool on a server, and processes that serve it; everything ends with the scene."""

    def __init__(self, server: RealServer, prefix: str, directory: Path) -> None:
        self.server = server
        self.prefix = prefix
        self.directory = directory
        self.working_dir: Path | None = None  # of the processes it starts from then on
        self.clock = Clock()
        self._processes: list[Process] = []
        self._guardians: list[int] = []
        self._connection = Connection.open(server.url, patience_s=PATIENCE_S)
        self.store = Store(self._connection, prefix)
        self.inspector = Inspector(self._connection, prefix)
        self.producer = Producer(self.store, self.inspector)
        (directory / "tmp").mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()  # whose guardian then ends what it had started
        for pid in self._guardians:
            if process_state(pid) == "T":
                os.kill(pid, signal.SIGCONT)
        self._connection.close()

    def create_pool(self, **fields: Any) -> Pool:
        """Create the scene's pool, by default with a lease of two seconds."""
        defaults = {"name": POOL, "id": str(uuid4()), "type": "process"}
        pool = Pool(**defaults | {"lease_ms": LEASE_MS, "renew_ms": RENEW_MS} | fields)
        self.store.create_pool(pool, default_queue_id=str(uuid4()))
        return pool

    def create_queue(self, name: str, **fields: Any) -> None:
        """Create a queue of the scene's pool."""
        self.store.create_queue(Queue(name=name, pool=POOL, id=str(uuid4()), priority=0, **fields))
        self.producer = Producer(self.store, self.inspector)  # knows the queues it has read once

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of the scene's processes."""
        return {
            **os.environ,
            "TMPDIR": str(self.directory / "tmp"),
            "DISPATCHER_REDIS_URL": self.server.url,
            "DISPATCHER_KEY_PREFIX": self.prefix,
            "DISPATCHER_LOG_FORMAT": "json",
            "DISPATCHER_LOG_LEVEL": "debug",
            **settings,
        }

    def dispatcher(self, *arguments: str, **settings: str) -> Process:
        """Start a `dispatcher run`; `settings` are environment variables."""
        return self._start(["dispatcher", "run", *arguments], settings)

    def ready_dispatcher(self, *arguments: str, **settings: str) -> Process:
        """Start a `dispatcher run` and wait until it has looked at the pool."""
        process = self.dispatcher(*arguments, **settings)
        process.wait_said("leases-renewed", reason="connected", pool=POOL)
        return process

    def worker(self, name: str | None, *arguments: str, **settings: str) -> Process:
        """Start a `consumers run` of the scene's pool."""
        named = ["--name", name] if name else []
        return self._start(["consumers", "run", "--pool", POOL, *named, *arguments], settings)

    def ready_worker(self, name: str | None, *arguments: str, **settings: str) -> Process:
        """Start a `consumers run` and wait until it is registered."""
        process = self.worker(name, *arguments, **settings)
        process.wait_said("registered")
        return process

    def command(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; `settings` are environment variables."""
        return subprocess.run(
            [BIN / arguments[0], *arguments[1:]],
            env=self.environment(**settings),
            cwd=self.working_dir,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def drain(self, worker: Process) -> None:
        """Let a worker drain, and wait until it claims nothing more."""
        worker.signal(signal.SIGTERM)
        worker.wait_said("claims-no-more")

    def freeze_guardian(self, worker: Process) -> None:
        """Stop a worker's guardian until the scene ends."""
        self._guardians.append(worker.guardian())
        freeze(self._guardians[-1])

    def submit(self, command: object, *, due_in_ms: int | None = None, **fields: Any) -> str:
        """Submit a run with this command and return its id; `queue` is where it goes."""
        queue = fields.pop("queue", "default")
        variables = {"command": command} | fields.pop("job_variables", {})
        run_id = str(uuid4())
        run = {"id": run_id, "flow_id": str(uuid4()), "name": "run", "job_variables": variables}
        at = None if due_in_ms is None else from_ms(self.now_ms() + due_in_ms)
        self.producer.submit(run | fields, pool=POOL, queue=queue, at=at)
        return run_id

    def hold(self, *, stubborn: bool = False, **fields: Any) -> str:
        """Submit a run that works until `let_go`; a stubborn one does not mind SIGTERM."""
        script = f"trap '' TERM\n{HOLD}" if stubborn else HOLD
        return self.submit(["/bin/sh", "-c", script, str(self.directory)], **fields)

    def let_go(self, token: str = "") -> None:
        """Let the run with this fencing token end, or all that hold."""
        (self.directory / (f"go.{token}" if token else "go")).touch()

    def child(self, run_id: str, delivery: int = 1) -> int:
        """Wait for the child of a holding run and return its process id."""
        told = self.directory / f"pid.{run_id}.{delivery}"
        wait_until(told.exists, f"delivery {delivery} has a child", timeout_s=PATIENCE_S)
        return int(told.read_text())

    def now_ms(self) -> int:
        """Return the server's time."""
        return self.inspector.server_time_ms()

    def run(self, run_id: str) -> RunRecord:
        """Return what is known of a run."""
        return self.inspector.run(run_id, POOL)

    def wait_run(self, run_id: str, check: Callable[[RunRecord], object], what: str) -> RunRecord:
        """Wait until a run's record passes a check, and return it."""
        wait_until(lambda: check(self.run(run_id)), f"the run {what}", timeout_s=PATIENCE_S)
        return self.run(run_id)

    def wait_dispatched(self, run_id: str) -> RunRecord:
        """Wait until a run was dispatched."""
        return self.wait_run(run_id, lambda run: run.dispatched_ms, "is dispatched")

    def wait_end(self, run_id: str) -> RunRecord:
        """Wait until a run has ended, however."""
        return self.wait_run(run_id, lambda run: run.state_type in TERMINAL, "ends")

    def wait_renewed(self, *, times: int = 1) -> None:
        """Wait until the lease of each holder was prolonged so often from now on."""
        for _ in range(times):
            before = dict(self.inspector.leases(POOL).ends)
            wait_until(
                lambda before=before: all(
                    end_ms > before[holder]
                    for holder, end_ms in self.inspector.leases(POOL).ends
                    if holder in before
                ),
                "leases are renewed",
                timeout_s=PATIENCE_S,
            )

    def let_pass(self, span_s: float) -> None:
        """Wait for a span of time in which something must not happen."""
        until_s = self.clock.monotonic_s() + span_s
        wait_until(lambda: self.clock.monotonic_s() >= until_s, "time passes", timeout_s=60)

    def set_queue(self, name: str = "default", **fields: Any) -> None:
        """Change settings of a queue, named as they are stored."""
        self.store.set_queue(POOL, name, fields)

    def release(self, run_id: str) -> None:
        """Take a run away from its worker, as an operator does."""
        run = self.run(run_id)
        release = Release(run_id, run.token, "taken away", by="operator")
        assert self.store.report(POOL, release) is Word.RELEASED

    def events(self, *names: str, **fields: str) -> list[dict[str, str]]:
        """Return the pool's events so far: those of these names, and with these fields."""
        with self.server.client(decode_responses=True) as client:
            entries = client.xrange(self.store.keys(POOL)["events"])
        found = [event for _, event in entries if not names or event["event"] in names]
        return [event for event in found if fields.items() <= event.items()]

    def commands_meanwhile(self, span_s: float) -> Counter[str]:
        """Count what clients send in a span of time, by name; what scripts do does not count."""
        seen: Counter[str] = Counter()
        with self.server.client() as client, self.server.client() as watching:
            client.ping()
            with watching.monitor() as monitor:
                until_s = self.clock.monotonic_s() + span_s
                while self.clock.monotonic_s() < until_s:
                    client.echo("tick")
                    while "tick" not in (row := monitor.next_command())["command"]:
                        if row["client_type"] != "lua":
                            seen[row["command"].split()[0].upper()] += 1
                    self.let_pass(0.05)
        return seen

    def start(self, *arguments: str, **settings: str) -> Process:
        """Start a command that goes on; `settings` are environment variables."""
        return self._start(arguments, settings)

    def _start(self, arguments: Sequence[str], settings: Mapping[str, str]) -> Process:
        log = self.directory / f"{len(self._processes)}-{arguments[0]}.log"
        env, cwd = self.environment(**settings), self.working_dir
        process = Process(arguments, env=env, log=log, cwd=cwd)
        self._processes.append(process)
        return process


def freeze(pid: int) -> None:
    """Stop a process, and return when it stands still."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process_state(pid) == "T", f"process {pid} is frozen")


def wait_gone(pid: int, what: str) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: not process_state(pid), f"{what} has ended", timeout_s=PATIENCE_S)


def outcomes(run: RunRecord) -> list[tuple[str, str]]:
    """Return for each delivery of a run its worker's name and how it ended."""
    return [(d.holder.rpartition(".")[0], d.outcome) for d in run.deliveries]
