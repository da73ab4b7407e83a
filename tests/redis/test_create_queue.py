"""The atomic step `create_queue`: a queue and its priority among the others."""

import pytest

from dispatcher.errors import AlreadyExists, InvalidName, NotFound
from tests.builders import ODD_NAMES, POOL, T0, a_queue, changed


def test_a_new_queue_comes_after_the_others(fleet):
    before = fleet.dump()

    fleet.create_queue("low", max_unclaimed=7, max_deliveries=2)

    assert changed(before, fleet.dump()) == {
        "pool": {"queues_version": "2"},
        "queues": {"low": 2},
        "queue:low": {
            "id": "id-of-low",
            "created_ms": str(T0),
            "max_unclaimed": "7",
            "max_deliveries": "2",
        },
        "events": [{"event": "queue-created", "at_ms": str(T0), "queue": "low", "id": "id-of-low"}],
    }


def test_the_same_queue_again_changes_nothing(fleet):
    fleet.create_queue("low")
    before = fleet.dump()

    fleet.create_queue("low", priority=1, max_unclaimed=3)

    assert fleet.dump() == before


def test_another_queue_of_that_name_is_refused_and_changes_nothing(fleet):
    before = fleet.dump()
    with pytest.raises(AlreadyExists, match="queue 'default' exists already in pool 'pool'"):
        fleet.create_queue("default", id="another", priority=5)
    assert fleet.dump() == before


def test_a_pool_that_does_not_exist_gets_no_queue(fleet):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        fleet.store.create_queue(a_queue("q", "nowhere"))
    assert list(fleet.client.scan_iter(f"{fleet.store.prefix}:*nowhere*")) == []


def test_a_name_against_the_rule_creates_nothing(fleet):
    before = fleet.dump()
    with pytest.raises(InvalidName):
        fleet.create_queue("100%")
    assert fleet.dump() == before


# As Prefect's server answers: the queue in the way moves by one, and so on up to the first gap.
@pytest.mark.parametrize(
    ("there", "priority", "then"),
    [
        ({}, 1, {"new": 1, "default": 2}),
        ({}, 2, {"default": 1, "new": 2}),
        ({}, 7, {"default": 1, "new": 7}),
        ({"b": 2, "c": 3}, 1, {"new": 1, "default": 2, "b": 3, "c": 4}),
        ({"b": 2, "c": 3}, 2, {"default": 1, "new": 2, "b": 3, "c": 4}),
        ({"b": 2, "c": 5}, 1, {"new": 1, "default": 2, "b": 3, "c": 5}),
        ({"b": 2, "c": 5}, 4, {"default": 1, "b": 2, "new": 4, "c": 5}),
        ({"b": 4, "c": 5, "d": 7}, 4, {"default": 1, "new": 4, "b": 5, "c": 6, "d": 7}),
    ],
)
def test_a_taken_priority_moves_the_others_as_far_as_needed(fleet, there, priority, then):
    for name, at in there.items():
        fleet.create_queue(name, at)

    fleet.create_queue("new", priority)

    assert fleet.dump()["queues"] == then


def test_a_queue_that_moves_down_is_claimed_from_at_its_new_place(fleet):
    fleet.put("in-default")
    fleet.create_queue("urgent", 1)
    fleet.put("in-urgent", queue="urgent")

    assert fleet.dump()["ready"] == {"urgent": 1, "default": 2}
    assert [claim.run_id for claim in fleet.claim(fleet.register())] == ["in-urgent", "in-default"]


def test_each_worker_hears_of_a_new_queue_once(fleet):
    holders = [fleet.register("one"), fleet.register("two")]

    fleet.create_queue("b")
    fleet.create_queue("c")

    state = fleet.dump()
    assert [state[f"inbox:{holder}"] for holder in holders] == [["1"], ["1"]]


def test_a_worker_of_all_queues_claims_from_a_queue_that_came_later(fleet):
    holder = fleet.register()
    fleet.create_queue("later")
    fleet.put("a", queue="later")
    assert fleet.claim_one(holder).queue == "later"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_queue_may_have_an_odd_name(fleet, name):
    fleet.create_queue(name)
    holder = fleet.register(queues=("default", name))
    fleet.put("a", queue=name)

    claim = fleet.claim_one(holder)

    assert (claim.pool, claim.queue) == (POOL, name)
    assert fleet.dispatch().next_due_ms == {"default": None, name: None}
    assert fleet.finish(claim) == "finished"
