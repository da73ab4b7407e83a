"""A pool on a real server with held claims, for tests of what happens to those who wait."""

import threading
from typing import Any

from dispatcher.connection import Connection
from dispatcher.http.claim_steps import ClaimSteps
from dispatcher.http.holders import Claimed, Wanted
from dispatcher.http.holding import Holding
from dispatcher.http.line import Waiter
from dispatcher.inspector import Inspector
from dispatcher.store import Store
from tests.builders import POOL, a_pool, a_queue, a_submission
from tests.probes import wait_until
from tests.servers import RealServer

LEASE_MS, RENEW_MS = 2_000, 300
ALL = Wanted("w", (), 1)


class Caller:
    """One held claim, and what it was given."""

    def __init__(self, edge: "Edge", holding: Holding, wanted: Wanted) -> None:
        self.given: list[Claimed] = []
        self._edge, self._came = edge, threading.Event()
        asked = holding.ask(POOL, wanted, self._give)
        if isinstance(asked, Claimed):
            self._give(asked)
        self.waiter = asked if isinstance(asked, Waiter) else None

    def _give(self, claimed: Claimed) -> None:
        self.given.append(claimed)
        self._came.set()

    def wait(self) -> list[str]:
        """Wait for the answer and return the ids of the runs that it brings."""
        assert self._came.wait(10), "the claim is not answered"
        assert len(self.given) == 1
        return [claim.run_id for claim in self.given[0].claims]


class Edge:
    """A pool on a real server, with the time of that server, and held claims."""

    def __init__(self, server: RealServer, prefix: str) -> None:
        self._url, self._prefix = server.url, prefix
        self._opened: list[Connection] = []
        self._made: list[Holding] = []
        self.store = self.open_store(patience_s=10)
        self.inspector = Inspector(self.store.connection, prefix)
        self.steps = ClaimSteps(self.store, self.inspector)
        pool = a_pool(lease_ms=LEASE_MS, renew_ms=RENEW_MS)
        self.store.create_pool(pool, default_queue_id="id-of-default")

    def open_store(self, *, read_timeout_s: float | None = None, patience_s: float = 0) -> Store:
        options = {} if read_timeout_s is None else {"read_timeout_s": read_timeout_s}
        connection = Connection.open(self._url, patience_s=patience_s, **options)
        self._opened.append(connection)
        return Store(connection, self._prefix)

    def holding(self) -> Holding:
        """Return the held claims of one more dispatcher."""
        store = self.open_store(patience_s=1)
        inspector = Inspector(store.connection, self._prefix)
        self._made.append(Holding(store, inspector, self.open_store, host="edge"))
        return self._made[-1]

    def close(self) -> None:
        for holding in self._made:
            holding.close(timeout_s=5)
        for connection in self._opened:
            connection.close()

    def put(self, *run_ids: str, queue: str = "default", **fields: Any) -> None:
        """Submit runs and dispatch them."""
        for run_id in run_ids:
            self.store.submit(POOL, a_submission(run_id, queue=queue, **fields))
        self.store.dispatch(POOL, [queue])

    def queue(self, name: str, **fields: Any) -> None:
        self.store.create_queue(a_queue(name, **fields))

    def listeners(self) -> list[str]:
        """The holders that listen for held claims."""
        return [h.id for h in self.inspector.holders(POOL) if _listens(h.worker)]

    def claimers(self) -> list[str]:
        """The holders that have claimed over HTTP."""
        return [h.id for h in self.inspector.holders(POOL) if h.id not in self.listeners()]

    def served(self) -> list[tuple[str, ...]]:
        """The queues that each listener is registered for; none means all."""
        return [h.queues for h in self.inspector.holders(POOL) if _listens(h.worker)]

    def draining(self) -> list[str]:
        """The holders that claim nothing more."""
        return [h.id for h in self.inspector.holders(POOL) if h.draining]

    def renew_rarely(self) -> None:
        """Have whoever registers from now on renew so seldom that it makes up for no wake."""
        self.store.set_pool(POOL, {"lease_ms": 60_000, "renew_ms": 20_000})

    def wait_listening(self, number: int = 1) -> None:
        """Wait until listeners block."""
        wait_until(lambda: len(self.listeners()) == number, "listeners are registered")
        read = self.store.connection.read
        wait_until(
            lambda: read(lambda c: c.info("clients"))["blocked_clients"] >= number,
            "they block in Redis",
        )

    def recover(self) -> None:
        """Take back what holders had whose lease has ended."""
        leases = self.inspector.leases(POOL)
        for holder, end_ms in leases.ends:
            if end_ms <= leases.now_ms:
                self.store.recover_all(POOL, holder)

    def place(self, run_id: str) -> str:
        return str(self.inspector.run(run_id, POOL).place)


def _listens(worker: str) -> bool:
    """Whether this is `http~<host>~<pid>~<hex>`; claims are made as `<name>~<hex>`."""
    return worker.startswith("http~") and worker.count("~") == 3
