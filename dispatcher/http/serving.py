"""HTTP served beside the loops of a dispatcher: uvicorn on a thread of its own."""

import logging
import resource
import socket
import threading
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI

from dispatcher.errors import DispatcherError, InvalidSettings, Refused
from dispatcher.http.app import create_app
from dispatcher.http.doors import Doors
from dispatcher.http.options import Address, Options, check_reach
from dispatcher.http.protocol import BoundedProtocol
from dispatcher.logs import logger

BACKLOG = 2_048
STARTS_WITHIN_S = 10.0
GRACE_S = 1  # for answers under way when it ends
STOP_WITHIN_S = 2.0
OTHER_FILES = 256  # what the process needs beside the sockets of clients


class HttpServer:
    """Serves the application of `doors`; a part of a dispatcher that starts and stops with it."""

    def __init__(self, doors: Doors, options: Options, *, app: FastAPI | None = None) -> None:
        self.app = app or create_app(doors, options)
        self._doors = doors
        self._options = options
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._ended: str | None = None
        self._log = logger()

    def bind(self) -> Address:
        """Take the address and return the one that was got: port 0 is any free one.

        Raises Refused when it is taken, InvalidSettings when it must not or cannot be served.
        """
        family, where = self._found()
        check_reach(self._options, str(where[0]))
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            reason = error.strerror or str(error)
            raise Refused(
                f"HTTP cannot be served on {self._options.address}: {reason}; "
                "choose another --http HOST:PORT"
            ) from None
        self._socket = listening
        return self.address

    @property
    def address(self) -> Address:
        """The address that is listened on; only after `bind`."""
        assert self._socket is not None
        host, port, *_ = self._socket.getsockname()
        return Address(host, port)

    def start(self) -> None:
        """Serve; returns when requests are answered."""
        if self._socket is None:
            self.bind()
        self._server = uvicorn.Server(self._config())
        _route_logs(self._log, self._doors.stopping)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(STARTS_WITHIN_S / 0.01)):
            if self._server.started or self._ended is not None or waited.wait(0.01):
                break
        self.check()
        self._log.info("http-started", address=f"http://{self.address}")

    def check(self) -> None:
        """Raise when serving has ended by itself."""
        if self._ended is not None and not self._doors.stopping.is_set():
            raise DispatcherError(f"HTTP is not served any more: {self._ended}")

    def stop(self) -> None:
        """Answer what is held, let what is under way end, and close."""
        self._doors.stop()
        if self._server is None:
            return
        self._server.should_exit = True
        self._thread.join(STOP_WITHIN_S)
        if self._thread.is_alive():
            self._server.force_exit = True

    def _found(self) -> tuple[int, Any]:
        address = self._options.address
        try:
            rows = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidSettings(f"--http {address}: no such host: {reason}") from None
        # A name such as localhost has several numbers; all clients try the older kind.
        family, _, _, _, where = min(rows, key=lambda row: row[0] != socket.AF_INET)
        return family, where

    def _run(self) -> None:
        assert self._server is not None
        assert self._socket is not None
        try:
            self._server.run(sockets=[self._socket])
            self._ended = "it stopped"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told by `check`
            self._ended = str(error) or type(error).__name__

    def _config(self) -> uvicorn.Config:
        protocol = type(
            "Protocol", (BoundedProtocol,), {"header_timeout_s": self._options.header_timeout_s}
        )
        return uvicorn.Config(
            self.app,
            http=protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            limit_concurrency=_most_connections(self._options.most_connections),
            timeout_keep_alive=self._options.keep_alive_s,
            timeout_graceful_shutdown=GRACE_S,
        )


class _ToOurs(logging.Handler):
    """Passes what uvicorn logs on as events: a bad client is no warning."""

    def __init__(self, log: Any, stopping: threading.Event) -> None:
        super().__init__()
        self._log = log
        self._stopping = stopping

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        # At the end, what is still under way is cut off, which is no failure.
        failed = record.levelno >= logging.ERROR and not self._stopping.is_set()
        tell = self._log.error if failed else self._log.debug
        with suppress(Exception):
            tell("http-server", reason=record.getMessage().strip(), exc_info=record.exc_info)


def _route_logs(log: Any, stopping: threading.Event) -> None:
    theirs = logging.getLogger("uvicorn.error")
    theirs.handlers = [_ToOurs(log, stopping)]
    theirs.propagate = False
    theirs.setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").handlers = []
    logging.getLogger("uvicorn.access").propagate = False


def _most_connections(wanted: int) -> int:
    """Return how many clients there may be: each is a file, of which a process has some only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(16, min(wanted, soft - OTHER_FILES))
