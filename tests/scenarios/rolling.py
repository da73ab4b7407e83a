"""Runs that leave a line when they begin and one when they end, whoever runs them, and their load.

A process worker takes their command, a handler worker the app below; both write the run's id and
fencing token to the file that the run names.
"""

import os
from collections import Counter, defaultdict
from pathlib import Path

from consumers import App, Run
from tests.scenarios.fleet import POOL
from tests.scenarios.load import Submitting

APP = "tests.scenarios.rolling:app"
TAKES_S = 0.3
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


def noted_load(url: str, prefix: str, file: Path) -> Submitting:
    """Return what submits such runs to the scene's pool from now on."""
    command = ["/bin/sh", "-c", NOTED, str(file), str(TAKES_S)]
    parameters = {"file": str(file), "seconds": TAKES_S}
    variables = {"command": command}
    return Submitting(url, prefix, POOL, parameters=parameters, job_variables=variables)
