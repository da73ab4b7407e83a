"""A proxy in front of a server, for connections that can be cut and mended."""

import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Proxy:
    """Passes bytes on between its Unix socket and that of a server; `url` is how to reach it."""

    def __init__(self, server_url: str) -> None:
        self._server = server_url.removeprefix("unix://")
        self._path = Path(tempfile.mkdtemp(prefix="dsp")) / "p"  # short, as sockets' paths are
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """How to reach the server through it."""
        return f"unix://{self._path}"

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.cut()
        self._path.parent.rmdir()

    def cut(self) -> None:
        """Break all connections, and let no new one through until `mend`."""
        assert self._listener
        self._path.unlink()
        with self._lock:
            for each in (self._listener, *self._open):
                _close(each)
            self._open.clear()
            self._listener = None

    def mend(self) -> None:
        """Let connections through."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(100)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._server)
                with self._lock:
                    if self._listener is not listener:
                        _close(here)
                        _close(there)
                        return
                    self._open += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def before_passing(self, source: socket.socket, target: socket.socket, chunk: bytes) -> None:
        """See what is about to be passed on; whoever waits here delays it."""

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                self.before_passing(source, target, chunk)
                target.sendall(chunk)
        _close(target)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # wakes who waits on it in another thread
    one.close()
