"""What the HTTP edge works with: doors of its own, used in a bounded number of threads."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from dispatcher.connection import Connection
from dispatcher.heartbeats import Heartbeats
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from dispatcher.reaching import READ_TIMEOUT_S
from dispatcher.settings import Settings
from dispatcher.store import Store

PATIENCE_S = 1.0  # a client that is told 503 tries again by itself
MOST_THREADS = 32

P = ParamSpec("P")
T = TypeVar("T")


class Doors:
    """The write and the read side for the edge, on a connection of their own.

    `heartbeats` are those of the loops beside it; without them readiness is about Redis alone.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        *,
        heartbeats: Heartbeats | None = None,
        open_connection: Callable[[float | None], Connection] | None = None,
    ) -> None:
        self.settings = settings
        self.heartbeats = heartbeats
        self.store = Store(connection, settings.key_prefix)
        self.inspector = Inspector(connection, settings.key_prefix)
        self.stopping = threading.Event()
        self._open_connection = open_connection
        self._when_stopped: list[Callable[[], None]] = []
        self._limiter: anyio.CapacityLimiter | None = None

    @classmethod
    def open(cls, url: str, settings: Settings, *, heartbeats: Heartbeats | None = None) -> "Doors":
        """Return doors to the server at `url`; nothing is sent yet."""
        return cls(
            Connection.open(url, patience_s=PATIENCE_S),
            settings,
            heartbeats=heartbeats,
            open_connection=lambda read_timeout_s: Connection.open(
                url, read_timeout_s=read_timeout_s
            ),
        )

    async def do(self, step: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        """Return what a blocking call returns; it runs in one of `MOST_THREADS` threads."""
        self._limiter = self._limiter or anyio.CapacityLimiter(MOST_THREADS)
        whole = partial(step, *args, **options)
        return await anyio.to_thread.run_sync(whole, limiter=self._limiter)

    def producer(self) -> Producer:
        """Return a producer for one request: it remembers pools and is not shared."""
        most_bytes = self.settings.max_payload_bytes
        return Producer(self.store, self.inspector, max_payload_bytes=most_bytes)

    def open_store(self, *, read_timeout_s: float | None = READ_TIMEOUT_S) -> Store:
        """Return a store on a connection of its own, such as for one that blocks."""
        if self._open_connection is None:
            return self.store
        return Store(self._open_connection(read_timeout_s), self.settings.key_prefix)

    def open_inspector(self) -> Inspector:
        """Return a read side on a connection of its own, such as for one that blocks."""
        return Inspector(self.open_store().connection, self.settings.key_prefix)

    def when_stopped(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when serving ends, on the thread that ends it."""
        self._when_stopped.append(callback)

    def stop(self) -> None:
        """Say that serving ends, so that what is held is answered now."""
        self.stopping.set()
        for callback in self._when_stopped:
            callback()


def doors_of(request: Request) -> Doors:
    """Return the doors of the app that serves a request."""
    doors: Doors = request.app.state.doors
    return doors


DoorsOf = Annotated[Doors, Depends(doors_of)]
