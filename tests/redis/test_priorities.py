"""Priorities of queues: unique in a pool, and a changed one decides about the next claim."""

import pytest

from dispatcher.errors import InvalidInput, NotFound
from tests.builders import POOL, T0, Fleet, changed, shown


@pytest.fixture
def recorded(fleet: Fleet) -> Fleet:
    """The queues that a Prefect server was observed with: hi 1, default 2, mid 10, lo 20."""
    for name, priority in [("hi", 1), ("lo", 20), ("mid", 10)]:
        fleet.create_queue(name, priority)
    return fleet


def queues(fleet: Fleet) -> dict[str, int]:
    return fleet.dump()["queues"]


def claimed(fleet: Fleet, holder: str, slots: int = 10) -> list[str]:
    return [claim.run_id for claim in fleet.claim(holder, slots)]


def test_creating_queues_gives_the_priorities_that_prefect_gives(recorded):
    assert queues(recorded) == {"hi": 1, "default": 2, "mid": 10, "lo": 20}


def test_a_queue_without_a_priority_takes_the_first_gap(recorded):
    recorded.create_queue("next")
    recorded.create_queue("after")
    assert queues(recorded) == {"hi": 1, "default": 2, "next": 3, "after": 4, "mid": 10, "lo": 20}


# As Prefect's server answers: the queue in the way moves by one, and so on up to the first gap.
@pytest.mark.parametrize(
    ("name", "priority", "then"),
    [
        ("lo", 1, {"lo": 1, "hi": 2, "default": 3, "mid": 10}),
        ("lo", 2, {"hi": 1, "lo": 2, "default": 3, "mid": 10}),
        ("lo", 5, {"hi": 1, "default": 2, "lo": 5, "mid": 10}),
        ("lo", 10, {"hi": 1, "default": 2, "lo": 10, "mid": 11}),
        ("lo", 20, {"hi": 1, "default": 2, "mid": 10, "lo": 20}),
        ("hi", 2, {"hi": 2, "default": 3, "mid": 10, "lo": 20}),
        ("hi", 20, {"default": 2, "mid": 10, "hi": 20, "lo": 21}),
        ("hi", 30, {"default": 2, "mid": 10, "lo": 20, "hi": 30}),
    ],
)
def test_setting_a_taken_priority_moves_the_others_as_prefect_does(recorded, name, priority, then):
    recorded.set_queue(name, priority)
    assert queues(recorded) == then


def test_setting_a_priority_is_on_record(recorded):
    before = recorded.dump()
    recorded.store.set_queue(POOL, "lo", {"limit": 3}, priority=1, by="ops")
    assert changed(before, recorded.dump()) == {
        "queues": {"lo": 1, "hi": 2, "default": 3},
        "queue:lo": {"limit": "3"},
        "events": [shown("queue-set", queue="lo", reason="priority=1 limit=3", by="ops")],
    }


@pytest.mark.parametrize("priority", [0, -1])
def test_a_priority_below_one_is_refused_and_changes_nothing(recorded, priority):
    before = recorded.dump()
    with pytest.raises(InvalidInput, match=f"priority {priority} is below 1, the highest"):
        recorded.set_queue("lo", priority)
    assert recorded.dump() == before


def test_a_queue_that_does_not_exist_gets_no_priority(recorded):
    before = recorded.dump()
    with pytest.raises(NotFound, match="queue 'nowhere' does not exist in pool 'pool'"):
        recorded.set_queue("nowhere", 1)
    assert recorded.dump() == before


def test_a_pool_that_does_not_exist_has_no_priorities(fleet):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        fleet.store.set_queue("nowhere", "default", {}, priority=1)


def test_a_changed_priority_acts_at_the_next_claim(recorded):
    for queue in ("hi", "mid", "lo"):
        recorded.put(f"{queue}-1", f"{queue}-2", queue=queue)
    holder = recorded.register()
    assert claimed(recorded, holder, 1) == ["hi-1"]

    recorded.set_queue("lo", 1)

    assert recorded.dump()["ready"] == {"lo": 1, "hi": 2, "mid": 10}
    assert claimed(recorded, holder) == ["lo-1", "lo-2", "hi-2", "mid-1", "mid-2"]


def test_runs_come_in_the_order_that_prefect_was_observed_with(recorded):
    for run_id in ["lo@300", "mid@200", "hi@100", "lo@30", "hi@250", "mid@400"]:
        queue, _, ago_s = run_id.partition("@")
        recorded.submit(run_id, queue=queue, due_ms=T0 - int(ago_s) * 1000)
    recorded.dispatch()
    recorded.set_queue("lo", 1)
    order = ["lo@300", "lo@30", "hi@250", "hi@100", "mid@400", "mid@200"]
    assert claimed(recorded, recorded.register()) == order


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_a_claim_takes_nothing_below_a_queue_that_still_has_something(recorded, slots):
    for queue in ("lo", "mid", "default", "hi"):
        recorded.put(*(f"{queue}-{number}" for number in range(3)), queue=queue)
    workers = [recorded.register(name) for name in "abc"]

    order: list[str] = []
    while len(order) < 12:
        for worker in workers:
            order += claimed(recorded, worker, slots)

    assert [run_id.partition("-")[0] for run_id in order] == [
        queue for queue in ("hi", "default", "mid", "lo") for _ in range(3)
    ]


def test_a_run_of_a_higher_queue_that_comes_later_is_claimed_first(recorded):
    recorded.put("a", "b", queue="lo")
    holder = recorded.register()
    assert claimed(recorded, holder, 1) == ["a"]
    recorded.put("c", queue="hi")
    assert claimed(recorded, holder) == ["c", "b"]


def test_a_worker_that_does_not_serve_the_higher_queue_is_not_held_up_by_it(recorded):
    recorded.put("a", queue="hi")
    recorded.put("b", queue="lo")
    assert claimed(recorded, recorded.register(queues=("lo", "mid"))) == ["b"]
