"""What recovery takes for evidence that a worker is dead, told by a clock that stands still."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import fakeredis
import pytest
import redis

from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.errors import RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.recovery import LOOK_AGAIN_S, MAX_WAIT_S, SECOND_LOOK_S, SLOW_ANSWER_S, Recovery
from dispatcher.stored import Leases
from tests.builders import POOL, T0, Fleet

LEASE_S = 15.0


class World(Clock, Inspector):
    """Our monotonic clock and the server's, moved by the test, and a server that can be away."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.at_s = 1_000.0
        self.server_ms = T0
        self.is_away = False
        self.answers_in_s = 0.0
        self.fleet = Fleet(client, prefix)
        self.store = self.fleet.store
        Inspector.__init__(self, Connection(client), prefix)

    def monotonic_s(self) -> float:
        return self.at_s

    def leases(self, pool: str, *, limit: int = 100) -> Leases:
        asked_ms = self.server_ms
        self.advance(self.answers_in_s)
        if self.is_away:
            raise RedisUnavailable("away")
        return replace(super().leases(pool, limit=limit), now_ms=asked_ms)

    def advance(self, span_s: float) -> None:
        self.at_s += span_s
        self.step(span_s)

    def step(self, span_s: float) -> None:
        """Move the server's clock alone."""
        self.server_ms += round(span_s * 1000)
        self.store.now_ms = self.server_ms

    def holders(self, pool: str = POOL) -> list[str]:  # type: ignore[override]
        return sorted(
            h.decode() for h in self.fleet.client.zrange(self._keys(pool)["holders"], 0, -1)
        )


@pytest.fixture
def world(prefix: str) -> Iterator[World]:
    with fakeredis.FakeRedis(version=(7,), protocol=2) as client:
        yield World(client, prefix)


@pytest.fixture
def recovery(world: World) -> Recovery:
    return Recovery(world.store, world, pools=lambda: [POOL], clock=world)


def calm(world: World, recovery: Recovery, holders: list[str]) -> None:
    """Let recovery gain trust while these workers renew."""
    recovery.run_once()
    for _ in range(4):
        world.advance(LEASE_S / 3)
        for holder in holders:
            world.fleet.renew(holder, 0)
        recovery.run_once()


def look(world: World, recovery: Recovery, span_s: float) -> None:
    """Let time pass as the service does: look again whenever recovery asked for it."""
    until_s = world.at_s + span_s
    while (wait_s := recovery.run_once()) <= until_s - world.at_s:
        world.advance(max(wait_s, 0.001))
    world.advance(until_s - world.at_s)


def test_it_trusts_nothing_for_one_lease_after_it_connected(world, recovery):
    world.fleet.register("w")
    world.advance(LEASE_S + 5)  # the lease has ended before we came

    look(world, recovery, LEASE_S)
    assert world.holders() == ["w.1"]

    look(world, recovery, SECOND_LOOK_S + 0.1)
    assert world.holders() == []


def test_an_ended_lease_counts_at_the_second_look(world, recovery):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])

    world.advance(LEASE_S)
    assert recovery.run_once() == pytest.approx(SECOND_LOOK_S)
    assert world.holders() == [holder]

    world.advance(SECOND_LOOK_S)
    assert recovery.run_once() == 0.0
    assert world.holders() == []
    assert recovery.run_once() == LEASE_S


def test_a_worker_that_renews_between_the_looks_lives(world, recovery):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])

    world.advance(LEASE_S)
    recovery.run_once()
    world.advance(SECOND_LOOK_S / 2)
    world.fleet.renew(holder, 0)

    world.advance(SECOND_LOOK_S)
    assert recovery.run_once() == pytest.approx(LEASE_S - SECOND_LOOK_S + 0.01)
    assert world.holders() == [holder]


def test_a_look_for_another_reason_is_not_the_second_one(world, recovery):
    first, other = world.fleet.register("w"), world.fleet.register("v")
    calm(world, recovery, [first, other])
    world.advance(0.1)
    world.fleet.renew(other, 0)

    world.advance(LEASE_S - 0.1)
    assert recovery.run_once() == pytest.approx(0.11)  # when the other's lease ends
    world.advance(0.11)

    assert recovery.run_once() == pytest.approx(SECOND_LOOK_S - 0.11)
    assert world.holders() == [other, first]


