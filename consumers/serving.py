"""A worker as the process that it is: signals drain it, and nothing of its runs outlives it."""

import os
import queue
import signal
import sys
import threading

import click

from consumers.runners import RUN_THREADS
from consumers.worker import Worker
from dispatcher import Clock

RELEASE_S = 7.0  # children have 5 s between SIGTERM and SIGKILL, and so have coroutines
THREADS_S = 0.5  # for threads that have nothing more to do

Signals = queue.SimpleQueue[str]


def receive_signals() -> Signals:
    """Return where the names of SIGTERM and SIGINT arrive from now on."""
    # A SimpleQueue may be put to from a handler; an Event may not, its lock could be held.
    received: Signals = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: received.put(signal.Signals(n).name))
    return received


def serve(worker: Worker, received: Signals, grace_s: float) -> int:
    """Run a worker until it ends by itself or a signal drains it; return the exit code.

    Raises what made it end by itself. Does not return while a run still works in this process: it
    ends with that, as its claim has ended or will.
    """
    worker.start()
    while not worker.ended.is_set():
        try:
            worker.drain(received.get(timeout=0.25))
            break
        except queue.Empty:
            continue
    _drain(worker, received, grace_s)
    worker.close()
    if stuck := _stuck():
        if worker.failure:
            click.echo(f"error: {worker.failure}", err=True)
        _end_with(stuck)
    if worker.failure:
        raise worker.failure
    return 0


def _drain(worker: Worker, received: Signals, grace_s: float) -> None:
    clock = Clock()
    until_s = clock.monotonic_s() + grace_s
    while received.empty() and clock.monotonic_s() < until_s:
        if worker.wait_idle(0.1):
            return
    worker.release_all()
    worker.wait_idle(RELEASE_S)


def _stuck() -> int:
    """Return how many threads still work for runs that were asked to stop."""
    clock = Clock()
    until_s = clock.monotonic_s() + THREADS_S
    ours = [each for each in threading.enumerate() if each.name.startswith(f"{RUN_THREADS}_")]
    for each in ours:
        each.join(max(0.0, until_s - clock.monotonic_s()))
    return sum(each.is_alive() for each in ours)


def _end_with(stuck: int) -> None:
    # The interpreter would wait for them; they are not released before they are gone.
    click.echo(
        f"error: {stuck} of its runs did not stop when asked to; what is left ends with this "
        "process, and is run elsewhere when the lease has ended",
        err=True,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)
