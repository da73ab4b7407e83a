"""What decides about another try: the run's own policy, and its queue's for workers that died."""

from uuid import uuid4

import pytest

from dispatcher import Pool
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from dispatcher.records import Word
from tests.builders import T0, Fleet, changed

# --- The policy as it is submitted

POLICIES = {
    "none": ({}, "0", "0", "reschedule"),
    "both null": ({"retries": None, "retry_delay": None}, "0", "0", "reschedule"),
    "new pair": ({"retries": 2, "retry_delay": 3}, "2", "3000", "reschedule"),
    "deprecated pair": (
        {"max_retries": 2, "retry_delay_seconds": 1.5},
        *("2", "1500", "reschedule"),
    ),
    "deprecated pair, new one null": (
        {"max_retries": 2, "retry_delay_seconds": 1.5, "retries": None, "retry_delay": None},
        *("2", "1500", "reschedule"),
    ),
    "new pair beside the deprecated one": (
        {"max_retries": 5, "retry_delay_seconds": 9.0, "retries": 1, "retry_delay": 3},
        *("1", "3000", "reschedule"),
    ),
    "new pair of zeros": (
        {"max_retries": 5, "retry_delay_seconds": 9.0, "retries": 0, "retry_delay": 0},
        *("0", "0", "reschedule"),
    ),
    "one new, one deprecated": (
        {"retries": 4, "retry_delay_seconds": 0.25},
        *("4", "250", "reschedule"),
    ),
    "type null": ({"retries": 1, "retry_type": None}, "1", "0", "reschedule"),
    "type reschedule": ({"retries": 1, "retry_type": "reschedule"}, "1", "0", "reschedule"),
    "type in_process": ({"retries": 1, "retry_type": "in_process"}, "1", "0", "in_process"),
}


@pytest.mark.parametrize(
    ("policy", "retries", "delay_ms", "retry_type"), POLICIES.values(), ids=POLICIES
)
def test_a_submitted_policy_is_kept_beside_the_payload(
    fleet, policy, retries, delay_ms, retry_type
):
    store = fleet.store
    store.create_pool(Pool("etl", str(uuid4()), "process"), default_queue_id=str(uuid4()))
    producer = Producer(store, Inspector(store.connection, store.prefix))
    run = {"id": str(uuid4()), "flow_id": str(uuid4()), "empirical_policy": policy}

    receipt = producer.submit(run | {"job_variables": {"command": "true"}}, pool="etl")

    record = fleet.client.hgetall(store.keys("etl")["run"] + receipt.run_id)
    kept = [record[name].decode() for name in (b"retries", b"retry_delay_ms", b"retry_type")]
    assert kept == [retries, delay_ms, retry_type]


# --- The queue's policy for workers that died


def lose(fleet: Fleet, number: int, *, started: bool = True) -> None:
    """Let a worker claim "a" and die."""
    fleet.dispatch()
    holder = fleet.register(incarnation=str(number))
    claim = fleet.claim_one(holder)
    if started:
        fleet.start(claim)
    fleet.lose(holder)


def test_a_queue_may_let_a_run_crash_with_its_worker(fleet):
    fleet.set_queue(on_worker_lost="crash")
    fleet.put("a", idempotency="digest")
    fleet.start(fleet.claim_one(fleet.register()))
    before = fleet.dump()

    fleet.lose("w.1")

    after = fleet.dump()
    at_ms = str(fleet.store.now_ms)
    difference = changed(before, after)
    assert difference["run:a"] == {
        "place": "ended",
        "state_type": "CRASHED",
        "state_name": "Crashed",
        "message": "its worker was lost while running it",
        "losses": "1",
        "ran_ms": "15000",
        "ended_ms": at_ms,
        "delivery.1.ended_ms": at_ms,
        "delivery.1.outcome": "lost",
        **dict.fromkeys(["entry", "token", "holder", "claim"]),
    }
    assert difference["expiring"] == ["finished", "idempotency:digest", "run:a"]
    assert "dead" not in after
    assert [n for n in after if n.startswith(("slots:", "claims:", "scheduled:"))] == []


@pytest.mark.parametrize("retry_type", ["reschedule", "in_process"])
def test_a_crash_with_its_worker_is_not_retried(fleet, retry_type):
    fleet.set_queue(on_worker_lost="crash")
    fleet.submit("a", retries=5, retry_type=retry_type)
    lose(fleet, 1)
    assert fleet.run("a")["state_type"] == "CRASHED"


def test_a_run_that_had_not_started_does_not_crash_with_its_worker(fleet):
    fleet.set_queue(on_worker_lost="crash", max_deliveries=1)
    fleet.submit("a")
    lose(fleet, 1, started=False)
    assert fleet.run("a")["place"] == "scheduled"


def test_a_policy_for_lost_workers_holds_from_the_next_loss_on(fleet):
    fleet.set_queue(max_deliveries=5)
    fleet.submit("a")
    lose(fleet, 1)
    lose(fleet, 2)
    fleet.set_queue(max_deliveries=None)
    lose(fleet, 3)
    assert fleet.run("a")["place"] == "dead"


def test_losses_leave_the_retries_of_a_run_as_they_are(fleet):
    fleet.submit("a", retries=1)
    lose(fleet, 1)
    fleet.dispatch()
    claim = fleet.claim_one(fleet.register("other"))
    fleet.start(claim)

    # It has started twice, which is more often than its retries allow (Prefect counts starts).
    assert fleet.finish(claim, "FAILED") is Word.FINISHED
    assert fleet.run("a")["due_ms"] == str(T0)
