"""The atomic step `dispatch`: due runs go into their streams, in order and within bounds."""

import pytest

from dispatcher.errors import NotFound, RedisRefused
from dispatcher.records import Dispatched, Moved
from tests.builders import T0, Fleet, changed, moved

LATE_MS = 15_000
YEAR_9999_MS = 253_402_300_799_999


def dispatched(runs: list[Moved], next_due_ms: int | None, due_ms: int) -> Dispatched:
    """The answer for the default queue whose first unstarted run is due at `due_ms`."""
    late_at_ms = due_ms + LATE_MS
    return Dispatched(T0 * 1000, runs, [], {"default": next_due_ms}, late_at_ms=late_at_ms)


def stream(fleet: Fleet, queue: str = "default") -> list[str]:
    """The run ids of a stream in its order."""
    entries = fleet.client.xrange(fleet.keys["stream"] + queue)
    return [fields[b"run"].decode() for _, fields in entries]


def dispatch_all(fleet: Fleet, **bounds: int) -> list[list[str]]:
    """Dispatch as long as the answer says that there is more; what each call moved."""
    calls = []
    while True:
        answer = fleet.dispatch("default", **bounds)
        calls.append(moved(answer))
        if not answer.more:
            return calls


def test_a_due_run_becomes_an_entry_of_its_stream(fleet):
    fleet.submit("a", due_ms=T0 - 3, run_count=2)
    before = fleet.dump()

    answer = fleet.dispatch("default")

    assert answer == dispatched([Moved("a", "default", T0 - 3)], None, T0 - 3)
    entry = fleet.run("a")["entry"]
    assert changed(before, fleet.dump()) == {
        "scheduled:default": None,
        "stream:default": {
            "entries": {
                entry: {
                    "run": "a",
                    "payload": "payload of a",
                    "due_ms": str(T0 - 3),
                    "run_count": "2",
                    "delivery": "1",
                }
            },
            "groups": {},
        },
        "ready": {"default": 1},
        "wake:default": ["1"],
        "queue:default": {"unclaimed_bytes": "12", "largest_bytes": "12"},
        "run:a": {"place": "stream", "entry": entry, "dispatched_ms": str(T0)},
        "events": [
            {
                "event": "dispatched",
                "at_ms": str(T0),
                "run": "a",
                "queue": "default",
                "due_ms": str(T0 - 3),
            }
        ],
    }


def test_a_second_dispatch_finds_nothing_and_changes_nothing(fleet):
    fleet.put("a")
    before = fleet.dump()
    assert fleet.dispatch() == dispatched([], None, T0)
    assert fleet.dump() == before


def test_a_run_is_not_dispatched_one_millisecond_before_it_is_due(fleet):
    fleet.submit("a", due_ms=T0 + 1)
    before = fleet.dump()
    assert fleet.dispatch() == dispatched([], T0 + 1, T0 + 1)
    assert fleet.dump() == before


def test_a_run_is_dispatched_in_the_millisecond_in_which_it_is_due(fleet):
    fleet.submit("a", due_ms=T0 + 1)
    fleet.advance(1)
    assert moved(fleet.dispatch()) == ["a"]


@pytest.mark.parametrize("early_ms", [1, 0])
def test_a_run_of_the_far_future_is_dispatched_to_the_millisecond(fleet, early_ms):
    fleet.submit("a", due_ms=YEAR_9999_MS)
    fleet.store.now_ms = YEAR_9999_MS - early_ms
    assert moved(fleet.dispatch()) == ([] if early_ms else ["a"])


def test_the_servers_clock_decides_when_no_time_is_passed(fleet):
    fleet.store.now_ms = None
    fleet.submit("past", due_ms=1)
    fleet.submit("future", due_ms=YEAR_9999_MS)
    answer = fleet.dispatch()
    assert moved(answer) == ["past"]
    assert T0 < answer.now_us // 1000 < YEAR_9999_MS


def test_runs_leave_by_due_time_and_then_in_the_order_of_submission(fleet):
    for run_id, due_ms in [("z", T0), ("late", T0 + 1), ("a", T0), ("early", T0 - 1), ("m", T0)]:
        fleet.submit(run_id, due_ms=due_ms)
    fleet.advance(1)

    fleet.dispatch()

    assert stream(fleet) == ["early", "z", "a", "m", "late"]


