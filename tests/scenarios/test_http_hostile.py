"""What a hostile client may send: the dispatcher says no, and goes on answering everybody else."""

import json
import socket
from contextlib import ExitStack

import httpx
import pytest

from dispatcher.clock import Clock
from tests.commands import Commands, a_run
from tests.probes import wait_until
from tests.scenarios.edges import Serving, heard

MIB = 1_048_576
HEADERS = {"Content-Type": "application/json"}
CLAIM = "/api/work_pools/etl/claim"
POLL = "/api/work_pools/etl/get_scheduled_flow_runs"
SUBMIT = "/api/flow_runs"
STREAM = "/api/flow_runs/stream"
ROUTES = [CLAIM, POLL, SUBMIT]
DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.fixture(scope="module")
def cli(servers):
    server = servers.get("valkey")
    yield Commands(server.url, "hostile")
    servers.forget("hostile")


@pytest.fixture(scope="module")
def edge(cli, tmp_path_factory):
    """One dispatcher for all of these tests: each leaves it as able as it was."""
    with ExitStack() as running:
        edge = Serving(cli, tmp_path_factory.mktemp("hostile") / "log")
        running.callback(edge.clean_up)
        edge.until_served()
        assert cli("pool", "create", "etl").code == 0
        yield edge


@pytest.fixture(autouse=True)
def _goes_on(edge, cli):
    """After each test the service answers, has logged no failure, and dispatches."""
    yield
    assert edge.process.poll() is None
    wait_until(lambda: edge.status("/readyz") == 200, f"it is ready: {edge.text}")
    assert [each["exception"][-900:] for each in edge.said("http-failed")] == []
    before = len(edge.said("dispatched"))
    assert cli("submit", "--pool", "etl", "--name", "x", "--command", "true").code == 0
    wait_until(lambda: len(edge.said("dispatched")) > before, "a run is dispatched")


@pytest.mark.parametrize("path", ROUTES)
def test_an_oversized_body_is_refused_when_its_length_is_told(edge, path):
    with edge.open() as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {edge.host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {10**12}\r\n\r\n".encode()
        )
        assert client.recv(65_536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ROUTES)
def test_an_oversized_body_is_refused_when_its_length_is_not_told(edge, path):
    def body():
        for _ in range(40):
            yield b" " * MIB

    answer = edge.post(path, content=body(), headers=HEADERS)

    assert answer.status_code == 413


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [DEEP, b'{"a":' * 200_000, b'{"work_queue_names":' + DEEP + b"}"],
    ids=["arrays", "objects", "within"],
)
def test_json_that_is_nested_too_deep_is_refused(edge, path, body):
    answer = edge.post(path, content=body, headers=HEADERS)
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b'{"worker": "\xff\xfe"}',
        b"\xff\xfe\x00",
        b'{"worker": "\\ud800", "work_queue_names": ["\\udfff"], "slots": 1}',
        b"{" * 50,
        b'{"a": 1e999999, "b": -0, "c": 123456789012345678901234567890}',
        b"nonsense",
        b"",
        b"\x00" * 1_000,
        b'"' + b"a" * MIB,
        b'{"limit": ' + b"9" * 5_000 + b"}",
    ],
    ids=["utf-8", "utf-16", "half", "open", "numbers", "words", "empty", "nul", "text", "digits"],
)
def test_a_body_that_is_no_json_or_no_unicode_is_refused_by_a_client_error(edge, path, body):
    answer = edge.post(path, content=body, headers=HEADERS)
    # A claim and the route of Prefect take no body, that one fields that it does not know, too.
    lenient = path == POLL or (path == CLAIM and not body)
    assert 400 <= answer.status_code < 500 or (lenient and answer.status_code == 200)


@pytest.mark.parametrize(
    "line",
    [DEEP, b'{"id": "\xff"}', b'{"id": "\\ud800"}', b"x" * (30 * MIB), b'{"a":' * 100_000, b"\x00"],
    ids=["deep", "utf-8", "half", "endless", "objects", "nul"],
)
def test_a_hostile_line_among_streamed_runs_is_refused_by_itself(edge, line):
    good = [json.dumps(a_run(n)).encode() for n in (21, 22)]
    answer = edge.post(
        STREAM,
        content=b"\n".join([good[0], line, good[1], b""]),
        headers={"Content-Type": "application/x-ndjson"},
        params={"work_pool_name": "etl"},
    )

    assert results_of([json.loads(each) for each in answer.text.splitlines()]) == [
        "taken",
        "refused",
        "taken",
    ]


def results_of(answers):
    """What became of each run; another test may have submitted it before."""
    taken = ("accepted", "duplicate")
    return ["taken" if each["result"] in taken else each["result"] for each in answers]


