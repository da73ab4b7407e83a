"""What has happened since this process was first asked for metrics, counted from the events.

Steps do not count: each one would pay for it. A dispatcher that is asked for metrics follows the
events of all pools instead, and counts for itself. So every dispatcher counts the whole fleet, and
begins at 0 after a restart, as counters of Prometheus may.
"""

import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from dispatcher.clock import Clock
from dispatcher.errors import DispatcherError, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.stored import Event

# Upper bounds in seconds: a dispatch takes milliseconds, a fleet without free slots minutes.
BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0),
)
MOST_DUE = 100_000  # runs whose due time is remembered until they start
MOST_PLACES = 2_000  # pools and queues that are told apart; further ones count under OTHER
OTHER = "(other)"
BLOCK_S = 4.0
REST_S = 0.5  # so that a busy fleet is read in large pieces
PAGE_EVENTS = 500  # as many may mean that there are more
NAMES_EVERY_S = 15.0
AWAY_S = 1.0
ENDS = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

# Event to the counter it counts in; finishes are counted by the state that an event goes to.
COUNTED = {
    "submitted": "submitted",
    "dispatched": "dispatched",
    "claimed": "claimed",
    "started": "started",
    "released": "released",
    "retrying": "retried",
    "lost": "lost",
    "dead": "dead_lettered",
    "requeued": "requeued",
    "skipped": "skipped",
    "late": "late",
    "refused": "refused",
    "worker-lost": "workers_lost",
    "recovered": "workers_recovered",
}


class Place(NamedTuple):
    """What is told apart."""

    pool: str
    queue: str


class _Started(NamedTuple):
    """A start whose due time is still to be found."""

    pool: str
    run: str
    place: Place
    at_ms: int


class Histogram:
    """How often something took how long; `counts` has one more for what is above all bounds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, took_s: float) -> None:
        """Count one; what a clock made negative took no time."""
        took_s = max(0.0, took_s)
        self.counts[bisect_left(BUCKETS_S, took_s)] += 1
        self.sum_s += took_s

    def buckets(self) -> list[tuple[str, float]]:
        """Return the running totals by upper bound, as the exposition wants them."""
        total, found = 0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Counts:
    """The counters and histograms; `due_of` finds due times of runs that it has not heard of."""

    def __init__(self, due_of: Callable[[str, list[str]], list[int | None]]) -> None:
        self.events: dict[str, Counter[Place]] = {name: Counter() for name in COUNTED.values()}
        self.finished: Counter[tuple[Place, str]] = Counter()
        self.due_to_dispatch: dict[Place, Histogram] = {}
        self.due_to_start: dict[Place, Histogram] = {}
        self.lock = threading.Lock()
        self._due_of = due_of
        self._due_ms: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._places: set[Place] = set()

    def count(self, events: Iterable[Event]) -> None:
        """Take in what has happened, in order."""
        unknown: list[_Started] = []
        with self.lock:
            for event in events:
                self._count_one(event, unknown)
        found = self._found(unknown)
        with self.lock:
            for each in unknown:
                due_ms = found.get((each.pool, each.run))
                if due_ms is not None:
                    _observe(self.due_to_start, each.place, each.at_ms - due_ms)

    def _count_one(self, event: Event, unknown: list[_Started]) -> None:
        fields, name = event.fields, event.fields.get("event", "")
        place = self._place(event.pool, fields.get("queue", ""))
        at_ms = int(fields["at_ms"])
        if name in COUNTED:
            self.events[COUNTED[name]][place] += 1
        if fields.get("to") in ENDS:
            self.finished[place, fields["to"]] += 1
        run, due_ms = fields.get("run"), fields.get("due_ms")
        if run and due_ms:
            self._due_ms[event.pool, run] = int(float(due_ms))
            self._due_ms.move_to_end((event.pool, run))
            if len(self._due_ms) > MOST_DUE:
                self._due_ms.popitem(last=False)
        if name == "dispatched" and due_ms:
            _observe(self.due_to_dispatch, place, at_ms - int(float(due_ms)))
        elif name == "started" and run:
            known_ms = self._due_ms.pop((event.pool, run), None)
            if known_ms is None:
                unknown.append(_Started(event.pool, run, place, at_ms))
            else:
                _observe(self.due_to_start, place, at_ms - known_ms)

    def _place(self, pool: str, queue: str) -> Place:
        place = Place(pool, queue)
        if place in self._places:
            return place
        if len(self._places) >= MOST_PLACES:
            return Place(OTHER, OTHER)
        self._places.add(place)
        return place

    def _found(self, unknown: list[_Started]) -> dict[tuple[str, str], int | None]:
        by_pool: dict[str, list[str]] = {}
        for each in unknown:
            by_pool.setdefault(each.pool, []).append(each.run)
        return {
            (pool, run): due_ms
            for pool, runs in by_pool.items()
            for run, due_ms in zip(runs, self._due_of(pool, runs), strict=True)
        }


class Follower:
    """Reads the events of all pools from the moment it is started, on a thread of its own."""

    def __init__(self, inspector: Inspector, *, clock: Clock | None = None) -> None:
        self.counts = Counts(self._due_of)
        self._inspector = inspector
        self._clock = clock or Clock()
        self._stop = threading.Event()
        self._pools: list[str] = []
        self._after: dict[str, str] = {}  # of pools that are gone, too: one may come back
        self._names_at_s = float("-inf")
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._log = logger()

    def begin(self) -> None:
        """Take this moment as the beginning, by the server's clock."""
        self._read_names()

    def start(self) -> None:
        """Begin, and follow; raises RedisUnavailable, and may then be started again."""
        self.begin()
        self._thread.start()

    def stop(self) -> None:
        """Follow no more; what it blocks on ends by itself."""
        self._stop.set()

    def follow(self, *, block_s: float = 0.0) -> int:
        """Count what has happened since the last time; return how many events that were."""
        if self._clock.monotonic_s() - self._names_at_s > NAMES_EVERY_S:
            self._read_names()
        if not self._pools:
            return 0
        after = {pool: self._after[pool] for pool in self._pools}
        events = self._inspector.events_of(after, timeout_s=block_s)
        for event in events:
            self._after[event.pool] = event.id
        self.counts.count(events)
        return len(events)

    def _read_names(self) -> None:
        self._pools = self._inspector.pool_names()
        is_first = self._names_at_s == float("-inf")
        for name in [name for name in self._pools if name not in self._after]:
            # A pool that comes later is counted from its beginning.
            self._after[name] = self._inspector.last_event(name) if is_first else "0"
        self._names_at_s = self._clock.monotonic_s()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                found = self.follow(block_s=BLOCK_S)
                pause_s = 0.0 if found >= PAGE_EVENTS else REST_S
            except RedisUnavailable:
                pause_s = AWAY_S
            except DispatcherError as error:
                self._log.warning("metrics-stopped", reason=str(error))
                return
            self._stop.wait(pause_s)

    def _due_of(self, pool: str, runs: list[str]) -> list[int | None]:
        found = {run.id: run.due_ms for run in self._inspector.records(pool, runs)}
        return [found.get(run) for run in runs]


def _observe(histograms: dict[Place, Histogram], place: Place, took_ms: float) -> None:
    histograms.setdefault(place, Histogram()).observe(took_ms / 1000)
