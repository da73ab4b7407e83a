"""/metrics and the health checks, on each kind of server."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.clock import Clock
from dispatcher.heartbeats import Heartbeats
from dispatcher.http import counting
from tests.builders import POOL
from tests.edge import Edge
from tests.probes import wait_until

UNITS = ("seconds", "bytes")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def heartbeats():
    return Heartbeats("dispatch", "recovery")


@pytest.fixture
def edge(fleet, heartbeats, monkeypatch) -> Iterator[Edge]:
    monkeypatch.setattr(counting, "BLOCK_S", 0.02)
    monkeypatch.setattr(counting, "REST_S", 0.02)
    fleet.store.now_ms = None
    edge = Edge(fleet.client, fleet.store.prefix, heartbeats=heartbeats)
    yield edge
    edge.doors.stop()
    with suppress(AttributeError):
        edge.app.state.metrics._follower._thread.join(20)


def scraped(edge):
    """The families of a scrape, by name."""
    answer = edge("GET", "/metrics")
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value_of(families, name, **labels):
    """The value of one sample; None when there is none with these labels."""
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def some_history(fleet):
    """Runs in many places, and events of many kinds."""
    holder = fleet.register(slots=4)
    fleet.put("a", "b", "c", "d")
    a, b, _ = fleet.claim(holder, 3)
    fleet.start(a)
    fleet.start(b)
    fleet.finish(a)
    fleet.submit("e", due_ms=Clock().now_ms() + 3_600_000)


def test_it_tells_what_is_where_and_what_has_happened(fleet, edge):
    scraped(edge)
    some_history(fleet)

    found = wait_until(
        lambda: (
            value_of(now := scraped(edge), "dispatcher_runs_finished_total", state="completed")
            and now
        ),
        "the finish is counted",
    )

    place = {"pool": POOL, "queue": "default"}
    expected = {
        "dispatcher_scheduled_runs": 1,
        "dispatcher_due_runs": 0,
        "dispatcher_unclaimed_runs": 1,
        "dispatcher_claimed_runs": 2,
        "dispatcher_unserved_runs": 0,
        "dispatcher_runs_submitted_total": 5,
        "dispatcher_runs_dispatched_total": 4,
        "dispatcher_runs_claimed_total": 3,
        "dispatcher_runs_started_total": 2,
        "dispatcher_due_to_dispatch_seconds_count": 4,
        "dispatcher_due_to_start_seconds_count": 2,
    }
    assert {name: value_of(found, name, **place) for name in expected} == expected
    assert value_of(found, "dispatcher_workers", pool=POOL, state="ready", type="process") == 1
    assert value_of(found, "dispatcher_pool_slots_held", pool=POOL) == 2
    assert value_of(found, "dispatcher_worker_slots", pool=POOL) == 4
    assert value_of(found, "dispatcher_redis_up") == 1


def test_names_types_helps_and_units_follow_the_rules(fleet, edge):
    scraped(edge)
    some_history(fleet)
    wait_until(
        lambda: value_of(scraped(edge), "dispatcher_runs_started_total"), "the start is counted"
    )

    ours = [f for name, f in scraped(edge).items() if name.startswith("dispatcher_")]

    assert len(ours) > 30
    for family in ours:
        assert family.documentation.endswith("."), family.name
        assert family.type in ("gauge", "counter", "histogram"), family.name
        assert family.name == family.name.lower()
        names = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert names <= {f"{family.name}_total"}, names
        elif family.type == "histogram":
            assert family.name.endswith(UNITS)
            assert names <= {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
        else:
            assert names <= {family.name}
            assert not family.name.endswith(("_total", "_count", "_sum", "_ms")), family.name
        if any(word in family.name for word in ("_age", "timestamp", "due_to")):
            assert family.name.endswith("_seconds")


def test_labels_are_few_and_never_a_run(fleet, edge):
    scraped(edge)
    some_history(fleet)
    wait_until(
        lambda: value_of(scraped(edge), "dispatcher_runs_started_total"), "the start is counted"
    )

    labels = {
        (name, value)
        for family in scraped(edge).values()
        for sample in family.samples
        for name, value in sample.labels.items()
        if family.name.startswith("dispatcher_") and name != "le"
    }

    assert {name for name, _ in labels} <= {
        "pool",
        "queue",
        "state",
        "type",
        "loop",
        "route",
        "status",
    }
    assert {value for name, value in labels if name == "queue"} <= {"default", ""}


def test_a_scraper_may_ask_for_the_newer_format(edge):
    answer = edge("GET", "/metrics", headers={"accept": OPENMETRICS})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_runs_that_nobody_serves_are_told_with_their_age(fleet, edge):
    fleet.submit("a", due_ms=Clock().now_ms() - 60_000)
    found = scraped(edge)
    fleet.register()

    assert value_of(found, "dispatcher_unserved_runs", queue="default") == 1
    assert 59 < value_of(found, "dispatcher_oldest_due_run_age_seconds", queue="default") < 75
    assert value_of(scraped(edge), "dispatcher_unserved_runs", queue="default") == 0


def test_a_limit_is_there_only_when_it_is_set(fleet, edge):
    assert value_of(scraped(edge), "dispatcher_pool_slots_limit", pool=POOL) is None
    fleet.store.set_pool(POOL, {"limit": 0})
    fleet.store.set_queue(POOL, "default", {"limit": 3})
    found = scraped(edge)
    assert value_of(found, "dispatcher_pool_slots_limit", pool=POOL) == 0
    assert value_of(found, "dispatcher_queue_slots_limit", queue="default") == 3


def test_the_last_turn_of_each_loop_is_told(edge, heartbeats):
    name = "dispatcher_loop_last_turn_timestamp_seconds"
    assert value_of(scraped(edge), name) is None
    before_s = Clock().now_ms() / 1000
    heartbeats.beat("dispatch", next_in_s=1)

    found = scraped(edge)

    assert before_s <= value_of(found, name, loop="dispatch") <= Clock().now_ms() / 1000
    assert value_of(found, name, loop="recovery") is None


def test_requests_are_counted_by_route_and_status_whatever_was_asked_for(edge):
    for path in ("/healthz", "/nowhere", "/else/where"):
        edge("GET", path)
    edge("GET", "/healthz", headers={"Origin": "http://evil.example"})

    found = scraped(edge)

    name = "dispatcher_http_requests_total"
    assert value_of(found, name, route="/healthz", status="200") == 1
    assert value_of(found, name, route="", status="404") == 2
    assert value_of(found, name, route="", status="403") == 1


class Holds:
    def held(self):
        return {"etl": 2_000}


def test_held_claims_are_told(edge):
    edge.app.state.holding = Holds()
    assert value_of(scraped(edge), "dispatcher_held_claims", pool="etl") == 2_000


def test_a_name_that_needs_escaping_comes_back_whole(fleet, edge):
    odd = 'a"b\\c größe 🏊'
    fleet.create_queue(odd)
    assert value_of(scraped(edge), "dispatcher_due_runs", queue=odd) == 0


def test_a_dispatcher_whose_loops_turn_is_ready(edge, heartbeats):
    heartbeats.beat("dispatch", next_in_s=1)
    heartbeats.beat("recovery", next_in_s=1)

    answer = edge("GET", "/readyz")

    assert answer.status_code == edge("HEAD", "/readyz").status_code == 200
    assert answer.json() == {
        "status": "ready",
        "checks": {"redis": {"ok": True}, "dispatch": {"ok": True}, "recovery": {"ok": True}},
    }


def test_a_loop_that_does_not_turn_is_named(edge, heartbeats):
    heartbeats.beat("dispatch", next_in_s=1)

    answer = edge("GET", "/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"] == {
        "redis": {"ok": True},
        "dispatch": {"ok": True},
        "recovery": {"ok": False, "reason": "has not turned yet"},
    }


def test_one_that_is_being_stopped_is_alive_and_not_ready(edge, heartbeats):
    heartbeats.beat("dispatch", next_in_s=1)
    heartbeats.beat("recovery", next_in_s=1)
    edge.doors.stop()

    assert edge("GET", "/healthz").json() == {"status": "alive"}
    answer = edge("GET", "/readyz")
    assert (answer.status_code, answer.json()["checks"]["serving"]["ok"]) == (503, False)


def test_readiness_changes_nothing(fleet, edge):
    fleet.put("a")
    before = fleet.dump()
    edge("GET", "/readyz")
    assert fleet.dump() == before
