"""Work queues: create, read, set, pause, delete."""

from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from dispatcher.http.answers import DeletionAnswer, QueueAnswer
from dispatcher.http.bodies import (
    MOST_COUNT,
    MOST_SECONDS,
    Body,
    Count,
    QueueName,
    reads,
    respond,
    sender,
    wrong,
)
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.pauses import PauseBody, ResumeBody, pause, resume
from dispatcher.http.pools import ForceParams
from dispatcher.http.removals import remove
from dispatcher.removing import Removal
from dispatcher.shapes import queue_fields
from dispatcher.stored import Queue

router = APIRouter(prefix="/api", tags=["work queues"])
Span = Annotated[float, Field(ge=0.001, le=MOST_SECONDS)]
_SPANS = ("timeout_seconds", "cancel_grace_seconds", "late_drop_seconds")
_SAME = ("max_unclaimed", "max_deliveries", "on_worker_lost", "late_policy")


class QueueSettings(Body):
    """What can be set of a queue; null takes a limit, a timeout or a drop away."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    priority: Annotated[int, Field(ge=1, le=MOST_COUNT)] = Field(
        default=1, description="1 is first; one that is taken moves the others down."
    )
    concurrency_limit: Count | None = Field(
        default=None, description="Most runs that workers have at a time; 0 stops hand-out."
    )
    max_unclaimed: Annotated[int, Field(ge=1, le=MOST_COUNT)] = Field(
        default=1_000, description="Most runs that are dispatched ahead of their claims."
    )
    max_deliveries: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=3, description="How often a run may be lost; then it is dead-lettered."
    )
    on_worker_lost: Literal["requeue", "crash"] = Field(
        default="requeue", description="What becomes of a run whose worker was lost."
    )
    timeout_seconds: Span | None = Field(
        default=None, description="How long a run may run; then it has FAILED."
    )
    cancel_grace_seconds: Annotated[float, Field(ge=0, le=MOST_SECONDS)] = Field(
        default=30.0, description="How long a stopped run may take to end; then it is killed."
    )
    late_policy: Literal["all", "latest"] = Field(
        default="all", description="Which late runs of a deployment still run."
    )
    late_drop_seconds: Span | None = Field(
        default=None, description="Runs that are late by more than this are cancelled."
    )


class QueueBody(QueueSettings):
    """A queue to create; without a priority it comes after all others."""

    name: QueueName = Field(examples=["critical"])
    id: UUID | None = Field(default=None, description="Its id, such as that of a Prefect queue.")


@router.post(
    "/work_pools/{name}/queues",
    operation_id="create_work_queue",
    summary="Create a queue",
    status_code=201,
    response_model=None,
    responses={201: {"model": QueueAnswer, "description": "It was created."}},
)
async def create_work_queue(
    name: str, body: Annotated[QueueBody, reads(QueueBody)], doors: DoorsOf
) -> Response:
    """Create a queue of a pool; a priority that is taken moves the others down."""
    priority = body.priority if "priority" in body.model_fields_set else None
    wanted = Queue(
        name=body.name,
        pool=name,
        id=str(body.id or uuid4()),
        priority=priority or 0,
        **_stored(body),
    )
    await doors.do(doors.store.create_queue, wanted, priority=priority)
    return respond(await _shown(doors, name, body.name), 201)


@router.get(
    "/work_pools/{name}/queues",
    operation_id="list_work_queues",
    summary="List the queues of a pool",
    response_model=None,
    responses={200: {"model": list[QueueAnswer], "description": "Highest priority first."}},
)
async def list_work_queues(name: str, doors: DoorsOf) -> Response:
    """List a pool's queues with how many runs are where, highest priority first."""
    return respond([queue_fields(each) for each in await doors.do(doors.inspector.queues, name)])


@router.get(
    "/work_pools/{name}/queues/{queue}",
    operation_id="read_work_queue",
    summary="Read a queue",
    response_model=None,
    responses={200: {"model": QueueAnswer, "description": "The queue."}},
)
async def read_work_queue(name: str, queue: str, doors: DoorsOf) -> Response:
    """Return a queue with how many runs are where."""
    return respond(await _shown(doors, name, queue))


@router.patch(
    "/work_pools/{name}/queues/{queue}",
    operation_id="set_work_queue",
    summary="Change settings of a queue",
    response_model=None,
    responses={200: {"model": QueueAnswer, "description": "The queue as it is now."}},
)
async def set_work_queue(
    name: str,
    queue: str,
    body: Annotated[QueueSettings, reads(QueueSettings)],
    request: Request,
    doors: DoorsOf,
) -> Response:
    """Change the settings that are given; they hold from now on, null takes one away."""
    if not body.model_fields_set:
        raise wrong("body", "is empty: give at least one setting")
    priority = body.priority if "priority" in body.model_fields_set else None
    by = sender(request)
    await doors.do(doors.store.set_queue, name, queue, _stored(body), priority=priority, by=by)
    return respond(await _shown(doors, name, queue))


@router.post(
    "/work_pools/{name}/queues/{queue}/pause",
    operation_id="pause_work_queue",
    summary="Hand out nothing of a queue, or accept nothing into it",
    response_model=None,
    responses={200: {"model": QueueAnswer, "description": "The queue as it is now."}},
)
async def pause_work_queue(
    name: str,
    queue: str,
    body: Annotated[PauseBody, reads(PauseBody)],
    request: Request,
    doors: DoorsOf,
) -> Response:
    """Pause hand-out, or with `intake` the accepting of runs, until it is resumed or `until`."""
    await doors.do(pause, doors, name, queue, body=body, by=sender(request))
    return respond(await _shown(doors, name, queue))


@router.post(
    "/work_pools/{name}/queues/{queue}/resume",
    operation_id="resume_work_queue",
    summary="End a pause of a queue",
    response_model=None,
    responses={200: {"model": QueueAnswer, "description": "The queue as it is now."}},
)
async def resume_work_queue(
    name: str,
    queue: str,
    body: Annotated[ResumeBody, reads(ResumeBody)],
    request: Request,
    doors: DoorsOf,
) -> Response:
    """End a pause; one that is not paused stays as it is."""
    await doors.do(resume, doors, name, queue, body=body, by=sender(request))
    return respond(await _shown(doors, name, queue))


@router.delete(
    "/work_pools/{name}/queues/{queue}",
    operation_id="delete_work_queue",
    summary="Delete a queue",
    response_model=None,
    responses={200: {"model": DeletionAnswer, "description": "It is gone."}},
)
async def delete_work_queue(
    name: str,
    queue: str,
    params: Annotated[ForceParams, Query()],
    request: Request,
    doors: DoorsOf,
) -> Response:
    """Delete a queue; 409 while it has runs, unless `force` cancels them.

    Runs that workers have are told to end; until they have, the answer is 409: call again.
    """
    by = sender(request)
    removal = Removal(doors.store, doors.inspector, pool=name, queue=queue, by=by)
    return respond(await doors.do(remove, removal, force=params.force))


async def _shown(doors: Doors, pool: str, queue: str) -> dict[str, Any]:
    return queue_fields(await doors.do(doors.inspector.queue, pool, queue))


def _stored(body: QueueSettings) -> dict[str, Any]:
    """Return the settings that were given, but for the priority, as they are stored."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    settings = {name: given[name] for name in _SAME if name in given}
    if "concurrency_limit" in given:
        settings["limit"] = given["concurrency_limit"]
    for name in _SPANS:
        if name in given:
            span_s = given[name]
            stored = f"{name.removesuffix('_seconds')}_ms"
            settings[stored] = None if span_s is None else round(span_s * 1000)
    return settings
