"""Claims held over HTTP: from submit to the answer, with one and with 2,000 of them waiting.

Beside it is a stream worker's wait, in the same way and on the same pool. Each run is submitted
when the one before has ended, and is due at once.
"""

import json
import os
import re
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from bench.figures import Figure
from bench.fixture import POOL, PREFIX, fresh_pool, pause, quantile, submission
from dispatcher import Connection, Finish, Inspector, Outcome, Registration, Start, Store

HELD, RUNS, ROUNDS = 2_000, 200, 3
EVERY_S = 0.01
CLAIM = f"/api/work_pools/{POOL}/claim"
TITLE = f"HTTP claims held by Prefer: wait, submit to answer, ms ({RUNS} runs, one after the other)"
DONE = Outcome("COMPLETED", "Completed")


class Clients:
    """Sockets on which claims wait; who gets a run finishes it, and waits again."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._steps = socket.create_connection(address)
        self.sockets = [self._hold(socket.create_connection(address)) for _ in range(number)]
        for each in self.sockets:
            self._selector.register(each, selectors.EVENT_READ)

    def answer_s(self, store: Store) -> float:
        """Submit a run and return after how long one client, and only one, had read it."""
        began_s = time.perf_counter()
        store.submit(POOL, submission())
        came = self._selector.select(timeout=30)
        assert came, "no held claim was answered"
        client: Any = came[0][0].fileobj
        (run,) = _read(client)
        took_s = time.perf_counter() - began_s
        others = [*came[1:], *self._selector.select(timeout=0)]
        assert not others, "several were answered"
        for step, more in (("start", {}), ("finish", {"state": {"type": "COMPLETED"}})):
            body = {"token": run["claim"]["token"], "work_pool_name": POOL} | more
            _send(self._steps, f"/api/flow_runs/{run['flow_run']['id']}/{step}", body)
            _read(self._steps)
        self._hold(client)
        return took_s

    def close(self) -> None:
        """Let them all go."""
        for each in (*self.sockets, self._steps):
            each.close()
        self._selector.close()

    def _hold(self, client: socket.socket) -> socket.socket:
        _send(client, CLAIM, {"worker": "bench"}, "Prefer: wait=300\r\n")
        return client


class Waiter:
    """A stream worker's wait: blocked in Redis, claims when it is woken, starts and finishes."""

    def __init__(self, url: str) -> None:
        self._store = Store(Connection.open(url, read_timeout_s=60), PREFIX)
        self._came = threading.Event()
        self._ending = False
        self._number = 0
        self._holder = self._store.register(POOL, Registration("bench", uuid4().hex[:12], 1)).holder
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def answer_s(self, store: Store) -> float:
        """Submit a run and return after how long it was claimed."""
        self._came.clear()
        began_s = time.perf_counter()
        store.submit(POOL, submission())
        assert self._came.wait(30), "the run was not claimed"
        return self._claimed_s - began_s

    def close(self) -> None:
        """Leave the pool."""
        self._ending = True
        self._store.drain(POOL, self._holder, reason="done")
        self._thread.join()
        self._store.recover_all(POOL, self._holder)
        self._store.connection.close()

    def _live(self) -> None:
        while not self._ending:
            if self._store.wait(POOL, self._holder, ["default"], timeout_s=5) == "default":
                self._work()

    def _work(self) -> None:
        self._number += 1
        claims = self._store.claim(POOL, self._holder, number=self._number, slots=1).claims
        self._claimed_s = time.perf_counter()
        for claim in claims:
            self._store.report(POOL, Start(claim.run_id, claim.token, 1))
            self._store.report(POOL, Finish(claim.run_id, claim.token, DONE, run_count=1))
        if claims:
            self._came.set()


def measure(url: str) -> list[Figure]:
    """Measure in rounds: a stream worker, one held claim, 2,000 of them."""
    _allow_files()
    rounds = [_round(url) for _ in range(ROUNDS)]
    stream, one, many, kib = zip(*rounds, strict=True)

    def values(kind: Sequence[list[float]], share: float) -> list[float]:
        return [quantile(each, share) * 1000 for each in kind]

    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        beside = values(stream, share)
        for what, kind in (("1 held", one), (f"{HELD:,} held", many)):
            figures.append(Figure(f"{what}, {name}", values(kind, share), beside, digits=2))
    return [*figures, Figure("memory per held call, KiB", kib, at_most=128, digits=1)]


def _round(url: str) -> tuple[list[float], list[float], list[float], float]:
    store = fresh_pool(url)
    with _serving(url) as (address, pid), ExitStack() as opened:
        waiter = Waiter(url)
        stream = _answers(store, waiter)
        waiter.close()
        one = Clients(address, 1)
        opened.callback(one.close)
        alone = _answers(store, one)
        one.close()
        before = _rss_kib(pid)
        many = Clients(address, HELD)
        opened.callback(many.close)
        _until_held(url, HELD)
        kib = (_rss_kib(pid) - before) / HELD
        return stream, alone, _answers(store, many), kib


def _answers(store: Store, waiting: Clients | Waiter) -> list[float]:
    found = []
    for _ in range(RUNS):
        found.append(waiting.answer_s(store))
        pause(EVERY_S)
    return found


@contextmanager
def _serving(url: str) -> Iterator[tuple[tuple[str, int], int]]:
    """Start a dispatcher with HTTP; yield where it serves, and its process id."""
    command = [sys.executable, "-m", "dispatcher.cli", "run", "--http", "127.0.0.1:0"]
    command += ["--key-prefix", PREFIX, "--log-format", "json"]
    environment = os.environ | {"DISPATCHER_REDIS_URL": url}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"http://([\d.]+):(\d+)", line):
                break
        else:
            raise RuntimeError("the dispatcher did not serve")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield (found[1], int(found[2])), process.pid
    finally:
        process.terminate()
        process.wait()


def _until_held(url: str, number: int) -> None:
    """Wait until the last claim is held: nothing is under way any more."""
    inspector = Inspector(Connection.open(url), PREFIX)
    while not inspector.holders(POOL):
        pause(0.05)
    pause(2.0)


def _send(client: socket.socket, path: str, body: object, headers: str = "") -> None:
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    client.sendall(head.encode() + raw)


def _read(client: socket.socket) -> Any:
    """Read one answer of a connection that goes on."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(client)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 200"), data
    assert length, data
    while len(body) < int(length[1]):
        body += _more(client)
    return json.loads(body)


def _more(client: socket.socket) -> bytes:
    data = client.recv(65_536)
    assert data, "the connection was closed"
    return data


def _rss_kib(pid: int) -> int:
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(shown.stdout)


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * HELD if hard == resource.RLIM_INFINITY else min(2 * HELD, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
