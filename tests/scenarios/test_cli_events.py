"""`event`: what has happened, in order, from where a reader left off, and what happens next."""

import json
import re
import signal
from contextlib import contextmanager

import pytest

from tests.commands import Commands, Done, Hands, a_run, ndjson, run_id
from tests.probes import wait_until
from tests.servers import AOF

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
LATER = "2035-01-31T08:00:00.000Z"


@pytest.fixture
def cli(real_server, prefix, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "engine")
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl", "--id", run_id(5)).code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


def submit(cli, *numbers, pool="etl", **fields):
    runs = [a_run(number, **fields) for number in numbers]
    assert cli("submit", "-", "--pool", pool, "--at", LATER, given=ndjson(*runs)).code == 0


def told(cli, *args):
    """What `event --json` writes: names of events with their runs' numbers."""
    return [short(each) for each in cli("event", "--json", *args).objects]


def short(event):
    run = event["flow_run_id"]
    return f"{event['event']} {int(run[-4:], 16)}" if run else event["event"]


def error_of(done: Done) -> str:
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    return line


# --- What was


def test_an_event_is_one_line_with_when_where_what_and_who(etl, client, prefix):
    submit(etl, 1)
    etl("flow-run", "retime", run_id(1), "--at", "now")
    hands = Hands(client, prefix)
    hands.start(hands.claim())
    etl("flow-run", "release", run_id(1), "--reason", "it hangs")
    etl("queue", "set", "default", "--pool", "etl", "--limit", "5")

    lines = etl("event").lines

    assert [re.sub(TIME, "TIME", line.replace(LATER, "LATER")) for line in lines] == [
        f"TIME etl pool-created id {run_id(5)}",
        f"TIME etl submitted {run_id(1)} →SCHEDULED queue default due LATER",
        f"TIME etl retimed {run_id(1)} queue default due TIME by ada@engine",
        "TIME etl registered worker hands.1",
        f"TIME etl dispatched {run_id(1)} queue default due TIME",
        f"TIME etl claimed {run_id(1)} SCHEDULED→PENDING queue default worker hands.1",
        f"TIME etl started {run_id(1)} PENDING→RUNNING queue default worker hands.1",
        f"TIME etl released {run_id(1)} RUNNING→SCHEDULED queue default worker hands.1"
        " by ada@engine: it hangs",
        "TIME etl queue-set queue default by ada@engine: limit=5",
    ]


def test_an_event_for_programs_has_the_same_fields_always(etl):
    submit(etl, 1)
    created, submitted = etl("event", "--pool", "etl", "--json").objects
    for each in (created, submitted):
        assert re.fullmatch(r"\d{13}-\d+", each.pop("cursor"))
        assert re.fullmatch(TIME, each.pop("occurred"))
    nothing = dict.fromkeys(("from", "to", "worker", "reason", "by"))
    assert created == {
        "event": "pool-created",
        "work_pool_name": "etl",
        "work_queue_name": None,
        "flow_run_id": None,
        **nothing,
        "id": run_id(5),
    }
    assert submitted == {
        "event": "submitted",
        "work_pool_name": "etl",
        "work_queue_name": "default",
        "flow_run_id": run_id(1),
        **nothing,
        "to": "SCHEDULED",
        "expected_start_time": LATER,
    }


def test_the_last_50_are_shown_unless_a_limit_says_else(etl):
    submit(etl, *range(1, 61))
    assert told(etl) == [f"submitted {number}" for number in range(11, 61)]
    assert told(etl, "--limit", "2") == ["submitted 59", "submitted 60"]
    assert told(etl, "--limit", "1000")[:2] == ["pool-created", "submitted 1"]
    assert len(told(etl, "--limit", "1000")) == 61


def test_more_events_than_fit_a_page_are_read(etl):
    submit(etl, *range(1, 1_201))
    assert told(etl, "--limit", "1100")[0] == "submitted 101"


