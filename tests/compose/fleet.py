"""The compose file brought up: its containers, the commands given to it, the runs it has."""

import json
import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from dispatcher.clock import Clock, from_ms
from tests.compose.engine import run
from tests.probes import wait_until

POOL = "default"
CHILD = 'sh -c "sleep 1; echo ran"'
PATIENCE_S = 180
LOAD_TURN_S = 2.0
OFFLINE = "PIP_OPTIONS=--no-index --find-links wheels"


def new_run(command: str | None = None, *, in_ms: int = 0) -> dict[str, Any]:
    """Return a bare flow run that is due in some time from now on."""
    asked: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "flow_id": str(uuid.uuid4()),
        "name": "smoke",
        "next_scheduled_start_time": from_ms(Clock().now_ms() + in_ms).isoformat(),
    }
    return asked | ({"job_variables": {"command": command}} if command else {})


class Submit:
    """A `dispatcher submit` that is under way."""

    def __init__(self, command: Sequence[str], source: str, env: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=self._said, stderr=self._said, text=True
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(source)

    def wait_done(self) -> None:
        """Wait until it has accepted all runs, and with `wait` until all have completed."""
        code = self._process.wait(timeout=PATIENCE_S)
        self._said.seek(0)
        assert code == 0, self._said.read()[-2000:]


class Fleet:
    """What `docker-compose up` makes of the file in a folder."""

    def __init__(self, folder: Path, compose: Sequence[str], env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = dict(env)
        self._compose = (*compose, "--project-name", "fleet")
        self._logs: list[str] = []

    # --- Docker

    def compose(self, *arguments: str) -> str:
        """Give docker-compose a command."""
        return run(*self._compose, *arguments, env=self.env, cwd=self.folder)

    def docker(self, *arguments: str) -> str:
        """Give docker a command."""
        return run("docker", *arguments, env=self.env)

    def containers(self, *services: str) -> list[str]:
        """Return the ids of the running containers of services, of all without any."""
        mine = "label=com.docker.compose.project=fleet"
        label = "com.docker.compose.service"
        shown = f'{{{{.ID}}}} {{{{.Label "{label}"}}}}'
        rows = self.docker("ps", "--no-trunc", "--filter", mine, "--format", shown).splitlines()
        found = dict(row.split() for row in rows)
        return [each for each, service in found.items() if not services or service in services]

    def inspected(self, container: str) -> dict[str, Any]:
        """Return what the engine knows of a container."""
        found: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return found

    def fails(self, container: str, *command: str) -> str:
        """Return what a command says in a container, where it must fail."""
        done = subprocess.run(
            ["docker", "exec", container, *command], env=self.env, capture_output=True, text=True
        )
        assert done.returncode != 0, f"{command} succeeded: {done.stdout}"
        return done.stdout + done.stderr

    def wait_healthy(self, service: str, count: int) -> None:
        """Wait until so many containers of a service are running, and all of them healthy."""

        def healthy() -> bool:
            states = [self.inspected(each)["State"] for each in self.containers(service)]
            return len(states) == count and all(
                state["Health"]["Status"] == "healthy" for state in states
            )

        wait_until(healthy, f"{count} healthy containers of {service}", timeout_s=120)

    # --- Commands

    def in_dispatcher(self, *arguments: str) -> tuple[str, ...]:
        """Return a command that runs in a dispatcher's container, with standard input."""
        return ("docker", "exec", "-i", self.containers("dispatcher")[0], *arguments)

    def dispatcher(self, *arguments: str) -> str:
        """Give the dispatcher command line a command."""
        return run(*self.in_dispatcher("dispatcher", *arguments), env=self.env)

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what a command lists."""
        return [json.loads(row) for row in self.dispatcher(*arguments, "--json").splitlines()]

    def submit(
        self, runs: Sequence[dict[str, Any]], pool: str = POOL, *, wait: bool = True
    ) -> "Submit":
        """Submit runs, and follow them to their end."""
        options = ("--pool", pool, *(("--wait",) if wait else ()))
        command = self.in_dispatcher("dispatcher", "submit", "-", *options)
        return Submit(command, "\n".join(map(json.dumps, runs)), self.env)

    def wait_ready(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many workers are ready; return them."""

        def ready() -> list[dict[str, Any]]:
            found = [w for w in self.objects("worker", "ls") if w["status"] == "ready"]
            return found if len(found) == count else []

        return wait_until(ready, f"{count} ready workers", timeout_s=60)

    def wait_running(self, run_ids: Sequence[str]) -> None:
        """Wait until all of these runs run at the same time."""

        def running() -> bool:
            found = self.objects("flow-run", "ls", "--pool", POOL, "--state", "RUNNING")
            return {each["id"] for each in found} >= set(run_ids)

        wait_until(running, f"{len(run_ids)} runs run", timeout_s=60)

    def deliveries(self, run_id: str) -> list[str]:
        """Return the names of the workers that a run has had, one after the other."""
        (shown,) = self.objects("flow-run", "show", run_id)
        return [delivery["worker"].rpartition(".")[0] for delivery in shown["deliveries"]]

    def holder(self, run_id: str) -> tuple[str, str]:
        """Wait until a run runs; return the worker that has it, and its container."""
        self.wait_running([run_id])
        name = self.deliveries(run_id)[-1]
        hosts = {self.inspected(c)["Config"]["Hostname"]: c for c in self.containers("worker")}
        return name, next(container for host, container in hosts.items() if name.startswith(host))

    # --- What runs wrote

    def keep_logs(self, containers: Sequence[str]) -> None:
        """Remember what workers have logged, before their containers are removed."""
        for each in containers:
            done = subprocess.run(
                ["docker", "logs", each],
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._logs.append(done.stdout)

    def lines(self, line: str) -> "Counter[str]":
        """Return how often each run wrote a line, by the logs of all workers there ever were."""
        kept = list(self._logs)
        self.keep_logs(self.containers("worker"))
        now, self._logs = self._logs, kept
        rows = [json.loads(row) for log in now for row in log.splitlines() if row[:1] == "{"]
        return Counter(
            row["run"] for row in rows if row["event"] == "output" and row["line"] == line
        )


class Load:
    """Up to five runs a second, each of a second, from the beginning of a `with` to its end.

    `runs` are their ids. A slow machine gets fewer: each submit waits for the one before.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.runs: list[str] = []
        self._fleet = fleet
        self._over = Event()
        self._thread = Thread(target=self._go_on)

    def _go_on(self) -> None:
        while not self._over.is_set():
            runs = [new_run(in_ms=200 * i) for i in range(round(5 * LOAD_TURN_S))]
            self.runs += [each["id"] for each in runs]
            self._fleet.submit(runs, wait=False).wait_done()
            self._over.wait(LOAD_TURN_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
