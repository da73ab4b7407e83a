"""What a runner is: it runs one claimed run and returns how that ended."""

import threading
from collections.abc import Callable
from typing import Protocol

from dispatcher import Claim, Outcome


class Stop:
    """Asks one running run to stop, once, with a reason; `on_request` hears of it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Ask to stop; only the first reason counts."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            actions = list(self._actions)
        for action in actions:
            action()

    def on_request(self, action: Callable[[], None]) -> None:
        """Call `action` when the stop is requested; at once if it was already."""
        with self._lock:
            self._actions.append(action)
            requested = self.reason is not None
        if requested:
            action()


class Runner(Protocol):
    """Runs one claimed run; called from a thread of its own for each run."""

    def run(self, claim: Claim, stop: Stop) -> Outcome:
        """Run to the end, or until `stop` is requested, and return only when nothing of it runs."""
        ...

    def alive(self, timeout_s: float) -> None:
        """Hear that the worker works; children may be ended `timeout_s` after the last time."""
        ...

    def close(self) -> None:
        """Free what the runner holds, after the last run."""
        ...
