"""`dispatcher submit`: where runs go, when they are due, and what is said about each."""

import json
from datetime import datetime

import pytest

from dispatcher.clock import Clock, to_ms
from tests.commands import RECORDED, Commands, a_run, an_envelope, ndjson, run_id

AT = "2030-01-31T08:00:00Z"
DUE = "2030-01-31T08:00:00.000Z"
LATER = "2031-01-31T08:00:00Z"


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    """A process pool without a command of its own."""
    assert cli("pool", "create", "etl").code == 0
    return cli


def queues_of(cli, pool):
    return cli("queue", "ls", "--pool", pool, "--json").objects


def listed(cli):
    return cli("flow-run", "ls", "--json").objects


def due_in_ms(run, now_ms):
    return to_ms(datetime.fromisoformat(run["expected_start_time"])) - now_ms


# --- What is accepted


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.name)
def test_each_recorded_answer_is_accepted_with_one_command(cli, file):
    cli("pool", "create", "fx", "--command", "true")
    expected = [run["flow_run"]["id"] for run in json.loads(file.read_bytes())]

    done = cli("submit", file, "--pool", "fx", "--queue", "default")

    assert (done.code, done.err) == (0, f"{len(expected)} accepted, 0 duplicate, 0 refused\n")
    assert [line.split()[:3] for line in done.lines] == [
        ["accepted", run, "fx/default"] for run in expected
    ]


def test_an_accepted_run_keeps_its_bytes(etl):
    raw = json.dumps(an_envelope(1, odd=1.10), indent=3).encode()
    etl("submit", "-", "--pool", "etl", given=b" [\n" + raw + b" ]")
    assert etl("flow-run", "show", run_id(1), "--payload").raw == raw


def test_a_bare_run_keeps_its_bytes_inside_the_envelope(etl):
    raw = b'{ "id": "%s",\t"flow_id" :"%s", "job_variables":{"command":"true"}, "x":1.10}' % (
        run_id(1).encode(),
        run_id(2).encode(),
    )
    etl("submit", "-", "--pool", "etl", given=raw)

    done = etl("flow-run", "show", run_id(1), "--payload")

    assert done.raw.endswith(b'"flow_run":' + raw + b"}")


@pytest.mark.parametrize(
    "given", [json.dumps(a_run(1)), json.dumps([a_run(1)]), json.dumps(a_run(1), indent=1)]
)
def test_an_object_an_array_and_lines_are_read(etl, given):
    done = etl("submit", "-", "--pool", "etl", "--at", AT, given=given)
    assert done.lines == [f"accepted {run_id(1)} etl/default due {DUE}"]


def test_the_same_run_again_is_a_duplicate_and_fine(etl):
    given = ndjson(a_run(1), a_run(1))
    done = etl("submit", "-", "--pool", "etl", given=given)
    assert (done.code, done.lines[1]) == (0, f"duplicate {run_id(1)} is known in pool etl")
    assert done.err == "1 accepted, 1 duplicate, 0 refused\n"


def test_json_has_an_object_for_each_answer(etl):
    given = ndjson(a_run(1), a_run(1), a_run(2, name=5))
    done = etl("submit", "-", "--pool", "etl", "--at", AT, "--json", given=given)
    known = {"id": run_id(1), "work_pool_name": "etl", "work_queue_name": "default"}
    assert done.objects == [
        {"result": "accepted", **known, "expected_start_time": DUE},
        {"result": "duplicate", **known, "expected_start_time": None},
        {
            "result": "refused",
            "where": "line 3",
            "field": "name",
            "reason": "must be a valid string; got 5",
        },
    ]


# --- Where it goes


def test_names_given_win_over_what_a_run_says(etl):
    etl("queue", "create", "fast", "--pool", "etl")
    run = a_run(1, work_queue_name="slow")
    done = etl("submit", "-", "--pool", "etl", "--queue", "fast", given=json.dumps(run))
    assert done.lines[0].split()[2] == "etl/fast"


