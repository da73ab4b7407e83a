"""Reconciling, continued: what is left to people, who is woken by a repair, bounds of a page."""

from collections.abc import Sequence

import pytest

from dispatcher import repairs
from dispatcher.connection import Connection
from dispatcher.errors import RedisFull
from dispatcher.inspector import Inspector
from dispatcher.keys import pools_key
from dispatcher.reconciling import Reconciler
from dispatcher.records import Finding
from tests.builders import MIB, POOL, T0, Fleet


def look(fleet: Fleet, *, fix: bool = False, pools: Sequence[str] = (POOL,)) -> list[Finding]:
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)
    pages = Reconciler(fleet.store, inspector, fix=fix).walk(pools, names=True)
    return [finding for page in pages for finding in page]


def a_finding(code: str, problem: str, repair: str = "", **fields: str) -> Finding:
    defaults = {"pool": POOL, "queue": "", "run": ""}
    return Finding(code, problem=problem, repair=repair, **defaults | fields)


# --- What is left to people


def test_data_of_a_newer_release_is_refused_and_the_other_pools_are_repaired(fleet, prefix):
    other = Fleet(fleet.client, prefix, "other")
    for each in (fleet, other):
        fleet.client.zadd(each.keys["pool_slots"], {"ghost": 1})
    fleet.client.hset(fleet.keys["pool"], "version", 2)
    before = fleet.dump()

    findings = look(fleet, fix=True, pools=(POOL, "other"))

    line = "pool 'pool' has data version 2, this release knows 1; use the newer release"
    ghost = a_finding("refused", line), ("other", "stray-slot", "ghost", True)
    assert (findings[0], *[(f.pool, f.code, f.run, f.repaired) for f in findings[1:]]) == ghost
    assert fleet.dump() == before


@pytest.mark.parametrize(
    ("step", "args"),
    [
        ("reconcile_runs", (["a"],)),
        ("reconcile_listings", ("scheduled", "default", ["a"])),
        ("reconcile_queue", ("default",)),
    ],
)
def test_each_step_refuses_data_of_a_newer_release(fleet, step, args):
    fleet.client.hset(fleet.keys["pool"], "version", 2)

    with pytest.raises(Exception, match="has data version 2, this release knows 1"):
        getattr(fleet.store, step)(POOL, *args, fix=True)


@pytest.mark.parametrize("lost", ["queue", "member", "due_ms", "payload", "place", "delivery"])
def test_a_record_that_lacks_something_is_left_as_it_is(fleet, lost):
    fleet.submit("a")
    fleet.client.hdel(fleet.keys["run"] + "a", lost)
    what = {"place": "a place", "payload": "its payload"}.get(lost, lost)

    findings = look(fleet, fix=True)

    problem = f"its record lacks {what}; nothing can be done with it"
    queue = "" if lost == "queue" else "default"
    assert a_finding("incomplete", problem, run="a", queue=queue) in findings


def test_a_run_in_a_queue_that_is_not_there_asks_for_the_queue(fleet):
    fleet.create_queue("late")
    fleet.submit("a", queue="late")
    fleet.client.zrem(fleet.keys["queues"], "late")
    before = fleet.dump()

    problem = "is scheduled in late, a queue that does not exist; create it"
    assert look(fleet, fix=True) == [a_finding("no-queue", problem, run="a", queue="late")]
    assert fleet.dump() == before


# --- Entries


@pytest.mark.parametrize("is_claimed", [False, True])
def test_an_entry_that_goes_takes_its_bytes_along_unless_it_was_claimed(fleet, is_claimed):
    fleet.put("a", payload=bytes(100))
    if is_claimed:
        fleet.claim_one(fleet.register())
    fleet.put("b", payload=bytes(30))
    fleet.client.delete(fleet.keys["run"] + "a")

    look(fleet, fix=True)

    assert fleet.dump()["queue:default"]["unclaimed_bytes"] == "30"


