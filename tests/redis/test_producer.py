"""The producer: what it knows does not go stale, and a refusal keeps its place."""

from uuid import uuid4

import pytest

from dispatcher import InvalidRun, NotFound, Pool, Queue, Receipt, Word
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from tests.builders import Fleet

POOL = "etl"


@pytest.fixture
def producer(fleet: Fleet) -> Producer:
    store = fleet.store
    store.create_pool(Pool(POOL, str(uuid4()), "process"), default_queue_id=str(uuid4()))
    return Producer(store, Inspector(store.connection, store.prefix))


def a_run(**fields: object) -> dict[str, object]:
    job = {"job_variables": {"command": "true"}}
    return {"id": str(uuid4()), "flow_id": str(uuid4())} | job | fields


def test_a_queue_that_was_made_after_the_first_submit_is_found(fleet, producer):
    producer.submit(a_run(), pool=POOL)
    fleet.store.create_queue(Queue("later", POOL, str(uuid4()), 0))

    assert producer.submit(a_run(), pool=POOL, queue="later").queue == "later"


def test_a_queue_that_is_missing_is_made_only_when_asked_for(producer):
    with pytest.raises(NotFound, match="queue 'new' does not exist"):
        producer.submit(a_run(), pool=POOL, queue="new")

    assert producer.submit(a_run(), pool=POOL, queue="new", create=True).queue == "new"


def test_a_refused_run_keeps_its_place_among_the_answers(producer):
    runs = [a_run(), a_run(flow_id=7), a_run()]

    answers = list(producer.submit_many(runs, pool=POOL))

    assert [type(answer) for answer in answers] == [Receipt, InvalidRun, Receipt]
    assert [answer.run_id for answer in answers[::2]] == [runs[0]["id"], runs[2]["id"]]


def test_the_same_run_again_is_a_duplicate(producer):
    run = a_run()
    producer.submit(run, pool=POOL)

    assert producer.submit(run, pool=POOL).word is Word.DUPLICATE


def test_a_run_without_a_command_is_refused_by_a_process_pool_without_one(producer):
    with pytest.raises(InvalidRun, match=r"flow_run.job_variables.command: is missing"):
        producer.submit(a_run(job_variables={}), pool=POOL)
