"""`worker drain`: who is told, what the command waits for, and what it says became of each."""

import json
import os
import pty
import re
import signal
import subprocess

import pytest

from dispatcher.records import Registration, Release, Word
from tests.commands import Commands, Hands, a_run, ndjson
from tests.probes import wait_until

NOW = ("--timeout", "0")


@pytest.fixture
def cli(real_server, prefix, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "engine")
    commands = Commands(real_server.url, prefix)
    assert commands("pool", "create", "etl").code == 0
    return commands


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


@pytest.fixture
def hands(cli, client, prefix):
    return Hands(client, prefix)


def register(hands, name, *, pool="etl", host="there", pid=8, kind="process", incarnation="1"):
    registration = Registration(name, incarnation, slots=5, host=host, pid=pid, type=kind)
    return hands.store.register(pool, registration).holder


def holding(cli, hands, count):
    """Let the hands have started so many runs."""
    runs = [a_run(number) for number in range(1, count + 1)]
    assert cli("submit", "-", "--pool", "etl", given=ndjson(*runs)).code == 0
    return [hands.start(hands.claim()) for _ in runs]


def leave(hands):
    """End as a worker does that has nothing left."""
    assert hands.store.drain("etl", hands.holder, reason="") is Word.DRAINED
    hands.store.recover_all("etl", hands.holder)


def states(cli, *args):
    return {each["name"]: each["status"] for each in cli("worker", "ls", "--json", *args).objects}


def told(cli):
    """The workers that events say are draining."""
    events = cli("event", "--pool", "etl", "--json").objects
    return sorted(each["worker"] for each in events if each["event"] == "draining")


def waiting(cli, hands, *args):
    """Start a drain that waits, and return when the hands know of it."""
    process = cli.start("worker", "drain", *args, stdin=subprocess.DEVNULL)
    wait_until(lambda: states(cli)["hands"] != "ready", "the hands are told")
    return process


def ended(process):
    out, err = (stream.decode() for stream in process.communicate(timeout=30))
    return process.returncode, out, err


# --- What becomes of a worker


def test_a_busy_worker_is_told_and_named_when_the_time_is_over(cli, hands):
    holding(cli, hands, 2)

    done = cli("worker", "drain", "hands", *NOW, "--reason", "upgrade", "--json")

    (found,) = done.objects
    assert found.pop("took_seconds") < 30
    assert found == {
        "result": "draining",
        "id": "hands.1",
        "name": "hands",
        "work_pool_name": "etl",
        "host": "here",
        **{"ended": 0, "released": 0, "lost": 0, "held": 2},
    }
    assert done.code == 1
    assert done.err == "error: still draining after 0 ms: hands (2 runs); they go on\n"
    (event,) = [e for e in cli("event", "--json").objects if e["event"] == "draining"]
    assert (event["worker"], event["reason"], event["by"]) == ("hands.1", "upgrade", "ada@engine")


def test_a_worker_is_ready_draining_drained_and_gone(cli, hands):
    claim, *_ = holding(cli, hands, 1)
    seen = [states(cli)]
    cli("worker", "drain", "hands", *NOW)
    seen.append(states(cli))
    hands.finish(claim)
    seen.append(states(cli))
    leave(hands)
    seen.append(states(cli))

    assert seen == [{"hands": "ready"}, {"hands": "draining"}, {"hands": "drained"}, {}]
    events = [each["event"] for each in cli("event", "--json").objects]
    assert [e for e in events if "drain" in e] == ["draining", "drained"]


def test_it_waits_until_the_last_run_has_ended_and_the_worker_has_left(cli, hands):
    one, other, given_back = holding(cli, hands, 3)
    process = waiting(cli, hands, "hands")
    hands.finish(one)
    hands.finish(other, "FAILED")
    hands.store.report("etl", Release(given_back.run_id, given_back.token, "its grace is over"))
    assert states(cli) == {"hands": "drained"}
    assert process.poll() is None

    leave(hands)

    code, out, err = ended(process)
    assert (code, err) == (0, "drained hands (1 of 1)\n")
    columns, row = out.splitlines()
    assert columns.split("  ")[0] == "NAME"
    assert re.fullmatch(r"hands +etl +here +drained +2 +1 +0 +0 +[\d,.]+ m?s", row)


