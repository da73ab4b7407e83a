"""What the commands that create and list things say, to people and to programs."""

import json
import re
from uuid import UUID

import pytest

from dispatcher.clock import Clock
from tests.commands import Commands, Hands, a_run, an_envelope, ndjson, run_id

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LATER = "2035-01-31T08:00:00Z"


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


def submit(cli, *runs, at="now", **options):
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    done = cli("submit", "-", "--pool", "etl", "--at", at, *given, given=ndjson(*runs))
    assert done.code == 0


def one(done):
    (found,) = done.objects
    return found


def steady(fields):
    """Fields of which times are known by their shape, and ids that nobody chose are gone."""
    return {
        name: "TIME" if isinstance(value, str) and TIME.fullmatch(value) else value
        for name, value in fields.items()
    }


# --- Pools


def test_a_pool_shows_the_settings_it_was_created_with(cli):
    created = cli(
        *("pool", "create", "etl", "--id", run_id(5), "--command", "python -m etl"),
        *("--lease", "1500ms", "--retention", "2m", "--keep-payload"),
    )
    found = one(cli("pool", "ls", "--json"))
    assert created.lines == [f"created etl {run_id(5)}"]
    assert steady(found) == {
        "id": run_id(5),
        "name": "etl",
        "type": "process",
        "handout": "stream",
        "created": "TIME",
        "command": "python -m etl",
        "base_job_template": {},
        "concurrency_limit": None,
        "claimed": 0,
        "is_paused": False,
        "pause": None,
        "intake_paused": False,
        "intake_pause": None,
        "lease_seconds": 1.5,
        "heartbeat_interval_seconds": 0.5,
        "retention_seconds": 120.0,
        "keep_payload": True,
        "late_after_seconds": 15.0,
        "idempotency_ttl_seconds": 2_592_000.0,
        "dead_retention_seconds": 604_800.0,
    }


def test_a_pool_has_a_default_queue_from_its_creation(cli):
    created = one(cli("pool", "create", "etl", "--json"))
    shown = one(cli("pool", "show", "etl", "--json"))
    (queue,) = shown["work_queues"]
    assert {name: shown[name] for name in created} == created
    assert (queue["name"], queue["priority"]) == ("default", 1)
    assert shown["default_queue_id"] == queue["id"] == str(UUID(queue["id"]))


def test_a_pool_for_people_has_its_queues_below_it(etl):
    shown = etl("pool", "show", "etl").out
    assert "lease          15 s, renewed every 5 s\n" in shown
    *_, columns, default = shown.splitlines()
    assert columns.split() == [
        *("QUEUE", "PRIORITY", "LIMIT", "SCHEDULED", "WAITING", "UNCLAIMED", "CLAIMED"),
        *("ID", "PAUSED"),
    ]
    assert default.split()[:-1] == ["default", "1", "none", "0", "0", "0", "0"]


def test_creating_the_same_pool_again_changes_nothing_and_another_is_refused(cli):
    cli("pool", "create", "etl", "--id", run_id(5))
    same = cli("pool", "create", "etl", "--id", run_id(5), "--command", "false")
    other = cli("pool", "create", "etl")
    assert (same.code, same.lines) == (0, [f"unchanged etl {run_id(5)}"])
    assert (other.code, other.err) == (1, "error: pool 'etl' exists already\n")
    assert one(cli("pool", "ls", "--json"))["command"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--lease", "soon"),
        ("--lease", "1ms"),
        ("--retention", "0"),
        ("--id", "5"),
        ("--command", "a 'b"),
    ],
)
def test_a_value_that_makes_no_sense_is_wrong_usage(cli, option, value):
    done = cli("pool", "create", "etl", option, value)
    assert done.code == 2
    assert option in done.err
    assert cli("pool", "ls", "--json").objects == []


# --- Queues


