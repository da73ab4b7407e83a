"""Events behind a cursor, waited for if `Prefer: wait` says so."""

import asyncio
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from starlette.responses import Response

from dispatcher.http.answers import EventPage
from dispatcher.http.bodies import (
    DEFAULT_LIMIT,
    Limit,
    Params,
    PoolName,
    respond,
)
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.preferences import wait_of
from dispatcher.reading import Reader
from dispatcher.shapes import event_fields

router = APIRouter(prefix="/api", tags=["events"])
LOOK_S = 0.5  # how often a call that waits looks; one read each


class EventsParams(Params):
    """Which events to read."""

    work_pool_name: PoolName | None = Field(default=None, description="Only this pool's.")
    flow_run_id: UUID | None = Field(default=None, description="Only this run's.")
    after: str = Field(
        default="",
        description="What came after an event, by its `cursor`; without it the last ones.",
        json_schema_extra={"format": "event-cursor"},
    )
    limit: Limit = DEFAULT_LIMIT


@router.get(
    "/events",
    operation_id="list_events",
    summary="Read events, oldest first",
    response_model=None,
    responses={200: {"model": EventPage, "description": "Some events."}},
)
async def list_events(
    params: Annotated[EventsParams, Query()],
    request: Request,
    doors: DoorsOf,
    prefer: Annotated[
        str | None, Header(description="How long to wait, RFC 7240: `wait=60`; 300 s at most.")
    ] = None,
) -> Response:
    """Return the last events, or with `after` those that came behind a cursor.

    `Prefer: wait=N` holds a call with `after` until there is one, or N seconds have passed.
    """
    loop = asyncio.get_running_loop()
    seconds = wait_of([prefer or ""]) or 0
    until_s = loop.time() + (seconds if params.after else 0)
    found = await doors.do(_read, doors, params)
    while not found["results"] and loop.time() < until_s and not doors.stopping.is_set():
        if await _is_gone(request, min(LOOK_S, until_s - loop.time())):
            break
        found = await doors.do(_read, doors, params)
    return respond(found)


async def _is_gone(request: Request, within_s: float) -> bool:
    """Wait a moment; return at once when the client goes away."""
    try:
        async with asyncio.timeout(within_s):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return True
    except TimeoutError:
        return False


def _read(doors: Doors, params: EventsParams) -> dict[str, Any]:
    inspector, pool = doors.inspector, params.work_pool_name
    if pool and inspector.last_event(pool) == "0":  # those of a deleted pool stay for a while
        inspector.pool(pool)
    pools = [pool] if pool else inspector.pool_names()
    reader = Reader(inspector, pools, run_id=str(params.flow_run_id or ""), is_one=bool(pool))
    if params.after:
        reader.begin_after(params.after)
        events = islice(reader.present(), params.limit)
    else:
        events = islice(reader.past(params.limit), params.limit)
    results = [{**event_fields(each), "cursor": reader.cursor()} for each in events]
    return {"results": results, "cursor": reader.cursor() if pools else None}
