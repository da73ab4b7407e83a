"""Whether a loop is stuck: it is when it did not turn within what it said, and some slack."""

import pytest

from dispatcher.clock import Clock
from dispatcher.heartbeats import SLACK_S, Heartbeats


class StandingClock(Clock):
    """A clock that a test moves."""

    now_s = 100.0

    def now_ms(self) -> int:
        return round(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return StandingClock()


@pytest.fixture
def heartbeats(clock):
    return Heartbeats("dispatch", "recovery", clock=clock)


def test_a_loop_that_has_not_turned_yet_is_stuck(heartbeats):
    heartbeats.beat("dispatch", next_in_s=5)
    assert heartbeats.stuck() == {"recovery": "has not turned yet"}


def test_a_loop_is_stuck_from_the_moment_on_that_it_said_and_some_slack(heartbeats, clock):
    heartbeats.beat("dispatch", next_in_s=5)
    heartbeats.beat("recovery", next_in_s=60)

    clock.now_s += 5 + SLACK_S
    assert heartbeats.stuck() == {}
    clock.now_s += 0.5
    assert heartbeats.stuck() == {"dispatch": "turned 15.5 s ago, expected within 15.0 s"}


def test_a_loop_that_turns_again_is_not_stuck(heartbeats, clock):
    for _ in range(3):
        heartbeats.beat("dispatch", next_in_s=5)
        heartbeats.beat("recovery", next_in_s=5)
        clock.now_s += 10
        assert heartbeats.stuck() == {}


def test_the_time_of_the_last_turn_is_known(heartbeats):
    heartbeats.beat("dispatch", next_in_s=5)
    turns = heartbeats.turns()
    assert turns["recovery"] is None
    assert turns["dispatch"].at_ms == 100_000
