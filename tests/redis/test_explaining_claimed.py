"""What became of a run since it was claimed: each answer as whole text."""

import re

import pytest

from dispatcher.cli.output import shown_span
from dispatcher.clock import utc
from dispatcher.errors import NotFound, PoolNotFound, QueueNotFound
from dispatcher.explaining import explain
from dispatcher.inspector import Inspector
from dispatcher.reasons import Code, Reason
from tests.builders import T0, Fleet
from tests.explanations import codes, explained, told
from tests.probes import ROOT

START = "2023-11-14T22:13:20.000Z"  # T0
SERVE = "start `consumers run --pool pool --queue default`."
TAKE_AWAY = "`dispatcher flow-run release a` takes it away from there."


# --- With a worker


@pytest.fixture
def claim(fleet):
    fleet.put("a")
    return fleet.claim_one(fleet.register(host="here", pid=7))


CLAIMED = f"It has been claimed by worker w (here, pid 7) for 4 s, since {START}, in delivery 1"


def test_a_claimed_run_says_by_whom_and_how_much_lease_is_left(fleet, claim):
    fleet.advance(4_000)
    assert told(fleet) == [
        f"{CLAIMED}, and has not started; its lease holds for another 11 s; {TAKE_AWAY}"
    ]


def test_a_claimed_run_whose_lease_has_ended_says_when(fleet, claim):
    fleet.advance(15_000)
    assert told(fleet) == [
        f"{CLAIMED.replace('4 s', '15 s')}, and has not started; its lease ended at "
        f"2023-11-14T22:13:35.000Z, and a dispatcher takes the run back; {TAKE_AWAY}"
    ]


def test_a_claimed_run_whose_worker_was_displaced_says_that_its_lease_has_ended(fleet, claim):
    fleet.register(incarnation="2")
    fleet.advance(4_000)
    assert told(fleet) == [
        f"{CLAIMED}, and has not started; its lease has ended, and a dispatcher takes the run "
        f"back; {TAKE_AWAY}"
    ]


def test_a_claimed_run_whose_worker_nobody_knows_says_so(fleet, claim):
    fleet.client.delete(fleet.keys["holder"] + "w.1")
    fleet.advance(4_000)
    assert told(fleet) == [
        f"It has been claimed by worker w.1 for 4 s, since {START}, in delivery 1, and has not "
        "started; that worker is not registered any more: ask `dispatcher doctor`; " + TAKE_AWAY
    ]


def test_a_running_run_says_where_and_since_when(fleet, claim):
    fleet.advance(1_000)
    fleet.start(claim)
    fleet.advance(3_000)
    assert told(fleet) == [
        "It has been running on worker w (here, pid 7) for 3 s, since 2023-11-14T22:13:21.000Z, "
        "in start 1 and delivery 1; its lease holds for another 11 s."
    ]


def test_a_run_that_is_being_cancelled_says_who_has_the_order(fleet, claim):
    fleet.set_queue(cancel_grace_ms=5_000)
    fleet.cancel("a", reason="not needed")
    assert told(fleet) == [
        "It is being cancelled (not needed); worker w (here, pid 7) has the order, and kills what "
        "goes on for 5 s; its lease holds for another 15 s."
    ]


def test_a_run_whose_order_got_lost_says_what_ends_it(fleet, claim):
    fleet.cancel("a", reason="")
    fleet.client.delete(fleet.keys["orders"] + "w.1")
    assert told(fleet) == [
        "It is being cancelled; worker w (here, pid 7) has no order for it: `dispatcher flow-run "
        "release a` ends the run; its lease holds for another 15 s."
    ]


# --- Lost


def lose(fleet: Fleet, *, started: int = 0, unstarted: int = 0) -> None:
    for number in range(started + unstarted):
        holder = fleet.register(incarnation=str(number))
        claim = fleet.claim_one(holder)
        if number < started:
            fleet.start(claim)
        fleet.lose(holder)
        fleet.dispatch()


LAST = "last w.{} at 2023-11-14T22:1{}Z."


