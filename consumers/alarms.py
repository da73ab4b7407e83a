"""Moments at which something must be done, for all runs of a worker in one thread."""

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from dispatcher import Clock

LONGEST_S = 3_600.0  # of one wait; a lock cannot wait for years
KEPT = 100  # alarms that are off may stay so many, until there are more of them than others


@dataclass(eq=False, slots=True)
class Alarm:
    """Something to be done at a moment of the monotonic clock, unless it is turned off before."""

    at_s: float
    action: Callable[[], object]
    on: bool = field(default=True)


class Alarms:
    """One thread that does what is due; an action must be quick, as the others wait for it."""

    def __init__(self, clock: Clock, log: Any) -> None:
        self._clock = clock
        self._log = log
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._off = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is not due yet is not done any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def call_later(self, delay_s: float, action: Callable[[], object]) -> Alarm:
        """Call `action` once after so many seconds, in the thread of all alarms."""
        alarm = Alarm(self._clock.monotonic_s() + delay_s, action)
        with self._changed:
            self._push(alarm)
        return alarm

    def hasten(self, alarm: Alarm) -> None:
        """Let an alarm go off now; nothing when it has gone off or is off."""
        with self._changed:
            if alarm.on:
                self._turn_off(alarm)
                self._push(Alarm(self._clock.monotonic_s(), alarm.action))

    def cancel(self, alarm: Alarm) -> None:
        """Turn an alarm off; one whose action is being called already is not stopped."""
        with self._changed:
            if alarm.on:
                self._turn_off(alarm)

    def __len__(self) -> int:
        """Return how many alarms are kept, those included that are off."""
        return len(self._heap)

    def _push(self, alarm: Alarm) -> None:
        heapq.heappush(self._heap, (alarm.at_s, next(self._numbers), alarm))
        if self._heap[0][2] is alarm:
            self._changed.notify()

    def _turn_off(self, alarm: Alarm) -> None:
        # It is left where it is: to take it out of the middle would cost a look at all of them.
        alarm.on = False
        self._off += 1
        if self._off > KEPT and self._off > len(self._heap) / 2:
            self._heap = [row for row in self._heap if row[2].on]
            heapq.heapify(self._heap)
            self._off = 0

    def _run(self) -> None:
        while alarm := self._next():
            try:
                alarm.action()
            except Exception:  # noqa: BLE001  a fault in one must not cost the others
                self._log.exception("alarm-failed")

    def _next(self) -> Alarm | None:
        """Wait for the next alarm that is due; None at the end."""
        with self._changed:
            while not self._closed:
                wait_s = self._heap[0][0] - self._clock.monotonic_s() if self._heap else LONGEST_S
                if wait_s > 0:
                    self._changed.wait(min(wait_s, LONGEST_S))
                    continue
                _, _, alarm = heapq.heappop(self._heap)
                if alarm.on:
                    alarm.on = False
                    return alarm
                self._off -= 1
        return None
