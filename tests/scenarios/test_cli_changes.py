"""`flow-run cancel`, `retime` and `release`: by id or by filter, what each run gets, who asks."""

import os
import pty

import pytest

from dispatcher.records import Release
from tests.commands import Commands, Done, Hands, a_run, ndjson, run_id

LATER = "2035-01-31T08:00:00Z"
SHOWN = "2035-01-31T08:00:00.000Z"
DEPLOYMENT = run_id(8)
CANCEL = ("flow-run", "cancel")


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    assert cli("queue", "create", "q", "--pool", "etl").code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


@pytest.fixture
def hands(etl, client, prefix):
    return Hands(client, prefix)


def submit(cli, *runs, **options):
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert cli("submit", "-", "--pool", "etl", *given, given=ndjson(*runs)).code == 0


def state(cli, number):
    (found,) = cli("flow-run", "show", run_id(number), "--json").objects
    return found["state_type"]


def states(cli):
    found = cli("flow-run", "ls", "--json").objects
    return {int(run["id"][-4:], 16): run["state_type"] for run in found}


def error_of(done: Done) -> str:
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    return line


# --- Cancel by id


def test_what_nobody_has_claimed_is_cancelled_at_once(etl, hands):
    etl("deployment", "set", DEPLOYMENT, "--pool", "etl", "--limit", "0")
    submit(etl, a_run(1), at=LATER)
    submit(etl, a_run(2, deployment_id=DEPLOYMENT), a_run(3))
    hands.store.dispatch("etl", ["default"])

    done = etl(*CANCEL, run_id(1), run_id(2), run_id(3))

    assert (done.code, done.err) == (0, "")
    assert done.lines == [f"cancelled {run_id(number)}" for number in (1, 2, 3)]
    assert set(states(etl).values()) == {"CANCELLED"}


def test_a_claimed_run_is_cancelled_by_an_order_to_its_worker(etl, hands):
    submit(etl, a_run(1))
    claim = hands.start(hands.claim())

    done = etl(*CANCEL, run_id(1), "--reason", "no longer needed")

    assert done.lines == [f"cancelling {run_id(1)} worker hands.1 is told"]
    assert state(etl, 1) == "CANCELLING"
    assert hands.store.renew("etl", hands.holder, held=1, number=1).orders == (run_id(1),)
    hands.finish(claim)
    (ended,) = etl("flow-run", "show", run_id(1), "--json").objects
    assert ended["state"] == {
        "type": "CANCELLED",
        "name": "Cancelled",
        "message": "no longer needed",
    }


def test_cancelling_again_is_done(etl, hands):
    submit(etl, a_run(1), a_run(2))
    hands.claim()
    first = etl(*CANCEL, run_id(1), run_id(2))
    again = etl(*CANCEL, run_id(1), run_id(2))
    assert (again.code, again.lines) == (0, first.lines)


def test_each_refusal_is_a_line_and_the_others_stand(etl, hands):
    submit(etl, a_run(1))
    hands.work()
    submit(etl, a_run(2))

    done = etl(*CANCEL, run_id(3), run_id(1), run_id(2))

    assert (done.code, done.lines) == (1, [f"cancelled {run_id(2)}"])
    assert done.err.splitlines() == [
        f"error: run {run_id(3)} is not known",
        f"error: run {run_id(1)} has ended already: COMPLETED",
    ]


def test_programs_get_an_object_for_each_run(etl, hands):
    submit(etl, a_run(1), a_run(2))
    hands.claim()
    done = etl(*CANCEL, run_id(1), run_id(2), run_id(3), "--json")
    assert (done.code, done.err) == (1, "")
    assert {each["id"]: each for each in done.objects} == {
        run_id(1): {
            "result": "cancelling",
            "id": run_id(1),
            "work_pool_name": "etl",
            "worker": "hands.1",
        },
        run_id(2): {"result": "cancelled", "id": run_id(2), "work_pool_name": "etl"},
        run_id(3): {
            "result": "refused",
            "id": run_id(3),
            "reason": f"run {run_id(3)} is not known",
        },
    }


