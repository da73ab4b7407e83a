"""Taking a run by its id: claim and start in one, for exactly one of those who try."""

import threading
from contextlib import ExitStack

import pytest

from dispatcher.errors import InvalidName, NotFound, PoolNotFound, RedisRefused
from dispatcher.inspector import Inspector
from dispatcher.records import Claim, Taken, Word
from tests.builders import (
    POOL,
    T0,
    Fleet,
    a_store,
    changed,
    refused,
    shown,
)

LEASE_MS = 15_000
HOLDER = "w~1.1"


@pytest.fixture
def fleet(client, prefix):
    """A pool that is handed out by polling."""
    return Fleet(client, prefix, handout="poll")


# --- What it does


def test_a_run_that_is_taken_runs_at_once_under_a_holder_of_its_own(fleet):
    fleet.submit("a", deployment="dep")
    fleet.advance(5)
    before = fleet.dump()

    taken = fleet.store.take(POOL, "a", worker="w", incarnation="1", host="h", pid=7)

    assert taken == Taken(
        Word.TAKEN,
        "",
        HOLDER,
        Claim(
            "a", POOL, "default", "1.1.1", b"payload of a", T0, 1, 1, "name-of-a", job_version=T0
        ),
        LEASE_MS,
        5_000,
    )
    now = str(T0 + 5)
    of_run = {"at_ms": now, "run": "a", "queue": "default", "worker": HOLDER}
    assert changed(before, fleet.dump()) == {
        "events": [
            shown("registered", at_ms=now, worker=HOLDER),
            shown("claimed", **of_run, **{"from": "SCHEDULED", "to": "PENDING"}),
            shown("started", **of_run, **{"from": "PENDING", "to": "RUNNING"}),
        ],
        "claims:w~1.1": ["a"],
        "holder:w~1.1": {
            "worker": "w~1",
            "queues": "default",
            "slots": "1",
            "host": "h",
            "pid": "7",
            "type": "http",
            "registered_ms": now,
            "claim_number": "1",
            "claim_runs": "a",
            "draining": "1",
        },
        "holders": {HOLDER: T0 + 5 + LEASE_MS},
        "workers": {"w~1": HOLDER},
        "run:a": {
            "place": "claimed",
            "state_type": "RUNNING",
            "state_name": "Running",
            "holder": HOLDER,
            "claim": "1",
            "token": "1.1.1",
            "run_count": "1",
            "delivery": "1",
            "claimed_ms": now,
            "started_ms": now,
            "first_started_ms": now,
            "dispatched_ms": now,
            "delivery.1.holder": HOLDER,
            "delivery.1.claimed_ms": now,
            "delivery.1.started_ms": now,
        },
        "scheduled:default": None,
        "unstarted": None,
        "slots:pool": {"a": T0 + 5},
        "slots:queue:default": {"a": T0 + 5},
        "slots:deployment:dep": {"a": T0 + 5},
    }


def test_the_same_holder_again_gets_the_same_answer_and_changes_nothing(fleet):
    fleet.submit("a")
    first = fleet.take("a")
    fleet.set_pool(handout="stream")  # it is its run, however the pool hands out by now
    before = fleet.dump()
    assert fleet.take("a") == first
    assert changed(before, fleet.dump()) == {}


def test_of_all_who_try_one_after_the_other_only_the_first_gets_the_run(fleet):
    fleet.submit("a")
    words = [fleet.take("a", str(number)).word for number in range(5)]
    assert words == [Word.TAKEN, *[Word.CLAIMED] * 4]
    assert fleet.members("claims", "w~0.0") == ["a"]


