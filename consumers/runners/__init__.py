"""What a runner is: it runs one claimed run and returns how that ended."""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Protocol

from consumers.alarms import Alarm, Alarms
from dispatcher import Claim, Outcome


class Why(StrEnum):
    """Why a run is asked to stop."""

    CANCELLED = "it was cancelled"
    TIMED_OUT = "it took too long"
    RELEASED = "the worker ends"
    FROZEN = "the worker stood still for longer than its lease"
    LOST = "the claim was lost"


RUN_THREADS = "run"  # how the names of all threads begin in which runs work
_OURS = ("DISPATCHER_", "CONSUMERS_")
DOUBTS = (Why.FROZEN, Why.LOST)  # they count also for work that has ended already


class Stop:
    """Asks the work of one claim to stop, and says why; `on_request` hears of it at once.

    The first reason counts, but one that leaves no grace takes the place of one that left some:
    what is being cancelled at leisure must be gone soon when the worker ends. A loss always counts.
    """

    def __init__(self, alarms: Alarms | None = None) -> None:
        self._lock = threading.Lock()
        self._alarms = alarms
        self._alarm: Alarm | None = None
        self._actions: list[Callable[[], None]] = []
        self._over = False
        self._round = 0
        self._meanwhile: Why | None = None
        self.reason: Why | None = None
        self.grace_s: float | None = None
        self.limit_s: float | None = None

    def request(self, reason: Why, *, grace_s: float | None = None) -> bool:
        """Ask to stop, with so long from SIGTERM to SIGKILL (None: the runner's own, short).

        Return whether anything is asked that was not asked before.
        """
        return self._ask(reason, grace_s, round_=None)

    def on_request(self, action: Callable[[], None]) -> None:
        """Call `action` when the stop is requested; at once if it was already."""
        with self._lock:
            if self._over:
                return
            self._actions.append(action)
            requested = self.reason is not None
        if requested:
            action()

    def limit(self, timeout_s: float | None) -> None:
        """Ask to stop when so many seconds have passed from now; None takes a limit away."""
        alarms, old = self._alarms, self._alarm
        if alarms is None:
            return
        if old is not None:
            alarms.cancel(old)
        self.limit_s, self._alarm = timeout_s, None
        if timeout_s is not None:
            late = partial(self._ask, Why.TIMED_OUT, None, round_=self._round)
            self._alarm = alarms.call_later(timeout_s, late)

    def over(self) -> None:
        """Note that the work has ended: who asks from now on does not change how it did."""
        with self._lock:
            self._over, self._round = True, self._round + 1
            self._actions.clear()
        if self._alarms is not None and self._alarm is not None:
            self._alarms.cancel(self._alarm)

    def again(self) -> None:
        """Note that there will be work again: what was asked meanwhile is for that."""
        with self._lock:
            self._over = False
            if self.reason in (None, Why.TIMED_OUT):
                self.reason, self.grace_s = self._meanwhile, None

    def asked(self, reason: Why) -> bool:
        """Return whether this was asked, in time or not."""
        with self._lock:
            return reason in (self.reason, self._meanwhile)

    def _ask(self, reason: Why, grace_s: float | None, *, round_: int | None) -> bool:
        with self._lock:
            if round_ not in (None, self._round):
                return False  # work that has just ended is not late; what follows has its own limit
            if self._over and reason not in DOUBTS:
                new = reason not in (self.reason, self._meanwhile)
                self._meanwhile = self._meanwhile or reason
                return new
            sooner = self.reason is None or (self.grace_s is not None and grace_s is None)
            if not sooner and (reason is not Why.LOST or self.reason is Why.LOST):
                return False
            self.reason, self.grace_s = reason, grace_s
            actions = list(self._actions) if sooner else []
        for action in actions:
            action()
        return True


@dataclass(frozen=True, slots=True)
class Again:
    """Instead of an outcome: the run is given back, and is to be run again after a delay."""

    delay_s: float
    message: str
    output: bytes = b""


class Runner(Protocol):
    """Runs one claimed run; called from a thread of its own for each run.

    `guarded` says whether a guardian ends what runs when the worker stands still for a lease; else
    a run that outlived such a moment may still end well, and its token decides.
    """

    guarded: bool

    def run(self, claim: Claim, stop: Stop) -> Outcome | Again:
        """Run to the end, or until `stop` is requested, and return only when nothing of it runs.

        The time limit of the run's queue is set; a runner that knows a better one sets that. The
        claim's `run_count` has counted this start.
        """
        ...

    def alive(self, timeout_s: float) -> None:
        """Hear that the worker works; children may be ended `timeout_s` after the last time."""
        ...

    def close(self) -> None:
        """Free what the runner holds, after the last run."""
        ...


def without_ours(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment, by default this process's, without our settings: one is a password."""
    given = os.environ if environ is None else environ
    return {name: value for name, value in given.items() if not name.startswith(_OURS)}
