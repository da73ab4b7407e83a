"""The line of held claims of one pool, and the listener that hears when there is something.

The listener is registered like a worker, so that the pool knows that its queues are served. It
blocks on its inbox and on the wake lists of exactly those queues that a held claim wants; each wake
gives the first call in the line that serves the queue a try. It leaves when nobody has waited for a
lease.
"""

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import Enum, auto

from dispatcher.clock import Clock
from dispatcher.errors import DispatcherError, NotFound, RedisUnavailable
from dispatcher.http.holders import (
    KIND,
    MARK,
    Claimed,
    Wanted,
    claim_once,
    close_to_claims,
    leave,
    new_ticket,
)
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.records import Registered, Registration, Word
from dispatcher.store import Store

BLOCK_S = 10.0
READ_TIMEOUT_S = BLOCK_S + 5.0
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.5
LONGEST_HOST = 100


class At(Enum):
    """How far a held claim has come."""

    WAITING = auto()
    TRYING = auto()  # a claim is made for it at this moment
    ENDED = auto()  # it was given something, or has left the line


class Waiter:
    """One held claim in the line of its pool."""

    __slots__ = ("at", "give", "leaves", "pool", "ticket", "wanted", "was_lost")

    def __init__(self, pool: str, wanted: Wanted, give: Callable[[Claimed], None]) -> None:
        self.pool, self.wanted, self.give = pool, wanted, give
        self.ticket = new_ticket()
        self.at = At.WAITING
        self.leaves = False  # its time was over, or its client gone, during a try
        self.was_lost = False


