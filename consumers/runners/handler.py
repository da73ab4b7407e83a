"""The handler runner: calls a function or coroutine function of a program with each run.

Functions run in the thread of their run, coroutines in one event loop in a thread of its own. A
coroutine is cancelled when it has been asked to stop and its grace is over. A thread cannot be: it
keeps its slot until it returns.
"""

import asyncio
import concurrent.futures
import json
import traceback
from collections.abc import Mapping
from functools import partial
from inspect import isawaitable
from pathlib import Path
from types import TracebackType
from typing import Any

from consumers.app import App, Cancelled, Handler, Retry, Run, running
from consumers.runners import Again, Stop, without_ours
from consumers.runners.loop import Loop
from dispatcher import Claim, InvalidRun, Outcome, Pool, payload_handler_job

OUTPUT_BYTES = 65_536
MESSAGE_CHARACTERS = 1_000
STOP_GRACE_S = 5.0
_BETWEEN = tuple(  # us and the handler
    f"{Path(file).parent}/" for file in (__file__, asyncio.__file__, concurrent.futures.__file__)
)


class HandlerRunner:
    """Runs the handler that a run's job variables name, else the app's default one.

    `where` is how people name the app: package.module:app. `environ` is for the pool's template.
    """

    guarded = False

    def __init__(
        self,
        app: App,
        *,
        where: str = "the app",
        stop_grace_s: float = STOP_GRACE_S,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._app, self._where = app, where
        self._template = ""
        self._environ = without_ours(environ)
        self._loop = Loop(stop_grace_s)

    def run(self, claim: Claim, stop: Stop) -> Outcome | Again:
        """Call the handler: COMPLETED when it returns, FAILED when it raises anything but Retry."""
        try:
            job = payload_handler_job(
                claim.payload,
                base_job_template=self._template,
                timeout_ms=claim.timeout_ms,
                environ=self._environ,
            )
            handler = self._find(job.handler)
        except InvalidRun as error:
            return Outcome("CRASHED", "Crashed", str(error))
        run = _run_of(claim)
        stop.limit(job.timeout_s)
        stop.on_request(partial(_ask, run.cancelled, stop))
        try:
            with running(run):
                result = handler(run)
                if isawaitable(result):
                    result = self._loop.wait(result, stop)
        except Retry as wish:
            return Again(wish.delay_s, _line(wish.reason))
        except BaseException as error:  # noqa: BLE001  sys.exit() in a handler ends the handler
            return _failed(error)
        finally:
            stop.over()
        return _returned(result)

    def configure(self, pool: Pool) -> None:
        """Start runs by this pool's template from now on."""
        self._template = pool.base_job_template

    def alive(self, timeout_s: float) -> None:
        """Nobody else watches over what runs: a worker that dies takes its handlers with it."""

    def close(self) -> None:
        """End the event loop, and what still runs in it."""
        self._loop.close()

    def _find(self, name: str) -> Handler:
        handler = self._app.find(name)
        if handler is None:
            wanted = f"has no handler {name!r}" if name else "has no default handler"
            raise InvalidRun(
                "flow_run.job_variables.handler", f"{self._where} {wanted}; it has {self._app}"
            )
        return handler


def _run_of(claim: Claim) -> Run:
    flow_run = json.loads(claim.payload)["flow_run"]
    return Run(
        id=claim.run_id,
        name=claim.name,
        pool=claim.pool,
        queue=claim.queue,
        parameters=flow_run.get("parameters") or {},
        raw=claim.payload,
        due_ms=claim.due_ms,
        run_count=claim.run_count,
        delivery=claim.delivery,
        fencing_token=claim.token,
    )


def _ask(cancelled: Cancelled, stop: Stop) -> None:
    cancelled.set(str(stop.reason or ""))


def _failed(error: BaseException) -> Outcome:
    lines = traceback.format_exception(type(error), error, _own(error.__traceback__))
    output = "".join(lines).encode(errors="backslashreplace")[-OUTPUT_BYTES:]
    said = traceback.format_exception_only(error)
    # Notes follow what was raised; only the place of a syntax error goes before it.
    line = said[-1] if isinstance(error, SyntaxError) else said[0]
    return Outcome("FAILED", "Failed", _line(line), output)


def _returned(result: Any) -> Outcome:
    if result is None:
        return Outcome("COMPLETED", "Completed")
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"its handler returned what is not JSON: {type(result).__name__}: {error}"
        return Outcome("FAILED", "Failed", _line(message))
    output = text.encode(errors="backslashreplace")
    cut = f"the first {OUTPUT_BYTES} of {len(output)} bytes of its result are kept"
    message = cut if len(output) > OUTPUT_BYTES else ""
    return Outcome("COMPLETED", "Completed", message, output[:OUTPUT_BYTES])


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames between the runner and the handler."""
    own = trace
    while own and own.tb_frame.f_code.co_filename.startswith(_BETWEEN):
        own = own.tb_next
    return own or trace


def _line(text: str) -> str:
    """Return a text as one line that is not too long."""
    first = " ".join(text.split("\n", 1)[0].split())
    return first[:MESSAGE_CHARACTERS].encode(errors="backslashreplace").decode()
