"""A run that was taken is a claim like any other, without an entry in a stream."""

import pytest

from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.records import Finish, Release, Start, Taken, Word
from dispatcher.store import Store
from tests.builders import COMPLETED, OUTCOMES, POOL, T0, Fleet, changed, moved, refused

LEASE_MS = 15_000
HOLDER = "w~1.1"


@pytest.fixture
def fleet(client, prefix):
    """A pool that is handed out by polling."""
    return Fleet(client, prefix, handout="poll")


@pytest.fixture
def claim(fleet):
    """The claim of the run "a", which was taken."""
    fleet.submit("a", retries=1, retry_delay_ms=500)
    return fleet.take_one("a")


@pytest.mark.parametrize("state", OUTCOMES)
def test_it_ends_as_any_claim_does_and_leaves_nothing(fleet, state):
    fleet.submit("a")
    claim = fleet.take_one("a")
    finish = Finish("a", claim.token, OUTCOMES[state], run_count=1)
    assert [fleet.store.report(POOL, finish) for _ in range(2)] == [Word.FINISHED] * 2
    assert fleet.run("a")["state_type"] == state

    assert fleet.store.recover(POOL, HOLDER).word is Word.RECOVERED
    left = {name for name in fleet.dump() if not name.startswith(("pool", "queue", "run:"))}
    assert left == {"events", "expiring", "finished"}


def test_its_start_may_be_repeated_and_no_other_one_follows(fleet, claim):
    assert fleet.store.report(POOL, Start("a", claim.token, 1)) is Word.STARTED
    assert fleet.store.report(POOL, Start("a", claim.token, 2)) is Word.STARTED


def test_a_released_run_is_at_its_old_place_and_may_be_taken_again(fleet, claim):
    fleet.submit("b")
    assert [fleet.release(claim), fleet.release(claim)] == [Word.RELEASED] * 2
    assert [m[16:] for m in fleet.members("scheduled", "default")] == ["a", "b"]
    again = fleet.take_one("a", "2")
    assert (again.token, again.delivery, again.run_count) == ("2.2.1", 2, 2)
    assert fleet.finish(claim) is Word.RELEASED
    assert fleet.finish(again) is Word.FINISHED


def test_an_operator_takes_it_away(fleet, claim):
    assert fleet.take_away(claim) is Word.RELEASED
    assert fleet.dump()[f"inbox:{HOLDER}"] == ["1"]
    assert fleet.take("a", "2").word is Word.TAKEN


def test_a_failed_run_is_scheduled_for_its_retry(fleet, claim):
    assert fleet.finish(claim, "FAILED") is Word.RESCHEDULED
    assert fleet.take("a", "2") == Taken(Word.NOT_DUE, str(T0 + 500))
    fleet.advance(500)
    again = fleet.take_one("a", "3")
    assert (fleet.run("a")["state_name"], again.run_count) == ("Retrying", 2)


def test_a_failed_run_is_retried_in_process_under_its_claim(fleet):
    fleet.submit("a", retries=1, retry_type="in_process")
    token = fleet.take_one("a").token
    failed = Finish("a", token, OUTCOMES["FAILED"], run_count=1)
    assert fleet.store.report(POOL, failed) is Word.RETRYING
    assert fleet.store.report(POOL, Start("a", token, 2)) is Word.STARTED
    assert fleet.store.report(POOL, Finish("a", token, COMPLETED, run_count=2)) is Word.FINISHED


def test_its_lease_is_renewed_and_an_order_to_cancel_is_heard(fleet, claim):
    assert fleet.cancel("a").word is Word.CANCELLING
    fleet.advance(1_000)
    renewed = fleet.store.renew(POOL, HOLDER, held=1, number=1)
    assert (renewed.word, renewed.draining, renewed.orders) == (Word.RENEWED, True, ("a",))
    assert fleet.dump()["holders"] == {HOLDER: T0 + 1_000 + LEASE_MS}
    assert fleet.finish(claim) is Word.FINISHED
    assert fleet.run("a")["state_type"] == "CANCELLED"


