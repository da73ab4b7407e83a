"""What Prometheus scrapes: /metrics. Gauges are read from Redis while it waits for the answer."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from dispatcher.errors import DispatcherError
from dispatcher.http.access import Requests
from dispatcher.http.counting import Counts, Follower, Histogram, Place
from dispatcher.http.doors import Doors, doors_of
from dispatcher.measuring import PoolMeasure, QueueMeasure, measure

router = APIRouter(tags=["health"])
PLACE = ("pool", "queue")
Value = float | int | None

_POOL_GAUGES: tuple[tuple[str, str, Callable[[PoolMeasure], Value]], ...] = (
    ("pool_slots_held", "Claimed runs of the pool.", lambda p: p.claimed),
    ("pool_slots_limit", "The pool's limit; not there without one.", lambda p: p.limit),
    ("pool_paused", "1 while the pool is paused.", lambda p: int(p.is_paused)),
    ("pool_queues", "Queues of the pool.", lambda p: p.queue_count),
    ("dead_letters", "Runs that were set aside and are kept.", lambda p: p.dead),
    ("worker_slots", "Slots of all workers that serve.", lambda p: p.worker_slots),
)
_QUEUE_GAUGES: tuple[tuple[str, str, Callable[[QueueMeasure], Value]], ...] = (
    ("scheduled_runs", "Runs that are not due yet.", lambda q: q.scheduled),
    ("due_runs", "Runs that are due and in no stream yet.", lambda q: q.due),
    ("waiting_runs", "Due runs that wait for their deployment's slot.", lambda q: q.waiting),
    ("unclaimed_runs", "Runs in the stream that nobody has claimed.", lambda q: q.unclaimed),
    ("claimed_runs", "Runs that a worker has.", lambda q: q.claimed),
    (
        "unserved_runs",
        "Runs that are due, in the stream or not, while no live worker serves their queue.",
        lambda q: 0 if q.is_served else q.due + q.unclaimed,
    ),
    ("queue_slots_limit", "The queue's limit; not there without one.", lambda q: q.limit),
    ("queue_paused", "1 while the queue is paused.", lambda q: int(q.is_paused)),
)
_COUNTERS = {
    "submitted": ("runs_submitted", "Runs that were accepted."),
    "dispatched": ("runs_dispatched", "Runs that were put into their stream."),
    "claimed": ("runs_claimed", "Runs that a worker claimed."),
    "started": ("runs_started", "Runs that were started, retries as well."),
    "released": ("runs_released", "Runs that were given back unfinished."),
    "retried": ("runs_retried", "Runs that failed and are tried again."),
    "lost": ("runs_lost", "Runs that were taken back from a dead worker and are tried again."),
    "dead_lettered": ("runs_dead_lettered", "Runs that were set aside."),
    "requeued": ("runs_requeued", "Runs that came back out of the dead letters."),
    "skipped": ("runs_skipped", "Runs that a rule cancelled instead of running them."),
    "late": ("runs_late", "Runs that nobody had started in time."),
    "refused": ("refusals", "Requests that were refused, such as a finish with an old token."),
    "workers_lost": ("workers_lost", "Workers whose lease ended."),
    "workers_recovered": ("workers_recovered", "Workers from whom everything was taken back."),
}
_OF_POOLS = frozenset({"workers_lost", "workers_recovered"})


class Metrics:
    """The registry of one app; counts from the first scrape on."""

    def __init__(self, doors: Doors) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._doors = doors
        self._follower: Follower | None = None
        self._lock = threading.Lock()
        self.registry.register(_Fleet(self))
        self.registry.register(_Loops(doors))
        ProcessCollector(registry=self.registry)

    @property
    def counts(self) -> Counts | None:
        """What was counted so far; None before the first scrape."""
        return self._follower.counts if self._follower else None

    def measured(self) -> list[PoolMeasure]:
        """Return what is where now; the first call begins to count. Raises DispatcherError."""
        with self._lock:
            if self._follower is None and not self._doors.stopping.is_set():
                follower = Follower(self._doors.open_inspector())
                follower.start()
                self._follower = follower
                self._doors.when_stopped(follower.stop)
        return measure(self._doors.inspector)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that suits a scraper, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


def metrics_of(app: Any) -> Metrics:
    """Return the metrics of an app; made when they are first asked for."""
    if not hasattr(app.state, "metrics"):
        app.state.metrics = Metrics(app.state.doors)
        app.state.metrics.registry.register(_Asked(app.state))
    found: Metrics = app.state.metrics
    return found


def register(app: Any, collector: Any) -> None:
    """Have a collector of another part, with a `collect()`, among what is scraped."""
    metrics_of(app).registry.register(collector)


@router.get(
    "/metrics",
    summary="What Prometheus scrapes.",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Answer with all metrics; without Redis `dispatcher_redis_up` is 0 and gauges are left out."""
    doors = doors_of(request)
    found = metrics_of(request.app)
    body, media_type = await doors.do(found.exposition, request.headers.get("accept", ""))
    return Response(body, media_type=None, headers={"Content-Type": media_type})