def test_of_all_who_try_at_one_instant_exactly_one_gets_each_run(real_server, prefix):
    runs, at_once = [f"r{number}" for number in range(10)], 8
    with ExitStack() as opened:
        clients = [opened.enter_context(real_server.client()) for _ in range(at_once)]
        fleet = Fleet(clients[0], prefix, handout="poll")
        fleet.submit(*runs)
        barrier, words = threading.Barrier(at_once), []

        def try_all(number: int) -> None:
            store = a_store(clients[number], prefix)
            for run_id in runs:
                barrier.wait(10)
                taken = store.take(POOL, run_id, worker="w", incarnation=f"{number}-{run_id}")
                words.append((run_id, taken.word))

        threads = [threading.Thread(target=try_all, args=(n,)) for n in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(r for r, word in words if word is Word.TAKEN) == sorted(runs)
        assert len(words) == len(runs) * at_once
        for key in clients[0].scan_iter(f"{prefix}:*"):
            clients[0].delete(key)


@pytest.mark.parametrize("worker", ["w 1", "größe {1}:#", "a~b.c"])
def test_a_worker_may_have_any_name_and_a_run_the_settings_of_its_queue(fleet, worker):
    fleet.set_queue(timeout_ms=2_000, cancel_grace_ms=500)
    fleet.submit("a", retry_delay_ms=300)
    taken = fleet.store.take(POOL, "a", worker=worker, incarnation="1f")
    assert taken.claim is not None
    assert (taken.claim.timeout_ms, taken.claim.cancel_grace_ms) == (2_000, 500)
    assert taken.claim.retry_delay_ms == 300
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)
    (holder,) = inspector.holders(POOL)
    assert (holder.id, holder.worker) == (taken.holder, f"{worker}~1f")


def test_a_worker_whose_name_is_none_takes_nothing(fleet):
    fleet.submit("a")
    with pytest.raises(InvalidName):
        fleet.store.take(POOL, "a", worker="a/b", incarnation="1")


def test_runs_are_taken_in_any_order(fleet):
    fleet.submit(*"abc")
    assert [fleet.take(run_id, run_id).word for run_id in "cab"] == [Word.TAKEN] * 3


def test_a_run_that_is_still_in_its_stream_is_taken_from_there(client, prefix):
    fleet = Fleet(client, prefix)
    fleet.put(*"ab", deployment="dep")
    fleet.set_pool(handout="poll")

    claim = fleet.take_one("a")

    state = fleet.dump()
    assert [e["run"] for e in state["stream:default"]["entries"].values()] == ["b"]
    assert state["queue:default"]["unclaimed_bytes"] == str(len("payload of b"))
    assert "entry" not in state["run:a"]
    assert state["slots:deployment:dep"] == {"a": T0, "b": T0}
    assert fleet.finish(claim) is Word.FINISHED


def test_the_21st_delivery_takes_the_first_one_off_the_record(fleet):
    fleet.set_queue(max_deliveries=100)
    fleet.submit("a")
    for number in range(21):
        fleet.release(fleet.take_one("a", str(number)))
    record = fleet.run("a")
    assert ("delivery.1.holder" in record, "delivery.2.holder" in record) == (False, True)


# --- What is refused


def waiting(fleet: Fleet) -> None:
    """Let the run wait for its deployment, apart from the schedule."""
    fleet.set_deployment("dep", 0)
    fleet.dispatch()


def held(fleet: Fleet) -> None:
    fleet.submit("other")
    fleet.take("other", "other")


def limited(fleet: Fleet, **limit: int) -> None:
    held(fleet)
    fleet.set_pool(**limit)


def limited_queue(fleet: Fleet) -> None:
    held(fleet)
    fleet.set_queue(limit=1)


def full_deployment(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 1)
    fleet.submit("other", deployment="dep")
    fleet.take("other", "other")


def ended(fleet: Fleet) -> None:
    fleet.finish(fleet.take_one("a", "0"), "FAILED")


def dead(fleet: Fleet) -> None:
    fleet.set_queue(max_deliveries=1)
    fleet.take("a", "0")
    fleet.lose("w~0.0")


