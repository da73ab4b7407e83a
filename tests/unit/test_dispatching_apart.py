"""A dispatcher on a cluster of two nodes: each has its clock, and one may be away."""

from collections.abc import Callable
from typing import Any

import pytest
from fakeredis import FakeRedis, FakeServer

from dispatcher.clock import Clock
from dispatcher.cluster import Address, Cluster
from dispatcher.connection import Connection
from dispatcher.dispatching import AWAY_S, Dispatcher
from dispatcher.errors import RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.keys import PoolKeys, pools_key
from dispatcher.records import Dispatched, Hint, Registration
from dispatcher.recovery import LOOK_AGAIN_S, Recovery
from dispatcher.store import Store
from tests.builders import T0, a_pool, a_submission

PREFIX = "t"
SWEEP_S = 5.0
NODES = (("a", 1), ("b", 2))


class World(Clock, Store):
    """Two nodes with half of the slots each; the monotonic clock and the nodes' are the test's."""

    def __init__(self) -> None:
        self.at_s = 1_000.0
        self.servers = {node: FakeServer(version=(7,)) for node in NODES}
        self.ahead_ms = dict.fromkeys(NODES, 0)
        self.silent: tuple[Address, Callable[[], None]] | None = None
        self.tells = True
        cluster = Cluster(NODES, self._open, self._ask)
        Store.__init__(self, Connection(cluster=cluster), PREFIX)
        self.inspector = Inspector(self.connection, PREFIX)
        self.pools = [self._pool_on(node) for node in NODES]
        for pool in self.pools:
            self.now_ms = T0
            self.create_pool(a_pool(pool), default_queue_id="q")

    def _open(self, node: Address, _: Callable[[], None]) -> Any:
        return FakeRedis(server=self.servers[node], protocol=2)

    def _ask(self, _: Address) -> Any:
        if not self.tells:
            raise OSError("away")
        return [[i * 8192, i * 8192 + 8191, [*node, b"id"]] for i, node in enumerate(NODES)]

    def _pool_on(self, node: Address) -> str:
        names = (f"pool-{n}" for n in range(1_000))
        return next(n for n in names if self.node_of(PoolKeys(PREFIX, n)["pool"]) == node)

    def node_of(self, key: str) -> Address:
        server = self.connection.at(key)
        server.read(lambda _: None)
        assert server._last
        return server._last.address

    def monotonic_s(self) -> float:
        return self.at_s

    def node_ms(self, pool: str) -> int:
        """The time of the node that has a pool."""
        ahead_ms = self.ahead_ms[NODES[self.pools.index(pool)]]
        return T0 + round((self.at_s - 1_000) * 1000) + ahead_ms

    def dispatch(self, pool: str, *args: Any, **bounds: Any) -> Dispatched:
        self.now_ms = self.node_ms(pool)
        if self.silent and self.silent[0] == NODES[self.pools.index(pool)]:
            self.silent[1]()
            self.at_s += 10.0
            raise RedisUnavailable("no answer")
        return super().dispatch(pool, *args, **bounds)

    def send(self, pool: str, run_id: str, in_ms: int = 0) -> None:
        """Submit a run that is due in so many ms by the clock of its node."""
        self.submit(pool, a_submission(run_id, due_ms=self.node_ms(pool) + in_ms))

    def place(self, pool: str, run_id: str) -> str:
        return str(self.inspector.run(run_id, pool).place)

    def dispatcher(self) -> Dispatcher:
        found = Dispatcher(self, self.inspector, sweep_s=SWEEP_S, clock=self)
        found.resync()
        return found

    def leave(self, node: Address, *, away: bool = True) -> None:
        self.servers[node].connected = not away


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("ahead_ms", [-7_000, 0, 40, 7_000])
def test_each_node_has_its_own_clock(world, ahead_ms):
    one, other = world.pools
    world.ahead_ms[NODES[1]] = ahead_ms
    dispatcher = world.dispatcher()
    for pool in (one, other):
        world.send(pool, "a", in_ms=1_000)
        dispatcher.hear(Hint(pool, "default", world.node_ms(pool) + 1_000))

    assert dispatcher.run_once() == pytest.approx(1.0)
    world.at_s += 0.999
    assert dispatcher.run_once() == pytest.approx(0.001)
    assert [world.place(pool, "a") for pool in (one, other)] == ["scheduled"] * 2
    world.at_s += 0.001
    dispatcher.run_once()
    assert [world.place(pool, "a") for pool in (one, other)] == ["stream"] * 2


def test_a_node_that_is_away_holds_up_only_its_own_pools_and_is_looked_at_when_it_is_back(world):
    here, gone = world.pools
    dispatcher = world.dispatcher()
    world.send(gone, "a", in_ms=100)
    dispatcher.hear(Hint(gone, "default", world.node_ms(gone) + 100))
    world.leave(NODES[1])
    world.at_s += 0.2
    assert dispatcher.run_once() == AWAY_S

    world.send(here, "b")
    dispatcher.hear(Hint(here, "default", 0))
    assert dispatcher.run_once() == AWAY_S
    assert world.place(here, "b") == "stream"
    world.at_s += AWAY_S / 2
    assert dispatcher.run_once() == AWAY_S / 2

    world.leave(NODES[1], away=False)
    world.send(gone, "not heard of")
    world.at_s += AWAY_S / 2
    dispatcher.run_once()
    assert [world.place(gone, run_id) for run_id in ("a", "not heard of")] == ["stream"] * 2


def test_a_resync_reaches_all_pools_but_those_of_a_node_that_is_away(world):
    here, gone = world.pools
    dispatcher = world.dispatcher()
    for pool in (here, gone):
        world.send(pool, "a")
    world.leave(NODES[1])

    dispatcher.resync()

    assert world.place(here, "a") == "stream"
    assert dispatcher.pools() == sorted(world.pools)


def test_no_more_than_half_of_the_time_goes_into_asking_a_node_that_does_not_answer(world):
    gone = world.pools[1]
    dispatcher = world.dispatcher()
    dispatcher.hear(Hint(gone, "default", 0))

    asked_s = []
    world.silent = NODES[1], lambda: asked_s.append(world.at_s)

    for _ in range(300):
        dispatcher.run_once()
        world.at_s += 0.1

    assert asked_s == pytest.approx([1_000, 1_020, 1_040], abs=0.3)


def test_the_pools_that_it_knows_are_served_while_the_list_of_pools_is_away(world):
    at = NODES.index(world.node_of(pools_key(PREFIX)))
    here = world.pools[1 - at]
    dispatcher = world.dispatcher()
    world.leave(NODES[at])
    world.send(here, "a")

    dispatcher.resync()
    world.at_s += 100
    dispatcher.run_once()

    assert world.place(here, "a") == "stream"


def test_an_outage_of_all_nodes_is_told(world):
    dispatcher = world.dispatcher()
    world.tells = False
    world.connection.reset()
    with pytest.raises(RedisUnavailable, match="away"):
        dispatcher.resync()


def test_recovery_goes_on_for_pools_of_other_nodes(world):
    here, gone = world.pools
    holder = world.register(here, Registration("w", "1", slots=1)).holder
    assert world.register(here, Registration("w", "2", slots=1)).displaced == holder
    recovery = Recovery(world, world.inspector, pools=lambda: [gone, here], clock=world)
    world.leave(NODES[1])

    assert recovery.run_once() < LOOK_AGAIN_S

    assert [each.id for each in world.inspector.holders(here)] == ["w.2"]
