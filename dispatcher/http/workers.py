"""Workers: who holds leases."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from dispatcher.http.answers import WorkerAnswer
from dispatcher.http.bodies import Params, PoolName, respond
from dispatcher.http.doors import DoorsOf
from dispatcher.inspector import Inspector
from dispatcher.shapes import worker_fields

router = APIRouter(prefix="/api", tags=["workers"])


class WorkersParams(Params):
    """Whose workers to list."""

    work_pool_name: PoolName | None = Field(default=None, description="Only this pool's.")


@router.get(
    "/workers",
    operation_id="list_workers",
    summary="List workers and other holders of claims",
    response_model=None,
    responses={200: {"model": list[WorkerAnswer], "description": "By pool and name."}},
)
async def list_workers(params: Annotated[WorkersParams, Query()], doors: DoorsOf) -> Response:
    """List workers: ready, draining, drained, or lost when the lease has ended."""
    return respond(await doors.do(_list, doors.inspector, params.work_pool_name))


@router.get(
    "/work_pools/{name}/workers",
    operation_id="list_workers_of_pool",
    summary="List the workers of a pool",
    response_model=None,
    responses={200: {"model": list[WorkerAnswer], "description": "By name."}},
)
async def list_workers_of_pool(name: str, doors: DoorsOf) -> Response:
    """List the workers of one pool."""
    return respond(await doors.do(_list, doors.inspector, name))


def _list(inspector: Inspector, pool: str | None) -> list[dict[str, Any]]:
    pools = [pool] if pool else [each.name for each in inspector.pools()]
    found: list[dict[str, Any]] = []
    for name in pools:
        holders, now_ms = inspector.holders(name), inspector.server_time_ms(name)
        found += [worker_fields(holder, now_ms) for holder in holders]
    return found
