"""Submitting, dispatching and draining 20,000 runs, beside bare loops of the same scripts."""

import time
from typing import Any

from bench.fixture import POOL, PREFIX, answer, fresh_pool, peer, ready, submission
from dispatcher import Inspector, Store
from dispatcher.producer import Producer
from dispatcher.records import Submission

RUNS, BATCH = 20_000, 100


def submit_ours(url: str, runs: list[Submission]) -> float:
    """Return runs per second through the producer: parsed, checked, resolved, accepted."""
    store = fresh_pool(url)
    producer = Producer(store, Inspector(store.connection, PREFIX))
    began_s = time.monotonic()
    answers: list[Any] = list(producer.submit_many([r.payload for r in runs], pool=POOL))
    took_s = time.monotonic() - began_s
    if any(isinstance(a, Exception) for a in answers):
        raise RuntimeError(f"a run was refused: {next(a for a in answers)}")
    return len(runs) / took_s


def submit_bare(url: str, runs: list[Submission]) -> float:
    """Return runs per second of the bare submit step, in the same batches."""
    store = fresh_pool(url)
    began_s = time.monotonic()
    _submit(store, runs)
    return len(runs) / (time.monotonic() - began_s)


def dispatch(url: str, runs: list[Submission]) -> float:
    """Return runs per second that dispatch moves, one caller."""
    store = fresh_pool(url)
    _submit(store, runs)
    began_s = time.monotonic()
    _dispatch(store)
    return len(runs) / (time.monotonic() - began_s)


def drain(url: str, runs: list[Submission], *, who: str) -> float:
    """Return runs per second of one process: `worker` (ours) or `bare_loop`."""
    store = fresh_pool(url)
    _submit(store, runs)
    _dispatch(store)
    process = peer(who, url, str(len(runs)))
    ready(process)
    return len(runs) / answer(process)["took_s"][0]


def make_runs() -> list[Submission]:
    """Return the runs of one round."""
    return [submission() for _ in range(RUNS)]


def _submit(store: Store, runs: list[Submission]) -> None:
    for i in range(0, len(runs), BATCH):
        store.submit_many(POOL, runs[i : i + BATCH])


def _dispatch(store: Store) -> None:
    while store.dispatch(POOL, ["default"]).more:
        pass
