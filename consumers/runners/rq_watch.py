"""Watching over the runs that were handed over to an RQ queue: what RQ says against what we know.

Any RQ consumer of the pool watches over all of them, also over those of one that is gone. A run
that is being worked on renews itself; RQ is asked about those that wait there, and about those that
have fallen silent.
"""

import os
import socket
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from consumers.runners.rq_queue import GONE, RqQueue, Seen, job_id
from consumers.slots import Slots
from dispatcher import (
    Clock,
    Finish,
    Inspector,
    Outcome,
    RedisUnavailable,
    Refused,
    RunRecord,
    Store,
    Word,
    shared_holder,
)

PAGE = 100  # runs looked at in one pass
PERIOD_S = 5.0  # until the pool's own is known


class Fate(StrEnum):
    """What becomes of a run that was handed over."""

    GOES_ON = "goes on"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"


class Verdict(NamedTuple):
    """The fate of a run, and why."""

    fate: Fate
    reason: str = ""
    is_missed: bool = False  # nobody seems to have it


GOES_ON = Verdict(Fate.GOES_ON)


def judge(run: RunRecord, seen: Seen, *, now_ms: int, lease_ms: int, missed_ms: int) -> Verdict:
    """Say what becomes of a run; `missed_ms` is for how long nobody seems to have it, 0 at first.

    What renews its run lives, whatever RQ says, unless its RQ worker saw it die. A worker that has
    taken a job out of the queue is given time to begin: in RQ nobody has the job for a moment. So
    is one whose job has begun and does not renew any more.
    """
    is_fresh = run.renewed_ms is not None and now_ms - run.renewed_ms <= lease_ms
    if is_fresh and not seen.is_killed:
        return GOES_ON
    match seen.status:
        case "canceled":
            return Verdict(Fate.CANCELLED, "its RQ job was cancelled")
        case "stopped":
            return Verdict(Fate.CANCELLED, "its RQ job was stopped")
        case "failed":
            return Verdict(Fate.ABANDONED, "its RQ job failed")
        case "finished":
            return Verdict(Fate.ABANDONED, "its RQ job ended without a word")
        case _ if seen.status == GONE:
            return Verdict(Fate.ABANDONED, "its RQ job is gone")
        case "queued" | "started" if not seen.is_queued and not seen.is_alive:
            whom = f"RQ worker {seen.worker} is gone" if seen.worker else "no RQ worker has its job"
            enough = missed_ms > (0 if run.executor else lease_ms)
            return Verdict(Fate.ABANDONED if enough else Fate.GOES_ON, whom, is_missed=True)
        case "started" if run.executor:
            silent = "its RQ job stands still"
            enough = missed_ms > lease_ms  # after an outage of Redis all are silent at first
            return Verdict(Fate.ABANDONED if enough else Fate.GOES_ON, silent, is_missed=True)
    return GOES_ON


