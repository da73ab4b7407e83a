"""Runs in RQ: from the hand-over to the end, as RQ and as we see them."""

import json
from collections.abc import Iterator

import pytest

from tests.probes import wait_until
from tests.scenarios.rq_scene import HOLDER, POOL, RQ_QUEUE, RqScene, rq_scene

TASKS = """
import os
from consumers import Retry


def greet(run):
    return {"name": run.name, "raw": len(run.raw), "secrets": [n for n in os.environ if "URL" in n]}


def later(run):
    if run.run_count == 1:
        raise Retry(0.1, "not yet")


def fail(run):
    raise ValueError("no luck")


def wait(run):
    run.cancelled.wait(60)


def never(run):
    import time

    while True:
        time.monotonic()
"""


@pytest.fixture
def scene(tmp_path) -> Iterator[RqScene]:
    """A pool of runs for RQ, with a dispatcher; RQ workers find a module `tasks`."""
    with rq_scene(tmp_path) as scene:
        scene.working_dir = tmp_path
        (tmp_path / "tasks.py").write_text(TASKS)
        yield scene


def call(scene: RqScene, function: str, **fields: object) -> str:
    return scene.submit(None, job_variables={"handler": f"tasks.{function}"}, **fields)


def test_a_run_is_run_in_rq_and_its_output_is_kept(scene):
    scene.consumer()
    scene.rq_worker()
    run_id = scene.submit(["/bin/sh", "-c", 'echo "$DISPATCHER_RUN_ID"; env | grep _URL'])

    run = scene.wait_end(run_id)
    assert run.state_type == "FAILED"  # grep found nothing: no URL is in the child's environment
    assert scene.inspector.output(run) == f"{run_id}\n".encode()
    assert [(d.holder, d.outcome) for d in run.deliveries] == [(HOLDER, "FAILED")]


def test_what_rq_has_of_a_run_holds_no_secret_and_no_payload(scene):
    scene.consumer()
    run_id = scene.submit("echo s3cret")
    scene.wait_handed(run_id)

    run, job = scene.run(run_id), scene.job(run_id)
    assert (job.func_name, job.args) == ("consumers.runners.rq.execute", [])
    assert job.kwargs == {
        "pool": POOL,
        "run_id": run_id,
        "token": run.token,
        "rq_queue": RQ_QUEUE,
        "prefix": "fleet",
    }
    assert job.retries_left is None
    assert "s3cret" not in json.dumps(job.to_dict(), default=str)


def test_rq_info_shows_what_waits_and_who_works(scene):
    scene.consumer()
    run_id = scene.hold()
    scene.wait_handed(run_id)
    assert "flows 1, 0 executing, 0 finished, 0 failed" in scene.rq("info", "--raw")

    scene.rq_worker()
    scene.child(run_id)
    shown = scene.rq("info", "--raw")
    assert "flows 0, 1 executing, 0 finished, 0 failed" in shown
    assert " busy flows. jobs: 0 finished, 0 failed" in shown

    scene.let_go()
    scene.wait_end(run_id)
    wait_until(lambda: "1 finished" in scene.rq("info", "--raw"), "RQ has seen the end")


def test_a_run_that_fails_is_a_failed_job_for_rq_too(scene):
    scene.consumer()
    scene.rq_worker()
    run_id = scene.submit("false")
    scene.wait_handed(run_id)
    token = scene.run(run_id).token

    assert scene.wait_end(run_id).message == "exit code 1"
    job = scene.job_of(run_id, token)
    wait_until(lambda: job.get_status() == "failed", "RQ has seen the failure")
    assert job.latest_result().exc_string.strip().endswith("Unsuccessful: FAILED: exit code 1")
    assert scene.events("refused") == []


def test_a_function_named_by_the_job_configuration_is_called_with_the_run(scene):
    scene.consumer()
    scene.rq_worker()
    run = scene.wait_end(call(scene, "greet"))

    assert run.state_type == "COMPLETED"
    told = json.loads(scene.inspector.output(run))
    assert told["name"] == "run"
    assert told["raw"] > 0


@pytest.mark.parametrize(
    ("function", "state", "message"),
    [
        ("fail", "FAILED", "ValueError: no luck"),
        ("missing", "CRASHED", "tasks has no function 'missing'"),
    ],
)
def test_a_function_that_fails_or_is_not_there_ends_its_run(scene, function, state, message):
    scene.consumer()
    scene.rq_worker()
    run = scene.wait_end(call(scene, function))
    assert run.state_type == state
    assert message in run.message


def test_a_function_may_ask_to_be_run_again(scene):
    scene.consumer()
    scene.rq_worker()
    run = scene.wait_end(call(scene, "later"))
    assert (run.state_type, run.run_count, run.delivery) == ("COMPLETED", 2, 2)


