"""Reconciling, continued: what one call looks at, and records that say too little or too much."""

import pytest

from dispatcher import repairs
from dispatcher.connection import Connection
from dispatcher.errors import PoolNotFound, QueueNotFound
from dispatcher.inspector import Inspector
from dispatcher.reconciling import Reconciler
from dispatcher.records import Finding
from tests.builders import POOL, Fleet


def look(fleet: Fleet, *, fix: bool = False) -> list[Finding]:
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)
    pages = Reconciler(fleet.store, inspector, fix=fix).walk((POOL,), names=True)
    return [finding for page in pages for finding in page]


def named(findings: list[Finding]) -> list[tuple[str, str]]:
    return sorted((finding.code, finding.run) for finding in findings)


@pytest.fixture
def calls(fleet, monkeypatch) -> list[str]:
    """The steps that are done from now on, each with room for one payload."""
    done: list[str] = []
    step = fleet.store._step

    def counted(name, *args, **fields):
        done.append(name)
        return step(name, *args, **fields)

    monkeypatch.setattr(fleet.store, "_step", counted)
    monkeypatch.setattr(repairs, "LOOK_BYTES", 1)
    return done


# --- Bounds


def test_each_call_looks_at_one_more_entry_than_it_has_bytes_for(fleet, calls):
    fleet.put("a", "b", "c")
    holder = fleet.register()
    entries = [fleet.run(claim.run_id)["entry"] for claim in fleet.claim(holder)]
    calls.clear()

    assert fleet.store.reconcile_listings(POOL, "pending", "default", entries, fix=False) == []
    assert calls == ["reconcile_listings"] * 3


def test_each_call_looks_at_one_more_run_with_an_entry_than_it_has_bytes_for(fleet, calls):
    fleet.put("a", "b", "c")
    calls.clear()

    assert fleet.store.reconcile_runs(POOL, ["a", "b", "c"], fix=False) == []
    assert calls == ["reconcile_runs"] * 3


def test_runs_without_an_entry_cost_no_bytes(fleet, calls):
    fleet.submit("a", "b", "c", due_ms=fleet.store.now_ms + 1000)
    calls.clear()

    assert fleet.store.reconcile_runs(POOL, ["a", "b", "c"], fix=False) == []
    assert calls == ["reconcile_runs"]


def test_the_consumers_of_a_queue_are_looked_at_after_its_last_entry(fleet):
    fleet.put("a", "b")
    fleet.claim(fleet.register())
    fleet.client.xgroup_createconsumer(fleet.keys["stream"] + "default", "workers", "ghost")

    first = fleet.store.reconcile_queue(POOL, "default", limit=2, fix=False)
    last = fleet.store.reconcile_queue(POOL, "default", after=first.after, limit=2, fix=False)

    found = [finding.code for finding in last.findings]
    assert (first.findings, found, last.after) == ([], ["dead-consumer"], "")


def test_a_queue_that_is_not_there_is_not_looked_at(fleet):
    with pytest.raises(QueueNotFound):
        fleet.store.reconcile_queue(POOL, "nowhere", fix=True)


@pytest.mark.parametrize(
    ("step", "args"),
    [
        ("reconcile_runs", (["a"],)),
        ("reconcile_listings", ("scheduled", "default", ["a"])),
        ("reconcile_queue", ("default",)),
    ],
)
def test_a_pool_that_is_not_there_is_not_looked_at(fleet, step, args):
    with pytest.raises(PoolNotFound):
        getattr(fleet.store, step)("nowhere", *args, fix=True)


# --- Entries


def test_an_entry_of_a_run_of_another_queue_is_deleted(fleet):
    fleet.create_queue("other")
    fleet.put("a")
    entry = fleet.run("a")["entry"]
    fields = {"run": "a", "payload": "x", "due_ms": 0, "run_count": 0, "delivery": 1}
    fleet.client.xadd(fleet.keys["stream"] + "other", fields, id=entry)

    assert named(look(fleet, fix=True)) == [("asleep", ""), ("two-places", "a")]
    assert fleet.client.xlen(fleet.keys["stream"] + "other") == 0
    assert look(fleet) == []


def test_an_entry_that_the_record_of_an_ended_run_names_is_deleted(fleet):
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()))
    fields = {"run": "a", "payload": "x", "due_ms": 0, "run_count": 0, "delivery": 1}
    entry = fleet.client.xadd(fleet.keys["stream"] + "default", fields)
    fleet.client.hset(fleet.keys["run"] + "a", "entry", entry)

    assert ("two-places", "a") in named(look(fleet, fix=True))
    assert fleet.client.xlen(fleet.keys["stream"] + "default") == 0
    assert look(fleet) == []


def test_an_entry_of_another_run_is_not_the_entry_of_a_run(fleet):
    fleet.put("a", "b")
    own, other = (fleet.run(run_id)["entry"] for run_id in "ab")
    fleet.client.hset(fleet.keys["run"] + "a", "entry", other)
    fleet.client.xdel(fleet.keys["stream"] + "default", own)

    assert named(look(fleet, fix=True)) == [("no-entry", "a")]
    assert fleet.run("a")["place"] == "scheduled"
    assert look(fleet) == []


# --- Records


def test_a_run_that_ended_before_the_present_retention_need_not_be_listed(fleet):
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()))
    fleet.set_pool(retention_ms=1000)
    fleet.advance(1001)
    fleet.client.zrem(fleet.keys["finished"], "a")

    assert look(fleet) == []


@pytest.mark.parametrize("end", ["ended", "dead"])
def test_a_run_that_ended_in_a_queue_that_was_deleted_is_no_finding(fleet, end):
    fleet.create_queue("gone", max_deliveries=1)
    fleet.put("a", queue="gone")
    holder = fleet.register()
    claim = fleet.claim_one(holder)
    fleet.start(claim)
    if end == "ended":
        fleet.finish(claim)
    else:
        fleet.lose(holder)
    assert fleet.run("a")["place"] == end
    fleet.pause("gone")
    fleet.pause("gone", intake=True)
    fleet.store.delete_queue(POOL, "gone", by="operator")

    assert look(fleet) == []


@pytest.mark.parametrize("field", ["member", "due_ms"])
def test_a_record_with_what_cannot_be_its_own_is_left_as_it_is(fleet, field):
    fleet.submit("a")
    fleet.client.hset(fleet.keys["run"] + "a", field, "0" * 16 + "b" if field == "member" else "x")

    findings = look(fleet, fix=True)

    problem = "its record lacks a member and a time of its own; nothing can be done with it"
    incomplete = Finding("incomplete", POOL, "default", "a", problem, "")
    assert incomplete in findings


def test_a_run_that_waits_for_no_deployment_is_left_as_it_is(fleet):
    fleet.set_deployment("one", 0)
    fleet.put("a", deployment="one")
    fleet.client.hdel(fleet.keys["run"] + "a", "deployment")

    findings = look(fleet, fix=True)

    problem = "its record lacks a deployment to wait for; nothing can be done with it"
    assert Finding("incomplete", POOL, "default", "a", problem, "") in findings
