"""The command line when the server, the terminal or the reader of its output fails."""

import io
import json
import os
import signal

import pytest

from dispatcher.cli import session
from tests.commands import Commands, Done, a_run, ndjson, run_id

HUNDRED = range(1, 101)
LISTS = [("pool", "ls"), ("pool", "ls", "--json"), ("flow-run", "ls"), ("settings",)]


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    return cli


@pytest.fixture
def broken(own_server, prefix):
    """A command line on a server that the test may break, and that server."""
    server = own_server()
    cli = Commands(server.url, prefix)
    assert cli("pool", "create", "etl").code == 0
    return cli, server


def error_of(done: Done) -> str:
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    return line


def ids(cli):
    return sorted(run["id"] for run in cli("flow-run", "ls", "--limit", "1000", "--json").objects)


def numbered(numbers):
    return sorted(map(run_id, numbers))


# --- No server, or one that refuses


@pytest.mark.parametrize("args", [("run",), ("pool", "ls"), ("submit", "--name", "a")])
def test_without_a_url_the_line_names_the_variable_and_dev(cli, args):
    del cli.environ["DISPATCHER_REDIS_URL"]
    assert error_of(cli.execute(*args)) == (
        "error: no Redis: set DISPATCHER_REDIS_URL=redis://HOST:PORT, or start `dispatcher dev`"
    )


@pytest.mark.parametrize("args", [("pool", "ls"), ("submit", "-", "--pool", "etl")])
def test_a_server_that_is_not_there_is_one_line(cli, tmp_path, args):
    done = cli(*args, "--redis-url", f"unix://{tmp_path}/s", given=ndjson(a_run(1)))
    assert error_of(done).startswith(f"error: Redis at unix://{tmp_path}/s cannot be reached: ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret/word@localhost:6379/0",
        "redis://:s3cret#@h",
        "redis://h:s3cret",
        "redis://[",
    ],
)
def test_a_url_that_cannot_be_read_is_one_line_without_its_password(cli, url):
    error = error_of(cli("pool", "ls", "--redis-url", url))
    assert error.startswith("error: DISPATCHER_REDIS_URL: the URL has no host and port")
    assert "s3cret" not in error


def test_a_url_of_another_kind_is_one_line(cli):
    error = error_of(cli("pool", "ls", "--redis-url", "http://localhost"))
    assert error.startswith("error: Redis URL begins with http; use redis://, rediss://, unix://")


def test_a_file_of_the_url_that_cannot_be_read_is_one_line(cli, tmp_path):
    del cli.environ["DISPATCHER_REDIS_URL"]
    cli.environ["DISPATCHER_REDIS_URL_FILE"] = f"{tmp_path}/url"
    assert error_of(cli("pool", "ls")).startswith("error: DISPATCHER_REDIS_URL_FILE: ")


@pytest.mark.parametrize("args", [("run",), ("submit", "-", "--pool", "etl"), ("worker", "ls")])
def test_a_wrong_password_is_one_line_without_it(own_server, prefix, args):
    server = own_server(tcp=True, config={"requirepass": "right"})
    cli = Commands(server.url.replace("right", "wr0ng"), prefix)

    done = cli.execute(*args, given=ndjson(a_run(1)))

    *logged, error = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    assert error.startswith("error: Redis at redis://127.0.0.1:")
    assert "refused us" in error
    assert "wr0ng" not in done.err
    assert [json.loads(line)["event"] for line in logged] == (["started"] if "run" in args else [])


# --- A server that cannot write


