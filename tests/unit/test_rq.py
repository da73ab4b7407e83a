"""RQ workers: what RQ says of a run against what we know; slots of runs that are elsewhere."""

import json
import zlib

import pytest

from consumers.loading import load_function
from consumers.runners.rq_job import Functions
from consumers.runners.rq_queue import GONE, RqQueue, Seen, is_json, job_id
from consumers.runners.rq_watch import Fate, judge
from consumers.slots import Slots
from dispatcher.cluster import Cluster
from dispatcher.connection import Connection
from dispatcher.errors import InvalidRun, InvalidSettings
from dispatcher.job_configuration import check_job
from dispatcher.records import Claim
from dispatcher.stored import Place, RunRecord
from tests.builders import T0, a_pool

LEASE_MS = 15_000
PICKLED = b"\x80\x05)."  # an empty tuple
PLAIN = {
    **{"id": "a", "pool": "p", "queue": "q", "name": "n", "place": Place.CLAIMED},
    **{"state_type": "PENDING", "state_name": "Pending", "message": "", "due_ms": T0},
    **{"submitted_ms": T0, "run_count": 0, "delivery": 1, "losses": 0, "holder": "rq.q"},
    **{"token": "1-0.w.1", "dispatched_ms": T0, "claimed_ms": T0, "started_ms": None},
    **{"ended_ms": None, "deployment": "", "deliveries": ()},
}


def fate(seen: Seen, *, silent_ms: int | None = None, missed_ms: int = 0) -> tuple[Fate, str]:
    """The verdict about a run that waits in RQ, or that was renewed so long ago."""
    at_work = {} if silent_ms is None else {"executor": "w.1", "renewed_ms": T0 - silent_ms}
    run = RunRecord(**PLAIN | {"handed_ms": T0 - 60_000} | at_work)
    verdict = judge(run, seen, now_ms=T0, lease_ms=LEASE_MS, missed_ms=missed_ms)
    return verdict.fate, verdict.reason


@pytest.mark.parametrize(
    "seen",
    [
        Seen(GONE),
        Seen("failed"),
        Seen("stopped"),
        Seen("finished"),
        Seen("started", worker="w"),
        Seen("queued", is_queued=True),
    ],
)
def test_a_run_that_renews_itself_goes_on_whatever_rq_says(seen):
    assert fate(seen, silent_ms=LEASE_MS, missed_ms=99_000) == (Fate.GOES_ON, "")


def test_a_run_whose_horse_was_seen_to_die_goes_on_no_more():
    seen = Seen("failed", is_killed=True)
    assert fate(seen, silent_ms=0) == (Fate.ABANDONED, "its RQ job failed")


@pytest.mark.parametrize("silent_ms", [None, LEASE_MS + 1])
@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(GONE), (Fate.ABANDONED, "its RQ job is gone")),
        (Seen("failed"), (Fate.ABANDONED, "its RQ job failed")),
        (Seen("finished"), (Fate.ABANDONED, "its RQ job ended without a word")),
        (Seen("canceled"), (Fate.CANCELLED, "its RQ job was cancelled")),
        (Seen("stopped"), (Fate.CANCELLED, "its RQ job was stopped")),
        (Seen("queued", is_queued=True), (Fate.GOES_ON, "")),
        (Seen("deferred"), (Fate.GOES_ON, "")),
    ],
)
def test_of_a_silent_run_rq_is_asked(seen, expected, silent_ms):
    assert fate(seen, silent_ms=silent_ms, missed_ms=0) == expected


@pytest.mark.parametrize(
    ("silent_ms", "missed_ms", "expected"),
    [
        (None, 0, Fate.GOES_ON),
        (None, LEASE_MS, Fate.GOES_ON),  # with RQ nobody has a job between two commands
        (None, LEASE_MS + 1, Fate.ABANDONED),
        (LEASE_MS + 1, 0, Fate.GOES_ON),
        (LEASE_MS + 1, 1, Fate.ABANDONED),
    ],
)
@pytest.mark.parametrize(
    ("seen", "whom"),
    [
        (Seen("queued"), "no RQ worker has its job"),
        (Seen("queued", worker="w"), "RQ worker w is gone"),
        (Seen("started", worker="w"), "RQ worker w is gone"),
    ],
)
def test_a_job_that_nobody_has_is_looked_at_twice(seen, whom, silent_ms, missed_ms, expected):
    assert fate(seen, silent_ms=silent_ms, missed_ms=missed_ms) == (expected, whom)


