"""Runs in RQ that are stopped, by us or by RQ, and hand-overs that are refused."""

import os
import signal
from collections.abc import Iterator

import pytest
from rq import Queue
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from dispatcher.records import Word
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, wait_gone
from tests.scenarios.rq_scene import RQ_QUEUE, RqScene, rq_scene
from tests.scenarios.test_rq_runs import TASKS


@pytest.fixture
def scene(tmp_path) -> Iterator[RqScene]:
    """A pool of runs for RQ, with a dispatcher; RQ workers find a module `tasks`."""
    with rq_scene(tmp_path) as scene:
        scene.working_dir = tmp_path
        (tmp_path / "tasks.py").write_text(TASKS)
        yield scene


def cancel(scene: RqScene, run_id: str) -> None:
    told = scene.store.cancel(POOL, run_id, reason="no longer needed", by="me")
    assert told.word is Word.CANCELLING


# --- Cancelled by us


def test_a_run_that_waits_in_rq_is_taken_out_when_it_is_cancelled(tmp_path):
    with rq_scene(tmp_path, lease_ms=120_000, renew_ms=40_000) as scene:
        scene.consumer()
        run_id = scene.hold()
        scene.wait_handed(run_id)
        cancel(scene, run_id)

        run = scene.wait_end(run_id)
        assert (run.state_type, run.message) == ("CANCELLED", "no longer needed")
        assert run.run_count == 0
        assert scene.queue().job_ids == []


def test_a_run_that_is_running_in_rq_hears_at_once_that_it_is_cancelled(tmp_path):
    with rq_scene(tmp_path, lease_ms=120_000, renew_ms=40_000) as scene:
        scene.consumer()
        scene.rq_worker()
        run_id = scene.hold()
        scene.child(run_id)
        cancel(scene, run_id)
        assert scene.wait_end(run_id).state_type == "CANCELLED"


def test_a_run_that_is_running_in_rq_is_stopped_when_it_is_cancelled(scene):
    scene.consumer()
    scene.rq_worker()
    run_id = scene.hold()
    child = scene.child(run_id)
    token = scene.run(run_id).token
    cancel(scene, run_id)

    assert scene.wait_end(run_id).state_type == "CANCELLED"
    wait_gone(child, "the child of a cancelled run")
    job = scene.job_of(run_id, token)
    wait_until(lambda: job.get_status() == "finished", "its RQ job is over")
    assert job.return_value(refresh=True) == "CANCELLED"


def test_a_cancelled_run_has_the_grace_of_its_queue(scene):
    scene.set_queue(cancel_grace_ms=200)
    scene.consumer()
    scene.rq_worker()
    run_id = scene.hold(stubborn=True)
    child = scene.child(run_id)
    cancel(scene, run_id)

    assert scene.wait_end(run_id).state_type == "CANCELLED"
    wait_gone(child, "the child of a cancelled run")


def test_a_function_that_heeds_a_cancel_ends_at_once(scene):
    scene.consumer()
    scene.rq_worker()
    run_id = scene.submit(None, job_variables={"handler": "tasks.wait"})
    scene.wait_run(run_id, lambda run: run.state_type == "RUNNING", "runs")
    cancel(scene, run_id)
    assert scene.wait_end(run_id).state_type == "CANCELLED"


def test_a_function_that_does_not_heed_a_cancel_is_killed_by_rq(scene):
    scene.set_queue(cancel_grace_ms=0)
    scene.consumer()
    scene.rq_worker()
    run_id = scene.submit(None, job_variables={"handler": "tasks.never"})
    run = scene.wait_run(run_id, lambda run: run.state_type == "RUNNING", "runs")
    job = scene.job_of(run_id, run.token)
    cancel(scene, run_id)

    assert scene.wait_end(run_id).state_type == "CANCELLED"
    wait_until(lambda: job.get_status() == "stopped", "RQ has killed it")


@pytest.mark.parametrize("function", ["wait", "never"])
def test_a_function_has_the_time_limit_of_its_run(scene, function):
    scene.consumer()
    scene.rq_worker()
    variables = {"handler": f"tasks.{function}", "timeout_s": 0.5}
    run = scene.wait_end(scene.submit(None, job_variables=variables))
    assert (run.state_type, run.state_name) == ("FAILED", "TimedOut")


def test_a_child_has_the_time_limit_of_its_run(scene):
    scene.consumer()
    scene.rq_worker()
    run_id = scene.hold(job_variables={"timeout_s": 0.5})
    run = scene.wait_end(run_id)
    assert (run.state_type, run.message) == ("FAILED", "timed out after 0.5 s")


def test_a_run_that_is_taken_away_is_stopped_where_it_runs(scene):
    scene.consumer()
    scene.rq_worker()
    run_id = scene.hold()
    child = scene.child(run_id)
    scene.release(run_id)
    wait_gone(child, "the child of a run that was taken away")

    scene.let_go()
    assert scene.wait_end(run_id).delivery == 2


# --- Stopped by RQ


