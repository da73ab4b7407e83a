"""Runs that take too long: their work is stopped, and they have failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.errors import InvalidRun
from dispatcher.records import Submission, Word
from tests.probes import process_state
from tests.scenarios.fleet import POOL, Scene, outcomes, wait_gone
from tests.scenarios.inside import Workers, put
from tests.servers import RealServer

PROMPT_MS = 3_000  # for a busy machine; far less than a renewal
HOUR_MS = 3_600_000


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(lease_ms=60_000, renew_ms=20_000)
        yield scene


@pytest.mark.parametrize(
    ("queue_ms", "variables", "after_s"),
    [
        (1_000, {}, 1),
        (HOUR_MS, {"timeout_s": 1}, 1),
        (500, {"timeout_s": 1.25}, 1.25),
    ],
)
def test_a_run_that_takes_longer_than_its_job_or_else_its_queue_allows_has_failed(
    scene, queue_ms, variables, after_s
):
    scene.set_queue(timeout_ms=queue_ms)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")

    run_id = scene.hold(job_variables=variables)
    child = scene.child(run_id)

    wait_gone(child, "the child")
    run = scene.wait_end(run_id)
    assert (run.state_type, run.state_name) == ("FAILED", "TimedOut")
    assert run.message == f"timed out after {after_s} s"
    assert outcomes(run) == [("a", "FAILED")]
    assert after_s * 1000 - 10 <= run.ended_ms - run.started_ms < after_s * 1000 + PROMPT_MS
    assert worker.wait_said("finished", run=run_id, state="TimedOut", why=run.message)


@pytest.mark.parametrize(
    ("queue_ms", "timeout_s"), [(300, None), (300, 60), (None, None), (HOUR_MS, 1e9)]
)
def test_a_run_that_may_take_longer_is_left_alone(scene, queue_ms, timeout_s):
    scene.set_queue(timeout_ms=queue_ms)
    scene.ready_dispatcher()
    scene.ready_worker("a")
    run_id = scene.hold(job_variables={"timeout_s": timeout_s})
    child = scene.child(run_id)

    scene.let_pass(1.0)

    assert process_state(child)
    scene.let_go()
    assert scene.wait_end(run_id).state_type == "COMPLETED"


def test_a_child_that_does_not_mind_sigterm_is_killed_five_seconds_later(scene):
    scene.set_queue(timeout_ms=1_000, cancel_grace_ms=60_000)
    scene.ready_dispatcher()
    scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    child = scene.child(run_id)

    wait_gone(child, "the child")

    run = scene.wait_end(run_id)
    assert (run.state_type, run.message) == ("FAILED", "timed out after 1 s")
    assert 5_900 <= run.ended_ms - run.started_ms < 6_000 + PROMPT_MS


def test_what_a_run_wrote_before_it_timed_out_is_kept(scene):
    scene.ready_dispatcher()
    scene.ready_worker("a")
    command = ["/bin/sh", "-c", "echo at work; exec sleep 1000"]

    run = scene.wait_end(scene.submit(command, job_variables={"timeout_s": 1}))

    assert run.state_name == "TimedOut"
    assert scene.inspector.output(run) == b"at work\n"


@pytest.mark.parametrize(
    ("retry_type", "deliveries"),
    [("reschedule", [("a", "FAILED")] * 2), ("in_process", [("a", "FAILED")])],
)
def test_a_run_that_timed_out_is_retried_and_each_start_has_the_whole_time(
    scene, retry_type, deliveries
):
    scene.set_queue(timeout_ms=500)
    scene.ready_dispatcher()
    scene.ready_worker("a")
    policy = {"retries": 1, "retry_delay": 0, "retry_type": retry_type}

    run = scene.wait_end(scene.hold(empirical_policy=policy))

    assert (run.state_type, run.state_name, run.run_count) == ("FAILED", "TimedOut", 2)
    assert outcomes(run) == deliveries
    assert run.message == "timed out after 0.5 s"
    (retry,) = scene.events("retrying", run=run.id)
    started = [int(event["at_ms"]) for event in scene.events("started", run=run.id)]
    ends = [int(retry["at_ms"]), run.ended_ms]
    assert [end - start >= 490 for start, end in zip(started, ends, strict=True)] == [True, True]


def test_the_timeout_of_a_queue_holds_whatever_runner_its_worker_has(scene):
    scene.set_queue(timeout_ms=500)
    (run_id,) = put(scene, 1, payload=b"hold")
    with Workers(scene) as workers:
        workers.start()

        run = scene.wait_end(run_id)

    assert (run.state_name, run.message) == ("TimedOut", "timed out after 0.5 s")


def test_many_runs_time_out_side_by_side(scene):
    scene.set_queue(timeout_ms=1_000)
    scene.ready_dispatcher()
    scene.ready_worker("a", "--limit", "30")

    runs = [scene.wait_end(run) for run in [scene.submit("sleep 1000") for _ in range(30)]]

    assert {(run.state_name, run.run_count) for run in runs} == {("TimedOut", 1)}


def test_a_run_that_times_out_while_it_is_being_cancelled_ends_cancelled(scene):
    scene.set_queue(timeout_ms=2_500, cancel_grace_ms=60_000)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    scene.child(run_id)
    scene.store.cancel(POOL, run_id)
    worker.wait_said("cancelling", run=run_id)

    run = scene.wait_end(run_id)

    assert (run.state_type, run.outcome) == ("CANCELLED", "FAILED")


def test_a_run_that_is_cancelled_while_it_is_being_timed_out_ends_cancelled(scene):
    scene.set_queue(timeout_ms=1_000)
    scene.ready_dispatcher()
    scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    scene.child(run_id)
    scene.let_pass(1.5)

    assert scene.store.cancel(POOL, run_id).word is Word.CANCELLING

    run = scene.wait_end(run_id)
    assert (run.state_type, run.outcome) == ("CANCELLED", "FAILED")


def test_a_timeout_that_is_none_is_refused_at_submit(scene):
    with pytest.raises(InvalidRun, match=r"flow_run\.job_variables\.timeout_s: must be a number"):
        scene.submit("true", job_variables={"timeout_s": 0})


def test_a_run_that_came_with_an_impossible_timeout_ends_crashed(scene):
    payload = b'{"flow_run":{"job_variables":{"command":"true","timeout_s":"soon"}}}'
    scene.store.submit(POOL, Submission("run-1", "default", payload, "run", request="1"))
    scene.store.dispatch(POOL, ["default"])

    scene.ready_worker("a")

    run = scene.wait_end("run-1")
    assert run.state_type == "CRASHED"
    assert "job_variables.timeout_s: must be a number" in run.message
