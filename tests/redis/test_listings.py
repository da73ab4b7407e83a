"""Pages of runs: wherever runs are, each that stays is met once, by a cursor that may be old."""

import pytest

from dispatcher import listings
from dispatcher.inspector import Inspector
from dispatcher.listings import Filter, page_of_runs, pools_of
from dispatcher.models import StateType
from dispatcher.stored import Place
from tests.builders import POOL, T0, Fleet

DEPLOYMENT = "d"
ANY = Filter()


@pytest.fixture
def fleet(client, prefix) -> Fleet:
    """A pool with the queues `hi` and `default`."""
    fleet = Fleet(client, prefix)
    fleet.create_queue("hi", 1)
    return fleet


@pytest.fixture
def inspector(fleet) -> Inspector:
    return Inspector(fleet.store.connection, fleet.store.prefix)


def everywhere(fleet: Fleet) -> list[str]:
    """Put runs wherever runs can be; return them in the order of a list."""
    holder = fleet.register()
    fleet.submit("ended1", "ended2", "dead")
    fleet.dispatch()
    claims = {claim.run_id: claim for claim in fleet.claim(holder)}
    for run_id in ("ended1", "ended2"):
        fleet.start(claims[run_id])
        fleet.finish(claims[run_id])
        fleet.advance(1)
    fleet.store.set_queue(POOL, "default", {"max_deliveries": 1})
    fleet.start(claims["dead"])
    fleet.client.zadd(fleet.keys["holders"], {holder: 1})
    fleet.store.recover_all(POOL, holder)
    fleet.store.set_deployment(POOL, DEPLOYMENT, 1)
    fleet.submit("slot", "waits1", "waits2", deployment=DEPLOYMENT)
    fleet.put("unclaimed")
    fleet.claim(fleet.register("w2"), 1)
    fleet.submit("later", due_ms=T0 + 9_000_000)
    fleet.submit("now2", "now1", queue="hi", due_ms=T0 + 5_000_000)
    return [
        *("now2", "now1", "later", "waits1", "waits2", "unclaimed", "slot"),
        *("dead", "ended2", "ended1"),
    ]


def walked(inspector: Inspector, wanted: Filter = ANY, **options) -> list[str]:
    found, cursor = [], ""
    while cursor is not None:
        page, cursor = page_of_runs(inspector, [POOL], wanted, cursor=cursor, **options)
        found += [run.id for run in page]
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_each_run_is_met_once_wherever_it_is(limit, fleet, inspector):
    ids = everywhere(fleet)
    assert walked(inspector, limit=limit) == ids


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(queue="hi"), ["now2", "now1"]),
        (Filter(deployment=DEPLOYMENT), ["waits1", "waits2", "slot"]),
        (Filter(states=frozenset({StateType.PENDING})), ["slot"]),
        (Filter(states=frozenset({StateType.COMPLETED})), ["ended2", "ended1"]),
        (Filter(states=frozenset({StateType.CRASHED})), ["dead"]),
        (Filter(places=frozenset({Place.DEAD, Place.WAITING})), ["waits1", "waits2", "dead"]),
    ],
)
def test_a_filter_finds_its_runs(wanted, ids, fleet, inspector):
    everywhere(fleet)
    assert walked(inspector, wanted, limit=1) == ids


def test_a_page_looks_at_no_more_than_its_bound_and_goes_on(fleet, inspector, monkeypatch):
    monkeypatch.setattr(listings, "MOST_LOOKED_AT", 2)
    fleet.submit("a", "b", "c", "d", "e", due_ms=T0 + 1_000)
    fleet.submit("f", due_ms=T0 + 2_000, deployment=DEPLOYMENT)
    first, cursor = page_of_runs(inspector, [POOL], Filter(deployment=DEPLOYMENT))
    assert (first, bool(cursor)) == ([], True)
    assert walked(inspector, Filter(deployment=DEPLOYMENT)) == ["f"]


def test_where_the_run_of_the_cursor_has_left_those_of_its_time_come_again(fleet, inspector):
    fleet.submit("a", "b", "c", due_ms=T0 + 1_000)
    _, cursor = page_of_runs(inspector, [POOL], ANY, limit=2)
    fleet.store.cancel(POOL, "b")
    rest, _ = page_of_runs(inspector, [POOL], ANY, cursor=cursor or "")
    assert [run.id for run in rest] == ["a", "c", "b"]


def test_where_the_queue_of_the_cursor_is_gone_the_list_goes_on_behind_it(fleet, inspector):
    fleet.submit("a", "b", queue="hi", due_ms=T0 + 1_000)
    fleet.put("c")
    _, cursor = page_of_runs(inspector, [POOL], ANY, limit=1)
    for run_id in ("a", "b"):
        fleet.store.cancel(POOL, run_id)
    for intake in (True, False):
        fleet.store.pause(POOL, "hi", intake=intake)
    fleet.store.delete_queue(POOL, "hi")
    rest, _ = page_of_runs(inspector, [POOL], ANY, cursor=cursor or "")
    assert [run.id for run in rest] == ["c", "b", "a"]


def test_the_pools_of_a_run_are_all_that_have_its_id(client, prefix, inspector, fleet):
    other = Fleet(client, prefix, "b")
    for each in (fleet, other):
        each.submit("a")
    other.submit("b")
    found = {run_id: pools_of(inspector, run_id) for run_id in ("a", "b", "c")}
    assert found == {"a": ["b", POOL], "b": ["b"], "c": []}


def test_a_run_that_was_taken_is_met_among_those_that_are_claimed(fleet, inspector):
    fleet.set_pool(handout="poll")
    fleet.submit(*"ab")
    fleet.take("a")
    assert walked(inspector) == ["b", "a"]
    assert walked(inspector, Filter(places=frozenset({Place.CLAIMED}))) == ["a"]
    assert walked(inspector, Filter(states=frozenset({StateType.RUNNING}))) == ["a"]
