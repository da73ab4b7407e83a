"""A crowded pool beside an empty one: is an idle queue as punctual, does a freed slot pass on?

100,000 scheduled runs over 50 queues and 20 deployments with limits; 10,000 of them are due and
wait for their deployment.
"""

import time
from itertools import groupby
from typing import Any
from uuid import uuid4

from bench.figures import Figure
from bench.fixture import (
    answer,
    create_pool,
    dispatch,
    empty_server,
    late_ms,
    peer,
    quantile,
    ready,
    submission,
    submit,
)
from bench.slowlog import SlowLog
from dispatcher import Inspector, Queue

SCHEDULED, WAITING, QUEUES, DEPLOYMENTS, LIMIT = 100_000, 10_000, 50, 20, 2
RUNS, EVERY_MS, LEAD_MS, ROUNDS = 500, 10, 2_000, 3
HOLD_MS = EVERY_MS * DEPLOYMENTS * LIMIT  # so that runs end as often as others come due
EMPTY, CROWDED, IDLE = "empty", "crowded", "idle"
HOUR_MS = 3_600_000


TITLE = (
    f"{SCHEDULED:,} scheduled runs over {QUEUES} queues and {DEPLOYMENTS} deployments with limits, "
    f"{WAITING:,} of them waiting; ms"
)


class Crowd:
    """The two pools on a server of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._slow = SlowLog(url)
        self._store = empty_server(url)
        self._deployment: dict[str, str] = {}
        for pool in (EMPTY, CROWDED):
            create_pool(self._store, pool)
            self._store.create_queue(_queue(pool, IDLE))
        self._fill()

    def _fill(self) -> None:
        """Accept everything; what waits is spread so that each deployment waits in each queue."""
        queues = [f"q{i}" for i in range(QUEUES)]
        deployments = [str(uuid4()) for _ in range(DEPLOYMENTS)]
        for name in queues:
            self._store.create_queue(_queue(CROWDED, name))
        for deployment in deployments:
            self._store.set_deployment(CROWDED, deployment, LIMIT)
        now_ms = int(time.time() * 1000)
        # Those that run, those that the rounds let in, and as many as are to wait after that.
        due = WAITING + DEPLOYMENTS * LIMIT + (RUNS + DEPLOYMENTS * LIMIT) * ROUNDS
        for first in range(0, SCHEDULED - WAITING + due, 1_000):
            runs = []
            for i in range(first, min(first + 1_000, SCHEDULED - WAITING + due)):
                places = queues[i % QUEUES], deployments[i // QUEUES % DEPLOYMENTS]
                runs.append(submission(now_ms + (0 if i < due else HOUR_MS + i), *places))
                self._deployment[runs[-1].run_id] = places[1]
            submit(self._store, runs, CROWDED)
        dispatch(self._store, queues, CROWDED)
        waiting = sum(d.waiting for d in self._inspector().deployments(CROWDED))
        assert waiting >= WAITING + RUNS * ROUNDS, waiting

    def _inspector(self) -> Inspector:
        return Inspector(self._store.connection, self._store.prefix)

    def punctual(self) -> tuple[list[float], list[float]]:
        """Return how late (ms) runs of an idle queue start: in the empty pool, in the crowded one.

        The runs of the two pools come due in turns, so that whatever else the machine does
        falls on both.
        """
        workers = [peer("worker", self.url, str(RUNS), pool, IDLE) for pool in (EMPTY, CROWDED)]
        for worker in workers:
            ready(worker)
        first_ms = int(time.time() * 1000) + LEAD_MS
        for number, pool in enumerate((EMPTY, CROWDED)):
            offset_ms = first_ms + number * EVERY_MS // 2
            runs = [submission(offset_ms + i * EVERY_MS, IDLE) for i in range(RUNS)]
            submit(self._store, runs, pool)
        empty, crowded = (late_ms(answer(worker)) for worker in workers)
        return empty, crowded

    def freed(self) -> list[float]:
        """Return how long (ms) after the end of a run the next one of its deployment started.

        With a limit of n the end of the k-th run lets the one start that is n places behind it.
        """
        worker = peer("worker", self.url, str(RUNS), CROWDED, "", str(HOLD_MS))
        ready(worker)
        ran = answer(worker)
        gaps: list[float] = []
        for started_ms, ended_ms in _by_deployment(ran, self._deployment):
            gaps += [s - e for s, e in zip(started_ms[LIMIT:], ended_ms, strict=False)]
        return gaps

    def longest_script(self) -> Figure:
        """Return the longest script since the beginning."""
        return self._slow.longest()


def measure(url: str) -> list[Figure]:
    """Fill the pools and measure in rounds."""
    crowd = Crowd(url)
    dispatcher = peer("dispatcher", url, "info", silent=True)
    ready(dispatcher)
    rounds = [(*crowd.punctual(), crowd.freed()) for _ in range(ROUNDS)]
    answer(dispatcher)
    empty, crowded, freed = zip(*rounds, strict=True)
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        in_empty, in_crowded, after_end = (
            [quantile(each, share) for each in kind] for kind in (empty, crowded, freed)
        )
        figures += [
            Figure(f"due to start, {name}", in_crowded, in_empty, ratio_at_most=1.2, digits=2),
            Figure(f"end to next start, {name}", after_end, in_crowded, ratio_at_most=3, digits=2),
        ]
    return [*figures, crowd.longest_script()]


def _queue(pool: str, name: str) -> Queue:
    return Queue(name, pool, str(uuid4()), priority=0)


def _by_deployment(
    ran: dict[str, list[Any]], deployment: dict[str, str]
) -> list[tuple[list[float], list[float]]]:
    """Return the sorted starts and the sorted ends of each deployment's runs."""
    rows = sorted(
        zip(
            (deployment[run] for run in ran["run"]), ran["started_ms"], ran["ended_ms"], strict=True
        )
    )
    found = []
    for _, group in groupby(rows, key=lambda row: row[0]):
        mine = list(group)
        found.append((sorted(row[1] for row in mine), sorted(row[2] for row in mine)))
    return found
