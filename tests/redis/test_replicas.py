"""A master that may only write while it has a replica: a step waits, and does nothing by halves."""

from collections.abc import Callable
from threading import Thread

import pytest

from dispatcher.connection import Connection
from dispatcher.errors import RedisUnavailable
from dispatcher.store import Store
from tests.builders import POOL, Fleet
from tests.probes import wait_until

STEPS: dict[str, Callable[[Fleet], object]] = {
    "submit": lambda fleet: fleet.submit("c"),
    "dispatch": lambda fleet: fleet.dispatch(),
    "claim": lambda fleet: fleet.answer("w.1"),
    "renew": lambda fleet: fleet.renew("w.1", held=1),
    "register": lambda fleet: fleet.register("another"),
    "recover": lambda fleet: fleet.lose("w.1"),
    "cancel": lambda fleet: fleet.cancel("a"),
    "pause": lambda fleet: fleet.pause(),
}


@pytest.fixture
def fleet(own_fleet: Fleet) -> Fleet:
    """A pool on a server of the test's own: "a" claimed, "b" scheduled."""
    own_fleet.put("a")
    own_fleet.claim_one(own_fleet.register())
    own_fleet.submit("b")
    return own_fleet


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_lacks_replicas_is_an_outage_changes_nothing_and_works_later(fleet, step):
    before = fleet.dump()
    fleet.client.config_set("min-replicas-to-write", 1)
    with pytest.raises(RedisUnavailable, match=r"(?i)not enough good replicas") as caught:
        STEPS[step](fleet)
    assert type(caught.value) is RedisUnavailable
    assert fleet.dump() == before

    fleet.client.config_set("min-replicas-to-write", 0)
    STEPS[step](fleet)


@pytest.mark.parametrize("patience_s", [0.0, 30.0])
def test_a_worker_that_waits_hears_of_it_when_its_master_becomes_a_replica(
    fleet, server, patience_s
):
    connection = Connection.open(server.url, patience_s=patience_s)
    store = Store(connection, "t")
    ended: list[object] = []

    def wait() -> None:
        try:
            ended.append(store.wait(POOL, "w.1", ["quiet"], timeout_s=8))
        except RedisUnavailable as error:
            ended.append(type(error))

    waiting = Thread(target=wait)
    waiting.start()
    wait_until(lambda: fleet.client.info("clients")["blocked_clients"], "it waits")
    fleet.client.replicaof("127.0.0.1", "1")
    if patience_s:  # it waits anew where the master is
        fleet.client.replicaof("NO", "ONE")
        fleet.client.lpush(fleet.keys["wake"] + "quiet", 1)
    waiting.join(10)
    connection.close()

    assert ended == (["quiet"] if patience_s else [RedisUnavailable])
