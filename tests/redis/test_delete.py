"""The atomic steps `delete_queue` and `delete_pool`: only what is paused and empty goes, whole."""

import pytest

from dispatcher import controls
from dispatcher.errors import NotEmpty, NotFound, PoolNotFound, QueueNotFound, Refused
from dispatcher.keys import pools_key
from dispatcher.records import Finish, Outcome, Word
from tests.builders import ODD_NAMES, POOL, T0, Fleet, a_pool, a_queue, a_submission, changed

PLACES = ["scheduled", "waiting", "stream", "claimed"]


@pytest.fixture
def fleet(fleet: Fleet) -> Fleet:
    """A pool with one more queue."""
    fleet.create_queue("q")
    return fleet


def shut(fleet: Fleet, queue: str | None = None) -> None:
    for intake in (False, True):
        fleet.store.pause(POOL, queue, intake=intake)


def put_at(fleet: Fleet, place: str, queue: str) -> None:
    """Let the one run of a queue be at a place."""
    if place == "scheduled":
        fleet.submit("a", queue=queue, due_ms=T0 + 1)
        return
    if place == "waiting":
        fleet.store.set_deployment(POOL, "d", 0)
    fleet.put("a", queue=queue, deployment="d")
    if place == "claimed":
        fleet.claim(fleet.register())
    assert fleet.run("a")["place"] == place


# --- A queue


def test_every_key_of_a_deleted_queue_goes_and_its_workers_hear_of_it(fleet):
    fleet.store.set_queue(POOL, "q", {"late_policy": "latest"})
    fleet.put("a", queue="q", deployment="d")
    fleet.finish(fleet.claim_one(fleet.register()))
    shut(fleet, "q")
    fleet.client.delete(fleet.keys["inbox"] + "w.1")
    before = fleet.dump()

    fleet.store.delete_queue(POOL, "q", by="me@here")

    after = fleet.dump()
    left = {name: value for name, value in changed(before, after).items() if value is not None}
    assert left == {
        "pool": {"queues_version": "3"},
        "queues": {"q": None},
        "inbox:w.1": ["1"],
        "events": [
            {"event": "queue-deleted", "at_ms": str(T0), "queue": "q", "by": "me@here"},
        ],
    }
    assert [name for name in after if name.endswith(":q")] == []


@pytest.mark.parametrize("place", PLACES)
def test_a_queue_that_has_a_run_left_is_refused_and_nothing_changes(fleet, place):
    put_at(fleet, place, "q")
    shut(fleet, "q")
    before = fleet.dump()
    with pytest.raises(NotEmpty, match="queue 'q' of pool 'pool' still has runs: 1"):
        fleet.store.delete_queue(POOL, "q")
    assert fleet.dump() == before


@pytest.mark.parametrize("intake", [None, False, True])
def test_a_queue_that_is_not_paused_with_its_intake_is_refused(fleet, intake):
    if intake is not None:
        fleet.store.pause(POOL, "q", intake=intake)
    before = fleet.dump()
    with pytest.raises(Refused, match="queue 'q' of pool 'pool' must be paused with its intake"):
        fleet.store.delete_queue(POOL, "q")
    assert fleet.dump() == before


def test_a_pause_that_has_ended_by_itself_is_none(fleet):
    fleet.store.pause(POOL, "q")
    fleet.store.pause(POOL, "q", intake=True, until_ms=T0 + 5)
    fleet.advance(5)
    with pytest.raises(Refused, match="must be paused"):
        fleet.store.delete_queue(POOL, "q")


def test_the_pauses_of_the_pool_count_for_its_queues(fleet):
    shut(fleet)
    fleet.store.delete_queue(POOL, "q")
    assert fleet.dump()["queues"] == {"default": 1}


def test_the_default_queue_goes_with_its_pool_only(fleet):
    shut(fleet)
    before = fleet.dump()
    with pytest.raises(Refused, match="queue 'default' goes with its pool"):
        fleet.store.delete_queue(POOL, "default")
    assert fleet.dump() == before


@pytest.mark.parametrize(
    ("pool", "queue", "error"), [("no", "q", PoolNotFound), (POOL, "no", QueueNotFound)]
)
def test_what_is_not_there_cannot_be_deleted(fleet, pool, queue, error):
    before = fleet.dump()
    with pytest.raises(error):
        fleet.store.delete_queue(pool, queue)
    assert fleet.dump() == before


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_queue_of_an_odd_name_goes_and_no_other(fleet, name):
    fleet.create_queue(name)
    shut(fleet, name)
    fleet.store.delete_queue(POOL, name)
    assert fleet.dump()["queues"] == {"default": 1, "q": 2}


