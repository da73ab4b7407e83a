"""The atomic steps on a server that forgets scripts, fills up, fails over or loses writes."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dispatcher.connection import Connection
from dispatcher.errors import RedisFull, RedisRefused, RedisUnavailable
from dispatcher.records import Claim, Finish, Start, Word
from dispatcher.scripts import load, names
from dispatcher.store import Store
from tests.builders import (
    COMPLETED,
    MIB,
    POOL,
    T0,
    Fleet,
    a_pool,
    a_submission,
)
from tests.servers import RealServer, embedded_binary, system_binary

BINARIES = {"valkey": embedded_binary, "redis": system_binary}
FOUND = [name for name, find in BINARIES.items() if name == "valkey" or find()]
PREFIX = "t"


@pytest.fixture(params=FOUND)
def start(request: pytest.FixtureRequest, own_server: Callable[..., RealServer]):
    """A function that starts a server of the test's own."""
    binary: Path | None = BINARIES[request.param]()
    return lambda **options: own_server(binary=binary, **options)


@pytest.fixture
def server(start: Callable[..., RealServer]) -> RealServer:
    """A server of the test's own, without further settings."""
    return start()


@pytest.fixture
def fleet(server: RealServer) -> Iterator[Fleet]:
    """A pool on that server."""
    with server.client() as client:
        yield Fleet(client, PREFIX)


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


# --- Memory is full


@pytest.fixture
def fill(fleet: Fleet) -> Callable[[], None]:
    """A function after which the server has no memory left, whatever is freed."""
    return lambda: fleet.client.config_set("maxmemory", 1)


def test_a_submit_at_full_memory_is_refused_and_writes_nothing(fleet, fill):
    before = fleet.dump()
    fill()
    with pytest.raises(RedisFull, match="out of memory"):
        fleet.submit("a")
    assert fleet.dump() == before


def test_a_dispatch_at_full_memory_is_refused_and_writes_nothing(fleet, fill):
    fleet.submit("a")
    before = fleet.dump()
    fill()
    with pytest.raises(RedisFull, match="out of memory"):
        fleet.dispatch()
    assert fleet.dump() == before


def test_each_submit_of_a_batch_at_full_memory_is_refused(fleet, fill):
    fill()
    answers = fleet.store.submit_many(POOL, [a_submission("a"), a_submission("b")])
    assert [type(answer) for answer in answers] == [RedisFull, RedisFull]


def test_a_refused_submit_is_accepted_when_there_is_more_memory(fleet, fill):
    fill()
    with pytest.raises(RedisFull):
        fleet.submit("a")
    fleet.client.config_set("maxmemory", 0)
    assert fleet.submit("a")[0].word is Word.ACCEPTED


def test_a_refused_submit_is_accepted_after_runs_have_ended(fleet):
    fleet.submit(*"abcd", payload=b"x" * MIB)
    fleet.dispatch(max_bytes=64 * MIB)
    claims = fleet.claim(fleet.register())
    fleet.client.config_set("maxmemory", fleet.client.info("memory")["used_memory"])
    with pytest.raises(RedisFull):
        fleet.submit("e", payload=b"x" * MIB)

    assert [fleet.finish(claim) for claim in claims] == [Word.FINISHED] * 4

    assert fleet.submit("e", payload=b"x" * MIB)[0].word is Word.ACCEPTED


def test_a_run_goes_from_its_stream_to_its_end_at_full_memory(fleet, fill):
    fleet.put("a")
    fill()

    holder = fleet.register()
    claim = fleet.claim_one(holder)
    words = [fleet.start(claim), fleet.renew(holder, held=1), fleet.finish(claim, nudge=True)]

    assert words == [Word.STARTED, Word.RENEWED, Word.FINISHED]
    assert fleet.run("a")["state_type"] == "COMPLETED"


def test_a_run_is_released_at_full_memory(fleet, fill):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fill()
    assert fleet.release(claim, nudge=True) is Word.RELEASED
    assert fleet.run("a")["place"] == "scheduled"


def test_a_holder_is_recovered_at_full_memory(fleet, fill):
    fleet.put("a", "b")
    started, _ = fleet.claim(fleet.register())
    fleet.start(started)
    fill()
    fleet.lose("w.1")
    assert [fleet.run(run_id)["place"] for run_id in "ab"] == ["scheduled"] * 2
    assert "holder:w.1" not in fleet.dump()


def test_a_worker_is_displaced_at_full_memory(fleet, fill):
    fleet.register()
    fill()
    assert fleet.register(incarnation="2") == "w.2"


# Steps that write no more than the wake that they pass on.
IDLE = {
    "a claim of nothing": lambda fleet: fleet.answer("w.1", slots=0).word,
    "a repeated claim": lambda fleet: fleet.answer("w.1", number=1).word,
    "a claim that is behind": lambda fleet: fleet.answer("w.1", number=0).word,
    "a claim of nobody": lambda fleet: fleet.answer("nobody.1").word,
    "a claim of a drained holder": lambda fleet: fleet.answer("drained.1").word,
    "a drain of nobody": lambda fleet: fleet.store.drain(POOL, "nobody.1", reason="test"),
    "a repeated drain": lambda fleet: fleet.store.drain(POOL, "drained.1", reason="test"),
    "a renewal": lambda fleet: fleet.renew("w.1", held=1),
}


@pytest.mark.parametrize("step", IDLE)
def test_a_step_that_passes_a_wake_on_does_so_at_full_memory(fleet, fill, step):
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.store.drain(POOL, fleet.register("drained"), reason="test")
    fleet.put("b")
    fleet.client.lpop(fleet.keys["wake"] + "default")
    fill()

    assert IDLE[step](fleet) in set(Word)
    assert fleet.dump()["wake:default"] == ["1"]


def test_a_claim_of_nothing_is_an_empty_answer_at_full_memory(fleet, fill):
    holder = fleet.register()
    fill()
    assert fleet.claim(holder) == []


# --- Another server answers


@pytest.fixture
def on_a_replica(fleet: Fleet) -> Fleet:
    """The fleet after its server has become the replica of one that is not there."""
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.put("b")
    fleet.submit("c")
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
}


def token(fleet: Fleet) -> Claim:
    """The claim that w.1 has of the run "a", from its record."""
    return Claim("a", POOL, "default", fleet.run("a")["token"], b"", T0, 0, 1, "")


def test_every_step_is_tried_here():
    assert sorted(STEPS) == names()


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
    assert fleet.dump() == before
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
    fleet.create_queue("c {d}")
    fleet.put("a", "b", "c", queue="c {d}")
    a, b, _ = fleet.claim(fleet.register())

    fleet.start(a)
    fleet.finish(a)
    fleet.release(b)
    fleet.renew("w.1", held=1)
    fleet.store.drain(fleet.pool, "w.1", reason="test")
    fleet.lose("w.1")

    assert [fleet.run(i)["place"] for i in "abc"] == ["ended", "scheduled", "scheduled"]
    assert all(cluster.script_exists(*(load(name).sha for name in names())))
