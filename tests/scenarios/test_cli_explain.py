"""`dispatcher explain` on the command line; its answers are tested one by one in tests/redis."""

import re

import pytest

from tests.commands import Commands, Hands, a_run, ndjson, run_id

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SPAN = re.compile(r"\d[\d,.]* m?s\b")
LATER = "2035-01-31T08:00:00.000Z"
RUN = run_id(1)


@pytest.fixture
def etl(real_server, prefix):
    cli = Commands(real_server.url, prefix)
    assert cli("pool", "create", "etl").code == 0
    return cli


@pytest.fixture
def hands(real_server, prefix, etl):
    with real_server.client() as client:
        yield Hands(client, prefix)


def submit(cli, *runs, at="now"):
    assert cli("submit", "-", "--pool", "etl", "--at", at, given=ndjson(*runs)).code == 0


def steady(text):
    """Text without the times of this test run, but for LATER."""
    return SPAN.sub("SPAN", TIME.sub(lambda found: LATER if found[0] == LATER else "TIME", text))


def test_a_run_is_explained_below_what_it_is(etl):
    submit(etl, a_run(), at=LATER)
    done = etl("explain", RUN)
    assert (done.code, done.err) == (0, "")
    assert [steady(line) for line in done.lines] == [
        f"Run {RUN} (run-1), queue etl/default: SCHEDULED (Scheduled)",
        f"It is not due: that is in SPAN, at {LATER}; "
        f"`dispatcher flow-run retime {RUN} --at now` makes it due at once.",
    ]


def test_each_reason_has_its_line_and_what_happened_before_is_last(etl, hands):
    submit(etl, a_run(deployment_id=run_id(9)), a_run(2))
    hands.store.set_pool("etl", {"limit": 1})
    hands.claim()
    hands.store.dispatch("etl", ["default"])
    hands.store.set_queue("etl", "default", {"limit": 0})
    assert [steady(line) for line in etl("explain", run_id(2)).lines] == [
        f"Run {run_id(2)} (run-2), queue etl/default: SCHEDULED (Scheduled)",
        f"Pool etl is full at its limit of 1: {RUN} (Pending) holds its slots; "
        "`dispatcher pool set etl --limit N` changes the limit.",
        "Queue default has a limit of 0; "
        "`dispatcher queue set default --pool etl --limit N` changes the limit.",
    ]


def test_a_running_run_says_where_it_runs(etl, hands):
    submit(etl, a_run())
    hands.start(hands.claim())
    assert [steady(line) for line in etl("explain", RUN).lines] == [
        f"Run {RUN} (run-1), queue etl/default: RUNNING (Running)",
        "It has been running on worker hands (here, pid 7) for SPAN, since TIME, in start 1 and "
        "delivery 1; its lease holds for another SPAN.",
    ]


def test_the_json_is_one_object_on_one_line(etl, hands):
    submit(etl, a_run())
    hands.work("FAILED", "exit code 3")
    done = etl("explain", RUN, "--json")
    (found,) = done.objects
    (reason,) = found["reasons"]
    ended = reason["ended_time"]
    assert (done.code, TIME.fullmatch(found.pop("time")) is not None) == (0, True)
    assert steady(reason.pop("text")) == (
        "It ended as FAILED at TIME, after SPAN of running (exit code 3)."
    )
    assert 0 <= reason.pop("ran_seconds") < 60
    assert TIME.fullmatch(reason.pop("started_time"))
    assert found == {
        "id": RUN,
        "name": "run-1",
        "work_pool_name": "etl",
        "work_queue_name": "default",
        "deployment_id": None,
        "state_type": "FAILED",
        "state_name": "Failed",
        "reasons": [
            {
                "code": "ended",
                "state_type": "FAILED",
                "ended_time": ended,
                "message": "exit code 3",
                "outcome": None,
                "run_count": 1,
            }
        ],
    }


def test_what_others_wrote_cannot_move_the_cursor_or_begin_a_line(etl, hands):
    submit(etl, a_run(name="run\x1b[2J"))
    hands.store.cancel("etl", RUN, reason="one\ntwo\x1b[1A")
    assert [steady(line) for line in etl("explain", RUN).lines] == [
        f"Run {RUN} (run�[2J), queue etl/default: CANCELLED (Cancelled)",
        "It ended as CANCELLED at TIME, without a start (one�two�[1A).",
    ]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ((run_id(5),), f"run {run_id(5)} is not known"),
        ((RUN, "--pool", "other"), f"run {RUN} is not known in pool 'other'"),
    ],
)
def test_a_run_that_nobody_knows_is_said_in_one_line(etl, args, line):
    submit(etl, a_run())
    done = etl("explain", *args)
    assert (done.code, done.out, done.err) == (1, "", f"error: {line}\n")


def test_what_is_no_run_id_is_wrong_usage(etl):
    done = etl("explain", "run-1")
    assert (done.code, done.out) == (2, "")
    assert "'run-1' is not a valid UUID" in done.err
