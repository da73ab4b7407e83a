"""The atomic step `claim`: the next runs for a holder, highest priority first, within bounds."""

import pytest

from dispatcher.records import Claim, ClaimAnswer, Word
from tests.builders import MIB, POOL, T0, Fleet, changed, ids


def three_queues(fleet: Fleet) -> None:
    """Priorities: default 1, middle 2, low 3."""
    fleet.create_queue("middle")
    fleet.create_queue("low")


def test_a_claimed_run_belongs_to_its_holder(fleet):
    fleet.put("a", due_ms=T0 - 5, run_count=2)
    holder = fleet.register("w", "inc")
    before = fleet.dump()

    answer = fleet.answer(holder)

    entry = fleet.run("a")["entry"]
    token = f"{entry}.inc.1"
    claim = Claim(
        *("a", POOL, "default", token, b"payload of a", T0 - 5, 2, 1, "name-of-a"), job_version=T0
    )
    assert answer == ClaimAnswer(Word.CLAIMED, [claim], more=False)
    assert changed(before, fleet.dump()) == {
        "stream:default": {
            "groups": {"workers": {"consumers": [holder], "pending": {entry: holder}}}
        },
        "queue:default": {"unclaimed_bytes": "0", "grouped_ms": str(T0)},
        "ready": None,
        "holder:w.inc": {"claim_number": "1", "claim_runs": "a"},
        "claims:w.inc": ["a"],
        "slots:pool": {"a": T0},
        "slots:queue:default": {"a": T0},
        "run:a": {
            "place": "claimed",
            "state_type": "PENDING",
            "state_name": "Pending",
            "holder": holder,
            "claim": "1",
            "token": token,
            "claimed_ms": str(T0),
            "delivery": "1",
            "delivery.1.holder": holder,
            "delivery.1.claimed_ms": str(T0),
        },
        "events": [
            {
                "event": "claimed",
                "at_ms": str(T0),
                "run": "a",
                "queue": "default",
                "from": "SCHEDULED",
                "to": "PENDING",
                "worker": holder,
            }
        ],
    }


def test_a_claim_of_nothing_is_an_empty_answer(fleet):
    holder = fleet.register()
    before = fleet.dump()

    assert fleet.answer(holder) == ClaimAnswer(Word.CLAIMED, [], more=False)
    assert changed(before, fleet.dump()) == {"holder:w.1": {"claim_number": "1", "claim_runs": ""}}


def test_a_claimed_run_is_given_to_nobody_else(fleet):
    fleet.put("a")
    one, other = fleet.register("one"), fleet.register("other")
    assert ids(fleet.claim(one)) == ["a"]
    assert fleet.claim(other) == []


def test_a_token_belongs_to_one_delivery(fleet):
    holder = fleet.register()
    fleet.put("a")
    first = fleet.claim_one(holder)
    fleet.release(first)
    fleet.dispatch()

    second = fleet.claim_one(holder)

    assert (first.delivery, second.delivery) == (1, 2)
    assert first.token != second.token


def test_a_record_keeps_the_last_twenty_deliveries(fleet):
    holder = fleet.register()
    fleet.submit("a")
    for _ in range(22):
        fleet.dispatch()
        fleet.release(fleet.claim_one(holder))

    kept = {int(name.split(".")[1]) for name in fleet.run("a") if name.startswith("delivery.")}

    assert kept == set(range(3, 23))


# --- Order and slots


def test_runs_of_a_queue_are_claimed_in_the_order_of_its_stream(fleet):
    fleet.submit("b", "a", "c")
    fleet.submit("first", due_ms=T0 - 1)
    fleet.dispatch()
    assert ids(fleet.claim(fleet.register())) == ["first", "b", "a", "c"]


def test_a_higher_priority_is_claimed_first(fleet):
    three_queues(fleet)
    fleet.put("c", queue="low")
    fleet.put("b", queue="middle")
    fleet.put("a")
    assert ids(fleet.claim(fleet.register())) == ["a", "b", "c"]


def test_a_lower_priority_waits_while_a_higher_one_has_something(fleet):
    three_queues(fleet)
    fleet.put("c", queue="low")
    fleet.put("a1", "a2", "a3")
    holder = fleet.register()
    assert [ids(fleet.claim(holder, slots=2)) for _ in range(2)] == [["a1", "a2"], ["a3", "c"]]


def test_the_slots_of_a_claim_count_over_all_its_queues(fleet):
    three_queues(fleet)
    fleet.put("a1", "a2")
    fleet.put("b1", "b2", queue="middle")
    fleet.put("c1", "c2", queue="low")

    answer = fleet.answer(fleet.register(), slots=3)

    assert ids(answer.claims) == ["a1", "a2", "b1"]
    assert answer.more


def test_only_the_queues_that_the_worker_serves_are_claimed_from(fleet):
    three_queues(fleet)
    fleet.put("a")
    fleet.put("b", queue="middle")
    fleet.put("c", queue="low")

    answer = fleet.answer(fleet.register(queues=("low", "middle")))

    assert ids(answer.claims) == ["b", "c"]
    assert not answer.more
    assert fleet.dump()["ready"] == {"default": 1}


