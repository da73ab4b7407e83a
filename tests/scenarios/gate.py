"""A proxy that stops one step on its way, so that a process can be killed exactly there."""

import socket
import threading
from types import TracebackType

from dispatcher.scripts import load
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S
from tests.scenarios.proxy import Proxy

CALL = b"EVALSHA\r\n$40\r\n%b"  # as a client sends it; the digests alone are also told elsewhere
CALL_BYTES = len(CALL) - 2 + 40


class Gate(Proxy):
    """Stops the first call of a step, or the answer to it, until `open`; all else passes.

    A call that is stopped never reached the server. Of an answer that is stopped the server has
    done the step, and its caller does not know.
    """

    def __init__(self, server_url: str) -> None:
        super().__init__(server_url)
        self._armed = threading.Lock()  # of who comes first one alone is stopped
        self._call, self._step, self._stops_call = b"", "", True
        self._ends: dict[socket.socket, bytes] = {}
        self._answering: socket.socket | None = None
        self._reached, self._opened = threading.Event(), threading.Event()

    def stop_call(self, step: str) -> None:
        """Stop the next call of a step."""
        self._arm(step, stops_call=True)

    def stop_answer(self, step: str) -> None:
        """Stop the answer to the next call of a step."""
        self._arm(step, stops_call=False)

    def wait_reached(self) -> None:
        """Wait until something is stopped here."""
        wait_until(self._reached.is_set, f"{self._step} is at the gate", timeout_s=PATIENCE_S)

    def open(self) -> None:
        """Let go on what is stopped."""
        self._opened.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, at)
        self.open()  # what was stopped finds its connection closed

    def before_passing(self, source: socket.socket, target: socket.socket, chunk: bytes) -> None:
        """Wait while these bytes are to be stopped."""
        if source is self._answering:
            self._answering = None
            self._stop()
        elif self._is_the_call(source, chunk):
            if self._stops_call:
                self._stop()
            else:
                self._answering = target

    def _arm(self, step: str, *, stops_call: bool) -> None:
        self._step, self._stops_call = step, stops_call
        self._call = CALL % load(step).sha.encode()

    def _is_the_call(self, source: socket.socket, chunk: bytes) -> bool:
        """Whether these bytes have the call of the step, or the end of it."""
        with self._armed:
            seen = self._ends.get(source, b"") + chunk
            self._ends[source] = seen[-CALL_BYTES + 1 :]
            found = bool(self._call) and self._call in seen
            if found:
                self._call = b""
            return found

    def _stop(self) -> None:
        self._reached.set()
        self._opened.wait()
