"""The limits of pools and queues, continued: how long a slot is held, and whom a free one wakes."""

from collections.abc import Callable

import pytest

from dispatcher.records import Claim, ClaimAnswer, Word
from tests.builders import Fleet, ids, set_limit, sleep_on, woken

NOTHING = ClaimAnswer(Word.CLAIMED, [], more=False)


# --- How long a slot is held


def pending(fleet: Fleet, claim: Claim) -> None:
    pass


def running(fleet: Fleet, claim: Claim) -> None:
    fleet.start(claim)


def cancelling(fleet: Fleet, claim: Claim) -> None:
    fleet.start(claim)
    fleet.cancel(claim.run_id)


def between_retries(fleet: Fleet, claim: Claim) -> None:
    fleet.start(claim)
    assert fleet.finish(claim, "FAILED", run_count=1) is Word.RETRYING


@pytest.mark.parametrize("state", [pending, running, cancelling, between_retries])
@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_a_slot_is_held_until_the_claim_ends(fleet, kind, state):
    set_limit(fleet, kind, 1)
    fleet.put("a", "b", retries=1, retry_type="in_process")
    holder = fleet.register()
    claim = fleet.claim_one(holder)
    state(fleet, claim)
    assert fleet.answer(holder) == NOTHING


def finish(fleet: Fleet, claim: Claim) -> None:
    fleet.finish(claim)


def fail(fleet: Fleet, claim: Claim) -> None:
    fleet.start(claim)
    assert fleet.finish(claim, "FAILED") is Word.RESCHEDULED


def release(fleet: Fleet, claim: Claim) -> None:
    fleet.release(claim)


def take_away(fleet: Fleet, claim: Claim) -> None:
    fleet.take_away(claim)


def cancel(fleet: Fleet, claim: Claim) -> None:
    fleet.cancel(claim.run_id)
    fleet.release(claim)


def lose(fleet: Fleet, claim: Claim) -> None:
    fleet.lose("w.1")


def bury(fleet: Fleet, claim: Claim) -> None:
    fleet.set_queue(max_deliveries=1)
    fleet.start(claim)
    fleet.lose("w.1")
    assert fleet.members("dead") == ["a"]


ENDS = [finish, fail, release, take_away, cancel, lose, bury]
End = Callable[[Fleet, Claim], None]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_an_end_that_makes_room_wakes_a_waiting_worker(fleet, kind, end: End):
    set_limit(fleet, kind, 1)
    fleet.put("a", "b", retries=1, retry_delay_ms=60_000)
    claim = fleet.claim_one(fleet.register())
    sleep_on(fleet)

    end(fleet, claim)

    state = fleet.dump()
    assert (state["ready"], woken(fleet)) == ({"default": 1}, ["default"])
    assert "slots:pool" not in state
    assert "slots:queue:default" not in state
    assert ids(fleet.claim(fleet.register("other"))) == ["b"]


# --- Whom a finish wakes


def test_room_in_a_queue_wakes_a_worker_of_that_queue_only(fleet):
    for queue in ("low", "other"):
        fleet.create_queue(queue)
        fleet.set_queue(queue, limit=1)
        fleet.put(f"{queue}-1", f"{queue}-2", queue=queue)
    claims = fleet.claim(fleet.register())
    assert ids(claims) == ["low-1", "other-1"]
    sleep_on(fleet, "low", "other")

    fleet.finish(claims[1])

    assert woken(fleet) == ["other"]
    assert fleet.dump()["ready"] == {"other": 3}


def test_room_in_the_pool_wakes_a_worker_of_each_queue_that_has_something(fleet):
    for queue in ("low", "other", "empty", "full"):
        fleet.create_queue(queue)
    fleet.set_pool(limit=1)
    fleet.set_queue("full", limit=0)
    fleet.put("a")
    fleet.put("b", queue="low")
    fleet.put("c", queue="other")
    fleet.put("d", queue="full")
    claim = fleet.claim_one(fleet.register())
    sleep_on(fleet, "default", "low", "other")

    fleet.finish(claim)

    assert woken(fleet) == ["low", "other"]


def test_a_worker_that_the_full_pool_sent_away_is_woken_when_it_has_room(fleet):
    fleet.set_pool(limit=1)
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.put("b")
    sleep_on(fleet)
    assert fleet.answer(fleet.register("other")) == NOTHING

    fleet.finish(claim)

    assert woken(fleet) == ["default"]


def test_two_ends_wake_two_workers_one_after_the_other(fleet):
    fleet.set_pool(limit=2)
    fleet.put(*"abcd")
    for claim in fleet.claim(fleet.register()):
        fleet.finish(claim)
    sleep_on(fleet)

    assert ids(fleet.claim("w.1", slots=1)) == ["c"]
    assert woken(fleet) == ["default"]
    assert ids(fleet.claim(fleet.register("other"), slots=1)) == ["d"]


@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_a_finish_wakes_nobody_while_more_is_held_than_a_lowered_limit(fleet, kind):
    fleet.put(*"abcde")
    claims = fleet.claim(fleet.register(), 3)
    set_limit(fleet, kind, 1)
    sleep_on(fleet)

    for claim in claims[:2]:
        fleet.finish(claim)
        assert woken(fleet) == []
    fleet.finish(claims[2])

    assert woken(fleet) == ["default"]
