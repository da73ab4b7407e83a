"""RQ workers, their jobs and consumers killed with -9, in the phases that only RQ has.

Those that every type has are in `test_conformance_killed.py`.
"""

import os
import signal
from collections.abc import Iterator

import pytest

from dispatcher.stored import RunRecord
from tests.scenarios.fleet import wait_gone
from tests.scenarios.rq_scene import RqScene, rq_scene


@pytest.fixture
def scene(tmp_path) -> Iterator[RqScene]:
    """A pool of runs for RQ, with a dispatcher and a consumer."""
    with rq_scene(tmp_path) as scene:
        scene.consumer()
        yield scene


def outcomes(run: RunRecord) -> list[str]:
    return [delivery.outcome for delivery in run.deliveries]


def end_elsewhere(scene: RqScene, run_id: str) -> RunRecord:
    """Let another RQ worker end what the killed one had."""
    scene.let_go()
    scene.rq_worker(name="another")
    return scene.wait_end(run_id)


def test_a_run_whose_rq_worker_is_killed_before_it_first_renews_is_run_once_elsewhere(scene):
    scene.gate.stop_call("renew_run")
    worker = scene.rq_worker(gated=True)
    run_id = scene.hold()
    scene.gate.wait_reached()
    scene.kill_whole(worker)

    run = end_elsewhere(scene, run_id)
    assert outcomes(run) == ["lost", "COMPLETED"]
    assert (run.unstarted, run.losses, run.run_count) == (1, 0, 1)


def test_a_run_whose_queue_says_crash_ends_so_when_its_rq_worker_is_killed(scene):
    scene.set_queue(on_worker_lost="crash")
    worker = scene.rq_worker()
    run_id = scene.hold()
    scene.child(run_id)
    scene.kill_whole(worker)

    run = scene.wait_end(run_id)
    assert run.state_type == "CRASHED"
    assert run.message == "its worker was lost while running it: RQ worker w is gone"


def test_a_killed_horse_is_noticed_at_once_although_its_rq_worker_lives(tmp_path):
    with rq_scene(tmp_path, lease_ms=120_000, renew_ms=500) as scene:
        scene.consumer()
        worker = scene.rq_worker()
        run_id = scene.hold()
        child = scene.child(run_id)
        os.kill(scene.horse(worker), signal.SIGKILL)
        wait_gone(child, "the child of a killed horse")
        scene.let_go()

        run = scene.wait_end(run_id)
        assert outcomes(run) == ["lost", "COMPLETED"]
        assert run.losses == 1
        (lost,) = scene.events("lost")
        assert "Work-horse terminated unexpectedly" in lost["reason"]


def test_a_horse_whose_rq_worker_was_killed_ends_its_run(scene):
    worker = scene.rq_worker()
    run_id = scene.hold()
    scene.child(run_id)
    worker.kill()
    scene.wait_renewed(times=2)
    scene.let_pass(3 * scene.inspector.pool("etl").lease_ms / 1000)
    scene.let_go()

    run = scene.wait_end(run_id)
    assert outcomes(run) == ["COMPLETED"]


def test_a_horse_that_rq_has_given_up_ends_its_run_all_the_same(scene, monkeypatch):
    worker = scene.rq_worker()
    run_id = scene.hold()
    scene.child(run_id)
    worker.kill()
    job = scene.job(run_id)
    monkeypatch.setenv("DISPATCHER_REDIS_URL", scene.server.url)
    job.started_job_registry.cleanup(timestamp=2e10)  # as other RQ workers do after 90 s
    assert job.get_status() == "failed"
    scene.wait_renewed(times=2)
    scene.let_go()

    assert outcomes(scene.wait_end(run_id)) == ["COMPLETED"]


def test_a_job_that_an_rq_worker_of_two_queues_took_along_is_missed(scene):
    # Redis gives the job to the frozen one that waits; then RQ has it nowhere.
    worker = scene.rq_worker("flows", "others")
    scene.wait_blocked("w")
    worker.freeze()
    run_id = scene.hold()
    scene.wait_handed(run_id)
    assert scene.queue().job_ids == []
    worker.kill()

    run = end_elsewhere(scene, run_id)
    assert outcomes(run) == ["lost", "COMPLETED"]
    assert (run.unstarted, run.losses) == (1, 0)
    (lost,) = scene.events("lost")
    assert lost["reason"] == "before start: no RQ worker has its job"


def test_runs_in_rq_outlive_their_consumer_while_one_of_them_runs(scene):
    scene.rq_worker()
    working, waiting = scene.hold(), scene.hold()
    scene.child(working)
    scene.wait_handed(waiting)
    consumer = scene._processes[1]
    consumer.kill()
    scene.let_pass(3 * scene.inspector.pool("etl").lease_ms / 1000)
    scene.let_go()

    assert outcomes(scene.wait_end(working)) == ["COMPLETED"]
    assert outcomes(scene.wait_end(waiting)) == ["COMPLETED"]


def test_runs_in_rq_are_taken_back_when_nobody_watches_over_them(scene):
    run_id = scene.hold()
    scene.wait_handed(run_id)
    scene._processes[1].kill()
    scene.wait_run(run_id, lambda run: run.unstarted == 1, "is taken back")

    scene.let_go()
    scene.consumer("d")
    scene.rq_worker()
    run = scene.wait_end(run_id)
    assert outcomes(run) == ["lost", "COMPLETED"]
    assert run.run_count == 1  # the job of the first claim did nothing


def test_another_consumer_watches_over_what_a_killed_one_has_handed_over(scene):
    scene.consumer("d")
    worker = scene.rq_worker()
    run_id = scene.hold()
    scene.child(run_id)
    scene._processes[1].kill()
    scene.kill_whole(worker)

    run = end_elsewhere(scene, run_id)
    assert outcomes(run) == ["lost", "COMPLETED"]
    assert run.losses == 1
