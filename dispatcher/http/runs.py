"""Flow runs: submit one or many, read one, list them."""

import json
from collections.abc import AsyncIterator
from functools import partial
from io import BytesIO
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from dispatcher.errors import DispatcherError, InvalidInput, InvalidRun, NotFound, RedisUnavailable
from dispatcher.http.answers import ReceiptAnswer, RunPage, WholeRunAnswer
from dispatcher.http.bodies import (
    DEFAULT_LIMIT,
    JSON,
    Cursor,
    Flag,
    Limit,
    Params,
    PoolName,
    QueueName,
    When,
    due,
    media_type,
    page,
    pool_of,
    raw_json,
    respond,
)
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.ndjson import NDJSON, NDJSON_TYPES, Results, line_batches
from dispatcher.http.problems import Problem, problem_of
from dispatcher.inspector import Inspector
from dispatcher.intake import Element, Offer, parse_offer, read_elements
from dispatcher.listings import Filter, page_of_runs
from dispatcher.models import StateType
from dispatcher.producer import Target
from dispatcher.records import Receipt, Word
from dispatcher.shapes import delivery_fields, receipt_fields, refusal_fields, run_fields
from dispatcher.stored import RunRecord

router = APIRouter(prefix="/api", tags=["flow runs"])
Answered = tuple[str, str, Receipt | DispatcherError]  # where it stood, the id it came with


class SubmitParams(Params):
    """Where submitted runs go, and when; a run says so itself where nothing is given."""

    work_pool_name: PoolName | None = Field(
        default=None, description="The pool; else the run's work_pool_id says which."
    )
    work_queue_name: QueueName | None = Field(
        default=None, description="The queue; else the run says which, or it is `default`."
    )
    at: When | None = Field(default=None, description="When the runs are due.")
    create: Flag = Field(default=False, description="Create the pool or queue that is missing.")


class RunParams(Params):
    """Which pool's run is meant."""

    work_pool_name: PoolName | None = Field(
        default=None, description="The pool of the run; needed where two pools have its id."
    )


class RunsParams(Params):
    """Which runs to list."""

    work_pool_name: PoolName | None = Field(default=None, description="Only this pool's.")
    work_queue_name: QueueName | None = Field(
        default=None, description="Only this queue's; work_pool_name must be given."
    )
    deployment_id: UUID | None = Field(default=None, description="Only this deployment's.")
    state_type: list[StateType] = Field(
        default=[], max_length=9, description="Only runs in these types of state; repeatable."
    )
    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor = ""


@router.post(
    "/flow_runs",
    operation_id="submit_flow_runs",
    summary="Submit one run or an array of runs",
    status_code=201,
    response_model=None,
    responses={
        201: {"model": ReceiptAnswer, "description": "One run was accepted, or its time changed."},
        200: {"description": "One run was known already, or a result for each run of an array."},
    },
)
async def submit_flow_runs(
    params: Annotated[SubmitParams, Query()], request: Request, doors: DoorsOf
) -> Response:
    """Accept the endpoint's objects or bare flow runs; each reaches its worker byte for byte.

    One object is answered with its receipt, or with the problem. An array is answered 200 with a
    result for each of its runs, in order: what is wrong with one stops no other.
    """
    raw = await raw_json(request)
    if not raw.strip():
        raise Problem(422, "Invalid", "the body is empty: send a run or an array", kind="invalid")
    target, due_ms = await _target(doors, params)
    is_array = raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    elements = await doors.do(_read, doors, raw)
    if not is_array and len(elements) > 1:
        several = "several objects: send them as an array, or to /api/flow_runs/stream"
        raise Problem(422, "Invalid", f"the body has {several}", kind="invalid")
    answered = await doors.do(_submit, doors, elements, target=target, due_ms=due_ms)
    if is_array:
        return respond([_result(*each) for each in answered])
    _, offered, answer = answered[0]
    if isinstance(answer, DispatcherError):
        raise _told(answer)
    return respond(receipt_fields(answer, offered), 200 if answer.word is Word.DUPLICATE else 201)


