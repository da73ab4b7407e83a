"""A free slot of a deployment that was meant for a run which goes away is the next one's."""

from collections.abc import Callable

import pytest

from tests.builders import T0, Fleet, Listener, moved

GONE: dict[str, Callable[[Fleet], object]] = {
    "cancelled": lambda fleet: fleet.cancel("first"),
    "re-timed": lambda fleet: fleet.retime("first", T0 + 60_000),
    "offered again": lambda fleet: fleet.submit("first", request="2", due_ms=T0 + 60_000),
}
gone = pytest.mark.parametrize("goes", GONE.values(), ids=GONE.keys())


@gone
def test_a_queue_that_left_the_slot_to_a_higher_one_hears_when_nobody_waits_there(
    fleet: Fleet, listener: Listener, goes: Callable[[Fleet], object]
):
    fleet.create_queue("high", 1)
    fleet.set_deployment("dep", 0)
    fleet.put("first", queue="high", deployment="dep")
    fleet.put("second", deployment="dep")
    fleet.set_deployment("dep", 1)
    assert moved(fleet.dispatch("default")) == []
    listener.heard()

    goes(fleet)

    assert "default 0" in listener.heard()
    assert moved(fleet.dispatch("default")) == ["second"]


@gone
def test_the_next_run_comes_when_one_that_was_let_in_goes_before_its_dispatch(
    fleet: Fleet, listener: Listener, goes: Callable[[Fleet], object]
):
    fleet.set_deployment("dep", 0)
    fleet.put("first", "second", deployment="dep")
    fleet.submit("earlier", due_ms=T0 - 1)
    fleet.set_deployment("dep", 1)
    assert moved(fleet.dispatch(limit=1)) == ["earlier"]
    assert fleet.run("first")["place"] == "scheduled"
    listener.heard()

    goes(fleet)

    assert "default 0" in listener.heard()
    assert moved(fleet.dispatch()) == ["second"]