def test_queues_are_listed_by_priority_with_what_is_in_them(etl, client, prefix):
    etl("queue", "create", "bulk", "--pool", "etl", "--priority", "9", "--max-unclaimed", "5")
    etl("queue", "create", "urgent", "--pool", "etl", "--priority", "1", "--id", run_id(7))
    submit(etl, *map(a_run, range(3)))
    submit(etl, a_run(9), at=LATER)
    Hands(client, prefix).claim()

    found = etl("queue", "ls", "--pool", "etl", "--json").objects

    names = ("name", "priority", "scheduled", "unclaimed", "claimed", "max_unclaimed")
    assert [tuple(queue[name] for name in names) for queue in found] == [
        ("urgent", 1, 0, 0, 0, 1000),
        ("default", 2, 1, 2, 1, 1000),
        ("bulk", 9, 0, 0, 0, 5),
    ]
    assert steady(one(etl("queue", "show", "urgent", "--pool", "etl", "--json"))) == {
        **steady(found[0]),
        "id": run_id(7),
        "work_pool_name": "etl",
        "max_deliveries": 3,
        "created": "TIME",
    }


def test_a_queue_for_people(etl):
    assert re.fullmatch(
        r"created etl/q [0-9a-f-]{36}\n", etl("queue", "create", "q", "--pool", "etl").out
    )
    assert "max unclaimed  1000\n" in etl("queue", "show", "q", "--pool", "etl").out
    assert "exists already" in etl("queue", "create", "q", "--pool", "etl").err


# --- Flow runs


def test_a_scheduled_run_has_prefects_fields(etl):
    run = a_run(1, deployment_id=run_id(8))
    submit(etl, run, at=LATER)
    found = one(etl("flow-run", "ls", "--json"))
    assert found.pop("created") <= found["expected_start_time"]
    assert found == {
        "id": run_id(1),
        "name": "run-1",
        "state_type": "SCHEDULED",
        "state_name": "Scheduled",
        "state": {"type": "SCHEDULED", "name": "Scheduled", "message": None},
        "work_pool_name": "etl",
        "work_queue_name": "default",
        "deployment_id": run_id(8),
        "run_count": 0,
        "expected_start_time": "2035-01-31T08:00:00.000Z",
        "next_scheduled_start_time": "2035-01-31T08:00:00.000Z",
        "start_time": None,
        "end_time": None,
        "estimated_start_time_delta": 0.0,
        "total_run_time": 0.0,
        "estimated_run_time": 0.0,
    }


def test_an_ended_run_has_its_times_and_every_delivery(etl, client, prefix):
    submit(etl, a_run(1))
    hands = Hands(client, prefix)
    hands.work("FAILED", "exit code 3")

    found = one(etl("flow-run", "show", run_id(1), "--json"))

    (delivery,) = found["deliveries"]
    times = [found[name] for name in ("expected_start_time", "start_time", "end_time")]
    assert times == sorted(times)
    assert (found["state_type"], found["state"]["message"]) == ("FAILED", "exit code 3")
    assert (found["run_count"], found["next_scheduled_start_time"]) == (1, None)
    assert found["estimated_start_time_delta"] < 60
    assert steady(delivery) == {
        "delivery": 1,
        "worker": "hands.1",
        "claim_time": "TIME",
        "start_time": "TIME",
        "end_time": "TIME",
        "outcome": "FAILED",
    }


def test_a_run_for_people_says_from_due_to_start(etl, client, prefix):
    submit(etl, a_run(1))
    Hands(client, prefix).work("FAILED", "exit code 3")
    shown = etl("flow-run", "show", run_id(1)).out
    assert "state          FAILED (Failed)\nmessage        exit code 3\n" in shown
    assert re.search(r"^due to start   [\d,]+ ms$", shown, re.MULTILINE)
    assert re.search(r"^1 +hands\.1 +(\S+Z +){3}FAILED$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("state_name", "due", "expected"),
    [
        ("Scheduled", "2020-01-01T00:00:00Z", "Late"),
        ("Late", LATER, "Scheduled"),
        ("AwaitingRetry", LATER, "AwaitingRetry"),
    ],
)
def test_late_depends_on_the_time_of_reading(etl, state_name, due, expected):
    submit(etl, a_run(1, state_type="SCHEDULED", state_name=state_name), at=due)
    assert one(etl("flow-run", "ls", "--json"))["state_name"] == expected
    assert one(etl("flow-run", "show", run_id(1), "--json"))["state_name"] == expected