def test_runs_of_several_pools_are_found(etl):
    etl("pool", "create", "other")
    submit(etl, a_run(1), at=LATER)
    etl("submit", "-", "--pool", "other", given=ndjson(a_run(2)))
    assert etl(*CANCEL, run_id(2), run_id(1)).code == 0
    assert set(states(etl).values()) == {"CANCELLED"}
    assert error_of(etl(*CANCEL, run_id(2), "--pool", "etl")) == (
        f"error: run {run_id(2)} is not known in pool 'etl'"
    )


# --- Cancel by filter


@pytest.fixture
def many(etl, hands):
    """Runs 1 and 2 with a worker, 3 due, 4 later; 5 and 6 in another queue; even ones deployed."""
    submit(etl, a_run(1), a_run(2, deployment_id=DEPLOYMENT), a_run(3))
    hands.claim()
    hands.claim()
    submit(etl, a_run(4, deployment_id=DEPLOYMENT), at=LATER)
    submit(etl, a_run(5), a_run(6, deployment_id=DEPLOYMENT), queue="q", at=LATER)
    return etl


@pytest.mark.parametrize(
    ("options", "cancelling", "cancelled"),
    [
        (["--queue", "default"], [1, 2], [3, 4]),
        (["--queue", "q"], [], [5, 6]),
        (["--deployment", DEPLOYMENT], [2], [4, 6]),
        (["--all-scheduled"], [], [3, 4, 5, 6]),
        (["--all-scheduled", "--queue", "default"], [], [3, 4]),
        (["--all-scheduled", "--queue", "default", "--deployment", DEPLOYMENT.upper()], [], [4]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_filter_finds_the_runs_that_have_not_ended(many, options, cancelling, cancelled):
    done = many(*CANCEL, "--pool", "etl", *options, "--yes")

    found = len(cancelling) + len(cancelled)
    count, summary = done.err.splitlines()
    runs = "1 run" if found == 1 else f"{found} runs"
    assert (done.code, count) == (0, f"{runs} of pool etl will be cancelled")
    parts = {"cancelled": len(cancelled), "cancelling": len(cancelling)}
    assert sorted(summary.split(", ")) == sorted(f"{n} {word}" for word, n in parts.items() if n)
    now = states(many)
    assert sorted(n for n, word in now.items() if word == "CANCELLING") == cancelling
    assert sorted(n for n, word in now.items() if word == "CANCELLED") == cancelled


def test_what_is_being_cancelled_already_is_not_counted_again(many):
    many(*CANCEL, "--pool", "etl", "--queue", "default", "--yes")
    again = many(*CANCEL, "--pool", "etl", "--queue", "default")
    assert (again.code, again.out, again.err) == (0, "", "none\n")


def test_without_a_terminal_a_filter_needs_yes(many):
    before = states(many)
    done = many(*CANCEL, "--pool", "etl", "--all-scheduled")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "4 runs of pool etl will be cancelled",
        "error: nothing was done: without a terminal to ask on give --yes",
    ]
    assert states(many) == before


def asked(cli, answer):
    """Run a cancel with its input on a terminal on which somebody answers."""
    ours, theirs = pty.openpty()
    process = cli.start(*CANCEL, "--pool", "etl", "--queue", "q", stdin=theirs)
    os.write(ours, answer)
    out, err = process.communicate(timeout=30)
    os.close(theirs)
    os.close(ours)
    return Done(process.returncode, out, err.decode())


def test_on_a_terminal_a_filter_asks(many):
    no = asked(many, b"n\n")
    kept = states(many)
    yes = asked(many, b"y\n")
    asks = "2 runs of pool etl will be cancelled\nGo on? [y/N]: "
    assert (no.code, no.out, no.err.startswith(asks)) == (1, "", True)
    assert (kept[5], kept[6]) == ("SCHEDULED", "SCHEDULED")
    assert (yes.code, yes.err.startswith(asks)) == (0, True)
    assert sorted(yes.lines) == [f"cancelled {run_id(5)}", f"cancelled {run_id(6)}"]


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--pool", "etl"),
        ("--queue", "q"),
        ("--all-scheduled",),
        (run_id(1), "--pool", "etl", "--queue", "q"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_neither_ids_nor_a_filter_or_both_is_wrong_usage(etl, args):
    done = etl(*CANCEL, *args, "--yes")
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("where", [("--pool", "no"), ("--pool", "etl", "--queue", "no")])
def test_a_filter_of_what_is_not_there_is_one_line(etl, where):
    assert "does not exist" in error_of(etl(*CANCEL, *where, "--all-scheduled", "--yes"))


def test_very_many_runs_are_cancelled_in_one_command(etl):
    submit(etl, *map(a_run, range(1_234)), at=LATER)
    done = etl(*CANCEL, "--pool", "etl", "--all-scheduled", "--yes")
    assert done.err.splitlines() == ["1,234 runs of pool etl will be cancelled", "1,234 cancelled"]
    assert etl("flow-run", "ls", "--state", "SCHEDULED", "--json").objects == []


# --- Retime


def test_a_run_that_nobody_has_claimed_gets_another_due_time(etl):
    submit(etl, a_run(1))
    done = etl("flow-run", "retime", run_id(1), "--at", LATER)
    assert (done.code, done.lines) == (0, [f"retimed {run_id(1)} due {SHOWN}"])
    (found,) = etl("flow-run", "ls", "--json").objects
    assert found["expected_start_time"] == found["next_scheduled_start_time"] == SHOWN


@pytest.mark.parametrize("at", ["now", "+0s"])
def test_a_run_may_be_made_due_now(etl, hands, at):
    submit(etl, a_run(1), at=LATER)
    (told,) = etl("flow-run", "retime", run_id(1), "--at", at, "--json").objects
    assert told.pop("expected_start_time") < SHOWN
    assert told == {"result": "retimed", "id": run_id(1), "work_pool_name": "etl"}
    assert hands.claim().run_id == run_id(1)


def test_a_run_that_somebody_has_or_that_has_ended_keeps_its_time(etl, hands):
    submit(etl, a_run(1), a_run(2))
    hands.work()
    hands.claim()
    ended = etl("flow-run", "retime", run_id(1), "--at", LATER)
    claimed = etl("flow-run", "retime", run_id(2), "--at", LATER)
    assert error_of(ended) == f"error: run {run_id(1)} has ended already: COMPLETED"
    assert error_of(claimed) == (
        f"error: worker hands.1 has run {run_id(2)}: its time cannot be changed any more"
    )


@pytest.mark.parametrize("at", ["2035-01-31T08:00:00", "soon"])
def test_a_time_that_makes_no_sense_is_one_line(etl, at):
    submit(etl, a_run(1), at=LATER)
    assert error_of(etl("flow-run", "retime", run_id(1), "--at", at)).startswith("error: time '")


# --- Release


def test_a_claim_that_is_taken_away_goes_on_elsewhere(etl, hands):
    submit(etl, a_run(1))
    claim = hands.start(hands.claim())

    done = etl("flow-run", "release", run_id(1), "--reason", "it hangs")

    assert (done.code, done.lines) == (0, [f"released {run_id(1)} worker hands.1 has it no more"])
    assert hands.store.report("etl", Release(claim.run_id, claim.token, "late")) == "released"
    assert hands.store.renew("etl", hands.holder, held=1, number=1).word == "compare"
    assert hands.claim().delivery == 2
    (last,) = [e for e in etl("event", "--json").objects if e["event"] == "released"]
    assert (last["reason"], last["by"].count("@")) == ("it hangs", 1)


def test_a_run_that_is_being_cancelled_ends_when_it_is_released(etl, hands):
    submit(etl, a_run(1))
    hands.claim()
    etl(*CANCEL, run_id(1))
    (told,) = etl("flow-run", "release", run_id(1), "--json").objects
    assert told == {
        "result": "cancelled",
        "id": run_id(1),
        "work_pool_name": "etl",
        "worker": "hands.1",
    }
    assert state(etl, 1) == "CANCELLED"


def test_what_no_worker_has_cannot_be_released(etl):
    submit(etl, a_run(1))
    assert error_of(etl("flow-run", "release", run_id(1))) == (
        f"error: run {run_id(1)} is SCHEDULED: no worker has it"
    )


@pytest.mark.parametrize("args", [("release",), ("retime", "--at", "now"), ("cancel",)])
def test_an_unknown_run_is_one_line(etl, args):
    verb, *options = args
    assert error_of(etl("flow-run", verb, run_id(3), *options)) == (
        f"error: run {run_id(3)} is not known"
    )
