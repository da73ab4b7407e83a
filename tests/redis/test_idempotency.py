"""Idempotency keys: unique per flow and pool, for a time that begins when their run has ended."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from dispatcher import Pool
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from dispatcher.records import Word
from dispatcher.stored import IDEMPOTENCY_TTL_MS
from tests.builders import T0, Fleet

FLOW = str(uuid4())


@pytest.fixture
def submit(fleet: Fleet) -> Callable[..., Any]:
    """A function that submits a run of FLOW under the key "k" and returns its receipt."""
    store = fleet.store
    for pool in ("etl", "other"):
        store.create_pool(Pool(pool, str(uuid4()), "process"), default_queue_id=str(uuid4()))
    producer = Producer(store, Inspector(store.connection, store.prefix))

    def submit_one(pool: str = "etl", **fields: Any) -> Any:
        run = {"id": str(uuid4()), "flow_id": FLOW, "idempotency_key": "k"} | fields
        return producer.submit(run | {"job_variables": {"command": "true"}}, pool=pool)

    return submit_one


# --- What a key is unique for


def test_a_flow_has_one_run_for_a_key(submit):
    first = submit()
    again = submit(parameters={"x": 1})
    assert (again.word, again.run_id) == (Word.DUPLICATE, first.run_id)


DIFFERENT = {
    "another flow": {"flow_id": str(uuid4())},
    "another pool": {"pool": "other"},
    "another key": {"idempotency_key": "l"},
    "an empty key": {"idempotency_key": ""},
    "no key": {"idempotency_key": None},
}


@pytest.mark.parametrize("fields", DIFFERENT.values(), ids=DIFFERENT)
def test_a_run_is_another_one_with(submit, fields):
    submit()
    assert submit(**fields).word is Word.ACCEPTED


def test_runs_without_a_key_are_all_accepted(submit):
    words = [submit(idempotency_key=None).word for _ in range(2)]
    assert words == [Word.ACCEPTED] * 2


# --- When a key ends


def key(fleet: Fleet) -> str:
    return fleet.keys["idempotency"] + "digest"


def scheduled(fleet: Fleet) -> None:
    fleet.submit("a", idempotency="digest", deployment="dep", retries=1)


def waiting(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    scheduled(fleet)
    fleet.dispatch()


def running(fleet: Fleet) -> Any:
    scheduled(fleet)
    fleet.dispatch()
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    return claim


def awaiting_its_retry(fleet: Fleet) -> None:
    fleet.finish(running(fleet), "FAILED")


def dead_letter(fleet: Fleet) -> None:
    fleet.set_queue(max_deliveries=1)
    running(fleet)
    fleet.lose("w.1")


def requeued(fleet: Fleet) -> None:
    dead_letter(fleet)
    fleet.requeue("a")


@pytest.mark.parametrize(
    "where", [scheduled, waiting, running, awaiting_its_retry, dead_letter, requeued]
)
def test_a_key_lives_as_long_as_its_run_has_not_ended(fleet, where):
    where(fleet)
    assert fleet.client.get(key(fleet)) == b"a"
    assert fleet.client.ttl(key(fleet)) == -1


def finished(fleet: Fleet) -> None:
    fleet.finish(running(fleet))


def cancelled(fleet: Fleet) -> None:
    scheduled(fleet)
    fleet.cancel("a")


def cancelled_by_release(fleet: Fleet) -> None:
    claim = running(fleet)
    fleet.cancel("a")
    fleet.release(claim)


def crashed_with_its_worker(fleet: Fleet) -> None:
    fleet.set_queue(on_worker_lost="crash")
    running(fleet)
    fleet.lose("w.1")


def dropped_by_dispatch(fleet: Fleet) -> None:
    fleet.set_queue(late_drop_ms=0)
    scheduled(fleet)
    fleet.advance(1)
    fleet.dispatch()


def dropped_by_a_claim(fleet: Fleet) -> None:
    fleet.set_queue(late_drop_ms=0)
    scheduled(fleet)
    fleet.dispatch()
    fleet.advance(1)
    assert fleet.claim(fleet.register()) == []


def purged(fleet: Fleet) -> None:
    dead_letter(fleet)
    fleet.purge("a")


def another_key(fleet: Fleet) -> None:
    scheduled(fleet)
    fleet.submit("a", request="other", idempotency="new", due_ms=T0 + 1)
    assert fleet.client.ttl(fleet.keys["idempotency"] + "new") == -1


ENDS = pytest.mark.parametrize(
    "end",
    [
        *(finished, cancelled, cancelled_by_release, crashed_with_its_worker),
        *(dropped_by_dispatch, dropped_by_a_claim, purged, another_key),
    ],
)


@ENDS
def test_the_time_of_a_key_begins_with(fleet, end):
    end(fleet)
    left_ms = fleet.client.pttl(key(fleet))
    assert IDEMPOTENCY_TTL_MS - 60_000 < left_ms <= IDEMPOTENCY_TTL_MS


@ENDS
def test_a_pool_says_how_long_keys_stay_after(fleet, end):
    fleet.set_pool(idempotency_ttl_ms=70_000)
    end(fleet)
    assert 10_000 < fleet.client.pttl(key(fleet)) <= 70_000


def test_a_new_round_keeps_its_key_until_it_has_ended(fleet):
    finished(fleet)
    fields = {"state_id": "new", "due_ms": T0 + 1}
    fleet.submit("a", request="other", idempotency="digest", **fields)
    assert fleet.client.ttl(key(fleet)) == -1


def test_a_key_may_be_used_again_when_its_time_is_over(fleet):
    finished(fleet)
    assert fleet.client.pexpire(key(fleet), 0)
    assert [r.word for r in fleet.submit("b", idempotency="digest")] == [Word.ACCEPTED]
