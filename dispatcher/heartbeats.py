"""When the loops of a dispatcher last turned, and whether one of them is stuck."""

import threading
from dataclasses import dataclass

from dispatcher.clock import Clock

SLACK_S = 10.0  # over what a loop said: a slow answer, a busy machine


@dataclass(frozen=True, slots=True)
class Turn:
    """The last turn of a loop: when it was, and how long after it the next one must have been."""

    at_ms: int
    at_s: float
    within_s: float


class Heartbeats:
    """Notes each successful turn of some loops; threads may share it."""

    def __init__(self, *loops: str, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._turns: dict[str, Turn | None] = dict.fromkeys(loops)

    def beat(self, loop: str, *, next_in_s: float) -> None:
        """Note that a loop has turned, and that it will again in `next_in_s` seconds."""
        turn = Turn(self._clock.now_ms(), self._clock.monotonic_s(), next_in_s + SLACK_S)
        with self._lock:
            self._turns[loop] = turn

    def turns(self) -> dict[str, Turn | None]:
        """Return the last turn of each loop, None for one that has not turned yet."""
        with self._lock:
            return dict(self._turns)

    def stuck(self) -> dict[str, str]:
        """Return the loops that are over their deadline, each with a sentence."""
        now_s = self._clock.monotonic_s()
        found = {}
        for loop, turn in self.turns().items():
            if turn is None:
                found[loop] = "has not turned yet"
            elif (ago_s := now_s - turn.at_s) > turn.within_s:
                found[loop] = f"turned {ago_s:.1f} s ago, expected within {turn.within_s:.1f} s"
        return found
