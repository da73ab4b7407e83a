"""A claim over HTTP, held until a run is there, and what follows: start, renew, finish, release."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response
from starlette.types import Receive

from dispatcher.http.bodies import PoolName, pool_of, reads
from dispatcher.http.claim_answers import HandOver, answered, shown, told, took
from dispatcher.http.claim_bodies import (
    ClaimBody,
    ClaimedRun,
    FinishAnswer,
    FinishBody,
    ReleaseAnswer,
    ReleaseBody,
    RenewAnswer,
    StartAnswer,
    StartBody,
    TokenBody,
)
from dispatcher.http.claim_steps import ClaimSteps, tail
from dispatcher.http.doors import Doors, DoorsOf
from dispatcher.http.holders import Claimed, Wanted, new_ticket
from dispatcher.http.holding import Holding
from dispatcher.http.line import Waiter
from dispatcher.http.preferences import wait_of
from dispatcher.records import Outcome

_NAMES = {
    "COMPLETED": "Completed",
    "FAILED": "Failed",
    "CRASHED": "Crashed",
    "CANCELLED": "Cancelled",
}

router = APIRouter(prefix="/api", tags=["claims"])


@router.post(
    "/work_pools/{name}/claim",
    summary="Claim runs, waiting for them if there are none",
    responses={200: {"model": list[ClaimedRun], "description": "What was claimed, maybe nothing."}},
)
async def claim(
    request: Request,
    name: PoolName,
    doors: DoorsOf,
    body: Annotated[ClaimBody, reads(ClaimBody)],
    prefer: Annotated[
        str | None, Header(description="How long to wait, RFC 7240: `wait=60`; 300 s at most.")
    ] = None,
) -> Response:
    """Answer with runs that are this caller's from now on, each with its claim.

    A run is to be started, and its claim renewed, before `lease_ms` have passed; else it is
    another's, and nothing is held against it. With `Prefer: wait=N` the call is held until
    there is a run, or N seconds have passed. Queues are served by priority.
    """
    wait_s = wait_of(request.headers.getlist("prefer"))
    headers = {} if wait_s is None else {"Preference-Applied": f"wait={wait_s}"}
    slots = body.slots if body.limit is None else min(body.slots, body.limit)
    queues = tuple(dict.fromkeys(body.work_queue_names or ()))
    host = request.client.host if request.client else ""
    wanted = Wanted(body.worker, queues, slots, host)
    holding = holding_of(request, doors)
    gone = asyncio.ensure_future(_until_gone(request.receive))
    try:
        taken = await _claim(doors, holding, name, wanted, wait_s or 0, gone)
        return HandOver(
            shown(taken), headers=headers | told(taken), taken=taken, gone=gone, holding=holding
        )
    except BaseException:
        gone.cancel()
        raise


@router.post(
    "/flow_runs/{id}/start",
    responses={200: {"model": StartAnswer, "description": "Whether to begin."}},
    summary="Say that the work of a claimed run begins",
)
async def start(
    request: Request, id: str, doors: DoorsOf, body: Annotated[StartBody, reads(StartBody)]
) -> Response:
    """Answer `started`, or `cancelling`: then do not begin, and finish the run as CANCELLED.

    Without a token a run of a polled pool is taken: of all who try exactly one gets it, with the
    endpoint's object and its claim in the answer.
    """
    pool = await pool_of(doors, id, body.work_pool_name)
    steps = ClaimSteps(doors.store, doors.inspector)
    if body.token is None:
        host = request.client.host if request.client else ""
        take = partial(steps.take, worker=body.worker, host=host)
        incarnation = body.incarnation or new_ticket()
        return took(await doors.do(take, pool, id, incarnation=incarnation))
    begun = await doors.do(steps.start, pool, id, body.token, body.run_count)
    return answered(begun.word, pool, run_count=begun.run_count)


@router.post(
    "/flow_runs/{id}/renew",
    responses={200: {"model": RenewAnswer, "description": "The lease as it is now."}},
    summary="Keep the lease of a claim",
)
async def renew(
    request: Request, id: str, doors: DoorsOf, body: Annotated[TokenBody, reads(TokenBody)]
) -> Response:
    """Prolong the lease of the claim that brought this run, for all runs that it still holds.

    With `cancel` true the run's work is to be stopped, and finished as CANCELLED.
    """
    pool = await pool_of(doors, id, body.work_pool_name)
    steps = ClaimSteps(doors.store, doors.inspector)
    told = await doors.do(steps.renew, pool, id, body.token)
    return answered(
        "cancelling" if told.cancel else "renewed",
        pool,
        cancel=told.cancel,
        lease_ms=told.lease_ms,
        renew_ms=told.renew_ms,
        flow_run_ids=list(told.run_ids),
    )


@router.post(
    "/flow_runs/{id}/finish",
    responses={200: {"model": FinishAnswer, "description": "Whether the run is over."}},
    summary="Say how the work of a claimed run ended",
)
async def finish(
    request: Request, id: str, doors: DoorsOf, body: Annotated[FinishBody, reads(FinishBody)]
) -> Response:
    """Answer `finished`, `rescheduled` for a retry by whoever claims it, or `retrying`.

    After `retrying` the claim goes on: wait for the claim's `retry_delay_ms`, and start again.
    """
    pool = await pool_of(doors, id, body.work_pool_name)
    steps, state = ClaimSteps(doors.store, doors.inspector), body.state
    name = state.name or _NAMES[state.type]
    outcome = Outcome(state.type, name, state.message, tail(body.output))
    word = await doors.do(steps.finish, pool, id, body.token, outcome, body.run_count)
    return answered(word, pool)


@router.post(
    "/flow_runs/{id}/release",
    responses={200: {"model": ReleaseAnswer, "description": "What became of the run."}},
    summary="Give a claimed run back unfinished",
)
async def release(
    request: Request, id: str, doors: DoorsOf, body: Annotated[ReleaseBody, reads(ReleaseBody)]
) -> Response:
    """Answer `released`, `rescheduled` after a delay, `finished` when it was being cancelled."""
    pool = await pool_of(doors, id, body.work_pool_name)
    steps = ClaimSteps(doors.store, doors.inspector)
    give_back = partial(steps.release, reason=body.reason, delay_ms=body.delay_ms)
    return answered(await doors.do(give_back, pool, id, body.token), pool)


def holding_of(request: Request, doors: Doors) -> Holding:
    """Return the held claims of the app, begun with the first; they end when serving does."""
    state = request.app.state
    if not hasattr(state, "holding"):
        state.holding = Holding(doors.store, doors.inspector, doors.open_store)
        doors.when_stopped(state.holding.close)
    holding: Holding = state.holding
    return holding


async def _claim(
    doors: Doors,
    holding: Holding,
    pool: str,
    wanted: Wanted,
    wait_s: int,
    gone: "asyncio.Task[None]",
) -> Claimed:
    """Claim now, or wait until something came, the time is over, or the client has gone."""
    if not wanted.slots:
        await doors.do(doors.inspector.offering, pool)  # whether there is such a pool
        return Claimed(pool)
    loop = asyncio.get_running_loop()
    given: asyncio.Future[Claimed] = loop.create_future()

    def give(taken: Claimed) -> None:
        loop.call_soon_threadsafe(_settle, given, taken, holding)

    asked = await doors.do(holding.ask, pool, wanted, give if wait_s else None)
    if isinstance(asked, Claimed):
        return asked
    return await _wait(holding, asked, given, wait_s, gone)


async def _wait(
    holding: Holding,
    waiter: Waiter,
    given: "asyncio.Future[Claimed]",
    wait_s: int,
    gone: "asyncio.Task[None]",
) -> Claimed:
    first: set[asyncio.Future[Any]] = {given, gone}
    try:
        await asyncio.wait(first, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        # Whatever else happened in this moment, what has been claimed is handed over or given back.
        if given.done():
            return given.result()
        if holding.stop_waiting(waiter, gone=gone.done()):
            return await given
        return Claimed(waiter.pool)
    except asyncio.CancelledError:
        holding.stop_waiting(waiter, gone=True)
        if not given.cancel() and given.result().claims:  # else what comes now is given back
            holding.give_back(given.result())
        raise


def _settle(given: "asyncio.Future[Claimed]", taken: Claimed, holding: Holding) -> None:
    if not given.done():
        given.set_result(taken)
    elif taken.claims:
        holding.give_back(taken)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