def test_runs_are_listed_by_pool_queue_and_state(etl, client, prefix):
    etl("queue", "create", "q", "--pool", "etl")
    etl("pool", "create", "other")
    submit(etl, *map(a_run, range(1, 6)))
    submit(etl, a_run(6), at=LATER, queue="q")
    etl("submit", "-", "--pool", "other", "--at", LATER, given=json.dumps(a_run(7)))
    hands = Hands(client, prefix)
    hands.work()
    hands.work("CRASHED")
    hands.start(hands.claim())
    hands.claim()

    def numbers(*args):
        found = etl("flow-run", "ls", "--json", *args).objects
        return sorted(UUID(run["id"]).int for run in found)

    assert numbers() == [1, 2, 3, 4, 5, 6, 7]
    assert numbers("--pool", "etl") == [1, 2, 3, 4, 5, 6]
    assert numbers("--pool", "etl", "--queue", "q") == numbers("--queue", "q") == [6]
    assert numbers("--state", "completed") == [1]
    assert numbers("--state", "CRASHED", "--state", "RUNNING") == [2, 3]
    assert numbers("--state", "PENDING") == [4]
    assert numbers("--state", "SCHEDULED") == [5, 6, 7]
    assert numbers("--state", "PAUSED") == []


def test_a_run_that_waits_for_its_deployment_is_listed_as_waiting(etl, client, prefix):
    etl("deployment", "set", run_id(8), "--pool", "etl", "--limit", "1")
    submit(etl, *(a_run(number, deployment_id=run_id(8)) for number in (1, 2)))
    Hands(client, prefix).claim()
    for states in ([], ["--state", "SCHEDULED"]):
        found = etl("flow-run", "ls", "--json", *states).objects
        waiting = {run["id"]: run["state_name"] for run in found}
        assert waiting[run_id(2)] == "AwaitingConcurrencySlot"
    assert "SCHEDULED (AwaitingConcurrencySlot)" in etl("flow-run", "show", run_id(2)).out


def test_the_start_of_a_run_is_its_first_one(etl, client, prefix):
    submit(etl, a_run(1))
    hands = Hands(client, prefix)
    hands.start(hands.claim())
    first = one(etl("flow-run", "show", run_id(1), "--json"))
    hands.die()
    hands.work()

    last = one(etl("flow-run", "show", run_id(1), "--json"))

    assert (last["start_time"], last["run_count"]) == (first["start_time"], 2)
    assert last["estimated_start_time_delta"] == first["estimated_start_time_delta"]
    assert first["estimated_run_time"] >= first["total_run_time"] == 0
    assert last["estimated_run_time"] == last["total_run_time"]
    assert (last["losses"], [each["outcome"] for each in last["deliveries"]]) == (
        1,
        ["lost", "COMPLETED"],
    )
    assert f"started        {first['start_time']}\n" in etl("flow-run", "show", run_id(1)).out


def test_a_limit_says_that_there_is_more(etl):
    submit(etl, *map(a_run, range(5)))
    cut = etl("flow-run", "ls", "--limit", "2", "--json")
    whole = etl("flow-run", "ls", "--limit", "5", "--json")
    assert (len(cut.objects), cut.err) == (2, "there are more than 2: --limit shows more\n")
    assert (len(whole.objects), whole.err) == (5, "")


