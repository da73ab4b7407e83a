"""Runs that leave a line when they begin and one when they end, whoever runs them, and their load.

A process worker takes their command, a handler worker the app below; both write the run's id and
fencing token to the file that the run names.
"""

import os
import threading
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from consumers import App, Run
from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.producer import Producer
from dispatcher.store import Store
from tests.scenarios.fleet import PATIENCE_S, POOL

APP = "tests.scenarios.rolling:app"
TAKES_S = 0.3
PAUSE_S = 0.03
NOTED = """
note() { echo "$1 $DISPATCHER_RUN_ID $DISPATCHER_RUN_FENCING_TOKEN" >> "$0"; }
note began; sleep "$1"; note ended
"""
app = App()


@app.handler()
def work(run: Run) -> None:
    """Note, wait, note."""
    file = Path(run.parameters["file"])
    note(file, f"began {run.id} {run.fencing_token}")
    run.cancelled.wait(run.parameters["seconds"])
    note(file, f"ended {run.id} {run.fencing_token}")


def note(file: Path, line: str) -> None:
    """Append one line, which is whole whoever else does the same."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted(file: Path) -> dict[str, Counter[str]]:
    """Return how often each run `began` and `ended`, and by the token of which incarnation."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in file.read_text().splitlines():
        what, run_id, token = line.split()
        found[run_id][what] += 1
        found[run_id][token.split(".")[1]] += 1
    return found


class NotedLoad:
    """Submits such runs to the scene's pool from a thread, until `stop` says which."""

    def __init__(self, url: str, prefix: str, file: Path) -> None:
        self._connection = Connection.open(url, patience_s=PATIENCE_S)
        store, inspector = Store(self._connection, prefix), Inspector(self._connection, prefix)
        self._producer, self._file = Producer(store, inspector), file
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
        command = ["/bin/sh", "-c", NOTED, str(self._file), str(TAKES_S)]
        with closing(self._connection):
            while not self._done.wait(PAUSE_S):
                run = {
                    "id": str(uuid4()),
                    "flow_id": str(uuid4()),
                    "name": "run",
                    "parameters": {"file": str(self._file), "seconds": TAKES_S},
                    "job_variables": {"command": command},
                }
                self._producer.submit(run, pool=POOL)
                self.runs.append(str(run["id"]))
