"""Dead letters: read, requeue, purge."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from dispatcher.clock import utc
from dispatcher.errors import Refused
from dispatcher.http.answers import (
    ChangeAnswer,
    ChangesAnswer,
    DeadLetterPage,
    WholeDeadLetterAnswer,
)
from dispatcher.http.bodies import (
    DEFAULT_LIMIT,
    MOST_SECONDS,
    Body,
    Cursor,
    Limit,
    Params,
    PoolName,
    When,
    due,
    page,
    pool_of,
    reads,
    respond,
    sender,
)
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.runs import RunParams, whole_run
from dispatcher.listings import Filter, page_of_runs
from dispatcher.shapes import run_fields
from dispatcher.stored import Place, RunRecord

router = APIRouter(prefix="/api", tags=["dead letters"])
MOST_IDS = 1_000
Act = Callable[[RunRecord], dict[str, Any]]


class DeadLettersParams(Params):
    """Which dead letters to list."""

    work_pool_name: PoolName | None = Field(default=None, description="Only this pool's.")
    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor = ""


class OneBody(Body):
    """Which pool's dead letter is meant."""

    work_pool_name: PoolName | None = Field(default=None, examples=["etl"])


class RequeueBody(OneBody):
    """When a dead letter is due again; without a time as soon as it was before."""

    at: When | None = None


class DeadLetterFilter(Body):
    """Which dead letters: all of these must hold; an empty filter means all of the pool."""

    flow_run_ids: list[UUID] | None = Field(
        default=None, min_length=1, max_length=MOST_IDS, description="Only these."
    )
    older_than_seconds: Annotated[float, Field(ge=0, le=MOST_SECONDS)] | None = Field(
        default=None, description="Only those that were set aside so long ago."
    )


class ManyBody(Body):
    """Which dead letters of a pool, and whether to do it."""

    work_pool_name: PoolName = Field(examples=["etl"])
    filter: DeadLetterFilter
    limit: Annotated[int, Field(ge=1, le=MOST_IDS)] = Field(
        default=MOST_IDS, description="Most that one call changes."
    )
    dry_run: bool = Field(default=False, description="Say which they are, and do nothing.")


class RequeueManyBody(ManyBody):
    """Which dead letters to requeue, and when they are due again."""

    at: When | None = None


@router.get(
    "/dead_letters",
    operation_id="list_dead_letters",
    summary="List dead letters, the last one first",
    response_model=None,
    responses={200: {"model": DeadLetterPage, "description": "One page."}},
)
async def list_dead_letters(
    params: Annotated[DeadLettersParams, Query()], doors: DoorsOf
) -> Response:
    """List runs that were set aside after their workers were lost too often."""
    return page(*await doors.do(_list, doors, params))


@router.get(
    "/dead_letters/{id:uuid}",
    operation_id="read_dead_letter",
    summary="Read a dead letter with its deliveries and payload",
    response_model=None,
    responses={200: {"model": WholeDeadLetterAnswer, "description": "The dead letter."}},
)
async def read_dead_letter(
    id: UUID, params: Annotated[RunParams, Query()], doors: DoorsOf
) -> Response:
    """Return why it was set aside, every delivery with its worker, and what was accepted."""
    pool = await pool_of(doors, str(id), params.work_pool_name)
    return respond(await doors.do(_whole, doors, pool, str(id)))


@router.post(
    "/dead_letters/{id:uuid}/requeue",
    operation_id="requeue_dead_letter",
    summary="Schedule a dead letter again",
    response_model=None,
    responses={200: {"model": ChangeAnswer, "description": "It is scheduled."}},
)
async def requeue_dead_letter(
    id: UUID, body: Annotated[RequeueBody, reads(RequeueBody)], request: Request, doors: DoorsOf
) -> Response:
    """Schedule a dead letter again; its losses are forgotten."""
    pool = await pool_of(doors, str(id), body.work_pool_name)
    by = sender(request)

    def requeue() -> dict[str, Any]:
        act = _requeuing(doors, pool, at=body.at, by=by)
        return _done("requeued", _checked(doors, pool, str(id)), act)

    return respond(await doors.do(requeue))


@router.post(
    "/dead_letters/{id:uuid}/purge",
    operation_id="purge_dead_letter",
    summary="Forget a dead letter for good",
    response_model=None,
    responses={200: {"model": ChangeAnswer, "description": "Nothing is known of it any more."}},
)
async def purge_dead_letter(
    id: UUID, body: Annotated[OneBody, reads(OneBody)], request: Request, doors: DoorsOf
) -> Response:
    """Forget a dead letter and its payload."""
    pool = await pool_of(doors, str(id), body.work_pool_name)
    by = sender(request)

    def purge() -> dict[str, Any]:
        return _done("purged", _checked(doors, pool, str(id)), _purging(doors, by=by))

    return respond(await doors.do(purge))


