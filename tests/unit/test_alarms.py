"""Alarms: what is due is done in its order, once, unless it was turned off."""

import threading
from collections.abc import Iterator

import pytest

from consumers.alarms import KEPT, Alarms
from dispatcher import Clock
from dispatcher.logs import logger
from tests.probes import wait_until

LONG_S = 3_600.0


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms(Clock(), logger())
    alarms.start()
    yield alarms
    alarms.close()
    wait_until(lambda: not alarms._thread.is_alive(), "its thread has ended")


@pytest.fixture
def done() -> list[str]:
    return []


def wait_done(alarms: Alarms, done: list[str]) -> None:
    """Wait until all that is due has been done."""
    alarms.call_later(0, lambda: done.append("all"))
    wait_until(lambda: "all" in done, "what is due is done")
    done.remove("all")


def test_what_is_due_is_done_in_the_order_of_time_and_then_of_asking(alarms, done):
    for delay_s, name in ((0.06, "c"), (0.03, "a"), (0.03, "b"), (LONG_S, "never")):
        alarms.call_later(delay_s, lambda name=name: done.append(name))

    wait_until(lambda: len(done) == 3, "three are done")
    assert done == ["a", "b", "c"]


def test_an_alarm_that_is_earlier_than_the_one_that_is_waited_for_is_in_time(alarms, done):
    alarms.call_later(LONG_S, lambda: done.append("late"))
    wait_done(alarms, done)

    alarms.call_later(0, lambda: done.append("soon"))

    wait_until(lambda: done == ["soon"], "the earlier one is done")


def test_an_alarm_that_was_cancelled_does_not_go_off(alarms, done):
    alarm = alarms.call_later(0.05, lambda: done.append("a"))
    alarms.cancel(alarm)
    alarms.cancel(alarm)
    alarms.hasten(alarm)
    alarms.call_later(0.1, lambda: done.append("b"))

    wait_until(lambda: done, "the other one is done")
    assert done == ["b"]


def test_an_alarm_that_is_hastened_goes_off_now_and_only_once(alarms, done):
    alarm = alarms.call_later(LONG_S, lambda: done.append("a"))

    alarms.hasten(alarm)
    alarms.hasten(alarm)

    wait_done(alarms, done)
    assert done == ["a"]
    alarms.hasten(alarm)
    wait_done(alarms, done)
    assert done == ["a"]


def test_a_fault_in_one_action_costs_no_other(alarms, done, capsys):
    def fail() -> None:
        raise ValueError("never expected")

    alarms.call_later(0, fail)
    alarms.call_later(0.01, lambda: done.append("a"))

    wait_until(lambda: done, "the other one is done")


def test_all_alarms_have_one_thread(alarms, done):
    before = threading.active_count()
    for _ in range(1_000):
        alarms.call_later(LONG_S, lambda: done.append("a"))

    assert (threading.active_count(), len(alarms)) == (before, 1_000)


def test_alarms_that_are_off_do_not_pile_up(alarms, done):
    kept = [alarms.call_later(LONG_S, lambda: done.append("kept")) for _ in range(10)]
    for _ in range(10 * KEPT):
        alarms.cancel(alarms.call_later(LONG_S, lambda: done.append("off")))
        assert len(alarms) <= KEPT + 2 * len(kept) + 1

    for alarm in kept:
        alarms.hasten(alarm)
    wait_done(alarms, done)
    assert done == ["kept"] * 10


def test_what_is_not_due_at_the_end_is_not_done(alarms, done):
    alarms.call_later(0.2, lambda: done.append("a"))
    alarms.close()
    wait_until(lambda: not alarms._thread.is_alive(), "its thread has ended")

    assert done == []
