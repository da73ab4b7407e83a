"""Held claims whose listener, whose server, or whose client is away at the wrong moment."""

from collections.abc import Callable, Iterator
from threading import Event
from typing import Any, TypeVar

import pytest

from dispatcher.errors import RedisUnavailable
from dispatcher.http.holding import Holding
from dispatcher.records import ClaimAnswer, Registered, Word
from dispatcher.store import Store
from tests.builders import POOL
from tests.held import ALL, Caller, Edge
from tests.probes import wait_until
from tests.servers import AOF, RealServer

T = TypeVar("T")


@pytest.fixture
def edge(real_server: RealServer, prefix: str) -> Iterator[Edge]:
    it = Edge(real_server, prefix)
    yield it
    it.close()


def test_a_listener_that_was_recovered_begins_anew_and_looks(edge):
    caller = Caller(edge, edge.holding(), ALL)
    edge.wait_listening()
    (listener,) = edge.listeners()
    keys = edge.store.keys(POOL)
    edge.store.connection.read(lambda c: c.zadd(keys["holders"], {listener: 1}))
    edge.store.recover_all(POOL, listener)
    edge.put("a")
    assert caller.wait() == ["a"]


def test_held_claims_outlive_a_server_that_was_away(own_server):
    server = own_server(config=AOF)
    edge = Edge(server, "t")
    try:
        holding = edge.holding()
        caller = Caller(edge, holding, ALL)
        edge.wait_listening()
        server.kill()
        server.start()
        edge.put("a")
        assert caller.wait() == ["a"]
    finally:
        edge.close()


class Lossy(Store):
    """A store that loses the answers to some steps, which were done; `before` comes first."""

    lost: tuple[str, ...] = ()
    before: Callable[[], None] | None = None

    def claim(self, *args: Any, **options: Any) -> ClaimAnswer:
        before, self.before = self.before, None
        if before:
            before()
        return self._lose("claim", super().claim(*args, **options))

    def register(self, *args: Any, **options: Any) -> Registered:
        return self._lose("register", super().register(*args, **options))

    def drain(self, *args: Any, **options: Any) -> Word:
        return self._lose("drain", super().drain(*args, **options))

    def wait(self, *args: Any, **options: Any) -> str | None:
        return self._lose("wait", super().wait(*args, **options))

    def _lose(self, step: str, answer: T) -> T:
        if step in self.lost and answer is not None:
            self.lost = tuple(each for each in self.lost if each != step)
            raise RedisUnavailable("the answer was lost")
        return answer


@pytest.fixture
def lossy(edge: Edge) -> Lossy:
    """The store of the held claims of the test; they renew rarely."""
    edge.renew_rarely()
    return Lossy(edge.open_store(read_timeout_s=30).connection, edge.store.prefix)


@pytest.fixture
def holding(edge: Edge, lossy: Lossy) -> Iterator[Holding]:
    it = Holding(lossy, edge.inspector, lambda **_: lossy, host="edge")
    yield it
    it.close(timeout_s=5)


@pytest.mark.parametrize(
    "lost", [("claim",), ("register",), ("drain",), ("wait",), ("wait", "register", "claim")]
)
def test_an_answer_that_is_lost_on_the_way_costs_a_held_claim_nothing(edge, lossy, holding, lost):
    caller = Caller(edge, holding, ALL)
    edge.wait_listening()
    lossy.lost = lost
    edge.put("a", "b")
    assert caller.wait() == ["a"]
    assert Caller(edge, holding, ALL).wait() == ["b"]
    runs = [edge.inspector.run(run_id, POOL) for run_id in "ab"]
    assert [run.delivery for run in runs] == [1, 1]


def test_a_run_claimed_for_a_client_that_goes_at_this_moment_is_given_back(edge, lossy, holding):
    caller = Caller(edge, holding, ALL)
    edge.wait_listening()
    answers: list[bool] = []
    lossy.before = lambda: answers.append(holding.stop_waiting(caller.waiter, gone=True))
    edge.put("a")
    wait_until(lambda: edge.inspector.run("a", POOL).delivery == 1, "it is claimed")
    wait_until(lambda: edge.place("a") == "scheduled", "it is given back")
    assert (answers, caller.given) == ([False], [])
    assert edge.inspector.run("a", POOL).unstarted == 0


@pytest.mark.parametrize("comes", [["a"], []])
def test_a_claim_whose_time_is_over_at_this_moment_is_answered_all_the_same(
    edge, lossy, holding, comes
):
    caller = Caller(edge, holding, ALL)
    edge.wait_listening()
    answers: list[bool] = []

    def time_is_over() -> None:
        answers.append(holding.stop_waiting(caller.waiter))
        if not comes:
            edge.store.cancel(POOL, "a")

    lossy.before = time_is_over
    edge.put("a")
    assert caller.wait() == comes
    assert answers == [True]
    assert holding.held() == {}


def test_who_waits_is_before_one_who_comes_while_a_run_is_there(edge, lossy, holding):
    first = Caller(edge, holding, ALL)
    edge.wait_listening()
    begun, goes_on = Event(), Event()
    lossy.before = lambda: begun.set() or goes_on.wait(10) or None
    edge.put("a")
    assert begun.wait(10)
    second = Caller(edge, holding, ALL)
    goes_on.set()
    assert first.wait() == ["a"]
    assert second.given == []
