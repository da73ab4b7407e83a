"""The process runner: what a child gets, what becomes of its end, and that nothing is left."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from consumers.alarms import Alarms
from consumers.runners import Stop, Why
from consumers.runners.process import OUTPUT_TAIL_BYTES, ProcessRunner
from dispatcher import Claim, Clock, Outcome, logger
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import wait_gone

ENVIRON = {"PATH": os.environ["PATH"], "KEPT": "from the worker"}
PRINT_ENVIRONMENT = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
TELL_PID = 'echo $$ > "$0.new"; mv "$0.new" "$0"; '  # to the file that it is told


def a_claim(job_variables: dict[str, Any], **fields: Any) -> Claim:
    payload = json.dumps({"flow_run": {"job_variables": job_variables}}).encode()
    defaults = {
        "run_id": "run-1",
        "pool": "etl",
        "queue": "default",
        "token": "1-0.abc.7",
        "payload": payload,
        "due_ms": 0,
        "run_count": 0,
        "delivery": 3,
        "name": "brave-otter",
    }
    return Claim(**defaults | fields)


@pytest.fixture
def start_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ProcessRunner]]:
    """A function that starts a runner; its directories are below the test's."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with ExitStack() as running:

        def start(**options: Any) -> ProcessRunner:
            runner = ProcessRunner(**{"environ": ENVIRON, "stop_grace_s": 0.5} | options)
            running.callback(runner.close)
            return runner

        yield start


@pytest.fixture
def run(start_runner: Callable[..., ProcessRunner]) -> Callable[..., Outcome]:
    """A function that runs job variables to their end."""
    runner = start_runner()

    def run_one(stop: Stop | None = None, **job_variables: Any) -> Outcome:
        return runner.run(a_claim(job_variables), stop or Stop())

    return run_one


def told_pid(file: Path) -> int:
    wait_until(file.exists, f"{file.name} was written")
    return int(file.read_text())


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("true", Outcome("COMPLETED", "Completed")),
        (["/bin/sh", "-c", "exit 3"], Outcome("FAILED", "Failed", "exit code 3")),
        ("false", Outcome("FAILED", "Failed", "exit code 1")),
        ("sh -c 'kill -9 $$'", Outcome("CRASHED", "Crashed", "killed by SIGKILL")),
        ("sh -c 'kill -TERM $$'", Outcome("CRASHED", "Crashed", "killed by SIGTERM")),
        ("echo 'one word'  two", Outcome("COMPLETED", "Completed", "", b"one word two\n")),
        (["echo", "$HOME", "*", ""], Outcome("COMPLETED", "Completed", "", b"$HOME * \n")),
    ],
)
def test_how_a_child_ends_is_the_outcome(run, command, outcome):
    assert run(command=command) == outcome


NO_COMMAND = "is missing, and the pool has no command of its own (`pool create --command`)"


@pytest.mark.parametrize(
    ("job_variables", "message"),
    [
        ({"command": "no-such-one"}, "cannot start 'no-such-one': no such program on its PATH"),
        ({"command": ["./nothing"]}, "cannot start './nothing': no such program"),
        (
            {"command": "true", "env": {"PATH": "/nowhere"}},
            "cannot start 'true': no such program on its PATH",
        ),
        (
            {"command": "true", "working_dir": "/no/such"},
            "cannot start 'true': No such file or directory: /no/such",
        ),
        ({"command": 7}, "flow_run.job_variables.command: must be a string or a list of strings"),
        ({}, f"flow_run.job_variables.command: {NO_COMMAND}"),
        (
            {"command": "true", "env": ["A=1"]},
            "flow_run.job_variables.env: must be an object of names and strings",
        ),
    ],
)
def test_a_job_that_cannot_be_run_crashes_with_a_sentence(run, job_variables, message):
    assert run(**job_variables) == Outcome("CRASHED", "Crashed", message)


def test_the_pools_command_runs_for_a_job_that_brings_none(start_runner):
    runner = start_runner(pool_command="echo of the pool")
    assert runner.run(a_claim({}), Stop()).output == b"of the pool\n"
    assert runner.run(a_claim({"command": "echo own"}), Stop()).output == b"own\n"


