"""What holds for every type of worker that drains, is cancelled early, or has lost a claim."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.conformance import FLEETS, SHORT_MS, ends, fleet_of
from tests.scenarios.fleet import POOL
from tests.scenarios.teams import Fleet

PROMPT_S = 10.0  # for a busy machine; less than a renewal of 20 s, or a grace of 30 s


@pytest.fixture(params=FLEETS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of(request.param, tmp_path) as fleet:
        yield fleet


def test_a_run_that_is_cancelled_before_its_start_never_runs_claimed_or_not(fleet):
    fleet.gate.stop_call("start")
    claimed, unclaimed = fleet.put("hold"), fleet.put("hold")
    for run_id in (claimed, unclaimed):
        fleet.wait_dispatched(run_id)
    fleet.begin("a", "--limit", "1", gated=True)
    fleet.gate.wait_reached()

    words = [fleet.cancel(claimed), fleet.cancel(unclaimed)]
    fleet.gate.open()

    runs = [fleet.wait_end(run_id) for run_id in (claimed, unclaimed)]
    fleet.wait_end(fleet.put("echo"))
    assert words == ["cancelling", "cancelled"]
    assert [(run.state_type, run.run_count) for run in runs] == [("CANCELLED", 0)] * 2
    assert [ends(run) for run in runs] == [["CANCELLED"], []]
    assert [fleet.begun(run.id) for run in runs] == [[], []]


def test_a_worker_that_drains_ends_with_what_it_has_and_claims_nothing_more(fleet):
    fleet.store.set_pool(POOL, {"lease_ms": 60_000, "renew_ms": 20_000})
    worker = fleet.begin("a")
    run_id = fleet.put("hold")
    fleet.wait_begun(run_id)

    fleet.drain(worker)
    later = fleet.wait_dispatched(fleet.put("echo"))
    fleet.let_go(run_id)

    assert worker.exit_code(PROMPT_S) == 0
    assert ends(fleet.run(run_id)) == ["COMPLETED"]
    assert (fleet.run(later.id).place, fleet.run(later.id).delivery) == ("stream", 0)


def test_a_worker_without_work_that_drains_ends_at_once(fleet):
    worker = fleet.begin("a")

    worker.signal(signal.SIGTERM)

    assert worker.exit_code(PROMPT_S) == 0
    assert [holder for holder in fleet.inspector.holders(POOL) if not holder.draining] == []


def test_the_report_of_a_claim_that_was_taken_away_is_refused(fleet):
    fleet.gate.stop_call("finish")
    fleet.begin("a", gated=True)
    run_id = fleet.put("hold")
    fleet.wait_begun(run_id)
    fleet.let_go(run_id)
    fleet.gate.wait_reached()

    fleet.release(run_id)
    fleet.gate.open()

    run = fleet.wait_end(run_id)
    assert (ends(run), fleet.told(run)["delivery"]) == (["released", "COMPLETED"], 2)
    assert len(fleet.events("finished", run=run_id)) == 1


def test_what_a_worker_that_stood_still_for_a_lease_had_is_stopped_when_it_wakes(fleet):
    fleet.store.set_pool(POOL, SHORT_MS)
    worker = fleet.begin("a")
    run_id = fleet.put("hold")
    fleet.wait_begun(run_id)

    worker.freeze()
    fleet.begin("b")
    fleet.wait_begun(run_id, delivery=2)
    worker.thaw()

    fleet.wait_over(run_id)
    fleet.let_go(run_id)
    run = fleet.wait_end(run_id)
    assert (ends(run), run.losses) == (["lost", "COMPLETED"], 1)
    assert len(fleet.events("finished", run=run_id)) == 1
