"""What holds for every type of worker: what the work gets, how it ends, what is kept of it."""

import hashlib
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.scenarios import work
from tests.scenarios.conformance import FLEETS, ends, envelope, fleet_of
from tests.scenarios.fleet import POOL
from tests.scenarios.teams import OUTPUT_BYTES, Fleet, Member

ROOM_MB = 8  # what a worker may take for ten megabytes of output
# A fleet is started once per test process: so all tests of one are for the same.
KINDS = [pytest.param(kind, marks=pytest.mark.xdist_group(f"ends-{kind}")) for kind in FLEETS]


@pytest.fixture(scope="module", params=KINDS)
def team(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, Member]]:
    """A fleet with one worker, for all tests of this file: none of them harms it."""
    with fleet_of(request.param, tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet, fleet.begin("a")


@pytest.fixture
def fleet(team: tuple[Fleet, Member]) -> Fleet:
    return team[0]


@pytest.fixture
def worker(team: tuple[Fleet, Member]) -> Member:
    return team[1]


# --- Outcomes


def test_work_that_ends_well_has_completed_at_its_first_delivery(fleet):
    run = fleet.wait_end(fleet.put("echo"))

    assert (run.state_type, run.state_name, run.message) == ("COMPLETED", "Completed", "")
    assert (ends(run), run.run_count, run.losses) == (["COMPLETED"], 1, 0)


def test_work_that_fails_has_failed_and_its_message_says_how(fleet):
    run = fleet.wait_end(fleet.put("fail"))

    assert (run.state_type, run.state_name, run.message) == ("FAILED", "Failed", fleet.failure)
    assert fleet.inspector.output(run).endswith(b"ValueError: no luck\n")
    assert ends(run) == ["FAILED"]


def test_a_run_that_nothing_here_can_run_has_crashed_and_its_message_says_why(fleet):
    run = fleet.wait_end(fleet.put("no-such-one"))

    assert (run.state_type, run.state_name) == ("CRASHED", "Crashed")
    assert "no-such-one" in run.message
    assert ends(run) == ["CRASHED"]


# --- What the work gets


def test_work_gets_its_payload_byte_for_byte_as_it_was_accepted(fleet):
    run_id = str(uuid4())
    flow_run = {
        "id": run_id,
        "flow_id": str(uuid4()),
        "name": "größe 🏊 größe",
        "parameters": {"directory": str(fleet.directory), "much": 10**40, "odd": "\x7f\u2028"},
        "job_variables": fleet.variables("echo"),
    }
    accepted = envelope(flow_run)
    fleet.producer.submit(accepted, pool=POOL, queue="default")

    run = fleet.wait_end(run_id)

    assert fleet.told(run)["sha256"] == hashlib.sha256(accepted).hexdigest()


def test_work_knows_its_fencing_token_and_which_delivery_it_is(fleet):
    run_id = fleet.put("hold")
    fleet.wait_begun(run_id)
    first = fleet.run(run_id).token
    fleet.release(run_id)
    fleet.wait_begun(run_id, delivery=2)
    second = fleet.run(run_id).token

    fleet.let_go(run_id)

    told = fleet.told(fleet.wait_end(run_id))
    assert (told["token"], told["delivery"]) == (second, 2)
    assert first != second


# --- Output


def test_output_that_is_no_text_is_kept_as_it_is(fleet):
    run = fleet.wait_end(fleet.put("odd"))

    assert (run.state_type, fleet.written(run)) == ("COMPLETED", work.ODD)


def test_ten_megabytes_of_output_block_nobody_and_a_bounded_part_is_kept(fleet, worker):
    run_id = fleet.put("loud")
    fleet.wait_begun(run_id, what="ready")
    before_mb = fleet.memory_mb(worker)

    fleet.let_go(run_id, "write")
    fleet.wait_begun(run_id)  # all is written
    meanwhile_mb = fleet.memory_mb(worker)
    fleet.let_go(run_id)

    run = fleet.wait_end(run_id)
    written = work.LINE * work.LINES
    assert len(written) >= 10_000_000
    assert run.state_type == "COMPLETED"
    assert fleet.inspector.output(run) == fleet.kept(written)
    assert len(fleet.inspector.output(run)) == OUTPUT_BYTES
    assert meanwhile_mb - before_mb < ROOM_MB + fleet.own_mb


# --- Stops that the worker outlives


def test_work_that_is_cancelled_is_stopped_at_once_and_ends_cancelled(fleet):
    run_id = fleet.put("hold")
    fleet.wait_begun(run_id)

    assert fleet.cancel(run_id) == "cancelling"

    fleet.wait_over(run_id)
    run = fleet.wait_end(run_id)
    assert (run.state_type, run.state_name, run.message) == (
        *("CANCELLED", "Cancelled"),
        "no longer needed",
    )
    assert (ends(run), fleet.inspector.pool(POOL).claimed) == (["CANCELLED"], 0)


def test_work_that_takes_too_long_is_stopped_and_has_failed_as_timed_out(fleet):
    run_id = fleet.put("hold", job_variables={"timeout_s": 1})

    fleet.wait_over(run_id)
    run = fleet.wait_end(run_id)

    assert (run.state_type, run.state_name) == ("FAILED", "TimedOut")
    assert run.message == "timed out after 1 s"
    assert run.ended_ms - run.started_ms >= 1_000


def test_work_whose_claim_an_operator_takes_away_is_stopped_and_done_by_the_next_claim(fleet):
    run_id = fleet.put("hold")
    fleet.wait_begun(run_id)

    fleet.release(run_id)

    fleet.wait_over(run_id)
    fleet.wait_begun(run_id, delivery=2)
    fleet.let_go(run_id)
    run = fleet.wait_end(run_id)
    assert (ends(run), run.losses, run.run_count) == (["released", "COMPLETED"], 0, 2)
    assert len(fleet.events("finished", run=run_id)) == 1
