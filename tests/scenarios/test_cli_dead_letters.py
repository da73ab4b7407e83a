"""`dead-letter ls|show|requeue|purge`: what was set aside, why, and what becomes of it."""

import json
import os
import pty
import re

import pytest

from tests.commands import Commands, Done, Hands, a_run, an_envelope, ndjson, run_id

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LATER = "2035-01-31T08:00:00Z"
WHY = "lost while running 1 time"


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    """A pool that sets a run aside after its first loss."""
    assert cli("pool", "create", "etl").code == 0
    cli("queue", "set", "default", "--pool", "etl", "--max-deliveries", "1")
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


@pytest.fixture
def hands(etl, client, prefix):
    return Hands(client, prefix)


@pytest.fixture
def dead(etl, hands):
    """Runs 1, 2 and 3, set aside in this order."""
    for number in (1, 2, 3):
        put_dead(etl, hands, number)
    return etl


def put_dead(etl, hands, number):
    etl("submit", "-", "--pool", "etl", given=json.dumps(a_run(number)))
    hands.start(hands.claim())
    hands.die()


def error_of(done: Done) -> str:
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    return line


def left(cli, *options):
    found = cli("dead-letter", "ls", "--json", *options).objects
    return [int(run["id"][-4:], 16) for run in found]


def everything(client, prefix):
    return {key: client.dump(key) for key in client.scan_iter(f"{prefix}:*")}


def age(client, hands, number, span_ms):
    """Make a dead letter so much older than it is."""
    keys = hands.store.keys("etl")
    key = keys["run"] + run_id(number)
    at_ms = int(client.hget(key, "ended_ms")) - span_ms
    client.hset(key, "ended_ms", at_ms)
    client.zadd(keys["dead"], {run_id(number): at_ms})


# --- ls and show


def test_dead_letters_are_listed_the_last_one_first_with_the_reason(dead):
    header, *rows = dead("dead-letter", "ls").lines
    assert header.split() == ["ID", "NAME", "POOL", "QUEUE", "SINCE", "DELIVERIES", "REASON"]
    assert [row.split()[0] for row in rows] == [run_id(number) for number in (3, 2, 1)]
    assert rows[0].split()[1:4] == ["run-3", "etl", "default"]
    assert rows[0].endswith(f"  1           {WHY}")
    (third, *_) = dead("dead-letter", "ls", "--json").objects
    assert (third["state_type"], third["state"]["message"], third["losses"]) == ("CRASHED", WHY, 1)


def test_a_list_is_of_one_pool_or_of_all_and_says_when_there_is_more(dead):
    dead("pool", "create", "other")
    assert left(dead, "--pool", "other") == []
    assert left(dead) == left(dead, "--pool", "etl") == [3, 2, 1]
    cut = dead("dead-letter", "ls", "--limit", "2", "--json")
    assert (len(cut.objects), cut.err) == (2, "there are more than 2: --limit shows more\n")


def test_only_those_set_aside_so_long_ago_are_listed(dead, client, hands):
    age(client, hands, 1, 3_600_000)
    assert left(dead, "--older-than", "30m") == [1]
    assert left(dead, "--older-than", "2h") == []


def test_a_dead_letter_shows_its_payload_the_reason_and_every_delivery(etl, hands):
    etl("queue", "set", "default", "--pool", "etl", "--max-deliveries", "2")
    etl("submit", "-", "--pool", "etl", given=json.dumps(an_envelope(1)))
    for _ in range(2):
        hands.start(hands.claim())
        hands.die()

    (found,) = etl("dead-letter", "show", run_id(1), "--json").objects

    assert found["payload"] == an_envelope(1)
    assert found["state"]["message"] == "lost while running 2 times"
    assert [(each["delivery"], each["worker"]) for each in found["deliveries"]] == [
        (1, "hands.1"),
        (2, "hands.2"),
    ]
    for each in found["deliveries"]:
        times = [each[name] for name in ("claim_time", "start_time", "end_time")]
        assert all(TIME.fullmatch(at) for at in times)
        assert each["outcome"] == "lost"
    assert found["events"][-1]["event"] == "dead"
    shown = etl("dead-letter", "show", run_id(1)).out
    assert "message        lost while running 2 times\n" in shown
    assert re.search(r"^2 +hands\.2 +(\S+Z +){3}lost$", shown, re.MULTILINE)
    assert shown.endswith(f"\npayload\n{json.dumps(an_envelope(1))}\n")


# --- requeue and purge


def test_a_requeued_run_is_scheduled_anew_and_its_losses_are_forgotten(dead, hands):
    done = dead("dead-letter", "requeue", run_id(2))
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(rf"requeued {run_id(2)} due \S+Z\n", done.out)
    assert left(dead) == [3, 1]
    claim = hands.start(hands.claim())
    assert (claim.run_id, claim.delivery) == (run_id(2), 2)
    (found,) = dead("flow-run", "show", run_id(2), "--json").objects
    assert (found["state_type"], found["losses"]) == ("RUNNING", 0)


def test_a_requeued_run_may_be_due_later(dead):
    (told,) = dead("dead-letter", "requeue", run_id(1), "--at", LATER, "--json").objects
    assert told == {
        "result": "requeued",
        "id": run_id(1),
        "work_pool_name": "etl",
        "expected_start_time": "2035-01-31T08:00:00.000Z",
    }


