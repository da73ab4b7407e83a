"""`dispatcher dev` and `dispatcher run`: real processes, real signals."""

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from dispatcher.connection import Connection
from dispatcher.embedded import EmbeddedServer, default_state_dir, find_running
from dispatcher.store import Store
from dispatcher.stored import Pool
from tests.commands import Commands, a_run, run_id
from tests.probes import ROOT, process_state, wait_until

HELLO = ROOT / "examples" / "hello.json"
STORY = ["dispatched", "claimed", "started", "output", "finished"]


class Running:
    """A command that goes on running; its log is read as far as a test needs it."""

    def __init__(self, cli, *args):
        self.process = cli.start(*args, start_new_session=True)
        self.plain: list[str] = []
        self.events: list[dict[str, object]] = []

    def until(self, event, **fields):
        """Read on to an event, and return it."""
        for found in self._read():
            if found["event"] == event and fields.items() <= found.items():
                return found
        raise AssertionError(f"no {event} in {self.plain} {self.events}")

    def signal(self, number=signal.SIGINT):
        """Send a signal as Ctrl-C does: to all of the process group."""
        os.killpg(self.process.pid, number)

    def end(self):
        """Read the rest and return the exit code."""
        for _ in self._read():
            pass
        return self.process.wait(60)

    def _read(self):
        for line in self.process.stderr:
            if not line.startswith(b"{"):
                self.plain.append(line.decode())
                continue
            self.events.append(json.loads(line))
            yield self.events[-1]

    def clean_up(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def cli():
    """A command line without a URL: it finds the server of `dispatcher dev`."""
    return Commands("", "dispatcher")


@pytest.fixture
def start():
    with ExitStack() as running:

        def start_one(cli, *args):
            one = Running(cli, *args)
            running.callback(one.clean_up)
            return one

        yield start_one


@pytest.fixture
def dev(cli, start):
    """A function that starts `dispatcher dev` and returns when its worker is there."""

    def start_dev(*args):
        one = start(cli, "dev", *args)
        one.until("registered")
        return one

    return start_dev


def write(path: Path, *runs):
    path.write_text(json.dumps(runs))
    return path


def shown(cli, run):
    (found,) = cli("flow-run", "show", run, "--json").objects
    return found


# --- dev


def test_hello_is_seen_from_its_submit_to_its_end(cli, start):
    dev = start(cli, "dev", "--submit", HELLO, "--at", "+1s")
    finished = dev.until("finished")
    run = json.loads(HELLO.read_text())["id"]

    story = [e for e in dev.events if e.get("run") == run]

    accepted = dev.process.stdout.readline().decode().split()
    assert accepted[:4] == ["accepted", run, "default/default", "due"]
    told = [event["event"] for event in story]
    assert sorted(told, key=STORY.index) == STORY
    # The worker is another process: what it says may come before the dispatcher's line.
    assert [name for name in told if name != "dispatched"] == STORY[1:]
    assert [event["line"] for event in story if event["event"] == "output"] == [
        "hello world from hello"
    ]
    assert min(event["timestamp"] for event in story) >= accepted[4][:23]
    assert finished["state"] == "Completed"
    assert shown(cli, run)["state_type"] == "COMPLETED"
    assert cli("flow-run", "logs", run).out == "hello world from hello\n"


def test_it_says_where_its_data_is_and_how_it_is_reached(cli, dev):
    told = "".join(dev().plain)
    place = default_state_dir().relative_to(Path.home())
    assert f"data and the server's log are in ~/{place}\n" in told
    assert f"reached at {find_running()}\n" in told
    assert [pool["name"] for pool in cli("pool", "ls", "--json").objects] == ["default"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_in_order(cli, dev, number):
    one = dev()
    (worker,) = cli("worker", "ls", "--json").objects

    one.signal(number)

    assert one.end() == 0
    assert [e["event"] for e in one.events][-3:] == ["stopping", "draining", "left"]
    assert not process_state(worker["pid"])
    assert find_running() is None


def test_what_was_submitted_is_there_at_the_next_start_and_new_ids_run_it_again(cli, dev, start):
    run = json.loads(HELLO.read_text())["id"]
    for options in ([], ["--new-id"]):
        one = start(cli, "dev", "--submit", HELLO, *options)
        one.until("finished")
        one.signal()
        assert one.end() == 0
        assert "1 accepted, 0 duplicate, 0 refused\n" in one.plain

    dev()

    ended = cli("flow-run", "ls", "--state", "COMPLETED", "--json").objects
    assert len(ended) == 2
    assert run in {each["id"] for each in ended}


def test_the_same_id_again_is_refused_and_dev_goes_on(cli, start, tmp_path):
    one = start(cli, "dev", "--submit", write(tmp_path / "runs", a_run(1), a_run(1, name=3)))
    one.until("finished", run=run_id(1))
    assert "1 accepted, 0 duplicate, 1 refused\n" in one.plain
    assert one.process.poll() is None


def test_running_runs_may_end_and_a_second_ctrl_c_gives_them_back(cli, start, tmp_path):
    file = write(tmp_path / "runs", a_run(1, job_variables={"command": "sleep 1000"}))
    one = start(cli, "dev", "--submit", file)
    one.until("started", run=run_id(1))
    one.signal()
    assert one.until("draining")["running"] == 1

    one.signal()

    assert one.end() == 0
    assert "left" in [event["event"] for event in one.events]
    with EmbeddedServer():
        assert shown(cli, run_id(1))["state_type"] == "SCHEDULED"


def test_a_worker_that_dies_is_started_again(cli, dev):
    one = dev()
    (worker,) = cli("worker", "ls", "--json").objects
    os.kill(worker["pid"], signal.SIGKILL)

    assert one.until("worker-ended")["exit_code"] == -signal.SIGKILL
    one.until("registered")

    found = cli("worker", "ls", "--json").objects
    assert [each["name"] for each in found if each["pid"] != worker["pid"]] == ["dev"]


def test_a_server_that_dies_is_started_again_and_everything_goes_on(cli, dev):
    one = dev()
    cli("submit", "--pool", "default", "--name", "before", "--command", "true")
    one.until("finished")
    pid = int((default_state_dir() / "server.lock").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    one.until("server-ended")
    wait_until(find_running, "the server answers again")

    done = cli("submit", "--pool", "default", "--name", "after", "--command", "true")

    assert done.code == 0
    one.until("finished", run=done.out.split()[1])


def test_kill_9_of_dev_ends_its_server_and_its_worker(cli, dev):
    one = dev()
    (worker,) = cli("worker", "ls", "--json").objects
    one.process.kill()
    wait_until(lambda: not process_state(worker["pid"]), "the worker has ended")
    wait_until(lambda: find_running() is None, "the server has ended")


def test_a_second_dev_is_told_of_the_first(cli, dev):
    one = dev()
    done = cli.execute("dev")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"error: dispatcher dev already runs on {default_state_dir()} (pid {one.process.pid})\n"
    )


def test_other_commands_do_not_find_it_behind_a_url_and_are_told(cli, start):
    cli.environ["DISPATCHER_REDIS_URL"] = "unix:///nowhere"
    one = start(cli, "dev")
    one.until("registered")
    assert one.plain[-1].startswith("warning: DISPATCHER_REDIS_URL is set: other commands")


@pytest.mark.parametrize(
    ("name", "kind", "warning"),
    [
        ("other", "process", "there is no pool 'default', so no worker is started\n"),
        (
            "default",
            "handler",
            "pool 'default' is of type 'handler', so no worker is started; "
            "start one with `consumers run --pool default`\n",
        ),
    ],
)
def test_without_the_pool_default_of_processes_there_is_no_worker(cli, start, name, kind, warning):
    with EmbeddedServer() as server:
        connection = Connection.open(server.url)
        pool = Pool(name=name, id=run_id(1), type=kind)
        Store(connection, "dispatcher").create_pool(pool, default_queue_id=run_id(2))
        connection.close()
    one = start(cli, "dev")
    one.until("started")
    one.signal()
    assert one.end() == 0
    assert f"warning: {warning}" in one.plain


@pytest.mark.parametrize(
    ("args", "code", "problem"),
    [
        (("--submit", "missing.json"), 1, "error: missing.json cannot be read: No such file"),
        (("--submit", str(HELLO), "--at", "noon"), 1, "error: time 'noon' is not understood"),
        (("--at", "now"), 2, "Usage: dispatcher dev"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(cli, args, code, problem):
    done = cli.execute("dev", *args)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(problem)
    assert not default_state_dir().exists()


# --- run


def test_run_dispatches_until_a_signal(real_server, prefix, start):
    cli = Commands(real_server.url, prefix)
    cli("pool", "create", "etl")
    one = start(cli, "run")
    one.until("started")

    done = cli("submit", "--pool", "etl", "--name", "a", "--command", "true")

    dispatched = one.until("dispatched")
    assert (dispatched["run"], dispatched["pool"]) == (done.out.split()[1], "etl")
    one.signal(signal.SIGTERM)
    assert one.end() == 0


def test_run_warns_of_a_server_that_evicts_and_of_a_pool_that_is_not_there(
    own_server, prefix, start
):
    server = own_server(config={"maxmemory-policy": "allkeys-lru"})
    one = start(Commands(server.url, prefix), "run", "--pool", "nope")
    assert "is allkeys-lru" in one.until("maxmemory-policy")["reason"]
    assert one.until("no-such-pool")["pool"] == "nope"
    one.until("started")


def test_run_waits_for_a_server_that_is_not_there_yet(own_server, prefix, start):
    server = own_server()
    cli = Commands(server.url, prefix, DISPATCHER_SWEEP_S="0.2")
    server.kill()
    one = start(cli, "run")
    one.until("redis-away")
    server.start()
    one.until("redis-back")
    cli("pool", "create", "etl")
    cli("submit", "--pool", "etl", "--name", "a", "--command", "true")
    one.until("dispatched")
