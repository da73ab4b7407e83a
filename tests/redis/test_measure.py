"""`measure`: how much is where, and since when the first run that nobody has claimed is due."""

from collections import Counter

import pytest

from dispatcher.inspector import Inspector
from dispatcher.keys import encode
from dispatcher.measuring import PoolMeasure, QueueMeasure, measure
from dispatcher.records import Registration
from tests.builders import ODD_NAMES, POOL, T0, Fleet, a_pool, a_queue, a_submission

HOUR_MS = 3_600_000


@pytest.fixture
def inspector(fleet):
    return Inspector(fleet.store.connection, fleet.store.prefix)


@pytest.fixture
def now_ms(inspector):
    """The server's time: measures are of this moment, whatever clock a test has set."""
    return inspector.server_time_ms()


def a_measure(name: str = "default", **fields) -> QueueMeasure:
    defaults = dict.fromkeys(("scheduled", "due", "waiting", "unclaimed", "claimed"), 0)
    rest = {"oldest_due_ms": None, "limit": None, "is_paused": False, "is_served": False}
    return QueueMeasure(**{"name": name} | defaults | rest | fields)


def of_pool(inspector, pool: str = POOL) -> PoolMeasure:
    (found,) = [each for each in measure(inspector) if each.name == pool]
    return found


def test_an_empty_pool_has_nothing_anywhere(fleet, inspector):
    found = of_pool(inspector)

    assert found == PoolMeasure(
        name=POOL,
        now_ms=found.now_ms,
        limit=None,
        claimed=0,
        dead=0,
        is_paused=False,
        workers=Counter(),
        worker_slots=0,
        queue_count=1,
        queues=(a_measure(),),
    )