def test_a_second_entry_is_told_from_the_one_that_counts(fleet):
    fleet.put("a")
    entry = {"run": "a", "payload": "x"}
    second = fleet.client.xadd(fleet.keys["stream"] + "default", entry).decode()

    problem = f"has entry {second} and is in another entry by its record"
    finding = a_finding("two-places", problem, "entry deleted", run="a", queue="default")
    assert look(fleet) == [finding]


def test_a_run_without_its_entry_goes_back_as_if_it_were_withdrawn(fleet):
    fleet.put("a", payload=bytes(100), deployment="one")
    fleet.put("b", payload=bytes(30))
    fleet.client.xdel(fleet.keys["stream"] + "default", fleet.run("a")["entry"])

    look(fleet, fix=True)

    state = fleet.dump()
    assert "entry" not in state["run:a"]
    assert state["scheduled:default"] == {state["run:a"]["member"]: T0}
    assert "slots:deployment:one" not in state
    assert state["queue:default"]["unclaimed_bytes"] == "30"


def test_an_entry_that_is_gone_is_pending_for_nobody_and_does_not_hide_another(fleet):
    fleet.put("a")
    fleet.client.xgroup_create(fleet.keys["stream"] + "default", "workers", "0")
    fleet.client.xreadgroup("workers", "me", {fleet.keys["stream"] + "default": ">"})
    fleet.client.xdel(fleet.keys["stream"] + "default", fleet.run("a")["entry"])
    fleet.put("b")
    fleet.client.delete(fleet.keys["ready"], fleet.keys["wake"] + "default")

    found = [(f.code, f.run) for f in look(fleet, fix=True)]

    assert sorted(found) == [("no-entry", "a"), ("stray-mark", "")]
    state = fleet.dump()
    group = {"consumers": [], "pending": {}}
    assert state["stream:default"]["groups"] == {"workers": group}
    assert (state["ready"], state["wake:default"]) == ({"default": 1}, ["1"])


def test_a_group_that_is_made_again_offers_nothing_when_all_is_claimed(fleet):
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.client.xgroup_destroy(fleet.keys["stream"] + "default", "workers")

    found = look(fleet, fix=True)

    assert [(f.code, f.run) for f in found] == [("no-group", ""), ("not-pending", "a")]
    assert "ready" not in fleet.dump()
    assert look(fleet) == []


# --- Who hears of a repair


def test_a_freed_slot_of_the_pool_wakes_whoever_was_kept_out(fleet):
    fleet.set_pool(limit=1)
    fleet.client.zadd(fleet.keys["pool_slots"], {"ghost": 1})
    fleet.put("a")
    holder = fleet.register()
    assert fleet.claim(holder) == []
    fleet.client.delete(fleet.keys["wake"] + "default")

    look(fleet, fix=True)

    assert fleet.dump()["wake:default"] == ["1"]
    assert [claim.run_id for claim in fleet.claim(holder)] == ["a"]


def test_a_freed_slot_of_a_queue_offers_it_again(fleet):
    fleet.set_queue(limit=1)
    fleet.client.zadd(fleet.keys["queue_slots"] + "default", {"ghost": 1})
    fleet.put("a")
    holder = fleet.register()
    assert fleet.claim(holder) == []
    assert "ready" not in fleet.dump()

    look(fleet, fix=True)

    assert (fleet.members("ready"), fleet.dump()["wake:default"]) == (["default"], ["1"])
    assert [claim.run_id for claim in fleet.claim(holder)] == ["a"]


def test_a_freed_slot_of_a_deployment_lets_in_what_waits(fleet, listener):
    fleet.set_deployment("one", 1)
    fleet.client.zadd(fleet.keys["deployment_slots"] + "one", {"ghost": 1})
    fleet.put("a", deployment="one")
    assert fleet.run("a")["place"] == "waiting"
    listener.heard()

    look(fleet, fix=True)

    assert listener.heard() == ["default 0"]
    fleet.dispatch()
    assert fleet.run("a")["place"] == "stream"


