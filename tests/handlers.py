"""Runners of handlers for tests: an app, a runner of it, and claims by hand."""

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from consumers import App, Run
from consumers.runners.handler import HandlerRunner
from dispatcher import Claim

KINDS = pytest.mark.parametrize("is_coroutine", [False, True], ids=["function", "coroutine"])
Start = Callable[..., HandlerRunner]


class Runners(ExitStack):
    """Starts runners of an app, and closes them at its end."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self._app = app

    def start(self, **options: Any) -> HandlerRunner:
        """Start a runner."""
        runner = HandlerRunner(self._app, where="flows:app", **options)
        self.callback(runner.close)
        return runner


def a_claim(variables: dict[str, Any] | None = None, **fields: Any) -> Claim:
    """The claim of a run with these job variables."""
    run = {"job_variables": variables, "parameters": fields.pop("parameters", {})}
    defaults = {
        "run_id": "run-1",
        "pool": "etl",
        "queue": "default",
        "token": "1-0.abc.7",
        "payload": json.dumps({"flow_run": run}).encode(),
        "due_ms": 1_000,
        "run_count": 2,
        "delivery": 3,
        "name": "brave-otter",
    }
    return Claim(**defaults | fields)


def add(app: App, function: Callable[[Run], Any], *, is_coroutine: bool, name: str = "") -> None:
    """Make a function a handler as it is, or as a coroutine function."""

    async def coroutine(run: Run) -> Any:
        await asyncio.sleep(0)
        return function(run)

    app.handler(name)(coroutine if is_coroutine else function)