class Line:
    """Calls that wait, first come first served, and a thread that listens while there are any."""

    def __init__(
        self,
        pool: str,
        store: Store,
        inspector: Inspector,
        open_store: Callable[[], Store],
        *,
        give_back: Callable[[Claimed], None],
        host: str,
        clock: Clock,
    ) -> None:
        self._pool, self._store, self._inspector = pool, store, inspector
        self._open_store, self._give_back = open_store, give_back
        self._host, self._clock = host, clock
        self._log = logger(pool=pool)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._wants: Counter[str] = Counter()  # how many calls named a queue
        self._of_all = 0  # how many calls want any queue
        self._names: tuple[str, ...] = ()
        self._served: frozenset[str] = frozenset()  # what it is registered for; empty: all
        self._heard: frozenset[str] | None = None  # what the listener blocks on at this moment
        self._closed = False
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._blocking: Store | None = None
        self._me: Registered | None = None
        self._names_version: int | None = None
        self._renew_at_s = 0.0
        self._idle_since_s: float | None = None
        self._lease_s = 0.0
        self._missed = False  # wakes may have been lost: look once more

    # For the threads of the edge.

    def join(self, wanted: Wanted, give: Callable[[Claimed], None]) -> Waiter:
        """Wait at the end of the line."""
        waiter = Waiter(self._pool, wanted, give)
        with self._lock:
            closed = self._closed
            if not closed:
                self._waiting[waiter] = None
                self._count(waiter, 1)
                self._ensure_listening()
            heard = self._heard is None or self._heard.issuperset(wanted.queues or self._names)
        if closed:
            waiter.at = At.ENDED
            give(Claimed(self._pool))
        elif not heard:
            self._wake_up()
        return waiter

    def leave(self, waiter: Waiter, *, gone: bool) -> bool:
        """Take a call out of the line; return whether `give` was or will be called all the same."""
        with self._lock:
            if waiter.at is At.WAITING:
                self._remove(waiter)
                return False
            waiter.leaves, waiter.was_lost = True, gone
            return waiter.at is At.ENDED or not gone

    def is_before(self, wanted: Wanted) -> bool:
        """Return whether a call already waits for something that this one wants as well."""
        with self._lock:
            if not wanted.queues:
                return bool(self._waiting)
            return self._of_all > 0 or any(self._wants[queue] for queue in wanted.queues)

    def held(self) -> int:
        """Return how many calls wait."""
        with self._lock:
            return len(self._waiting)

    def answer_all(self) -> None:
        """Answer all that wait with nothing, and whoever comes from now on."""
        with self._lock:
            self._closed = True
        self._dismiss()

    def close(self, timeout_s: float) -> None:
        """End the listener; it has left the pool if there was time for that."""
        self._ending.set()
        self.answer_all()
        with self._lock:
            thread, blocking = self._thread, self._blocking
        if blocking:
            blocking.connection.reset()  # it must not sit out its block
        if thread:
            thread.join(timeout_s)

    def _dismiss(self) -> None:
        with self._lock:
            waiters = [each for each in self._waiting if each.at is At.WAITING]
            for waiter in waiters:
                self._remove(waiter)
        for waiter in waiters:
            self._hand_over(waiter, Claimed(self._pool))

    def _ensure_listening(self) -> None:
        if self._thread is None:
            self._idle_since_s = None
            self._thread = threading.Thread(
                target=self._live, name=f"held-{self._pool}", daemon=True
            )
            self._thread.start()

    def _count(self, waiter: Waiter, step: int) -> None:
        for queue in waiter.wanted.queues:
            self._wants[queue] += step
            if not self._wants[queue]:
                del self._wants[queue]
        self._of_all += 0 if waiter.wanted.queues else step

    def _remove(self, waiter: Waiter) -> None:
        waiter.at = At.ENDED
        del self._waiting[waiter]
        self._count(waiter, -1)

    def _wake_up(self) -> None:
        me = self._me
        try:
            if me:
                self._store.nudge(self._pool, me.holder)
        except RedisUnavailable:
            if blocking := self._blocking:
                blocking.connection.reset()

    # The listener.

    def _live(self) -> None:
        pause_s = RETRY_FIRST_S
        self._blocking = blocking = self._open_store()
        while not self._is_over():
            try:
                self._turn(blocking)
                if pause_s > RETRY_FIRST_S:
                    self._log.info("redis-back", loop="held-claims")
                pause_s = RETRY_FIRST_S
            except RedisUnavailable as error:
                if pause_s == RETRY_FIRST_S and not self._ending.is_set():
                    self._log.warning("redis-away", loop="held-claims", reason=str(error))
                self._missed = True
                self._ending.wait(pause_s)
                pause_s = min(RETRY_MOST_S, pause_s * 2)
            except DispatcherError as error:  # such as a pool that is no more
                self._log.warning("held-claims-ended", reason=str(error))
                self._me = None
                self._dismiss()
            except Exception:  # noqa: BLE001  a fault of ours must not hang those who wait
                self._log.exception("held-claims-failed")
                self._missed = True
                self._dismiss()
        blocking.connection.close()

    def _is_over(self) -> bool:
        """Return whether to end, after leaving: closed, or nobody has waited for a lease."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._waiting and not self._closed:
                self._idle_since_s = None
                return False
            self._idle_since_s = now_s if self._idle_since_s is None else self._idle_since_s
            idle_s = now_s - self._idle_since_s
            if not self._closed and self._me and idle_s < self._lease_s:
                return False
            me, self._me, self._thread = self._me, None, None
        if me:
            self._leave_pool(me)
        return True

    def _leave_pool(self, me: Registered) -> None:
        try:
            leave(self._store, self._pool, me.holder)
        except DispatcherError as error:
            self._log.debug("left-without-goodbye", holder=me.holder, reason=str(error))

    def _turn(self, blocking: Store) -> None:
        me = self._me if self._me and not self._outgrown() else self._register()
        if self._missed:
            self._look()
        left_s = self._renew_at_s - self._clock.monotonic_s()
        if left_s <= 0.001:
            self._renew(me)
            return
        try:
            queues = self._begin_wait()
            came = blocking.wait(self._pool, me.holder, queues, timeout_s=min(left_s, BLOCK_S))
        finally:
            with self._lock:
                self._heard = None
        if came == "":
            self._renew(me)
        elif came is not None:
            self._serve(came, me)

    def _begin_wait(self) -> list[str]:
        with self._lock:
            queues = [name for name in self._names if self._of_all or name in self._wants]
            self._heard = frozenset(queues)
        return queues

    def _outgrown(self) -> bool:
        """Return whether a claim waits for a queue that the listener is not registered for."""
        with self._lock:
            wants_more = self._of_all > 0 or not self._wants.keys() <= self._served
            return bool(self._served) and wants_more

    def _register(self) -> Registered:
        """Register for all queues that are wanted; who was before leaves afterwards."""
        ticket, before = new_ticket(), self._me
        with self._lock:
            served = frozenset(() if self._of_all else self._wants)
        registration = Registration(
            worker=MARK.join((KIND, self._host[:LONGEST_HOST], str(os.getpid()), ticket)),
            incarnation=ticket,
            slots=max(1, self.held()),
            queues=tuple(sorted(served)),
            host=self._host,
            pid=os.getpid(),
            type=KIND,
        )
        me = self._store.register(self._pool, registration)
        self._read_names(None)
        self._lease_s = me.lease_ms / 1000
        self._renew_at_s = self._clock.monotonic_s() + me.renew_ms / 1000
        self._me, self._served = me, served
        self._log.debug("registered", holder=me.holder)
        if before:
            self._leave_pool(before)
        return me

    def _read_names(self, version: int | None) -> None:
        names = tuple(self._inspector.queue_names(self._pool))
        with self._lock:
            self._names, self._names_version = names, version

    def _renew(self, me: Registered) -> None:
        """Prolong the lease; the answer also passes on wakes for which nobody is here any more."""
        answer = self._store.renew(self._pool, me.holder, held=0, number=0)
        if answer.word in (Word.LOST, Word.DISPLACED):
            self._log.warning("lease-lost", holder=me.holder)
            self._me, self._missed = None, True
            return
        self._renew_at_s = self._clock.monotonic_s() + answer.renew_ms / 1000
        self._lease_s = answer.lease_ms / 1000
        if answer.queues_version != self._names_version:
            self._read_names(answer.queues_version)
        if answer.draining:  # an operator wants it gone
            self._dismiss()
            self._me = None
            self._leave_pool(me)

    def _look(self) -> None:
        """Do what lost wakes would have asked for."""
        me = self._me
        for queue in self._inspector.offering(self._pool).ready:
            if me and self._first(queue, mark=False):
                self._serve(queue, me)
        self._missed = False

    def _serve(self, queue: str, me: Registered) -> None:
        """Let the first call that wants this queue claim; with none, others are to hear of it."""
        waiter = self._first(queue)
        if waiter is None:
            self._renew(me)
            return
        try:
            taken = claim_once(self._store, self._pool, waiter.wanted, waiter.ticket)
        except RedisUnavailable:
            self._put_back(waiter)  # with its ticket: what this claim got it gets again
            raise
        except NotFound:  # of the pool: nobody gets anything
            self._put_back(waiter, new=True)
            raise
        except DispatcherError as error:
            self._log.warning("claim-refused", worker=waiter.wanted.worker, reason=str(error))
            self._settle(waiter, Claimed(self._pool))
            self._renew(me)  # somebody else is to hear of it
            return
        if not taken.claims:
            self._put_back(waiter, new=True)
            if taken.holder:
                leave(self._store, self._pool, taken.holder)
            return
        self._settle(waiter, taken)
        close_to_claims(self._store, taken)

    def _first(self, queue: str, *, mark: bool = True) -> Waiter | None:
        with self._lock:
            for waiter in self._waiting:
                wanted = waiter.wanted.queues
                if not wanted or queue in wanted:
                    waiter.at = At.TRYING if mark else waiter.at
                    return waiter
        return None

    def _put_back(self, waiter: Waiter, *, new: bool = False) -> None:
        """Let a call wait on at its old place, unless it has left or we have closed meanwhile."""
        with self._lock:
            waiter.at = At.WAITING
            if new:
                waiter.ticket = new_ticket()
            leaves = waiter.leaves or self._closed
            if leaves:
                self._remove(waiter)
        if leaves and not waiter.was_lost:
            self._hand_over(waiter, Claimed(self._pool))

    def _settle(self, waiter: Waiter, taken: Claimed) -> None:
        with self._lock:
            self._remove(waiter)
            lost = waiter.was_lost
        if lost:
            self._give_back(taken)
        else:
            self._hand_over(waiter, taken)

    def _hand_over(self, waiter: Waiter, taken: Claimed) -> None:
        try:
            waiter.give(taken)
        except RuntimeError:  # the loop that waits for it has ended
            if taken.claims:
                self._give_back(taken)
