"""The connection of one client: it may neither send its request nor read its answer for ever."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

WRITE_TIMEOUT_S = 60.0
REFUSED_POLITELY = 64  # clients beyond the bound that are told so, if they ask in time


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits without end for a head that comes slowly.

    From its first byte, at first from the connection on, a request's head must be there in
    `header_timeout_s`; so must what is left of a body that was refused. A client that takes
    nothing of its answer for `WRITE_TIMEOUT_S` is cut off.
    """

    header_timeout_s = 10.0
    _deadline: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        most = self.limit_concurrency
        if most is not None and len(self.connections) > most + REFUSED_POLITELY:
            transport.abort()  # each is an open file, and the loops need some, too
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; between two requests the clock runs from the first of them."""
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer has begun; the application hears of the end."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._unset_deadline()
        self._unset_writing()

    def pause_writing(self) -> None:
        """Give the client some time to read what was sent."""
        super().pause_writing()
        self._writing = self._writing or self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._unset_writing()

    def _watch(self) -> None:
        is_served = self.cycle is not None and not self.cycle.response_complete
        if is_served or self.transport.is_closing():
            self._unset_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_timeout_s, self._expire)

    def _expire(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _unset_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
