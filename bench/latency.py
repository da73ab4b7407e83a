"""From due to started, beside the least that a stream can do."""

import time

from bench.fixture import (
    answer,
    fresh_pool,
    late_ms,
    peer,
    quantile,
    ready,
    submission,
    submit,
)

RUNS, EVERY_MS, LEAD_MS = 500, 10, 2_000


def bare(url: str) -> list[float]:
    """Return how late (ms) each entry was read: a timer, XADD, a blocked XREADGROUP."""
    fresh_pool(url)
    consumer = peer("bare_consumer", url, str(RUNS))
    ready(consumer)
    first_ms = int(time.time() * 1000) + LEAD_MS
    producer = peer("bare_producer", url, str(first_ms), str(RUNS), str(EVERY_MS))
    late: list[float] = answer(consumer)["late_ms"]
    answer(producer)
    return late


def ours(url: str) -> list[float]:
    """Return how late (ms) each run started: submitted ahead, dispatched, claimed, started."""
    store = fresh_pool(url)
    dispatcher = peer("dispatcher", url)
    ready(dispatcher)
    worker = peer("worker", url, str(RUNS))
    ready(worker)
    first_ms = int(time.time() * 1000) + LEAD_MS
    submit(store, [submission(first_ms + i * EVERY_MS) for i in range(RUNS)])
    late = late_ms(answer(worker))
    answer(dispatcher)
    return late


def summary(late: list[float]) -> dict[str, float]:
    """Return the figures of one round in ms."""
    return {
        "p50": quantile(late, 0.5),
        "p99": quantile(late, 0.99),
        "max": max(late),
        "earliest": min(late),
    }