def test_a_child_gets_the_workers_environment_without_our_settings_and_what_it_needs(start_runner):
    ours = {"DISPATCHER_REDIS_URL": "redis://:secret@x", "CONSUMERS_RUN_LIMIT": "3"}
    runner = start_runner(environ=ENVIRON | ours | {"GONE": "x"})
    claim = a_claim({"command": PRINT_ENVIRONMENT, "env": {"OWN": "größe", "GONE": None}})

    seen = json.loads(runner.run(claim, Stop()).output)

    payload_file = Path(seen.pop("DISPATCHER_RUN_PAYLOAD_FILE"))
    for of_a_shell in ("PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"):
        seen.pop(of_a_shell, None)
    assert seen == ENVIRON | {
        "OWN": "größe",
        "DISPATCHER_RUN_ID": "run-1",
        "DISPATCHER_RUN_NAME": "brave-otter",
        "DISPATCHER_RUN_FENCING_TOKEN": "1-0.abc.7",
        "DISPATCHER_RUN_DELIVERY": "3",
    }
    assert payload_file.name == "payload.json"


@pytest.mark.parametrize("name", ["my.name", "my-name", "9", "größe"])
def test_a_variable_with_a_name_that_shells_cannot_spell_reaches_the_child(run, name):
    seen = json.loads(run(command=PRINT_ENVIRONMENT, env={name: "kept"}).output)
    assert seen[name] == "kept"


def test_a_child_reads_its_payload_byte_for_byte_and_nobody_else_may(start_runner):
    job = b'{"command":["sh","-c","cat $F; ls -l $F"] , "env": null}'
    payload = b'{"flow_run" : {"job_variables":%b,"\\u00e9":"\xc3\xa9" } }' % job
    claim = a_claim({}, payload=payload.replace(b"$F", b"$DISPATCHER_RUN_PAYLOAD_FILE"))

    output = start_runner().run(claim, Stop()).output

    assert output.startswith(claim.payload + b"-rw-------")


def test_a_child_works_in_its_working_dir_else_in_an_empty_one_that_is_gone_afterwards(
    run, tmp_path
):
    own = run(command="pwd", working_dir=str(tmp_path)).output
    assert Path(own.decode().strip()) == tmp_path.resolve()

    other = run(command=["sh", "-c", "pwd; ls -A"]).output.decode().splitlines()

    assert len(other) == 1
    assert not Path(other[0]).exists()


def test_a_child_has_no_input(run):
    assert run(command="cat").state_type == "COMPLETED"
    assert run(command="cat", env={"a.b": "c"}).state_type == "COMPLETED"


def test_output_and_errors_are_kept_in_their_order_whatever_their_bytes(run):
    outcome = run(command=["sh", "-c", r"printf 'a\n'; printf '\377\000\n' >&2; printf 'no end'"])
    assert outcome.output == b"a\n\xff\x00\nno end"


@pytest.mark.parametrize("stream_output", [True, False])
def test_of_a_long_output_the_last_64_kib_are_kept(run, capsys, stream_output):
    lines = 10_000
    program = f"for i in range({lines}): print('line', i, '.' * 40)"

    outcome = run(command=[sys.executable, "-c", program], stream_output=stream_output)

    assert outcome.state_type == "COMPLETED"
    assert len(outcome.output) == OUTPUT_TAIL_BYTES == 65_536
    assert outcome.output.endswith(f"line {lines - 1} {'.' * 40}\n".encode())
    assert (capsys.readouterr().out.count("output") >= lines) == stream_output


def test_a_line_without_an_end_does_not_fill_the_memory(run, capsys):
    outcome = run(command=[sys.executable, "-c", "print('x' * 10_000_000, end='')"])
    assert outcome.output == b"x" * OUTPUT_TAIL_BYTES
    assert max(map(len, capsys.readouterr().out.splitlines())) < 10_000


def test_what_a_child_left_running_ends_with_it(run, tmp_path):
    outcome = run(command=["sh", "-c", 'sleep 1000 & echo $! > "$0"', str(tmp_path / "pid")])

    assert outcome.state_type == "COMPLETED"
    wait_gone(int((tmp_path / "pid").read_text()), "the grandchild")


def test_a_grandchild_in_a_session_of_its_own_that_keeps_the_output_open_is_not_waited_for(
    run, tmp_path
):
    program = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(child.pid)"
    )

    outcome = run(command=[sys.executable, "-c", program])

    grandchild = int(outcome.output)
    assert outcome.state_type == "COMPLETED"
    assert process_state(grandchild)
    os.kill(grandchild, signal.SIGKILL)


def run_in_thread(run: Callable[..., Outcome], stop: Stop, **job_variables: Any) -> list[Outcome]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(run(stop, **job_variables)), daemon=True
    )
    thread.start()
    return outcomes


