"""A worker written from docs/protocol.md alone: plain Redis commands, keys spelled by hand."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from dispatcher import Connection, Pool, Store
from dispatcher.records import Submission

LUA = Path(__file__).parents[2] / "dispatcher" / "lua"
SLOT = re.compile(r"^-- (KEYS|ARGV)\[\d+\] +(\w+)(?: +prefix of ([^<\s]+))?", re.MULTILINE)
NAMED_APART = {"pool_slots": "slots:pool"}  # else a key that does not vary is named like its row


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
        keys = [
            self.tag + (prefix or NAMED_APART.get(label, label))
            for kind, label, prefix in slots
            if kind == "KEYS"
        ]
        given = {"now_ms": "", "holder": self.holder, "worker": "go-worker", **args}
        values = [given[label] for kind, label, _ in slots if kind == "ARGV"]
        return self.client.evalsha(sha, len(keys), *keys, *values)

    def register(self) -> object:
        return self.step("register", version=1, queues="", slots=4, host="h", pid=1, type="process")

    def wait(self) -> bytes:
        lists = [f"{self.tag}inbox:{self.holder}", f"{self.tag}wake:default"]
        popped = self.client.blpop(lists, timeout=10)
        return popped[0]

    def claim(self, number: int) -> list:
        return self.step("claim", number=number, slots=4, max_bytes=4_194_304)

    def start(self, claim: list, run_count: int) -> object:
        return self.step("start", run_id=claim[0], token=claim[2], run_count=run_count)

    def finish(self, claim: list, run_count: int, state: str) -> object:
        end = {"state_type": state, "state_name": state.title(), "message": "", "output": "hi"}
        ids = {"run_id": claim[0], "token": claim[2], "run_count": run_count}
        return self.step("finish", nudge=0, **ids, **end)

    def state(self, claim: list) -> bytes:
        return self.client.hget(f"{self.tag}run:{claim[0].decode()}", "state_type")


@pytest.fixture
def store(real_server, prefix):
    store = Store(Connection.open(real_server.url), prefix)
    store.create_pool(Pool("etl", str(uuid4()), "process"), default_queue_id=str(uuid4()))
    yield store
    store.connection.close()


@pytest.fixture
def worker(real_server, prefix):
    client = real_server.client()
    worker = SpokenWorker(client, prefix)
    yield worker
    client.close()


def dispatched_run(store: Store, **fields: object) -> str:
    run_id = str(uuid4())
    request = uuid4().hex
    store.submit("etl", Submission(run_id, "default", b'{"flow_run": 1}', "n", request, **fields))
    store.dispatch("etl", ["default"])
    return run_id


def test_a_worker_written_from_the_protocol_runs_a_run_to_its_end(store, worker):
    worker.register()
    run_id = dispatched_run(store).encode()

    woken_by = worker.wait()
    word, more, claim = worker.claim(1)
    (found, queue, _, payload, _, run_count, delivery, name, *limits) = claim
    started = worker.start(claim, int(run_count) + 1)
    finished = worker.finish(claim, int(run_count) + 1, "COMPLETED")

    assert woken_by.endswith(b"wake:default")
    assert (word, more, found, queue, payload) == (
        *(b"claimed", 0, run_id),
        *(b"default", b'{"flow_run": 1}'),
    )
    assert limits[:3] == [b"", b"", b"0"]  # a later release may answer more
    assert (delivery, name, started, finished) == (b"1", b"n", b"started", b"finished")
    assert worker.state(claim) == b"COMPLETED"


def test_the_same_claim_number_brings_the_same_runs_again(store, worker):
    worker.register()
    dispatched_run(store)

    assert worker.claim(1)[2:] == worker.claim(1)[2:]


def test_a_worker_written_from_the_protocol_leaves_nothing_behind(store, worker):
    worker.register()
    dispatched_run(store)
    (claim,) = worker.claim(1)[2:]
    given_back = {"run_id": claim[0], "token": claim[2], "reason": "bye", "by": "", "delay_ms": ""}
    released = worker.step("release", nudge=0, **given_back)

    drained = worker.step("drain", reason="bye", by="")
    recovered = worker.step("recover", limit=100)

    assert (released, drained, recovered) == (b"released", b"drained", [b"recovered"])
    assert not list(worker.client.scan_iter(f"{worker.tag}*{worker.holder}"))


def test_a_worker_written_from_the_protocol_hears_of_a_cancel_and_ends_the_run(store, worker):
    worker.register()
    run_id = dispatched_run(store)
    worker.wait()
    (claim,) = worker.claim(1)[2:]
    worker.start(claim, 1)

    store.cancel("etl", run_id)
    told_by = worker.wait()
    *_, draining, order = worker.step("renew", held=1, number=1)
    finished = worker.finish(claim, 1, "CANCELLED")

    assert told_by.endswith(b"inbox:" + worker.holder.encode())
    assert (draining, order) == (0, claim[0])
    assert finished == b"finished"
    assert worker.state(claim) == b"CANCELLED"
    assert worker.step("renew", held=0, number=1)[5:] == []


def test_a_worker_written_from_the_protocol_does_not_begin_what_is_to_be_cancelled(store, worker):
    worker.register()
    run_id = dispatched_run(store)
    (claim,) = worker.claim(1)[2:]

    store.cancel("etl", run_id)

    assert worker.start(claim, 1) == b"cancelling"
    assert worker.finish(claim, "", "CANCELLED") == b"finished"
    assert worker.state(claim) == b"CANCELLED"


def test_a_worker_written_from_the_protocol_tries_again_under_its_claim(store, worker):
    worker.register()
    dispatched_run(store, retries=1, retry_type="in_process", retry_delay_ms=50)
    (claim,) = worker.claim(1)[2:]

    words = []
    for run_count in (1, 2):
        words += [worker.start(claim, run_count), worker.finish(claim, run_count, "FAILED")]

    assert claim[10] == b"50"
    assert words == [b"started", b"retrying", b"started", b"finished"]
    assert worker.state(claim) == b"FAILED"
