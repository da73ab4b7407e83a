"""Whether this dispatcher is alive and does its work: /healthz, /readyz."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from dispatcher.errors import DispatcherError
from dispatcher.http.doors import Doors, doors_of
from dispatcher.keys import pools_key

router = APIRouter(tags=["health"])
REDIS_WITHIN_S = 2.0  # what watches containers waits for longer


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is it alive?")
async def healthz() -> dict[str, str]:
    """Answer that the process serves; says nothing about Redis, whose outages it waits out."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Does it do its work?",
    responses={503: {"description": "A check failed; `checks` says which."}},
)
async def readyz(request: Request) -> JSONResponse:
    """Answer 200 when Redis takes writes and the loops turn, else 503 with what failed."""
    doors = doors_of(request)
    failed: dict[str, str] = {}
    if reason := await _redis(doors):
        failed["redis"] = reason
    names = ["redis"]
    if doors.heartbeats is not None:
        failed |= doors.heartbeats.stuck()
        names += list(doors.heartbeats.turns())
    if doors.stopping.is_set():
        failed["serving"] = "it is being stopped"
        names.append("serving")
    checks: dict[str, Any] = {name: _check(failed.get(name)) for name in names}
    status = "not ready" if failed else "ready"
    return JSONResponse({"status": status, "checks": checks}, 503 if failed else 200)


def _check(reason: str | None) -> dict[str, Any]:
    return {"ok": True} if reason is None else {"ok": False, "reason": reason}


async def _redis(doors: Doors) -> str:
    """Return why Redis cannot be worked with, empty when it can."""
    try:
        async with asyncio.timeout(REDIS_WITHIN_S):
            await doors.do(_write_nothing, doors)
    except DispatcherError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {REDIS_WITHIN_S:g} s"
    return ""


def _write_nothing(doors: Doors) -> None:
    """Do a write that changes nothing, as no key has a TTL: a server that takes none says so."""
    key = pools_key(doors.settings.key_prefix)
    doors.store.connection.at(key).read(lambda client: client.persist(key))
