"""The producer: what it knows does not go stale, and a refusal keeps its place."""

from uuid import uuid4

import pytest

from dispatcher import InvalidRun, NotFound, Pool, Queue, Receipt, Refused, Word
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from tests.builders import Fleet
from tests.templates import a_template

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


# --- Templates and commands that change


def test_a_template_is_held_against_the_next_run_although_the_pool_was_known(fleet, producer):
    producer.submit(a_run(), pool=POOL)
    locked = a_template({"command": "fixed {{ n }}"}, n={"type": "integer"})
    fleet.store.set_pool(POOL, {"base_job_template": locked})

    with pytest.raises(InvalidRun, match=r"command: cannot be given: .* nobody can override"):
        producer.submit(a_run(), pool=POOL)
    with pytest.raises(InvalidRun, match=r"^flow_run\.job_variables\.n: 'x' is not of type"):
        producer.submit(a_run(job_variables={"n": "x"}), pool=POOL)
    assert producer.submit(a_run(job_variables={"n": 1}), pool=POOL).word is Word.ACCEPTED


def test_no_run_is_refused_by_a_command_or_template_that_holds_no_more(fleet, producer):
    without = a_run(job_variables={})
    with pytest.raises(InvalidRun, match="is missing"):
        producer.submit(without, pool=POOL)
    fleet.store.set_pool(POOL, {"command": "true"})

    assert producer.submit(without, pool=POOL).word is Word.ACCEPTED


def test_a_refused_run_makes_no_queue(fleet, producer):
    before = fleet.store.keys(POOL)["queues"]
    with pytest.raises(InvalidRun):
        producer.submit(a_run(job_variables={}), pool=POOL, queue="new", create=True)
    assert fleet.client.zrange(before, 0, -1) == [b"default"]


def test_a_pool_that_was_deleted_meanwhile_is_not_found(fleet, producer):
    producer.submit(a_run(job_variables={"command": "true"}), pool=POOL)
    fleet.client.delete(fleet.store.keys(POOL)["pool"])
    with pytest.raises(NotFound, match="pool 'etl' does not exist"):
        producer.submit(a_run(job_variables={}), pool=POOL)


def test_a_pool_that_changes_within_a_batch_has_its_runs_checked_anew_in_their_order(
    fleet, producer
):
    producer.submit(a_run(), pool=POOL)
    schema = a_template({"command": "{{ command }}"}, command={"type": "string"})
    fleet.store.set_pool(POOL, {"base_job_template": schema})
    commands = ["true", ["true"], "true", ["true"], "true"]
    runs = [a_run(job_variables={"command": command}) for command in commands]

    answers = list(producer.submit_many(runs, pool=POOL))

    kinds = [Receipt if command == "true" else InvalidRun for command in commands]
    assert [type(answer) for answer in answers] == kinds
    accepted = [run["id"] for run, kind in zip(runs, kinds, strict=True) if kind is Receipt]
    scheduled = fleet.client.zrange(fleet.store.keys(POOL)["scheduled"] + "default", 0, -1)
    assert [member.decode()[16:] for member in scheduled][1:] == accepted


def test_a_pool_that_never_stops_changing_refuses_in_the_end(fleet, producer, monkeypatch):
    producer.submit(a_run(), pool=POOL)
    send, times = fleet.store.submit_many, []

    def change_and_send(pool, submissions):
        fleet.store.set_pool(POOL, {"command": f"true {len(times)}"})
        times.append(len(submissions))
        return send(pool, submissions)

    monkeypatch.setattr(fleet.store, "submit_many", change_and_send)
    with pytest.raises(Refused, match="keeps changing its command or template; submit again"):
        producer.submit(a_run(), pool=POOL)
    assert times == [1] * 6


@pytest.mark.parametrize("kind", ["prefect", "handler"])
def test_a_run_for_a_pool_of_another_type_needs_no_command(fleet, producer, kind):
    pool = Pool("other", str(uuid4()), kind, base_job_template=a_template({}, n={"type": "null"}))
    fleet.store.create_pool(pool, default_queue_id=str(uuid4()))

    assert producer.submit(a_run(job_variables={}), pool="other").word is Word.ACCEPTED
    with pytest.raises(InvalidRun, match="n: 5 is not of type 'null'"):
        producer.submit(a_run(job_variables={"n": 5}), pool="other")
