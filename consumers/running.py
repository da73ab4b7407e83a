"""Running: what a claimed run goes through in its worker, from its start to the report of its end.

A run is started in Redis, then a thread of its own runs it. How it ended, or why it was stopped,
goes to the reporter. When Redis answers that it is to be tried again under the same claim, it keeps
its slot, and its next start follows after the delay.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from consumers.alarms import Alarms
from consumers.reporting import Reporter, report_of
from consumers.runners import RUN_THREADS, Runner, Why
from consumers.slots import Active, Slots
from dispatcher import Clock, DispatcherError, Outcome, Store, Word


class Running:
    """Runs the active runs of a worker; `check` is asked after each, `wake` wakes its claim loop.

    Neither time limits nor delays of retries have threads: `alarms` has them all. `inboxes` are
    holders for which the claim loop listens as well, and `hear` is called when there is something.
    """

    inboxes: tuple[str, ...] = ()

    def __init__(
        self,
        runner: Runner,
        store: Store,
        *,
        pool: str,
        slots: Slots,
        alarms: Alarms,
        clock: Clock,
        check: Callable[[], None],
        wake: Callable[[], None],
        log: Any,
    ) -> None:
        self._runner, self._pool = runner, pool
        self._slots, self._alarms, self._clock = slots, alarms, clock
        self._check, self._wake = check, wake
        self._log = log
        self._executor = ThreadPoolExecutor(slots.limit, thread_name_prefix=RUN_THREADS)
        self._reporter = Reporter(store, pool, slots, wake=wake, go_on=self._go_on, log=log)

    def start(self) -> None:
        """Start the threads that all runs share."""
        self._alarms.start()
        self._reporter.start()

    def close(self, timeout_s: float) -> None:
        """Report what has ended; no run begins any more."""
        self._reporter.close(timeout_s)
        self._alarms.close()
        self._executor.shutdown(wait=False)

    def hear(self) -> None:
        """Look at what may have changed; only for runs that are elsewhere."""

    def begin_all(self, store: Store, taken: list[Active]) -> None:
        """Start what was claimed; what has an answer leaves the list, so this can be repeated."""
        answers = store.report_many(self._pool, [report_of(active, None) for active in taken])
        for active, answer in list(zip(taken, answers, strict=True)):
            if isinstance(answer, Word):
                taken.remove(active)
                self._begun(active, answer)
        for answer in answers:
            if isinstance(answer, DispatcherError):
                raise answer

    def cancel(self, actives: Sequence[Active], orders: Sequence[str]) -> None:
        """Stop those of the runs that are to be cancelled, with the grace that their queue gives.

        What has not started yet hears of it by the answer to its start.
        """
        ordered = set(orders)
        for active in actives:
            claim = active.claim
            grace_s = claim.cancel_grace_ms / 1000
            if claim.run_id in ordered and active.stop.request(Why.CANCELLED, grace_s=grace_s):
                self._log.info("cancelling", queue=claim.queue, run=claim.run_id, grace_s=grace_s)

    def _begun(self, active: Active, answer: Word) -> None:
        if answer is Word.LOST:
            self._drop(active, "before its start")
        else:
            self._go_on(active, answer)

    def _go_on(self, active: Active, answer: Word) -> None:
        """Do what follows from an answer after which the claim goes on."""
        claim = active.claim
        if answer is Word.RETRYING:
            self._pause(active)
        elif answer is Word.CANCELLING:
            active.run_count = None  # an earlier try may have started it, and its reply be lost
            self._reporter.finish(active, _cancelled(active))
        else:
            active.run_count = (active.run_count or 0) + 1
            late = {}
            if active.run_count == claim.run_count + 1:
                late["late_ms"] = self._clock.now_ms() - claim.due_ms
            where = {"queue": claim.queue, "run": claim.run_id}
            self._log.info("started", **where, run_count=active.run_count, **late)
            self._submit(self._run, active)

    def _run(self, active: Active) -> None:
        claim, stop = active.claim, active.stop
        began_s = self._clock.monotonic_s()
        outcome = active.outcome
        try:
            if stop.reason is None:
                stop.limit(None if claim.timeout_ms is None else claim.timeout_ms / 1000)
                counted = replace(claim, run_count=active.run_count or 0)
                outcome = self._runner.run(counted, stop)
        except Exception as error:  # noqa: BLE001  a runner's fault must not take the worker down
            self._log.exception("runner-failed", run=claim.run_id)
            outcome = Outcome("CRASHED", "Crashed", f"the runner failed: {error!r}")
        stop.over()
        active.took_ms = round((self._clock.monotonic_s() - began_s) * 1000)
        active.outcome = outcome
        self._check()  # a child may have ended because we stood still
        self._end(active)

    def _end(self, active: Active) -> None:
        """Report how a run ended; or, when it was stopped, what is to become of it."""
        stop, outcome = active.stop, active.outcome
        match stop.reason:
            case None:
                self._reporter.finish(active, outcome)
            case Why.LOST:
                self._drop(active, "its work was stopped")
            case Why.CANCELLED:
                self._reporter.finish(active, _cancelled(active))
            case Why.TIMED_OUT:
                message = f"timed out after {_shown(stop.limit_s or 0)} s"
                late = Outcome("FAILED", "TimedOut", message, outcome.output)
                self._reporter.finish(active, late)
            case reason:
                self._reporter.release(active, reason)

    def _drop(self, active: Active, reason: str) -> None:
        self._log.warning("claim-lost", run=active.claim.run_id, reason=reason)
        self._slots.remove(active.claim)
        if self._slots.someone_waits():
            self._wake()  # no report of this run does it

    def _pause(self, active: Active) -> None:
        """Let a run wait for its next start; whoever asks it to stop ends the wait at once."""
        self._slots.keep(active)
        active.stop.again()
        delay_s = active.claim.retry_delay_ms / 1000
        alarm = self._alarms.call_later(delay_s, partial(self._start_again, active))
        active.stop.on_request(partial(self._alarms.hasten, alarm))

    def _start_again(self, active: Active) -> None:
        if active.stop.reason is None:
            self._reporter.start_again(active)
        else:
            self._submit(self._end, active)

    def _submit(self, step: Callable[[Active], None], active: Active) -> None:
        with suppress(RuntimeError):  # the worker has closed: recovery takes the run
            self._executor.submit(step, active)


def _cancelled(active: Active) -> Outcome:
    return Outcome("CANCELLED", "Cancelled", output=active.outcome.output)


def _shown(seconds: float) -> str:
    """Return a number of seconds without what says nothing: 90, 0.25."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
