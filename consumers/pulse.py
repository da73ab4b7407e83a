"""The pulse of a worker: promises the guardian to go on, and notices that it did not."""

import threading
from collections.abc import Callable

from dispatcher import Clock

IDLE_S = 0.5


class Pulse:
    """Promises to be back within the lease: with each renewal, and in between when that hangs.

    A promise that goes with a renewal ends no later than the lease. The thread makes one only when
    the last is half a lease old: then Redis does not answer, which is no reason to end what runs.
    Only a process that stands still breaks a promise, or one that `may_beat` calls stuck; `on_gap`
    hears of it, and by then the guardian has ended the children.
    """

    def __init__(
        self,
        promise: Callable[[float], None],
        *,
        may_beat: Callable[[], bool],
        on_gap: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._promise = promise
        self._may_beat = may_beat
        self._on_gap = on_gap
        self._clock = clock
        self._lock = threading.Lock()
        self._lease_s = 0.0
        self._beat_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Start the thread; it beats from `begin` on."""
        self._thread.start()

    def begin(self, lease_s: float) -> None:
        """Promise a lease of this length; what was promised before is forgotten."""
        with self._lock:
            self._lease_s, self._beat_s = lease_s, self._clock.monotonic_s()
            self._promise(lease_s)

    def beat(self) -> None:
        """Promise anew."""
        self._look(0.0)

    def check(self) -> None:
        """Tell `on_gap` when the last promise was not kept."""
        self._look(1.0)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _look(self, age_in_leases: float) -> None:
        with self._lock:
            age_s = self._clock.monotonic_s() - self._beat_s
            if not self._lease_s or age_s < age_in_leases * self._lease_s or not self._may_beat():
                return
            self._beat_s += age_s
            self._promise(self._lease_s)
            broken = age_s >= self._lease_s
        if broken:
            self._on_gap()

    def _run(self) -> None:
        while not self._stop.wait(self._lease_s / 8 or IDLE_S):
            self._look(0.5)
