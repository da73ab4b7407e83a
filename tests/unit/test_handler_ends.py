"""Handlers that are asked to stop: they hear of it at once, and coroutines are cancelled later."""

import asyncio
import json
import threading
from typing import Any

import pytest

from consumers import App, Run
from consumers.runners import Again, Stop, Why
from consumers.runners.handler import HandlerRunner
from dispatcher import Claim, Outcome
from tests.handlers import KINDS, a_claim, add
from tests.probes import wait_until

# --- Asked to stop


class Runs:
    """One run in a thread of its own."""

    def __init__(self, runner: HandlerRunner, stop: Stop, **fields: Any) -> None:
        self.outcome: Outcome | Again | None = None
        self._thread = threading.Thread(target=self._run, args=(runner, stop, a_claim(**fields)))
        self._thread.start()

    def _run(self, runner: HandlerRunner, stop: Stop, claim: Claim) -> None:
        self.outcome = runner.run(claim, stop)

    def wait(self) -> Outcome | Again:
        """Return how it ended."""
        return wait_until(lambda: self.outcome, "it ends")


@KINDS
@pytest.mark.parametrize("why", list(Why))
def test_a_handler_hears_at_once_that_it_is_to_stop_and_why(app, start, is_coroutine, why):
    begun = threading.Event()

    def by_thread(run: Run) -> str:
        begun.set()
        run.cancelled.wait(60)
        return run.cancelled.reason

    async def by_loop(run: Run) -> str:
        begun.set()
        await run.cancelled.wait_async(60)
        return run.cancelled.reason

    app.handler()(by_loop if is_coroutine else by_thread)
    stop = Stop()
    run = Runs(start(), stop)
    begun.wait(10)

    stop.request(why, grace_s=60)

    assert json.loads(run.wait().output) == str(why)


@KINDS
def test_a_stop_that_came_before_the_handler_is_known_to_it(app, start, is_coroutine):
    add(app, lambda run: run.cancelled.reason, is_coroutine=is_coroutine)
    stop = Stop()
    stop.request(Why.LOST)
    assert start().run(a_claim(), stop).output == b'"the claim was lost"'


class Coroutine:
    """A coroutine that goes on until it is cancelled, and tells how that went."""

    def __init__(self, app: App, *, deaf: int = 0) -> None:
        self.begun, self.cleaned, self.let_go = (threading.Event() for _ in range(3))
        self.times = 0
        self._deaf = deaf
        app.handler()(self)

    async def __call__(self, run: Run) -> str:
        self.begun.set()
        try:
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.times += 1
                    if self.times > self._deaf:
                        raise
                    while not self.let_go.is_set():
                        await asyncio.sleep(0.01)
                    return "never minded"
        finally:
            await asyncio.sleep(0.05)
            self.cleaned.set()


def test_a_coroutine_is_cancelled_when_the_grace_is_over_and_its_cleaning_up_awaited(app, start):
    stop, coroutine = Stop(), Coroutine(app)
    run = Runs(start(), stop)
    coroutine.begun.wait(10)

    stop.request(Why.CANCELLED, grace_s=0.2)

    assert not coroutine.cleaned.is_set()
    assert run.wait().message == "asyncio.exceptions.CancelledError"
    assert coroutine.cleaned.is_set()


def test_a_stop_without_a_grace_leaves_that_of_the_runner(app, start):
    stop, coroutine = Stop(), Coroutine(app)
    run = Runs(start(stop_grace_s=0.1), stop)
    coroutine.begun.wait(10)

    stop.request(Why.RELEASED)

    run.wait()
    assert coroutine.times == 1


def test_a_long_grace_is_cut_short_by_a_stop_that_leaves_none(app, start):
    stop, coroutine = Stop(), Coroutine(app)
    run = Runs(start(stop_grace_s=0.1), stop)
    coroutine.begun.wait(10)
    stop.request(Why.CANCELLED, grace_s=60)

    stop.request(Why.RELEASED)

    run.wait()
    assert coroutine.times == 1


def test_a_coroutine_that_does_not_mind_is_cancelled_once_and_waited_for(app, start):
    stop, coroutine = Stop(), Coroutine(app, deaf=1)
    run = Runs(start(stop_grace_s=0.0), stop)
    coroutine.begun.wait(10)
    stop.request(Why.CANCELLED, grace_s=0.0)
    wait_until(lambda: coroutine.times, "it is cancelled")

    stop.request(Why.LOST)
    stop.request(Why.RELEASED)

    assert run.outcome is None
    coroutine.let_go.set()
    assert run.wait().output == b'"never minded"'
    assert coroutine.times == 1


def test_one_coroutine_is_stopped_and_the_others_go_on(app, start):
    runner, stops, begun, go = start(), [Stop() for _ in range(20)], [], threading.Event()

    @app.handler()
    async def work(run: Run) -> str:
        begun.append(run)
        while not go.is_set():
            await asyncio.sleep(0.01)
        return "done"

    runs = [Runs(runner, stop) for stop in stops]
    wait_until(lambda: len(begun) == 20, "all have begun")

    for stop in stops[::2]:
        stop.request(Why.CANCELLED, grace_s=0.0)
    for run in runs[::2]:
        assert run.wait().state_type == "FAILED"
    go.set()
    assert [run.wait().output for run in runs[1::2]] == [b'"done"'] * 10


def test_what_is_asked_after_the_end_of_a_handler_changes_nothing(app, start):
    app.handler()(lambda run: None)
    stop = Stop()
    start().run(a_claim(), stop)
    stop.request(Why.CANCELLED)
    assert stop.reason is None


@pytest.mark.parametrize(
    ("variables", "queue_ms", "limit_s"),
    [({}, 100, 0.1), ({"timeout_s": 0.2}, 60_000, 0.2), ({"timeout_s": 0.2}, None, 0.2)],
)
@KINDS
def test_a_handler_hears_when_its_time_is_up(
    app, start, alarms, is_coroutine, variables, queue_ms, limit_s
):
    async def by_loop(run: Run) -> bool:
        return await run.cancelled.wait_async(60)

    app.handler()(by_loop if is_coroutine else lambda run: run.cancelled.wait(60))
    stop = Stop(alarms)

    start().run(a_claim(variables, timeout_ms=queue_ms), stop)

    assert (stop.reason, stop.limit_s) == (Why.TIMED_OUT, limit_s)


# --- The end of the runner


def test_a_runner_that_is_closed_cancels_what_its_handlers_left_in_the_loop(app, start):
    cleaned, left = threading.Event(), []

    async def forever() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            cleaned.set()

    @app.handler()
    async def leave(run: Run) -> None:
        left.append(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    runner = start()
    runner.run(a_claim(), Stop())
    assert not cleaned.is_set()

    runner.close()

    assert cleaned.is_set()
    assert not [t for t in threading.enumerate() if t.name == "coroutines"]


def test_a_runner_whose_loop_is_blocked_can_be_closed(app, start):
    begun, go = threading.Event(), threading.Event()

    @app.handler()
    async def block(run: Run) -> str:
        begun.set()
        go.wait(60)
        return "done"

    runner = start()
    run = Runs(runner, Stop())
    begun.wait(10)

    runner.close()

    go.set()
    assert run.wait().state_type == "COMPLETED"


def test_a_runner_that_never_ran_a_coroutine_has_no_loop(app, start):
    app.handler()(lambda run: None)
    before = threading.active_count()
    runner = start()
    runner.run(a_claim(), Stop())
    runner.alive(1.0)
    runner.close()
    assert threading.active_count() == before
