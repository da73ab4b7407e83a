"""What happens in an RQ worker: one run that was handed over, from its start to its report.

The same parts as in a worker of ours do it, with one slot and without claims: the run renews
itself, hears of a cancel, keeps its time limit, is retried in process, and reports how it ended.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from uuid import uuid4

from consumers.alarms import Alarms
from consumers.app import App, Handler
from consumers.loading import load_function
from consumers.pulse import Pulse
from consumers.runners import Runner, Why
from consumers.runners.handler import HandlerRunner
from consumers.runners.process import ProcessRunner
from consumers.running import Running
from consumers.slots import Active, Slots
from dispatcher import (
    Claim,
    Clock,
    Finish,
    Inspector,
    InvalidRun,
    InvalidSettings,
    Outcome,
    Pool,
    RedisUnavailable,
    Renewed,
    Store,
    Word,
    logger,
    payload_handler_job,
)

BLOCK_S = 10.0
READ_TIMEOUT_S = BLOCK_S + 5.0  # of the connections that a job is given
RENEW_AGAIN_S = 0.2
STOP_GRACE_S = 5.0  # of the runners, for stops that bring none
GIVE_UP_S = 5.0  # after the grace, for work that does not stop
REPORT_S = 5.0


class Functions(App):
    """An app whose handlers are functions anywhere: package.module.function or module:function."""

    def find(self, name: str = "") -> Handler | None:
        """Import a function; raises InvalidRun when there is none."""
        try:
            return load_function(name)
        except InvalidSettings as error:
            raise InvalidRun("flow_run.job_variables.handler", str(error)) from None


def runner_of(claim: Claim, pool: Pool) -> Runner:
    """Return what runs a run: its job configuration names a function, or has a command."""
    try:
        job = payload_handler_job(claim.payload, base_job_template=pool.base_job_template)
    except InvalidRun:
        job = None  # the process runner says so in its outcome
    if job and job.handler:
        runner = HandlerRunner(Functions(), where="the RQ worker")
        runner.configure(pool)
        return runner
    children = ProcessRunner()
    children.configure(pool)
    return children


class Execution:
    """One run in an RQ worker of this name.

    `doors` opens connections, one of which is for renewals; it takes what ends their patience.
    """

    def __init__(
        self,
        doors: Callable[[threading.Event | None], tuple[Store, Inspector]],
        *,
        pool: str,
        run_id: str,
        token: str,
        holder: str,
        rq_worker: str,
    ) -> None:
        self._ended = threading.Event()
        self._store, self._inspector = doors(None)
        self._renewing, _ = doors(self._ended)
        self._pool, self._run_id, self._token, self._holder = pool, run_id, token, holder
        self._executor = f"{rq_worker}.{uuid4().hex[:12]}"
        self._clock = Clock()
        self._log = logger(pool=pool, worker=holder, rq_worker=rq_worker)
        self._alarms = Alarms(self._clock, self._log)
        self._slots = Slots(1, self._alarms)

    def run(self) -> Active | None:
        """Run it to its end and report that; None when the run has moved on, or has another job."""
        try:
            first = self._renew()
            claim = self._store.claim_of(self._pool, self._run_id, self._token)
            if first.word is Word.LOST or claim is None:
                self._log.warning("claim-lost", run=self._run_id, reason="before its start")
                return None
            return self._run(claim, first)
        finally:
            for store in (self._store, self._renewing):
                store.connection.close()

    def _renew(self) -> Renewed:
        return self._renewing.renew_run(
            *(self._pool, self._run_id, self._token),
            holder=self._holder,
            executor=self._executor,
        )

    def _run(self, claim: Claim, first: Renewed) -> Active:
        runner = runner_of(claim, self._inspector.pool(self._pool))
        active = self._slots.add(claim)
        assert active
        self._slots.begin_wait()  # so that the report of its end wakes those who wait for room
        pulse = Pulse(
            runner.alive,
            may_beat=lambda: True,
            on_gap=lambda: self._stood_still(runner),
            clock=self._clock,
        )
        running = self._running(runner, pulse)
        renewer = threading.Thread(
            target=self._renew_on, args=(first, active, running, pulse), name="renewer", daemon=True
        )
        running.start()
        pulse.start()
        pulse.begin(first.lease_ms / 1000)
        renewer.start()
        try:
            with stopped_by_sigterm(self._slots):
                running.begin_all(self._store, [active])
                self._wait(active)
        finally:
            self._ended.set()
            self._renewing.connection.reset()  # the renewer must not sit out its block
            running.close(REPORT_S)
            pulse.close()
            runner.close()
        return active

    def _running(self, runner: Runner, pulse: Pulse) -> Running:
        return Running(
            runner,
            self._store,
            pool=self._pool,
            slots=self._slots,
            alarms=self._alarms,
            clock=self._clock,
            check=pulse.check,
            wake=self._wake,
            log=self._log,
        )

    def _wake(self) -> None:
        """Let those who watch over RQ see that there is room."""
        try:
            self._store.nudge(self._pool, self._holder)
        except RedisUnavailable as error:
            self._log.debug("nudge-failed", reason=str(error))

    def _stood_still(self, runner: Runner) -> None:
        if runner.guarded:  # by now the guardian has ended what ran
            self._slots.stop_all(Why.FROZEN)

    def _renew_on(self, first: Renewed, active: Active, running: Running, pulse: Pulse) -> None:
        """Renew until the end, and obey what is answered."""
        while not self._ended.is_set():
            try:
                self._listen(first.renew_ms / 1000)
                pulse.beat()
                answer = self._renew()
            except RedisUnavailable as error:
                if not self._ended.wait(RENEW_AGAIN_S):
                    self._log.warning("renewal-delayed", reason=str(error))
                continue
            if answer.word is Word.LOST and not active.reporting:
                active.stop.request(Why.LOST)
            elif answer.word is Word.CANCELLING:
                running.cancel([active], [self._run_id])

    def _listen(self, period_s: float) -> None:
        """Wait until the next renewal is due, or somebody says "renew now"."""
        until_s = self._clock.monotonic_s() + period_s
        while not self._ended.is_set() and (left_s := until_s - self._clock.monotonic_s()) > 0:
            block_s = min(left_s, BLOCK_S)
            came = self._renewing.wait_run(
                self._pool, self._run_id, holder=self._holder, timeout_s=block_s
            )
            if came:
                return

    def _wait(self, active: Active) -> None:
        """Wait for the end of the run, but not for ever for work that was asked to stop."""
        asked_s: float | None = None
        while not self._slots.wait_empty(0.2):
            if active.stop.reason is None or active.reporting:
                asked_s = None
                continue
            now_s = self._clock.monotonic_s()
            asked_s = now_s if asked_s is None else asked_s
            grace_s = STOP_GRACE_S if active.stop.grace_s is None else active.stop.grace_s
            if now_s > asked_s + grace_s + GIVE_UP_S:
                self._give_up(active)

    def _give_up(self, active: Active) -> None:
        """End this process with work in it that does not stop, and say first how that ended."""
        self._log.error("work-goes-on", run=self._run_id, reason=str(active.stop.reason))
        ends = {
            Why.CANCELLED: Outcome("CANCELLED", "Cancelled"),
            Why.TIMED_OUT: Outcome("FAILED", "TimedOut", "timed out, and did not stop"),
        }
        outcome = ends.get(active.stop.reason or Why.LOST)
        try:
            if outcome:
                report = Finish(self._run_id, self._token, outcome, run_count=active.run_count)
                self._store.report(self._pool, report)
        finally:
            os._exit(1)


@contextmanager
def stopped_by_sigterm(slots: Slots) -> Iterator[None]:
    """Let SIGTERM give the run back: a supervisor may send it to all processes of an RQ worker."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_back(_: int, __: FrameType | None) -> None:
        threading.Thread(target=slots.stop_all, args=(Why.RELEASED,), name="sigterm").start()

    before: Any = signal.signal(signal.SIGTERM, give_back)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