def test_a_job_that_is_stopped_in_rq_cancels_its_run_at_once(tmp_path):
    with rq_scene(tmp_path, lease_ms=120_000, renew_ms=40_000) as scene:
        scene.consumer()
        scene.rq_worker()
        run_id = scene.hold()
        child = scene.child(run_id)
        send_stop_job_command(scene._client, scene.job(run_id).id, serializer=JSONSerializer)

        run = scene.wait_end(run_id)
        assert (run.state_type, run.message) == ("CANCELLED", "its RQ job was stopped")
        wait_gone(child, "the child of a stopped job")


def test_a_job_that_is_cancelled_in_rq_cancels_its_run(scene):
    scene.consumer()
    run_id = scene.hold()
    scene.wait_handed(run_id)
    scene.job(run_id).cancel()

    run = scene.wait_end(run_id)
    assert (run.state_type, run.message) == ("CANCELLED", "its RQ job was cancelled")


def test_a_run_whose_rq_queue_is_emptied_is_handed_over_once_more(scene):
    scene.consumer()
    run_id = scene.hold()
    scene.wait_handed(run_id)
    scene.rq("empty", RQ_QUEUE)
    scene.wait_run(run_id, lambda run: run.unstarted == 1, "is missed")

    scene.let_go()
    scene.rq_worker()
    assert scene.wait_end(run_id).delivery == 2
    (lost,) = scene.events("lost")
    assert lost["reason"] == "before start: its RQ job is gone"


def test_sigterm_to_all_processes_of_an_rq_worker_gives_its_run_back(scene):
    scene.consumer()
    worker = scene.rq_worker()
    run_id = scene.hold()
    child = scene.child(run_id)
    horse = scene.horse(worker)
    worker.signal(signal.SIGTERM)
    os.kill(horse, signal.SIGTERM)

    run = scene.wait_run(run_id, lambda run: run.deliveries[0].outcome, "is given back")
    assert (run.deliveries[0].outcome, run.losses) == ("released", 0)
    wait_gone(child, "the child of a run that was given back")
    assert worker.exit_code() == 0
    assert process_state(horse) == ""


def test_an_rq_worker_that_is_to_end_ends_its_run_first(scene):
    scene.consumer()
    worker = scene.rq_worker()
    run_id = scene.hold()
    scene.child(run_id)
    worker.signal(signal.SIGTERM)
    scene.let_go()

    assert scene.wait_end(run_id).state_type == "COMPLETED"
    assert worker.exit_code() == 0


# --- Refused


def test_a_worker_that_cannot_read_json_is_found_out_and_nothing_more_is_handed_over(scene):
    scene.consumer("c")
    scene.rq_worker(name="pickled", serializer="pickle")
    run_id = scene.hold()
    scene.wait_run(run_id, lambda run: run.unstarted, "comes back")
    (lost, *_) = scene.events("lost")
    assert lost["reason"] == "before start: RQ worker pickled does not understand JSON"

    refused = scene.worker("d", "--type", "rq", "--rq-queue", RQ_QUEUE)
    assert refused.exit_code() == 1
    assert refused.plain == [
        "error: RQ worker pickled of RQ queue flows does not understand JSON: "
        "start it as `rq worker --serializer json flows`"
    ]


def test_a_consumer_that_finds_out_gives_back_what_it_has_claimed(scene):
    consumer = scene.consumer("c")
    scene.rq_worker(name="pickled", serializer="pickle")
    run_id = scene.hold()

    assert consumer.exit_code() == 1
    assert "does not understand JSON" in consumer.plain[-1]
    run = scene.wait_run(run_id, lambda run: run.place != "claimed", "is given back")
    assert run.unstarted == 1


def test_an_rq_queue_with_pickled_jobs_is_refused(scene):
    queue = Queue(RQ_QUEUE, connection=scene._client)
    job = queue.enqueue("builtins.print", "pickled")
    refused = scene.worker("d", "--type", "rq", "--rq-queue", RQ_QUEUE)

    assert refused.exit_code() == 1
    (told,) = refused.plain
    assert f"RQ queue flows has jobs that are not JSON ({job.id})" in told
    assert "`rq worker --serializer json`" in told


def test_a_worker_that_has_ended_pickled_jobs_is_refused_while_it_is_there(scene):
    worker = scene.rq_worker(name="pickled", serializer="pickle")
    job = Queue(RQ_QUEUE, connection=scene._client).enqueue("builtins.print", "pickled")
    wait_until(lambda: job.get_status() == "finished", "it has run", timeout_s=PATIENCE_S)
    refused = scene.worker("d", "--type", "rq", "--rq-queue", RQ_QUEUE)
    assert refused.exit_code() == 1
    assert "has jobs that are not JSON" in refused.plain[0]

    worker.signal(signal.SIGTERM)
    worker.exit_code()
    scene.consumer("c")
    scene.rq_worker()
    assert scene.wait_end(scene.submit("true")).state_type == "COMPLETED"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--rq-queue", "flows", "--type", "process"), "--rq-queue is for workers of --type rq"),
        (("--type", "rq", "--app", "tasks:app"), "--app is for workers of --type handler, not rq"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(scene, arguments, told):
    worker = scene.worker("c", *arguments)
    assert worker.exit_code() == 2
    assert told in worker.plain[0]
