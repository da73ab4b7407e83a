"""Work pools: create, read, set, pause, delete."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field, StringConstraints
from starlette.responses import Response

from dispatcher.errors import InvalidRun, InvalidSettings
from dispatcher.http.answers import DeletionAnswer, PoolAnswer, WholePoolAnswer
from dispatcher.http.bodies import (
    MOST_SECONDS,
    Body,
    Count,
    Flag,
    Params,
    PoolName,
    reads,
    respond,
    sender,
    wrong,
)
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.pauses import PauseBody, ResumeBody, pause, resume
from dispatcher.http.removals import remove
from dispatcher.inspector import Inspector
from dispatcher.job_configuration import check_template, process_job
from dispatcher.job_templates import read_template
from dispatcher.removing import Removal
from dispatcher.shapes import pool_fields, queue_fields
from dispatcher.stored import Pool

router = APIRouter(prefix="/api", tags=["work pools"])
Span = Annotated[float, Field(ge=1, le=MOST_SECONDS)]
Command = Annotated[str, StringConstraints(max_length=100_000)]
_SPANS = (
    *("lease_seconds", "retention_seconds", "late_after_seconds"),
    *("idempotency_ttl_seconds", "dead_retention_seconds"),
)


class PoolSettings(Body):
    """What can be set of a pool; null takes a limit, a command or a template away."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    command: Command | None = Field(
        default=None, description="What runs of a process pool run that bring none."
    )
    base_job_template: dict[str, Any] | None = Field(
        default=None, description="What is made of job variables, as Prefect's pools have it."
    )
    concurrency_limit: Count | None = Field(
        default=None, description="Most runs that workers have at a time; 0 stops hand-out."
    )
    lease_seconds: Annotated[float, Field(ge=0.5, le=MOST_SECONDS)] = Field(
        default=15.0, description="How long a silent worker keeps its runs."
    )
    retention_seconds: Span = Field(
        default=86_400.0, description="How long ended runs are kept, and their ids recognised."
    )
    keep_payload: bool = Field(default=False, description="Keep what was accepted beyond the end.")
    late_after_seconds: Annotated[float, Field(ge=0.001, le=MOST_SECONDS)] = Field(
        default=15.0, description="How long past its due time a run is late."
    )
    idempotency_ttl_seconds: Span = Field(
        default=2_592_000.0, description="How long a key is recognised after its run's end."
    )
    dead_retention_seconds: Span = Field(
        default=604_800.0, description="How long dead letters are kept."
    )
    handout: Literal["stream", "poll"] = Field(
        default="stream", description="Whether workers claim runs, or poll for them."
    )


class PoolBody(PoolSettings):
    """A pool to create."""

    name: PoolName = Field(examples=["etl"])
    type: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        default="process", description="What runs its runs.", examples=["process"]
    )
    id: UUID | None = Field(default=None, description="Its id, such as that of a Prefect pool.")


class ForceParams(Params):
    """Whether what is left may be cancelled."""

    force: Flag = Field(default=False, description="Cancel the runs it has, purge what died.")


@router.post(
    "/work_pools",
    operation_id="create_work_pool",
    summary="Create a pool with its queue `default`",
    status_code=201,
    response_model=None,
    responses={
        201: {"model": PoolAnswer, "description": "It was created."},
        200: {"model": PoolAnswer, "description": "This very pool was there already."},
    },
)
async def create_work_pool(body: Annotated[PoolBody, reads(PoolBody)], doors: DoorsOf) -> Response:
    """Create a pool; one of the same name and another id answers 409."""
    settings = _stored(body, body.type)
    settings["base_job_template"] = settings.get("base_job_template") or ""
    settings["command"] = settings.get("command") or ""
    wanted = Pool(name=body.name, id=str(body.id or uuid4()), type=body.type, **settings)
    queue_id = str(uuid4())
    is_new = await doors.do(doors.store.create_pool, wanted, default_queue_id=queue_id)
    found = await doors.do(doors.inspector.pool, body.name)
    return respond(pool_fields(found), 201 if is_new else 200)


@router.get(
    "/work_pools",
    operation_id="list_work_pools",
    summary="List all pools",
    response_model=None,
    responses={200: {"model": list[PoolAnswer], "description": "All pools, by name."}},
)
async def list_work_pools(doors: DoorsOf) -> Response:
    """List all pools by name."""
    return respond([pool_fields(each) for each in await doors.do(doors.inspector.pools)])


@router.get(
    "/work_pools/{name}",
    operation_id="read_work_pool",
    summary="Read a pool with its queues",
    response_model=None,
    responses={200: {"model": WholePoolAnswer, "description": "The pool."}},
)
async def read_work_pool(name: str, doors: DoorsOf) -> Response:
    """Return a pool with its queues, highest priority first."""
    return respond(await doors.do(_whole, doors.inspector, name))


