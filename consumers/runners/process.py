"""The process runner: one child process per run, in a process group of its own.

A child never outlives the claim. The worker stops it when the claim is lost; a guardian process
does when the worker was killed, or frozen for longer than its lease.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from consumers.runners import Stop, without_ours
from dispatcher import (
    Claim,
    Guardian,
    InvalidRun,
    Outcome,
    Pool,
    ProcessJob,
    logger,
    payload_process_job,
)

OUTPUT_TAIL_BYTES = 65_536
LINE_BYTES = 8_192
STOP_GRACE_S = 5.0
OUTPUT_GRACE_S = 1.0
# A child begins when the guardian knows of it: a worker killed between the two would leave it
# unguarded. So it begins as a gate, which ends when its input does and becomes the command on a
# line. Some shells drop variables whose names they cannot spell; then the gate is a Python.
_GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "consumers")
_SLOW_GATE = (
    *(sys.executable, "-I", "-S", "-c"),
    "import os, sys\n"
    "if os.read(0, 1):\n"
    "    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)\n"
    "    os.execv(sys.argv[1], sys.argv[1:])",
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class ProcessRunner:
    """Runs the command of a flow run's job variables, else the pool's; see `ProcessJob`."""

    guarded = True

    def __init__(
        self,
        *,
        pool_command: str = "",
        stop_grace_s: float = STOP_GRACE_S,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._jobs = (pool_command, "")
        self._stop_grace_s = stop_grace_s
        self._environ = without_ours(environ)
        self._guardian = Guardian()
        self._guardian.start()
        self._root = Path(tempfile.mkdtemp(prefix="dispatcher-"))
        self._log = logger()

    def run(self, claim: Claim, stop: Stop) -> Outcome:
        """Run one child to its end; COMPLETED for exit code 0, CRASHED for death by a signal."""
        directory = Path(tempfile.mkdtemp(dir=self._root))
        try:
            command, template = self._jobs
            job = payload_process_job(
                claim.payload,
                command,
                base_job_template=template,
                timeout_ms=claim.timeout_ms,
                environ=self._environ,
            )
            stop.limit(job.timeout_s)
            payload_file = directory / "payload.json"
            payload_file.touch(mode=0o600)
            payload_file.write_bytes(claim.payload)
            working_dir = Path(job.working_dir) if job.working_dir else directory / "work"
            if not job.working_dir:
                working_dir.mkdir()
            child = self._spawn(job, working_dir, self._env(job, claim, payload_file))
        except InvalidRun as error:
            return Outcome("CRASHED", "Crashed", str(error))
        except OSError as error:
            reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            return Outcome("CRASHED", "Crashed", f"cannot start {job.command[0]!r}: {reason}")
        else:
            return self._follow(child, job, claim, stop)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def configure(self, pool: Pool) -> None:
        """Start runs by this pool's command and template from now on; what runs goes on."""
        self._jobs = (pool.command, pool.base_job_template)

    def alive(self, timeout_s: float) -> None:
        """Promise the guardian to say so again within `timeout_s`; else it ends the children."""
        self._guardian.alive(timeout_s)

    def close(self) -> None:
        """End the guardian and remove the temporary directories."""
        self._guardian.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def _env(self, job: ProcessJob, claim: Claim, payload_file: Path) -> dict[str, str]:
        env = dict(self._environ)
        for name, value in job.env.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value
        told = {"DISPATCHER_JOB_NAME": job.name, "DISPATCHER_JOB_LABELS": _as_json(job.labels)}
        return env | {
            **{name: value for name, value in told.items() if value},
            "DISPATCHER_RUN_ID": claim.run_id,
            "DISPATCHER_RUN_NAME": claim.name.replace("\0", ""),
            "DISPATCHER_RUN_PAYLOAD_FILE": str(payload_file),
            "DISPATCHER_RUN_FENCING_TOKEN": claim.token,
            "DISPATCHER_RUN_DELIVERY": str(claim.delivery),
        }

    def _spawn(
        self, job: ProcessJob, working_dir: Path, env: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        gate = _GATE if all(map(_NAME.fullmatch, env)) else _SLOW_GATE
        child = subprocess.Popen(
            [*gate, _program(job.command[0], working_dir, env), *job.command[1:]],
            cwd=working_dir,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin:  # broken: it was ended already
            self._guardian.add(child.pid, grace_s=self._stop_grace_s)
            child.stdin.write(b"\n")
        return child

    def _follow(
        self, child: "subprocess.Popen[bytes]", job: ProcessJob, claim: Claim, stop: Stop
    ) -> Outcome:
        exited = threading.Event()
        output = _Output(
            child.stdout, self._log.bind(run=claim.run_id) if job.stream_output else None
        )
        stop.on_request(
            lambda: threading.Thread(target=self._terminate, args=(child.pid, exited, stop)).start()
        )
        code = child.wait()
        stop.over()
        exited.set()
        # What the child left behind in its group ends with it.
        _signal(child.pid, signal.SIGKILL)
        self._guardian.remove(child.pid)
        return _outcome(code, output.tail())

    def _terminate(self, pgid: int, exited: threading.Event, stop: Stop) -> None:
        grace_s = self._stop_grace_s if stop.grace_s is None else stop.grace_s
        _signal(pgid, signal.SIGTERM)
        if not exited.wait(grace_s):
            _signal(pgid, signal.SIGKILL)


class _Output:
    """Reads a child's output all the time, so that it never blocks; keeps the last 64 KiB."""

    def __init__(self, source: IO[bytes] | None, log: Any) -> None:
        assert source is not None
        self._source = source
        self._log = log
        self._kept = bytearray()
        self._line = b""
        self._thread = threading.Thread(target=self._read, name="output", daemon=True)
        self._thread.start()

    def tail(self) -> bytes:
        """Return the end of the output; a grandchild that keeps the pipe open is not waited for."""
        self._thread.join(OUTPUT_GRACE_S)
        return bytes(self._kept[-OUTPUT_TAIL_BYTES:])

    def _read(self) -> None:
        with self._source:
            while chunk := os.read(self._source.fileno(), 65_536):
                self._kept += chunk
                if len(self._kept) > 4 * OUTPUT_TAIL_BYTES:
                    del self._kept[:-OUTPUT_TAIL_BYTES]
                if self._log is not None:
                    self._tell(chunk)
        if self._line:
            self._say(self._line)

    def _tell(self, chunk: bytes) -> None:
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            self._say(line)
        while len(self._line) > LINE_BYTES:
            self._say(self._line[:LINE_BYTES])
            self._line = self._line[LINE_BYTES:]

    def _say(self, line: bytes) -> None:
        self._log.info("output", line=line[:LINE_BYTES].decode(errors="replace").rstrip("\r"))


def _program(name: str, working_dir: Path, env: Mapping[str, str]) -> str:
    """Return what to execute for a command's first word; OSError when there is nothing."""
    if "/" in name:
        found = shutil.which(working_dir / name)
    else:
        found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None:
        raise OSError("no such program" if "/" in name else "no such program on its PATH")
    return found


def _as_json(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels)) if labels else ""


def _outcome(code: int, output: bytes) -> Outcome:
    if code == 0:
        return Outcome("COMPLETED", "Completed", output=output)
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Outcome("CRASHED", "Crashed", f"killed by {name}", output)
    return Outcome("FAILED", "Failed", f"exit code {code}", output)


def _signal(pgid: int, number: int) -> None:
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):  # gone, or only a zombie of another user is left
        return
