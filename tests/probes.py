"""Other processes as tests see them: programs to be killed, who is still there, has it happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TypeVar

from dispatcher.clock import Clock

ROOT = Path(__file__).parent.parent
T = TypeVar("T")
THEN_WAIT = """
import signal
print("ready", flush=True)
signal.pause()
"""


def wait_until(predicate: Callable[[], T], what: str, *, timeout_s: float = 20.0) -> T:
    """Return the predicate's first true answer; fail with `what` when it never comes."""
    clock = Clock()
    deadline_s = clock.monotonic_s() + timeout_s
    while not (answer := predicate()):
        if clock.monotonic_s() >= deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        Event().wait(0.01)
    return answer


def process_state(pid: int) -> str:
    """Return the letter ps shows (R, S, T, …); empty for no process, or a zombie."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip()[:1].replace("Z", "")


class Program:
    """A Python program to be killed; it prints lines of pids, then `ready`, and waits.

    `pids` are those pids. `clean_up` kills it, and each pid with the group of that number.
    """

    def __init__(self, source: str, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{source}\nprint('ready', flush=True)\nsignal.pause()",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.pids: list[int] = []
        for line in iter(self.process.stdout.readline, "ready\n"):
            assert line, "the program ended early"
            self.pids += map(int, line.split())

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.wait()

    def clean_up(self) -> None:
        """End it and what it told of; what has ended before is fine."""
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for pid in self.pids:
            for kill in (os.killpg, os.kill):
                with suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)


def fake_server(path: Path, body: str, *, version: str = "7.4.0") -> Path:
    """Write a program that passes for a Redis server: it tells its version, or runs `body`."""
    source = path.with_suffix(".py")
    source.write_text(
        "import os, socket, sys\n"
        f"if '--version' in sys.argv: print('Redis server v={version} sha=0'); sys.exit()\n{body}"
    )
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{source}' \"$@\"\n")
    path.chmod(0o700)
    return path