@router.post(
    "/flow_runs/stream",
    operation_id="stream_flow_runs",
    summary="Submit runs as NDJSON, a result line for each",
    response_model=None,
    responses={200: {"description": "A result line for each run, in order, as they come."}},
)
async def stream_flow_runs(
    params: Annotated[SubmitParams, Query()], request: Request, doors: DoorsOf
) -> Response:
    """Accept one run per line for as long as lines come; the results stream back meanwhile.

    Send `Content-Type: application/x-ndjson`. Each line is bounded by DISPATCHER_MAX_PAYLOAD_BYTES,
    all of them by nothing. A line `{"result": "stopped", …}` ends a stream that Redis cannot serve
    on: what was answered before holds, and the rest may be sent again.
    """
    if media_type(request) not in NDJSON_TYPES:
        problem = f"send one run per line as Content-Type: {NDJSON}"
        raise Problem(415, "Unsupported media type", problem, kind="media-type")
    target, due_ms = await _target(doors, params)
    submit = partial(_submit, doors, target=target, due_ms=due_ms)
    lines = _streamed(request, doors, partial(doors.do, submit))
    return Results(lines)


@router.get(
    "/flow_runs",
    operation_id="list_flow_runs",
    summary="List runs, page by page",
    response_model=None,
    responses={200: {"model": RunPage, "description": "One page."}},
)
async def list_flow_runs(params: Annotated[RunsParams, Query()], doors: DoorsOf) -> Response:
    """List scheduled runs by due time, waiting ones, those with workers, then ended ones.

    A run that moves while you read on may come twice, or be passed.
    """
    if params.work_queue_name and not params.work_pool_name:
        raise NotFound("work_queue_name is of one pool: give work_pool_name with it")
    return page(*await doors.do(_list, doors.inspector, params))


@router.get(
    "/flow_runs/{id:uuid}",
    operation_id="read_flow_run",
    summary="Read a run and everyone who had it",
    response_model=None,
    responses={200: {"model": WholeRunAnswer, "description": "The run."}},
)
async def read_flow_run(
    id: UUID, params: Annotated[RunParams, Query()], doors: DoorsOf
) -> Response:
    """Return a run: its state, its times, and its deliveries; what happened is in its events."""
    pool = await pool_of(doors, str(id), params.work_pool_name)
    run = await doors.do(doors.inspector.run, str(id), pool)
    return respond(await doors.do(whole_run, doors.inspector, run))


@router.get(
    "/flow_runs/{id:uuid}/payload",
    operation_id="read_flow_run_payload",
    summary="Read what was accepted, byte for byte",
    response_model=None,
    responses={200: {"description": "The accepted object.", "content": {JSON: {"schema": {}}}}},
)
async def read_payload(id: UUID, params: Annotated[RunParams, Query()], doors: DoorsOf) -> Response:
    """Return the whole object as it was accepted; ended runs have dropped theirs, mostly."""
    pool = await pool_of(doors, str(id), params.work_pool_name)
    run = await doors.do(doors.inspector.run, str(id), pool)
    payload = await doors.do(doors.inspector.payload, run)
    if payload is None:
        raise NotFound(f"run {id} has ended and its payload was dropped; keep_payload keeps it")
    return Response(payload, media_type=JSON)


@router.get(
    "/flow_runs/{id:uuid}/logs",
    operation_id="read_flow_run_logs",
    summary="Read the last 64 KiB that a run wrote",
    response_model=None,
    responses={
        200: {"description": "What it wrote.", "content": {"application/octet-stream": {}}},
    },
)
async def read_logs(id: UUID, params: Annotated[RunParams, Query()], doors: DoorsOf) -> Response:
    """Return the end of a run's output as it wrote it; there is none before it has ended."""
    pool = await pool_of(doors, str(id), params.work_pool_name)
    run = await doors.do(doors.inspector.run, str(id), pool)
    output = await doors.do(doors.inspector.output, run)
    return Response(output, media_type="application/octet-stream")