def test_a_repaired_schedule_is_heard_of(fleet, listener):
    fleet.submit("a")
    fleet.client.delete(fleet.keys["scheduled"] + "default")
    listener.heard()

    look(fleet, fix=True)

    assert listener.heard() == [f"default {T0}"]


def test_a_waiting_run_with_a_free_slot_is_heard_of(fleet, listener):
    fleet.set_deployment("one", 0)
    fleet.put("a", deployment="one")
    fleet.client.hset(fleet.keys["deployment"] + "one", "limit", 1)
    listener.heard()

    (finding,) = look(fleet, fix=True)

    problem = "runs wait for deployment one, which has a free slot"
    assert finding.problem == problem
    assert listener.heard() == ["default 0"]


def test_the_word_of_a_free_slot_goes_on_when_nobody_waits_there_any_more(fleet):
    fleet.create_queue("high", priority=1)
    fleet.set_deployment("one", 1)
    fleet.put("a", "b", deployment="one")
    fleet.put("ghost", deployment="one", queue="high")
    fleet.finish(fleet.claim_one(fleet.register()))
    assert (fleet.members("freed", "high"), fleet.members("freed", "default")) == (["one"], [])
    fleet.client.delete(fleet.keys["run"] + "ghost")

    assert [(f.code, f.run) for f in look(fleet, fix=True)] == [("no-record", "ghost")]

    fleet.dispatch()
    assert fleet.run("b")["place"] == "stream"


@pytest.mark.parametrize("lost", [("waits", ""), ("waiting", "one:default")])
def test_a_slot_that_became_free_while_nobody_was_listed_is_not_forgotten(fleet, lost):
    name, part = lost
    fleet.set_deployment("one", 1)
    fleet.put("a", "b", deployment="one")
    fleet.client.delete(fleet.keys[name] + part, fleet.keys["waits"])
    fleet.finish(fleet.claim_one(fleet.register()))
    assert fleet.members("freed", "default") == []

    assert [f.code for f in look(fleet, fix=True)] == ["not-listed"]

    assert fleet.members("freed", "default") == ["one"]
    fleet.dispatch()
    assert fleet.run("b")["place"] == "stream"


@pytest.mark.parametrize("paused", [None, "default"])
def test_a_paused_pool_or_queue_is_no_finding(fleet, paused):
    fleet.put("a", "b")
    fleet.pause(paused, until_ms=T0 + 1)

    assert look(fleet) == []
    fleet.advance(2)  # the pause has ended, and nobody has looked yet
    assert look(fleet) == []
    fleet.dispatch()
    assert look(fleet) == []


@pytest.fixture
def let_in(fleet: Fleet) -> Fleet:
    """A fleet in which "b" was let in for the one slot of its deployment, and "c" still waits."""
    fleet.set_deployment("one", 1)
    fleet.put("a", "b", "c", deployment="one")
    fleet.finish(fleet.claim_one(fleet.register()))
    fleet.dispatch(max_bytes=0)
    assert [fleet.run(name)["place"] for name in "abc"] == ["ended", "scheduled", "waiting"]
    return fleet


def test_a_run_that_was_let_in_and_not_yet_dispatched_is_no_free_slot(let_in):
    assert look(let_in) == []
    let_in.dispatch()
    assert look(let_in) == []
    assert [let_in.run(name)["place"] for name in "bc"] == ["stream", "waiting"]


@pytest.mark.parametrize("leave", ["cancel", "retime"])
def test_a_run_that_was_let_in_and_leaves_leaves_its_slot_to_the_next(let_in, leave):
    getattr(let_in, leave)("b", **({"due_ms": T0 + 60_000} if leave == "retime" else {}))

    assert look(let_in) == []
    let_in.dispatch()
    assert let_in.run("c")["place"] == "stream"


# --- The list of pools


