"""The atomic step `create_pool`: a pool and its `default` queue, made once."""

import pytest

from dispatcher.errors import AlreadyExists, InvalidName
from dispatcher.inspector import Inspector
from dispatcher.keys import pools_key
from tests.builders import ODD_NAMES, T0, Fleet, Listener, a_pool, a_store, dump_pool


def test_a_new_pool_has_its_settings_and_a_default_queue(client, prefix):
    store = a_store(client, prefix)
    pool = a_pool(command="run me", lease_ms=9_000, renew_ms=3_000, retention_ms=60_000)

    assert store.create_pool(pool, default_queue_id="queue-id") is True

    assert dump_pool(client, store.keys("pool")) == {
        "pool": {
            "version": "1",
            "id": "id-of-pool",
            "type": "process",
            "command": "run me",
            "lease_ms": "9000",
            "renew_ms": "3000",
            "retention_ms": "60000",
            "keep_payload": "0",
            "created_ms": str(T0),
            "submissions": "0",
            "queues_version": "1",
            "job_version": str(T0),
        },
        "queues": {"default": 1},
        "queue:default": {"id": "queue-id", "created_ms": str(T0)},
        "events": [{"event": "pool-created", "at_ms": str(T0), "id": "id-of-pool"}],
        "expiring": [],
    }
    assert client.smembers(pools_key(prefix)) == {b"pool"}


def test_dispatchers_hear_of_a_new_pool_once(client, prefix):
    store = a_store(client, prefix)
    with Listener(client, store.keys("pool")["changes"]) as listener:
        store.create_pool(a_pool(), default_queue_id="q")
        store.create_pool(a_pool(), default_queue_id="q")
        assert listener.heard() == [f"default {T0}"]


def test_the_same_pool_again_changes_nothing(fleet):
    fleet.put("a")
    before = fleet.dump()

    assert fleet.store.create_pool(a_pool(command="other"), default_queue_id="other") is False

    assert fleet.dump() == before


def test_another_pool_of_that_name_is_refused_and_changes_nothing(fleet):
    before = fleet.dump()
    with pytest.raises(AlreadyExists, match="pool 'pool' exists already"):
        fleet.store.create_pool(a_pool(id="another"), default_queue_id="other")
    assert fleet.dump() == before


def test_a_name_against_the_rule_creates_nothing(client, prefix):
    with pytest.raises(InvalidName):
        a_store(client, prefix).create_pool(a_pool("a/b"), default_queue_id="q")
    assert list(client.scan_iter(f"{prefix}:*")) == []


def test_pools_do_not_see_each_other(client, prefix):
    one, other = Fleet(client, prefix, "one"), Fleet(client, prefix, "other")
    before = other.dump()

    one.put("a")
    one.finish(one.claim_one(one.register()))

    assert other.dump() == before


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_pool_may_have_an_odd_name(client, prefix, name):
    fleet = Fleet(client, prefix, name)
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())

    assert (claim.pool, claim.payload) == (name, b"payload of a")
    assert Inspector(fleet.store.connection, prefix).pool_names() == [name]
