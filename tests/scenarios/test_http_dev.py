"""HTTP of `dispatcher dev`, and `dispatcher check`."""

import re
import signal
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from dispatcher.embedded import default_state_dir
from tests.commands import Commands
from tests.probes import wait_until
from tests.scenarios.edges import Serving
from tests.scenarios.test_cli_dev import Running


@pytest.fixture
def dev():
    """A function that starts `dispatcher dev` and returns it once it serves."""
    with ExitStack() as running:

        def start(*arguments, **environ):
            cli = Commands("", "dispatcher", **environ)
            one = Running(cli, "dev", "--log-format", "json", *arguments)
            running.callback(one.clean_up)
            one.until("started")
            return one

        yield start


def address(one):
    (line,) = [line for line in one.plain if line.startswith("HTTP at ")]
    return re.search(r"http://\S+?(?=,)", line)[0], line


def test_it_serves_this_machine_and_asks_for_a_token_that_only_this_user_can_read(dev):
    one = dev()
    url, line = address(one)
    path = default_state_dir() / "http_token"
    token = {"Authorization": f"Bearer {path.read_text().strip()}"}

    assert url.startswith("http://127.0.0.1:")
    assert line.endswith(", with the bearer token in ~/state/dispatcher/dev/http_token\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert httpx.get(f"{url}/metrics").status_code == 401
    assert httpx.get(f"{url}/metrics", headers=token).status_code == 200
    assert token["Authorization"].split()[1] not in str(one.plain) + str(one.events)

    one.signal(signal.SIGINT)
    assert one.end() == 0
    url, _ = address(dev())
    assert httpx.get(f"{url}/metrics", headers=token).status_code == 200


def test_a_login_that_is_set_takes_the_place_of_the_token(dev):
    url, line = address(dev("--http", "127.0.0.1:0", DISPATCHER_API_AUTH_STRING="me:s3cret"))

    assert line.endswith(", with the login that was set\n")
    assert httpx.get(f"{url}/metrics", auth=("me", "s3cret")).status_code == 200
    assert not (default_state_dir() / "http_token").exists()


def test_off_serves_none(dev):
    one = dev("--http", "off")
    assert [line for line in one.plain if "HTTP" in line] == []
    assert [event for event in one.events if event["event"] == "http-started"] == []


def test_an_address_that_was_asked_for_and_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = Commands("", "dispatcher").execute("dev", "--http", f"127.0.0.1:{port}")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"error: HTTP cannot be served on 127.0.0.1:{port}")


@pytest.fixture
def edge(own_server, prefix, tmp_path: Path):
    """A dispatcher that serves all addresses, with a login, and the server it works on."""
    server = own_server()
    cli = Commands(server.url, prefix, DISPATCHER_API_TOKEN="t0ken", DISPATCHER_SWEEP_S="0.2")
    edge = Serving(cli, tmp_path / "log", address="0.0.0.0:0").until_served()
    cli.environ["DISPATCHER_HTTP"] = edge.host
    yield edge, cli, server
    edge.clean_up()


def test_check_says_whether_the_dispatcher_is_ready_and_what_fails(edge):
    serving, cli, server = edge
    wait_until(lambda: cli("check").code == 0, "it is ready")
    assert cli("check").out == "ready\n"

    server.kill()
    done = cli("check")
    assert (done.code, done.out) == (1, "")
    assert re.match(r"error: the dispatcher at 0\.0\.0\.0:\d+ is not ready: redis: Redis", done.err)

    serving.clean_up()
    done = cli("check")
    assert done.code == 1
    assert (
        done.err == f"error: the dispatcher at {serving.host} does not answer: Connection refused\n"
    )


def test_check_without_an_address_says_which_setting_it_wants():
    done = Commands("redis://nowhere", "x")("check")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: no address: set DISPATCHER_HTTP=HOST:PORT, or give --http\n"
