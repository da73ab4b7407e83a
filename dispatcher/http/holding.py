"""Held claims of one dispatcher: calls that wait for a run, in a line for each pool.

`Holding` is for the threads of the edge: it claims at once if there is something, else the call
joins the line of its pool. What was claimed for a call that nobody can answer any more is given
back uncounted.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from dispatcher.clock import Clock
from dispatcher.errors import DispatcherError, QueueNotFound, RedisUnavailable, Refused
from dispatcher.http.holders import (
    Claimed,
    Wanted,
    check_worker,
    claim_once,
    close_to_claims,
    leave,
    new_ticket,
)
from dispatcher.http.line import READ_TIMEOUT_S, Line, Waiter
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.records import Release
from dispatcher.store import Store
from dispatcher.stored import Offering

GONE = "its HTTP client went away"
GIVE_BACK_THREADS = 2
GIVE_BACK_EVERY_S = 0.2
POLL = "poll"


class OpenStore(Protocol):
    """Opens a store on a connection of its own."""

    def __call__(self, *, read_timeout_s: float | None) -> Store:
        """Return it; nothing is sent yet."""


class Holding:
    """All held claims of this process; `close` answers them with nothing."""

    def __init__(
        self,
        store: Store,
        inspector: Inspector,
        open_store: OpenStore,
        *,
        clock: Clock | None = None,
        host: str = "",
    ) -> None:
        self._store, self._inspector, self._open_store = store, inspector, open_store
        self._clock, self._host = clock or Clock(), host or socket.gethostname()
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._giving_back = ThreadPoolExecutor(GIVE_BACK_THREADS, thread_name_prefix="give-back")
        self._log = logger()

    def ask(
        self, pool: str, wanted: Wanted, give: Callable[[Claimed], None] | None = None
    ) -> Claimed | Waiter:
        """Claim at once; with `give` wait for what comes when there is nothing.

        `give` is called once, from another thread, unless `stop_waiting` says that it will not be.
        Raises NotFound for pool or queue, Refused for a pool that is polled, InvalidName.
        """
        check_worker(wanted.worker)
        offering = self._inspector.offering(pool)
        _check(offering, pool, wanted)
        line = self._line(pool)
        ready = [queue for queue in offering.ready if not wanted.queues or queue in wanted.queues]
        if ready and not (give and line.is_before(wanted)):
            taken = self._claim(pool, wanted)
            if taken.claims:
                return taken
        return line.join(wanted, give) if give else Claimed(pool)

    def stop_waiting(self, waiter: Waiter, *, gone: bool = False) -> bool:
        """Take a call out of its line; return whether `give` was or will be called all the same.

        It is not for a call whose client is `gone`, unless it was called before.
        """
        return self._line(waiter.pool).leave(waiter, gone=gone)

    def give_back(self, taken: Claimed) -> None:
        """Release what could not be handed over, uncounted; returns at once."""
        try:
            self._giving_back.submit(self._release, taken)
        except RuntimeError:  # closed: recovery does it when the lease ends
            self._log.warning("not-given-back", pool=taken.pool, holder=taken.holder)

    def held(self) -> dict[str, int]:
        """Return how many calls wait, by pool."""
        with self._lock:
            lines = dict(self._lines)
        return {pool: number for pool, line in lines.items() if (number := line.held())}

    def close(self, timeout_s: float = 0.3) -> None:
        """Answer all held claims with nothing, and leave the pools; returns within the time."""
        self._ending.set()
        with self._lock:
            lines = list(self._lines.values())
        for line in lines:
            line.answer_all()
        for line in lines:
            line.close(timeout_s / len(lines))
        self._giving_back.shutdown(wait=False)

    def _claim(self, pool: str, wanted: Wanted) -> Claimed:
        taken = claim_once(self._store, pool, wanted, new_ticket())
        if taken.claims:
            tell(self._log, taken)
            with suppress(RedisUnavailable):  # it leaves all the same
                close_to_claims(self._store, taken)
        elif taken.holder:
            leave(self._store, pool, taken.holder)
        return taken

    def _line(self, pool: str) -> Line:
        with self._lock:
            if pool not in self._lines:
                self._lines[pool] = Line(
                    pool,
                    self._store,
                    self._inspector,
                    lambda: self._open_store(read_timeout_s=READ_TIMEOUT_S),
                    give_back=self.give_back,
                    host=self._host,
                    clock=self._clock,
                )
            line = self._lines[pool]
        if self._ending.is_set():
            line.answer_all()
        return line

    def _release(self, taken: Claimed) -> None:
        """Repeat through an outage for as long as nobody else could have done it."""
        until_s = self._clock.monotonic_s() + taken.lease_ms / 1000
        releases = [Release(claim.run_id, claim.token, GONE) for claim in taken.claims]
        while True:
            try:
                self._store.report_many(taken.pool, releases)
                leave(self._store, taken.pool, taken.holder)
                runs = [claim.run_id for claim in taken.claims]
                self._log.info("released", pool=taken.pool, runs=runs, reason=GONE)
                return
            except RedisUnavailable as error:
                given_up = self._clock.monotonic_s() > until_s
                if given_up or self._ending.wait(GIVE_BACK_EVERY_S):
                    self._log.warning("not-given-back", pool=taken.pool, reason=str(error))
                    return
            except DispatcherError as error:
                self._log.warning("not-given-back", pool=taken.pool, reason=str(error))
                return


def tell(log: Any, taken: Claimed) -> None:
    """Log what was claimed."""
    for claim in taken.claims:
        where = {"pool": taken.pool, "queue": claim.queue, "run": claim.run_id}
        log.info("claimed", holder=taken.holder, delivery=claim.delivery, **where)


def _check(offering: Offering, pool: str, wanted: Wanted) -> None:
    """Raise Refused for a pool that is polled, NotFound for the first queue that is not there."""
    if offering.handout == POLL:
        raise Refused(
            f"pool {pool!r} hands out by poll: ask get_scheduled_flow_runs, then start a run"
        )
    known: Sequence[str] = offering.queues
    for queue in wanted.queues:
        if queue not in known:
            raise QueueNotFound(pool, queue)