@router.patch(
    "/work_pools/{name}",
    operation_id="set_work_pool",
    summary="Change settings of a pool",
    response_model=None,
    responses={200: {"model": PoolAnswer, "description": "The pool as it is now."}},
)
async def set_work_pool(
    name: str,
    body: Annotated[PoolSettings, reads(PoolSettings)],
    request: Request,
    doors: DoorsOf,
) -> Response:
    """Change the settings that are given; they hold from now on, null takes one away."""
    if not body.model_fields_set:
        raise wrong("body", "is empty: give at least one setting")
    return respond(await doors.do(_set, doors, name, body, by=sender(request)))


@router.post(
    "/work_pools/{name}/pause",
    operation_id="pause_work_pool",
    summary="Hand out nothing of a pool, or accept nothing into it",
    response_model=None,
    responses={200: {"model": PoolAnswer, "description": "The pool as it is now."}},
)
async def pause_work_pool(
    name: str, body: Annotated[PauseBody, reads(PauseBody)], request: Request, doors: DoorsOf
) -> Response:
    """Pause hand-out, or with `intake` the accepting of runs, until it is resumed or `until`."""
    await doors.do(pause, doors, name, body=body, by=sender(request))
    return respond(pool_fields(await doors.do(doors.inspector.pool, name)))


@router.post(
    "/work_pools/{name}/resume",
    operation_id="resume_work_pool",
    summary="End a pause of a pool",
    response_model=None,
    responses={200: {"model": PoolAnswer, "description": "The pool as it is now."}},
)
async def resume_work_pool(
    name: str, body: Annotated[ResumeBody, reads(ResumeBody)], request: Request, doors: DoorsOf
) -> Response:
    """End a pause; one that is not paused stays as it is."""
    await doors.do(resume, doors, name, body=body, by=sender(request))
    return respond(pool_fields(await doors.do(doors.inspector.pool, name)))


@router.delete(
    "/work_pools/{name}",
    operation_id="delete_work_pool",
    summary="Delete a pool",
    response_model=None,
    responses={200: {"model": DeletionAnswer, "description": "It is gone."}},
)
async def delete_work_pool(
    name: str, params: Annotated[ForceParams, Query()], request: Request, doors: DoorsOf
) -> Response:
    """Delete a pool with its queues; 409 while it has runs, unless `force` cancels them.

    Runs that workers have are told to end; until they have, the answer is 409: call again.
    """
    by = sender(request)
    removal = Removal(doors.store, doors.inspector, pool=name, by=by)
    return respond(await doors.do(remove, removal, force=params.force))


def _whole(inspector: Inspector, name: str) -> dict[str, Any]:
    found, queues = inspector.pool(name), inspector.queues(name)
    default = next((queue.id for queue in queues if queue.name == "default"), None)
    listed = [queue_fields(queue) for queue in queues]
    return {**pool_fields(found), "default_queue_id": default, "work_queues": listed}


def _set(doors: Doors, name: str, body: PoolSettings, *, by: str) -> dict[str, Any]:
    settings = _stored(body, doors.inspector.pool(name).type)
    if "keep_payload" in settings:
        settings["keep_payload"] = int(settings["keep_payload"])
    doors.store.set_pool(name, settings, by=by)
    return pool_fields(doors.inspector.pool(name))


def _stored(body: PoolSettings, pool_type: str) -> dict[str, Any]:
    """Return the settings that were given as they are stored; raises Problem 422."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    settings: dict[str, Any] = {
        name: given[name] for name in ("keep_payload", "handout") if name in given
    }
    if "concurrency_limit" in given:
        settings["limit"] = given["concurrency_limit"]
    for name in _SPANS:
        if name in given:
            settings[f"{name.removesuffix('_seconds')}_ms"] = round(given[name] * 1000)
    if "lease_ms" in settings:
        settings["renew_ms"] = settings["lease_ms"] // 3
    if "command" in given:
        settings["command"] = _command(given["command"])
    if "base_job_template" in given:
        settings["base_job_template"] = _template(given["base_job_template"], pool_type)
    return settings


def _command(command: str | None) -> str | None:
    if command:
        try:
            process_job(None, command)
        except InvalidRun as error:
            raise wrong("body.command", error.problem) from None
    return command or None


def _template(template: dict[str, Any] | None, pool_type: str) -> str | None:
    try:
        text = read_template(json.dumps(template or {}).encode())
        check_template(text, pool_type)
    except InvalidSettings as error:
        path, _, problem = str(error).partition(": ")
        raise wrong(f"body.{path}", problem) from None
    return text or None