class _Fleet:
    """What is in Redis now, and what was counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Read Redis once and tell all that comes from there."""
        try:
            pools, is_up = self._metrics.measured(), 1
        except DispatcherError:
            pools, is_up = [], 0
        yield GaugeMetricFamily("dispatcher_redis_up", "1 when Redis answered.", value=is_up)
        yield from _pool_metrics(pools)
        yield from _queue_metrics(pools)
        if (counts := self._metrics.counts) is not None:
            with counts.lock:
                yield from list(_count_metrics(counts))


class _Loops:
    """When the loops of this dispatcher last turned."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def collect(self) -> Iterator[Metric]:
        """Tell the last turn of each loop; one that has not turned yet is left out."""
        family = GaugeMetricFamily(
            "dispatcher_loop_last_turn_timestamp_seconds",
            "When a loop of this dispatcher last turned, since the epoch.",
            labels=("loop",),
            unit="seconds",
        )
        heartbeats = self._doors.heartbeats
        for loop, turn in (heartbeats.turns() if heartbeats else {}).items():
            if turn is not None:
                family.add_metric((loop,), turn.at_ms / 1000)
        yield family


class _Asked:
    """What was asked of this dispatcher over HTTP, and who waits for an answer."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Tell the requests by route and status, and held claims; no route: asked in vain."""
        family = CounterMetricFamily(
            "dispatcher_http_requests",
            "Requests that this dispatcher has answered, by route and status.",
            labels=("route", "status"),
        )
        requests: Requests = self._state.requests
        for (route, status), count in sorted(requests.copy().items()):
            family.add_metric((route, str(status)), count)
        yield family
        held = GaugeMetricFamily(
            "dispatcher_held_claims",
            "Claims over HTTP that wait at this dispatcher.",
            labels=("pool",),
        )
        holding = getattr(self._state, "holding", None)  # made with the first claim
        for pool, count in sorted(holding.held().items() if holding else ()):
            held.add_metric((pool,), count)
        yield held


def _pool_metrics(pools: Iterable[PoolMeasure]) -> Iterator[Metric]:
    for name, text, read in _POOL_GAUGES:
        family = GaugeMetricFamily(f"dispatcher_{name}", text, labels=("pool",))
        for pool in pools:
            _add(family, (pool.name,), read(pool))
        yield family
    family = GaugeMetricFamily(
        "dispatcher_workers",
        "Workers by what they run and their state; a claim over HTTP is one that is `holding`.",
        labels=("pool", "type", "state"),
    )
    for pool in pools:
        for (kind, state), count in sorted(pool.workers.items()):
            family.add_metric((pool.name, kind, state), count)
    yield family


def _queue_metrics(pools: Iterable[PoolMeasure]) -> Iterator[Metric]:
    for name, text, read in _QUEUE_GAUGES:
        family = GaugeMetricFamily(f"dispatcher_{name}", text, labels=PLACE)
        for pool in pools:
            for queue in pool.queues:
                _add(family, (pool.name, queue.name), read(queue))
        yield family
    family = GaugeMetricFamily(
        "dispatcher_oldest_due_run_age_seconds",
        "How long the first run that nobody has claimed has been due; 0 when none is due. "
        "Runs that wait for their deployment's slot do not count.",
        labels=PLACE,
        unit="seconds",
    )
    for pool in pools:
        for queue in pool.queues:
            due_ms = pool.now_ms if queue.oldest_due_ms is None else queue.oldest_due_ms
            family.add_metric((pool.name, queue.name), max(0, pool.now_ms - due_ms) / 1000)
    yield family


def _count_metrics(counts: Counts) -> Iterator[Metric]:
    for word, (name, text) in _COUNTERS.items():
        labels = ("pool",) if word in _OF_POOLS else PLACE
        family = CounterMetricFamily(f"dispatcher_{name}", text, labels=labels)
        for place, count in sorted(counts.events[word].items()):
            family.add_metric(place[: len(labels)], count)
        yield family
    family = CounterMetricFamily(
        "dispatcher_runs_finished", "Runs that ended, by final state.", labels=(*PLACE, "state")
    )
    for (place, state), count in sorted(counts.finished.items()):
        family.add_metric((*place, state.lower()), count)
    yield family
    yield _histogram(
        "due_to_dispatch", "From a run's due time to its stream.", counts.due_to_dispatch
    )
    yield _histogram("due_to_start", "From a run's due time to its start.", counts.due_to_start)


def _histogram(name: str, text: str, histograms: dict[Place, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"dispatcher_{name}_seconds", text, labels=PLACE, unit="seconds")
    for place, histogram in sorted(histograms.items()):
        family.add_metric(place, histogram.buckets(), sum_value=histogram.sum_s)
    return family


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: Value) -> None:
    if value is not None:
        family.add_metric(labels, value)