@router.post(
    "/dead_letters/requeue",
    operation_id="requeue_dead_letters",
    summary="Schedule dead letters of a pool again",
    response_model=None,
    responses={200: {"model": ChangesAnswer, "description": "What became of each."}},
)
async def requeue_dead_letters(
    body: Annotated[RequeueManyBody, reads(RequeueManyBody)], request: Request, doors: DoorsOf
) -> Response:
    """Requeue up to `limit` dead letters; `more` says that there are others."""
    by = sender(request)

    def requeue() -> dict[str, Any]:
        act = _requeuing(doors, body.work_pool_name, at=body.at, by=by)
        return _do_many(doors, body, result="requeued", act=act)

    return respond(await doors.do(requeue))


@router.post(
    "/dead_letters/purge",
    operation_id="purge_dead_letters",
    summary="Forget dead letters of a pool for good",
    response_model=None,
    responses={200: {"model": ChangesAnswer, "description": "What became of each."}},
)
async def purge_dead_letters(
    body: Annotated[ManyBody, reads(ManyBody)], request: Request, doors: DoorsOf
) -> Response:
    """Purge up to `limit` dead letters; `more` says that there are others."""
    act = _purging(doors, by=sender(request))
    return respond(await doors.do(_do_many, doors, body, result="purged", act=act))


def _list(doors: Doors, params: DeadLettersParams) -> tuple[list[dict[str, Any]], str | None]:
    inspector, pool = doors.inspector, params.work_pool_name
    if pool:
        inspector.pool(pool)
    runs, cursor = page_of_runs(
        inspector,
        [pool] if pool else inspector.pool_names(),
        Filter(places=frozenset({Place.DEAD})),
        cursor=params.cursor,
        limit=params.limit,
    )
    shown = [{**run_fields(run, run.ended_ms or 0), "losses": run.losses} for run in runs]
    return shown, cursor


def _whole(doors: Doors, pool: str, run_id: str) -> dict[str, Any]:
    run = _checked(doors, pool, run_id)
    payload = (doors.inspector.payload(run) or b"").decode(errors="replace")
    try:
        accepted: Any = json.loads(payload)
    except ValueError:
        accepted = payload
    return {**whole_run(doors.inspector, run), "payload": accepted}


def _checked(doors: Doors, pool: str, run_id: str) -> RunRecord:
    run = doors.inspector.run(run_id, pool)
    if run.place is not Place.DEAD:
        raise Refused(f"run {run.id} is not dead-lettered: it is {run.state_type}")
    return run


def _requeuing(doors: Doors, pool: str, *, at: str | None, by: str) -> Act:
    due_ms = None if at is None else due(at, doors.inspector.server_time_ms(pool))

    def act(run: RunRecord) -> dict[str, Any]:
        told_ms = doors.store.requeue(run.pool, run.id, due_ms, by=by)
        return {"expected_start_time": utc(told_ms)}

    return act


def _purging(doors: Doors, *, by: str) -> Act:
    def act(run: RunRecord) -> dict[str, Any]:
        if not doors.store.purge(run.pool, [run.id], by=by):
            raise Refused(f"run {run.id} is not dead-lettered any more")
        return {}

    return act


def _done(result: str, run: RunRecord, act: Act) -> dict[str, Any]:
    return {"result": result, "id": run.id, "work_pool_name": run.pool, **act(run)}


def _do_many(doors: Doors, body: ManyBody, *, result: str, act: Act) -> dict[str, Any]:
    """Do the same to each of the chosen dead letters, or say to which it would be done."""
    doors.inspector.pool(body.work_pool_name)
    found = list(islice(_chosen(doors, body), body.limit + 1))
    chosen = found[: body.limit]
    results = [
        _tried(doors, body, each, result=f"would be {result}" if body.dry_run else result, act=act)
        for each in chosen
    ]
    more = len(found) > body.limit
    return {"dry_run": body.dry_run, "found": len(chosen), "more": more, "results": results}


def _chosen(doors: Doors, body: ManyBody) -> Iterator[str]:
    """Yield the dead letters that a filter finds; ids that are none are told of one by one."""
    inspector, pool, wanted = doors.inspector, body.work_pool_name, body.filter
    if wanted.flow_run_ids and wanted.older_than_seconds is None:
        yield from dict.fromkeys(map(str, wanted.flow_run_ids))
        return
    before_ms = inspector.server_time_ms(pool) - round((wanted.older_than_seconds or 0) * 1000)
    if wanted.flow_run_ids:
        runs = inspector.records(pool, dict.fromkeys(map(str, wanted.flow_run_ids)))
    else:
        runs = inspector.runs(pool, places=[Place.DEAD])
    for run in runs:
        is_old = wanted.older_than_seconds is None or (run.ended_ms or 0) <= before_ms
        if is_old and run.place is Place.DEAD:
            yield run.id


def _tried(doors: Doors, body: ManyBody, run_id: str, *, result: str, act: Act) -> dict[str, Any]:
    try:
        run = _checked(doors, body.work_pool_name, run_id)
        return _done(result, run, (lambda _: {}) if body.dry_run else act)
    except Refused as error:
        return {"result": "refused", "id": run_id, "reason": str(error)}
