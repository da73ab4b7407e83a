"""The `dispatcher` command as tests use it: within this process, or as a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from click.testing import CliRunner

from dispatcher.cli import cli
from dispatcher.connection import Connection
from dispatcher.records import Claim, Finish, Outcome, Registration, Start
from dispatcher.store import Store
from tests.probes import ROOT

SHARED = ROOT.parent / "shared"  # beside the repository
RECORDED = sorted(
    [
        *SHARED.glob("fixtures/prefect/scheduled.*.body.json"),
        *SHARED.glob("seed/load_scheduled_runs.response.json"),
    ]
)
if len(RECORDED) < 5:
    raise FileNotFoundError(f"the recorded answers are missing: {SHARED} has too few of them")
COMMAND = (sys.executable, "-m", "dispatcher.cli")
FLOW = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        """Its standard output as text."""
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        """The lines of its standard output."""
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON object on each line of its standard output."""
        return [json.loads(line) for line in self.lines]


class Commands:
    """Runs `dispatcher` on one server under one key prefix."""

    def __init__(self, url: str, prefix: str, **environ: str) -> None:
        self.environ = {"DISPATCHER_REDIS_URL": url, "DISPATCHER_KEY_PREFIX": prefix, **environ}

    def __call__(self, *args: str | Path, given: str | bytes | None = None) -> Done:
        """Run it within this process, `given` on its standard input."""
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=given, env=self.environ)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout_bytes, result.stderr)

    def execute(self, *args: str | Path, given: bytes = b"") -> Done:
        """Run it as a process of its own."""
        done = subprocess.run(
            [*COMMAND, *args], input=given, capture_output=True, env=self._whole(), timeout=60
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *args: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
        """Start it as a process of its own, its streams are pipes unless options say else."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*COMMAND, *args], env=self._whole(), **pipes | options)

    def _whole(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT)} | self.environ


class Hands:
    """A worker by hand on a pool that exists; its name is `hands`, its first incarnation 1."""

    def __init__(self, client: Any, prefix: str, pool: str = "etl") -> None:
        self.store = Store(Connection(client), prefix)
        self.pool = pool
        self._incarnation = 0
        self._live()

    def _live(self) -> None:
        self._incarnation += 1
        registration = Registration("hands", str(self._incarnation), slots=10, host="here", pid=7)
        self.holder = self.store.register(self.pool, registration).holder
        self._number = 0

    def die(self) -> None:
        """Lose everything it has, as if its lease had ended, and come back."""
        holders = self.store.keys(self.pool)["holders"]
        self.store.connection.client.zadd(holders, {self.holder: 1})
        self.store.recover_all(self.pool, self.holder)
        self._live()

    def claim(self, queue: str = "default") -> Claim:
        """Dispatch what is due and claim the first of it."""
        self.store.dispatch(self.pool, [queue])
        self._number += 1
        (claim,) = self.store.claim(self.pool, self.holder, number=self._number, slots=1).claims
        return claim

    def start(self, claim: Claim) -> Claim:
        """Start a claimed run."""
        self.store.report(self.pool, Start(claim.run_id, claim.token, claim.run_count + 1))
        return claim

    def finish(self, claim: Claim, state: str = "COMPLETED", message: str = "") -> None:
        """End a claimed run."""
        outcome = Outcome(state, state.capitalize(), message, b"said \x00 and \xff\n")
        self.store.report(self.pool, Finish(claim.run_id, claim.token, outcome))

    def work(self, state: str = "COMPLETED", message: str = "") -> None:
        """Run the next run to its end."""
        self.finish(self.start(self.claim()), state, message)


def run_id(number: int) -> str:
    """The id of a numbered run."""
    return str(UUID(int=number))


def a_run(number: int = 1, **fields: Any) -> dict[str, Any]:
    """A bare flow run with a command of its own."""
    defaults = {
        "id": run_id(number),
        "flow_id": FLOW,
        "name": f"run-{number}",
        "job_variables": {"command": "true"},
    }
    return defaults | fields


def an_envelope(number: int = 1, **fields: Any) -> dict[str, Any]:
    """A run as the endpoint hands it out, with the ids of a pool and a queue."""
    ids = {"work_pool_id": run_id(1001), "work_queue_id": run_id(1002)}
    return {**ids, "flow_run": a_run(number, **fields)}


def ndjson(*runs: object) -> bytes:
    """Runs as one object per line; text and bytes are taken as they are."""
    lines = [json.dumps(run) if isinstance(run, dict) else str(run) for run in runs]
    return "".join(f"{line}\n" for line in lines).encode()