REFUSED = {
    "not due": (
        lambda fleet: fleet.retime("a", T0 + 1),
        (Word.NOT_DUE, str(T0 + 1)),
        "before it is due",
    ),
    "a paused pool": (
        lambda fleet: fleet.pause(),
        (Word.PAUSED, "pool"),
        "while its pool is paused",
    ),
    "a paused queue": (
        lambda fleet: fleet.pause("default", until_ms=T0 + 1),
        (Word.PAUSED, "queue"),
        "while its queue is paused",
    ),
    "a full pool": (
        lambda fleet: limited(fleet, limit=1),
        (Word.FULL, "pool"),
        "while its pool is full",
    ),
    "a pool that hands out nothing": (
        lambda fleet: fleet.set_pool(limit=0),
        (Word.FULL, "pool"),
        "while its pool is full",
    ),
    "a full queue": (limited_queue, (Word.FULL, "queue"), "while its queue is full"),
    "a full deployment": (
        full_deployment,
        (Word.WAITING, "dep"),
        "while its deployment is full",
    ),
    "waiting": (waiting, (Word.WAITING, "dep"), "while it waits for its deployment"),
    "a pool of streams": (
        lambda fleet: fleet.set_pool(handout="stream"),
        (Word.STREAMED, ""),
        "though its pool is handed out by stream",
    ),
    "taken by somebody": (
        lambda fleet: fleet.take("a", "0"),
        (Word.CLAIMED, "w~0.0"),
        "while somebody has it",
    ),
    "ended": (ended, (Word.ENDED, "FAILED"), "after its end"),
    "dead-lettered": (dead, (Word.ENDED, "CRASHED"), "after its end"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_run_that_cannot_be_taken_says_why_and_only_an_event_is_left(fleet, what):
    make, (word, detail), reason = REFUSED[what]
    fleet.submit("a", deployment="dep", due_ms=T0)
    make(fleet)
    at_ms = fleet.store.now_ms
    before = fleet.dump()
    assert fleet.take("a") == Taken(word, detail)
    assert changed(before, fleet.dump()) == refused("a", f"taken {reason}", at_ms=at_ms)


@pytest.mark.parametrize(
    "then",
    [
        lambda fleet, claim: fleet.finish(claim),
        lambda fleet, claim: fleet.release(claim),
        lambda fleet, claim: fleet.submit("b") and None,
    ],
)
def test_a_holder_that_has_had_its_run_gets_no_other_one(fleet, then):
    fleet.submit("a")
    then(fleet, fleet.take_one("a"))
    run_id = "b" if fleet.run("b") else "a"
    before = fleet.dump()
    assert fleet.take(run_id) == Taken(Word.LOST)
    reason = "taken by a holder that has had its run"
    assert changed(before, fleet.dump()) == refused(run_id, reason)


def test_a_holder_that_is_being_recovered_is_answered_that_it_lost_its_run(fleet):
    fleet.submit("a")
    fleet.take("a")
    fleet.client.hset(fleet.keys["holder"] + HOLDER, "dead", "1")
    assert fleet.take("a") == Taken(Word.LOST)


def test_a_run_and_a_pool_that_nobody_knows_are_not_found(fleet):
    with pytest.raises(NotFound, match="run a is not known in pool 'pool'"):
        fleet.take("a")
    with pytest.raises(PoolNotFound):
        fleet.store.take("other", "a", worker="w", incarnation="1")


def test_data_of_a_newer_release_is_left_alone(fleet):
    fleet.submit("a")
    fleet.client.hset(fleet.keys["pool"], "version", 99)
    before = fleet.dump()
    with pytest.raises(RedisRefused, match="data version 99"):
        fleet.take("a")
    assert changed(before, fleet.dump()) == {}


@pytest.mark.parametrize(
    ("free", "word"),
    [
        (lambda fleet: fleet.resume(), Word.TAKEN),
        (lambda fleet: fleet.advance(1), Word.TAKEN),
        (lambda _: None, Word.PAUSED),
    ],
)
def test_a_run_is_taken_as_soon_as_the_pause_has_ended(fleet, free, word):
    fleet.submit("a")
    fleet.pause(until_ms=T0 + 1)
    free(fleet)
    assert fleet.take("a").word is word
