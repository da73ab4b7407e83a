"""A worker written from docs/protocol.md alone: plain Redis commands, keys spelled by hand."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from dispatcher import Connection, Pool, Store
from dispatcher.records import Submission

LUA = Path(__file__).parents[2] / "dispatcher" / "lua"
SLOT = re.compile(r"^-- (KEYS|ARGV)\[\d+\] +(\w+)", re.MULTILINE)


class SpokenWorker:
    """Everything it knows of dispatcher is in docs/protocol.md and docs/data-model.md."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.client = client
        self.tag = f"{prefix}:{{etl}}:"
        self.holder = f"go-worker.{uuid4().hex[:8]}"

    def step(self, name: str, **args: object) -> object:
        text = (LUA / f"{name}.lua").read_text()
        used = re.search(r"^-- Uses +(.+)$", text, re.MULTILINE)
        shared = [(LUA / f"_{word.strip()}.lua").read_text() for word in used[1].split(",")]
        sha = self.client.script_load("\n".join([*shared, text]))
        slots = SLOT.findall(text)
        keys = [self.key(label) for kind, label in slots if kind == "KEYS"]
        given = {"now_ms": "", "holder": self.holder, "worker": "go-worker", **args}
        values = [given[label] for kind, label in slots if kind == "ARGV"]
        return self.client.evalsha(sha, len(keys), *keys, *values)

    def key(self, name: str) -> str:
        varies = ("queue", "scheduled", "stream", "wake", "run", "holder", "claims", "inbox")
        return f"{self.tag}{name}:" if name in varies else f"{self.tag}{name}"

    def register(self) -> object:
        return self.step("register", version=1, queues="", slots=4, host="h", pid=1, type="process")

    def wait(self) -> bytes:
        lists = [f"{self.tag}inbox:{self.holder}", f"{self.tag}wake:default"]
        popped = self.client.blpop(lists, timeout=10)
        return popped[0]

    def claim(self, number: int) -> list:
        return self.step("claim", number=number, slots=4, max_bytes=4_194_304)


@pytest.fixture
def store(real_server, prefix):
    store = Store(Connection.open(real_server.url), prefix)
    store.create_pool(Pool("etl", str(uuid4()), "process"), default_queue_id=str(uuid4()))
    yield store
    store.connection.close()


@pytest.fixture
def worker(real_server, prefix):
    client = real_server.client()
    yield SpokenWorker(client, prefix)
    client.close()


def dispatched_run(store: Store) -> str:
    run_id = str(uuid4())
    store.submit("etl", Submission(run_id, "default", b'{"flow_run": 1}', "n", uuid4().hex))
    store.dispatch("etl", ["default"])
    return run_id


def test_a_worker_written_from_the_protocol_runs_a_run_to_its_end(store, worker):
    worker.register()
    run_id = dispatched_run(store).encode()

    woken_by = worker.wait()
    word, more, (found, queue, token, payload, _, run_count, delivery, name) = worker.claim(1)
    started = worker.step("start", run_id=found, token=token, run_count=int(run_count) + 1)
    end = {"state_type": "COMPLETED", "state_name": "Completed", "message": "", "output": "hi"}
    finished = worker.step("finish", run_id=found, token=token, nudge=0, **end)

    assert woken_by.endswith(b"wake:default")
    assert (word, more, found, queue, payload) == (
        *(b"claimed", 0, run_id),
        *(b"default", b'{"flow_run": 1}'),
    )
    assert (delivery, name, started, finished) == (b"1", b"n", b"started", b"finished")
    assert worker.client.hget(worker.key("run") + run_id.decode(), "state_type") == b"COMPLETED"


def test_the_same_claim_number_brings_the_same_runs_again(store, worker):
    worker.register()
    dispatched_run(store)

    assert worker.claim(1)[2:] == worker.claim(1)[2:]


def test_a_worker_written_from_the_protocol_leaves_nothing_behind(store, worker):
    worker.register()
    dispatched_run(store)
    (claim,) = worker.claim(1)[2:]
    released = worker.step("release", run_id=claim[0], token=claim[2], reason="bye", nudge=0)

    drained = worker.step("drain", reason="bye")
    recovered = worker.step("recover", limit=100)

    assert (released, drained, recovered) == (b"released", b"drained", [b"recovered"])
    assert not list(worker.client.scan_iter(f"{worker.tag}*{worker.holder}"))
