"""The atomic step `submit`: accepts a run once, and keeps its bytes."""

import pytest

from dispatcher.errors import NotFound, RedisRefused, Refused
from dispatcher.records import Receipt, Word
from tests.builders import MIB, OUTCOMES, POOL, T0, Fleet, a_submission, changed, refused

AFTER_ITS_END = "offered again after its end"

PLACES = {
    "scheduled": lambda fleet: fleet.submit("a"),
    "stream": lambda fleet: fleet.put("a"),
    "claimed": lambda fleet: (fleet.put("a"), fleet.claim(fleet.register())),
}


def end(fleet: Fleet, state: str) -> None:
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()), state)


def bury(fleet: Fleet) -> None:
    for number in range(10):
        fleet.dispatch()
        holder = fleet.register(incarnation=str(number))
        fleet.claim_one(holder)
        fleet.lose(holder)


def test_an_accepted_run_is_scheduled_under_its_place_number(fleet):
    before = fleet.dump()

    receipts = fleet.submit("a", due_ms=T0 + 5, deployment="dep", run_count=2)

    assert receipts == [Receipt("a", Word.ACCEPTED, POOL, "default", T0 + 5)]
    assert changed(before, fleet.dump()) == {
        "pool": {"submissions": "1"},
        "scheduled:default": {"0000000000000001a": T0 + 5},
        "unstarted": {"a": T0 + 5},
        "run:a": {
            "payload": "payload of a",
            "name": "name-of-a",
            "request": "request-of-a",
            "deployment": "dep",
            "queue": "default",
            "place": "scheduled",
            "member": "0000000000000001a",
            "state_type": "SCHEDULED",
            "state_name": "Scheduled",
            "due_ms": str(T0 + 5),
            "offered_ms": str(T0 + 5),
            "submitted_ms": str(T0),
            "state_id": "",
            "idempotency": "",
            "retries": "0",
            "retry_delay_ms": "0",
            "retry_type": "reschedule",
            "run_count": "2",
            "delivery": "0",
        },
        "events": [
            {
                "event": "submitted",
                "at_ms": str(T0),
                "run": "a",
                "queue": "default",
                "to": "SCHEDULED",
                "due_ms": str(T0 + 5),
            }
        ],
    }


def test_a_run_without_a_due_time_is_due_now(fleet):
    assert [receipt.due_ms for receipt in fleet.submit("a")] == [T0]


def test_a_run_may_come_in_another_scheduled_state(fleet):
    fleet.submit("a", state_name="AwaitingRetry")
    assert fleet.run("a")["state_name"] == "AwaitingRetry"


@pytest.mark.parametrize("place", PLACES)
def test_the_same_request_gets_the_same_receipt_and_changes_nothing(fleet, place):
    first = Receipt("a", Word.ACCEPTED, POOL, "default", T0)
    PLACES[place](fleet)
    before = fleet.dump()
    fleet.advance(1)

    assert fleet.submit("a") == [first]
    assert fleet.dump() == before


def test_the_same_request_gets_the_same_receipt_also_after_the_run_ended(fleet):
    end(fleet, "COMPLETED")
    before = fleet.dump()

    assert fleet.submit("a") == [Receipt("a", Word.ACCEPTED, POOL, "default", T0)]
    assert fleet.dump() == before


@pytest.mark.parametrize("place", PLACES)
def test_the_same_run_in_another_request_is_a_duplicate_and_changes_nothing(fleet, place):
    PLACES[place](fleet)
    before = fleet.dump()

    receipts = fleet.submit("a", request="other", payload=b"other", due_ms=T0)

    state = "PENDING" if place == "claimed" else "SCHEDULED"
    assert receipts == [Receipt("a", Word.DUPLICATE, POOL, "default", state=state)]
    assert fleet.dump() == before


@pytest.mark.parametrize("state", OUTCOMES)
def test_an_ended_run_for_another_time_is_refused_and_leaves_an_event_alone(fleet, state):
    end(fleet, state)
    before = fleet.dump()

    with pytest.raises(Refused, match=f"run a has ended already: {state}"):
        fleet.submit("a", request="other", due_ms=T0 + 1)
    assert changed(before, fleet.dump()) == refused("a", AFTER_ITS_END)