@pytest.mark.parametrize(
    ("losses", "policy", "sentence"),
    [
        (
            {"started": 1},
            "requeue",
            f"1 time while running (2 more dead-letter it), {LAST.format(0, '3:35.000')}",
        ),
        (
            {"unstarted": 9},
            "requeue",
            f"9 times before its start (1 more dead-letters it), {LAST.format(8, '5:35.000')}",
        ),
        (
            {"started": 2, "unstarted": 1},
            "crash",
            "2 times while running (1 more ends it as CRASHED) and 1 time before its start "
            f"(9 more dead-letter it), {LAST.format(2, '4:05.000')}",
        ),
    ],
)
def test_a_run_that_was_lost_says_how_often_and_what_is_left(fleet, losses, policy, sentence):
    fleet.put("a")
    lose(fleet, **losses)
    fleet.set_queue(on_worker_lost=policy)
    assert told(fleet) == [
        f"No live worker serves queue default: {SERVE}",
        f"It lost its worker {sentence}",
    ]


def test_a_claimed_run_says_that_it_was_lost_before(fleet):
    fleet.put("a")
    lose(fleet, started=1)
    fleet.claim_one(fleet.register(incarnation="9"))
    assert codes(fleet) == ["claimed", "lost"]


def test_a_dead_run_says_why_and_until_when_it_is_kept(fleet):
    fleet.set_pool(dead_retention_ms=60_000)
    fleet.put("a")
    lose(fleet, started=3)
    assert told(fleet) == [
        "It was dead-lettered at 2023-11-14T22:14:05.000Z, after 3 deliveries (lost while running "
        "3 times); `dispatcher dead-letter requeue a` schedules it again, and it is kept until "
        "2023-11-14T22:15:05.000Z."
    ]


# --- Ended


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("COMPLETED", "after 2 s of running."),
        ("FAILED", "after 2 s of running (exit code 1)."),
        ("CRASHED", "after 2 s of running (killed by signal 9)."),
    ],
)
def test_a_run_that_has_ended_says_how_and_when(fleet, claim, state, sentence):
    fleet.start(claim)
    fleet.advance(2_000)
    fleet.finish(claim, state)
    fleet.advance(60_000)
    assert told(fleet) == [f"It ended as {state} at 2023-11-14T22:13:22.000Z, {sentence}"]


def test_a_run_that_was_retried_says_how_often_it_started(fleet):
    fleet.put("a", retries=1)
    holder = fleet.register()
    for _ in range(2):
        claim = fleet.claim_one(holder)
        fleet.start(claim)
        fleet.advance(1_500)
        fleet.finish(claim, "FAILED")
        fleet.dispatch()
    assert told(fleet) == [
        "It ended as FAILED at 2023-11-14T22:13:23.000Z, after 3 s of running in 2 starts "
        "(exit code 1)."
    ]


def test_a_run_that_was_cancelled_before_its_start_says_why(fleet):
    fleet.submit("a")
    fleet.cancel("a", reason="not needed")
    assert told(fleet) == [f"It ended as CANCELLED at {START}, without a start (not needed)."]


def test_a_run_that_was_cancelled_while_it_ran_says_what_its_worker_reported(fleet, claim):
    fleet.start(claim)
    fleet.advance(500)
    fleet.cancel("a", reason="not needed")
    fleet.finish(claim)
    assert told(fleet) == [
        "It ended as CANCELLED at 2023-11-14T22:13:20.500Z, after 500 ms of running (not needed); "
        "its worker reported COMPLETED."
    ]


def test_an_ended_run_is_explained_when_its_queue_is_gone(fleet):
    fleet.create_queue("old")
    fleet.submit("a", queue="old")
    fleet.cancel("a")
    fleet.client.delete(fleet.keys["queue"] + "old")
    fleet.client.zrem(fleet.keys["queues"], "old")
    assert codes(fleet) == ["ended"]


# --- The whole


def as_json(fleet: Fleet):
    return explained(fleet).as_json(time=utc, span=shown_span)


