"""The worker: claims runs for its free slots, keeps its lease, obeys, drains; `running` runs them.

Threads: the claim loop (blocks in Redis), the renewer (own connection, so that no work can starve
it), the reporter, the alarms, and one per running run. A worker that lost its lease stops its runs,
reports nothing for them, and goes on as a new incarnation; one that was displaced ends.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from uuid import uuid4

from consumers.alarms import Alarms
from consumers.doors import BLOCK_S, Doors
from consumers.leasing import Lease
from consumers.pulse import Pulse
from consumers.runners import Runner, Why
from consumers.running import Running
from consumers.slots import Active, Slots
from dispatcher import (
    ClaimAnswer,
    Clock,
    DispatcherError,
    HolderLost,
    Pool,
    RedisRefused,
    RedisUnavailable,
    Registered,
    Registration,
    Release,
    Word,
    logger,
)

__all__ = ["Doors", "Worker"]

CLAIM_RUNS = 10  # half a millisecond of the server, for which everybody else waits
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.5
T = TypeVar("T")


class Worker:
    """One worker of one pool; `queues` empty means all, also those that come later.

    `configure` hears of the pool before the first run starts, and before the first one that was
    claimed after its command or template had changed. `running` makes what becomes of claimed runs.
    """

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
        configure: Callable[[Pool], None] | None = None,
        running: Callable[..., Running] = Running,
        clock: Clock | None = None,
    ) -> None:
        self._doors, self._runner = doors, runner
        self._pool, self._name, self._kind = pool, name, kind
        self._queues = tuple(queues)
        self._configure, self._job_version = configure, -1
        self._clock = clock or Clock()
        self._log = logger(pool=pool, worker=name)
        self._alarms = Alarms(self._clock, self._log)
        self._slots = Slots(limit, self._alarms)
        self._reached, self._told, self._polled = False, False, False
        self._connects = 0  # the socket that the last comparison was made on
        self._served: list[str] = []
        self._served_version = -1
        self._ending = threading.Event()
        self._pulse = Pulse(
            runner.alive,
            may_beat=lambda: self._lease.stuck_s() == 0,
            on_gap=self._stood_still,
            clock=self._clock,
        )
        self._running = self._make_running(running)
        self._lease = self._make_lease()
        self.failure: DispatcherError | None = None
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="claims", daemon=True)

    def _stood_still(self) -> None:
        if self._runner.guarded:  # by now the guardian has ended what ran
            self._slots.stop_all(Why.FROZEN)

    def _make_running(self, make: Callable[..., Running]) -> Running:
        return make(
            self._runner,
            self._doors.reporting,
            pool=self._pool,
            slots=self._slots,
            alarms=self._alarms,
            clock=self._clock,
            check=self._pulse.check,
            wake=self._wake_up,
            log=self._log,
        )

    def _make_lease(self) -> Lease:
        return Lease(
            self._doors.renewing,
            self._pool,
            slots=self._slots,
            running=self._running,
            beat=self._pulse.beat,
            wake=self._wake_up,
            on_loss=self._lose,
            clock=self._clock,
            log=self._log,
        )

    def start(self) -> None:
        """Start the threads; the worker waits for a Redis that is not there yet."""
        self._running.start()
        self._pulse.start()
        self._lease.start()
        self._thread.start()

    def drain(self, reason: str) -> None:
        """Claim nothing more; what runs goes on and the worker ends after it."""
        self._lease.draining.set()
        self._log.info("draining", reason=reason, running=self._slots.held())
        me = self._lease.me
        try:
            if me:
                self._doors.renewing.drain(self._pool, me.holder, reason=reason)
        except RedisUnavailable:
            self._doors.claiming.connection.reset()  # the claim loop must not sit out its block

    def release_all(self) -> None:
        """Stop what runs and give it back; the worker ends when all of it is gone."""
        self._lease.draining.set()
        self._slots.stop_all(Why.RELEASED)
        self._slots.leave_elsewhere()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is claimed any more and nothing runs; False when time is over."""
        return self.ended.wait(timeout_s) and self._slots.wait_ended(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Leave the pool and end all threads; what could not be reported is left to recovery."""
        self._lease.draining.set()
        self._running.close(timeout_s)
        self._ending.set()
        self._lease.close()
        self._doors.claiming.connection.reset()
        self._thread.join(1.0)
        self._leave()
        self._pulse.close()
        self._runner.close()
        self._doors.close()

    # The claim loop.

    def _live(self) -> None:
        try:
            while not self._lease.draining.is_set():
                self._be_one_incarnation()
            self.ended.set()
            self._obey_to_the_end()
        except DispatcherError as error:
            self.failure = error
            self._slots.stop_all(Why.LOST)
        except Exception as error:  # noqa: BLE001  a fault of ours must not pass for an end
            self._log.exception("claim-loop-failed")
            self.failure = DispatcherError(f"the claim loop failed: {error!r}")
            self._slots.stop_all(Why.LOST)
        finally:
            self.ended.set()

    def _obey_to_the_end(self) -> None:
        """Hear what is said of the last runs: they may still be cancelled, or taken away."""
        self._log.debug("claims-no-more", running=self._slots.held())
        over = (self._lease.lost.is_set, self._ending.is_set, partial(self._slots.wait_ended, 0))
        while not any(check() for check in over):
            self._slots.begin_wait()
            self._patiently(partial(self._listen, []), also_draining=True)
            self._note_break()
            if self._lease.compare.is_set():
                self._patiently(self._compare_claims, also_draining=True)

    def _be_one_incarnation(self) -> None:
        """Register, then claim until the lease is lost or the worker drains."""
        self._lease.forget()
        self._lease.me = self._patiently(self._register)
        if not self._lease.me:
            return
        more = True
        while not self._lease.draining.is_set() and not self._lease.lost.is_set():
            self._lease.touch()
            self._note_break()
            if self._lease.compare.is_set():
                self._patiently(self._compare_claims)
            if more and self._slots.free() > 0:
                answer = self._patiently(self._claim)
                more = bool(answer and self._accept(answer))
                if more and self._slots.free() > 0:
                    self._patiently(self._look)
            else:
                more = self._patiently(partial(self._wait, more=more)) is not False
        if self._lease.lost.is_set() or self.failure:
            # Every child of the lost claims is gone before a new incarnation claims anything.
            self._slots.stop_all(Why.LOST)
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
        self._doors.claiming.warm_up(self._pool)
        me = self._doors.claiming.register(self._pool, registration)
        self._reached = True
        if me.displaced:
            taken = self._doors.claiming.recover_all(self._pool, me.displaced)
            self._log.info("recovered-predecessor", holder=me.displaced, requeued=taken.requeued)
        self._pulse.begin(me.lease_ms / 1000)
        self._connects = self._doors.claiming.at(self._pool).connects
        self._log.info("registered", holder=me.holder, slots=self._slots.limit)
        return me

    def _claim(self) -> ClaimAnswer:
        """Claim under the next number; repeated after an outage it gives the same runs again."""
        assert self._lease.me
        number = self._lease.number + 1
        slots = min(self._slots.free(), CLAIM_RUNS)
        answer = self._doors.claiming.claim(
            self._pool, self._lease.me.holder, number=number, slots=slots
        )
        if answer.word in (Word.CLAIMED, Word.STALE):
            self._lease.number = number
        return answer

    def _accept(self, answer: ClaimAnswer) -> bool:
        """Start what was claimed; return whether to claim again at once."""
        if answer.word is Word.LOST:
            self._patiently(self._lease.renew)  # ended but not recovered, it may go on
            return True
        if answer.word is Word.DRAINING:
            self._lease.draining.set()
        self._note_handout("poll" if answer.word is Word.POLLED else "stream")
        taken = [active for claim in answer.claims if (active := self._slots.add(claim))]
        for claim in (active.claim for active in taken):
            self._log.info("claimed", queue=claim.queue, run=claim.run_id, delivery=claim.delivery)
        if taken:
            self._patiently(partial(self._begin, taken), also_draining=True)
        return answer.more

    def _begin(self, taken: list[Active]) -> None:
        """Start what was claimed, by the pool's present command and template."""
        known = all(active.claim.job_version == self._job_version for active in taken)
        if self._configure and not known:
            pool = self._doors.inspector.pool(self._pool)
            self._configure(pool)
            self._job_version = pool.job_version
        self._running.begin_all(self._doors.claiming, taken)

    def _wait(self, *, more: bool) -> bool:
        """Block until there is something to do; return whether to claim when a slot is free."""
        self._read_queues()
        full = self._slots.begin_wait()
        came = self._listen([] if full else self._served)
        return came is not None or (full and more)

    def _listen(self, queues: Sequence[str]) -> str | None:
        """Block until a queue says "look", or our inbox "renew now", which is done."""
        assert self._lease.me
        came: str | None = ""
        try:
            if not self._told:
                came = self._doors.claiming.wait(
                    *(self._pool, self._lease.me.holder, queues),
                    timeout_s=BLOCK_S,
                    shared=self._running.inboxes,
                )
        finally:
            self._slots.end_wait()
        if came == "":
            self._obey()
            if not self._lease.compare.is_set():
                self._slots.wait_freed(1.0)
        return came

    def _look(self) -> None:
        """Look into our inbox without waiting: who claims again and again would never hear."""
        assert self._lease.me
        if self._told or self._doors.claiming.look(self._pool, self._lease.me.holder):
            self._obey()

    def _obey(self) -> None:
        self._told = True  # until it is done, also when Redis is away in between
        self._lease.renew()
        self._running.hear()
        self._told = False

    def _read_queues(self) -> None:
        version = self._lease.queues_version
        if self._served_version != version:
            offering = self._doors.inspector.offering(self._pool)
            self._note_handout(offering.handout)
            wanted = self._queues or offering.queues
            self._served = [name for name in offering.queues if name in wanted]
            self._served_version = version

    def _note_handout(self, handout: str) -> None:
        """Say so once when there is nothing to claim any more, since others poll."""
        polled = handout == "poll"
        if polled and not self._polled:
            self._log.warning("polled", reason="its pool is handed out by polling")
        self._polled = polled

    def _patiently(self, step: Callable[[], T], *, also_draining: bool = False) -> T | None:
        """Repeat a step through outages; None when the worker gave up on it meanwhile."""
        pause_s = RETRY_FIRST_S
        while True:
            self._lease.touch()
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
            given_up = self._lease.lost.is_set() or self._ending.is_set()
            if given_up or (self._lease.draining.is_set() and not also_draining):
                return None
            if pause_s == RETRY_FIRST_S:
                self._log.warning("redis-away", reason=reason)
            if self._ending.wait(pause_s):
                return None
            pause_s = min(RETRY_MOST_S, pause_s * 2)

    def _wake_up(self) -> None:
        try:
            if self._lease.me:
                self._doors.reporting.nudge(self._pool, self._lease.me.holder)
        except RedisUnavailable:
            self._doors.claiming.connection.reset()  # the claim loop must not sit out its block

    def _lose(self, error: HolderLost) -> None:
        self._slots.stop_all(Why.LOST)
        if error.displaced:
            self.failure = error
            self._lease.draining.set()
        self._lease.lost.set()
        self._doors.claiming.connection.reset()  # the claim loop must not sit out its block

    def _note_break(self) -> None:
        """Compare after a break: a server that lost writes may know as many claims, but others."""
        connects = self._doors.claiming.at(self._pool).connects
        if connects != self._connects:
            self._connects = connects
            self._lease.compare.set()

    def _compare_claims(self) -> None:
        """Release what only Redis thinks we have, stop what only we think we have."""
        assert self._lease.me
        self._lease.compare.clear()
        active = self._slots.all()  # before asking: what ends meanwhile is not unknown to us
        theirs = self._doors.inspector.claims(self._pool, self._lease.me.holder)
        ours = {(each.claim.run_id, each.claim.token) for each in active}
        for run_id, token in theirs.items() - ours:
            release = Release(run_id, token, "its worker does not know it")
            self._doors.claiming.report(self._pool, release)
            self._log.warning("released", run=run_id, reason=release.reason)
        for each in active:
            if theirs.get(each.claim.run_id) != each.claim.token and not each.reporting:
                each.stop.request(Why.LOST)

    def _leave(self) -> None:
        me = self._lease.me
        if me is None or self.failure or self._lease.lost.is_set():
            return
        try:
            self._compare_claims()
            self._doors.renewing.drain(self._pool, me.holder, reason="the worker ends")
            self._doors.renewing.recover_all(self._pool, me.holder)
            self._log.info("left", holder=me.holder)
        except DispatcherError as error:
            self._log.warning("left-without-goodbye", reason=str(error))