def test_when_its_lease_ends_it_counts_as_lost_while_running(fleet, claim):
    fleet.advance(LEASE_MS)
    assert fleet.store.recover_all(POOL, HOLDER).requeued == ["a"]
    assert (fleet.run("a")["losses"], fleet.run("a")["place"]) == ("1", "scheduled")
    before = fleet.dump()
    assert fleet.finish(claim) is Word.LOST
    at_ms = fleet.store.now_ms
    told = refused("a", "a finish with an old token", at_ms=at_ms)
    assert changed(before, fleet.dump()) == told


def test_a_run_that_kills_its_workers_is_dead_lettered_and_requeued(fleet):
    fleet.submit("a")
    for number in range(3):
        fleet.take("a", str(number))
        fleet.lose(f"w~{number}.{number}")
    assert fleet.run("a")["place"] == "dead"
    fleet.requeue("a")
    assert fleet.take("a").word is Word.TAKEN


def test_its_time_does_not_change_any_more(fleet, claim):
    assert fleet.retime("a", T0 + 1).word is Word.CLAIMED


def test_a_claim_goes_on_when_its_pool_becomes_one_of_streams(fleet, claim):
    fleet.set_pool(handout="stream")
    fleet.release(claim)
    assert moved(fleet.dispatch()) == ["a"]
    again = fleet.claim_one(fleet.register())
    assert (again.run_id, again.delivery, again.run_count) == ("a", 2, 1)


def test_after_lost_writes_the_token_of_another_take_is_another_one(fleet):
    fleet.submit("a")
    key = fleet.keys["run"] + "a"
    known = fleet.client.hgetall(key)
    first = fleet.take_one("a", "1")
    for lost in ("holder", "claims"):
        fleet.client.delete(fleet.keys[lost] + HOLDER)
    fleet.client.delete(key, fleet.keys["holders"], fleet.keys["workers"])
    fleet.client.hset(key, mapping=known)
    fleet.client.zadd(fleet.keys["scheduled"] + "default", {known[b"member"]: T0})

    second = fleet.take_one("a", "2")

    assert first.token != second.token
    assert fleet.store.report(POOL, Release("a", first.token, "late")) is Word.LOST
    assert fleet.finish(second) is Word.FINISHED


def test_a_taken_run_is_listed_and_counted_with_those_that_are_claimed(fleet, claim):
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)
    (queue,) = inspector.queues(POOL)
    assert (queue.scheduled, queue.unclaimed, queue.claimed) == (0, 0, 1)
    assert inspector.pool(POOL).claimed == 1
    assert [(run.id, run.place) for run in inspector.runs(POOL)] == [("a", "claimed")]
    assert inspector.claims(POOL, HOLDER) == {"a": claim.token}


@pytest.mark.parametrize("step", ["take", "finish", "release", "recover"])
def test_at_full_memory_what_waits_is_taken_and_what_runs_ends(own_server, step):
    with own_server().client() as client:
        fleet = Fleet(client, "t", handout="poll")
        fleet.submit("a")
        claim = fleet.take_one("a") if step != "take" else None
        client.config_set("maxmemory", 1)
        if claim is None:
            assert fleet.take("a").word is Word.TAKEN
        elif step == "recover":
            fleet.lose(HOLDER)
            assert fleet.run("a")["place"] == "scheduled"
        else:
            assert getattr(fleet, step)(claim) in (Word.FINISHED, Word.RELEASED)


def test_a_forgotten_script_is_loaded_again(own_server):
    with own_server().client() as client:
        fleet = Fleet(client, "t", handout="poll")
        fleet.submit("a")
        client.script_flush()
        store = Store(Connection(client), "t")
        store.now_ms = T0
        assert store.take(POOL, "a", worker="w", incarnation="1").word is Word.TAKEN
