"""The lease of a worker's present incarnation: renewed in time, and what the answers ask for."""

import threading
from collections.abc import Callable
from typing import Any

from consumers.runners import Why
from consumers.running import Running
from consumers.slots import Slots
from dispatcher import Clock, HolderLost, RedisUnavailable, Registered, Store, Word

PERIOD_S = 0.5  # while there is nothing to renew
RENEW_AGAIN_S = 0.2  # less than recovery waits for its second look
STUCK_S = 30.0


class Lease:
    """What the claim loop and the renewer share; `renew` is for both, one at a time.

    The renewer is a thread with a connection of its own, so that no work can starve it. It does not
    renew while the claim loop makes no progress (`touch`): such a worker must not keep its runs.
    """

    def __init__(
        self,
        store: Store,
        pool: str,
        *,
        slots: Slots,
        running: Running,
        beat: Callable[[], None],
        wake: Callable[[], None],
        on_loss: Callable[[HolderLost], None],
        clock: Clock,
        log: Any,
    ) -> None:
        self._store, self._pool = store, pool
        self._slots, self._running = slots, running
        self._beat, self._wake, self._on_loss = beat, wake, on_loss
        self._clock, self._log = clock, log
        self.me: Registered | None = None
        self.number = 0  # of the last claim
        self.queues_version = 0
        self.lost, self.draining, self.compare = (threading.Event() for _ in range(3))
        self._ending = threading.Event()
        self._renewing = threading.Lock()
        self._progress_s = clock.monotonic_s()
        self._thread = threading.Thread(target=self._run, name="renewer", daemon=True)

    def start(self) -> None:
        """Start the renewer; it renews what `me` is from then on."""
        self._thread.start()

    def close(self) -> None:
        """Renew no more."""
        self._ending.set()

    def forget(self) -> None:
        """Begin anew: the next incarnation is lost neither, nor has it claimed anything."""
        with self._renewing:  # a renewal of the last incarnation may still be under way
            self.me = None
            self.number = 0
            self.lost.clear()

    def touch(self) -> None:
        """Note that the claim loop makes progress."""
        self._progress_s = self._clock.monotonic_s()

    def stuck_s(self) -> float:
        """Return for how long the claim loop makes no progress; 0 while that is no reason."""
        stuck_s = self._clock.monotonic_s() - self._progress_s
        lease_s = self.me.lease_ms / 1000 if self.me else 0.0
        return stuck_s if stuck_s > STUCK_S + lease_s and not self.draining.is_set() else 0.0

    def renew(self) -> None:
        """Renew now and obey the answer; raises RedisUnavailable, and is then to be repeated."""
        with self._renewing:
            me = self.me
            if me is None or self.lost.is_set() or self._ending.is_set():
                return
            active = self._slots.all()  # before asking: no order is for what comes later
            # A run whose claim was taken away is not ours any more, however long its work goes on.
            held = sum(not each.stop.asked(Why.LOST) for each in active)
            answer = self._store.renew(self._pool, me.holder, held=held, number=self.number)
            if answer.word in (Word.LOST, Word.DISPLACED):
                error = HolderLost(me.holder, displaced=answer.word is Word.DISPLACED)
                self._log.error("lease-lost", reason=str(error), running=len(active))
                self._on_loss(error)
                return
            self.queues_version = answer.queues_version
            if answer.draining and not self.draining.is_set():
                self._log.info("draining", reason="an operator says so", running=len(active))
                self.draining.set()
            self._running.cancel(active, answer.orders)
            if answer.word is Word.COMPARE:
                self.compare.set()

    def _run(self) -> None:
        while not self._ending.is_set():
            me = self.me
            period_s = me.renew_ms / 1000 if me else PERIOD_S
            if self._ending.wait(period_s) or not me:
                continue
            if stuck_s := self.stuck_s():
                self._log.error("claim-loop-stuck", seconds=round(stuck_s))
                continue
            self._beat()
            try:
                self.renew()
            except RedisUnavailable as error:
                self._log.warning("renewal-delayed", reason=str(error))
                self._renew_soon(me)
            if self.compare.is_set():
                self._wake()  # the claim loop compares: while it does, no claim is under way

    def _renew_soon(self, me: Registered) -> None:
        """Try more often than once a period: the lease may be short after an outage."""
        while not self._ending.wait(RENEW_AGAIN_S) and self.me is me:
            try:
                self.renew()
                return
            except RedisUnavailable:
                continue