def test_a_worker_whose_runs_are_taken_back_is_lost(cli, hands, client):
    holding(cli, hands, 2)
    process = waiting(cli, hands, "hands", "--json")

    client.zadd(hands.store.keys("etl")["holders"], {hands.holder: 1})
    hands.store.recover_all("etl", hands.holder)

    code, out, err = ended(process)
    fate = json.loads(out)
    assert (fate["result"], fate["lost"], fate["ended"], fate["held"]) == ("lost", 2, 0, 0)
    assert (code, err) == (1, "error: lost while they drained: hands; their runs go elsewhere\n")


def test_a_worker_whose_lease_ended_long_ago_is_lost_also_while_nobody_recovers_it(
    cli, hands, client
):
    holding(cli, hands, 1)
    process = waiting(cli, hands, "hands", "--json")
    ends_ms = hands.store.keys("etl")["holders"]

    client.zadd(ends_ms, {hands.holder: 2})

    code, out, _ = ended(process)
    fate = json.loads(out)
    assert (code, fate["result"], fate["held"], fate["lost"]) == (1, "lost", 1, 0)


def test_a_lease_that_ended_just_now_is_waited_for(cli, hands, client):
    (claim,) = holding(cli, hands, 1)
    process = waiting(cli, hands, "hands")
    holders = hands.store.keys("etl")["holders"]
    client.zadd(holders, {hands.holder: client.time()[0] * 1_000})
    assert states(cli) == {"hands": "lost"}
    hands.store.renew("etl", hands.holder, held=1, number=1)  # the server was away, and is back
    hands.finish(claim)
    leave(hands)

    code, out, _ = ended(process)
    assert code == 0
    assert " drained " in out


def test_on_a_terminal_a_bar_tells_what_is_left(cli, hands):
    claims = holding(cli, hands, 2)
    ours, theirs = pty.openpty()
    cli.environ |= {"TERM": "xterm-256color", "COLUMNS": "120"}
    process = cli.start("worker", "drain", "hands", stdin=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = ""

    def shows(text):
        nonlocal shown
        while text not in shown:
            shown += os.read(ours, 65_536).decode(errors="replace")
        return True

    assert shows("0 of 1 worker gone, 2 runs left")
    hands.finish(claims[0])
    assert shows("0 of 1 worker gone, 1 run left")
    hands.finish(claims[1])
    leave(hands)
    assert shows("1 of 1 worker gone, 0 runs left")
    code, out = process.wait(30), process.stdout.read().decode()
    process.stdout.close()
    os.close(ours)
    assert (code, len(out.splitlines())) == (0, 2)
    assert "drained hands" not in shown


def test_ctrl_c_ends_the_waiting_and_not_the_draining(cli, hands):
    holding(cli, hands, 1)
    process = waiting(cli, hands, "hands")

    process.send_signal(signal.SIGINT)

    code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert err == "who was told goes on draining; the same command waits on\n"
    assert states(cli) == {"hands": "draining"}


# --- Who is told


def test_a_name_that_is_not_known_is_one_line_and_the_others_are_told(cli, hands):
    holding(cli, hands, 1)

    done = cli("worker", "drain", "nobody", "hands", *NOW)

    first, last = done.err.splitlines()[0], done.err.splitlines()[-1]
    assert done.code == 1
    assert first == ("error: worker nobody is not known; `dispatcher worker ls` shows who is there")
    assert "hands (1 run)" in last
    assert told(cli) == ["hands.1"]


def test_only_unknown_names_change_nothing(cli, hands):
    done = cli("worker", "drain", "nobody", "--json")
    assert (done.code, done.err) == (1, "")
    assert [(each["result"], each["id"]) for each in done.objects] == [("refused", "nobody")]
    assert told(cli) == []


@pytest.mark.parametrize(
    "args", [[], ["a", "--all"], ["a", "--host", "h"], ["--all", "--host", "h"]]
)
def test_it_takes_names_or_a_host_or_all(cli, args):
    done = cli("worker", "drain", *args)
    assert done.code == 2
    assert "give NAME…, or --host, or --all" in done.err


@pytest.mark.parametrize("args", [["--all"], ["--host", "there"]])
def test_a_filter_tells_how_many_there_are_and_without_a_terminal_wants_yes(cli, hands, args):
    register(hands, "b")
    refused = cli("worker", "drain", *args, *NOW)
    before = told(cli)
    done = cli("worker", "drain", *args, *NOW, "--yes")

    chosen = ["b.1", "hands.1"] if args == ["--all"] else ["b.1"]
    count = "2 workers" if args == ["--all"] else "1 worker"
    for each in (refused, done):
        assert each.err.splitlines()[0] == f"{count} with 0 runs will drain"
    assert (refused.code, before) == (1, [])
    assert refused.err.splitlines()[1] == (
        "error: nothing was done: without a terminal to ask on give --yes"
    )
    assert told(cli) == chosen


def test_a_host_without_workers_is_one_line(cli, hands):
    done = cli("worker", "drain", "--host", "nowhere", "--yes")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: host nowhere has no live worker; `dispatcher worker ls` shows all\n"
    )