def test_ids_of_known_pools_and_queues_decide_without_names(cli):
    run = an_envelope(1, work_queue_name="elsewhere")
    cli("pool", "create", "p", "--id", run["work_pool_id"])
    cli("queue", "create", "here", "--pool", "p", "--id", run["work_queue_id"])
    done = cli("submit", "-", given=json.dumps(run))
    assert (done.code, done.lines[0].split()[2]) == (0, "p/here")


def test_the_name_of_the_queue_decides_where_its_id_is_unknown(cli):
    run = an_envelope(1, work_queue_name="critical")
    cli("pool", "create", "p", "--id", run["work_pool_id"])
    cli("queue", "create", "critical", "--pool", "p")
    done = cli("submit", "-", given=json.dumps(run))
    assert (done.code, done.lines[0].split()[2]) == (0, "p/critical")


def test_the_default_queue_is_what_is_left(etl):
    done = etl("submit", "-", "--pool", "etl", given=json.dumps(a_run(1)))
    assert done.lines[0].split()[2] == "etl/default"


def test_create_makes_the_pool_and_the_queues_that_are_missing(cli):
    runs = [a_run(n, work_queue_name=name) for n, name in enumerate(("a", "b", "a"), start=1)]
    done = cli("submit", "-", "--pool", "new", "--create", given=json.dumps(runs))
    assert done.code == 0
    found = {queue["name"]: queue["scheduled"] for queue in queues_of(cli, "new")}
    assert found == {"default": 0, "a": 2, "b": 1}


def test_create_gives_a_pool_and_a_queue_the_ids_that_runs_know_them_by(cli):
    run = an_envelope(1, work_queue_name="critical")
    cli("submit", "-", "--pool", "new", "--create", given=json.dumps(run))
    (pool,) = cli("pool", "ls", "--json").objects
    ids = {queue["name"]: queue["id"] for queue in queues_of(cli, "new")}
    assert (pool["id"], ids["critical"]) == (run["work_pool_id"], run["work_queue_id"])


# --- When it is due


def test_without_at_the_run_itself_says_when(etl):
    run = a_run(1, next_scheduled_start_time="2031-05-01T12:00:00+02:00")
    done = etl("submit", "-", "--pool", "etl", given=json.dumps(run))
    assert done.lines[0].endswith("due 2031-05-01T10:00:00.000Z")


def test_at_may_be_a_delay(etl):
    before_ms = Clock().now_ms()
    etl("submit", "-", "--pool", "etl", "--at", "+1h30m", given=json.dumps(a_run(1)))
    (run,) = listed(etl)
    assert run["state_name"] == "Scheduled"
    assert 5_400_000 <= due_in_ms(run, before_ms) < 5_460_000


def test_at_now_makes_recorded_runs_due_now(etl):
    run = a_run(1, next_scheduled_start_time="2020-01-01T00:00:00Z")
    before_ms = Clock().now_ms()
    etl("submit", "-", "--pool", "etl", "--at", "now", given=json.dumps(run))
    (found,) = listed(etl)
    assert 0 <= due_in_ms(found, before_ms) < 60_000


# --- One run by options


def test_a_run_is_described_by_options(etl):
    done = etl(
        *("submit", "--pool", "etl", "--name", "report", "--command", "echo hi", "--at", AT),
        *("--param", "n=3", "--param", "who=world", "--param", "list=[1, null]"),
        *("--param", "odd=NaN", "--param", "empty=", "--param", "sum=a=b", "--tag", "x"),
    )
    (run,) = listed(etl)
    payload = json.loads(etl("flow-run", "show", run["id"], "--payload").raw)["flow_run"]

    assert done.lines == [f"accepted {run['id']} etl/default due {DUE}"]
    assert (payload["name"], payload["tags"]) == ("report", ["x"])
    assert payload["job_variables"] == {"command": "echo hi"}
    assert payload["parameters"] == {
        "n": 3,
        "who": "world",
        "list": [1, None],
        "odd": "NaN",
        "empty": "",
        "sum": "a=b",
    }


