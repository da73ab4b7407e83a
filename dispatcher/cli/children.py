"""The worker of `dispatcher dev`: a child process that is started again when it dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from dispatcher.clock import Clock
from dispatcher.guardian import Guardian
from dispatcher.logs import logger
from dispatcher.settings import PREFIX, Settings, variable

PAUSE_S = 1.0  # before a restart, twice as long each time
MOST_PAUSE_S = 30.0
STEADY_S = 60.0  # who lived that long begins anew
GUARD_GRACE_S = 5.0  # after our own end there is no server left to report to
GRACE_S = 30.0  # for what runs when we end; then the worker gives it back
KILL_AFTER_S = GRACE_S + 10.0


class WorkerProcess:
    """One `consumers run` in a session of its own, so that Ctrl-C on the terminal is ours alone."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        guardian: Guardian,
        *,
        arguments: Sequence[str],
        clock: Clock | None = None,
    ) -> None:
        # -P: a folder called `consumers` where we were started is not ours.
        command = [sys.executable, "-P", "-m", "consumers", "run", "--grace", str(GRACE_S)]
        self._command = [*command, *arguments]
        self._env = worker_environment(url, settings)
        self._guardian = guardian
        self._clock = clock or Clock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = PAUSE_S
        self._started_s = 0.0
        self._restart_at_s: float | None = None
        self._log = logger()

    def start(self) -> None:
        """Start the process; it writes to our standard error."""
        self._restart_at_s = None
        self._started_s = self._clock.monotonic_s()
        self._process = subprocess.Popen(
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._guardian.add(self._process.pid, grace_s=GUARD_GRACE_S)

    def check(self) -> None:
        """Start it again, after a pause, when it has ended by itself."""
        now_s = self._clock.monotonic_s()
        if self._process is not None and self._process.poll() is not None:
            self._guardian.remove(self._process.pid)
            if now_s - self._started_s >= STEADY_S:
                self._pause_s = PAUSE_S
            code = self._process.returncode
            self._log.warning("worker-ended", exit_code=code, restart_in_s=self._pause_s)
            self._process = None
            self._restart_at_s = now_s + self._pause_s
            self._pause_s = min(MOST_PAUSE_S, self._pause_s * 2)
        if self._restart_at_s is not None and now_s >= self._restart_at_s:
            self.start()

    def stop(self) -> None:
        """Let it drain; another signal to us meanwhile makes it give back what it has at once."""
        process, self._process, self._restart_at_s = self._process, None, None
        if process is None:
            return
        before = {
            number: signal.signal(number, lambda *_: _terminate(process))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            _terminate(process)
            process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            self._log.warning("worker-killed", waited_s=KILL_AFTER_S)
            with suppress(ProcessLookupError, PermissionError):  # it ended just now
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finally:
            self._guardian.remove(process.pid)
            for number, handler in before.items():
                signal.signal(number, handler)


def worker_environment(url: str, settings: Settings) -> dict[str, str]:
    """Return our environment with the settings that hold, whatever flags and variables say."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env[variable("redis_url")] = url
    for name in ("key_prefix", "max_payload_bytes", "log_level", "log_format"):
        env[variable(name)] = str(getattr(settings, name))
    return env


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    # Popen.send_signal would wait for a lock that the code it interrupted may hold.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