def test_all_of_nothing_is_done_at_once(cli):
    done = cli("worker", "drain", "--all", "--yes")
    assert (done.code, done.out, done.err) == (0, "", "none\n")


def test_a_pool_narrows_what_a_name_finds(cli, hands):
    cli("pool", "create", "other")
    register(hands, "hands", pool="other")

    cli("worker", "drain", "hands", "--pool", "other", *NOW)
    of_one = {pool: states(cli, "--pool", pool)["hands"] for pool in ("etl", "other")}
    cli("worker", "drain", "hands", *NOW)
    of_both = {pool: states(cli, "--pool", pool)["hands"] for pool in ("etl", "other")}

    assert of_one == {"etl": "ready", "other": "drained"}
    assert of_both == {"etl": "drained", "other": "drained"}
    assert "does not exist" in cli("worker", "drain", "hands", "--pool", "nope").err


def test_a_lost_worker_is_refused_by_name_and_left_alone_by_a_filter(cli, hands, client):
    client.zadd(hands.store.keys("etl")["holders"], {hands.holder: 1})

    by_name = cli("worker", "drain", "hands")
    by_filter = cli("worker", "drain", "--all", "--yes")

    assert (by_name.code, by_name.out) == (1, "")
    assert by_name.err == (
        "error: worker hands has no lease any more: a dispatcher takes its runs back\n"
    )
    assert (by_filter.code, by_filter.err) == (0, "none\n")
    assert told(cli) == []


def over_http(hands):
    return register(hands, "http~1", kind="http", host="here", pid=0)


def in_rq(hands):
    return hands.store.register_shared("etl", "etl", slots=5, host="here", pid=9).holder


@pytest.mark.parametrize(
    ("hold", "why"),
    [
        (over_http, "is a claim over HTTP, which takes nothing more by itself"),
        (in_rq, "is a queue of RQ: drain the workers that hand over to it"),
    ],
)
def test_a_holder_that_is_no_worker_is_refused_by_name_and_left_alone_by_a_filter(
    cli, hands, hold, why
):
    holder = hold(hands)

    by_name = cli("worker", "drain", holder)
    cli("worker", "drain", "--host", "here", *NOW, "--yes")

    assert by_name.code == 1
    assert by_name.err.startswith(f"error: {holder} {why}")
    assert len(by_name.err.splitlines()) == 1
    assert told(cli) == ["hands.1"]
