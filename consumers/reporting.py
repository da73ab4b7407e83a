"""Reporting: what becomes of runs goes to Redis in batches, in order, repeated until answered."""

import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from consumers.runners import Again, Why
from consumers.slots import Active, Slots
from dispatcher import (
    DispatcherError,
    Finish,
    Outcome,
    RedisUnavailable,
    Release,
    Report,
    Start,
    Store,
    Word,
)

BATCH = 100
RETRY_S = 0.2
GOES_ON = (Word.STARTED, Word.CANCELLING, Word.RETRYING)
NUDGES = (Word.FINISHED, Word.RESCHEDULED, Word.RELEASED)


class Item(NamedTuple):
    """One thing to report: how a run ended, why it is given back, or None: that it starts."""

    active: Active
    what: Outcome | Again | Why | None


class Reporter:
    """A thread that reports what becomes of runs, and gives their slots back when it is answered.

    `go_on` hears of a run that is not over with the answer: started, cancelling, retrying.
    """

    def __init__(
        self,
        store: Store,
        pool: str,
        slots: Slots,
        *,
        wake: Callable[[], None],
        go_on: Callable[[Active, Word], None],
        log: Any,
    ) -> None:
        self._store = store
        self._pool = pool
        self._slots = slots
        self._wake = wake
        self._go_on = go_on
        self._waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._log = log

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def start_again(self, active: Active) -> None:
        """Report that a run starts once more."""
        self._waiting.put(Item(active, None))

    def finish(self, active: Active, outcome: Outcome | Again) -> None:
        """Report that a run has ended, or give it back to be run again later."""
        active.reporting = True
        self._waiting.put(Item(active, outcome))

    def release(self, active: Active, reason: Why) -> None:
        """Give a run back unfinished."""
        active.reporting = True
        self._waiting.put(Item(active, reason))

    def close(self, timeout_s: float) -> None:
        """End after what is waiting; what Redis does not take in time is left to recovery."""
        self._waiting.put(None)
        self._thread.join(timeout_s)
        self._stop.set()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ending = [first], False
            while len(batch) < BATCH and not self._waiting.empty():
                item = self._waiting.get()
                if item is None:
                    ending = True
                    break
                batch.append(item)
            self._send(batch)
            if ending:
                return

    def _send(self, batch: list[Item]) -> None:
        # The last report of the batch wakes a claim loop that waits for a slot.
        nudge, last = self._slots.someone_waits(), batch[-1]
        todo = [(item, report_of(*item, nudge=nudge and item is last)) for item in batch]
        repeated, nudged = False, False
        while todo and not self._stop.is_set():
            try:
                answers = self._store.report_many(self._pool, [report for _, report in todo])
            except RedisUnavailable as error:
                self._log.debug("report-delayed", runs=len(todo), reason=str(error))
                repeated = True
                self._stop.wait(RETRY_S)
                continue
            failed = []
            for (item, report), answer in zip(todo, answers, strict=True):
                if isinstance(answer, DispatcherError):
                    failed.append((item, report))
                    run_id = item.active.claim.run_id
                    self._log.error("report-refused", run=run_id, reason=str(answer))
                else:
                    self._settle(item, answer)
                    nudged = nudged or (nudge and item is last and answer in NUDGES)
            todo = failed
            repeated = repeated or bool(failed)
            if failed:
                self._stop.wait(RETRY_S)
        if (not nudged or repeated) and self._slots.someone_waits():
            # It began to wait when the reports were already on their way, or the last one gave no
            # slot back, or the answer to a nudge was lost: the repeated report does not nudge.
            self._wake()

    def _settle(self, item: Item, answer: Word) -> None:
        self._tell(item, answer)
        if answer in GOES_ON:
            self._go_on(item.active, answer)
        else:
            self._slots.remove(item.active.claim)

    def _tell(self, item: Item, answer: Word) -> None:
        active, what = item
        claim = active.claim
        log = self._log.bind(queue=claim.queue, run=claim.run_id, delivery=claim.delivery)
        match what, answer:
            case Outcome(), _:
                _tell_end(log, active, what, answer)
            case _, Word.LOST:
                log.warning("claim-lost", reason="it was recovered" if what else "before its start")
            case Why(), Word.FINISHED:
                log.info("finished", state="Cancelled", why=what)
            case Why(), _:
                log.info("released", reason=what)
            case Again(), Word.FINISHED:
                log.info("finished", state="Cancelled", took_ms=active.took_ms)
            case Again(), _:
                fields = {"after_s": what.delay_s, "took_ms": active.took_ms}
                log.info(answer.value, **fields, why=what.message)


def report_of(active: Active, what: Outcome | Again | Why | None, *, nudge: bool = False) -> Report:
    """Return the report of how a run ended, why it is given back, or (None) that it starts."""
    claim = active.claim
    if isinstance(what, Outcome):
        return Finish(claim.run_id, claim.token, what, nudge, active.run_count)
    if isinstance(what, Again):
        delay_ms = round(what.delay_s * 1000)
        return Release(claim.run_id, claim.token, what.message, nudge, delay_ms=delay_ms)
    if what is not None:
        return Release(claim.run_id, claim.token, what, nudge)
    return Start(claim.run_id, claim.token, (active.run_count or 0) + 1)


def _tell_end(log: Any, active: Active, outcome: Outcome, answer: Word) -> None:
    if answer in (Word.LOST, Word.RELEASED):
        how = "recovered" if answer is Word.LOST else "released"
        log.warning("claim-lost", reason=f"it was {how}; its end was refused")
        return
    state = outcome.state_name
    if answer is Word.FINISHED and active.stop.asked(Why.CANCELLED):
        state = "Cancelled"  # a run that is being cancelled ends so, whatever it came to
    fields: dict[str, Any] = {"state": state, "took_ms": active.took_ms}
    if outcome.message:
        fields["why"] = outcome.message
    if answer is Word.RETRYING:
        fields["after_s"] = active.claim.retry_delay_ms / 1000
    good = outcome.state_type in ("COMPLETED", "CANCELLED")
    (log.info if good else log.warning)(answer.value, **fields)
