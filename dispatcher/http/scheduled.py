"""The endpoint as published: load scheduled runs for a worker, which claims nothing."""

import json
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from dispatcher.clock import to_ms
from dispatcher.errors import PoolNotFound, QueueNotFound, Refused
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.envelopes import Malformed, Wish, check_version, failure, read_wish
from dispatcher.http.polled import due_exactly, moment, polled
from dispatcher.stored import ScheduledRun

router = APIRouter(prefix="/api", tags=["work pools"])


@router.post(
    "/work_pools/{name}/get_scheduled_flow_runs",
    operation_id="get_scheduled_flow_runs",
    summary="Load scheduled runs for a worker",
)
async def get_scheduled_flow_runs(name: str, request: Request, doors: DoorsOf) -> Response:
    """Return what a worker of a `poll` pool may start, by priority of its queue and due time.

    As Prefect publishes it. Reading claims nothing: a run is taken by its `start`. Paused queues
    and full limits leave runs out. A pool that hands out by `stream` answers 409.
    """
    try:
        check_version(request.headers.get("x-prefect-api-version"))
        wish = read_wish(await request.body())
    except Malformed as malformed:
        return malformed.response
    try:
        found = await doors.do(_load, doors, name, wish)
    except PoolNotFound:
        return failure(404, f'Work pool "{name}" not found.')
    except QueueNotFound as error:
        return failure(404, f"Work pool queue '{name}/{error.queue}' not found.")
    except Refused:
        return failure(
            409,
            f"Work pool {name!r} hands its runs out by stream, so nothing can be polled: call "
            f"POST /api/work_pools/{quote(name)}/claim, or set its handout to poll.",
        )
    return Response(found, media_type="application/json")


def _load(doors: Doors, name: str, wish: Wish) -> bytes:
    """Return the answer as JSON."""
    page = doors.inspector.scheduled_page(
        name,
        wish.queues,
        limit=wish.limit,
        before_ms=None if wish.before is None else to_ms(wish.before),
        after_ms=None if wish.after is None else to_ms(wish.after),
    )
    found = [polled(each, page) for each in page.runs if _is_within(each, wish)]
    return json.dumps(found).encode()


def _is_within(found: ScheduledRun, wish: Wish) -> bool:
    """Say whether a run is due within the bounds, to the microsecond: what is stored is rounded."""
    bounds = [bound for bound in (wish.after, wish.before) if bound is not None]
    if not any(to_ms(bound) == found.run.due_ms for bound in bounds):
        return True
    whole = json.loads(found.payload)
    at = moment(due_exactly(found.run, whole.get("flow_run", whole)))
    is_late_enough = wish.after is None or at >= wish.after
    return is_late_enough and (wish.before is None or at <= wish.before)
