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
SAMPLES_S = 10.0  # how long a sample of the server's clock is good: clocks drift apart
STEP_MS = 50.0


class ServerTime:
    """An estimate of the server's clock from its answers, so that waiting sends no command.

    A sample is the server's time less our own time when we asked: too high by as long as the
    question took to arrive, so the lowest of the last ones is the best. What is sent when that
    one says "due" arrives when it is due. If it was ever too early, the answer is a lower sample.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque()  # each lower than those behind it

    def learn(self, server_us: int, *, asked_s: float) -> None:
        """Take in the time of an answer to a question that was sent at `asked_s` (monotonic)."""
        offset_ms = server_us / 1000 - asked_s * 1000
        if self._samples and offset_ms > self._samples[0][1] + STEP_MS:
            self._samples.clear()  # its clock was set forward, or the question was long under way
        while self._samples and self._samples[0][0] < asked_s - SAMPLES_S:
            self._samples.popleft()
        while self._samples and self._samples[-1][1] >= offset_ms:
            self._samples.pop()
        self._samples.append((asked_s, offset_ms))

    def now_ms(self) -> float:
        """Return the server's time; 0 when nothing is known yet."""
        return self._clock.monotonic_s() * 1000 + self._samples[0][1] if self._samples else 0.0


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
            asked_s = self._clock.monotonic_s()
            try:
                answer = self._store.dispatch(pool, batch)
            except NotFound:
                self._forget(pool)
                return
            self._time.learn(answer.now_us, asked_s=asked_s)
            self._note(pool, batch, answer)
            todo += answer.more

    def _note(self, pool: str, batch: Sequence[str], answer: Dispatched) -> None:
        for queue in batch:
            due_ms = answer.next_due_ms.get(queue)
            self._due_ms.pop((pool, queue), None)
            if due_ms is not None and queue not in answer.more:
                self._due_ms[pool, queue] = due_ms
        for moved in answer.moved:
            self._log_moved(pool, moved, answer.now_us // 1000)

    def _log_moved(self, pool: str, moved: Moved, now_ms: int) -> None:
        late_ms = now_ms - moved.due_ms
        where = {"pool": pool, "queue": moved.queue}
        self._log.info("dispatched", **where, run=moved.run_id, late_ms=late_ms)

    def _forget(self, pool: str) -> None:
        for place in [place for place in self._due_ms if place[0] == pool]:
            del self._due_ms[place]
        if pool not in self._only and pool in self._rotation:
            self._rotation.remove(pool)