@pytest.mark.parametrize(("kind", "deliveries"), [("in_process", 1), ("reschedule", 2)])
def test_a_run_that_fails_is_retried_as_its_policy_says(scene, kind, deliveries):
    scene.consumer()
    scene.rq_worker()
    script = 'test -e "$0/again" || { touch "$0/again"; exit 1; }'
    run_id = scene.submit(
        ["/bin/sh", "-c", script, str(scene.directory)],
        empirical_policy={"retries": 1, "retry_delay": 0, "retry_type": kind},
    )

    run = scene.wait_end(run_id)
    assert (run.state_type, run.run_count, run.delivery) == ("COMPLETED", 2, deliveries)


def test_a_job_that_rq_runs_once_more_does_nothing(scene):
    scene.consumer()
    scene.rq_worker(name="one")
    run_id = scene.hold()
    scene.child(run_id)
    again = scene.job(run_id)
    scene.queue().push_job_id(again.id)
    scene.rq_worker(name="two")
    wait_until(lambda: again.get_status() == "finished", "the second job is over")
    assert again.return_value(refresh=True) == "nothing: the run has moved on"

    assert scene.run(run_id).state_type == "RUNNING"
    scene.let_go()
    run = scene.wait_end(run_id)
    assert (run.state_type, run.run_count, run.delivery) == ("COMPLETED", 1, 1)


def test_no_more_runs_are_in_rq_than_the_limit_says(scene):
    scene.consumer("c", "--limit", "2")
    runs = [scene.hold() for _ in range(4)]
    for run_id in runs[:2]:
        scene.wait_handed(run_id)
    scene.let_pass(1.0)
    assert [scene.run(run_id).place for run_id in runs] == ["claimed"] * 2 + ["stream"] * 2

    scene.let_go()
    scene.rq_worker()
    assert [scene.wait_end(run_id).state_type for run_id in runs] == ["COMPLETED"] * 4


def test_a_free_place_is_used_at_once_without_waiting_for_a_renewal(tmp_path):
    with rq_scene(tmp_path, lease_ms=120_000, renew_ms=40_000) as scene:
        scene.consumer("c", "--limit", "1")
        scene.rq_worker()
        runs = [scene.submit("true") for _ in range(4)]
        assert [scene.wait_end(run_id).state_type for run_id in runs] == ["COMPLETED"] * 4


def test_an_idle_consumer_sends_next_to_nothing(tmp_path):
    with rq_scene(tmp_path, lease_ms=15_000, renew_ms=5_000) as scene:
        scene.consumer()
        scene._processes[0].kill()
        scene.let_pass(11.0)  # until it has read what it reads once
        seen = scene.commands_meanwhile(20.0)
    assert sum(seen.values()) <= 10, seen


def test_explain_says_where_in_rq_a_run_is(scene):
    scene.consumer()
    run_id = scene.hold()
    scene.wait_handed(run_id)
    shown = scene.command("dispatcher", "explain", run_id).stdout
    assert "handed over to RQ queue flows" in shown
    assert "waits there for an RQ worker" in shown

    scene.rq_worker(name="w7")
    scene.child(run_id)
    shown = scene.command("dispatcher", "explain", run_id).stdout
    assert "running on RQ worker w7 (RQ queue flows)" in shown
    assert ": 0 that --fix repairs," in scene.command("dispatcher", "doctor").stdout


def test_worker_ls_shows_the_runs_in_rq_and_their_consumer(scene):
    scene.consumer()
    scene.wait_handed(scene.hold())
    lines = scene.command("dispatcher", "worker", "ls", "--json").stdout.splitlines()
    shown = {row["name"]: row for row in map(json.loads, lines)}
    assert {name: row["type"] for name, row in shown.items()} == {"c": "rq", HOLDER: "rq"}


def test_a_consumer_that_drains_waits_for_what_is_in_rq(scene):
    consumer = scene.consumer()
    scene.rq_worker()
    run_id = scene.hold()
    scene.child(run_id)
    scene.drain(consumer)
    later = scene.hold()
    scene.let_pass(1.0)
    assert scene.run(later).place == "stream"

    scene.let_go()
    scene.wait_end(run_id)
    assert consumer.exit_code() == 0
    assert [holder.id for holder in scene.inspector.holders(POOL)] == []
    assert scene.events("worker-lost") == []


def test_a_consumer_whose_grace_is_over_leaves_its_runs_in_rq_to_the_next_one(scene):
    consumer = scene.consumer("c", "--grace", "0")
    run_id = scene.hold()
    scene.wait_handed(run_id)
    scene.drain(consumer)
    assert consumer.exit_code() == 0

    scene.consumer("d")
    scene.rq_worker()
    scene.let_go()
    run = scene.wait_end(run_id)
    assert (run.state_type, run.delivery) == ("COMPLETED", 1)
