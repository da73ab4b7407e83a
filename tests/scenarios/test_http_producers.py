"""What docs/http.md shows producers, run as it stands; and streams of runs on a real connection."""

import http.client
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.scenarios.fleet import Process, Scene

ROOT = Path(__file__).parents[2]
SHOWN = "http://127.0.0.1:4200"
FLOW = "41cb79e5-03c6-4e96-b376-a10cb852f0d9"


@pytest.fixture
def scene(real_server, prefix, tmp_path):
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


@pytest.fixture
def dispatcher(scene) -> Process:
    """A dispatcher that serves HTTP."""
    return scene.dispatcher("--http", "127.0.0.1:0")


def address(dispatcher: Process) -> str:
    (started,) = dispatcher.wait_said("http-started")
    return started["address"]


def objects(text: str) -> list:
    """All JSON values of a text, one behind the other."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at = re.compile(r"\s*").match(text, at).end()
    return found


def test_the_commands_for_producers_do_what_the_document_says(scene, dispatcher):
    text = (ROOT / "docs/http.md").read_text()
    (shown,) = re.findall(r"<!-- producers -->\n```sh\n(.*?)```", text, re.DOTALL)
    script = shown.replace(SHOWN, address(dispatcher))
    assert script != shown
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    pool, queue, deployment, nightly, *rest = objects(done.stdout)
    assert (pool["name"], pool["concurrency_limit"]) == ("etl", 50)
    assert (queue["name"], queue["priority"]) == ("critical", 1)
    assert deployment["concurrency_limit"] == 1
    assert (nightly["result"], nightly["work_queue_name"]) == ("accepted", "default")
    streamed, (listed, why, retimed, cancelled, would, done_, *last) = rest[:3], rest[3:]
    assert [line["result"] for line in streamed] == ["accepted"] * 3
    assert len(listed["results"]) == 2
    assert listed["next_cursor"]
    assert why["id"] == nightly["id"]
    assert retimed["result"] == "retimed"
    assert (cancelled["result"], cancelled["id"]) == ("cancelled", nightly["id"])
    assert (would["found"], would["dry_run"]) == (3, True)
    assert [each["result"] for each in done_["results"]] == ["cancelled"] * 3
    paused, resumed, deleted = last
    assert (paused["is_paused"], resumed["is_paused"]) == (True, False)
    assert deleted["result"] == "deleted"


def line(number: int) -> bytes:
    run_id = f"00000000-0000-0000-0000-{number:012}"
    return json.dumps({"id": run_id, "flow_id": FLOW, "name": f"run {number}"}).encode() + b"\n"


@pytest.fixture
def stream(scene, dispatcher):
    """A request that is being sent: its head is, and no line yet."""
    scene.create_pool(type="any")
    connection = http.client.HTTPConnection(address(dispatcher).removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/api/flow_runs/stream?work_pool_name=etl")
    connection.putheader("Content-Type", "application/x-ndjson")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    yield connection
    connection.close()


def send(connection: http.client.HTTPConnection, data: bytes) -> None:
    connection.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def test_a_result_comes_while_the_stream_goes_on(stream):
    send(stream, line(1))
    response = stream.getresponse()
    assert json.loads(response.readline())["result"] == "accepted"
    send(stream, line(2) + line(1))
    assert [json.loads(response.readline())["result"] for _ in range(2)] == [
        *("accepted", "duplicate")
    ]
    stream.send(b"0\r\n\r\n")
    assert response.read() == b""


def test_a_client_that_reads_nothing_before_it_has_sent_all_is_served(stream):
    for first in range(0, 5_000, 500):
        send(stream, b"".join(line(number) for number in range(first, first + 500)))
    stream.send(b"0\r\n\r\n")
    results = [json.loads(row)["result"] for row in stream.getresponse().read().splitlines()]
    assert results == ["accepted"] * 5_000


def test_what_a_client_sent_before_it_went_away_is_accepted(scene, stream):
    send(stream, line(1))
    stream.getresponse().readline()
    send(stream, line(2)[:20])
    stream.close()
    assert [run.name for run in scene.inspector.runs("etl")] == ["run 1"]
