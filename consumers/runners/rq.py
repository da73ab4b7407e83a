"""What RQ workers import: the job of a run that was handed over, and what RQ calls for it.

A standard `rq worker --serializer json` process runs it, with DISPATCHER_REDIS_URL or
DISPATCHER_REDIS_URL_FILE in its environment: nothing secret is in RQ's data.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rq import get_current_job
from rq.exceptions import AbandonedJobError, DeserializationError

from consumers.runners import Why
from consumers.runners.rq_job import READ_TIMEOUT_S, Execution
from consumers.runners.rq_queue import arguments, mark_not_json
from consumers.slots import Active
from dispatcher import (
    Connection,
    Finish,
    Inspector,
    NotFound,
    Outcome,
    Settings,
    Store,
    configure_logs,
    find_url,
    logger,
    read_settings,
    shared_holder,
)

PATIENCE_S = 30.0  # of a step while Redis cannot serve


class Unsuccessful(Exception):
    """The run did not end well, and its end was reported: it is RQ that is to see it as failed."""


def execute(*, pool: str, run_id: str, token: str, rq_queue: str, prefix: str) -> str:
    """Run a run that was handed over, and return what became of it.

    Raises Unsuccessful when it did not end well. Does nothing when its run has moved on.
    """
    settings = _settings(prefix)
    configure_logs(settings.log_level, settings.log_format)
    job = get_current_job()
    execution = Execution(
        partial(_open, settings),
        pool=pool,
        run_id=run_id,
        token=token,
        holder=shared_holder(rq_queue),
        rq_worker=(job and job.worker_name) or "rq",
    )
    active = execution.run()
    return _told(active) if active else "nothing: the run has moved on"


def on_failure(
    job: Any, connection: Any, kind: type, error: BaseException, _: object = None
) -> None:
    """Give a run back at once whose RQ job raised an error that is not the run's own.

    That RQ has abandoned a job says little: a horse goes on when its RQ worker was killed.
    """
    if isinstance(error, Unsuccessful | AbandonedJobError):
        return
    reason = f"its RQ job failed: {kind.__name__}: {error}".split("\n")[0][:500]
    if issubclass(kind, DeserializationError):
        mark_not_json(connection, job.worker_name or "")
        reason = f"RQ worker {job.worker_name} does not understand JSON"
    mine = arguments(job)
    with _held(job, mine) as store:
        if store:
            store.abandon(mine["pool"], mine["run_id"], mine["token"], reason=reason)


def on_stopped(job: Any, connection: Any) -> None:
    """End a run as CANCELLED whose RQ job was stopped: RQ has killed what worked on it."""
    mine = arguments(job)
    outcome = Outcome("CANCELLED", "Cancelled", "its RQ job was stopped")
    with _held(job, mine) as store:
        if store:
            store.report(mine["pool"], Finish(mine["run_id"], mine["token"], outcome, nudge=True))


@contextmanager
def _held(job: Any, mine: dict[str, str]) -> Iterator[Store | None]:
    """Open the store when a job's run is still its own: no other RQ worker has taken it."""
    store, inspector = _open(_settings(mine["prefix"]))
    try:
        run = inspector.run(mine["run_id"], mine["pool"])
        # In an RQ worker that has just lost its horse the job does not know who had it.
        me = job.worker_name or os.environ.get("RQ_WORKER_ID")
        of_others = run.executor.rpartition(".")[0] not in ("", me)
        yield store if run.token == mine["token"] and not of_others else None
    except NotFound:
        yield None
    finally:
        store.connection.close()


def _settings(prefix: str) -> Settings:
    settings, _, warnings = read_settings(key_prefix=prefix)
    for warning in warnings:
        logger().warning("settings", reason=warning)
    return settings


def _open(settings: Settings, stop: threading.Event | None = None) -> tuple[Store, Inspector]:
    connection = Connection.open(
        find_url(settings), patience_s=PATIENCE_S, read_timeout_s=READ_TIMEOUT_S, stop=stop
    )
    return Store(connection, settings.key_prefix), Inspector(connection, settings.key_prefix)


def _told(active: Active) -> str:
    """Return how a run ended, as RQ keeps it, or raise Unsuccessful."""
    outcome, stop = active.outcome, active.stop
    if stop.reason in (Why.LOST, Why.RELEASED, Why.FROZEN):
        return f"given back: {stop.reason}"
    if stop.reason is Why.CANCELLED:
        return "CANCELLED"
    if stop.reason is Why.TIMED_OUT:
        raise Unsuccessful(f"FAILED: {stop.reason}")
    if not isinstance(outcome, Outcome):
        return f"to be run again: {outcome.message}"
    if outcome.state_type not in ("COMPLETED", "CANCELLED"):
        raise Unsuccessful(f"{outcome.state_type}: {outcome.message}")
    return outcome.state_type
