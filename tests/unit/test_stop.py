"""How a run is asked to stop: which reason counts, who hears of it, what a retry inherits."""

from collections.abc import Callable, Iterator

import pytest

from consumers.alarms import KEPT, Alarms
from consumers.runners import Stop, Why
from dispatcher import Clock
from dispatcher.logs import logger
from tests.probes import wait_until

HARD = [why for why in Why if why not in (Why.CANCELLED, Why.LOST)]


@pytest.fixture
def heard() -> list[tuple[Why | None, float | None]]:
    """What a listener has heard: the reason and the grace of each request."""
    return []


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms(Clock(), logger())
    alarms.start()
    yield alarms
    alarms.close()


@pytest.fixture
def stop(alarms: Alarms, heard: list[tuple[Why | None, float | None]]) -> Stop:
    """A stop that somebody listens to."""
    stop = Stop(alarms)
    stop.on_request(lambda: heard.append((stop.reason, stop.grace_s)))
    return stop


def test_who_listens_later_hears_at_once_of_what_was_asked_before(stop, heard):
    assert stop.request(Why.RELEASED)
    later: list[str] = []
    stop.on_request(lambda: later.append("later"))

    assert heard == [(Why.RELEASED, None)]
    assert later == ["later"]


@pytest.mark.parametrize("first", HARD)
@pytest.mark.parametrize("second", [*HARD, Why.CANCELLED])
def test_the_first_reason_counts(stop, heard, first, second):
    assert stop.request(first)
    assert not stop.request(second, grace_s=30 if second is Why.CANCELLED else None)

    assert (stop.reason, heard) == (first, [(first, None)])


def test_a_cancel_again_changes_nothing(stop, heard):
    assert stop.request(Why.CANCELLED, grace_s=30)
    assert not stop.request(Why.CANCELLED, grace_s=1)

    assert heard == [(Why.CANCELLED, 30)]


@pytest.mark.parametrize("second", [*HARD, Why.LOST])
def test_a_reason_that_leaves_no_grace_cuts_that_of_a_cancel_short(stop, heard, second):
    stop.request(Why.CANCELLED, grace_s=30)
    assert stop.request(second)

    assert heard == [(Why.CANCELLED, 30), (second, None)]
    assert stop.reason is second
    assert not stop.request(Why.CANCELLED, grace_s=30)


@pytest.mark.parametrize("first", HARD)
def test_a_loss_always_counts_and_is_heard_once(stop, heard, first):
    stop.request(first)
    stop.request(Why.LOST)

    assert stop.reason is Why.LOST
    assert heard == [(first, None)]


@pytest.mark.parametrize("why", [Why.CANCELLED, Why.RELEASED, Why.TIMED_OUT])
def test_work_that_has_ended_by_itself_was_not_stopped(stop, heard, why):
    stop.over()
    stop.request(why)

    assert (stop.reason, heard) == (None, [])


@pytest.mark.parametrize("why", [Why.FROZEN, Why.LOST])
def test_work_that_may_have_ended_for_another_reason_is_in_doubt(stop, heard, why):
    stop.over()
    stop.request(why)

    assert (stop.reason, heard) == (why, [])


@pytest.mark.parametrize("why", [Why.CANCELLED, Why.RELEASED, Why.LOST])
def test_what_was_asked_after_the_end_is_for_the_next_attempt(stop, why):
    stop.over()
    stop.request(why, grace_s=30 if why is Why.CANCELLED else None)
    stop.again()
    heard: list[Why | None] = []
    stop.on_request(lambda: heard.append(stop.reason))

    assert heard == [why]


def test_whether_something_was_asked_is_known_also_when_it_came_too_late(stop):
    assert not stop.asked(Why.CANCELLED)
    stop.over()
    assert stop.request(Why.CANCELLED, grace_s=30)
    assert not stop.request(Why.CANCELLED, grace_s=30)

    assert stop.asked(Why.CANCELLED)
    assert not stop.asked(Why.LOST)


def wait_for(heard: list[object]) -> None:
    wait_until(lambda: heard, "it is asked to stop")


def test_a_limit_asks_to_stop_when_it_has_passed(stop, heard):
    stop.limit(0.01)

    wait_for(heard)
    assert heard == [(Why.TIMED_OUT, None)]
    assert stop.limit_s == 0.01


def end(stop: Stop) -> None:
    stop.over()


def take_away(stop: Stop) -> None:
    stop.limit(None)


def set_another(stop: Stop) -> None:
    stop.limit(3_600)


@pytest.mark.parametrize("change", [end, take_away, set_another])
def test_a_limit_that_no_longer_holds_stops_nothing(stop, heard, alarms, change: Callable):
    stop.limit(0.05)
    change(stop)

    passed: list[bool] = []
    alarms.call_later(0.1, lambda: passed.append(True))
    wait_for(passed)
    assert (stop.reason, heard) == (None, [])


def test_the_limits_of_work_that_has_ended_do_not_pile_up(alarms):
    for _ in range(10 * KEPT):
        stop = Stop(alarms)
        stop.limit(3_600)
        stop.over()

    assert len(alarms) <= 2 * KEPT


def test_each_attempt_has_a_limit_of_its_own(stop, heard):
    stop.limit(0.01)
    wait_for(heard)
    stop.over()
    stop.again()
    assert stop.reason is None

    stop.on_request(lambda: heard.append((stop.reason, stop.limit_s)))
    stop.limit(0.02)

    wait_until(lambda: len(heard) == 2, "it is asked to stop again")
    assert heard[1] == (Why.TIMED_OUT, 0.02)


def test_a_limit_that_strikes_at_the_end_of_the_work_is_not_for_the_next_attempt(heard):
    class Held(Alarms):
        """Alarms whose actions are kept for the test to call."""

        def call_later(self, delay_s, action):
            kept.append(action)
            return super().call_later(3_600, action)

    kept: list[Callable[[], object]] = []
    stop = Stop(Held(Clock(), logger()))
    stop.limit(1)
    stop.over()
    kept[0]()
    stop.again()
    kept[0]()

    assert stop.reason is None
    assert not stop.asked(Why.TIMED_OUT)
