"""The atomic steps on a server that forgets scripts, fills up, fails over or loses writes."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from dispatcher.connection import Connection
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.hand_overs import shared_holder
from dispatcher.inspector import Inspector
from dispatcher.measuring import measure
from dispatcher.records import Claim, Finish, Start, Word
from dispatcher.scripts import load, names
from dispatcher.store import Store
from tests.builders import (
    COMPLETED,
    POOL,
    T0,
    Fleet,
    a_pool,
    a_submission,
    changed,
)
from tests.servers import RealServer

PREFIX = "t"


@pytest.fixture
def fleet(own_fleet: Fleet) -> Fleet:
    """A pool on a server of the test's own."""
    return own_fleet


# --- Scripts are forgotten


def test_a_step_whose_script_was_forgotten_is_done_all_the_same(fleet):
    fleet.submit("a")
    fleet.client.script_flush()
    assert fleet.submit("b")[0].word is Word.ACCEPTED
    assert fleet.run("b")["place"] == "scheduled"


def test_a_batch_whose_scripts_were_forgotten_is_done_in_order(fleet):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.client.script_flush()
    reports = [Start("a", claim.token, 1), Finish("a", claim.token, COMPLETED)]
    assert fleet.store.report_many(POOL, reports) == [Word.STARTED, Word.FINISHED]


def test_a_batch_is_done_in_order_when_only_some_scripts_were_forgotten(fleet):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.client.script_flush()
    fleet.store.report(POOL, Finish("unknown", "x", COMPLETED))
    reports = [Start("a", claim.token, 1), Finish("a", claim.token, COMPLETED)]
    assert fleet.store.report_many(POOL, reports) == [Word.STARTED, Word.FINISHED]


def test_a_batch_goes_on_when_its_script_is_forgotten_in_its_midst(fleet):
    fleet.submit("a")
    fleet.store.connection.client = Forgetful(fleet.client)

    receipts = fleet.store.submit_many(POOL, [a_submission(run_id) for run_id in "bcd"])

    assert [receipt.word for receipt in receipts] == [Word.ACCEPTED] * 3
    assert len(fleet.dump()["scheduled:default"]) == 4


