"""`dispatcher submit --wait`: follows runs to their end; the exit code is the outcome."""

import json

import pytest

from dispatcher.cli import waiting
from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from tests.commands import Commands, Hands, a_run, an_envelope, ndjson, run_id


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl", "--id", an_envelope()["work_pool_id"]).code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


@pytest.fixture
def start(etl):
    """A function that starts a submit that waits, and returns once it has submitted."""
    started = []

    def run(*args, runs=1):
        process = etl.start("submit", "-", "--pool", "etl", "--wait", *args)
        started.append(process)
        process.stdin.write(ndjson(*map(a_run, range(1, runs + 1))))
        process.stdin.close()
        for _ in range(runs):
            assert b"accepted" in process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_a_completed_run_is_exit_code_0_and_its_line_comes_when_it_ends(start, client, prefix):
    process = start(runs=2)
    hands = Hands(client, prefix)

    hands.work()
    assert process.stdout.readline().decode() == f"ended {run_id(1)} COMPLETED\n"
    assert process.poll() is None
    hands.work()

    assert process.stdout.readline().decode() == f"ended {run_id(2)} COMPLETED\n"
    assert process.wait(30) == 0
    assert process.stderr.read() == b"2 accepted, 0 duplicate, 0 refused\n"


def test_any_other_outcome_is_exit_code_1(start, client, prefix):
    process = start("--json", runs=2)
    hands = Hands(client, prefix)
    hands.work("FAILED", "exit code 3")
    hands.work()

    ended = [json.loads(line) for line in process.stdout]

    names = ("result", "id", "state_type", "state")
    assert process.wait(30) == 1
    assert [tuple(each[name] for name in names) for each in ended] == [
        (
            *("ended", run_id(1), "FAILED"),
            {"type": "FAILED", "name": "Failed", "message": "exit code 3"},
        ),
        (
            *("ended", run_id(2), "COMPLETED"),
            {"type": "COMPLETED", "name": "Completed", "message": None},
        ),
    ]


def test_a_duplicate_is_followed_too(etl, client, prefix):
    etl("submit", "-", "--pool", "etl", given=ndjson(a_run(1)))
    process = etl.start("submit", "-", "--pool", "etl", "--wait")
    process.stdin.write(ndjson(a_run(1)))
    process.stdin.close()
    assert process.stdout.readline().startswith(b"duplicate ")
    Hands(client, prefix).work()
    with process.stdout, process.stderr:
        assert process.stdout.read().decode() == f"ended {run_id(1)} COMPLETED\n"
        assert process.wait(30) == 0


def test_a_refused_run_is_exit_code_1_also_if_all_others_complete(etl, client, prefix):
    process = etl.start("submit", "-", "--pool", "etl", "--wait")
    process.stdin.write(ndjson(a_run(1), a_run(2, name=5)))
    process.stdin.close()
    assert process.stdout.readline().startswith(b"accepted ")
    Hands(client, prefix).work()
    with process.stdout, process.stderr:
        assert process.stdout.read().decode().splitlines()[1] == f"ended {run_id(1)} COMPLETED"
        assert process.wait(30) == 1


@pytest.fixture
def inspector(client, prefix):
    return Inspector(Connection(client), prefix)


def submit(etl, *numbers, pool="etl"):
    done = etl("submit", "-", "--pool", pool, given=ndjson(*map(a_run, numbers)))
    assert done.code == 0


def ends_of(following, timeout_s=0.05):
    return [(ident, run and run.state_type) for ident, run in following.ended(timeout_s)]


class StoppedClock:
    """A clock that moves when it is told to."""

    now_s = 0.0

    def monotonic_s(self):
        return self.now_s


def test_runs_that_ended_before_are_seen_at_once_and_unknown_ones_are_gone(
    etl, inspector, client, prefix
):
    submit(etl, 1, 2)
    Hands(client, prefix).work()
    ids = [run_id(1), run_id(2), run_id(3)]
    following = waiting.Following(inspector, "etl", ids, clock=StoppedClock())
    assert ends_of(following) == [(run_id(1), "COMPLETED"), (run_id(3), None)]
    assert list(following.waiting) == [run_id(2)]


def test_an_event_that_was_trimmed_away_is_made_up_for(etl, inspector, client, prefix):
    submit(etl, 1)
    clock = StoppedClock()
    hands = Hands(client, prefix)
    following = waiting.Following(inspector, "etl", [run_id(1)], clock=clock)
    assert ends_of(following) == []
    hands.work()
    client.xtrim(hands.store.keys("etl")["events"], maxlen=0, approximate=False)
    assert ends_of(following) == []

    clock.now_s = waiting.LOOK_S

    assert ends_of(following) == [(run_id(1), "COMPLETED")]


def test_runs_of_several_pools_are_followed_together(etl, inspector, client, prefix):
    etl("pool", "create", "other")
    submit(etl, 1)
    submit(etl, 2, pool="other")
    found = waiting.follow(inspector, {"etl": [run_id(1)], "other": [run_id(2)]})

    Hands(client, prefix, "other").work("FAILED")
    assert next(found)[0] == run_id(2)
    Hands(client, prefix).work()
    assert next(found)[0] == run_id(1)
    assert next(found, None) is None