def test_at_full_memory_a_submit_is_one_error_and_works_again_later(broken):
    cli, server = broken
    with server.client() as client:
        client.config_set("maxmemory", "1")
        done = cli("submit", "-", "--pool", "etl", given=ndjson(*map(a_run, range(1, 300))))
        client.config_set("maxmemory", "0")

    counts, error = done.err.splitlines()
    assert done.code == 1
    assert counts == "0 accepted, 0 duplicate, 100 refused"  # one batch, and no second one
    assert error.startswith("error: Redis at unix://")
    assert "is out of memory" in error
    assert "ended at line 1: submit again" in error
    assert ids(cli) == []

    done = cli("submit", "-", "--pool", "etl", given=ndjson(*map(a_run, range(1, 300))))
    assert done.err == "299 accepted, 0 duplicate, 0 refused\n"


def test_a_read_only_server_is_one_error_and_nothing_is_written(broken, monkeypatch):
    monkeypatch.setattr(session, "PATIENCE_S", 0.2)
    cli, server = broken
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        done = cli("submit", "-", "--pool", "etl", given=ndjson(a_run(1)))
        created = cli("pool", "create", "other")
        client.replicaof("no", "one")

    assert done.code == 1
    assert done.err.splitlines()[1].startswith("error: Redis at unix://")
    assert "read only replica" in done.err
    assert "read only replica" in error_of(created)
    assert ids(cli) == []
    assert [pool["name"] for pool in cli("pool", "ls", "--json").objects] == ["etl"]


class Fatal(io.BytesIO):
    """An input that ends the server once its first half was taken."""

    def __init__(self, first, second, end):
        super().__init__(first + second)
        self._sizes = [len(first), len(second)]
        self._end = end

    def read1(self, size=-1):
        if self._sizes == [self._sizes[-1]]:
            self._end()
        return super().read1(self._sizes.pop(0)) if self._sizes else b""


def test_a_server_that_ends_half_way_says_from_where_to_submit_again(
    own_server, prefix, monkeypatch
):
    monkeypatch.setattr(session, "PATIENCE_S", 0.2)
    server = own_server(config={"appendonly": "yes", "appendfsync": "always"})
    cli = Commands(server.url, prefix)
    cli("pool", "create", "etl")
    first, second = ndjson(*map(a_run, HUNDRED)), ndjson(*map(a_run, range(101, 301)))

    done = cli("submit", "-", "--pool", "etl", given=Fatal(first, second, server.kill))

    counts, error = done.err.splitlines()
    assert (done.code, counts) == (1, "100 accepted, 0 duplicate, 0 refused")
    assert error.endswith("ended at line 101: submit again, what was accepted is known then")
    server.start()
    assert ids(cli) == numbered(HUNDRED)
    again = cli("submit", "-", "--pool", "etl", given=first + second)
    assert again.err == "200 accepted, 100 duplicate, 0 refused\n"


# --- Nobody listens, or somebody interrupts


@pytest.mark.parametrize("args", LISTS, ids=" ".join)
def test_a_list_into_a_closed_pipe_ends_quietly(etl, args):
    read, write = os.pipe()
    os.close(read)

    process = etl.start(*args, stdout=write)
    os.close(write)

    assert process.communicate(timeout=30)[1] == b""


def test_a_submit_into_a_closed_pipe_ends_with_what_was_sent_and_counts_it(etl):
    process = etl.start("submit", "-", "--pool", "etl")
    process.stdin.write(ndjson(*map(a_run, HUNDRED)))
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(ndjson(*map(a_run, range(101, 401))))
    process.stdin.close()

    err = process.stderr.read().decode()

    assert process.wait(30) == 1
    assert err == "200 accepted, 0 duplicate, 0 refused; stopped: nobody reads the results\n"
    assert ids(etl) == numbered(range(1, 201))
    process.stderr.close()


def test_ctrl_c_ends_a_submit_quietly_and_what_was_sent_is_counted(etl):
    process = etl.start("submit", "-", "--pool", "etl")
    process.stdin.write(ndjson(*map(a_run, HUNDRED)))
    process.stdin.flush()
    process.stdout.readline()

    process.send_signal(signal.SIGINT)

    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"100 accepted, 0 duplicate, 0 refused\n")
    assert ids(etl) == numbered(HUNDRED)