def whole_run(inspector: Inspector, run: RunRecord) -> dict[str, Any]:
    """Return a run with its deliveries."""
    late_after_ms = inspector.pool(run.pool).late_after_ms
    return {
        **run_fields(run, inspector.server_time_ms(run.pool), late_after_ms),
        "losses": run.losses,
        "deliveries": [delivery_fields(delivery) for delivery in run.deliveries],
    }


def _list(inspector: Inspector, params: RunsParams) -> tuple[list[dict[str, Any]], str | None]:
    pools = [params.work_pool_name] if params.work_pool_name else inspector.pool_names()
    if params.work_pool_name and params.work_queue_name:
        inspector.queue(params.work_pool_name, params.work_queue_name)
    elif params.work_pool_name:
        inspector.pool(params.work_pool_name)
    wanted = Filter(
        queue=params.work_queue_name or "",
        deployment=str(params.deployment_id or ""),
        states=frozenset(params.state_type),
    )
    runs, cursor = page_of_runs(inspector, pools, wanted, cursor=params.cursor, limit=params.limit)
    late = {name: inspector.pool(name).late_after_ms for name in {run.pool for run in runs}}
    now_ms = {name: inspector.server_time_ms(name) for name in late}
    return [run_fields(run, now_ms[run.pool], late[run.pool]) for run in runs], cursor


async def _target(doors: Doors, params: SubmitParams) -> tuple[Target, int | None]:
    """Return where runs go and when; raises NotFound rather than refuse every single run."""
    pool, queue = params.work_pool_name, params.work_queue_name
    if pool and not params.create:
        await doors.do(doors.inspector.pool, pool)
        if queue:
            await doors.do(doors.inspector.queue, pool, queue)
    due_ms = None
    if params.at is not None:
        due_ms = due(params.at, await doors.do(doors.inspector.server_time_ms), "query.at")
    return Target(pool, queue, params.create), due_ms


def _read(doors: Doors, raw: bytes) -> list[Element]:
    return list(read_elements(BytesIO(raw), max_payload_bytes=doors.settings.max_payload_bytes))


def _submit(
    doors: Doors, elements: list[Element], *, target: Target, due_ms: int | None
) -> list[Answered]:
    """Submit runs in order; return what became of each. Raises RedisUnavailable, RedisFull."""
    offers = [_offer(element) for element in elements]
    answers = list(doors.producer().offer_many(offers, target=target, due_ms=due_ms))
    for answer in answers:
        if isinstance(answer, RedisUnavailable):  # sent again, what was accepted is known
            raise answer
    return [
        (element.where, "" if isinstance(offer, DispatcherError) else str(offer.run.id), answer)
        for element, offer, answer in zip(elements, offers, answers, strict=True)
    ]


def _offer(element: Element) -> Offer | DispatcherError:
    if element.problem:
        return InvalidRun("", element.problem)
    try:
        return parse_offer(element.raw)
    except InvalidInput as error:
        return error


def _result(where: str, offered: str, answer: Receipt | DispatcherError) -> dict[str, Any]:
    if isinstance(answer, DispatcherError):
        return refusal_fields(where, answer)
    return receipt_fields(answer, offered)


def _told(error: DispatcherError) -> Problem:
    """Return the problem of the one run that was sent, with the field where it stands."""
    problem = problem_of(error)
    problem.errors = [{**each, "field": f"body.{each['field']}"} for each in problem.errors]
    return problem


async def _streamed(request: Request, doors: Doors, submit: Any) -> AsyncIterator[bytes]:
    """Yield the result lines of a stream of runs, batch by batch."""
    most_bytes, where = doors.settings.max_payload_bytes, "line 1"
    try:
        async for batch in line_batches(request.stream(), most_bytes=most_bytes):
            where = batch[0].where
            answered = await submit(batch)
            yield b"".join(json.dumps(_result(*each)).encode() + b"\n" for each in answered)
    except (DispatcherError, Problem) as error:  # Redis is away, or the client pauses for too long
        fields = {"result": "stopped", "where": where, "reason": str(error)}
        yield json.dumps(fields).encode() + b"\n"
