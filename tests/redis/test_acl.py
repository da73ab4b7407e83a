"""The rules for users in docs/operations.md: they suffice for the work, and allow nothing else."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from dispatcher.connection import Connection
from dispatcher.dispatching import Dispatcher
from dispatcher.errors import RedisRefused
from dispatcher.explaining import explain
from dispatcher.inspector import Inspector
from dispatcher.measuring import measure
from dispatcher.preflight import look_at_server
from dispatcher.producer import Producer
from dispatcher.reconciling import Reconciler
from dispatcher.records import Finish, Outcome, Registration, Release, Start, Word
from dispatcher.recovery import Recovery
from dispatcher.store import Store
from tests.builders import COMPLETED, a_pool, a_queue, a_submission
from tests.servers import RealServer

ROOT = Path(__file__).parents[2]
PREFIX, POOL, OTHER, SECRET = "dispatcher", "etl", "other", "s3cret"
MEMBER, DISPATCHER, OBSERVER = "etl-member", "dispatcher", "observer"
FAILED = Outcome("FAILED", "Failed")
READING = ("inspector", "events", "pages", "probing")


def rules() -> dict[str, list[str]]:
    """The words of the page's rules, by user."""
    page = (ROOT / "docs" / "operations.md").read_text()
    blocks = re.findall(r"```acl\nuser (\S+) (.*?)```", page, re.DOTALL)
    return {user: words.replace("SECRET", SECRET).split() for user, words in blocks}


def allowed(user: str) -> set[str]:
    return {word[1:] for word in rules()[user] if word.startswith("+")}


class Users:
    """A server with two pools and the users of the page; `open` is a connection as one of them."""

    def __init__(self, server: RealServer, opened: ExitStack) -> None:
        self._server, self._opened = server, opened
        self.client: redis.Redis = opened.enter_context(server.client())
        self.store = Store(Connection(self.client), PREFIX)
        for pool in (POOL, OTHER):
            ids = {"id": str(uuid4()), "command": "true"}
            self.store.create_pool(a_pool(pool, **ids), default_queue_id=str(uuid4()))
            self.store.submit(pool, a_submission("there"))
        for user, words in rules().items():
            self.client.execute_command("ACL", "SETUSER", user, *words)

    def url(self, user: str) -> str:
        return self._server.url.replace("://", f"://{user}:{SECRET}@")

    def open(self, user: str) -> tuple[Store, Inspector]:
        connection = Connection.open(self.url(user), patience_s=60)
        self._opened.callback(connection.close)
        return Store(connection, PREFIX), Inspector(connection, PREFIX)

    def keys(self) -> dict[bytes, bytes | None]:
        """All that is stored, as dumps by key."""
        return {key: self.client.dump(key) for key in self.client.keys("*")}


@pytest.fixture
def users(start: Callable[..., RealServer]) -> Iterator[Users]:
    """A server of the test's own with the users of the page."""
    with ExitStack() as opened:
        yield Users(start(), opened)


def refused(step: Callable[[], object]) -> None:
    with pytest.raises(RedisRefused) as caught:
        step()
    told = str(caught.value)
    assert re.search("permission|can't access", told), told
    assert "\n" not in told
    assert SECRET not in told


# --- A member of a pool


def test_a_member_does_for_its_pool_all_that_workers_and_producers_do(users):
    store, inspector = users.open(MEMBER)
    store.warm_up(POOL)
    store.create_queue(a_queue("fast", POOL, id=str(uuid4())))
    producer = Producer(store, inspector)
    ids = [str(uuid4()) for _ in range(5)]
    for run_id in ids:
        run = {"id": run_id, "flow_id": run_id, "job_variables": {"command": "true"}}
        producer.submit(run, pool=POOL, queue="fast")
    store.dispatch(POOL, ["fast", "default"])

    holder = store.register(POOL, Registration("w", "1", slots=10)).holder
    assert store.wait(POOL, holder, ["fast"], timeout_s=1) == "fast"
    claims = store.claim(POOL, holder, number=1, slots=10).claims
    assert {claim.run_id for claim in claims} == {*ids, "there"}
    a, b, c, *_ = claims
    for claim in (a, b, c):
        assert store.report(POOL, Start(claim.run_id, claim.token, 1)) is Word.STARTED
    assert store.report(POOL, Finish(a.run_id, a.token, COMPLETED)) is Word.FINISHED
    assert store.report(POOL, Finish(b.run_id, b.token, FAILED)) is Word.FINISHED
    assert store.report(POOL, Release(c.run_id, c.token, "not now")) is Word.RELEASED
    assert store.renew(POOL, holder, held=3, number=1).word is Word.RENEWED
    shared = store.register_shared(POOL, "flows", slots=1).holder
    d = claims[3]
    handed = store.hand_over(POOL, d, shared, enqueue=lambda pipe: None)
    assert handed is Word.HANDED_OVER
    renewed = store.renew_run(POOL, d.run_id, d.token, holder=shared, executor="w.1")
    assert renewed.word is Word.RENEWED
    assert store.abandon(POOL, d.run_id, d.token) is Word.REQUEUED
    store.nudge(POOL, holder)
    assert store.look(POOL, holder)
    store.cancel(POOL, c.run_id)

    assert explain(inspector, c.run_id, pool=POOL).reasons
    assert inspector.run(a.run_id, POOL).state_type == "COMPLETED"
    assert len(inspector.claims(POOL, holder)) == 2
    store.drain(POOL, holder, reason="test")
    assert store.register(POOL, Registration("w", "2", slots=1)).displaced == holder
    assert len(store.recover_all(POOL, holder).requeued) == 2


