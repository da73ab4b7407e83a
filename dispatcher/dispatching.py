"""Dispatching: move what is due into the streams, and know when to look next.

Any number of dispatchers do this side by side, none special: the step is atomic, whoever comes
first moves the run and the others find nothing. Between two due times a dispatcher only waits;
submits and claims that matter to it publish a hint, and a slow sweep is the net under the hints.
"""

from collections import deque
from collections.abc import Callable, Sequence

from dispatcher.clock import Clock
from dispatcher.errors import NotFound
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.records import Dispatched, Hint, Moved
from dispatcher.store import Store

QUEUES_PER_CALL = 100
POOL_NAMES_EVERY_S = 60.0


class ServerTime:
    """An estimate of the server's clock from its answers, so that waiting sends no command.

    An answer's time is rounded down and already old when it arrives, so the latest of several
    estimates is the best one; one that proves too late is forgotten.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ms: float | None = None

    def learn(self, server_ms: int, *, afresh: bool = False) -> None:
        """Take in the time of an answer; `afresh` forgets what was known before."""
        offset_ms = server_ms - self._clock.monotonic_s() * 1000
        if afresh or self._offset_ms is None or offset_ms > self._offset_ms:
            self._offset_ms = offset_ms

    def now_ms(self) -> float:
        """Return the server's time; 0 when nothing is known yet."""
        if self._offset_ms is None:
            return 0.0
        return self._clock.monotonic_s() * 1000 + self._offset_ms


class Dispatcher:
    """Dispatches the runs of some pools, or of all when `pools` is empty.

    `on_new_pool` is called when there is one more to serve.
    """

    def __init__(
        self,
        store: Store,
        inspector: Inspector,
        *,
        pools: Sequence[str] = (),
        sweep_s: float = 5.0,
        clock: Clock | None = None,
        on_new_pool: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._only = tuple(pools)
        self._sweep_s = sweep_s
        self._clock = clock or Clock()
        self._on_new_pool = on_new_pool
        self._time = ServerTime(self._clock)
        self._due_ms: dict[tuple[str, str], float] = {}
        self._rotation: deque[str] = deque()
        self._names_read_s = float("-inf")
        self._sweep_at_s = 0.0
        self._log = logger()

    def pools(self) -> list[str]:
        """Return the pools that are served now."""
        return sorted(self._rotation)

    def hear(self, hint: Hint) -> None:
        """Take in a hint: look at that queue no later than its due time."""
        if self._only and hint.pool not in self._only:
            return
        if hint.pool not in self._rotation:
            self._rotation.append(hint.pool)
            self._on_new_pool()
        place = (hint.pool, hint.queue)
        self._due_ms[place] = min(hint.due_ms, self._due_ms.get(place, hint.due_ms))

    def resync(self) -> None:
        """Look at every queue of every pool: hints may have been missed."""
        self._store.warm_up()
        self._due_ms.clear()
        self._read_names()
        for pool in list(self._rotation):
            self._look(pool)
        self._sweep_at_s = self._clock.monotonic_s() + self._sweep_s

    def run_once(self) -> float:
        """Dispatch what is due and return for how many seconds there is nothing to do."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + self._sweep_s
            self._sweep()
        by_pool: dict[str, list[str]] = {}
        now_ms = self._time.now_ms()
        for (pool, queue), due_ms in self._due_ms.items():
            if due_ms <= now_ms:
                by_pool.setdefault(pool, []).append(queue)
        for pool, queues in by_pool.items():
            self._dispatch(pool, queues)
        return self._idle_s()

    def _idle_s(self) -> float:
        until_sweep_s = self._sweep_at_s - self._clock.monotonic_s()
        if not self._due_ms:
            return max(0.0, until_sweep_s)
        until_due_s = (min(self._due_ms.values()) - self._time.now_ms()) / 1000
        return max(0.0, min(until_sweep_s, until_due_s))

    def _sweep(self) -> None:
        if self._clock.monotonic_s() - self._names_read_s > POOL_NAMES_EVERY_S:
            self._read_names()
        if self._rotation:
            pool = self._rotation[0]
            self._rotation.rotate(-1)
            self._look(pool)

    def _read_names(self) -> None:
        self._names_read_s = self._clock.monotonic_s()
        names = set(self._only or self._inspector.pool_names())
        known = [pool for pool in self._rotation if pool in names]
        new = sorted(names.difference(known))
        self._rotation = deque([*known, *new])
        if new:
            self._on_new_pool()

    def _look(self, pool: str) -> None:
        self._dispatch(pool, self._inspector.queue_names(pool))

    def _dispatch(self, pool: str, queues: Sequence[str]) -> None:
        todo = list(queues)
        while todo:
            batch, todo = todo[:QUEUES_PER_CALL], todo[QUEUES_PER_CALL:]
            try:
                answer = self._store.dispatch(pool, batch)
            except NotFound:
                self._forget(pool)
                return
            self._note(pool, batch, answer)
            todo += answer.more

    def _note(self, pool: str, batch: Sequence[str], answer: Dispatched) -> None:
        # Nothing was due although we thought so: our idea of the server's time was ahead.
        early = not answer.moved and self._time.now_ms() > answer.now_ms + 1
        self._time.learn(answer.now_ms, afresh=early)
        for queue in batch:
            due_ms = answer.next_due_ms.get(queue)
            self._due_ms.pop((pool, queue), None)
            if due_ms is not None and queue not in answer.more:
                self._due_ms[pool, queue] = due_ms
        for moved in answer.moved:
            self._log_moved(pool, moved, answer.now_ms)

    def _log_moved(self, pool: str, moved: Moved, now_ms: int) -> None:
        late_ms = now_ms - moved.due_ms
        where = {"pool": pool, "queue": moved.queue}
        self._log.info("dispatched", **where, run=moved.run_id, late_ms=late_ms)

    def _forget(self, pool: str) -> None:
        for place in [place for place in self._due_ms if place[0] == pool]:
            del self._due_ms[place]
        if pool not in self._only and pool in self._rotation:
            self._rotation.remove(pool)
