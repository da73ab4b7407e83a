"""The worker: claims runs for its free slots, keeps its lease, starts, reports, drains.

Threads: the claim loop (blocks in Redis), the renewer (own connection, so that no work can starve
it), the reporter, and one per running run. A worker that lost its lease stops its runs, reports
nothing for them, and goes on as a new incarnation; one that was displaced ends.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from uuid import uuid4

from consumers.doors import BLOCK_S, Doors
from consumers.pulse import Pulse
from consumers.reporting import Reporter
from consumers.runners import Runner
from consumers.slots import Active, Slots
from dispatcher import (
    ClaimAnswer,
    Clock,
    DispatcherError,
    HolderLost,
    Outcome,
    RedisRefused,
    RedisUnavailable,
    Registered,
    Registration,
    Release,
    Start,
    Word,
    logger,
)

__all__ = ["Doors", "Worker"]

RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.5
RENEW_AGAIN_S = 0.2  # less than recovery waits for its second look
STUCK_S = 30.0
LOST = "the claim was lost"
RELEASED = "the worker ends"
FROZEN = "the worker stood still for longer than its lease"
T = TypeVar("T")


class Worker:
    """One worker of one pool; `queues` empty means all, also those that come later."""

    def __init__(
        self,
        doors: Doors,
        runner: Runner,
        *,
        pool: str,
        name: str,
        limit: int,
        queues: Sequence[str] = (),
        kind: str = "process",
        clock: Clock | None = None,
    ) -> None:
        self._doors, self._runner = doors, runner
        self._pool, self._name, self._kind = pool, name, kind
        self._queues = tuple(queues)
        self._clock = clock or Clock()
        self._slots = Slots(limit)
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix="run")
        self._me: Registered | None = None
        self._number, self._reached = 0, False
        self._served: list[str] = []
        self._served_version, self._queues_version = -1, 0
        self._draining, self._ending = threading.Event(), threading.Event()
        self._lost, self._compare = threading.Event(), threading.Event()
        self._renewing = threading.Lock()
        self._progress_s = self._clock.monotonic_s()
        self._log = logger(pool=pool, worker=name)
        self._reporter = Reporter(doors.reporting, pool, self._slots, self._wake_up, self._log)
        self._pulse = Pulse(
            runner.alive,
            may_beat=lambda: self._stuck_s() == 0,
            on_gap=partial(self._slots.stop_all, FROZEN),
            clock=self._clock,
        )
        self.failure: DispatcherError | None = None
        self.ended = threading.Event()
        duties = {"claims": self._live, "renewer": self._renew_for_ever}
        self._threads = [
            threading.Thread(target=duty, name=name, daemon=True) for name, duty in duties.items()
        ]

    def start(self) -> None:
        """Start the threads; the worker waits for a Redis that is not there yet."""
        self._reporter.start()
        self._pulse.start()
        for thread in self._threads:
            thread.start()

    def drain(self, reason: str) -> None:
        """Claim nothing more; what runs goes on and the worker ends after it."""
        self._draining.set()
        self._log.info("draining", reason=reason, running=self._slots.held())
        me = self._me
        try:
            if me:
                self._doors.renewing.drain(self._pool, me.holder, reason=reason)
        except RedisUnavailable:
            self._doors.claiming.connection.reset()  # the claim loop must not sit out its block

    def release_all(self) -> None:
        """Stop what runs and give it back; the worker ends when all of it is gone."""
        self._draining.set()
        self._slots.stop_all(RELEASED)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is claimed any more and nothing runs; False when time is over."""
        return self.ended.wait(timeout_s) and self._slots.wait_empty(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Leave the pool and end all threads; what could not be reported is left to recovery."""
        self._draining.set()
        self._reporter.close(timeout_s)
        self._ending.set()
        self._doors.claiming.connection.reset()
        self.ended.wait(1.0)
        self._leave()
        self._executor.shutdown(wait=False)
        self._pulse.close()
        self._runner.close()
        self._doors.close()

    # The claim loop.

    def _live(self) -> None:
        try:
            while not self._draining.is_set():
                self._be_one_incarnation()
        except DispatcherError as error:
            self.failure = error
            self._slots.stop_all(LOST)
        except Exception as error:  # noqa: BLE001  a fault of ours must not pass for an end
            self._log.exception("claim-loop-failed")
            self.failure = DispatcherError(f"the claim loop failed: {error!r}")
            self._slots.stop_all(LOST)
        finally:
            self.ended.set()

    def _be_one_incarnation(self) -> None:
        """Register, then claim until the lease is lost or the worker drains."""
        with self._renewing:  # a renewal of the last incarnation may still be under way
            self._me = None
            self._lost.clear()
        self._number = 0
        self._me = self._patiently(self._register)
        if not self._me:
            return
        more = True
        while not self._draining.is_set() and not self._lost.is_set():
            self._progress_s = self._clock.monotonic_s()
            if self._compare.is_set():
                self._patiently(self._compare_claims)
            if more and self._slots.free() > 0:
                answer = self._patiently(self._claim)
                more = bool(answer and self._accept(answer))
            else:
                more = self._patiently(partial(self._wait, more=more)) is not False
        if self._lost.is_set() or self.failure:
            # Every child of the lost claims is gone before a new incarnation claims anything.
            self._slots.stop_all(LOST)
            self._slots.wait_empty()

    def _register(self) -> Registered:
        registration = Registration(
            worker=self._name,
            incarnation=uuid4().hex[:12],
            slots=self._slots.limit,
            queues=self._queues,
            host=socket.gethostname(),
            pid=os.getpid(),
            type=self._kind,
        )
        self._doors.claiming.warm_up()
        me = self._doors.claiming.register(self._pool, registration)
        self._reached = True
        if me.displaced:
            taken = self._doors.claiming.recover_all(self._pool, me.displaced)
            self._log.info("recovered-predecessor", holder=me.displaced, requeued=taken.requeued)
        self._pulse.begin(me.lease_ms / 1000)
        self._log.info("registered", holder=me.holder, slots=self._slots.limit)
        return me

    def _claim(self) -> ClaimAnswer:
        """Claim under the next number; repeated after an outage it gives the same runs again."""
        assert self._me
        number = self._number + 1
        answer = self._doors.claiming.claim(
            self._pool, self._me.holder, number=number, slots=self._slots.free()
        )
        if answer.word in (Word.CLAIMED, Word.STALE):
            self._number = number
        return answer

    def _accept(self, answer: ClaimAnswer) -> bool:
        """Start what was claimed; return whether to claim again at once."""
        if answer.word is Word.LOST:
            self._patiently(self._renew)  # ended but not recovered, it may go on
            return True
        if answer.word is Word.DRAINING:
            self._draining.set()
        taken = [active for claim in answer.claims if (active := self._slots.add(claim))]
        for claim in (active.claim for active in taken):
            self._log.info("claimed", queue=claim.queue, run=claim.run_id, delivery=claim.delivery)
        if taken:
            self._patiently(lambda: self._start_all(taken), also_draining=True)
        return answer.more

    def _start_all(self, taken: list[Active]) -> None:
        """Start what was claimed; what has an answer leaves the list, so this can be repeated."""
        starts = [Start(a.claim.run_id, a.claim.token, a.claim.run_count + 1) for a in taken]
        words = self._doors.claiming.report_many(self._pool, starts)
        now_ms = self._clock.now_ms()
        answered = [w for w in zip(list(taken), words, strict=True) if isinstance(w[1], Word)]
        for active, word in answered:
            claim = active.claim
            taken.remove(active)
            if word is Word.STARTED:
                late_ms = now_ms - claim.due_ms
                self._log.info("started", queue=claim.queue, run=claim.run_id, late_ms=late_ms)
                self._executor.submit(self._run, active)
            else:
                self._slots.remove(claim)
                self._log.warning("claim-lost", run=claim.run_id, reason="before its start")
        for word in words:
            if isinstance(word, DispatcherError):
                raise word

    def _wait(self, *, more: bool) -> bool:
        """Block until there is something to do; return whether to claim when a slot is free."""
        assert self._me
        self._read_queues()
        full = self._slots.begin_wait()
        try:
            served = [] if full else self._served
            came = self._doors.claiming.wait(self._pool, self._me.holder, served, timeout_s=BLOCK_S)
        finally:
            self._slots.end_wait()
        if came == "":
            self._renew()
            self._slots.wait_freed(1.0)
        return came is not None or (full and more)

    def _read_queues(self) -> None:
        version = self._queues_version
        if self._served_version != version:
            names = self._doors.inspector.queue_names(self._pool)
            self._served = [name for name in names if not self._queues or name in self._queues]
            self._served_version = version

    def _patiently(self, step: Callable[[], T], *, also_draining: bool = False) -> T | None:
        """Repeat a step through outages; None when the worker gave up on it meanwhile."""
        pause_s = RETRY_FIRST_S
        while True:
            self._progress_s = self._clock.monotonic_s()
            try:
                answer = step()
                if pause_s > RETRY_FIRST_S:
                    self._log.info("redis-back")
                return answer
            except RedisRefused:
                if not self._reached:
                    raise
                reason = "refused"
            except RedisUnavailable as error:
                reason = str(error)
            if self._lost.is_set() or (self._draining.is_set() and not also_draining):
                return None
            if pause_s == RETRY_FIRST_S:
                self._log.warning("redis-away", reason=reason)
            if self._ending.wait(pause_s):
                return None
            pause_s = min(RETRY_MOST_S, pause_s * 2)

    def _wake_up(self) -> None:
        try:
            if self._me:
                self._doors.reporting.nudge(self._pool, self._me.holder)
        except RedisUnavailable:
            self._doors.claiming.connection.reset()  # the claim loop must not sit out its block

    def _run(self, active: Active) -> None:
        claim = active.claim
        began_s = self._clock.monotonic_s()
        outcome = Outcome("CRASHED", "Crashed", "stopped before it began")  # never reported
        try:
            if active.stop.reason is None:
                outcome = self._runner.run(claim, active.stop)
        except Exception as error:  # noqa: BLE001  a runner's fault must not take the worker down
            self._log.exception("runner-failed", run=claim.run_id)
            outcome = Outcome("CRASHED", "Crashed", f"the runner failed: {error!r}")
        active.took_ms = round((self._clock.monotonic_s() - began_s) * 1000)
        self._pulse.check()  # a child may have ended because we stood still
        if active.stop.reason == LOST:
            self._slots.remove(claim)
            self._log.warning("claim-lost", run=claim.run_id, reason="its work was stopped")
        elif active.stop.reason:
            self._reporter.release(active, active.stop.reason)
        else:
            self._reporter.finish(active, outcome)

    # The lease.

    def _renew_for_ever(self) -> None:
        while not self._ending.is_set():
            me = self._me
            period_s = me.renew_ms / 1000 if me else RETRY_MOST_S
            if self._ending.wait(period_s) or not me:
                continue
            if stuck_s := self._stuck_s():
                self._log.error("claim-loop-stuck", seconds=round(stuck_s))
                continue
            self._pulse.beat()
            try:
                self._renew()
            except RedisUnavailable as error:
                self._log.warning("renewal-delayed", reason=str(error))
                self._renew_soon(me)

    def _renew_soon(self, me: Registered) -> None:
        """Try more often than once a period: the lease may be short after an outage."""
        while not self._ending.wait(RENEW_AGAIN_S) and self._me is me:
            try:
                self._renew()
                return
            except RedisUnavailable:
                continue

    def _stuck_s(self) -> float:
        """Return for how long the claim loop makes no progress; 0 while that is no reason."""
        stuck_s = self._clock.monotonic_s() - self._progress_s
        lease_s = self._me.lease_ms / 1000 if self._me else 0.0
        return stuck_s if stuck_s > STUCK_S + lease_s and not self._draining.is_set() else 0.0

    def _renew(self) -> None:
        with self._renewing:
            me = self._me
            if me is None or self._lost.is_set() or self._ending.is_set():
                return
            answer = self._doors.renewing.renew(
                self._pool, me.holder, held=self._slots.held(), number=self._number
            )
            if answer.word in (Word.LOST, Word.DISPLACED):
                self._lose(HolderLost(me.holder, displaced=answer.word is Word.DISPLACED))
                return
            self._queues_version = answer.queues_version
            if answer.draining:
                self._draining.set()
            if answer.word is Word.COMPARE:
                self._compare.set()

    def _lose(self, error: HolderLost) -> None:
        self._log.error("lease-lost", reason=str(error), running=self._slots.held())
        self._slots.stop_all(LOST)
        if error.displaced:
            self.failure = error
            self._draining.set()
        self._lost.set()
        self._doors.claiming.connection.reset()  # the claim loop must not sit out its block

    def _compare_claims(self) -> None:
        """Release what only Redis thinks we have, stop what only we think we have."""
        assert self._me
        self._compare.clear()
        active = self._slots.all()  # before asking: what ends meanwhile is not unknown to us
        theirs = self._doors.inspector.claims(self._pool, self._me.holder)
        ours = {(each.claim.run_id, each.claim.token) for each in active}
        for run_id, token in theirs.items() - ours:
            release = Release(run_id, token, "its worker does not know it")
            self._doors.claiming.report(self._pool, release)
            self._log.warning("released", run=run_id, reason=release.reason)
        for each in active:
            if theirs.get(each.claim.run_id) != each.claim.token and not each.reporting:
                each.stop.request(LOST)

    def _leave(self) -> None:
        me = self._me
        if me is None or self.failure or self._lost.is_set():
            return
        try:
            self._compare_claims()
            self._doors.renewing.drain(self._pool, me.holder, reason="the worker ends")
            self._doors.renewing.recover_all(self._pool, me.holder)
            self._log.info("left", holder=me.holder)
        except DispatcherError as error:
            self._log.warning("left-without-goodbye", reason=str(error))