def test_a_piped_table_cuts_and_colours_nothing(etl):
    submit(etl, a_run(1, name="n" * 300), at=LATER)
    header, row = etl("flow-run", "ls").lines
    assert header.split() == ["ID", "NAME", "STATE", "POOL", "QUEUE", "DUE", "STARTED", "ENDED"]
    due = "2035-01-31T08:00:00.000Z"
    assert row.split() == [run_id(1), "n" * 300, "Scheduled", "etl", "default", due]


def test_a_name_cannot_move_the_cursor(etl):
    submit(etl, a_run(1, name="a\x1b[2J\nb [red]c"))
    for args in (("ls",), ("show", run_id(1))):
        assert "a�[2J�b [red]c" in etl("flow-run", *args).out


def test_the_payload_is_gone_with_a_completed_run_unless_the_pool_keeps_it(cli, client, prefix):
    for pool, options in (("etl", []), ("kept", ["--keep-payload"])):
        cli("pool", "create", pool, *options)
        cli("submit", "-", "--pool", pool, given=json.dumps(an_envelope(1)))
        Hands(client, prefix, pool).work()

    gone = cli("flow-run", "show", run_id(1), "--payload", "--pool", "etl")
    kept = cli("flow-run", "show", run_id(1), "--payload", "--pool", "kept")

    assert (gone.code, gone.out) == (1, "")
    assert gone.err.startswith(f"error: run {run_id(1)} has ended and its payload was dropped")
    assert kept.out == json.dumps(an_envelope(1))


def test_logs_are_the_bytes_that_the_run_wrote(etl, client, prefix):
    submit(etl, a_run(1))
    before = etl("flow-run", "logs", run_id(1))
    Hands(client, prefix).work()
    after = etl("flow-run", "logs", run_id(1).upper())
    assert (before.code, before.raw) == (0, b"")
    assert before.err == f"run {run_id(1)} is SCHEDULED: its output is kept at its end\n"
    assert (after.raw, after.err) == (b"said \x00 and \xff\n", "")


@pytest.mark.parametrize("args", [("show",), ("logs",), ("show", "--json"), ("show", "--payload")])
def test_an_unknown_run_is_one_line(etl, args):
    done = etl("flow-run", *args, run_id(3))
    assert (done.code, done.out, done.err) == (1, "", f"error: run {run_id(3)} is not known\n")


# --- Workers


def test_workers_are_ready_draining_or_lost(etl, client, prefix):
    submit(etl, a_run(1))
    hands = Hands(client, prefix)
    hands.claim()

    def worker():
        return one(etl("worker", "ls", "--json"))

    ready = worker()
    assert 0 < ready.pop("lease_left_seconds") <= 15
    assert steady(ready) == {
        "id": "hands.1",
        "name": "hands",
        "work_pool_name": "etl",
        "status": "ready",
        "type": "process",
        "host": "here",
        "pid": 7,
        "work_queue_names": [],
        "slots": 10,
        "held": 1,
        "created": "TIME",
    }
    hands.store.drain("etl", hands.holder, reason="test")
    assert worker()["status"] == "draining"
    client.zadd(hands.store.keys("etl")["holders"], {hands.holder: Clock().now_ms() - 1})
    assert (worker()["status"], worker()["lease_left_seconds"]) == ("lost", 0.0)


def test_workers_for_people_are_those_of_all_pools_or_of_one(etl, client, prefix):
    etl("pool", "create", "other")
    Hands(client, prefix, "other")
    assert re.search(
        r"^hands +other +ready +here +7 +10 +0 +1\d(\.\d)? s +all$",
        etl("worker", "ls").out,
        re.MULTILINE,
    )
    assert etl("worker", "ls", "--pool", "etl", "--json").objects == []


@pytest.mark.parametrize("kind", ["pool", "flow-run", "dead-letter", "worker"])
def test_before_anything_exists_lists_are_empty_and_fine(cli, kind):
    done = cli(kind, "ls", "--json")
    assert (done.code, done.out, done.err) == (0, "", "")