def test_without_a_command_it_is_refused_where_the_pool_has_none(etl):
    done = etl("submit", "--pool", "etl", "--name", "report")
    assert done.code == 1
    assert done.out.startswith("refused options flow_run.job_variables.command: is missing")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([], "give FILE"),
        (["-", "--name", "a"], "give FILE"),
        (["--name", "a", "--param", "n"], "is not NAME=VALUE"),
        (["--name", "a", "--param", "=1"], "is not NAME=VALUE"),
        (["--name", "a", "--param", "n=1", "--param", "n=2"], "given twice"),
        (["-", "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_is_exit_code_2(etl, args, problem):
    done = etl("submit", "--pool", "etl", *args)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


# --- New ids


def test_new_ids_let_the_same_file_run_again(etl):
    run = a_run(1, state={"type": "SCHEDULED", "state_details": {"flow_run_id": run_id(1)}})
    for _ in range(2):
        done = etl("submit", "-", "--pool", "etl", "--new-id", given=json.dumps(run))
        assert done.err == "1 accepted, 0 duplicate, 0 refused\n"

    ids = {each["id"] for each in listed(etl)}
    payloads = [json.loads(etl("flow-run", "show", i, "--payload").raw)["flow_run"] for i in ids]

    assert len(ids) == 2
    assert run_id(1) not in ids
    for payload in payloads:
        assert payload["id"] == payload["state"]["state_details"]["flow_run_id"]
        assert payload | {"id": run["id"], "state": run["state"]} == run


def test_a_new_id_does_not_make_a_run_out_of_something_else(etl):
    done = etl("submit", "-", "--pool", "etl", "--new-id", given='[{"a": 1}, 5, {"flow_run": 3}]')
    assert [line.split()[0] for line in done.lines] == ["refused"] * 3


def test_two_pools_may_hold_the_same_run_id(cli):
    for pool in ("a", "b"):
        cli("pool", "create", pool)
        done = cli("submit", "-", "--pool", pool, given=json.dumps(a_run(1)))
        assert done.err == "1 accepted, 0 duplicate, 0 refused\n"


def test_an_unknown_pool_id_names_the_way_out(etl):
    run = an_envelope(1)
    done = etl("submit", "-", given=json.dumps(run))
    problem = f"work_pool_id: {run['work_pool_id']} is no known pool; name the pool (--pool)"
    assert (done.code, done.lines) == (1, [f"refused line 1 {problem}"])


# --- What is offered again


def test_an_offer_for_another_time_is_retimed(etl):
    etl("submit", "-", "--pool", "etl", given=ndjson(a_run(1), a_run(2)))

    done = etl("submit", "-", "--pool", "etl", "--at", AT, given=ndjson(a_run(1)))
    again = etl("submit", "-", "--pool", "etl", "--at", AT, "--json", given=ndjson(a_run(1)))

    assert (done.code, done.lines) == (0, [f"retimed {run_id(1)} etl/default due {DUE}"])
    assert done.err == "0 accepted, 1 retimed, 0 duplicate, 0 refused\n"
    assert [each["result"] for each in again.objects] == ["duplicate"]
    later = etl("submit", "-", "--pool", "etl", "--at", LATER, "--json", given=ndjson(a_run(1)))
    assert later.objects == [
        {
            "result": "retimed",
            "id": run_id(1),
            "work_pool_name": "etl",
            "work_queue_name": "default",
            "expected_start_time": "2031-01-31T08:00:00.000Z",
        }
    ]


def test_a_known_idempotency_key_names_the_first_run(etl):
    first, second = (a_run(number, idempotency_key="once") for number in (1, 2))
    etl("submit", "-", "--pool", "etl", given=ndjson(first))

    done = etl("submit", "-", "--pool", "etl", given=ndjson(second, first))
    told, same = etl("submit", "-", "--pool", "etl", "--json", given=ndjson(second, first)).objects

    assert (done.code, done.err) == (0, "0 accepted, 2 duplicate, 0 refused\n")
    assert done.lines == [
        f"duplicate {run_id(1)} is known in pool etl; {run_id(2)} has its idempotency key",
        f"duplicate {run_id(1)} is known in pool etl",
    ]
    assert (told["result"], told["id"], told["offered_id"]) == ("duplicate", run_id(1), run_id(2))
    assert (same["id"], "offered_id" in same) == (run_id(1), False)
    assert [run["id"] for run in listed(etl)] == [run_id(1)]