def test_a_purged_run_is_forgotten(dead, client, hands):
    done = dead("dead-letter", "purge", run_id(2), run_id(3))
    assert (done.code, done.err) == (0, "")
    assert done.lines == [f"purged {run_id(2)}", f"purged {run_id(3)}"]
    assert left(dead) == [1]
    assert error_of(dead("flow-run", "show", run_id(2))) == f"error: run {run_id(2)} is not known"
    assert [
        e["flow_run_id"] for e in dead("event", "--json").objects if e["event"] == "purged"
    ] == [
        run_id(2),
        run_id(3),
    ]


VERBS = pytest.mark.parametrize(("verb", "did"), [("requeue", "requeued"), ("purge", "purged")])


@VERBS
def test_all_are_counted_first_and_need_yes_without_a_terminal(dead, client, prefix, verb, did):
    before = everything(client, prefix)
    refused = dead("dead-letter", verb, "--all")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.splitlines() == [
        f"3 dead letters will be {did}",
        "error: nothing was done: without a terminal to ask on give --yes",
    ]
    assert everything(client, prefix) == before

    done = dead("dead-letter", verb, "--all", "--yes")

    assert done.err.splitlines() == [f"3 dead letters will be {did}", f"3 {did}"]
    assert [line.split()[:2] for line in done.lines] == [
        [did, run_id(number)] for number in (3, 2, 1)
    ]
    assert left(dead) == []


@VERBS
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(dead, client, prefix, verb, did):
    before = everything(client, prefix)
    chosen = dead("dead-letter", verb, run_id(1), "--dry-run")
    everyone = dead("dead-letter", verb, "--all", "--dry-run", "--json")
    assert chosen.lines == [f"would be {did} {run_id(1)}"]
    assert [each["result"] for each in everyone.objects] == [f"would be {did}"] * 3
    assert everyone.err == f"3 would be {did}\n"
    assert everything(client, prefix) == before


@VERBS
def test_only_what_is_old_enough_of_all(dead, client, hands, verb, did):
    age(client, hands, 1, 8 * 86_400_000)
    done = dead("dead-letter", verb, "--all", "--older-than", "7d", "--yes", "--pool", "etl")
    assert done.err.splitlines() == [f"1 dead letter will be {did}", f"1 {did}"]
    assert left(dead) == [3, 2]


@VERBS
def test_nothing_to_do_is_fine(etl, verb, did):
    done = etl("dead-letter", verb, "--all")
    assert (done.code, done.out, done.err) == (0, "", "none\n")


@pytest.mark.parametrize("verb", ["show", "requeue", "purge"])
def test_a_run_that_is_not_dead_lettered_is_one_line(etl, hands, verb):
    etl("submit", "-", "--pool", "etl", given=ndjson(a_run(1)))
    hands.claim()
    assert error_of(etl("dead-letter", verb, run_id(1))) == (
        f"error: run {run_id(1)} is not dead-lettered: it is PENDING"
    )
    assert error_of(etl("dead-letter", verb, run_id(2))) == f"error: run {run_id(2)} is not known"


def test_one_refusal_leaves_the_others(dead):
    done = dead("dead-letter", "purge", run_id(9), run_id(1), "--json")
    assert (done.code, done.err) == (1, "")
    assert [each["result"] for each in done.objects] == ["refused", "purged"]
    assert left(dead) == [3, 2]


@VERBS
def test_one_that_somebody_else_was_quicker_with_is_refused(dead, monkeypatch, verb, did):
    from dispatcher.cli import dead_letters

    checked = dead_letters._checked

    def check_then_purge(inspector, wanted, pool):
        found = checked(inspector, wanted, pool)
        dead("dead-letter", "purge", "--all", "--yes")
        return found

    monkeypatch.setattr(dead_letters, "_checked", check_then_purge)
    done = dead("dead-letter", verb, run_id(1))
    assert done.code == 1
    assert done.err.startswith(f"error: run {run_id(1)} is not ")


def test_on_a_terminal_it_asks(dead):
    ours, theirs = pty.openpty()
    process = dead.start("dead-letter", "purge", "--all", stdin=theirs)
    os.write(ours, b"y\n")
    out, err = process.communicate(timeout=30)
    os.close(theirs)
    os.close(ours)
    assert (process.returncode, out.count(b"purged ")) == (0, 3)
    assert err.decode().startswith("3 dead letters will be purged\nGo on? [y/N]: ")


@VERBS
@pytest.mark.parametrize(
    "args", [(), ("--pool", "etl"), ("--all", run_id(1)), ("--older-than", "1d", run_id(1))]
)
def test_neither_ids_nor_all_or_both_is_wrong_usage(dead, verb, did, args):
    done = dead("dead-letter", verb, *args, "--yes")
    assert (done.code, done.out) == (2, "")
    assert left(dead) == [3, 2, 1]


@pytest.mark.parametrize("args", [("ls",), ("purge", "--all"), ("requeue", "--all")])
def test_an_unknown_pool_is_one_line(etl, args):
    assert error_of(etl("dead-letter", *args, "--pool", "no")).startswith("error: pool 'no' does")