@pytest.mark.parametrize(
    "step",
    [
        lambda store, _: store.submit(OTHER, a_submission("a")),
        lambda store, _: store.dispatch(OTHER, ["default"]),
        lambda store, _: store.register(OTHER, Registration("w", "1", slots=1)),
        lambda store, _: store.claim(OTHER, "w.1", number=1, slots=1),
        lambda store, _: store.cancel(OTHER, "there"),
        lambda store, _: store.wait(OTHER, "w.1", ["default"], timeout_s=1),
        lambda store, _: store.pause(OTHER),
        lambda store, _: store.create_pool(a_pool("third"), default_queue_id="q"),
        lambda _, inspector: inspector.pool(OTHER),
        lambda _, inspector: inspector.run("there", OTHER),
        lambda _, inspector: inspector.past_events(OTHER),
        lambda _, inspector: inspector.pool_names(),
        lambda _, inspector: next(inspector.subscribe([OTHER]).messages()),
    ],
)
def test_a_member_is_refused_for_other_pools_in_one_line_and_changes_nothing(users, step):
    store, inspector = users.open(MEMBER)
    before = users.keys()
    refused(lambda: step(store, inspector))
    assert users.keys() == before


def test_a_member_with_a_wrong_secret_is_refused(users):
    url = users.url(MEMBER).replace(SECRET, "wr0ng")
    connection = Connection.open(url, patience_s=60)
    with pytest.raises(RedisRefused, match="check user, password and ACL") as caught:
        Inspector(connection, PREFIX).pool(POOL)
    connection.close()
    assert "wr0ng" not in str(caught.value)


# --- A dispatcher and an observer


def test_a_dispatcher_dispatches_recovers_repairs_and_creates(users):
    store, inspector = users.open(DISPATCHER)
    messages = inspector.subscribe().messages()
    assert next(messages) is None
    store.create_pool(a_pool("third"), default_queue_id="q")
    assert next(messages)
    assert next(inspector.subscribe([POOL]).messages()) is None

    dispatcher = Dispatcher(store, inspector)
    dispatcher.resync()
    dispatcher.run_once()
    Recovery(store, inspector, pools=dispatcher.pools).run_once()
    store.register(POOL, Registration("w", "1", slots=1))
    users.client.zadd(store.keys(POOL)["holders"], {"gone.1": 0})
    reconciler = Reconciler(store, inspector, fix=True)
    found = [each for page in reconciler.walk(dispatcher.pools(), names=True) for each in page]
    measured = {each.name: each.queues[0].unclaimed for each in measure(inspector)}

    assert measured == {POOL: 1, OTHER: 1, "third": 0}
    assert dispatcher.pools() == [POOL, OTHER, "third"]
    assert inspector.run("there", POOL).place == "stream"
    assert {each.code for each in found} != {"refused"}
    assert not [f for f in look_at_server(inspector.connection).findings if f.code == "not-checked"]