def test_a_dead_lettered_run_for_another_time_is_refused_and_leaves_an_event_alone(fleet):
    fleet.submit("a")
    bury(fleet)
    before, at_ms = fleet.dump(), fleet.store.now_ms

    with pytest.raises(Refused, match="run a has ended already: CRASHED"):
        fleet.submit("a", request="other", due_ms=T0 + 1)
    assert changed(before, fleet.dump()) == refused("a", AFTER_ITS_END, at_ms=at_ms)


def test_a_run_is_new_again_when_its_record_is_gone(fleet):
    end(fleet, "COMPLETED")
    fleet.client.delete(fleet.keys["run"] + "a")

    assert fleet.submit("a")[0].word is Word.ACCEPTED
    assert fleet.run("a")["place"] == "scheduled"


def test_a_pool_that_does_not_exist_takes_no_run(fleet):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        fleet.store.submit("nowhere", a_submission())
    assert list(fleet.client.scan_iter(f"{fleet.store.prefix}:*nowhere*")) == []


def test_a_queue_that_does_not_exist_takes_no_run(fleet):
    before = fleet.dump()
    with pytest.raises(NotFound, match=f"queue 'nowhere' does not exist in pool '{POOL}'"):
        fleet.submit("a", queue="nowhere")
    assert fleet.dump() == before


def test_a_pool_of_a_newer_release_takes_no_run_from_this_one(fleet):
    fleet.client.hset(fleet.keys["pool"], "version", 2)
    before = fleet.dump()
    with pytest.raises(RedisRefused, match="has data version 2, this release knows 1"):
        fleet.submit("a")
    assert fleet.dump() == before


def test_a_refused_run_of_a_batch_has_its_error_in_its_place(fleet):
    end(fleet, "FAILED")
    late = a_submission("a", request="new", due_ms=T0 + 1)
    batch = [a_submission("b"), late, a_submission("c", queue="?")]

    accepted, ended, nowhere = fleet.store.submit_many(POOL, batch)

    assert accepted == Receipt("b", Word.ACCEPTED, POOL, "default", T0)
    assert isinstance(ended, Refused)
    assert isinstance(nowhere, NotFound)


def test_place_numbers_follow_the_order_of_submission(fleet):
    fleet.submit("c", "a", "b", due_ms=T0)
    members = fleet.client.zrange(fleet.keys["scheduled"] + "default", 0, -1)
    assert members == [b"0000000000000001c", b"0000000000000002a", b"0000000000000003b"]


def test_dispatchers_hear_of_a_run_that_is_due_before_all_others(fleet, listener):
    fleet.submit("later", due_ms=T0 + 9)
    fleet.submit("earlier", due_ms=T0 + 5)
    assert listener.heard() == [f"default {T0 + 9}", f"default {T0 + 5}"]


def test_dispatchers_do_not_hear_of_a_run_behind_another_one(fleet, listener):
    fleet.submit("first", due_ms=T0 + 5)
    listener.heard()

    fleet.submit("second", due_ms=T0 + 5)
    fleet.submit("third", due_ms=T0 + 6)

    assert listener.heard() == []


def test_a_refused_run_is_no_news_for_dispatchers(fleet, listener):
    end(fleet, "COMPLETED")
    listener.heard()

    with pytest.raises(Refused):
        fleet.submit("a", due_ms=T0 + 1, request="other")

    assert listener.heard() == []


def test_a_payload_of_one_mebibyte_is_kept_byte_for_byte(fleet):
    payload = bytes(range(256)) * (MIB // 256)

    fleet.put("a", payload=payload)

    assert fleet.client.hget(fleet.keys["run"] + "a", "payload") == payload
    assert fleet.claim_one(fleet.register()).payload == payload


def test_a_due_time_in_the_far_future_is_kept_to_the_millisecond(fleet):
    year_9999_ms = 253_402_300_799_999
    assert fleet.submit("a", due_ms=year_9999_ms)[0].due_ms == year_9999_ms
    assert fleet.dispatch().next_due_ms == {"default": year_9999_ms}
