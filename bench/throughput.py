"""Submitting, dispatching and draining 20,000 runs, beside bare loops of the same scripts."""

import time
from typing import Any

from bench.fixture import (
    POOL,
    PREFIX,
    answer,
    dispatch,
    fresh_pool,
    peer,
    ready,
    submission,
    submit,
)
from dispatcher import Inspector
from dispatcher.producer import Producer
from dispatcher.records import Submission

RUNS = 20_000


def submit_ours(url: str, runs: list[Submission]) -> float:
    """Return runs per second through the producer: parsed, checked, resolved, accepted."""
    store = fresh_pool(url)
    producer = Producer(store, Inspector(store.connection, PREFIX))
    began_s = time.monotonic()
    answers: list[Any] = list(producer.submit_many([r.payload for r in runs], pool=POOL))
    took_s = time.monotonic() - began_s
    if any(isinstance(a, Exception) for a in answers):
        raise RuntimeError(
            f"a run was refused: {next(a for a in answers if isinstance(a, Exception))}"
        )
    return len(runs) / took_s


def submit_bare(url: str, runs: list[Submission]) -> float:
    """Return runs per second of the bare submit step, in the same batches."""
    store = fresh_pool(url)
    began_s = time.monotonic()
    submit(store, runs)
    return len(runs) / (time.monotonic() - began_s)


def dispatch_ours(url: str, runs: list[Submission]) -> float:
    """Return runs per second that dispatch moves, one caller."""
    store = fresh_pool(url)
    submit(store, runs)
    began_s = time.monotonic()
    dispatch(store)
    return len(runs) / (time.monotonic() - began_s)


def drain(url: str, runs: list[Submission], *, who: str) -> float:
    """Return runs per second of one process: `worker` (ours) or `bare_loop`."""
    store = fresh_pool(url)
    submit(store, runs)
    dispatch(store)
    process = peer(who, url, str(len(runs)))
    ready(process)
    took_s: float = answer(process)["took_s"][0]
    return len(runs) / took_s


def make_runs() -> list[Submission]:
    """Return the runs of one round."""
    return [submission() for _ in range(RUNS)]