def test_a_call_moves_no_more_runs_than_its_limit_and_says_that_there_is_more(fleet):
    fleet.submit(*"abcde")
    assert dispatch_all(fleet, limit=2) == [["a", "b"], ["c", "d"], ["e"]]


def test_a_call_stops_at_its_number_of_bytes_and_says_that_there_is_more(fleet):
    fleet.submit(*"abcde", payload=b"x" * 100)
    assert dispatch_all(fleet, max_bytes=200) == [["a", "b"], ["c", "d"], ["e"]]


def test_a_run_larger_than_the_bytes_of_a_call_goes_alone(fleet):
    fleet.submit(*"ab", payload=b"x" * 300)
    assert dispatch_all(fleet, max_bytes=200) == [["a"], ["b"]]


def test_the_limit_of_a_call_counts_over_all_its_queues(fleet):
    fleet.create_queue("other")
    fleet.submit("a", "b")
    fleet.submit("c", "d", queue="other")

    answer = fleet.dispatch("default", "other", limit=3)

    assert (moved(answer), answer.more) == (["a", "b", "c"], ["other"])


def test_exactly_the_limit_is_not_more(fleet):
    fleet.submit("a", "b")
    assert fleet.dispatch(limit=2).more == []


def test_the_answer_says_when_each_queue_has_something_due_next(fleet):
    fleet.create_queue("other")
    fleet.create_queue("empty")
    fleet.submit("a", due_ms=T0 + 9)
    fleet.submit("b", due_ms=T0 + 4, queue="other")

    due_ms = fleet.dispatch().next_due_ms

    assert due_ms == {"default": T0 + 9, "other": T0 + 4, "empty": None}


def test_only_the_named_queues_are_dispatched(fleet):
    fleet.create_queue("other")
    fleet.submit("a")
    fleet.submit("b", queue="other")
    assert moved(fleet.dispatch("other")) == ["b"]


def test_a_queue_that_does_not_exist_is_passed_over(fleet):
    fleet.submit("a")
    answer = fleet.dispatch("nowhere", "default")
    assert answer == dispatched([Moved("a", "default", T0)], None, T0)


def test_a_pool_that_does_not_exist_is_said(fleet):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        fleet.store.dispatch("nowhere", ["default"])


def test_a_pool_of_a_newer_release_is_not_dispatched_by_this_one(fleet):
    fleet.submit("a")
    fleet.client.hset(fleet.keys["pool"], "version", 2)
    before = fleet.dump()
    with pytest.raises(RedisRefused, match="data version 2"):
        fleet.dispatch()
    assert fleet.dump() == before


def test_a_wake_list_never_holds_more_than_one_element(fleet):
    for run_id in "abc":
        fleet.put(run_id)
    assert fleet.dump()["wake:default"] == ["1"]


def test_a_run_that_has_moved_on_only_loses_its_old_place(fleet):
    fleet.put("a")
    before = fleet.dump()
    fleet.client.zadd(fleet.keys["scheduled"] + "default", {fleet.run("a")["member"]: T0})

    assert moved(fleet.dispatch()) == []
    assert fleet.dump() == before


def test_a_place_without_a_record_is_cleared(fleet):
    before = fleet.dump()
    fleet.client.zadd(fleet.keys["scheduled"] + "default", {"0000000000000001a": T0})
    assert moved(fleet.dispatch()) == []
    assert fleet.dump() == before


# --- A stream is bounded


def bounded(fleet: Fleet, **bounds: int) -> None:
    """Bound the unclaimed entries of the default queue."""
    fleet.client.hset(fleet.keys["queue"] + "default", mapping=bounds)


BOUNDS = [{"max_unclaimed": 2}, {"max_unclaimed_bytes": 200}]


@pytest.mark.parametrize("bounds", BOUNDS)
def test_a_full_stream_takes_nothing_more_and_says_so_in_the_queue(fleet, bounds):
    bounded(fleet, **bounds)
    fleet.submit(*"abc", payload=b"x" * 100)

    answer = fleet.dispatch()

    assert (moved(answer), answer.more, answer.next_due_ms) == (["a", "b"], [], {"default": None})
    assert fleet.dump()["queue:default"]["blocked"] == "unclaimed"


