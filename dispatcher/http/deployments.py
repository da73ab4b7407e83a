"""Deployments: how many runs of each may be under way, and what becomes of one more."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from dispatcher.http.answers import DeploymentAnswer
from dispatcher.http.bodies import Body, Count, Params, PoolName, reads, respond, sender, wrong
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.shapes import deployment_fields
from dispatcher.stored import Deployment

router = APIRouter(prefix="/api", tags=["deployments"])


class PoolParams(Params):
    """The pool that is meant: limits of deployments hold within one."""

    work_pool_name: PoolName = Field(description="The pool of the deployment's runs.")


class CollisionBody(Body):
    """What becomes of a run that finds its deployment full: it waits, or it is cancelled."""

    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class DeploymentBody(Body):
    """A limit to set; null takes it away, and its waiting runs go on."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    concurrency_limit: Count | None = Field(
        default=None, description="Most runs between dispatch and end; 0 lets all wait."
    )
    concurrency_options: CollisionBody | None = Field(default=None)


@router.get(
    "/deployments",
    operation_id="list_deployments",
    summary="List the deployments of a pool that have a limit",
    response_model=None,
    responses={200: {"model": list[DeploymentAnswer], "description": "By id."}},
)
async def list_deployments(params: Annotated[PoolParams, Query()], doors: DoorsOf) -> Response:
    """List the deployments that have a limit, with the slots held and the runs that wait."""
    found = await doors.do(doors.inspector.deployments, params.work_pool_name)
    return respond([deployment_fields(each) for each in found])


@router.get(
    "/deployments/{id:uuid}",
    operation_id="read_deployment",
    summary="Read a deployment's limit and slots",
    response_model=None,
    responses={200: {"model": DeploymentAnswer, "description": "The deployment."}},
)
async def read_deployment(
    id: UUID, params: Annotated[PoolParams, Query()], doors: DoorsOf
) -> Response:
    """Return a deployment in a pool, with a limit or without: nobody registers deployments."""
    found = await doors.do(_read, doors, params.work_pool_name, str(id))
    return respond(deployment_fields(found))


@router.patch(
    "/deployments/{id:uuid}",
    operation_id="set_deployment",
    summary="Set a deployment's concurrency limit",
    response_model=None,
    responses={200: {"model": DeploymentAnswer, "description": "The deployment as it is now."}},
)
async def set_deployment(
    id: UUID,
    params: Annotated[PoolParams, Query()],
    body: Annotated[DeploymentBody, reads(DeploymentBody)],
    request: Request,
    doors: DoorsOf,
) -> Response:
    """Set the limit, what happens at it, or both; what is not given stays."""
    if not body.model_fields_set:
        raise wrong("body", "is empty: give concurrency_limit")
    pool = params.work_pool_name
    found = await doors.do(_read, doors, pool, str(id))
    limit, strategy = found.limit, found.collision_strategy
    if "concurrency_limit" in body.model_fields_set:
        limit = body.concurrency_limit
    if body.concurrency_options:
        strategy = body.concurrency_options.collision_strategy
    by = sender(request)
    store = doors.store
    await doors.do(store.set_deployment, pool, str(id), limit, strategy=strategy, by=by)
    return respond(deployment_fields(await doors.do(_read, doors, pool, str(id))))


def _read(doors: Doors, pool: str, deployment: str) -> Deployment:
    doors.inspector.pool(pool)
    return doors.inspector.deployment(pool, deployment)