def test_runs_are_counted_where_they_are(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms
    fleet.create_queue("other", limit=7)
    holder = fleet.register(slots=10)
    fleet.put("a", "b", "c")
    fleet.claim(holder, 1)
    fleet.submit("d", "e")
    fleet.submit("f", due_ms=now_ms + HOUR_MS)
    fleet.submit("g", queue="other", due_ms=now_ms + HOUR_MS)

    found = of_pool(inspector)

    assert found.claimed == 1
    assert found.queues == (
        a_measure(scheduled=1, due=2, unclaimed=2, claimed=1, oldest_due_ms=now_ms, is_served=True),
        a_measure("other", scheduled=1, limit=7, is_served=True),
    )


@pytest.mark.parametrize(("in_stream_ms", "in_schedule_ms"), [(-5_000, -1_000), (-1_000, -5_000)])
def test_the_oldest_is_the_first_due_of_stream_and_schedule(
    fleet, inspector, now_ms, in_stream_ms, in_schedule_ms
):
    fleet.store.now_ms = now_ms
    holder = fleet.register()
    fleet.put("claimed", due_ms=now_ms - 9_000)
    fleet.claim_one(holder)
    fleet.put("unclaimed", due_ms=now_ms + in_stream_ms)
    fleet.submit("scheduled", due_ms=now_ms + in_schedule_ms)

    assert of_pool(inspector).queues[0].oldest_due_ms == now_ms - 5_000


def test_nothing_is_oldest_once_all_that_is_due_is_claimed(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms
    holder = fleet.register()
    fleet.put("a", "b")
    fleet.claim(holder)
    fleet.submit("later", due_ms=now_ms + HOUR_MS)

    assert of_pool(inspector).queues[0].oldest_due_ms is None


def test_entries_of_a_stream_without_its_group_are_all_unclaimed(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms
    fleet.put("a", "b", due_ms=now_ms - 3)
    fleet.client.xgroup_destroy(fleet.keys["stream"] + "default", "workers")

    (queue,) = of_pool(inspector).queues

    assert (queue.unclaimed, queue.oldest_due_ms) == (2, now_ms - 3)


def test_runs_that_wait_for_their_deployment_are_counted_by_queue(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms
    fleet.create_queue("other")
    for deployment in ("d1", "d2"):
        fleet.store.set_deployment(POOL, deployment, limit=0, strategy="ENQUEUE")
        fleet.put(f"a-{deployment}", f"b-{deployment}", deployment=deployment)
    fleet.put("c", deployment="d1", queue="other")

    assert [queue.waiting for queue in of_pool(inspector).queues] == [4, 1]


def test_a_queue_is_served_by_a_live_worker_that_names_it_or_none(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms
    for name in ("named", "by nobody", "draining"):
        fleet.create_queue(name)
    fleet.register("a", queues=("named",))
    fleet.store.drain(POOL, fleet.register("b", queues=("draining",)), reason="test")
    fleet.store.now_ms = now_ms - HOUR_MS
    fleet.register("c", queues=("by nobody",))

    served = {queue.name: queue.is_served for queue in of_pool(inspector).queues}

    assert served == {"default": False, "named": True, "by nobody": False, "draining": False}


def test_a_queue_of_a_pool_that_is_polled_counts_as_served(fleet, inspector):
    fleet.store.set_pool(POOL, {"handout": "poll"})
    assert of_pool(inspector).queues[0].is_served


def test_workers_are_counted_by_type_and_state(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms - HOUR_MS
    fleet.register("gone")
    fleet.store.now_ms = now_ms
    fleet.register("a", slots=3)
    fleet.register("b", slots=4, type="rq")
    fleet.store.drain(POOL, fleet.register("c"), reason="test")
    fleet.store.drain(POOL, fleet.register("d", type="http"), reason="test")
    fleet.register("e", slots=0, type="http")

    found = of_pool(inspector)

    assert found.workers == {
        ("process", "lost"): 1,
        ("process", "ready"): 1,
        ("rq", "ready"): 1,
        ("process", "draining"): 1,
        ("http", "holding"): 1,
        ("http", "ready"): 1,
    }
    assert found.worker_slots == 7


@pytest.mark.parametrize("name", [None, "default"])
def test_a_pause_is_seen_until_its_end(fleet, inspector, now_ms, name):
    def paused():
        found = of_pool(inspector)
        return found.is_paused if name is None else found.queues[0].is_paused

    assert not paused()
    fleet.store.pause(POOL, name, until_ms=now_ms + HOUR_MS)
    assert paused()
    fleet.store.now_ms = T0
    fleet.store.pause(POOL, name, until_ms=now_ms - 1)
    assert not paused()


def test_limits_and_dead_letters_are_told(fleet, inspector, now_ms):
    fleet.store.now_ms = now_ms
    fleet.store.set_pool(POOL, {"limit": 12})
    fleet.client.zadd(fleet.keys["dead"], {"x": 1, "y": 2})

    found = of_pool(inspector)

    assert (found.limit, found.dead) == (12, 2)


def test_all_pools_are_told_with_all_their_queues(fleet, inspector):
    fleet.store.create_pool(a_pool("second"), default_queue_id="x")
    for i in range(120):
        fleet.store.create_queue(a_queue(f"q{i:03}", "second"))
    fleet.store.submit("second", a_submission(queue="q119", due_ms=T0 + 99 * 365 * 86_400_000))

    by_name = {pool.name: pool for pool in measure(inspector)}

    assert sorted(by_name) == [POOL, "second"]
    assert by_name["second"].queue_count == len(by_name["second"].queues) == 121
    assert [q.name for q in by_name["second"].queues if q.scheduled] == ["q119"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_will_do(client, prefix, name):
    fleet = Fleet(client, prefix, name)
    fleet.create_queue(name)
    fleet.store.register(name, Registration("w", "1", 1, (name,)))
    fleet.store.now_ms = None
    fleet.submit("a", queue=name)
    inspector = Inspector(fleet.store.connection, prefix)

    (found,) = measure(inspector)

    assert found.name == name
    assert [(q.name, q.due) for q in found.queues] == [("default", 0), (name, 1)]


def test_a_scrape_changes_nothing(fleet, inspector):
    fleet.put("a")
    before = fleet.dump()
    measure(inspector)
    assert fleet.dump() == before


def test_a_pool_without_its_hash_is_left_out(fleet, inspector):
    fleet.client.delete(fleet.keys["pool"])
    assert measure(inspector) == []


def test_a_queue_without_its_hash_is_left_out(fleet, inspector):
    fleet.create_queue("other")
    fleet.client.delete(fleet.keys["queue"] + encode("default"))
    assert [queue.name for queue in of_pool(inspector).queues] == ["other"]


def test_fifty_queues_cost_a_few_round_trips(fleet, inspector, monkeypatch):
    for i in range(50):
        fleet.create_queue(f"q{i}")
    trips = []
    read = inspector.connection.read
    monkeypatch.setattr(inspector.connection, "read", lambda c: trips.append(c) or read(c))

    measure(inspector)

    assert len(trips) <= 6
