"""`dispatcher run --http` and `dispatcher dev` as processes: addresses, logins, health, the end."""

import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from dispatcher.clock import Clock
from tests.commands import Commands
from tests.probes import wait_until
from tests.scenarios.edges import Serving, heard


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def serve(tmp_path):
    with ExitStack() as running:

        def start(cli, *arguments, **options):
            log = tmp_path / f"log-{len(list(tmp_path.iterdir()))}"
            one = Serving(cli, log, *arguments, **options)
            running.callback(one.clean_up)
            return one

        yield start


def test_it_serves_on_the_port_that_it_names_and_becomes_ready(cli, serve):
    cli("pool", "create", "etl")
    edge = serve(cli).until_served()

    assert edge.url.startswith("http://127.0.0.1:")
    assert edge.get("/healthz").json() == {"status": "alive"}
    wait_until(lambda: edge.status("/readyz") == 200, "it is ready")
    found = edge.get("/metrics").text
    assert 'dispatcher_due_runs{pool="etl",queue="default"} 0.0' in found
    assert 'dispatcher_loop_last_turn_timestamp_seconds{loop="dispatch"}' in found


def test_answers_do_not_name_the_program_that_serves(cli, serve):
    edge = serve(cli).until_served()
    assert "server" not in edge.get("/healthz").headers


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:0"])
def test_an_address_may_be_of_the_newer_kind_or_a_name(cli, serve, address):
    edge = serve(cli, address=address).until_served()
    assert edge.status("/healthz") == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second_or_two_with_a_client_that_keeps_its_connection(
    cli, serve, number
):
    edge = serve(cli).until_served()
    with httpx.Client(base_url=edge.url) as client:
        client.get("/healthz")
        clock = Clock()
        before_s = clock.monotonic_s()
        edge.signal(number)
        assert edge.end() == 0
        assert clock.monotonic_s() - before_s < 5
    assert [event["reason"] for event in edge.said("stopping")] == [number.name]


def test_a_port_in_use_is_one_line(cli, serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = cli.execute("run", "--http", address)

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"error: HTTP cannot be served on {address}: Address already in use; "
        "choose another --http HOST:PORT\n"
    )


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("0.0.0.0:0", "would let any machine that reaches it submit and claim runs"),
        ("nowhere", "is not HOST:PORT"),
        ("no.such.host.invalid:80", "no such host"),
    ],
)
def test_an_address_that_must_not_or_cannot_be_served_is_one_line(cli, address, problem):
    done = cli.execute("run", "--http", address)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: --http")
    assert problem in done.err
    assert done.err.count("\n") == 1


def test_the_address_may_come_from_the_environment_and_off_serves_none(real_server, prefix, serve):
    cli = Commands(real_server.url, prefix, DISPATCHER_HTTP="nowhere")
    assert "is not HOST:PORT" in cli.execute("run").err

    edge = serve(cli, address="off")
    edge.until("started")
    assert edge.said("http-started") == []


def test_a_login_from_a_file_is_asked_for_and_shown_nowhere(
    real_server, prefix, serve, tmp_path_factory
):
    secret = tmp_path_factory.mktemp("secrets") / "login"
    secret.write_text("me:s3cret\n")
    environ = {"DISPATCHER_API_AUTH_STRING_FILE": str(secret), "DISPATCHER_API_TOKEN": "t0ken"}
    cli = Commands(real_server.url, prefix, **environ)
    edge = serve(cli, "--log-level", "debug", address="0.0.0.0:0")
    port = edge.until("http-started")["address"].rpartition(":")[2]
    edge.url = f"http://127.0.0.1:{port}"

    assert edge.get("/healthz").status_code == 200
    assert edge.get("/metrics").status_code == 401
    assert edge.get("/metrics", auth=("me", "s3cret")).status_code == 200
    assert edge.get("/metrics", headers={"Authorization": "Bearer t0ken"}).status_code == 200
    assert edge.get("/metrics", auth=("me", "wr0ng")).status_code == 401

    listed = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout
    shown = edge.text + cli("settings").out + listed
    for word in ("s3cret", "t0ken", "wr0ng"):
        assert word not in shown


