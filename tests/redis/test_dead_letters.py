"""The atomic steps `requeue` and `purge`: a dead-lettered run is scheduled again, or forgotten."""

import pytest

from dispatcher.controls import PURGE_RUNS
from dispatcher.errors import NotFound, Refused
from dispatcher.inspector import Inspector
from dispatcher.records import Moved, Word
from tests.builders import POOL, T0, Fleet, changed

REASON = "lost while running 1 time"


def bury(fleet: Fleet, *run_ids: str, **fields: object) -> None:
    """Let runs be lost once too often, in one worker; the clock stands at the end of its lease."""
    fleet.set_queue(max_deliveries=1)
    fleet.submit(*run_ids, **fields)
    fleet.dispatch(limit=len(run_ids))
    holder = fleet.register("doomed", run_ids[0], slots=1000)
    for claim in fleet.claim(holder, 1000):
        fleet.start(claim)
    fleet.lose(holder)
    assert [fleet.run(run_id)["place"] for run_id in run_ids] == ["dead"] * len(run_ids)


def places(fleet: Fleet, *run_ids: str) -> list[str | None]:
    return [fleet.run(run_id).get("place") for run_id in run_ids]


# --- Requeue


def test_a_requeued_run_is_scheduled_at_its_old_place_and_its_losses_are_forgotten(fleet):
    bury(fleet, "a", deployment="dep", idempotency="digest")
    before = fleet.dump()
    fleet.advance(3)
    now_ms = fleet.store.now_ms

    assert fleet.requeue("a", by="ana") == now_ms

    told = {"run": "a", "queue": "default", "from": "CRASHED", "to": "SCHEDULED", "by": "ana"}
    when = {"at_ms": str(now_ms), "due_ms": str(now_ms)}
    assert changed(before, fleet.dump()) == {
        "dead": None,
        "scheduled:default": {before["run:a"]["member"]: now_ms},
        "unstarted": {"a": now_ms},
        "run:a": {
            "place": "scheduled",
            "state_type": "SCHEDULED",
            "state_name": "Scheduled",
            "due_ms": str(now_ms),
            **dict.fromkeys(["losses", "message", "ended_ms"]),
        },
        "events": [{"event": "requeued"} | told | when],
    }


def test_a_run_may_be_requeued_for_another_time(fleet):
    bury(fleet, "a")
    due_ms = fleet.store.now_ms + 5

    assert fleet.requeue("a", due_ms) == due_ms

    assert fleet.dispatch().moved == []
    fleet.advance(5)
    assert fleet.dispatch().moved == [Moved("a", "default", due_ms)]


def test_a_requeued_run_is_claimed_with_its_payload_and_ends(fleet):
    bury(fleet, "a")
    fleet.requeue("a")
    fleet.dispatch()

    claim = fleet.claim_one(fleet.register())

    assert (claim.payload, claim.run_count, claim.delivery) == (b"payload of a", 1, 2)
    fleet.start(claim)
    assert fleet.finish(claim) is Word.FINISHED
    assert places(fleet, "a") == ["ended"]


def test_a_requeued_run_may_be_lost_as_often_as_a_new_one(fleet):
    bury(fleet, "a")
    fleet.set_queue(max_deliveries=3)
    fleet.requeue("a")
    found = []
    for number in range(3):
        fleet.dispatch()
        holder = fleet.register(incarnation=str(number))
        fleet.start(fleet.claim_one(holder))
        fleet.lose(holder)
        found += places(fleet, "a")
    assert found == ["scheduled", "scheduled", "dead"]


def test_a_run_that_never_started_is_requeued_with_all_its_tries(fleet):
    fleet.submit("a")
    for number in range(20):
        fleet.dispatch()
        holder = fleet.register(incarnation=str(number))
        fleet.claim_one(holder)
        fleet.lose(holder)
        if number in (9, 19):
            assert places(fleet, "a") == ["dead"]
            fleet.requeue("a")
        else:
            assert places(fleet, "a") == ["scheduled"]


def test_a_requeued_run_keeps_the_history_of_its_deliveries(fleet):
    bury(fleet, "a")
    fleet.requeue("a")
    (delivery,) = Inspector(fleet.store.connection, fleet.store.prefix).run("a", POOL).deliveries
    assert (delivery.holder, delivery.outcome) == ("doomed.a", "lost")


def test_dispatchers_hear_of_a_requeued_run(fleet, listener):
    bury(fleet, "a")
    listener.heard()
    assert listener.heard() == []

    now_ms = fleet.requeue("a")

    assert listener.heard() == [f"default {now_ms}"]


