"""What a claim over HTTP and the steps after it answer; payloads as they were accepted."""

import asyncio
import json
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.http.bodies import JSON
from dispatcher.http.holders import Claimed
from dispatcher.http.holding import Holding
from dispatcher.records import Claim

TURNS = 3  # of the loop, until a write that failed is known to who awaits the client's end


class HandOver(Response):
    """The answer of a claim; what it brings is given back when it cannot be written.

    The last byte is held back for as long as the client could be known to have gone, so that no
    run is released that a client has read of.
    """

    def __init__(
        self,
        body: bytes,
        *,
        headers: dict[str, str],
        taken: Claimed,
        gone: "asyncio.Task[None]",
        holding: Holding,
    ) -> None:
        super().__init__(body, headers=headers, media_type=JSON)
        self._taken, self._gone, self._holding = taken, gone, holding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the answer, the last byte last."""
        whole, written = bytes(self.body), False
        try:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            for part in (whole[:-1], b""):  # the empty one waits until the rest is on its way
                message = {"body": part, "more_body": True}
                await send({"type": "http.response.body", **message})
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if not self._gone.done():
                await send({"type": "http.response.body", "body": whole[-1:]})
                written = True
        finally:
            self._gone.cancel()
            if not written and self._taken.claims:
                self._holding.give_back(self._taken)


def answered(word: str, pool: str, **fields: Any) -> Response:
    """Return the answer of a step; a header says its word as well, for those who read no JSON."""
    content = {"answer": str(word), "work_pool_name": pool} | fields
    headers = {"Dispatcher-Answer": str(word)}
    return Response(json.dumps(content).encode(), headers=headers, media_type=JSON)


def took(taken: Claimed) -> Response:
    """Return the answer of a start that took a run: the object of the endpoint, and its claim."""
    (claim,) = taken.claims
    fields = {"answer": "started", "work_pool_name": taken.pool, "run_count": claim.run_count}
    whole = _with(_with_claim(claim, taken), fields)
    headers = {"Dispatcher-Answer": "started"} | told(taken)
    return Response(whole, headers=headers, media_type=JSON)


def told(taken: Claimed) -> dict[str, str]:
    """Return headers that say what matters of a single claim, for those who read no JSON."""
    if len(taken.claims) != 1:
        return {}
    return {
        "Dispatcher-Run-Id": taken.claims[0].run_id,
        "Dispatcher-Fencing-Token": taken.claims[0].token,
        "Dispatcher-Delivery": str(taken.claims[0].delivery),
        "Dispatcher-Renew-Ms": str(taken.renew_ms),
    }


def shown(taken: Claimed) -> bytes:
    """Return the endpoint's objects, each as it was accepted, byte for byte, with its claim."""
    return b"[" + b",".join(_with_claim(claim, taken) for claim in taken.claims) + b"]"


def _with_claim(claim: Claim, taken: Claimed) -> bytes:
    fields = {
        "token": claim.token,
        "holder": taken.holder,
        "work_pool_name": claim.pool,
        "work_queue_name": claim.queue,
        "delivery": claim.delivery,
        "run_count": claim.run_count,
        "due_ms": claim.due_ms,
        "lease_ms": taken.lease_ms,
        "renew_ms": taken.renew_ms,
        "timeout_ms": claim.timeout_ms,
        "cancel_grace_ms": claim.cancel_grace_ms,
        "retry_delay_ms": claim.retry_delay_ms,
    }
    return _with(claim.payload.rstrip(), {"claim": fields})


def _with(whole: bytes, members: dict[str, Any]) -> bytes:
    """Return a JSON object with more members, and its own as they are."""
    return whole[:-1] + b", " + json.dumps(members).encode()[1:]
