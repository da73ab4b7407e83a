"""The other processes of a measurement: bare stream ends, bare loops, and a real worker."""

import json
import random
import sys
import threading
import time
from typing import Any
from uuid import uuid4

from bench.fixture import POOL, PREFIX, payload
from consumers.doors import Doors
from consumers.runners import Stop
from consumers.worker import Worker
from dispatcher import (
    Claim,
    Connection,
    Finish,
    Inspector,
    Outcome,
    Registration,
    Start,
    Store,
    configure_logs,
    read_settings,
)
from dispatcher.service import Service

DONE = Outcome("COMPLETED", "Completed")
BATCH = 100
STREAM, GROUP = "bare:stream", "bare"


class NoopRunner:
    """The in-process runner of the benchmark: notes when each run started and ended.

    It does nothing, or stands still for 0.5 to 1.5 times `hold_ms`.
    """

    guarded = False

    def __init__(self, expected: int, hold_ms: float = 0.0) -> None:
        self.ran: list[tuple[str, int, float, float]] = []  # id, due, started, ended
        self._expected = expected
        self._hold_s = hold_ms / 1000
        self._chance = random.Random(7)
        self.all_ran = threading.Event()

    def run(self, claim: Claim, stop: Stop) -> Outcome:
        """Note the time and complete."""
        started_ms = ended_ms = time.time() * 1000
        if self._hold_s:
            threading.Event().wait(self._hold_s * self._chance.uniform(0.5, 1.5))
            ended_ms = time.time() * 1000
        self.ran.append((claim.run_id, claim.due_ms, started_ms, ended_ms))
        if len(self.ran) >= self._expected:
            self.all_ran.set()
        return DONE

    def alive(self, timeout_s: float) -> None:
        """There is nothing to watch."""

    def close(self) -> None:
        """There is nothing to free."""


def worker(
    url: str, runs: str, pool: str = POOL, queue: str = "", hold_ms: str = "0"
) -> dict[str, list[Any]]:
    """Run a real worker until it has ended `runs` runs; all of them are claimable when it starts
    (throughput) or come one by one (latency)."""

    def open_doors(read_timeout_s: float | None) -> tuple[Store, Inspector]:
        connection = Connection.open(url, read_timeout_s=read_timeout_s or 10.0)
        return Store(connection, PREFIX), Inspector(connection, PREFIX)

    runner = NoopRunner(int(runs), float(hold_ms))
    queues = [queue] if queue else []
    it = Worker(Doors(open_doors), runner, pool=pool, name="bench", limit=BATCH, queues=queues)
    say("ready")
    began_s = time.monotonic()
    it.start()
    runner.all_ran.wait(300)
    it.drain("done")
    it.wait_idle(60)
    took_s = time.monotonic() - began_s
    it.close()
    ids, due_ms, started_ms, ended_ms = map(list, zip(*runner.ran, strict=True))
    times = {"due_ms": due_ms, "started_ms": started_ms, "ended_ms": ended_ms}
    return {"took_s": [took_s], "run": ids, **times}


def bare_loop(url: str, runs: str) -> dict[str, list[Any]]:
    """Claim, start and finish `runs` runs with the shipped scripts and nothing else."""
    store = Store(Connection.open(url), PREFIX)
    say("ready")
    began_s = time.monotonic()
    me = store.register(POOL, Registration("bare", uuid4().hex[:12], BATCH))
    done, number = 0, 0
    while done < int(runs):
        number += 1
        claims = store.claim(POOL, me.holder, number=number, slots=BATCH).claims
        store.report_many(POOL, [Start(c.run_id, c.token, c.run_count + 1) for c in claims])
        store.report_many(POOL, [Finish(c.run_id, c.token, DONE) for c in claims])
        done += len(claims)
    return {"took_s": [time.monotonic() - began_s]}


def dispatcher(url: str, level: str = "warning") -> dict[str, list[Any]]:
    """Run a real dispatcher until standard input ends."""
    configure_logs(level, "json")
    settings, _, _ = read_settings({}, redis_url=url, key_prefix=PREFIX)
    service = Service(url, settings)
    service.start()
    say("ready")
    sys.stdin.read()
    service.stop()
    return {}


def bare_producer(url: str, first_ms: str, runs: str, every_ms: str) -> dict[str, list[Any]]:
    """XADD a run at each due time: a timer and one command, the least that can be done."""
    client = Connection.open(url).client
    stop, data = threading.Event(), payload(str(uuid4()))
    say("ready")
    for i in range(int(runs)):
        due_ms = int(first_ms) + i * int(every_ms)
        stop.wait(max(0.0, due_ms / 1000 - time.time()))
        client.xadd(STREAM, {"run": str(i), "payload": data, "due_ms": due_ms})
    return {}


def bare_consumer(url: str, runs: str) -> dict[str, list[Any]]:
    """Block in XREADGROUP and note how late each entry came."""
    client: Any = Connection.open(url).client
    client.delete(STREAM)
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    say("ready")
    late: list[float] = []
    while len(late) < int(runs):
        for _, entries in client.xreadgroup(GROUP, "c", {STREAM: ">"}, count=10, block=5000):
            now_ms = time.time() * 1000
            for entry, fields in entries:
                late.append(now_ms - int(fields[b"due_ms"]))
                client.xack(STREAM, GROUP, entry)
                client.xdel(STREAM, entry)
    return {"late_ms": late}


def say(word: str) -> None:
    """Tell the parent."""
    print(word, flush=True)


if __name__ == "__main__":
    configure_logs("warning", "console")
    duties = {f.__name__: f for f in (worker, bare_loop, dispatcher, bare_producer, bare_consumer)}
    print(json.dumps(duties[sys.argv[1]](*sys.argv[2:])), flush=True)