def scheduled(fleet: Fleet) -> None:
    fleet.submit("a")


def claimed(fleet: Fleet) -> None:
    fleet.put("a")
    fleet.claim_one(fleet.register())


def ended(fleet: Fleet) -> None:
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()), "CRASHED")


def requeued(fleet: Fleet) -> None:
    bury(fleet, "a")
    fleet.requeue("a")


@pytest.mark.parametrize(
    ("where", "state"),
    [(scheduled, "SCHEDULED"), (claimed, "PENDING"), (ended, "CRASHED"), (requeued, "SCHEDULED")],
)
def test_what_is_not_dead_lettered_is_not_requeued(fleet, where, state):
    where(fleet)
    before = fleet.dump()

    with pytest.raises(Refused, match=f"run a is not dead-lettered: it is {state}"):
        fleet.requeue("a")
    assert fleet.dump() == before


def test_a_run_that_is_not_known_is_not_requeued(fleet):
    before = fleet.dump()
    with pytest.raises(NotFound, match=f"run a is not known in pool '{POOL}'"):
        fleet.requeue("a")
    assert fleet.dump() == before


# --- Purge


def test_of_a_purged_run_only_an_event_is_left(fleet):
    bury(fleet, "a", "b")
    before = fleet.dump()
    fleet.advance(3)

    assert fleet.purge("a", by="ana") == 1

    told = {"run": "a", "queue": "default", "from": "CRASHED", "reason": REASON, "by": "ana"}
    event = {"event": "purged", "at_ms": str(fleet.store.now_ms)} | told
    assert changed(before, fleet.dump()) == {
        "dead": {"a": None},
        "run:a": None,
        "events": [event],
    }


def test_nothing_without_a_ttl_is_left_of_a_purged_run(fleet, leaks):
    fleet.put("x", deployment="dep", idempotency="other")
    fleet.finish(fleet.claim_one(fleet.register("doomed", "a")))
    before = leaks()
    bury(fleet, "a", deployment="dep", idempotency="digest")

    fleet.purge("a")

    gone = {fleet.keys[name] for name in ("holders", "workers")} | {
        fleet.keys["holder"] + "doomed.a"
    }
    assert set(leaks()) == set(before) - gone


def test_the_idempotency_key_of_a_purged_run_has_its_ttl_from_then_on(fleet):
    fleet.set_pool(idempotency_ttl_ms=50_000)
    bury(fleet, "a", idempotency="digest")
    key = fleet.keys["idempotency"] + "digest"
    assert fleet.client.ttl(key) == -1

    fleet.purge("a")

    assert 40_000 < fleet.client.pttl(key) <= 50_000


def test_only_dead_lettered_runs_are_purged(fleet):
    fleet.create_queue("q")
    ended(fleet)
    fleet.submit("b", queue="q")
    before = fleet.dump()

    assert fleet.purge("a", "b", "unknown") == 0
    assert fleet.dump() == before


def test_the_same_purge_again_changes_nothing(fleet):
    bury(fleet, "a")
    fleet.purge("a")
    before = fleet.dump()
    assert fleet.purge("a") == 0
    assert fleet.dump() == before


def test_any_number_of_runs_is_purged_and_counted(fleet):
    runs = [f"run-{number}" for number in range(2 * PURGE_RUNS + 1)]
    bury(fleet, *runs)

    assert fleet.purge(*runs, "unknown") == len(runs)

    assert "dead" not in fleet.dump()
    assert len([e for e in fleet.dump()["events"] if e["event"] == "purged"]) == len(runs)


def test_a_run_is_new_again_when_its_dead_letter_was_purged(fleet):
    bury(fleet, "a")
    fleet.purge("a")
    assert [receipt.word for receipt in fleet.submit("a")] == [Word.ACCEPTED]
    assert fleet.dispatch().moved == [Moved("a", "default", fleet.store.now_ms)]


# --- What a dead letter holds


def test_a_dead_letter_has_payload_reason_and_each_delivery_with_worker_and_times(fleet):
    bury(fleet, "a")
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)

    run = inspector.run("a", POOL)

    at_ms = fleet.store.now_ms
    assert inspector.dead(POOL) == ["a"]
    assert (inspector.payload(run), run.message) == (b"payload of a", REASON)
    assert [(d.holder, d.claimed_ms, d.started_ms, d.ended_ms) for d in run.deliveries] == [
        ("doomed.a", T0, T0, at_ms)
    ]


def test_a_dead_letter_stays_without_a_ttl(fleet):
    bury(fleet, "a", idempotency="digest")
    assert fleet.dump()["expiring"] == []