def fill_waits(fleet: Fleet, count: int, queue: str) -> None:
    """Let runs of many deployments wait in a queue."""
    for number in range(count):
        fleet.store.set_deployment(POOL, f"d{number:02}", 0)
        fleet.submit(f"run-{number}", deployment=f"d{number:02}", queue=queue)
    fleet.dispatch(queue)


def test_waiting_sets_are_looked_at_some_at_a_time(fleet, monkeypatch):
    monkeypatch.setattr(controls, "DELETE_KEYS", 3)
    fill_waits(fleet, 7, "default")
    shut(fleet, "q")
    fleet.store.delete_queue(POOL, "q")
    assert fleet.dump()["queues"] == {"default": 1}


def test_the_last_of_many_waiting_sets_is_found(fleet, monkeypatch):
    monkeypatch.setattr(controls, "DELETE_KEYS", 3)
    fill_waits(fleet, 7, "default")
    fleet.store.set_deployment(POOL, "e", 0)
    fleet.put("a", "b", deployment="e", queue="q")
    shut(fleet, "q")
    with pytest.raises(NotEmpty, match="still has runs: 2"):
        fleet.store.delete_queue(POOL, "q")


def test_a_look_begins_anew_when_the_queue_was_resumed_meanwhile(fleet):
    fill_waits(fleet, 3, "default")
    shut(fleet, "q")
    looked = delete_step(fleet, after="")
    assert looked[0] == b"more"
    fleet.store.resume(POOL, "q")
    fleet.store.resume(POOL, "q", intake=True)
    fleet.put("a", deployment="d00", queue="q")
    fleet.advance(1)
    shut(fleet, "q")

    words = [looked]
    while words[-1][0] == b"more":
        words.append(delete_step(fleet, after=words[-1][1]))

    assert words[-1] == [b"not_empty", 1]


def delete_step(fleet: Fleet, after: str | bytes) -> list[bytes]:
    args = {"name": "q", "limit": 2, "after": after, "by": ""}
    return fleet.store._step("delete_queue", POOL, **args)


def test_a_dead_letter_outlives_its_queue_and_waits_for_one_of_the_name(fleet):
    put_dead(fleet, "a", queue="q")
    shut(fleet, "q")
    fleet.store.delete_queue(POOL, "q")
    before = fleet.dump()

    with pytest.raises(QueueNotFound, match="queue 'q' does not exist in pool 'pool'"):
        fleet.store.requeue(POOL, "a")
    assert fleet.dump() == before
    fleet.create_queue("q")
    assert fleet.store.requeue(POOL, "a") == fleet.store.now_ms


def put_dead(fleet: Fleet, run_id: str, **fields: str) -> None:
    fleet.store.set_queue(POOL, fields.get("queue", "default"), {"max_deliveries": 1})
    fleet.submit(run_id, **fields)
    fleet.dispatch()
    holder = fleet.register("doomed")
    fleet.start(fleet.claim_one(holder))
    fleet.lose(holder)
    assert fleet.run(run_id)["place"] == "dead"


# --- A pool


@pytest.fixture
def alone(fleet: Fleet) -> Fleet:
    """A paused pool with its default queue alone."""
    shut(fleet)
    fleet.store.delete_queue(POOL, "q")
    return fleet


def open_up(fleet: Fleet) -> None:
    for intake in (False, True):
        fleet.store.resume(POOL, intake=intake)


def end_runs(fleet: Fleet) -> None:
    """Leave what ended runs, limits and workers leave."""
    fleet.put("a", "b", deployment="d")
    fleet.submit("c", idempotency="digest")
    for claim in fleet.claim(fleet.register()):
        fleet.finish(claim, "FAILED")
    fleet.store.cancel(POOL, "c")
    fleet.store.set_deployment(POOL, "d", 5)


def test_a_deleted_pool_leaves_its_events_for_its_retention_and_nothing_else(alone):
    open_up(alone)
    end_runs(alone)
    shut(alone)

    alone.store.delete_pool(POOL, by="me@here")

    state = alone.dump()
    assert (list(state), state["expiring"]) == (["events", "expiring"], ["events"])
    assert 86_000_000 < alone.client.pttl(alone.keys["events"]) <= 86_400_000
    assert state["events"][-1] == {"event": "pool-deleted", "at_ms": str(T0), "by": "me@here"}
    assert alone.client.smembers(pools_key(alone.store.prefix)) == set()


def test_a_pool_is_forgotten_some_keys_at_a_time_and_its_hash_last(alone):
    open_up(alone)
    end_runs(alone)
    shut(alone)
    left, words = [], [b"more"]
    while words[-1] == b"more":
        words.append(alone.store._step("delete_pool", POOL, limit=1, by="")[0])
        state = alone.dump()
        left.append(
            (len(state.get("finished", ())), len(state.get("holders", ())), "pool" in state)
        )
    assert words[1:] == [b"more", b"more", b"more", b"deleted"]
    assert left == [(2, 0, True), (1, 0, True), (0, 0, True), (0, 0, False)]