@pytest.mark.parametrize(
    ("silent_ms", "missed_ms", "expected"),
    [
        (None, 99_000, (Fate.GOES_ON, "")),  # it has not begun: RQ has it
        (LEASE_MS + 1, 0, (Fate.GOES_ON, "its RQ job stands still")),
        (LEASE_MS + 1, LEASE_MS, (Fate.GOES_ON, "its RQ job stands still")),
        (LEASE_MS + 1, LEASE_MS + 1, (Fate.ABANDONED, "its RQ job stands still")),
    ],
)
def test_a_job_that_has_begun_and_stands_still_is_given_one_more_lease(
    silent_ms, missed_ms, expected
):
    seen = Seen("started", worker="w", is_alive=True)
    assert fate(seen, silent_ms=silent_ms, missed_ms=missed_ms) == expected


def test_the_id_of_a_job_has_only_what_rq_allows_and_is_the_same_again():
    assert job_id("a-b", "17-0.w.1") == job_id("a-b", "17-0.w.1") == "a-b_17-0_w_1"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (json.dumps(["f", None, [], {}]).encode(), True),
        (zlib.compress(b"[]"), True),
        (PICKLED, False),
        (zlib.compress(PICKLED), False),
        (b"", False),
    ],
)
def test_jobs_that_are_not_json_are_told_from_those_that_are(data, expected):
    assert is_json(data) is expected


def test_a_cluster_is_refused_in_one_sentence():
    cluster = Cluster([("h", 1)], lambda *_: None, lambda _: None)
    with pytest.raises(InvalidSettings, match="RQ workers cannot be used on a Redis Cluster"):
        RqQueue(Connection(cluster=cluster), "flows")


# --- Slots


def a_claim(run_id: str) -> Claim:
    times = {"due_ms": T0, "run_count": 0, "delivery": 1}
    named = {"pool": "p", "queue": "q", "token": f"{run_id}.1", "payload": b"", "name": ""}
    return Claim(run_id=run_id, **times, **named)


def test_a_run_that_was_handed_over_keeps_its_slot_until_it_has_ended():
    slots = Slots(2)
    slots.add(a_claim("a"))
    slots.hand_over(a_claim("a"))
    assert (slots.held(), slots.free(), slots.wait_ended(0)) == (0, 1, False)
    assert slots.wait_empty(0)

    slots.hand_over(a_claim("a"))  # as after a repeated answer
    assert slots.free() == 1
    slots.count_elsewhere(0)
    assert (slots.free(), slots.wait_ended(0)) == (2, True)


def test_a_worker_whose_runs_are_all_elsewhere_waits_for_a_slot():
    slots = Slots(1)
    slots.count_elsewhere(3)
    assert slots.free() == 0
    assert slots.begin_wait()
    slots.count_elsewhere(0)
    assert not slots.begin_wait()


def test_a_worker_that_leaves_waits_for_no_run_that_is_elsewhere():
    slots = Slots(1)
    slots.count_elsewhere(1)
    slots.leave_elsewhere()
    assert slots.wait_ended(0)


# --- Functions, and what a pool makes a job of


def test_a_function_is_found_by_its_dotted_path_or_as_an_entry_point():
    assert load_function("json.dumps") is load_function("json:dumps") is json.dumps


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dumps", "'dumps' must look like package.module.function"),
        ("json.missing", "json has no function 'missing'"),
        ("json.__name__", "json has no function '__name__'"),
        ("no_such_module.f", "no_such_module.f: there is no module 'no_such_module'"),
    ],
)
def test_a_function_that_is_not_there_is_refused_with_the_path_of_its_name(name, told):
    with pytest.raises(InvalidRun, match=r"^flow_run\.job_variables\.handler: ") as caught:
        Functions().find(name)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "variables", [{"handler": "tasks.report"}, {"command": "true"}, {"handler": "a.b", "env": {}}]
)
def test_a_pool_of_type_rq_takes_runs_of_functions_and_of_commands(variables):
    check_job(variables, a_pool(type="rq"))


@pytest.mark.parametrize("variables", [None, {}, {"handler": ""}, {"handler": 1}])
def test_a_pool_of_type_rq_refuses_runs_that_have_neither(variables):
    with pytest.raises(InvalidRun):
        check_job(variables, a_pool(type="rq"))