def test_without_a_login_it_serves_others_only_when_told_so(cli, serve):
    edge = serve(cli, "--http-without-auth", address="0.0.0.0:0")
    assert edge.until("http-started")["address"].startswith("http://0.0.0.0:")


def test_an_outage_of_redis_is_not_ready_and_heals(own_server, prefix, serve):
    server = own_server()
    edge = serve(Commands(server.url, prefix, DISPATCHER_SWEEP_S="0.2")).until_served()
    wait_until(lambda: edge.status("/readyz") == 200, "it is ready")

    server.kill()
    answer = edge.get("/readyz")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.json()["checks"]["redis"]["reason"]
    assert edge.status("/healthz") == 200
    assert "dispatcher_redis_up 0.0" in edge.get("/metrics").text

    server.start()
    wait_until(lambda: edge.status("/readyz") == 200, "it is ready again")
    assert "dispatcher_redis_up 1.0" in edge.get("/metrics").text


def test_requests_are_logged_at_debug_by_route_without_query_or_name(cli, serve):
    edge = serve(cli, "--log-level", "debug").until_served()
    edge.get("/healthz", params={"token": "s3cret"})
    edge.post("/api/work_pools/very-secret-name/claim", json={})

    found = wait_until(lambda: edge.said("http")[1:2] and edge.said("http"), "both are logged")

    shown = [(each["method"], each["route"], each["status"]) for each in found]
    assert shown[0] == ("GET", "/healthz", 200)
    assert shown[1][:2] == ("POST", "/api/work_pools/{name}/claim")
    assert all(each["took_ms"] >= 0 for each in found)
    assert "s3cret" not in edge.text


def test_what_is_no_http_is_answered_400_and_logged_at_debug_only(cli, serve):
    edge = serve(cli).until_served()
    with edge.open() as client:
        client.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert heard(client).startswith(b"HTTP/1.1 400 ")
    assert edge.said("http-server") == []
    assert edge.status("/healthz") == 200


def test_a_redis_that_does_not_answer_is_not_ready_and_the_process_is_alive(
    own_server, prefix, serve
):
    server = own_server()
    edge = serve(Commands(server.url, prefix)).until_served()
    wait_until(lambda: edge.status("/readyz") == 200, "it is ready")

    server.freeze()
    answer = edge.get("/readyz")
    assert answer.json()["checks"]["redis"] == {"ok": False, "reason": "no answer within 2 s"}
    assert edge.status("/healthz") == 200

    server.thaw()
    wait_until(lambda: edge.status("/readyz") == 200, "it is ready again")


def test_more_clients_than_the_system_allows_are_refused_and_the_others_are_served(cli, serve):
    edge = serve(cli, most_files=400).until_served()
    with ExitStack() as opened:
        kept = opened.enter_context(httpx.Client(base_url=edge.url))
        for _ in range(100):
            opened.enter_context(edge.open())
        assert kept.get("/healthz").status_code == 200
        for _ in range(60):
            opened.enter_context(edge.open())
        wait_until(lambda: edge.status("/healthz") == 503, "it says that there are too many")
        for _ in range(300):
            opened.enter_context(edge.open())
        assert edge.process.poll() is None
    wait_until(lambda: edge.status("/healthz") == 200, "there is room again")


def test_a_held_claim_is_told_and_answered_with_nothing_when_the_dispatcher_ends(cli, serve):
    cli("pool", "create", "etl")
    edge = serve(cli).until_served()
    clock = Clock()
    with ThreadPoolExecutor(1) as caller:
        path = "/api/work_pools/etl/claim"
        call = caller.submit(edge.post, path, json={"worker": "w"}, headers={"Prefer": "wait=50"})
        told = 'dispatcher_held_claims{pool="etl"} 1.0'
        wait_until(lambda: told in edge.get("/metrics").text, "the claim is held")
        before_s = clock.monotonic_s()
        edge.signal(signal.SIGTERM)
        answer = call.result(20)

    assert (answer.status_code, answer.json()) == (200, [])
    assert edge.end() == 0
    assert clock.monotonic_s() - before_s < 5
