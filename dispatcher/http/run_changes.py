"""Flow runs: cancel one or those that a filter finds, give another time, explain."""

from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from dispatcher.clock import utc
from dispatcher.controls import Told
from dispatcher.errors import DispatcherError, Refused
from dispatcher.explaining import explain
from dispatcher.http.answers import ChangeAnswer, ChangesAnswer, ExplanationAnswer
from dispatcher.http.bodies import (
    Body,
    PoolName,
    QueueName,
    Reason,
    When,
    due,
    pool_of,
    reads,
    respond,
    sender,
)
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.runs import RunParams
from dispatcher.listings import cancellable
from dispatcher.records import Word

router = APIRouter(prefix="/api", tags=["flow runs"])
MOST_IDS = 1_000


class CancelBody(Body):
    """Why a run is cancelled, and in which pool it is."""

    work_pool_name: PoolName | None = Field(default=None, examples=["etl"])
    reason: Reason = Field(default="cancelled", examples=["wrong parameters"])


class CancelFilter(Body):
    """Which runs: all of these must hold; an empty filter means all that have not ended."""

    flow_run_ids: list[UUID] | None = Field(
        default=None, min_length=1, max_length=MOST_IDS, description="Only these runs."
    )
    work_queue_name: QueueName | None = Field(default=None, description="Only of this queue.")
    deployment_id: UUID | None = Field(default=None, description="Only of this deployment.")
    only_unclaimed: bool = Field(default=False, description="Only runs that nobody has claimed.")


class CancelManyBody(Body):
    """Which runs of a pool to cancel, and whether to do it."""

    work_pool_name: PoolName = Field(examples=["etl"])
    filter: CancelFilter
    limit: Annotated[int, Field(ge=1, le=MOST_IDS)] = Field(
        default=MOST_IDS, description="Most runs that one call changes."
    )
    dry_run: bool = Field(default=False, description="Say which they are, and do nothing.")
    reason: Reason = Field(default="cancelled", examples=["wrong parameters"])


class RetimeBody(Body):
    """When a run is due from now on."""

    at: When
    work_pool_name: PoolName | None = Field(default=None, examples=["etl"])


@router.post(
    "/flow_runs/{id:uuid}/cancel",
    operation_id="cancel_flow_run",
    summary="Cancel a run",
    response_model=None,
    responses={200: {"model": ChangeAnswer, "description": "It is cancelled, or will be."}},
)
async def cancel_flow_run(
    id: UUID, body: Annotated[CancelBody, reads(CancelBody)], request: Request, doors: DoorsOf
) -> Response:
    """Cancel at once what nobody has claimed, else by an order to its worker (`cancelling`).

    A run that has ended otherwise answers 409.
    """
    pool = await pool_of(doors, str(id), body.work_pool_name)
    by = sender(request)
    told = await doors.do(doors.store.cancel, pool, str(id), reason=body.reason, by=by)
    fields = _cancelled(str(id), told, pool)
    if fields["result"] == "ended":
        raise Refused(f"run {id} has ended already: {told.detail}")
    return respond(fields)


@router.post(
    "/flow_runs/cancel",
    operation_id="cancel_flow_runs",
    summary="Cancel the runs of a pool that a filter finds",
    response_model=None,
    responses={200: {"model": ChangesAnswer, "description": "What became of each."}},
)
async def cancel_flow_runs(
    body: Annotated[CancelManyBody, reads(CancelManyBody)], request: Request, doors: DoorsOf
) -> Response:
    """Cancel up to `limit` runs; `more` says that there are others. `dry_run` only names them."""
    return respond(await doors.do(_cancel_many, doors, body, by=sender(request)))


@router.post(
    "/flow_runs/{id:uuid}/retime",
    operation_id="retime_flow_run",
    summary="Give a run another due time",
    response_model=None,
    responses={200: {"model": ChangeAnswer, "description": "It is due then."}},
)
async def retime_flow_run(
    id: UUID, body: Annotated[RetimeBody, reads(RetimeBody)], request: Request, doors: DoorsOf
) -> Response:
    """Give a run that nobody has claimed another due time; a claimed or ended one answers 409."""
    pool = await pool_of(doors, str(id), body.work_pool_name)
    due_ms = due(body.at, await doors.do(doors.inspector.server_time_ms, pool))
    told = await doors.do(doors.store.retime, pool, str(id), due_ms, by=sender(request))
    if told.word is Word.CLAIMED:
        raise Refused(f"worker {told.detail} has run {id}: its time cannot be changed any more")
    if told.word is Word.ENDED:
        raise Refused(f"run {id} has ended already: {told.detail}")
    fields = {"result": "retimed", "id": str(id), "work_pool_name": pool}
    return respond({**fields, "expected_start_time": utc(int(told.detail))})


@router.get(
    "/flow_runs/{id:uuid}/explain",
    operation_id="explain_flow_run",
    summary="Say why a run has not started, or what became of it",
    response_model=None,
    responses={200: {"model": ExplanationAnswer, "description": "What stands in its way."}},
)
async def explain_flow_run(
    id: UUID, params: Annotated[RunParams, Query()], doors: DoorsOf
) -> Response:
    """Name what stands in a run's way, first things first; each has a `code` and a sentence."""
    pool = await pool_of(doors, str(id), params.work_pool_name)
    found = await doors.do(explain, doors.inspector, str(id), pool=pool)
    return respond(found.as_json(time=utc, span=_span))


def _span(span_ms: int) -> str:
    return f"{span_ms / 1000:g} s"


def _cancel_many(doors: Doors, body: CancelManyBody, *, by: str) -> dict[str, Any]:
    pool, wanted = body.work_pool_name, body.filter
    runs = cancellable(
        doors.inspector,
        pool,
        queue=wanted.work_queue_name or "",
        deployment=str(wanted.deployment_id or ""),
        only_unclaimed=wanted.only_unclaimed,
        run_ids=[str(run_id) for run_id in wanted.flow_run_ids or ()],
    )
    found = list(islice(runs, body.limit + 1))
    more, chosen = len(found) > body.limit, found[: body.limit]
    if body.dry_run:
        results = [{"result": "would be cancelled", "id": run_id} for run_id in chosen]
    else:
        told = doors.store.cancel_many(pool, chosen, reason=body.reason, by=by)
        results = [_cancelled(run_id, each, pool) for run_id, each in told]
    return {"dry_run": body.dry_run, "found": len(chosen), "more": more, "results": results}


def _cancelled(run_id: str, told: Told | DispatcherError, pool: str) -> dict[str, Any]:
    if isinstance(told, DispatcherError):
        return {"result": "refused", "id": run_id, "reason": str(told)}
    fields: dict[str, Any] = {"id": run_id, "work_pool_name": pool}
    if told.word is Word.CANCELLING:
        return {"result": "cancelling", **fields, "worker": told.detail}
    if told.word is Word.ENDED and told.detail != "CANCELLED":
        return {"result": "ended", **fields, "state_type": told.detail}
    return {"result": "cancelled", **fields}
