"""A scene whose pool is of type handler, with workers of `tests/scenarios/flows.py`."""

import json
from typing import Any

from dispatcher.records import Word
from dispatcher.stored import RunRecord
from tests.probes import ROOT, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene

APP = "tests.scenarios.flows:app"


class HandlerScene(Scene):
    """A pool of type handler, and processes that serve it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.working_dir = ROOT

    def create_handler_pool(self, **fields: Any) -> None:
        """Create the pool; by default with a lease that is not renewed during a test."""
        self.create_pool(**{"type": "handler", "lease_ms": 60_000, "renew_ms": 20_000} | fields)

    def hand(self, name: str, *arguments: str, **settings: str) -> Process:
        """Start a handler worker and wait until it is registered."""
        return self.ready_worker(name, "--app", APP, *arguments, **settings)

    def put(self, handler: str | None = None, /, **parameters: Any) -> str:
        """Submit a run for a handler and return its id; `fields` are more of the run."""
        fields = parameters.pop("fields", {})
        parameters |= {"directory": str(self.directory)}
        variables = {} if handler is None else {"handler": handler}
        variables |= fields.pop("job_variables", {})
        return self.submit(None, parameters=parameters, job_variables=variables, **fields)

    def wait_told(self, run_id: str, what: str = "begun", delivery: int = 1) -> int:
        """Wait until a handler tells something; return the process that it runs in."""
        told = self.directory / f"{what}.{run_id}.{delivery}"
        wait_until(told.exists, f"the handler tells {told.name}", timeout_s=PATIENCE_S)
        return int(told.read_text())

    def has_told(self, run_id: str, what: str, delivery: int = 1) -> bool:
        """Return whether a handler has told something."""
        return (self.directory / f"{what}.{run_id}.{delivery}").exists()

    def cancel(self, run_id: str) -> None:
        """Cancel a run that a worker has."""
        told = self.store.cancel(POOL, run_id, reason="no longer needed", by="me")
        assert told.word is Word.CANCELLING

    def result(self, run: RunRecord) -> Any:
        """Return what the handler of a run has returned."""
        return json.loads(self.inspector.output(run) or b"null")

    def held(self) -> dict[str, int]:
        """Return how many runs each worker has, as `dispatcher worker ls` shows it."""
        shown = self.command("dispatcher", "worker", "ls", "--json").stdout.splitlines()
        rows = [json.loads(line) for line in shown]
        return {row["name"]: row["held"] for row in rows}
