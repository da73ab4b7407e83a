"""The counters of /metrics: what the events of all pools say has happened, each once."""

import pytest

from dispatcher.connection import Connection
from dispatcher.http import counting
from dispatcher.http.counting import BUCKETS_S, COUNTED, OTHER, Follower, Histogram, Place
from dispatcher.inspector import Inspector
from dispatcher.stored import Event
from tests.builders import POOL, Fleet, a_pool

HERE = Place(POOL, "default")
LEASE_MS = 15_000


@pytest.fixture
def inspector(client, prefix):
    return Inspector(Connection(client), prefix)


@pytest.fixture
def follower(fleet, inspector):
    """One that has begun, with the fleet at the time of the server."""
    fleet.store.now_ms = inspector.server_time_ms()
    follower = Follower(inspector)
    follower.begin()
    return follower


def counted(follower):
    """What was counted, without what was not."""
    while follower.follow():
        pass
    found = {}
    for name, places in follower.counts.events.items():
        found |= {(name, place): count for place, count in places.items()}
    return found


def test_what_was_before_the_beginning_does_not_count(fleet, inspector):
    fleet.store.now_ms = None
    fleet.put("a", "b")
    follower = Follower(inspector)
    follower.begin()
    assert counted(follower) == {}


def test_a_run_counts_at_each_step_once(fleet, follower):
    holder = fleet.register()
    fleet.put("a", "b", retries=1)
    a, b = fleet.claim(holder)
    fleet.start(a)
    fleet.start(a)
    fleet.finish(a)
    fleet.start(b)
    fleet.finish(b, "FAILED")

    assert counted(follower) == {
        ("submitted", HERE): 2,
        ("dispatched", HERE): 2,
        ("claimed", HERE): 2,
        ("started", HERE): 2,
        ("retried", HERE): 1,
    }
    assert follower.counts.finished == {(HERE, "COMPLETED"): 1}


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"])
def test_a_finish_counts_under_its_outcome(fleet, follower, state):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, state)

    counted(follower)

    assert follower.counts.finished == {(HERE, state): 1}


def test_a_cancel_before_the_claim_is_an_end_too(fleet, follower):
    fleet.put("a")
    fleet.store.cancel(POOL, "a")

    counted(follower)

    assert follower.counts.finished == {(HERE, "CANCELLED"): 1}


def test_losses_recoveries_and_dead_letters_count(fleet, follower):
    fleet.store.set_queue(POOL, "default", {"max_deliveries": 1})
    fleet.put("a", "b")
    holder = fleet.register()
    a, _ = fleet.claim(holder)
    fleet.start(a)
    fleet.advance(LEASE_MS + 1)
    fleet.store.recover_all(POOL, holder)

    found = counted(follower)

    assert found["lost", HERE] == 1
    assert found["dead_lettered", HERE] == 1
    assert found["workers_lost", Place(POOL, "")] == 1
    assert found["workers_recovered", Place(POOL, "")] == 1
    assert follower.counts.finished == {(HERE, "CRASHED"): 1}


def test_releases_skips_and_refusals_count(fleet, follower):
    fleet.store.set_queue(POOL, "default", {"late_policy": "latest", "late_drop_ms": 1_000})
    fleet.submit("late", due_ms=fleet.store.now_ms - 60_000)
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.release(claim)
    fleet.start(claim)

    found = counted(follower)

    assert found["skipped", HERE] == 1
    assert found["released", HERE] == 1
    assert found["refused", HERE] == 1


def test_the_way_from_due_to_stream_and_start_is_timed(fleet, follower):
    due_ms = fleet.store.now_ms
    fleet.submit("a", due_ms=due_ms)
    fleet.advance(40)
    fleet.dispatch()
    claim = fleet.claim_one(fleet.register())
    fleet.advance(2_000)
    fleet.start(claim)

    counted(follower)

    counts = follower.counts
    assert counts.due_to_dispatch[HERE].sum_s == pytest.approx(0.040)
    assert counts.due_to_start[HERE].sum_s == pytest.approx(2.040)
    assert dict(counts.due_to_dispatch[HERE].buckets())["0.05"] == 1
    assert dict(counts.due_to_start[HERE].buckets())["2.5"] == 1


