"""Why a run of a pool that is handed out by polling has not been taken, as whole text."""

import pytest

from tests.builders import T0, Fleet
from tests.explanations import codes, told

START = "2023-11-14T22:13:20.000Z"  # T0


@pytest.fixture
def fleet(client, prefix):
    """A pool that is handed out by polling, and a clock that is 2 s further than its runs."""
    fleet = Fleet(client, prefix, handout="poll")
    fleet.submit("first")
    fleet.submit("a", deployment="dep")
    fleet.advance(2_000)
    return fleet


def test_a_due_run_says_that_nobody_has_taken_it_and_how_many_are_listed_before_it(fleet):
    assert told(fleet) == [
        f"It has been due for 2 s, since {START}, and nobody has taken it: pool pool is handed out "
        "by polling; ahead of it: 1 run of its own queue; "
        "`dispatcher pool set pool --handout stream` lets workers claim instead."
    ]


def test_the_next_one_says_so(fleet):
    (sentence,) = told(fleet, "first")
    assert "handed out by polling; it is the next one; " in sentence


def limited_pool(fleet: Fleet) -> None:
    fleet.take("first")
    fleet.set_pool(limit=1)


def limited_queue(fleet: Fleet) -> None:
    fleet.take("first")
    fleet.set_queue(limit=1)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda fleet: fleet.retime("a", T0 + 5_000), ["not_due"]),
        (lambda fleet: fleet.pause(), ["paused"]),
        (lambda fleet: fleet.pause("default"), ["paused"]),
        (limited_pool, ["pool_full"]),
        (limited_queue, ["queue_full"]),
        (lambda fleet: fleet.set_deployment("dep", 0), ["waiting"]),
        (lambda fleet: (fleet.set_deployment("dep", 0), fleet.dispatch()), ["waiting"]),
        (lambda fleet: fleet.set_deployment("dep", 1), ["polled"]),
        (lambda fleet: fleet.take("a"), ["running"]),
        (lambda fleet: (fleet.take("a"), fleet.cancel("a")), ["cancelling"]),
        (lambda fleet: (fleet.take("a"), fleet.lose("w~1.1")), ["polled", "lost"]),
    ],
)
def test_what_stands_in_its_way_comes_first(fleet, make, found):
    make(fleet)
    assert codes(fleet) == found


def test_a_run_that_is_still_in_its_stream_says_the_same(client, prefix):
    fleet = Fleet(client, prefix)
    fleet.put("a")
    fleet.set_pool(handout="poll")
    assert codes(fleet) == ["polled"]


def test_a_taken_run_says_who_runs_it(fleet):
    fleet.take("a")
    assert told(fleet) == [
        "It has been running on worker w~1 for 0 ms, since 2023-11-14T22:13:22.000Z, in start 1 "
        "and delivery 1; its lease holds for another 15 s."
    ]