def test_all_pools_are_shown_together_in_order_of_time(etl):
    etl("pool", "create", "other")
    submit(etl, 1)
    submit(etl, 2, pool="other")
    submit(etl, 3)
    whole = ["pool-created", "pool-created", "submitted 1", "submitted 2", "submitted 3"]
    assert told(etl) == whole
    assert told(etl, "--limit", "3") == whole[2:]
    assert told(etl, "--pool", "etl") == ["pool-created", "submitted 1", "submitted 3"]


def test_a_run_has_all_its_events(etl):
    submit(etl, 1)
    submit(etl, *range(2, 700))
    etl("flow-run", "cancel", run_id(1))
    assert told(etl, "--run", run_id(1)) == ["submitted 1", "cancelled 1"]
    assert told(etl, "--run", run_id(1).upper(), "--limit", "1") == ["cancelled 1"]
    assert told(etl, "--run", run_id(800)) == []


def test_a_run_shows_its_whole_history(etl, client, prefix):
    submit(etl, 1)
    etl("flow-run", "retime", run_id(1), "--at", "now")
    hands = Hands(client, prefix)
    hands.work()
    (found,) = etl("flow-run", "show", run_id(1), "--json").objects
    events = [each["event"] for each in found["events"]]
    assert events == ["submitted", "retimed", "dispatched", "claimed", "started", "finished"]
    assert "cursor" not in found["events"][0]
    assert found["total_run_time"] == found["estimated_run_time"] >= 0
    *_, last = etl("flow-run", "show", run_id(1)).lines
    assert re.fullmatch(rf"{TIME} +finished +RUNNING +COMPLETED +hands\.1", last)


@pytest.mark.parametrize("where", [["--pool", "etl"], []], ids=["one pool", "all pools"])
@pytest.mark.parametrize("limit", [["--limit", "4"], ["--limit", "1000"], []])
def test_each_cursor_goes_on_behind_its_event(etl, where, limit):
    etl("pool", "create", "other")
    for number in range(1, 7):
        submit(etl, number, pool="etl" if number % 2 or where else "other")
    found = etl("event", "--json", *where, *limit).objects
    assert len(found) in (4, 7, 8)
    for position, each in enumerate(found):
        rest = [short(later) for later in found[position + 1 :]]
        assert told(etl, *where, "--after", each["cursor"]) == rest


def test_a_cursor_of_all_pools_begins_anew_with_a_pool_that_it_does_not_know(etl):
    last = etl("event", "--json").objects[-1]["cursor"]
    etl("pool", "create", "a=b,c d")
    submit(etl, 1)
    after = etl("event", "--json", "--after", last).objects
    assert sorted(map(short, after)) == ["pool-created", "submitted 1"]
    assert told(etl, "--after", after[-1]["cursor"]) == []


def test_a_cursor_with_a_limit_gives_the_first_ones(etl):
    first = etl("event", "--pool", "etl", "--json").objects[0]["cursor"]
    submit(etl, 1, 2, 3)
    page = etl("event", "--pool", "etl", "--json", "--after", first, "--limit", "2").objects
    assert [short(each) for each in page] == ["submitted 1", "submitted 2"]
    assert told(etl, "--pool", "etl", "--after", page[-1]["cursor"]) == ["submitted 3"]


@pytest.mark.parametrize("cursor", ["nonsense", "etl", "etl=", "etl=1", "=1-1", "1-1-1", "a=b=1-1"])
def test_a_cursor_that_is_none_is_one_line(etl, cursor):
    for where in ([], ["--pool", "etl"]):
        error = error_of(etl("event", "--after", cursor, *where))
        assert (
            error == f"error: cursor '{cursor}' is not understood; give one that --json has shown"
        )


def test_an_unknown_pool_is_one_line_and_no_pools_are_no_events(cli):
    assert error_of(cli("event", "--pool", "no")).startswith("error: pool 'no' does not exist")
    assert (cli("event").out, cli("event", "--json").code) == ("", 0)


