"""The RQ consumer: claims like any worker, and hands what it claims over to RQ.

The claim moves to the holder of the RQ queue in the transaction that enqueues the job, so a run is
either here or there. Its slot stays taken until it has ended, wherever it is.
"""

from typing import Any

from consumers.runners import Stop, Why
from consumers.runners.rq_queue import RqQueue
from consumers.runners.rq_watch import Watch
from consumers.running import Running
from consumers.slots import Active
from dispatcher import (
    Claim,
    Inspector,
    InvalidSettings,
    Outcome,
    RedisUnavailable,
    Store,
    Word,
)

CHECKED_S = 5.0  # between thorough looks at what RQ's workers understand


class Nothing:
    """The runner of an RQ consumer: nothing runs in it."""

    guarded = False

    def run(self, claim: Claim, stop: Stop) -> Outcome:
        """Never called: what is claimed is handed over, or settled at once."""
        raise RuntimeError(f"run {claim.run_id} was to be handed over to RQ")

    def alive(self, timeout_s: float) -> None:
        """Nobody waits for that."""

    def close(self) -> None:
        """There is nothing to free."""


class Hands(Running):
    """Hands claimed runs over to an RQ queue; `doors` are connections of its own for that.

    Raises InvalidSettings on a cluster.
    """

    def __init__(
        self, *args: Any, doors: tuple[Store, Inspector], rq_queue: str, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._store, inspector = doors
        self._rq = RqQueue(self._store.connection, rq_queue)
        self._watch = Watch(
            *(self._store, inspector, self._rq),
            pool=self._pool,
            slots=self._slots,
            on_room=self._wake,
            clock=self._clock,
            log=self._log,
        )
        self.inboxes = (self._watch.holder,)
        self._checked_s: float | None = None

    def check(self) -> None:
        """Raise InvalidSettings when RQ's workers would not understand what they get."""
        now_s = self._clock.monotonic_s()
        thorough = self._checked_s is None or now_s - self._checked_s >= CHECKED_S
        if sentence := self._rq.refusal(thorough=thorough):
            raise InvalidSettings(sentence)
        if thorough:
            self._checked_s = now_s

    def start(self) -> None:
        """Start to watch over what is in RQ."""
        super().start()
        self._watch.start()

    def close(self, timeout_s: float) -> None:
        """Watch no more; what waits in RQ is taken back when nobody does for a lease."""
        super().close(timeout_s)
        self._watch.close()
        self._store.connection.close()

    def hear(self) -> None:
        """Look after what is in RQ: something has ended there, or is to be cancelled."""
        self._watch.look()

    def begin_all(self, store: Store, taken: list[Active]) -> None:
        """Hand over what was claimed; what is settled leaves the list, so this can be repeated."""
        try:
            self._rq.prepare()
            self.check()
        except InvalidSettings:
            for active in taken:
                self._reporter.release(active, Why.RELEASED)
            raise
        for active in list(taken):
            word = self._hand_over(active.claim)
            taken.remove(active)
            self._handed(active, word)

    def _hand_over(self, claim: Claim) -> Word:
        prefix, holder = self._store.prefix, self._watch.holder

        def enqueue(pipeline: Any) -> None:
            self._rq.enqueue(pipeline, claim, prefix=prefix)

        word = self._store.hand_over(claim.pool, claim, holder, enqueue=enqueue)
        if word is not Word.UNKNOWN:
            return word
        if self._watch.register():
            word = self._store.hand_over(claim.pool, claim, holder, enqueue=enqueue)
        if word is Word.UNKNOWN:
            raise RedisUnavailable(f"what {holder} had is being taken back")
        return word

    def _handed(self, active: Active, word: Word) -> None:
        claim = active.claim
        if word is Word.HANDED_OVER:
            self._slots.hand_over(claim)
            self._watch.note(1)
            where = {"queue": claim.queue, "run": claim.run_id, "rq_queue": self._rq.name}
            self._log.info("handed-over", **where, late_ms=self._clock.now_ms() - claim.due_ms)
        else:
            self._begun(active, word)


def refuse_at_start(doors: tuple[Store, Inspector], rq_queue: str) -> None:
    """Raise InvalidSettings when runs cannot be handed over to this RQ queue, as it is now."""
    if sentence := RqQueue(doors[0].connection, rq_queue).refusal():
        raise InvalidSettings(sentence)
