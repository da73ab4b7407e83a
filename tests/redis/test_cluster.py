"""Pools on a Redis Cluster of three nodes: each on its own, all through one connection."""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
import redis

from dispatcher.connection import Connection
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.keys import TABLE, pools_key
from dispatcher.measuring import measure
from dispatcher.preflight import look_at_servers
from dispatcher.reconciling import Reconciler
from dispatcher.records import Word
from dispatcher.scripts import load, names
from dispatcher.store import Store
from tests.builders import T0, Fleet, a_pool, a_submission
from tests.redis.conftest import BINARIES, FOUND
from tests.topologies import Nodes, cluster

PLACES = (0, 1, 2, 0)  # which node has which pool of a test


@pytest.fixture(scope="module", params=FOUND)
def nodes(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Nodes]:
    """Three nodes that the tests of this file share; each has pools of its own names."""
    binary = BINARIES[request.param]()
    with cluster(binary, tmp_path_factory.mktemp("cluster"), nodes=3) as found:
        yield found


@pytest.fixture
def own() -> str:
    """A key prefix that only this test has."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def connection(nodes: Nodes) -> Iterator[Connection]:
    """A connection to the cluster that gives up at once."""
    with closing(Connection.open(nodes.url)) as opened:
        yield opened


class Spread(Fleet):
    """A fleet whose steps go through a connection to the whole cluster."""

    def __init__(self, nodes: Nodes, connection: Connection, prefix: str, pool: str) -> None:
        self.nodes = nodes
        self.pool = pool
        self.store = Store(connection, prefix)
        self.store.now_ms = T0
        self.keys = self.store.keys(pool)
        self.numbers = Counter()
        self.store.create_pool(a_pool(pool), default_queue_id="id-of-default")

    @property
    def client(self) -> redis.Redis:  # type: ignore[override]
        """A client of the node that has the pool now."""
        return self.nodes.client_of(self.keys["pool"])


@pytest.fixture
def fleets(nodes: Nodes, connection: Connection, own: str) -> list[Fleet]:
    """Four pools, two of them on one node, all over one connection."""
    label = secrets.token_hex(2)
    pools = [nodes.pool_on(at, f"{label}-{i}") for i, at in enumerate(PLACES)]
    return [Spread(nodes, connection, own, pool) for pool in pools]


def begin(fleet: Fleet) -> None:
    """Leave "a" claimed, "b" in its stream, "c" scheduled, "d" ended."""
    fleet.put("d")
    fleet.finish(fleet.claim_one(fleet.register()))
    fleet.put("a", "b")
    fleet.claim_one("w.1")
    fleet.submit("c", due_ms=T0 + 60_000)


def places(fleet: Fleet) -> list[str]:
    return [fleet.run(run_id).get("place", "") for run_id in "abcd"]


def test_each_pool_lives_on_its_own_node_and_one_connection_works_with_all(nodes, fleets, own):
    for fleet in fleets:
        begin(fleet)

    assert [places(fleet) for fleet in fleets] == [["claimed", "stream", "scheduled", "ended"]] * 4
    for at in range(3):
        there = {key.split(b"}")[0] for key in nodes.at(at).keys(f"{own}:{{*")}
        mine = [f for f, place in zip(fleets, PLACES, strict=True) if place == at]
        assert there == {f.keys["pool"].split("}")[0].encode() for f in mine}


def test_all_is_read_from_where_it_is(fleets, connection, own):
    inspector = Inspector(connection, own)
    for fleet in fleets:
        begin(fleet)
    pools = sorted(fleet.pool for fleet in fleets)

    assert inspector.pool_names() == pools
    assert [(pool.name, pool.claimed) for pool in inspector.pools()] == [(p, 1) for p in pools]
    for fleet in fleets:
        (queue,) = inspector.queues(fleet.pool)
        assert (queue.scheduled, queue.unclaimed, queue.claimed) == (1, 1, 1)
        assert [holder.id for holder in inspector.holders(fleet.pool)] == ["w.1"]
        assert sorted(run.id for run in inspector.runs(fleet.pool)) == list("abcd")
        assert list(inspector.claims(fleet.pool, "w.1")) == ["a"]
    after = dict.fromkeys(pools, "0")
    heard = inspector.events_of(after, timeout_s=0.1)
    assert Counter(
        event.pool for event in heard if event.fields["event"] == "claimed"
    ) == dict.fromkeys(pools, 2)


def test_runs_are_listed_and_taken_where_their_pool_is(fleets, connection, own):
    for fleet in fleets:
        fleet.set_pool(handout="poll")
        fleet.submit("a", "b")
        assert fleet.finish(fleet.take_one("a")) is Word.FINISHED
    inspector = Inspector(connection, own)
    pages = [inspector.scheduled_page(fleet.pool) for fleet in fleets]
    assert [[row.run.id for row in page.runs] for page in pages] == [["b"]] * 4


def test_the_time_of_a_pool_is_that_of_its_node(nodes, fleets, connection, own):
    for at in range(3):
        nodes.at(at).config_resetstat()
    Inspector(connection, own).server_time_ms(fleets[1].pool)
    asked = ["cmdstat_time" in nodes.at(at).info("commandstats") for at in range(3)]
    assert asked == [False, True, False]


def test_scripts_are_loaded_everywhere_or_where_a_pool_is(nodes, fleets):
    shas = [load(name).sha for name in names()]
    for at in range(3):
        nodes.at(at).script_flush()

    fleets[1].store.warm_up(fleets[1].pool)
    assert [all(nodes.at(at).script_exists(*shas)) for at in range(3)] == [False, True, False]
    fleets[1].store.warm_up()
    assert all(all(nodes.at(at).script_exists(*shas)) for at in range(3))


@pytest.mark.parametrize("at", range(3))
def test_one_subscription_at_any_node_hears_of_pools_on_all(nodes, fleets, own, at):
    with closing(Connection.open(f"redis://127.0.0.1:{nodes.servers[at].port}")) as one:
        inspector = Inspector(one, own)
        subscription = inspector.subscribe()
        messages = subscription.messages()
        assert next(messages) is None

        for fleet in fleets:
            fleet.submit("a", due_ms=T0 + 7)

        unheard = {fleet.pool for fleet in fleets}
        while unheard:
            hint = inspector.hint(*(next(messages) or ("", "")))
            if hint and hint.due_ms == T0 + 7:
                unheard.remove(hint.pool)
        subscription.close()


def test_a_pass_of_reconciling_looks_at_all_nodes(nodes, fleets, connection, own):
    for fleet in fleets:
        begin(fleet)
        fleet.client.delete(fleet.keys["claims"] + "w.1")
        fleet.client.hset(fleet.keys["pool"], "created_ms", 1)
    names_key = pools_key(own)
    nodes.client_of(names_key).srem(names_key, fleets[2].pool)
    named = [fleet.pool for fleet in fleets if fleet is not fleets[2]]

    reconciler = Reconciler(fleets[0].store, Inspector(connection, own), fix=True)
    found = [each for page in reconciler.walk(named, names=True) for each in page]

    assert {each.pool for each in found if each.run == "a"} == set(named)
    assert [each.pool for each in found if each.code == "unnamed-pool"] == [fleets[2].pool]
    assert fleets[2].pool in Inspector(connection, own).pool_names()
    assert all(each.repaired for each in found)


def test_the_settings_of_each_node_are_looked_at(nodes, connection):
    nodes.at(1).config_set("maxmemory-policy", "allkeys-lru")
    server = look_at_servers(connection)
    nodes.at(1).config_set("maxmemory-policy", "noeviction")

    ports = [each.port for each in nodes.servers]
    assert all(f"127.0.0.1:{port} (" in server.shown for port in ports)
    (found,) = server.findings
    assert found.problem.startswith(f"127.0.0.1:{ports[1]}: maxmemory-policy is allkeys-lru")


# --- A pool moves to another node


def move(nodes: Nodes, fleet: Fleet, to: int) -> None:
    key = fleet.keys["pool"]
    nodes.begin_move(key, to)
    nodes.move_keys(key, to)
    nodes.end_move(key, to)


def test_work_goes_on_without_a_word_where_the_pool_is_now(nodes, fleets):
    fleet = fleets[0]
    begin(fleet)

    move(nodes, fleet, 2)
    assert fleet.store.renew(fleet.pool, "w.1", held=1, number=2).word is Word.RENEWED
    move(nodes, fleet, 1)
    receipts = fleet.store.submit_many(fleet.pool, [a_submission(i) for i in "xyz"])
    move(nodes, fleet, 0)

    assert [receipt.word for receipt in receipts] == [Word.ACCEPTED] * 3
    assert Inspector(fleet.store.connection, fleet.store.prefix).run("x", fleet.pool).id == "x"
    assert places(fleet) == ["claimed", "stream", "scheduled", "ended"]


@pytest.mark.parametrize("nodes", ["valkey"], indirect=True)
def test_a_pool_that_moves_at_once_as_valkey_does_it_is_there_all_the_time(nodes, fleets):
    fleet = fleets[0]
    begin(fleet)
    before = fleet.dump()

    nodes.move_at_once(fleet.keys["pool"], 1)

    assert fleet.dump() == before
    assert fleet.store.renew(fleet.pool, "w.1", held=1, number=2).word is Word.RENEWED


STEPS: dict[str, Callable[[Fleet], object]] = {
    "submit": lambda fleet: fleet.submit("e"),
    "submit_many": lambda fleet: fleet.store.submit_many(
        fleet.pool, [a_submission(i) for i in "ef"]
    ),
    "dispatch": lambda fleet: fleet.store.dispatch(fleet.pool, ["default"]),
    "claim": lambda fleet: fleet.answer("w.1"),
    "renew": lambda fleet: fleet.renew("w.1", held=1),
    "register": lambda fleet: fleet.register("another"),
    "recover": lambda fleet: fleet.store.recover(fleet.pool, "w.1"),
    "cancel": lambda fleet: fleet.cancel("a"),
    "pause": lambda fleet: fleet.pause(),
    "watch": lambda fleet: fleet.watch(),
    "take": lambda fleet: fleet.take("c"),
}


@pytest.mark.parametrize("step", STEPS)
def test_no_step_is_done_while_the_keys_of_its_pool_are_on_two_nodes(nodes, fleets, step):
    fleet = fleets[0]
    begin(fleet)
    before, key = fleet.dump(), fleet.keys["pool"]
    nodes.begin_move(key, 1)
    while True:
        with pytest.raises(RedisUnavailable, match="cannot serve now") as caught:
            STEPS[step](fleet)
        assert type(caught.value) is RedisUnavailable
        if not nodes.move_keys(key, 1, most=3):
            break

    nodes.end_move(key, 1)

    assert fleet.dump() == before
    STEPS[step](fleet)


def test_each_script_declares_a_key_that_never_exists_so_that_it_waits_for_a_move():
    # A server does nothing for a command some of whose keys are not there while their slot moves.
    absent = {row.name for row in TABLE if "<" in row.pattern or row.type == "channel"}
    assert [name for name in names() if not absent & set(load(name).keys)] == []


def test_what_is_read_while_a_pool_moves_is_right_or_refused(nodes, fleets, connection, own):
    fleet, inspector = fleets[0], Inspector(connection, own)
    begin(fleet)
    fleet.set_pool(handout="poll")
    reads: list[Callable[[], object]] = [
        lambda: inspector.pool(fleet.pool).claimed,
        lambda: [(q.scheduled, q.unclaimed, q.claimed) for q in inspector.queues(fleet.pool)],
        lambda: [holder.id for holder in inspector.holders(fleet.pool)],
        lambda: [run.id for run in inspector.runs(fleet.pool)],
        lambda: inspector.claims(fleet.pool, "w.1"),
        lambda: inspector.run("a").place,
        lambda: len(inspector.past_events(fleet.pool)),
        lambda: [row.run.id for row in inspector.scheduled_page(fleet.pool).runs],
    ]
    right = [read() for read in reads]
    key, refused = fleet.keys["pool"], 0
    nodes.begin_move(key, 1)
    while nodes.move_keys(key, 1, most=1):
        for read, expected in zip(reads, right, strict=True):
            try:
                assert read() == expected
            except RedisUnavailable:
                refused += 1
    nodes.end_move(key, 1)

    assert refused
    assert [read() for read in reads] == right


def test_a_pool_that_moves_is_measured_right_or_left_out(nodes, fleets, connection, own):
    fleet, inspector = fleets[0], Inspector(connection, own)
    begin(fleet)

    def measured():
        found = {p.name: [(q.unclaimed, q.claimed) for q in p.queues] for p in measure(inspector)}
        return found, found.pop(fleet.pool, None)

    others, right = measured()
    key, left_out = fleet.keys["pool"], 0
    nodes.begin_move(key, 1)
    while nodes.move_keys(key, 1, most=1):
        assert measured() in ((others, right), (others, None))
        left_out += measured()[1] is None
    nodes.end_move(key, 1)

    assert left_out
    assert len(others) == len(fleets) - 1
    assert measured() == (others, right)


# --- What is wrong is said


def test_a_url_for_one_server_says_what_to_do_at_a_node_that_has_not_the_pool(nodes, fleets, own):
    url = f"redis://127.0.0.1:{nodes.servers[0].port}"
    what_to_do = pytest.raises(RedisRefused, match=r"node of a cluster; use redis\+cluster://$")
    with closing(Connection.open(url)) as one, what_to_do:
        Inspector(one, own).pool(fleets[1].pool)


def test_a_url_for_a_cluster_says_that_a_server_is_none(own_server):
    url = f"redis+cluster://127.0.0.1:{own_server(tcp=True).port}"
    refused = pytest.raises(RedisRefused, match="cluster support disabled")
    with closing(Connection.open(url, patience_s=60)) as one, refused:
        Inspector(one, "t").pool_names()


def test_the_login_is_given_to_every_node(nodes, fleets, own):
    everything = {"keys": ["*"], "categories": ["+@all"], "channels": ["*"]}
    for at in range(3):
        nodes.at(at).acl_setuser("app", enabled=True, passwords=["+p@ss"], **everything)

    with closing(Connection.open(nodes.url.replace("://", "://app:p%40ss@"))) as one:
        assert len(Inspector(one, own).pools()) == 4
    refused = pytest.raises(RedisRefused, match="password")
    with (
        closing(Connection.open(nodes.url.replace("://", "://app:wr0ng@"))) as one,
        refused as told,
    ):
        Inspector(one, own).pools()
    assert "wr0ng" not in str(told.value)


# --- Threads share a connection


@pytest.mark.parametrize("kind", ["cluster", "server"])
def test_threads_share_a_connection_that_is_reset_again_and_again(nodes, real_server, prefix, kind):
    url = nodes.url if kind == "cluster" else real_server.url
    label, done = secrets.token_hex(2), threading.Event()
    pools = [nodes.pool_on(at, label) for at in range(3)]
    problems: list[BaseException] = []
    with closing(Connection.open(url, patience_s=30)) as shared:
        store = Store(shared, prefix)
        for pool in pools:
            store.create_pool(a_pool(pool), default_queue_id="id-of-default")

        def work(pool: str, name: str) -> None:
            try:
                for i in range(30):
                    store.submit(pool, a_submission(f"{name}-{i}"))
            except BaseException as error:  # noqa: BLE001  the test tells of it
                problems.append(error)

        def reset() -> None:
            for _ in range(100):
                shared.reset()
                done.wait(0.01)

        working = [Thread(target=work, args=(pool, str(n))) for pool in pools for n in range(2)]
        resetting = Thread(target=reset)
        for thread in [resetting, *working]:
            thread.start()
        for thread in working:
            thread.join()
        done.set()
        resetting.join()

        inspector = Inspector(shared, prefix)
        assert problems == []
        assert [inspector.queue(pool, "default").scheduled for pool in pools] == [60] * 3
