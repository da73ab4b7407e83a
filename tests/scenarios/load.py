"""A producer that submits run after run from a thread, through outages."""

import threading
from contextlib import closing
from datetime import datetime
from typing import Any
from uuid import uuid4

from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from dispatcher.store import Store
from tests.scenarios.fleet import PATIENCE_S

PAUSE_S = 0.05


def send(
    producer: Producer, pool: str, command: object, *, at: datetime | None = None, **fields: Any
) -> str:
    """Submit a run with this command, or what `fields` say, and return its id."""
    run_id = str(uuid4())
    run = {"id": run_id, "flow_id": str(uuid4()), "name": "run"}
    producer.submit(run | {"job_variables": {"command": command}} | fields, pool=pool, at=at)
    return run_id


class Submitting:
    """Submits runs to a pool, with patience, until `stop` says which; they do nothing.

    `fields` are more fields of each run, such as another command in its job variables.
    """

    def __init__(self, url: str, prefix: str, pool: str, **fields: Any) -> None:
        self._connection = Connection.open(url, patience_s=PATIENCE_S)
        store, inspector = Store(self._connection, prefix), Inspector(self._connection, prefix)
        self._producer, self._pool, self._fields = Producer(store, inspector), pool, fields
        self._done = threading.Event()
        self.runs: list[str] = []
        self._thread = threading.Thread(target=self._submit, daemon=True)
        self._thread.start()

    def stop(self) -> list[str]:
        """Submit no more and return what was accepted."""
        self._done.set()
        self._thread.join()
        return self.runs

    def _submit(self) -> None:
        with closing(self._connection):
            while not self._done.wait(PAUSE_S):
                self.runs.append(send(self._producer, self._pool, "true", **self._fields))