class Forgetful:
    """A client in whose first pipeline the server forgets all scripts after the first command."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pipeline: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def pipeline(self, **options: bool) -> Any:
        if self._pipeline is not None:
            return self._client.pipeline(**options)
        self._pipeline = self._client.pipeline(**options)
        return self

    def execute_command(self, *command: Any) -> None:
        self._pipeline.execute_command(*command)
        if len(self._pipeline) == 1:
            self._pipeline.execute_command("SCRIPT", "FLUSH")

    def execute(self, **options: bool) -> list[Any]:
        first, _, *others = self._pipeline.execute(**options)
        return [first, *others]


# --- Another server answers


def shut(fleet: Fleet) -> None:
    """A queue and another pool that are empty and paused, also their intake: ready to go."""
    fleet.create_queue("shut")
    Fleet(fleet.client, PREFIX, "shut")
    for pool, queue in [(fleet.pool, "shut"), ("shut", None)]:
        fleet.store.pause(pool, queue)
        fleet.store.pause(pool, queue, intake=True)


def hand_over(fleet: Fleet) -> Claim:
    """Claim a run and hand it over to the RQ queue `flows`, without a job."""
    shared = fleet.store.register_shared(fleet.pool, "flows", slots=1)
    claim = fleet.claim_one(fleet.register("giver"))
    fleet.store.hand_over(fleet.pool, claim, shared.holder, enqueue=lambda _: None)
    return claim


def corrupt(fleet: Fleet) -> None:
    """A slot without a run, a run without its place, and a queue that nobody would look at."""
    fleet.submit("astray", due_ms=T0 * 2)
    fleet.client.zrem(fleet.keys["scheduled"] + "default", fleet.run("astray")["member"])
    fleet.client.zadd(fleet.keys["pool_slots"], {"nobody": T0})
    fleet.client.zrem(fleet.keys["ready"], "default")


def reconcile(fleet: Fleet, step: str) -> None:
    """Repair what is corrupt, one part of it."""
    store, pool = fleet.store, fleet.pool
    if step == "runs":
        assert store.reconcile_runs(pool, ["astray"], fix=True)
    elif step == "listings":
        assert store.reconcile_listings(pool, "pool_slots", "", ["nobody"], fix=True)
    else:
        assert store.reconcile_queue(pool, "default", fix=True).findings


@pytest.fixture
def on_a_replica(fleet: Fleet) -> Fleet:
    """The fleet after its server has become the replica of one that is not there.

    "a" is claimed, "b" in its stream, "c" scheduled, "dead" is dead, "held" in a paused queue, and
    "elsewhere" was handed over.
    """
    fleet.set_pool(late_after_ms=0)
    fleet.set_queue(max_deliveries=1)
    fleet.put("dead")
    fleet.start(fleet.claim_one(fleet.register("old")))
    fleet.lose("old.1")
    fleet.put("elsewhere")
    hand_over(fleet)
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.put("b")
    fleet.submit("c")
    fleet.create_queue("paused")
    fleet.put("held", queue="paused")
    fleet.pause("paused")
    shut(fleet)
    corrupt(fleet)
    fleet.client.replicaof("127.0.0.1", "1")
    return fleet


STEPS = {
    "submit": lambda fleet: fleet.submit("d"),
    "dispatch": lambda fleet: fleet.dispatch(),
    "register": lambda fleet: fleet.register("another"),
    "claim": lambda fleet: fleet.answer("w.1"),
    "start": lambda fleet: fleet.start(token(fleet)),
    "finish": lambda fleet: fleet.finish(token(fleet)),
    "release": lambda fleet: fleet.release(token(fleet)),
    "renew": lambda fleet: fleet.renew("w.1", held=1),
    "drain": lambda fleet: fleet.store.drain(POOL, "w.1", reason="test"),
    "recover": lambda fleet: fleet.lose("w.1"),
    "create_pool": lambda fleet: fleet.store.create_pool(a_pool("x"), default_queue_id="q"),
    "create_queue": lambda fleet: fleet.create_queue("x"),
    "set_pool": lambda fleet: fleet.set_pool(limit=1),
    "set_queue": lambda fleet: fleet.set_queue(limit=1),
    "set_deployment": lambda fleet: fleet.set_deployment("dep", 1),
    "pause": lambda fleet: fleet.pause(),
    "resume": lambda fleet: fleet.resume("paused"),
    "withdraw": lambda fleet: fleet.withdraw("paused"),
    "cancel": lambda fleet: fleet.cancel("a"),
    "retime": lambda fleet: fleet.retime("c", T0),
    "requeue": lambda fleet: fleet.requeue("dead"),
    "purge": lambda fleet: fleet.purge("dead"),
    "watch": lambda fleet: fleet.watch(),
    "delete_queue": lambda fleet: fleet.store.delete_queue(POOL, "shut"),
    "delete_pool": lambda fleet: fleet.store.delete_pool("shut"),
    "take": lambda fleet: fleet.take("c"),
    "hand_over": lambda fleet: fleet.store.hand_over(
        POOL, token(fleet), shared_holder("flows"), enqueue=lambda _: None
    ),
    "renew_run": lambda fleet: fleet.store.renew_run(
        POOL,
        "elsewhere",
        fleet.run("elsewhere")["token"],
        holder=shared_holder("flows"),
        executor="horse.1",
    ),
    "abandon": lambda fleet: fleet.store.abandon(
        POOL, "elsewhere", fleet.run("elsewhere")["token"]
    ),
    "reconcile_runs": lambda fleet: reconcile(fleet, "runs"),
    "reconcile_listings": lambda fleet: reconcile(fleet, "listings"),
    "reconcile_queue": lambda fleet: reconcile(fleet, "queue"),
}


def token(fleet: Fleet) -> Claim:
    """The claim that w.1 has of the run "a", from its record."""
    return Claim("a", POOL, "default", fleet.run("a")["token"], b"", T0, 0, 1, "")


def test_every_step_is_tried_here():
    assert sorted([*STEPS, "measure"]) == names()  # which writes nothing


@pytest.mark.parametrize("step", STEPS)
def test_a_step_on_a_replica_says_unavailable_changes_nothing_and_works_later(on_a_replica, step):
    fleet = on_a_replica
    before = fleet.dump()
    with pytest.raises(RedisUnavailable, match="read only replica") as caught:
        STEPS[step](fleet)
    assert type(caught.value) is RedisUnavailable
    assert fleet.dump() == before

    fleet.client.replicaof("NO", "ONE")
    STEPS[step](fleet)


def test_a_replica_that_serves_no_stale_data_is_unavailable(fleet):
    fleet.client.config_set("replica-serve-stale-data", "no")
    fleet.client.replicaof("127.0.0.1", "1")
    with pytest.raises(RedisUnavailable) as caught:
        fleet.submit("a")
    assert type(caught.value) is RedisUnavailable


def test_a_wrong_password_is_refused_in_one_line_that_does_not_repeat_it(start):
    server = start(config={"requirepass": "right"}, tcp=True)
    url = server.url.replace("right", "wr0ng-secret")
    store = Store(Connection.open(url, patience_s=60), PREFIX)

    with pytest.raises(RedisRefused) as caught:
        store.submit(POOL, a_submission())

    store.connection.close()
    assert "password" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "wr0ng-secret" not in str(caught.value)


def test_a_server_that_is_gone_is_unavailable(server, fleet):
    server.kill()
    with pytest.raises(RedisUnavailable, match="cannot be reached"):
        fleet.submit("a")
    server.start()


# --- The last writes are lost


def test_a_finish_is_refused_when_its_claim_was_lost_and_another_worker_claimed(server, fleet):
    one, other = fleet.register("one", "i1"), fleet.register("other", "i2")
    fleet.put("a")
    snapshot = server.snapshot()
    lost = fleet.claim_one(one)
    server.restore(snapshot)
    fleet.client.connection_pool.disconnect()

    claim = fleet.claim_one(other)

    before = fleet.dump()
    assert [fleet.start(lost), fleet.finish(lost), fleet.release(lost)] == [Word.LOST] * 3
    since = changed(before, fleet.dump())
    assert list(since) == ["events"]
    assert [event["event"] for event in since["events"]] == ["refused"] * 3
    assert claim.token != lost.token
    assert fleet.finish(claim) is Word.FINISHED


def test_a_finish_is_refused_when_its_claim_was_lost_and_nobody_claimed(server, fleet):
    holder = fleet.register()
    fleet.put("a")
    snapshot = server.snapshot()
    lost = fleet.claim_one(holder)
    server.restore(snapshot)
    fleet.client.connection_pool.disconnect()

    assert fleet.finish(lost) is Word.LOST
    assert fleet.run("a")["place"] == "stream"


def test_a_worker_that_claims_again_after_its_claim_was_lost_gets_another_token(server, fleet):
    holder = fleet.register()
    fleet.put("a")
    snapshot = server.snapshot()
    lost = fleet.claim_one(holder)
    server.restore(snapshot)
    fleet.client.connection_pool.disconnect()

    assert fleet.claim_one(holder).token != lost.token


# --- One slot for one pool


@pytest.fixture
def cluster(start: Callable[..., RealServer]) -> Iterator[redis.Redis]:
    """A client of a cluster of one node, which refuses scripts that touch two slots."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bus_port = probe.getsockname()[1]
    server = start(config={"cluster-enabled": "yes", "cluster-port": str(bus_port)}, tcp=True)
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        pause = threading.Event()
        for _ in range(1000):  # a new cluster takes 2 s until it trusts itself
            if b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"):
                break
            pause.wait(0.01)
        yield client