def test_a_start_of_a_run_from_before_the_beginning_is_timed_by_its_record(fleet, inspector):
    fleet.store.now_ms = inspector.server_time_ms() - 5_000
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    follower = Follower(inspector)
    follower.begin()
    fleet.advance(3_000)
    fleet.start(claim)

    counted(follower)

    assert follower.counts.due_to_start[HERE].sum_s == pytest.approx(3.0)


def test_a_retry_is_timed_from_when_it_is_due_again(fleet, follower):
    fleet.put("a", retries=1, retry_delay_ms=10_000)
    holder = fleet.register()
    claim = fleet.claim_one(holder)
    fleet.start(claim)
    fleet.finish(claim, "FAILED")
    fleet.advance(10_500)
    fleet.dispatch()
    fleet.start(fleet.claim_one(holder))

    counted(follower)

    assert follower.counts.due_to_start[HERE].sum_s == pytest.approx(0.5)


def test_pools_are_told_apart_and_one_that_comes_later_counts_from_its_beginning(
    fleet, follower, monkeypatch
):
    fleet.put("a")
    assert counted(follower)
    fleet.store.create_pool(a_pool("later"), default_queue_id="x")
    later = Fleet.__new__(Fleet)
    later.__dict__ |= fleet.__dict__ | {"pool": "later", "keys": fleet.store.keys("later")}
    later.put("b", "c")
    monkeypatch.setattr(counting, "NAMES_EVERY_S", -1)

    found = counted(follower)

    assert found["dispatched", HERE] == 1
    assert found["dispatched", Place("later", "default")] == 2


def test_a_pool_that_comes_back_under_its_name_is_not_counted_twice(fleet, follower, monkeypatch):
    monkeypatch.setattr(counting, "NAMES_EVERY_S", -1)
    fleet.put("a")
    assert counted(follower)["submitted", HERE] == 1
    fleet.client.srem(f"{fleet.store.prefix}:pools", POOL)
    counted(follower)
    fleet.client.sadd(f"{fleet.store.prefix}:pools", POOL)
    fleet.submit("b")

    assert counted(follower)["submitted", HERE] == 2


def test_more_queues_than_the_bound_count_together(fleet, follower, monkeypatch):
    monkeypatch.setattr(counting, "MOST_PLACES", 3)
    for i in range(5):
        fleet.create_queue(f"q{i}")
        fleet.submit(f"r{i}", queue=f"q{i}")

    found = counted(follower)

    assert sum(found.values()) == 5
    assert ("submitted", Place(OTHER, OTHER)) in found


def test_due_times_are_remembered_of_a_bounded_number_of_runs(fleet, follower, monkeypatch):
    monkeypatch.setattr(counting, "MOST_DUE", 2)
    fleet.put(*"abcde")
    claims = fleet.claim(fleet.register())
    fleet.advance(1_000)
    for claim in claims:
        fleet.start(claim)

    counted(follower)

    assert len(follower.counts._due_ms) <= 2
    assert follower.counts.due_to_start[HERE].sum_s == pytest.approx(5.0)


def test_every_event_that_is_counted_is_one_that_a_script_writes():
    from tests.test_lua_scripts import scripts, shared

    sources = "".join((*scripts().values(), *shared().values()))
    assert [name for name in COUNTED if f'"{name}"' not in sources] == []


def test_an_event_of_a_later_release_is_passed_over(follower):
    follower.counts.count([Event(POOL, "1-1", {"event": "new-one", "at_ms": "1"})])
    assert counted(follower) == {}


@pytest.mark.parametrize(
    ("took_s", "bound"),
    [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (-5.0, "0.001"), (1e9, "+Inf")],
)
def test_what_took_as_long_as_a_bound_is_within_it(took_s, bound):
    histogram = Histogram()
    histogram.observe(took_s)
    first = next(name for name, count in histogram.buckets() if count)
    assert first == bound


def test_the_totals_of_a_histogram_never_fall():
    histogram = Histogram()
    for took_s in (0.004, 0.02, 5_000.0, *BUCKETS_S):
        histogram.observe(took_s)
    totals = [count for _, count in histogram.buckets()]
    assert totals == sorted(totals)
    assert totals[-1] == 3 + len(BUCKETS_S)
