"""Ends process groups when their parent ends, also by kill -9, or freezes.

`Guardian` is the parent's side. The rest of this file is the guardian itself: a small process of
its own session, started by file path so that it imports nothing of this package. It reads lines:

    add PGID GRACE_MS    guard this group; it gets GRACE_MS between SIGTERM and SIGKILL
    remove PGID          the group has ended, or is no longer the guardian's business
    alive TIMEOUT_MS     the parent says alive again within TIMEOUT_MS; 0 takes the promise back

A broken promise ends all groups known by then, and the guardian serves on. The end of input ends
all groups, then the guardian. Only members of the group are ended: a process that opens a session
of its own has left.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

if __name__ != "__main__":  # without them the guardian starts faster and is smaller
    import subprocess
    import threading
    from typing import IO

POLL_S = 0.05  # between looks at groups that are being ended
PARENT_CHECK_S = 1.0  # a forked child may hold the pipe open: then the parent's pid tells
KILL_S = 1.0  # SIGKILL is repeated this long: a zombie that nobody reaps stays in its group
READ_BYTES = 65_536
ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def bare_environment() -> dict[str, str]:
    """Return what a helper process gets to see of the environment: nothing that is secret."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


class Guardian:
    """Starts the guardian process and tells it what to end; every method is thread-safe.

    A guardian that died or hangs is replaced by the next call. OSError: none could be started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grace_ms: dict[int, int] = {}
        self._alive_ms = 0
        self._started = False
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guardian:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The guardian's process id; None before `start` and after `close`."""
        process = self._process
        return process.pid if process else None

    def start(self) -> None:
        """Start the guardian process; does nothing when it was started."""
        with self._lock:
            if not self._started:
                self._process = self._spawn()
                self._started = True

    def add(self, pgid: int, *, grace_s: float) -> None:
        """Guard a process group: when it must end, SIGKILL follows SIGTERM after the grace."""
        if pgid <= 1 or pgid == os.getpgrp():
            raise ValueError(f"process group {pgid} is not one to guard: give it its own session")
        with self._lock:
            if not self._started:
                raise RuntimeError("the guardian is not started")
            self._grace_ms[pgid] = max(0, round(grace_s * 1000))
            self._say(f"add {pgid} {self._grace_ms[pgid]}")

    def remove(self, pgid: int) -> None:
        """Leave the group alone from now on, also one that is being ended."""
        with self._lock:
            self._grace_ms.pop(pgid, None)
            self._say(f"remove {pgid}")

    def alive(self, timeout_s: float) -> None:
        """Promise to call this again within the timeout; 0 takes the promise back."""
        with self._lock:
            self._alive_ms = max(1, round(timeout_s * 1000)) if timeout_s > 0 else 0
            self._say(f"alive {self._alive_ms}")

    def close(self) -> None:
        """End what is still guarded as the parent's end would, then the guardian.

        Remove what has ended before: the guardian cannot tell a zombie of ours from a process
        that still ends, and waits its grace.
        """
        with self._lock:
            process, self._process, self._started = self._process, None, False
            longest_s = max(self._grace_ms.values(), default=0) / 1000
            self._grace_ms.clear()
            self._alive_ms = 0
        if process is not None:
            _finish(process, timeout_s=longest_s + 2 * KILL_S)

    def _say(self, line: str) -> None:
        if self._started and not self._heard(line):
            self._process = self._spawn()  # which is told everything, so this line too

    def _heard(self, line: str) -> bool:
        process = self._process
        if process is None:
            return False
        try:
            _write(process, line)
        except (BrokenPipeError, BlockingIOError):  # it died, or has not read for 64 KiB
            self._process = None
            process.kill()
            _finish(process, timeout_s=KILL_S)
            return False
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=bare_environment(),
            start_new_session=True,
        )
        for pgid, grace_ms in self._grace_ms.items():
            _write(process, f"add {pgid} {grace_ms}")
        _write(process, f"alive {self._alive_ms}")
        os.set_blocking(_pipe(process).fileno(), False)  # a hanging guardian must not hang us
        return process


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _write(process: subprocess.Popen[bytes], line: str) -> None:
    os.write(_pipe(process).fileno(), f"{line}\n".encode())  # short, so whole or not at all


def _finish(process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    _pipe(process).close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Watch:
    """What the guardian knows: groups to guard, groups that are being ended, the promise."""

    def __init__(self) -> None:
        self.grace_s: dict[int, float] = {}
        self.kill_at_s: dict[int, float] = {}
        self.alive_until_s: float | None = None

    def obey(self, line: bytes, *, now_s: float) -> None:
        """Follow one line; one that makes no sense is dropped, the groups matter more."""
        match _parse(line):
            case b"add", [pgid, grace_ms] if pgid > 1:
                self.kill_at_s.pop(pgid, None)
                self.grace_s[pgid] = grace_ms / 1000
            case b"remove", [pgid]:
                self.kill_at_s.pop(pgid, None)
                self.grace_s.pop(pgid, None)
            case b"alive", [timeout_ms]:
                self.alive_until_s = now_s + timeout_ms / 1000 if timeout_ms > 0 else None

    def end_all(self, *, now_s: float) -> None:
        """Ask every guarded group to end; from now on it is one that is being ended."""
        for pgid, grace_s in self.grace_s.items():
            _signal_group(pgid, signal.SIGTERM)
            self.kill_at_s[pgid] = now_s + grace_s
        self.grace_s.clear()
        self.alive_until_s = None

    def look(self, *, now_s: float) -> None:
        """End all when the promise is broken; kill the groups whose grace is over."""
        if self.alive_until_s is not None and now_s >= self.alive_until_s:
            self.end_all(now_s=now_s)
        for pgid, kill_at_s in list(self.kill_at_s.items()):
            present = _signal_group(pgid, signal.SIGKILL if now_s >= kill_at_s else 0)
            if not present or now_s >= kill_at_s + KILL_S:
                del self.kill_at_s[pgid]

    def wait_s(self, *, now_s: float) -> float:
        """Return how long nothing needs a look."""
        wait_s = POLL_S if self.kill_at_s else PARENT_CHECK_S
        if self.alive_until_s is not None:
            wait_s = min(wait_s, self.alive_until_s - now_s)
        return max(wait_s, 0)


def _parse(line: bytes) -> tuple[bytes, list[int]]:
    verb, *numbers = line.split() or [b""]
    try:
        return verb, [int(number) for number in numbers]
    except ValueError:
        return b"", []


def _signal_group(pgid: int, number: int) -> bool:
    """Return whether the group is still there; macOS refuses one that has only zombies."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _now_s() -> float:
    return time.monotonic()  # noqa: TID251 - the guardian imports nothing of this package


def serve(source: int, *, parent_pid: int) -> None:
    """Obey the lines of `source` until the parent has ended, then end all groups."""
    watch = _Watch()
    rest = b""
    while True:
        orphaned = os.getppid() != parent_pid  # looked at before reading: its last words count
        wait_s = 0 if orphaned else watch.wait_s(now_s=_now_s())
        readable = select.select([source], [], [], wait_s)[0]
        chunk = os.read(source, READ_BYTES) if readable else b""
        if not chunk and (readable or orphaned):
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            watch.obey(line, now_s=_now_s())
        watch.look(now_s=_now_s())
    watch.end_all(now_s=_now_s())
    while watch.kill_at_s:
        watch.look(now_s=_now_s())
        select.select([], [], [], POLL_S)


def main() -> None:
    """Serve standard input; the parent's pid may be given, so that no start is too early."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(0, parent_pid=int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid())


if __name__ == "__main__":
    main()