def test_every_step_stays_inside_the_slot_of_its_pool(cluster):
    fleet = Fleet(cluster, PREFIX, "größe {a} b")
    other = "c {d}"
    fleet.create_queue(other)
    fleet.set_pool(limit=3)
    fleet.set_queue(other, 1, limit=5, late_policy="latest", max_deliveries=1)
    fleet.set_deployment("dep", 1)
    fleet.put(*"abcd", queue=other)
    fleet.put("e", "f", deployment="dep")

    a, b, c = fleet.claim(fleet.register())
    fleet.start(a)
    fleet.finish(a)
    fleet.take_away(b)
    fleet.start(c)
    fleet.cancel("e")
    fleet.dispatch()
    fleet.retime("f", T0 + 1)
    fleet.renew("w.1", held=1)
    fleet.store.drain(fleet.pool, "w.1", reason="test")
    fleet.pause(other)
    fleet.withdraw(other)
    fleet.resume(other)
    fleet.lose("w.1")
    fleet.requeue("c")
    fleet.purge("c")
    fleet.watch()
    shut(fleet)
    fleet.store.delete_queue(fleet.pool, "shut")
    fleet.store.delete_pool("shut")
    fleet.put("g")
    corrupt(fleet)
    for step in ("runs", "listings", "queue"):
        reconcile(fleet, step)

    places = [fleet.run(run_id)["place"] for run_id in "abcdef"]
    assert places == ["ended", "scheduled", "scheduled", "scheduled", "ended", "stream"]
    claim = hand_over(fleet)
    where = {"holder": shared_holder("flows"), "executor": "horse.1"}
    assert fleet.store.renew_run(fleet.pool, claim.run_id, claim.token, **where).word == "renewed"
    assert fleet.store.abandon(fleet.pool, claim.run_id, claim.token) == "requeued"
    fleet.set_pool(handout="poll")
    assert fleet.take("d").word == "taken"
    assert [each.name for each in measure(Inspector(fleet.store.connection, PREFIX))] == [
        fleet.pool
    ]
    assert all(cluster.script_exists(*(load(name).sha for name in names())))


def test_what_waits_for_a_deployment_stays_inside_the_slot_of_its_pool(cluster):
    fleet = Fleet(cluster, PREFIX, "größe {a} b")
    fleet.create_queue("c {d}")
    fleet.set_deployment("dep", 1, "CANCEL_NEW")
    fleet.put("a", "b", queue="c {d}", deployment="dep", idempotency="digest")
    fleet.set_deployment("dep", 1)
    fleet.put("c", deployment="dep", idempotency="another")
    claim = fleet.claim_one(fleet.register())

    fleet.finish(claim, "FAILED")
    fleet.dispatch()

    assert [fleet.run(run_id).get("place") for run_id in "abc"] == ["ended", None, "stream"]