class Watch:
    """A thread that keeps the lease of an RQ queue's runs, and looks after them at each renewal.

    `on_room` is called when there may be room for more of them.
    """

    def __init__(
        self,
        store: Store,
        inspector: Inspector,
        rq: RqQueue,
        *,
        pool: str,
        slots: Slots,
        on_room: Callable[[], None],
        clock: Clock,
        log: Any,
    ) -> None:
        self._store, self._inspector, self._rq = store, inspector, rq
        self._pool, self._slots, self._on_room = pool, slots, on_room
        self._clock, self._log = clock, log
        self.holder = shared_holder(rq.name)
        self._lock = threading.RLock()
        self._lease_ms, self._renew_s, self._period_s = 0, PERIOD_S, PERIOD_S
        self._held = 0
        self._first = ""  # of the next page
        self._missed: dict[tuple[str, str], int] = {}
        self._cancelling: dict[tuple[str, str], float] = {}
        self._ending, self._sooner = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="rq-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; with nothing left to watch over the lease ends as well."""
        self._ending.set()
        self._sooner.set()
        self._thread.join(1.0)
        try:
            if self._lease_ms and not self._inspector.claims(self._pool, self.holder):
                self._store.drain(self._pool, self.holder, reason="nothing is left in RQ")
                self._store.recover(self._pool, self.holder)
        except RedisUnavailable as error:
            self._log.debug("rq-watch-delayed", reason=str(error))

    def note(self, runs: int) -> None:
        """Note that so many more runs were handed over."""
        with self._lock:
            if not self._held:
                self._period_s = self._renew_s
                self._sooner.set()
            self._held += runs

    def register(self) -> bool:
        """Be one of those who watch; False while what the holder had is being taken back."""
        with self._lock:
            try:
                me = self._store.register_shared(
                    *(self._pool, self._rq.name),
                    slots=self._slots.limit,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                )
            except Refused as error:
                self._log.debug("rq-watch-delayed", reason=str(error))
                return False
            first, self._lease_ms = not self._lease_ms, me.lease_ms
            self._renew_s = self._period_s = me.renew_ms / 1000
            if first:
                self._log.info("watching", holder=me.holder, rq_queue=self._rq.name)
            return True

    def look(self) -> None:
        """Renew, count, and settle what RQ has lost; raises RedisUnavailable."""
        with self._lock:
            known = bool(self._lease_ms)
            if not known and not self.register():
                return
            answer = self._store.renew(self._pool, self.holder, held=self._held, number=0)
            if answer.word is Word.LOST:
                known = False
                if not self.register():
                    return
            elif answer.word in (Word.RENEWED, Word.COMPARE):
                self._lease_ms, self._renew_s = answer.lease_ms, answer.renew_ms / 1000
                # Nothing to look after: twice in a lease is enough to keep it.
                idle_s = max(self._renew_s, self._lease_ms / 2000)
                self._period_s = self._renew_s if self._held else idle_s
            if self._held or not known or answer.word is Word.COMPARE:
                self._look_after(answer.orders)

    def _look_after(self, orders: tuple[str, ...]) -> None:
        tokens = self._inspector.claims(self._pool, self.holder)
        page = self._page(sorted(tokens), orders)
        now_ms = self._inspector.server_time_ms(self._pool)
        jobs = {run_id: job_id(run_id, tokens[run_id]) for run_id in page}
        seen = self._rq.look(list(jobs.values()))
        ended = 0
        for run in self._inspector.records(self._pool, page):
            if run.holder == self.holder and run.token == tokens[run.id]:
                ended += self._settle(run, seen[jobs[run.id]], now_ms, ordered=run.id in orders)
        present = set(tokens.items())
        for kept in (self._missed, self._cancelling):
            for gone in kept.keys() - present:
                del kept[gone]
        was_full = self._slots.free() == 0
        self._held = len(tokens) - ended
        self._slots.count_elsewhere(self._held)
        if was_full and self._slots.free() > 0:
            self._on_room()

    def _page(self, ids: list[str], orders: tuple[str, ...]) -> list[str]:
        """Return the next runs to look at, round and round, and first those to be cancelled."""
        behind = [each for each in ids if each > self._first]
        page = (behind + [each for each in ids if each <= self._first])[:PAGE]
        self._first = page[-1] if page else ""
        wanted = set(ids)
        return list(dict.fromkeys([*(each for each in orders if each in wanted), *page]))

    def _settle(self, run: RunRecord, seen: Seen, now_ms: int, *, ordered: bool) -> bool:
        """Do what must be done about a run; return whether it is ours no more."""
        key = (run.id, run.token)
        missed_ms = now_ms - self._missed.get(key, now_ms)
        verdict = judge(run, seen, now_ms=now_ms, lease_ms=self._lease_ms, missed_ms=missed_ms)
        if not verdict.is_missed:
            self._missed.pop(key, None)
        elif key not in self._missed:
            self._missed[key] = now_ms
        if verdict.fate is Fate.ABANDONED:
            return self._abandon(run, seen, verdict.reason)
        if verdict.fate is Fate.CANCELLED:
            return self._cancel(run, verdict.reason)
        if ordered and seen.is_queued and not run.executor:
            self._rq.cancel(job_id(run.id, run.token))
            return self._cancel(run, run.message)
        if ordered and run.executor:
            self._hurry(run)
        return False

    def _abandon(self, run: RunRecord, seen: Seen, reason: str) -> bool:
        if seen.status == "failed" and (told := self._rq.problem(job_id(run.id, run.token))):
            reason = f"{reason}: {told}"[:500]
        word = self._store.abandon(self._pool, run.id, run.token, reason=reason)
        if seen.is_alive:  # it keeps its RQ worker from other jobs
            self._rq.stop(job_id(run.id, run.token))
        self._log.warning("rq-job-lost", run=run.id, reason=reason, fate=word.value)
        return True

    def _cancel(self, run: RunRecord, reason: str) -> bool:
        outcome = Outcome("CANCELLED", "Cancelled", reason)
        word = self._store.report(self._pool, Finish(run.id, run.token, outcome))
        self._log.info("finished", run=run.id, state="Cancelled", why=reason, answer=word.value)
        return True

    def _hurry(self, run: RunRecord) -> None:
        """Let a job hear that it is to stop; stop it when it goes on for longer than its grace."""
        key, now_s = (run.id, run.token), self._clock.monotonic_s()
        if key not in self._cancelling:
            claim = self._store.claim_of(self._pool, run.id, run.token)
            grace_s = (claim.cancel_grace_ms if claim else 0) / 1000
            self._cancelling[key] = now_s + grace_s + 2 * self._period_s
            self._store.nudge_run(self._pool, run.id, holder=self.holder)
        elif now_s > self._cancelling[key] and self._rq.stop(job_id(run.id, run.token)):
            self._log.warning("rq-job-stopped", run=run.id, reason="it does not heed its cancel")

    def _run(self) -> None:
        pause_s = 0.0  # a consumer that was away for a moment is back in time
        while not self._ending.is_set():
            if self._sooner.wait(pause_s):
                self._sooner.clear()
            else:
                self._look_patiently()
            pause_s = self._period_s

    def _look_patiently(self) -> None:
        try:
            self.look()
        except RedisUnavailable as error:
            self._log.debug("rq-watch-delayed", reason=str(error))
        except Exception:  # noqa: BLE001  a fault in one pass must not end the watch
            self._log.exception("rq-watch-failed")
