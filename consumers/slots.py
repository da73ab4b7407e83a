"""The runs a worker has right now, one per slot, shared between its threads."""

import threading
from dataclasses import dataclass

from consumers.alarms import Alarms
from consumers.runners import Again, Stop, Why
from dispatcher import Claim, Outcome

NOT_BEGUN = Outcome("CRASHED", "Crashed", "stopped before it began")  # never reported


@dataclass(slots=True, eq=False)
class Active:
    """One claimed run of this worker, from the claim until the end of it is reported.

    `run_count` is what Redis has: the claim's, then that of each start; None when the answer to a
    start leaves it open. `outcome` is how the last start ended.
    """

    claim: Claim
    stop: Stop
    run_count: int | None
    reporting: bool = False
    took_ms: int = 0
    outcome: Outcome | Again = NOT_BEGUN


class Slots:
    """At most `limit` active runs, those that are `elsewhere` counted too: handed over, not ended.

    A run is told from an earlier claim of the same run by its token, and tokens are told apart by
    run: entries of two streams may have the same id.
    """

    def __init__(self, limit: int, alarms: Alarms | None = None) -> None:
        self.limit = limit
        self._alarms = alarms
        self._active: dict[tuple[str, str], Active] = {}
        self._changed = threading.Condition()
        self._waiting_for_one = False
        self._elsewhere = 0
        self._stays = False

    def free(self) -> int:
        """Return how many more runs this worker can take."""
        with self._changed:
            return max(0, self.limit - len(self._active) - self._elsewhere)

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
            active = self._active[key] = Active(claim, Stop(self._alarms), claim.run_count)
            return active

    def remove(self, claim: Claim) -> None:
        """Give a slot back."""
        with self._changed:
            self._active.pop((claim.run_id, claim.token), None)
            self._changed.notify_all()

    def hand_over(self, claim: Claim) -> None:
        """Note that a run is elsewhere from now on."""
        with self._changed:
            self._elsewhere += self._active.pop((claim.run_id, claim.token), None) is not None

    def count_elsewhere(self, runs: int) -> None:
        """Note how many runs are elsewhere."""
        with self._changed:
            self._elsewhere = runs
            self._changed.notify_all()

    def keep(self, active: Active) -> None:
        """Note that a run keeps its slot although its end was reported: it is tried again."""
        with self._changed:
            active.reporting = False
            self._changed.notify_all()

    def all(self) -> list[Active]:
        """Return the active runs."""
        with self._changed:
            return list(self._active.values())

    def stop_all(self, reason: Why) -> None:
        """Ask every active run to stop."""
        for active in self.all():
            active.stop.request(reason)

    def wait_empty(self, timeout_s: float | None = None) -> bool:
        """Wait until no run is active; False when the time is over first, None has no end."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._active, timeout_s)

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until no run is left, here or elsewhere; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._active and not self._left(), timeout_s)

    def leave_elsewhere(self) -> None:
        """Wait no more for runs that are elsewhere: they go on without this worker."""
        with self._changed:
            self._stays = True
            self._changed.notify_all()

    def wait_freed(self, timeout_s: float) -> None:
        """Wait for a slot that is just being given back, if there is one."""
        with self._changed:
            self._changed.wait_for(self._none_comes, timeout_s)

    def begin_wait(self) -> bool:
        """Note that the claim loop is about to block without a free slot; False if it has one."""
        with self._changed:
            self._waiting_for_one = self._is_full()
            return self._waiting_for_one

    def end_wait(self) -> None:
        """Note that the claim loop no longer blocks."""
        with self._changed:
            self._waiting_for_one = False

    def someone_waits(self) -> bool:
        """Return whether the claim loop blocks for want of a free slot."""
        with self._changed:
            return self._waiting_for_one

    def _left(self) -> int:
        return 0 if self._stays else self._elsewhere

    def _is_full(self) -> bool:
        return len(self._active) + self._elsewhere >= self.limit

    def _none_comes(self) -> bool:
        return not self._is_full() or not any(active.reporting for active in self._active.values())
