"""The runs a worker has right now, one per slot, shared between its threads."""

import threading
from dataclasses import dataclass, field

from consumers.runners import Stop
from dispatcher import Claim


@dataclass(slots=True)
class Active:
    """One claimed run of this worker, from the claim until its end is reported."""

    claim: Claim
    stop: Stop = field(default_factory=Stop)
    reporting: bool = False
    took_ms: int = 0


class Slots:
    """At most `limit` active runs.

    A run is told from an earlier claim of the same run by its token, and tokens are told apart by
    run: entries of two streams may have the same id.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._active: dict[tuple[str, str], Active] = {}
        self._changed = threading.Condition()
        self._waiting_for_one = False

    def free(self) -> int:
        """Return how many more runs this worker can take."""
        with self._changed:
            return self.limit - len(self._active)

    def held(self) -> int:
        """Return how many runs this worker has."""
        with self._changed:
            return len(self._active)

    def add(self, claim: Claim) -> Active | None:
        """Take in a claimed run; None when it is here already (a repeated answer)."""
        with self._changed:
            key = (claim.run_id, claim.token)
            if key in self._active:
                return None
            active = self._active[key] = Active(claim)
            return active

    def remove(self, claim: Claim) -> None:
        """Give a slot back."""
        with self._changed:
            self._active.pop((claim.run_id, claim.token), None)
            self._changed.notify_all()

    def all(self) -> list[Active]:
        """Return the active runs."""
        with self._changed:
            return list(self._active.values())

    def stop_all(self, reason: str) -> None:
        """Ask every active run to stop."""
        for active in self.all():
            active.stop.request(reason)

    def wait_empty(self, timeout_s: float | None = None) -> bool:
        """Wait until no run is active; False when the time is over first, None has no end."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._active, timeout_s)

    def wait_freed(self, timeout_s: float) -> None:
        """Wait for a slot that is just being given back, if there is one."""
        with self._changed:
            if any(active.reporting for active in self._active.values()):
                self._changed.wait_for(lambda: len(self._active) < self.limit, timeout_s)

    def begin_wait(self) -> bool:
        """Note that the claim loop is about to block without a free slot; False if it has one."""
        with self._changed:
            self._waiting_for_one = len(self._active) >= self.limit
            return self._waiting_for_one

    def end_wait(self) -> None:
        """Note that the claim loop no longer blocks."""
        with self._changed:
            self._waiting_for_one = False

    def someone_waits(self) -> bool:
        """Return whether the claim loop blocks for want of a free slot."""
        with self._changed:
            return self._waiting_for_one
