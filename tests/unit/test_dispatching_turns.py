"""How a dispatcher shares its time: pools take turns, and a burst in one is not all it hears of."""

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest

from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.dispatching import (
    LATE_EVERY_S,
    LATE_PER_STEP,
    QUEUES_PER_CALL,
    RUNS_PER_STEP,
    Dispatcher,
)
from dispatcher.inspector import Inspector
from dispatcher.keys import pools_key
from dispatcher.records import Dispatched, Hint, Watched
from tests.builders import T0, Fleet, a_queue, a_submission

BATCHES = 3  # what the burst is, in batches
BURST, OTHER = "burst", "other"


class Noted(Clock):
    """A dispatcher over two pools whose steps are noted; the test moves its clock."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client, self.prefix = client, prefix
        self.fleets = {name: Fleet(client, prefix, name) for name in (BURST, OTHER)}
        self.steps: list[str] = []
        self.at_s = 1_000.0
        store = self.fleets[BURST].store
        dispatch, watch = store.dispatch, store.watch

        def noted_dispatch(pool: str, queues: Any, **bounds: int) -> Dispatched:
            self.steps.append(pool)
            return dispatch(pool, queues, **bounds)

        def noted_watch(pool: str, **bounds: int) -> Watched:
            self.steps.append(f"watch {pool}")
            return watch(pool, **bounds)

        store.dispatch, store.watch = noted_dispatch, noted_watch  # type: ignore[method-assign]
        self.dispatcher = Dispatcher(store, Inspector(Connection(client), prefix), clock=self)
        self.dispatcher.resync()
        self.steps.clear()

    def monotonic_s(self) -> float:
        return self.at_s

    def submit(self, pool: str, *run_ids: str, due_ms: int = T0, queue: str = "default") -> None:
        for run_id in run_ids:
            submission = a_submission(run_id, due_ms=due_ms, queue=queue)
            self.fleets[pool].store.submit(pool, submission)

    def burst(self) -> None:
        """Let many runs of the one pool be due, and tell of them."""
        self.submit(BURST, *(f"r{n}" for n in range(BATCHES * RUNS_PER_STEP)))
        self.dispatcher.hear(Hint(BURST, "default", T0))

    def place(self, pool: str, run_id: str) -> str:
        return self.fleets[pool].run(run_id)["place"]


@pytest.fixture
def noted(prefix: str) -> Iterator[Noted]:
    with fakeredis.FakeRedis(version=(7,), protocol=2) as client:
        yield Noted(client, prefix)


def test_pools_take_turns_of_one_step_until_nothing_is_due(noted):
    noted.burst()
    noted.submit(OTHER, "a")
    noted.dispatcher.hear(Hint(OTHER, "default", T0))

    assert noted.dispatcher.run_once() > 0

    assert noted.steps == [BURST, OTHER, *[BURST] * (BATCHES - 1)]
    stream = noted.fleets[BURST].keys["stream"] + "default"
    assert noted.client.xlen(stream) == BATCHES * RUNS_PER_STEP


def test_a_dispatcher_that_is_called_hears_before_the_next_round(noted):
    noted.burst()

    assert noted.dispatcher.run_once(lambda: True) == 0
    assert noted.steps == [BURST]

    noted.submit(OTHER, "a")
    noted.dispatcher.hear(Hint(OTHER, "default", T0))
    assert noted.dispatcher.run_once(lambda: True) == 0
    assert noted.steps == [BURST, BURST, OTHER]
    assert noted.place(OTHER, "a") == "stream"


def test_what_a_call_cut_short_is_done_by_the_next_ones(noted):
    noted.burst()
    passes = 0
    while noted.dispatcher.run_once(lambda: True) == 0:
        passes += 1

    assert (passes, len(noted.steps)) == (BATCHES - 1, BATCHES)
    assert noted.place(BURST, f"r{BATCHES * RUNS_PER_STEP - 1}") == "stream"


def test_a_resync_begins_with_every_pool_before_it_goes_on_with_one(noted):
    noted.burst()
    noted.submit(OTHER, "a")

    noted.dispatcher.resync()

    assert noted.steps == [BURST, OTHER]
    assert noted.place(OTHER, "a") == "stream"
    assert noted.dispatcher.run_once() > 0
    assert noted.place(BURST, f"r{BATCHES * RUNS_PER_STEP - 1}") == "stream"


def test_queues_that_do_not_go_into_a_step_have_the_next_turn(noted):
    queues = [f"q{n:03}" for n in range(QUEUES_PER_CALL + 1)]
    for queue in queues:
        noted.fleets[BURST].store.create_queue(a_queue(queue, BURST))
    noted.submit(BURST, "last", queue=queues[-1])
    noted.submit(OTHER, "a")
    for pool in (BURST, OTHER):
        noted.dispatcher.hear(Hint(pool, "", 0))

    noted.dispatcher.run_once()

    assert noted.steps == [BURST, OTHER, BURST]
    assert noted.place(BURST, "last") == "stream"


def test_late_runs_are_announced_between_the_steps_of_a_burst(noted):
    noted.submit(OTHER, *(f"late{n}" for n in range(BATCHES)), due_ms=T0 - 60_000)
    noted.burst()
    noted.dispatcher.hear(Hint(OTHER, "default", T0))

    noted.dispatcher.run_once()

    first = noted.steps.index(f"watch {OTHER}")
    assert first < len(noted.steps) - 1 - noted.steps[::-1].index(BURST)


def test_a_pool_without_queues_is_looked_at_without_a_step(noted):
    noted.client.sadd(pools_key(noted.prefix), "half-made")

    noted.dispatcher.hear(Hint("half-made", "", 0))

    assert noted.dispatcher.run_once() > 0
    assert noted.steps == []


def test_many_late_runs_are_announced_a_part_at_a_time_with_a_rest_between(noted):
    late = [f"late{n:03}" for n in range(LATE_PER_STEP + 1)]
    noted.submit(OTHER, *late, due_ms=T0 - 60_000)
    noted.dispatcher.hear(Hint(OTHER, "default", T0))

    assert noted.dispatcher.run_once() == pytest.approx(LATE_EVERY_S)
    assert noted.steps.count(f"watch {OTHER}") == 1
    assert noted.dispatcher.run_once() == pytest.approx(LATE_EVERY_S)
    assert noted.steps.count(f"watch {OTHER}") == 1

    noted.at_s += LATE_EVERY_S
    assert noted.dispatcher.run_once() > LATE_EVERY_S
    assert noted.steps.count(f"watch {OTHER}") == 2
    events = noted.client.xrange(noted.fleets[OTHER].keys["events"])
    announced = [fields[b"run"].decode() for _, fields in events if fields[b"event"] == b"late"]
    assert announced == late