def test_an_observer_lists_and_explains_and_changes_nothing(users):
    holder = users.store.register(POOL, Registration("w", "1", slots=1)).holder
    users.store.dispatch(POOL, ["default"])
    users.store.claim(POOL, holder, number=1, slots=1)
    before = users.keys()
    _, inspector = users.open(OBSERVER)

    assert [pool.name for pool in inspector.pools()] == [POOL, OTHER]
    assert [queue.claimed for queue in inspector.queues(POOL)] == [1]
    assert [each.id for each in inspector.holders(POOL)] == [holder]
    assert [run.id for run in inspector.runs(POOL)] == ["there"]
    assert inspector.run("there").holder == holder
    assert inspector.deployments(POOL) == []
    assert inspector.dead(POOL) == []
    assert inspector.past_events(POOL)
    assert inspector.events_of({POOL: "0"})
    for pool in (POOL, OTHER):
        assert explain(inspector, "there", pool=pool).reasons
    assert users.keys() == before


@pytest.mark.parametrize(
    "step",
    [
        lambda store: store.submit(POOL, a_submission("a")),
        lambda store: store.cancel(POOL, "there"),
        lambda store: store.pause(POOL),
        lambda store: store.look(POOL, "w.1"),
        lambda store: store.delete_pool(POOL),
        lambda store: store.warm_up(POOL),
        lambda store: store.connection.read(lambda c: c.publish("dispatcher:{etl}:changes", "x")),
        lambda store: store.connection.read(lambda c: c.delete("dispatcher:pools")),
    ],
)
def test_an_observer_is_refused_what_writes(users, step):
    store, _ = users.open(OBSERVER)
    before = users.keys()
    refused(lambda: step(store))
    assert users.keys() == before


# --- What the rules allow


@pytest.mark.parametrize("user", [MEMBER, DISPATCHER, OBSERVER])
@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG SET a b", "SCRIPT FLUSH", "EVAL x 0", "SHUTDOWN"],
)
def test_no_user_may_do_what_is_dangerous(users, user, command):
    told = users.client.execute_command("ACL", "DRYRUN", user, *command.split())
    assert b"no permissions to run" in told


def in_scripts() -> set[str]:
    """The commands that the scripts execute."""
    found = set()
    for path in (ROOT / "dispatcher" / "lua").glob("*.lua"):
        named = re.findall(r'(?:call\(|command = \{ )"([A-Z]+)"(?:, "([A-Z]+)")?', path.read_text())
        found |= {as_in_rules(name, part) for name, part in named}
    return found


def as_in_rules(name: str, part: str = "") -> str:
    name, part = name.lower(), part.lower()
    return f"{name}|{part}" if name in ("xinfo", "xgroup", "config", "cluster", "script") else name


def in_python(*modules: str) -> set[str]:
    """The commands that the modules send themselves: by methods of clients, or by name."""
    methods = {name for name in dir(redis.Redis) if not name.startswith("_")}
    methods |= {"subscribe", "psubscribe"}
    no_commands = {"execute_command", "pipeline", "close", "pubsub", "parse_response"}
    renamed = {"config_get": "config|get", "script_load": "script|load", "delete": "del"}
    found = set()
    for module in modules:
        text = (ROOT / "dispatcher" / f"{module}.py").read_text()
        called = set(re.findall(r"\b(?:c|client|pipeline|self\._pubsub)\.([a-z_]+)\(", text))
        called |= {reader for reader in ("sscan", "hscan", "zscan") if f'"{reader}"' in text}
        named = re.findall(r'"(EVALSHA|XINFO|CLUSTER)"(?:, "([A-Z]+)")?', text)
        found |= {as_in_rules(*pair) for pair in named}
        called |= {"zrevrange"} if "desc=" in text else set()
        if "transaction" in called:
            called = called - {"transaction"} | {"watch", "unwatch"}
            found |= {"multi", "exec"}
        for name in called & methods - no_commands:
            found.add(renamed.get(name, name.removesuffix("_range")))
    return found


def test_the_rule_of_a_dispatcher_allows_just_what_is_used():
    modules = [p.stem for p in (ROOT / "dispatcher").glob("*.py") if p.stem != "embedded"]
    modules += [f"http/{p.stem}" for p in (ROOT / "dispatcher" / "http").glob("*.py")]
    assert allowed(DISPATCHER) == in_scripts() | in_python(*modules) | {"select"}


def test_the_rule_of_a_member_allows_what_that_of_a_dispatcher_does_but_for_looking_around():
    around = {"subscribe", "psubscribe", "scan", "sscan", "hscan", "zscan", "config|get", "info"}
    assert allowed(MEMBER) == allowed(DISPATCHER) - around


def test_the_rule_of_an_observer_allows_just_what_reading_uses():
    elsewhere = {"subscribe", "psubscribe"}
    assert allowed(OBSERVER) - {"select", "cluster|slots"} == in_python(*READING) - elsewhere
