"""The slots of a worker: at most so many runs, found again by run and token."""

import threading
from typing import Any

import pytest

from consumers.runners import Why
from consumers.slots import Slots
from dispatcher import Claim

LONG_S = 10.0


def a_claim(run_id: str = "a", token: str = "1-0.x.1") -> Claim:
    return Claim(run_id, "pool", "default", token, b"{}", 0, 0, 1, "name")


@pytest.fixture
def slots() -> Slots:
    return Slots(2)


def in_background(function: Any) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_claim_takes_a_slot_until_it_is_removed(slots):
    active = slots.add(a_claim())
    assert (slots.free(), slots.held(), slots.all()) == (1, 1, [active])

    slots.remove(a_claim())

    assert (slots.free(), slots.held(), slots.all()) == (2, 0, [])


def test_the_same_claim_again_takes_nothing(slots):
    assert slots.add(a_claim()) is not None
    assert slots.add(a_claim()) is None
    assert slots.held() == 1


def test_two_runs_may_have_the_same_token(slots):
    """Entries of two streams may have the same id, and a token is made of it."""
    assert slots.add(a_claim("a")) is not None
    assert slots.add(a_claim("b")) is not None

    slots.remove(a_claim("a"))

    assert [active.claim.run_id for active in slots.all()] == ["b"]


def test_a_later_claim_of_the_same_run_is_another_one(slots):
    slots.add(a_claim("a", "1-0.x.1"))
    slots.add(a_claim("a", "2-0.x.2"))

    slots.remove(a_claim("a", "1-0.x.1"))

    assert [active.claim.token for active in slots.all()] == ["2-0.x.2"]


def test_removing_what_is_not_there_changes_nothing(slots):
    slots.add(a_claim("a"))
    slots.remove(a_claim("b"))
    assert slots.held() == 1


def test_all_active_runs_are_asked_to_stop(slots):
    actives = [slots.add(a_claim("a")), slots.add(a_claim("b"))]

    slots.stop_all(Why.RELEASED)

    assert [active.stop.reason for active in actives] == [Why.RELEASED, Why.RELEASED]


def test_waiting_until_nothing_is_active(slots):
    assert slots.wait_empty(0)
    slots.add(a_claim())
    assert not slots.wait_empty(0.01)

    thread = in_background(slots.wait_empty)
    slots.remove(a_claim())
    thread.join(LONG_S)

    assert not thread.is_alive()


def test_a_slot_that_is_just_being_given_back_is_waited_for(slots):
    first, _ = slots.add(a_claim("a")), slots.add(a_claim("b"))
    first.reporting = True

    thread = in_background(lambda: slots.wait_freed(LONG_S))
    slots.remove(a_claim("a"))
    thread.join(LONG_S)

    assert not thread.is_alive()


def test_a_slot_that_its_run_keeps_after_all_is_not_waited_for(slots):
    first, _ = slots.add(a_claim("a")), slots.add(a_claim("b"))
    first.reporting = True

    thread = in_background(lambda: slots.wait_freed(LONG_S))
    slots.keep(first)
    thread.join(LONG_S / 2)

    assert not thread.is_alive()
    assert (slots.held(), first.reporting) == (2, False)


def test_where_nothing_is_being_given_back_nothing_is_waited_for(slots):
    slots.add(a_claim("a"))
    slots.add(a_claim("b"))
    thread = in_background(lambda: slots.wait_freed(1000))
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_only_a_full_worker_waits_for_a_slot(slots):
    slots.add(a_claim("a"))
    assert (slots.begin_wait(), slots.someone_waits()) == (False, False)

    slots.add(a_claim("b"))
    assert (slots.begin_wait(), slots.someone_waits()) == (True, True)

    slots.end_wait()
    assert not slots.someone_waits()