def test_a_claim_without_slots_takes_nothing_and_says_that_there_is_more(fleet):
    fleet.put("a")
    assert fleet.answer(fleet.register(), slots=0) == ClaimAnswer(Word.CLAIMED, [], more=True)


@pytest.mark.parametrize("slots", [2, 3])
def test_a_claim_that_empties_the_streams_says_that_there_is_no_more(fleet, slots):
    fleet.put("a", "b")

    answer = fleet.answer(fleet.register(), slots=slots)

    assert not answer.more
    assert "ready" not in fleet.dump()


# --- Bytes


@pytest.mark.parametrize("size", [MIB, 900_000, 600_000, 100_000])
def test_a_claim_carries_at_most_four_mebibytes(fleet, size):
    runs = [f"r{number:02}" for number in range(6 * MIB // size)]
    fleet.submit(*runs, payload=b"x" * size)
    fleet.dispatch(max_bytes=64 * MIB)

    answer = fleet.answer(fleet.register(), slots=100)

    carried = sum(len(claim.payload) for claim in answer.claims)
    assert 3 * MIB < carried <= 4 * MIB
    assert answer.more


def test_runs_of_one_mebibyte_come_four_at_a_time(fleet):
    fleet.submit(*"abcdef", payload=b"x" * MIB)
    fleet.dispatch(max_bytes=64 * MIB)
    holder = fleet.register()
    assert [ids(fleet.claim(holder)) for _ in range(3)] == [list("abcd"), list("ef"), []]


def test_a_run_larger_than_the_bytes_of_a_claim_comes_alone(fleet):
    fleet.submit("a", "b", payload=b"x" * (5 * MIB))
    fleet.dispatch(max_bytes=64 * MIB)
    holder = fleet.register()
    assert [ids(fleet.claim(holder)) for _ in range(3)] == [["a"], ["b"], []]


def test_bytes_that_are_used_up_leave_lower_priorities_alone(fleet):
    fleet.create_queue("low")
    fleet.submit(*"abcde", payload=b"x" * MIB)
    fleet.submit("small", queue="low")
    fleet.dispatch(max_bytes=64 * MIB)
    assert ids(fleet.claim(fleet.register())) == list("abcd")


def test_the_bytes_of_a_claim_count_over_all_its_queues(fleet):
    fleet.create_queue("low")
    fleet.submit(*"ab", payload=b"x" * (MIB + MIB // 2))
    fleet.submit(*"cd", payload=b"x" * MIB, queue="low")
    fleet.dispatch(max_bytes=64 * MIB)
    assert ids(fleet.claim(fleet.register())) == ["a", "b", "c"]


# --- Entries that stand for nothing


def stray(fleet: Fleet, run_id: str) -> None:
    """Put an entry into the stream that no record names."""
    fields = {"run": run_id, "payload": "stray", "due_ms": T0, "run_count": 0, "delivery": 1}
    fleet.client.xadd(fleet.keys["stream"] + "default", fields)


def test_an_entry_of_a_run_without_a_record_is_deleted(fleet):
    stray(fleet, "unknown")
    fleet.put("a")
    assert ids(fleet.claim(fleet.register())) == ["a"]
    assert list(fleet.dump()["stream:default"]["entries"]) == [fleet.run("a")["entry"]]
    assert "run:unknown" not in fleet.dump()


def test_an_entry_of_a_run_that_has_ended_is_deleted(fleet):
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()))
    stray(fleet, "a")
    fleet.put("b")
    before = fleet.run("a")

    assert ids(fleet.claim(fleet.register())) == ["b"]
    assert fleet.run("a") == before


def test_a_second_entry_of_a_run_is_deleted(fleet):
    stray(fleet, "a")
    fleet.put("a")
    claims = fleet.claim(fleet.register())
    assert ids(claims) == ["a"]
    assert claims[0].payload == b"payload of a"


def test_a_second_entry_of_a_claimed_run_is_deleted(fleet):
    holder = fleet.register()
    fleet.put("a")
    fleet.claim_one(holder)
    before = fleet.run("a")
    stray(fleet, "a")
    fleet.put("b")

    assert ids(fleet.claim(fleet.register("other"))) == ["b"]

    assert fleet.run("a") == before
    assert len(fleet.dump()["stream:default"]["entries"]) == 2


def test_entries_that_stand_for_nothing_take_no_slots(fleet):
    for _ in range(3):
        stray(fleet, "unknown")
    fleet.put("a", "b")
    assert ids(fleet.claim(fleet.register(), slots=2)) == ["a", "b"]


def test_deleting_entries_that_stand_for_nothing_makes_room(fleet, listener):
    fleet.client.hset(fleet.keys["queue"] + "default", "max_unclaimed", 2)
    stray(fleet, "unknown")
    stray(fleet, "unknown")
    fleet.put("a")
    listener.heard()

    fleet.claim(fleet.register())

    assert listener.heard() == ["default 0"]
    assert [run.run_id for run in fleet.dispatch().moved] == ["a"]
