"""Dispatching: move what is due into the streams, and know when to look next.

Any number of dispatchers do this side by side, none special: the step is atomic, whoever comes
first moves the run and the others find nothing. Between two due times a dispatcher only waits;
submits and claims that matter to it publish a hint, and a slow sweep is the net under the hints.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from dispatcher.clock import Clock
from dispatcher.errors import NotFound, RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.records import Dispatched, Hint, Moved
from dispatcher.store import Store

QUEUES_PER_CALL = 100
RUNS_PER_STEP = 10  # a quarter of a millisecond of the server, for which everybody else waits
LATE_PER_STEP, LATE_EVERY_S = 50, 0.005  # 10,000 a second: more than start meanwhile
POOL_NAMES_EVERY_S = 60.0
SAMPLES_S = 10.0  # how long a sample of the server's clock is good: clocks drift apart
STEP_MS = 50.0
AWAY_S = 0.5  # until a node of a cluster that is away is asked again


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
        self._times: dict[object, ServerTime] = {}
        self._away: dict[str, float] = {}  # pools whose node is away, and when to look again
        self._due_ms: dict[tuple[str, str], float] = {}
        self._late_at_ms: dict[str, float] = {}
        self._watched_s: dict[str, float] = {}
        self._rotation: deque[str] = deque()
        self._names_read_s = float("-inf")
        self._sweep_at_s = 0.0
        self._log = logger()

    def pools(self) -> list[str]:
        """Return the pools that are served now."""
        return sorted(self._rotation)

    def hear(self, hint: Hint) -> None:
        """Take in a hint: look at that queue, or at all of the pool, no later than its due time."""
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
            self._apart(pool, partial(self._look, pool))
        self._sweep_at_s = self._clock.monotonic_s() + self._sweep_s

    def run_once(self, is_called: Callable[[], bool] = lambda: False) -> float:
        """Dispatch what is due and return for how many seconds there is nothing to do.

        Pools take turns, so that many runs of one hold up no other. Ends between two rounds when
        `is_called` says that there is something to hear, or a sweep is due.
        """
        now_s = self._clock.monotonic_s()
        if now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + self._sweep_s
            self._sweep()
        for pool in [pool for pool, again_s in self._away.items() if again_s <= now_s]:
            self._apart(pool, partial(self._look, pool))
        while self._take_turns():
            if is_called() or self._clock.monotonic_s() >= self._sweep_at_s:
                break
        return self._idle_s()

    def _take_turns(self) -> bool:
        """Do one step for each pool that has something due; return whether any has."""
        due = self._due()
        for pool, queues in due.items():
            look, dispatch = partial(self._look, pool), partial(self._dispatch, pool, queues)
            self._apart(pool, look if "" in queues else dispatch)
        for pool in [p for p, at_ms in self._late_at_ms.items() if at_ms <= self._now_ms(p)]:
            self._apart(pool, partial(self._watch, pool))
        return bool(due)

    def _due(self) -> dict[str, list[str]]:
        """Return the queues that it is time to look at, by pool."""
        found: dict[str, list[str]] = {}
        now_ms = dict.fromkeys(self._away, -math.inf)
        for (pool, queue), due_ms in self._due_ms.items():
            if pool not in now_ms:
                now_ms[pool] = self._now_ms(pool)
            if due_ms <= now_ms[pool]:
                found.setdefault(pool, []).append(queue)
        return found

    def _idle_s(self) -> float:
        first_ms = dict(self._late_at_ms)
        for (pool, _), due_ms in self._due_ms.items():
            first_ms[pool] = min(due_ms, first_ms.get(pool, due_ms))
        now_s = self._clock.monotonic_s()
        waits_s = [self._sweep_at_s - now_s, *(at_s - now_s for at_s in self._away.values())]
        pools = first_ms.keys() - self._away.keys()
        waits_s += [(first_ms[pool] - self._now_ms(pool)) / 1000 for pool in pools]
        return max(0.0, min(waits_s))

    def _time_of(self, pool: str) -> ServerTime:
        """Return the clock of the server that has a pool; in a cluster each node has its own."""
        server = self._store.at(pool)
        if server not in self._times:
            self._times[server] = ServerTime(self._clock)
        return self._times[server]

    def _now_ms(self, pool: str) -> float:
        # What is due on a server that was never asked is not known, so it is asked.
        return self._time_of(pool).now_ms() or math.inf

    def _apart(self, pool: str, step: Callable[[], None]) -> None:
        """Do a step for a pool; a node of a cluster that is away must not hold up other pools.

        So no more than half of the time goes into asking it.
        """
        asked_s = self._clock.monotonic_s()
        try:
            step()
        except RedisUnavailable as error:
            self._check_apart(error)
            if pool not in self._away:
                self._log.warning("redis-away", pool=pool, reason=str(error))
            self._forget_moments(pool)
            now_s = self._clock.monotonic_s()
            self._away[pool] = now_s + max(AWAY_S, now_s - asked_s)
        else:
            if self._away.pop(pool, None):
                self._log.info("redis-back", pool=pool)

    def _check_apart(self, error: RedisUnavailable) -> None:
        """Raise an outage of all that there is: there is one server, or it is a refusal."""
        if isinstance(error, RedisRefused) or not self._store.connection.cluster:
            raise error

    def _sweep(self) -> None:
        if self._clock.monotonic_s() - self._names_read_s > POOL_NAMES_EVERY_S:
            self._read_names()
        if self._rotation:
            pool = self._rotation[0]
            self._rotation.rotate(-1)
            if pool not in self._away:
                self._apart(pool, partial(self._look, pool))

    def _read_names(self) -> None:
        self._names_read_s = self._clock.monotonic_s()
        try:
            names = set(self._only or self._inspector.pool_names())
        except RedisUnavailable as error:
            self._check_apart(error)
            self._log.warning("redis-away", what="the list of pools", reason=str(error))
            self._names_read_s = float("-inf")
            names = set(self._rotation)
        known = [pool for pool in self._rotation if pool in names]
        new = sorted(names.difference(known))
        self._rotation = deque([*known, *new])
        if new:
            self._on_new_pool()

    def _look(self, pool: str) -> None:
        self._due_ms.pop((pool, ""), None)
        if queues := self._inspector.queue_names(pool):
            self._dispatch(pool, queues)

    def _dispatch(self, pool: str, queues: Sequence[str]) -> None:
        """Do one step; what it leaves is due at the next turn."""
        batch, rest = queues[:QUEUES_PER_CALL], queues[QUEUES_PER_CALL:]
        asked_s = self._clock.monotonic_s()
        try:
            answer = self._store.dispatch(pool, batch, limit=RUNS_PER_STEP)
        except NotFound:
            self._forget(pool)
            return
        self._time_of(pool).learn(answer.now_us, asked_s=asked_s)
        self._note(pool, batch, answer)
        self._due_ms |= {(pool, queue): 0.0 for queue in (*answer.more, *rest)}
        for queue in answer.withdraw:
            self._store.withdraw(pool, queue)

    def _watch(self, pool: str) -> None:
        """Announce what is late, some at a time: that may wait for what is due."""
        self._watched_s[pool] = self._clock.monotonic_s()
        try:
            answer = self._store.watch(pool, limit=LATE_PER_STEP)
        except NotFound:
            self._forget(pool)
            return
        self._set_late_at(pool, answer.late_at_ms)
        for run_id, queue in answer.late:
            self._log.warning("late", pool=pool, queue=queue, run=run_id)
        for queue in answer.unserved:
            self._log.warning("unserved", pool=pool, queue=queue, reason="no live worker serves it")

    def _set_late_at(self, pool: str, at_ms: int | None) -> None:
        self._late_at_ms.pop(pool, None)
        if at_ms is not None:
            since_s = self._clock.monotonic_s() - self._watched_s.get(pool, -math.inf)
            rest_ms = max(0.0, LATE_EVERY_S - since_s) * 1000
            self._late_at_ms[pool] = max(at_ms, self._now_ms(pool) + rest_ms) if rest_ms else at_ms

    def _note(self, pool: str, batch: Sequence[str], answer: Dispatched) -> None:
        for queue in batch:
            due_ms = answer.next_due_ms.get(queue)
            self._due_ms.pop((pool, queue), None)
            if due_ms is not None:
                self._due_ms[pool, queue] = due_ms
        self._set_late_at(pool, answer.late_at_ms)
        for moved in answer.moved:
            self._log_moved(pool, moved, answer.now_us // 1000)
        for run_id, queue in answer.waiting:
            self._log.info("waiting", pool=pool, queue=queue, run=run_id, reason="deployment limit")
        for gone in answer.skipped:
            where = {"pool": pool, "queue": gone.queue, "run": gone.run_id}
            self._log.warning("skipped", **where, reason=gone.reason)

    def _log_moved(self, pool: str, moved: Moved, now_ms: int) -> None:
        late_ms = now_ms - moved.due_ms
        where = {"pool": pool, "queue": moved.queue}
        self._log.info("dispatched", **where, run=moved.run_id, late_ms=late_ms)

    def _forget_moments(self, pool: str) -> None:
        for place in [place for place in self._due_ms if place[0] == pool]:
            del self._due_ms[place]
        self._late_at_ms.pop(pool, None)
        self._watched_s.pop(pool, None)

    def _forget(self, pool: str) -> None:
        self._forget_moments(pool)
        if pool not in self._only and pool in self._rotation:
            self._rotation.remove(pool)