def test_the_json_has_the_facts_of_each_answer(fleet):
    fleet.submit("a", due_ms=T0 + 1_000, deployment="d")
    fleet.pause("default", by="ops")
    found = as_json(fleet)
    texts = [reason.pop("text") for reason in found["reasons"]]
    assert texts == told(fleet)
    assert found == {
        "id": "a",
        "name": "name-of-a",
        "work_pool_name": "pool",
        "work_queue_name": "default",
        "deployment_id": "d",
        "state_type": "SCHEDULED",
        "state_name": "Scheduled",
        "time": START,
        "reasons": [
            {"code": "not_due", "due_time": "2023-11-14T22:13:21.000Z"},
            {
                "code": "paused",
                "queue": "default",
                "pause": {"since_time": START, "by": "ops", "reason": None, "until_time": None},
            },
        ],
    }


def test_the_json_has_lists_and_spans(fleet):
    fleet.set_queue(limit=1)
    fleet.put("b", "a")
    fleet.start(fleet.claim_one(fleet.register()))
    (full,) = as_json(fleet)["reasons"]
    fleet.cancel("a")
    (ended,) = as_json(fleet)["reasons"]
    assert full["slots"] == {
        "held": 1,
        "first": [{"id": "b", "state_name": "Running", "is_claimed": True}],
    }
    assert (ended["ran_seconds"], ended["ended_time"]) == (0.0, START)


def test_the_json_has_no_lease_end_once_the_lease_is_lost(fleet, claim):
    fleet.register(incarnation="2")
    (reason,) = as_json(fleet)["reasons"]
    who = {"holder": "w.1", "worker": "w", "host": "here", "pid": 7}
    assert reason["holding"] == {**who, "lease_end_time": None}


def test_a_late_run_is_called_late(fleet):
    fleet.put("a")
    fleet.register()
    fleet.advance(14_999)
    early = explained(fleet).state_name
    fleet.advance(1)
    assert (early, explained(fleet).state_name) == ("Scheduled", "Late")


def test_every_code_has_its_answer():
    assert {each.code for each in Reason.__subclasses__()} == set(Code)


def test_operations_explain_every_code_in_the_order_of_the_answers():
    table = (ROOT / "docs/operations.md").read_text().split("<!-- reasons -->")[1]
    rows = [row.split(" | ")[0] for row in table.split("<!-- /reasons -->")[0].splitlines()]
    assert re.findall("`([a-z_]+)`", " ".join(rows)) == [code.value for code in Code]


def test_a_run_that_nobody_knows_is_not_found(fleet):
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)
    with pytest.raises(NotFound, match=r"^run b is not known$"):
        explain(inspector, "b")


@pytest.mark.parametrize(
    ("key", "error"), [("pool", PoolNotFound), ("queue", QueueNotFound)], ids=["pool", "queue"]
)
def test_a_run_whose_pool_or_queue_is_gone_says_so(fleet, key, error):
    fleet.submit("a")
    fleet.client.delete(fleet.keys[key] + ("default" if key == "queue" else ""))
    with pytest.raises(error):
        explained(fleet)


def test_the_time_is_that_of_the_server(fleet):
    fleet.submit("a", due_ms=T0)
    before_ms = explain(Inspector(fleet.store.connection, fleet.store.prefix), "a").now_ms
    seconds, micros = fleet.client.time()
    assert 0 <= seconds * 1_000 + micros // 1_000 - before_ms < 60_000


def spent(fleet: Fleet, run_id: str) -> tuple[int, int]:
    """Commands that one explanation takes, and bytes that it makes the server answer."""
    before = fleet.client.info("stats")
    explained(fleet, run_id)
    after = fleet.client.info("stats")
    names = ("total_commands_processed", "total_net_output_bytes")
    commands, answered = (after[name] - before[name] for name in names)
    return commands, answered


@pytest.mark.parametrize("place", ["scheduled", "waiting"])
def test_an_explanation_costs_the_same_among_many_runs_as_among_few(own_fleet, place):
    own_fleet.set_deployment("d", 0)
    deployment = "d" if place == "waiting" else ""
    costs = []
    for ahead in (50, 1_000):
        ids = [f"{ahead}-{number}" for number in range(ahead)]
        own_fleet.submit(*ids, f"a{ahead:04}", *(f"c{i}" for i in ids), deployment=deployment)
        while place == "waiting" and own_fleet.dispatch().more:
            pass
        costs.append(spent(own_fleet, f"a{ahead:04}"))
    (few, few_bytes), (many, many_bytes) = costs
    assert few == many
    assert many_bytes - few_bytes < 100