def test_a_reason_cannot_move_the_cursor(etl):
    etl("pool", "pause", "etl", "--reason", "a\x1b[2J\nb")
    assert etl("event").lines[-1].endswith(": a�[2J�b")


# --- What happens


@contextmanager
def following(cli, *args):
    """A process that follows, and has written its first event."""
    process = cli.start("event", "--follow", "--json", *args)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def next_of(process):
    return short(json.loads(process.stdout.readline()))


def test_a_follower_goes_on_with_what_happens_until_ctrl_c(etl):
    cursor = etl("event", "--json").objects[-1]["cursor"]
    submit(etl, 1)
    with following(etl, "--after", cursor) as process:
        assert next_of(process) == "submitted 1"
        submit(etl, 2)
        assert next_of(process) == "submitted 2"
        etl("pool", "pause", "etl")
        assert next_of(process) == "paused"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""


def test_a_follower_of_a_run_begins_with_its_history(etl):
    submit(etl, 1, 2)
    with following(etl, "--run", run_id(1)) as process:
        assert next_of(process) == "submitted 1"
        etl("flow-run", "cancel", run_id(2), run_id(1))
        assert next_of(process) == "cancelled 1"


def test_a_follower_of_one_pool_hears_of_no_other(etl):
    etl("pool", "create", "other")
    with following(etl, "--pool", "etl", "--after", "0-0") as process:
        assert next_of(process) == "pool-created"
        submit(etl, 1, pool="other")
        submit(etl, 2)
        assert next_of(process) == "submitted 2"


def test_a_follower_of_all_pools_hears_of_one_that_is_new(cli):
    with following(cli, "--after", "none=0-0") as process:
        cli("pool", "create", "etl")
        assert next_of(process) == "pool-created"
        cli("pool", "create", "other")
        assert next_of(process) == "pool-created"
        submit(cli, 1, pool="other")
        assert next_of(process) == "submitted 1"


def test_a_follower_hears_the_end_of_a_pool_and_of_its_successor(etl):
    with following(etl, "--after", "etl=0-0") as process:
        assert next_of(process) == "pool-created"
        etl("pool", "delete", "etl")
        assert [next_of(process) for _ in range(3)] == ["intake-paused", "paused", "pool-deleted"]
        etl("pool", "create", "etl")
        assert next_of(process) == "pool-created"


def test_a_follower_with_a_limit_ends_by_itself(etl):
    with following(etl, "--after", "etl=0-0", "--limit", "2") as process:
        assert next_of(process) == "pool-created"
        submit(etl, 1, 2)
        assert next_of(process) == "submitted 1"
        assert process.wait(30) == 0


def test_a_follower_begins_with_what_comes_after_it_came(etl, client):
    submit(etl, 1)
    with following(etl) as process:
        wait_until(lambda: is_heard(client), "somebody waits for events")
        submit(etl, 2)
        assert next_of(process) == "submitted 2"


def is_heard(client):
    rows = client.client_list()
    return any("b" in row["flags"] and row["cmd"] == "xread" for row in rows)


def test_a_follower_survives_an_outage_and_misses_nothing(own_server, prefix):
    server = own_server(config=AOF)
    cli = Commands(server.url, prefix)
    cli("pool", "create", "etl")
    with following(cli, "--after", "etl=0-0") as process:
        assert next_of(process) == "pool-created"
        server.kill()
        warned = process.stderr.readline().decode()
        server.start()
        submit(cli, 1)
        assert next_of(process) == "submitted 1"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert re.fullmatch(r"warning: Redis at .*; waiting for it\n", warned)


def test_a_follower_whose_reader_has_gone_ends(etl):
    with following(etl, "--after", "etl=0-0") as process:
        assert next_of(process) == "pool-created"
        process.stdout.close()
        for number in range(1, 4):
            submit(etl, number)
        assert process.wait(30) == 1
        assert process.stderr.read() == b""
