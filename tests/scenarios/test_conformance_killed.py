"""What holds for every type of worker that is killed with -9, wherever it is with a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.stored import RunRecord
from tests.scenarios.conformance import FLEETS, SHORT_MS, ends, fleet_of
from tests.scenarios.teams import Fleet, Member


@pytest.fixture(params=FLEETS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of(request.param, tmp_path, **SHORT_MS) as fleet:
        yield fleet


def begin_and_put(fleet: Fleet) -> tuple[Member, str]:
    """A worker behind the gate, and a run that it gets."""
    return fleet.begin("a", gated=True), fleet.put("hold")


def kill(fleet: Fleet, worker: Member, run_id: str) -> None:
    """Kill a worker when another one is ready to take over what it has."""
    fleet.begin("b")
    worker.kill()
    fleet.let_go(run_id)


def counts(run: RunRecord) -> dict[str, int]:
    """What a run went through, by its record."""
    return {"losses": run.losses, "unstarted": run.unstarted, "starts": run.run_count}


def test_a_run_whose_worker_is_killed_before_its_start_is_run_elsewhere_and_that_is_no_loss(fleet):
    fleet.gate.stop_call("start")
    worker, run_id = begin_and_put(fleet)
    fleet.gate.wait_reached()

    kill(fleet, worker, run_id)

    run = fleet.wait_end(run_id)
    assert (ends(run), fleet.begun(run_id)) == (["lost", "COMPLETED"], [2])
    assert counts(run) == {"losses": 0, "unstarted": 1, "starts": 1}


def test_a_run_whose_worker_is_killed_after_its_start_is_run_elsewhere(fleet):
    fleet.gate.stop_answer("start")
    worker, run_id = begin_and_put(fleet)
    fleet.gate.wait_reached()
    assert fleet.run(run_id).state_type == "RUNNING"

    kill(fleet, worker, run_id)

    run = fleet.wait_end(run_id)
    assert (ends(run), fleet.begun(run_id)) == (["lost", "COMPLETED"], [2])
    assert counts(run) == {"losses": 1, "unstarted": 0, "starts": 2}


def test_work_whose_worker_is_killed_ends_with_it_and_is_done_elsewhere(fleet):
    worker, run_id = begin_and_put(fleet)
    fleet.wait_begun(run_id)
    fleet.begin("b")

    worker.kill()

    fleet.wait_over(run_id)
    fleet.wait_begun(run_id, delivery=2)
    fleet.let_go(run_id)
    run = fleet.wait_end(run_id)
    assert ends(run) == ["lost", "COMPLETED"]
    assert counts(run) == {"losses": 1, "unstarted": 0, "starts": 2}


def test_a_run_whose_worker_is_killed_before_its_finish_is_run_again_and_finished_once(fleet):
    fleet.gate.stop_call("finish")
    worker, run_id = begin_and_put(fleet)
    fleet.let_go(run_id)
    fleet.gate.wait_reached()
    assert fleet.run(run_id).state_type == "RUNNING"

    kill(fleet, worker, run_id)

    run = fleet.wait_end(run_id)
    assert (ends(run), fleet.begun(run_id)) == (["lost", "COMPLETED"], [1, 2])
    assert len(fleet.events("finished", run=run_id)) == 1
    assert counts(run) == {"losses": 1, "unstarted": 0, "starts": 2}


def test_a_run_whose_worker_is_killed_after_its_finish_has_ended_and_runs_nowhere_else(fleet):
    fleet.gate.stop_answer("finish")
    worker, run_id = begin_and_put(fleet)
    fleet.let_go(run_id)
    fleet.gate.wait_reached()
    ended = fleet.run(run_id)

    kill(fleet, worker, run_id)

    fleet.wait_lost(worker)
    fleet.wait_end(fleet.put("echo"))
    assert (ends(ended), counts(ended)) == (
        ["COMPLETED"],
        {"losses": 0, "unstarted": 0, "starts": 1},
    )
    assert fleet.run(run_id) == ended