@pytest.mark.parametrize("bounds", BOUNDS)
def test_a_blocked_queue_stays_as_it_is_when_dispatched_again(fleet, bounds):
    bounded(fleet, **bounds)
    fleet.submit(*"abc", payload=b"x" * 100)
    fleet.dispatch()
    before = fleet.dump()

    assert moved(fleet.dispatch()) == []
    assert fleet.dump() == before


@pytest.mark.parametrize("bounds", BOUNDS)
def test_claims_that_make_room_say_so_once_and_what_was_blocked_follows(fleet, listener, bounds):
    bounded(fleet, **bounds)
    fleet.submit(*"abcd", payload=b"x" * 100)
    fleet.dispatch()
    holder = fleet.register()
    listener.heard()

    fleet.claim(holder, slots=1)
    fleet.claim(holder, slots=1)

    assert listener.heard() == ["default 0"]
    assert "blocked" not in fleet.dump()["queue:default"]
    assert moved(fleet.dispatch()) == ["c", "d"]


def test_a_queue_stays_blocked_until_half_of_its_stream_is_claimed(fleet, listener):
    bounded(fleet, max_unclaimed=4)
    fleet.submit(*"abcde")
    fleet.dispatch()
    holder = fleet.register()
    listener.heard()

    fleet.claim(holder, slots=1)
    assert listener.heard() == []
    fleet.claim(holder, slots=1)
    assert listener.heard() == ["default 0"]


def test_a_full_stream_with_nothing_left_to_dispatch_is_not_blocked(fleet, listener):
    bounded(fleet, max_unclaimed=2)
    fleet.put("a", "b")
    listener.heard()

    assert "blocked" not in fleet.dump()["queue:default"]
    fleet.claim(fleet.register())
    assert listener.heard() == []


def test_a_full_stream_in_front_of_runs_that_are_not_due_yet_is_not_blocked(fleet):
    bounded(fleet, max_unclaimed=1)
    fleet.put("a")
    fleet.submit("b", due_ms=T0 + 5)

    assert fleet.dispatch().next_due_ms == {"default": T0 + 5}
    assert "blocked" not in fleet.dump()["queue:default"]


def test_a_stream_with_room_is_not_blocked_by_the_limit_of_a_call(fleet):
    bounded(fleet, max_unclaimed=4)
    fleet.submit(*"abcde")

    assert fleet.dispatch(limit=3).more == ["default"]
    assert "blocked" not in fleet.dump()["queue:default"]


def test_an_empty_stream_has_no_unclaimed_bytes_whatever_was_counted(fleet):
    bounded(fleet, unclaimed_bytes=10**9, largest_bytes=10**9)
    fleet.put("a")
    queue = fleet.dump()["queue:default"]
    assert (queue["unclaimed_bytes"], queue["largest_bytes"]) == ("12", "12")


def test_the_unclaimed_bytes_are_those_of_the_unclaimed_entries(fleet):
    fleet.put(*"abc", payload=b"x" * 100)
    fleet.claim_one(fleet.register())
    assert fleet.dump()["queue:default"]["unclaimed_bytes"] == "200"


def test_claimed_entries_do_not_count_as_unclaimed(fleet):
    bounded(fleet, max_unclaimed=2)
    holder = fleet.register()
    fleet.put("a", "b")
    fleet.claim(holder)
    fleet.put("c", "d")
    assert stream(fleet) == ["a", "b", "c", "d"]


def test_a_blocked_queue_does_not_hold_up_another_one(fleet):
    fleet.create_queue("other")
    bounded(fleet, max_unclaimed=1)
    fleet.submit("a", "b")
    fleet.submit("c", queue="other")
    assert moved(fleet.dispatch()) == ["a", "c"]


def test_the_bound_of_bytes_lets_the_first_run_through_whatever_its_size(fleet):
    bounded(fleet, max_unclaimed_bytes=100)
    fleet.submit("a", "b", payload=b"x" * 1000)
    assert moved(fleet.dispatch()) == ["a"]


def test_what_another_group_has_read_is_dispatched_and_claimed_all_the_same(fleet):
    key = fleet.keys["stream"] + "default"
    holder = fleet.register()
    fleet.put("a")
    fleet.client.xgroup_create(key, "monitor", "0")
    fleet.client.xreadgroup("monitor", "m", {key: ">"})
    fleet.claim_one(holder)

    fleet.put("b")

    assert fleet.dump()["ready"] == {"default": 1}
    assert fleet.claim_one(holder).run_id == "b"
