"""Reporting: ends and releases go to Redis in batches, are repeated until answered, in order."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from consumers.slots import Active, Slots
from dispatcher import (
    DispatcherError,
    Finish,
    Outcome,
    RedisUnavailable,
    Release,
    Report,
    Store,
    Word,
)

BATCH = 100
RETRY_S = 0.2


class Reporter:
    """A thread that tells Redis how runs ended, and gives their slots back when it has answered."""

    def __init__(
        self, store: Store, pool: str, slots: Slots, wake: Callable[[], None], log: Any
    ) -> None:
        self._store = store
        self._pool = pool
        self._slots = slots
        self._wake = wake
        self._waiting: queue.SimpleQueue[tuple[Active, Outcome | str] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._log = log

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self, active: Active, outcome: Outcome) -> None:
        """Report that a run has ended."""
        active.reporting = True
        self._waiting.put((active, outcome))

    def release(self, active: Active, reason: str) -> None:
        """Give a run back unfinished."""
        active.reporting = True
        self._waiting.put((active, reason))

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

    def _send(self, batch: list[tuple[Active, Outcome | str]]) -> None:
        # The last report of the batch wakes a claim loop that waits for a slot.
        nudge, last = self._slots.someone_waits(), len(batch) - 1
        todo = [(*item, _report(*item, nudge=nudge and i == last)) for i, item in enumerate(batch)]
        repeated = False
        while todo and not self._stop.is_set():
            try:
                answers = self._store.report_many(self._pool, [report for _, _, report in todo])
            except RedisUnavailable as error:
                self._log.debug("report-delayed", runs=len(todo), reason=str(error))
                repeated = True
                self._stop.wait(RETRY_S)
                continue
            failed = []
            for item, answer in zip(todo, answers, strict=True):
                if isinstance(answer, DispatcherError):
                    failed.append(item)
                    run_id = item[0].claim.run_id
                    self._log.error("report-refused", run=run_id, reason=str(answer))
                else:
                    self._slots.remove(item[0].claim)
                    self._tell(item[0], item[1], answer)
            todo = failed
            repeated = repeated or bool(failed)
            if failed:
                self._stop.wait(RETRY_S)
        if (not nudge or repeated) and self._slots.someone_waits():
            # It began to wait when the reports were already on their way, or again after a nudge
            # whose answer was lost: the repeated report did not nudge once more.
            self._wake()

    def _tell(self, active: Active, what: Outcome | str, answer: Word) -> None:
        claim = active.claim
        log = self._log.bind(queue=claim.queue, run=claim.run_id, delivery=claim.delivery)
        if answer is Word.LOST:
            log.warning("claim-lost", reason="it was recovered; its end was refused")
        elif isinstance(what, Outcome):
            say = log.info if what.state_type == "COMPLETED" else log.warning
            why = {"why": what.message} if what.message else {}
            say("finished", state=what.state_name, took_ms=active.took_ms, **why)
        else:
            log.info("released", reason=what)


def _report(active: Active, what: Outcome | str, *, nudge: bool) -> Report:
    claim = active.claim
    if isinstance(what, Outcome):
        return Finish(claim.run_id, claim.token, what, nudge)
    return Release(claim.run_id, claim.token, what, nudge)