def test_it_trusts_nothing_for_one_lease_after_the_server_was_away(world, recovery):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])
    world.is_away = True
    with pytest.raises(RedisUnavailable):
        recovery.run_once()
    world.advance(2 * LEASE_S)
    world.is_away = False

    look(world, recovery, LEASE_S)
    assert world.holders() == [holder]

    look(world, recovery, SECOND_LOOK_S + 0.1)
    assert world.holders() == []


def test_it_trusts_nothing_for_one_lease_after_its_socket_was_opened_anew(world, recovery):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])
    world.advance(LEASE_S)
    world.connection.connects += 1  # the server was away while nothing was asked

    look(world, recovery, LEASE_S)
    assert world.holders() == [holder]

    look(world, recovery, SECOND_LOOK_S + 0.1)
    assert world.holders() == []


@pytest.mark.parametrize("span_s", [3 * LEASE_S, 1.0, -1.0, -3 * LEASE_S])
def test_it_trusts_nothing_for_one_lease_after_the_servers_clock_stepped(world, recovery, span_s):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])

    world.step(span_s)
    recovery.run_once()
    world.step(3 * LEASE_S - span_s)  # every lease looks ended
    look(world, recovery, LEASE_S)

    assert world.holders() == [holder]


def test_it_trusts_nothing_for_one_lease_after_a_slow_answer(world, recovery):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])
    world.advance(LEASE_S)

    world.answers_in_s = SLOW_ANSWER_S + 0.1
    recovery.run_once()
    world.answers_in_s = 0.0
    look(world, recovery, LEASE_S - SLOW_ANSWER_S)

    assert world.holders() == [holder]


def test_a_server_that_takes_no_writes_took_no_renewals(world, recovery, monkeypatch):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])
    world.advance(LEASE_S)

    def refuse(key: str) -> None:
        raise redis.ReadOnlyError("You can't write against a read only replica.")

    with monkeypatch.context() as patched:
        patched.setattr(world.fleet.client, "persist", refuse)
        with pytest.raises(RedisUnavailable, match="cannot serve now"):
            recovery.run_once()

    look(world, recovery, LEASE_S)
    assert world.holders() == [holder]


def test_a_displaced_worker_is_recovered_at_once(world, recovery):
    world.fleet.register("w", "1")
    newer = world.fleet.register("w", "2")

    recovery.run_once()

    assert world.holders() == [newer]


def test_what_a_dead_worker_had_is_there_again(world, recovery):
    holder = world.fleet.register("w")
    calm(world, recovery, [holder])
    world.fleet.put("a", "b")
    world.fleet.claim(holder)

    look(world, recovery, LEASE_S + SECOND_LOOK_S + 0.1)

    assert [world.fleet.run(run)["place"] for run in "ab"] == ["scheduled", "scheduled"]


def test_many_that_died_together_are_recovered_together(world, recovery):
    for i in range(250):
        world.fleet.register(f"w{i}")
    recovery.run_once()
    look(world, recovery, LEASE_S)

    look(world, recovery, 3 * SECOND_LOOK_S + 0.1)

    assert world.holders() == []


def test_it_looks_when_the_first_lease_ends_and_at_least_once_per_lease(world, recovery):
    assert recovery.run_once() == LEASE_S

    world.fleet.register("w")
    world.advance(4.0)
    world.fleet.register("v")

    assert recovery.run_once() == pytest.approx(LEASE_S - 4.0 + 0.01)


def test_over_a_time_without_trust_it_keeps_its_connection_in_use(world, recovery):
    world.fleet.register("w")
    world.advance(LEASE_S + 1)
    assert recovery.run_once() == LOOK_AGAIN_S


def test_without_pools_it_waits_to_be_told_and_at_a_missing_one_it_looks_now_and_then(world):
    pools: list[str] = []
    recovery = Recovery(world.store, world, pools=lambda: pools, clock=world)
    assert recovery.run_once() == MAX_WAIT_S

    pools.append("not there")
    assert recovery.run_once() == LOOK_AGAIN_S
