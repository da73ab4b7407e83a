"""Many runs that are due in the same second, and what another pool notices of them."""

import time
from typing import Any

from bench.figures import Figure
from bench.fixture import (
    answer,
    create_pool,
    empty_server,
    late_ms,
    peer,
    quantile,
    ready,
    submission,
    submit,
)
from bench.slowlog import SlowLog
from dispatcher import Store
from dispatcher.records import Submission

RUNS, HOUR_MS = 100_000, 3_600_000
EVERY_MS, BEFORE, LASTS_MS = 10, 500, 20_000  # the other pool's runs
BURST, OTHER = "burst", "other"
PAGE = 1_000


TITLE = f"{RUNS:,} runs due in the same second, and what another pool notices of them"


def measure(url: str) -> list[Figure]:
    """Let both pools run on one server, with one dispatcher and a worker each."""
    slow, store = SlowLog(url), empty_server(url)
    for pool in (BURST, OTHER):
        create_pool(store, pool)
    dispatcher = peer("dispatcher", url, "info", silent=True)
    other_runs = BEFORE + LASTS_MS // EVERY_MS
    workers = [peer("worker", url, str(RUNS), BURST), peer("worker", url, str(other_runs), OTHER)]
    for process in (dispatcher, *workers):
        ready(process)
    burst_ms = int(time.time() * 1000 + _lead_ms(store))
    ids = _submit_burst(store, burst_ms)
    _submit_other(store, burst_ms, other_runs)
    burst, other = map(answer, workers)
    answer(dispatcher)
    before, meanwhile = _split(other, burst_ms, max(burst["started_ms"]))
    took_s = (max(burst["ended_ms"]) - burst_ms) / 1000
    return [
        Figure("other pool: due to start, p50, ms", meanwhile[:1], before[:1], digits=2),
        Figure(
            "other pool: due to start, p99, ms",
            meanwhile[1:],
            before[1:],
            ratio_at_most=3,
            digits=2,
        ),
        Figure("dispatched and ended once", [_ran_once(store, ids, burst["run"])], at_least=RUNS),
        Figure("all of them, s", [took_s], digits=1),
        slow.longest(),
    ]


def _lead_ms(store: Store) -> float:
    """Return how long submitting everything takes here, with a margin; a page of runs tells."""
    began_s = time.monotonic()
    submit(store, [submission(int(time.time() * 1000) + HOUR_MS) for _ in range(PAGE)], OTHER)
    page_ms = (time.monotonic() - began_s) * 1000
    return 1.5 * page_ms * RUNS / PAGE + BEFORE * EVERY_MS + 3_000


def _submit_burst(store: Store, burst_ms: int) -> list[str]:
    ids: list[str] = []
    for _ in range(RUNS // PAGE):
        runs = [submission(burst_ms + i) for i in range(PAGE)]
        submit(store, runs, BURST)
        ids += [run.run_id for run in runs]
    return ids


def _submit_other(store: Store, burst_ms: int, count: int) -> None:
    first_ms = burst_ms - BEFORE * EVERY_MS
    left_ms = first_ms - time.time() * 1000
    if left_ms < 1_000:
        raise RuntimeError(f"submitting {RUNS:,} runs took {-left_ms / 1000:.0f} s too long")
    runs: list[Submission] = [submission(first_ms + i * EVERY_MS) for i in range(count)]
    submit(store, runs, OTHER)


def _split(other: dict[str, list[Any]], began_ms: float, ended_ms: float) -> list[list[float]]:
    """Return p50 and p99 of the runs that were due before the burst, and of those during it."""
    rows = list(zip(other["due_ms"], late_ms(other), strict=True))
    before = [late for due_ms, late in rows if due_ms < began_ms]
    meanwhile = [late for due_ms, late in rows if began_ms <= due_ms < ended_ms]
    return [[quantile(part, 0.5), quantile(part, 0.99)] for part in (before, meanwhile)]


def _ran_once(store: Store, ids: list[str], ran: list[str]) -> int:
    """Return how many runs ended, ran once by their record, and once by their worker."""
    keys, once = store.keys(BURST), 0
    if len(ran) != len(set(ran)):
        return 0
    for first in range(0, len(ids), PAGE):
        pipeline = store.connection.client.pipeline(transaction=False)
        for run_id in ids[first : first + PAGE]:
            pipeline.hmget(keys["run"] + run_id, "place", "run_count", "delivery", "state_type")
        once += sum(row == [b"ended", b"1", b"1", b"COMPLETED"] for row in pipeline.execute())
    return once
