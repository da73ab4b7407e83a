"""A dispatcher's passes: what they dispatch, how long there is nothing to do, what they hear."""

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import fakeredis
import pytest

from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.dispatching import QUEUES_PER_CALL, SAMPLES_S, STEP_MS, Dispatcher, ServerTime
from dispatcher.inspector import Inspector
from dispatcher.keys import pools_key
from dispatcher.records import Hint
from tests.builders import POOL, T0, Fleet, a_queue, a_submission

SWEEP_S = 5.0


class World(Clock):
    """A monotonic clock and a server's, moved together by the test."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.at_s = 1_000.0
        self.client = client
        self.prefix = prefix
        self.fleet = Fleet(client, prefix)
        self.store = self.fleet.store
        self.inspector = Inspector(Connection(client), prefix)
        self.new_pools = 0

    def monotonic_s(self) -> float:
        return self.at_s

    def advance(self, span_s: float) -> None:
        self.at_s += span_s
        self.fleet.advance(round(span_s * 1000))

    def dispatcher(self, *pools: str) -> Dispatcher:
        dispatcher = Dispatcher(
            self.store,
            self.inspector,
            pools=pools,
            sweep_s=SWEEP_S,
            clock=self,
            on_new_pool=self.count_new_pool,
        )
        dispatcher.resync()
        return dispatcher

    def count_new_pool(self) -> None:
        self.new_pools += 1

    def submit(self, run_id: str, in_ms: int = 0, **fields: Any) -> None:
        assert self.store.now_ms is not None
        self.fleet.submit(run_id, due_ms=self.store.now_ms + in_ms, **fields)

    def places(self, *run_ids: str) -> str:
        """Return the first letters of the places of these runs: scheduled or stream."""
        return "".join(self.fleet.run(run_id)["place"][1] for run_id in run_ids)

    def commands(self) -> int:
        return int(self.client.info("stats")["total_commands_processed"])


@pytest.fixture
def world(prefix: str) -> Iterator[World]:
    with fakeredis.FakeRedis(version=(7,), protocol=2) as client:
        yield World(client, prefix)


SCHEDULED, STREAM = "c", "t"


def test_nothing_to_do_lasts_until_the_sweep(world):
    dispatcher = world.dispatcher()
    assert dispatcher.run_once() == SWEEP_S

    world.advance(2)
    assert dispatcher.run_once() == SWEEP_S - 2

    world.advance(3)
    assert dispatcher.run_once() == SWEEP_S


def test_it_waits_until_the_first_run_is_due_and_dispatches_it_then(world):
    world.submit("a", in_ms=1_500)
    world.submit("b", in_ms=2_500)
    dispatcher = world.dispatcher()
    assert dispatcher.run_once() == pytest.approx(1.5)

    world.advance(1.499)
    assert dispatcher.run_once() == pytest.approx(0.001)
    assert world.places("a", "b") == SCHEDULED + SCHEDULED

    world.advance(0.001)
    assert dispatcher.run_once() == pytest.approx(1.0)
    assert world.places("a", "b") == STREAM + SCHEDULED


def test_a_hint_brings_the_next_look_forward_and_a_later_one_does_not_put_it_off(world):
    dispatcher = world.dispatcher()
    world.submit("a", in_ms=1_000)

    dispatcher.hear(Hint(POOL, "default", T0 + 1_000))
    dispatcher.hear(Hint(POOL, "default", T0 + 3_000))
    assert dispatcher.run_once() == pytest.approx(1.0)

    dispatcher.hear(Hint(POOL, "default", 0))
    assert dispatcher.run_once() == pytest.approx(1.0)
    world.advance(1)
    dispatcher.run_once()
    assert world.places("a") == STREAM


def test_without_a_hint_the_sweep_finds_a_run(world):
    dispatcher = world.dispatcher()
    world.submit("a")
    dispatcher.run_once()
    assert world.places("a") == SCHEDULED

    world.advance(SWEEP_S)
    dispatcher.run_once()

    assert world.places("a") == STREAM


def test_all_that_is_due_is_dispatched_in_one_pass_whatever_a_step_moves(world):
    runs = [f"r{i}" for i in range(250)]
    for run in runs:
        world.submit(run)
    dispatcher = world.dispatcher()

    dispatcher.run_once()

    assert set(world.places(*runs)) == {STREAM}


def test_more_queues_than_go_into_one_step_are_all_looked_at(world):
    queues = [f"q{i}" for i in range(2 * QUEUES_PER_CALL + 1)]
    for queue in queues:
        world.store.create_queue(a_queue(queue))
        world.submit(f"run-{queue}", queue=queue)

    world.dispatcher().run_once()

    assert set(world.places(*(f"run-{queue}" for queue in queues))) == {STREAM}


def test_a_full_stream_is_left_alone_until_a_hint_says_that_there_is_room(world):
    world.fleet.create_queue("narrow", max_unclaimed=2)
    for i in range(4):
        world.submit(f"r{i}", queue="narrow")
    dispatcher = world.dispatcher()
    assert dispatcher.run_once() == SWEEP_S
    assert world.places("r0", "r1", "r2", "r3") == STREAM * 2 + SCHEDULED * 2

    world.fleet.claim(world.fleet.register())
    dispatcher.hear(Hint(POOL, "narrow", 0))
    dispatcher.run_once()

    assert world.places("r2", "r3") == STREAM * 2


def test_a_new_pool_is_served_from_its_hint_on_and_told(world):
    dispatcher = world.dispatcher()
    other = Fleet(world.client, world.prefix, "other")
    other.submit("a")
    before = world.new_pools

    dispatcher.hear(Hint("other", "default", T0))
    dispatcher.run_once()

    assert other.run("a")["place"] == "stream"
    assert dispatcher.pools() == ["other", POOL]
    assert world.new_pools == before + 1


def test_a_dispatcher_for_some_pools_does_not_hear_of_others(world):
    dispatcher = world.dispatcher(POOL)
    other = Fleet(world.client, world.prefix, "other")
    other.submit("a")

    dispatcher.hear(Hint("other", "default", T0))
    dispatcher.run_once()
    world.advance(SWEEP_S)
    dispatcher.run_once()

    assert other.run("a")["place"] == "scheduled"
    assert dispatcher.pools() == [POOL]


def test_a_sweep_looks_at_one_pool_and_the_next_one_at_the_next(world):
    others = [Fleet(world.client, world.prefix, f"p{i}") for i in range(3)]
    dispatcher = world.dispatcher()
    for other in others:
        other.store.now_ms = world.store.now_ms
        other.submit("a")

    dispatched = []
    for _ in range(4):
        world.advance(SWEEP_S)
        dispatcher.run_once()
        dispatched.append(sum(other.run("a")["place"] == "stream" for other in others))

    assert dispatched[-1] == 3
    assert all(later - earlier <= 1 for earlier, later in pairwise(dispatched))


@pytest.mark.parametrize("named", [False, True])
def test_a_deleted_pool_is_forgotten_unless_it_was_named(world, named):
    world.submit("a", in_ms=1_000)
    dispatcher = world.dispatcher(*([POOL] if named else []))
    world.client.delete(*world.client.keys(f"{world.prefix}:{{{POOL}}}:*"))

    world.advance(1)

    assert dispatcher.run_once() == SWEEP_S - 1
    assert dispatcher.pools() == ([POOL] if named else [])


def test_a_pool_that_was_named_before_it_was_there_is_served_when_it_is(world):
    dispatcher = world.dispatcher("later")
    dispatcher.run_once()
    later = Fleet(world.client, world.prefix, "later")
    later.submit("a")

    world.advance(SWEEP_S)
    dispatcher.run_once()

    assert later.run("a")["place"] == "stream"


def test_after_a_resync_it_knows_what_it_has_missed(world):
    dispatcher = world.dispatcher()
    world.submit("a")
    world.submit("b", in_ms=700)
    other = Fleet(world.client, world.prefix, "other")
    other.submit("c")

    dispatcher.resync()

    assert (world.places("a"), other.run("c")["place"]) == (STREAM, "stream")
    assert dispatcher.run_once() == pytest.approx(0.7)


def test_a_name_in_the_set_of_pools_without_a_pool_harms_nobody(world):
    world.client.sadd(pools_key(world.prefix), "half-made")
    world.store.submit(POOL, a_submission("a"))

    world.dispatcher().run_once()

    assert world.places("a") == STREAM


# --- The time of the server


class Hands(Clock):
    """A monotonic clock that the test moves."""

    at_s = 50.0

    def monotonic_s(self) -> float:
        return self.at_s


def test_the_servers_time_is_unknown_before_its_first_answer():
    assert ServerTime(Hands()).now_ms() == 0.0


def test_the_estimate_is_ahead_by_what_the_quickest_question_took_so_that_it_arrives_in_time():
    clock, chance = Hands(), random.Random(7)
    time = ServerTime(clock)
    took_ms: list[float] = []
    for _ in range(300):
        clock.at_s += 0.1
        asked_s = clock.at_s
        took_ms.append(chance.uniform(0.2, STEP_MS))
        clock.at_s += took_ms[-1] / 1000
        time.learn(round(T0 * 1000 + clock.at_s * 1_000_000), asked_s=asked_s)
        clock.at_s += chance.uniform(0.0, 0.01)  # on its way back

        lately = took_ms[-int(SAMPLES_S / 0.5) :]
        ahead_ms = time.now_ms() - (T0 + clock.at_s * 1000)
        assert -0.01 <= ahead_ms <= min(lately) + 0.01


def test_a_server_clock_that_is_set_is_believed_at_the_next_answer():
    clock = Hands()
    time = ServerTime(clock)
    for told_ms in (T0, T0 + 60_000, T0 - 60_000):
        clock.at_s += 1
        time.learn(told_ms * 1000, asked_s=clock.at_s)
        assert time.now_ms() == pytest.approx(told_ms)


def test_a_server_clock_that_was_set_back_is_noticed_at_the_first_empty_answer(world):
    world.submit("a", in_ms=1_000)
    dispatcher = world.dispatcher()
    dispatcher.run_once()
    world.at_s += 1.0
    world.fleet.advance(-60_000)

    assert dispatcher.run_once() == pytest.approx(SWEEP_S - 1)
    assert world.places("a") == SCHEDULED

    world.fleet.advance(61_000)
    world.at_s += SWEEP_S - 1
    dispatcher.run_once()
    assert world.places("a") == STREAM