def test_a_stop_ends_the_whole_group(run, tmp_path):
    stop, file = Stop(), tmp_path / "pid"
    command = ["sh", "-c", f"sleep 1000 & {TELL_PID} wait", str(file)]
    outcomes = run_in_thread(run, stop, command=command)
    child = told_pid(file)

    stop.request(Why.LOST)

    assert wait_until(lambda: outcomes, "it has ended")[0].message == "killed by SIGTERM"
    wait_gone(child, "the child")


def test_a_child_that_does_not_mind_sigterm_is_killed_after_the_grace(run, tmp_path):
    stop, file = Stop(), tmp_path / "pid"
    outcomes = run_in_thread(run, stop, command=stubborn(file))
    told_pid(file)

    stop.request(Why.LOST)

    assert wait_until(lambda: outcomes, "it has ended")[0].message == "killed by SIGKILL"


def test_a_stop_that_came_before_the_child_ends_it_too(run):
    stop = Stop()
    stop.request(Why.LOST)
    assert run(stop, command="sleep 1000").message == "killed by SIGTERM"


def stubborn(file: Path) -> list[str]:
    """A command that does not mind SIGTERM, and tells its pid when it has begun."""
    return ["sh", "-c", f"trap '' TERM; {TELL_PID} while :; do sleep 0.1; done", str(file)]


def test_a_stop_that_brings_a_grace_gives_that_instead_of_the_runners_own(run, tmp_path):
    stop, file = Stop(), tmp_path / "pid"
    command = f"trap 'sleep 1; exit 3' TERM; {TELL_PID} while :; do sleep 0.1; done"
    outcomes = run_in_thread(run, stop, command=["sh", "-c", command, str(file)])
    told_pid(file)

    stop.request(Why.CANCELLED, grace_s=60)

    assert wait_until(lambda: outcomes, "it has ended")[0].message == "exit code 3"


@pytest.mark.parametrize("why", [Why.LOST, Why.RELEASED, Why.FROZEN])
def test_a_long_grace_is_cut_short_by_a_stop_that_leaves_none(run, tmp_path, why):
    stop, file = Stop(), tmp_path / "pid"
    outcomes = run_in_thread(run, stop, command=stubborn(file))
    told_pid(file)
    stop.request(Why.CANCELLED, grace_s=60)

    stop.request(why)

    assert wait_until(lambda: outcomes, "it has ended")[0].message == "killed by SIGKILL"


def test_a_child_that_has_ended_can_be_stopped_no_more(run):
    stop = Stop()
    run(stop, command="true")

    stop.request(Why.CANCELLED, grace_s=60)

    assert stop.reason is None


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms(Clock(), logger())
    alarms.start()
    yield alarms
    alarms.close()


@pytest.mark.parametrize(
    ("variables", "queue_ms", "limit_s"),
    [({}, 300, 0.3), ({"timeout_s": 0.2}, 60_000, 0.2), ({"timeout_s": 0.2}, None, 0.2)],
)
def test_a_child_is_stopped_when_its_time_is_up(start_runner, alarms, variables, queue_ms, limit_s):
    stop = Stop(alarms)
    claim = a_claim({"command": "sleep 1000"} | variables, timeout_ms=queue_ms)

    outcome = start_runner().run(claim, stop)

    assert outcome.message == "killed by SIGTERM"
    assert (stop.reason, stop.limit_s) == (Why.TIMED_OUT, limit_s)


@pytest.mark.parametrize("variables", [{"timeout_s": None}, {"timeout_s": 60}])
def test_a_job_may_have_more_time_than_its_queue_gives(start_runner, alarms, variables):
    stop = Stop(alarms)
    claim = a_claim({"command": "sleep 0.5"} | variables, timeout_ms=100)

    assert start_runner().run(claim, stop).state_type == "COMPLETED"
    assert stop.reason is None


def test_a_child_begins_only_when_the_guardian_knows_of_it(start_runner, tmp_path):
    runner, seen = start_runner(), []
    add = runner._guardian.add

    def slow_add(pid: int, **options: Any) -> None:
        threading.Event().wait(0.3)
        seen.append((process_state(pid) != "", (tmp_path / "begun").exists()))
        add(pid, **options)

    runner._guardian.add = slow_add
    for env in ({}, {"odd.name": "1"}):
        claim = a_claim({"command": ["touch", str(tmp_path / "begun")], "env": env})
        assert runner.run(claim, Stop()).state_type == "COMPLETED"
        (tmp_path / "begun").unlink()

    assert seen == [(True, False), (True, False)]


def test_a_runner_that_is_closed_leaves_no_directory(start_runner, tmp_path):
    runner = start_runner()
    runner.run(a_claim({"command": "true"}), Stop())

    runner.close()

    assert list((tmp_path / "tmp").iterdir()) == []