@pytest.mark.parametrize("place", PLACES)
def test_a_pool_that_has_a_run_left_is_refused_and_nothing_changes(alone, place):
    open_up(alone)
    put_at(alone, place, "default")
    shut(alone)
    before = alone.dump()
    with pytest.raises(NotEmpty, match="pool 'pool' still has runs: 1"):
        alone.store.delete_pool(POOL)
    assert alone.dump() == before


def test_a_pool_that_has_another_queue_or_a_dead_letter_left_is_refused(fleet):
    put_dead(fleet, "a")
    shut(fleet)
    with pytest.raises(NotEmpty, match="pool 'pool' still has other queues: 1"):
        fleet.store.delete_pool(POOL)
    fleet.store.delete_queue(POOL, "q")
    before = fleet.dump()
    with pytest.raises(NotEmpty, match="pool 'pool' still has dead letters: 1"):
        fleet.store.delete_pool(POOL)
    assert fleet.dump() == before
    fleet.store.purge(POOL, ["a"])
    fleet.store.delete_pool(POOL)
    assert "pool" not in fleet.dump()


@pytest.mark.parametrize("kinds", [(False,), (True,), (False, True)])
def test_a_pool_that_is_not_paused_with_its_intake_is_refused(alone, kinds):
    for intake in kinds:
        alone.store.resume(POOL, intake=intake)
    before = alone.dump()
    with pytest.raises(Refused, match="pool 'pool' must be paused with its intake to be deleted"):
        alone.store.delete_pool(POOL)
    assert alone.dump() == before


def test_a_pool_that_is_not_there_is_not_listed_any_more(alone):
    alone.client.sadd(pools_key(alone.store.prefix), "ghost")
    with pytest.raises(PoolNotFound):
        alone.store.delete_pool("ghost")
    assert alone.client.smembers(pools_key(alone.store.prefix)) == {b"pool"}


def test_nothing_is_accepted_dispatched_or_registered_where_a_pool_was(alone):
    holder = alone.register()
    alone.store.delete_pool(POOL)
    before = alone.dump()
    for step in (
        lambda: alone.submit("a"),
        lambda: alone.dispatch("default"),
        lambda: alone.register("w", "2"),
        lambda: alone.store.pause(POOL),
        lambda: alone.create_queue("q"),
    ):
        with pytest.raises(NotFound):
            step()
    assert alone.answer(holder).word is Word.LOST
    assert alone.renew(holder, 0) is Word.LOST
    assert alone.dump() == before


def test_a_report_for_a_deleted_pool_changes_nothing(alone):
    open_up(alone)
    alone.put("a")
    claim = alone.claim_one(alone.register())
    alone.finish(claim)
    shut(alone)
    alone.store.delete_pool(POOL)
    before = alone.dump()
    late = Finish("a", claim.token, Outcome("FAILED", "Failed"))
    assert alone.store.report(POOL, late) is Word.LOST
    assert alone.dump() == before


def test_a_pool_of_the_same_name_begins_anew_and_keeps_the_events(alone):
    open_up(alone)
    alone.submit("a", idempotency="digest", due_ms=T0)
    alone.store.cancel(POOL, "a")
    shut(alone)
    alone.store.delete_pool(POOL)

    alone.store.create_pool(a_pool(), default_queue_id="id-of-default")

    assert alone.client.ttl(alone.keys["events"]) == -1
    assert alone.submit("a", idempotency="digest", due_ms=T0)[0].word is Word.ACCEPTED


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_pool_of_an_odd_name_goes_and_no_other(fleet, name):
    store = fleet.store
    store.create_pool(a_pool(name), default_queue_id="id")
    store.create_queue(a_queue("q", name))
    store.submit(name, a_submission("a"))
    store.cancel(name, "a")
    before = fleet.dump()
    for intake in (False, True):
        store.pause(name, intake=intake)
    store.delete_queue(name, "q")
    store.delete_pool(name)
    assert fleet.client.smembers(pools_key(store.prefix)) == {b"pool"}
    assert fleet.client.exists(store.keys(name)["pool"]) == 0
    assert fleet.dump() == before


def test_at_full_memory_what_is_empty_goes_all_the_same(own_fleet):
    own_fleet.create_queue("q")
    end_runs(own_fleet)
    shut(own_fleet)
    own_fleet.client.config_set("maxmemory", 1)
    own_fleet.store.delete_queue(POOL, "q")
    own_fleet.store.delete_pool(POOL)
    assert list(own_fleet.dump()) == ["events", "expiring"]