def test_a_pool_that_is_not_in_the_list_is_put_there(fleet, prefix):
    fleet.client.srem(pools_key(prefix), POOL)

    assert look(fleet, fix=True, pools=()) == [
        Finding("unnamed-pool", POOL, "", "", "is not in the list of pools", "put there", True)
    ]
    assert Inspector(Connection(fleet.client), prefix).pool_names() == [POOL]
    assert look(fleet) == []


def test_a_pool_that_was_made_just_now_may_not_be_in_the_list_yet(fleet, prefix):
    fleet.client.srem(pools_key(prefix), POOL)
    seconds, _ = fleet.client.time()
    fleet.client.hset(fleet.keys["pool"], "created_ms", seconds * 1000)

    assert look(fleet, pools=()) == []


@pytest.mark.parametrize("fix", [False, True])
def test_a_name_without_a_pool_is_taken_out_of_the_list(fleet, prefix, fix):
    fleet.client.sadd(pools_key(prefix), "gone")
    why = "is in the list of pools, and there is no such pool"

    findings = look(fleet, fix=fix, pools=("gone", POOL))

    assert findings == [Finding("no-pool", "gone", "", "", why, "taken out", fix)]
    left = [POOL] if fix else ["gone", POOL]
    assert Inspector(Connection(fleet.client), prefix).pool_names() == left


def test_pools_with_odd_names_are_kept_apart(fleet, prefix):
    odd = [Fleet(fleet.client, prefix, name) for name in ("a*?[b]", "a:b", "{a}", "a")]
    for each in odd:
        fleet.client.zadd(each.keys["pool_slots"], {"ghost": 1})

    for each in odd:
        found = look(fleet, pools=[each.pool])
        assert [(f.pool, f.code, f.run) for f in found] == [(each.pool, "stray-slot", "ghost")]


# --- Bounds


def test_more_than_a_page_of_everything_is_looked_at(fleet):
    runs = [f"run-{n}" for n in range(350)]
    fleet.set_pool(limit=None)
    fleet.submit(*runs[:150], due_ms=T0 + 1)
    fleet.put(*runs[150:])
    fleet.dispatch()
    holder = fleet.register(slots=200)
    fleet.answer(holder, 130)
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)
    reconciler = Reconciler(fleet.store, inspector, fix=False)

    assert [page for page in reconciler.walk([POOL]) if page] == []
    assert reconciler.looked == {"pools": 1, "queues": 1, "runs": 350}
    fleet.client.delete(fleet.keys["pool_slots"], fleet.keys["scheduled"] + "default")
    fleet.client.delete(fleet.keys["ready"])
    assert sorted((f.code, f.repaired) for f in look(fleet, fix=True)) == sorted(
        [("no-slot", True)] * 130 + [("not-listed", True)] * 150 + [("asleep", True)]
    )
    assert look(fleet) == []


def test_a_page_ends_with_its_bytes(fleet):
    for name in "abc":
        fleet.put(name, payload=bytes(3 * MIB))
    first = fleet.run("a")["entry"], fleet.run("b")["entry"]

    assert fleet.store.reconcile_queue(POOL, "default", fix=False).after == first[1]
    assert fleet.store.reconcile_queue(POOL, "default", limit=1, fix=False).after == first[0]


def test_what_a_page_had_no_bytes_for_comes_with_the_next(fleet, monkeypatch):
    fleet.put("a", "b", "c")
    fleet.client.delete(fleet.keys["stream"] + "default")
    monkeypatch.setattr(repairs, "LOOK_BYTES", 1)

    found = fleet.store.reconcile_runs(POOL, ["a", "b", "c"], fix=True)

    assert [(f.code, f.run) for f in found] == [("no-entry", name) for name in "abc"]


def test_full_memory_stops_no_repair(own_fleet):
    fleet = own_fleet
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.client.zrem(fleet.keys["pool_slots"], "a")
    fleet.client.config_set("maxmemory", 1)
    with pytest.raises(RedisFull):
        fleet.submit("b")

    assert [(f.code, f.repaired) for f in look(fleet, fix=True)] == [("no-slot", True)]
    assert look(fleet) == []