def test_ten_thousand_queue_names_are_answered(edge):
    names = [f"queue {i} {'x' * 200}" for i in range(10_000)]
    for path in (CLAIM, POLL):
        body = {"worker": "w", "slots": 1, "work_queue_names": names, "queues": names}
        clock = Clock()
        before_s = clock.monotonic_s()
        answer = edge.post(path, json=body)
        assert 200 <= answer.status_code < 500
        assert clock.monotonic_s() - before_s < 20


def test_hostile_elements_of_an_array_are_refused_by_themselves(edge):
    runs = [a_run(1), {"id": "x" * 100_000}, None, [], 7]
    answer = edge.post(SUBMIT, json=runs, params={"work_pool_name": "etl"})
    assert results_of(answer.json()) == ["taken", *["refused"] * 4]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\x00\x01 nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
    ],
    ids=["header", "path", "negative", "two lengths", "chunk", "body", "second", "no host", "nul"],
)
def test_a_malformed_head_is_refused_and_the_connection_ends(edge, head):
    with edge.open() as client:
        client.settimeout(20)
        client.sendall(head)
        said = heard(client)
    assert said == b"" or b"HTTP/1.1 4" in said


@pytest.mark.parametrize(
    "path",
    [
        "/api/work_pools/..%2F..%2Fetc/claim",
        "/api/work_pools/%00/claim",
        "/api/work_pools/%ff%fe/claim",
        "/api/work_pools/a%25b/claim",
        f"/api/work_pools/{'x' * 5_000}/claim",
        "/api/work_pools/%7B%7D/claim",
        "//api//work_pools",
        "/api/flow_runs/%F0%9F%8F%8A",
    ],
)
def test_an_odd_path_is_a_client_error(edge, path):
    for method in ("GET", "POST"):
        answer = httpx.request(method, edge.url + path, json={"worker": "w"}, timeout=20)
        assert 400 <= answer.status_code < 500


def test_clients_that_send_slowly_are_cut_off_and_hold_up_nobody(edge):
    head = f"POST {CLAIM} HTTP/1.1\r\nHost: {edge.host}\r\nContent-Type: application/json\r\n"
    with ExitStack() as opened:
        slow = [opened.enter_context(edge.open()) for _ in range(300)]
        for i, client in enumerate(slow):
            # Nothing, a part of a head, or a part of a body.
            part = ("", head[: 20 + i], head + "Content-Length: 100\r\n\r\n{")[i % 3]
            client.sendall(part.encode())
        clock = Clock()
        before_s = clock.monotonic_s()
        for _ in range(10):
            assert edge.get("/healthz").status_code == 200
        assert clock.monotonic_s() - before_s < 5
        said = [heard(client) for client in slow[-3:]]
        assert clock.monotonic_s() - before_s < 25

    nothing, part_of_head, part_of_body = said
    assert (nothing, part_of_head) == (b"", b"")
    assert part_of_body.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_feeds_a_head_byte_by_byte_is_cut_off(edge):
    clock = Clock()
    before_s = clock.monotonic_s()
    with edge.open() as client:
        client.settimeout(0.5)
        client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        while feed(client):
            assert clock.monotonic_s() - before_s < 30


def feed(client: socket.socket) -> bool:
    """Send one byte more; return whether the connection is still there."""
    try:
        client.sendall(b"a")
        return client.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_a_client_that_never_reads_holds_up_nobody(edge):
    request = f"GET /openapi.json HTTP/1.1\r\nHost: {edge.host}\r\n\r\n".encode()
    with ExitStack() as opened:
        for _ in range(20):
            client = opened.enter_context(edge.open())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.sendall(request * 50)
        assert edge.get("/healthz").status_code == 200


def test_many_idle_connections_leave_room(edge):
    with ExitStack() as opened:
        for _ in range(500):
            opened.enter_context(edge.open())
        assert edge.get("/healthz").status_code == 200


def test_pipelined_requests_are_answered_in_order(edge):
    one = f"GET /healthz HTTP/1.1\r\nHost: {edge.host}\r\n\r\n".encode()
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with edge.open() as client:
        client.sendall(one * 20 + last)
        assert heard(client).count(b"HTTP/1.1 200 ") == 21


def test_a_web_page_cannot_submit(edge):
    body = json.dumps(a_run(9))
    for headers in (
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
        {"Host": "evil.example", "Content-Type": "application/json"},
    ):
        answer = edge.post(SUBMIT, content=body, headers=headers)
        assert answer.status_code == 403
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(edge.url + SUBMIT, headers=preflight, timeout=20)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
