"""What one request may cost: bytes, depth of its JSON, time to send it, time to answer it."""

import asyncio
import re
from collections.abc import AsyncIterator

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatcher.http.options import MEBIBYTE, Options
from dispatcher.http.problems import Problem, answer

# Routes whose body is read piece by piece: no bound for all of it, and no time but between pieces.
STREAMED = frozenset({"/api/flow_runs/stream"})
# Routes that take many runs at once; all others take a little.
LARGE = re.compile(r"/api/flow_runs(/[a-z_]+)?/?")
SMALL_BYTES = 4 * MEBIBYTE
# Routes that wait on purpose, and bound that themselves.
HELD = re.compile(r"/api/work_pools/[^/]+/claim/?|/api/(work_pools/[^/]+/)?events/?")
INLINE_BYTES = 65_536  # what is looked through in less time than a thread needs to begin
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class Limits:
    """Receives a body whole, within bounds, before the application sees its request."""

    def __init__(self, app: ASGIApp, *, options: Options) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer which bound it broke."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        try:
            if path in STREAMED:
                # From 2.4 on an answer that streams does not wait for the client's end itself:
                # that would take away the pieces of the body that come meanwhile.
                scope["asgi"] = {**scope["asgi"], "spec_version": "2.4"}
                receive = self._paced(receive)
            else:
                receive = await self._received(scope, receive)
        except Problem as problem:
            await answer(path, problem)(scope, receive, send)
            return
        held = path in STREAMED or HELD.fullmatch(path)
        await self._answered(
            scope, receive, send, None if held else self._options.request_timeout_s
        )

    async def _answered(
        self, scope: Scope, receive: Receive, send: Send, timeout_s: float | None
    ) -> None:
        """Have the application answer within some time; an answer once begun may go on."""
        began = False
        timeout = asyncio.timeout(timeout_s)

        async def watched(message: Message) -> None:
            nonlocal began
            if not began:
                began = True
                timeout.reschedule(None)
            await send(message)

        try:
            async with timeout:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if began or not timeout.expired():
                raise
            problem = Problem(
                503,
                "Too slow",
                f"no answer within {timeout_s:g} s; try again",
                headers={"Retry-After": "1"},
            )
            await answer(scope["path"], problem)(scope, receive, send)

    def _paced(self, receive: Receive) -> Receive:
        """Return a `receive` that gives up on a sender that pauses for too long."""
        ended = False

        async def paced() -> Message:
            nonlocal ended
            if ended:  # from here on it waits for the end of the connection
                return await receive()
            message = await self._in_time(receive, self._options.chunk_timeout_s)
            ended = not message.get("more_body", False)
            return message

        return paced

    async def _received(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that has the whole body; raises Problem."""
        most = self._options.max_body_bytes
        if not LARGE.fullmatch(scope["path"]):
            most = min(most, SMALL_BYTES)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length[:20]) > most:
            raise _too_large(most)
        try:
            async with asyncio.timeout(self._options.body_timeout_s):
                body = await self._gathered(receive, most)
        except TimeoutError:
            raise _too_slow() from None
        await self._check_depth(body)
        return _replayed(body, receive)

    async def _gathered(self, receive: Receive, most: int) -> bytes:
        body = bytearray()
        async for chunk in self._chunks(receive):
            body += chunk
            if len(body) > most:
                raise _too_large(most)
        return bytes(body)

    async def _chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._in_time(receive, self._options.chunk_timeout_s)
            if message["type"] == "http.disconnect":
                raise Problem(400, "Incomplete", "the client went away")
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def _in_time(self, receive: Receive, timeout_s: float) -> Message:
        try:
            async with asyncio.timeout(timeout_s):
                return await receive()
        except TimeoutError:
            raise _too_slow() from None

    async def _check_depth(self, body: bytes) -> None:
        most = self._options.max_json_depth
        if body.count(b"[") + body.count(b"{") <= most:
            return
        if len(body) <= INLINE_BYTES:
            deep = is_deeper(body, most)
        else:
            deep = await anyio.to_thread.run_sync(is_deeper, body, most)
        if deep:
            raise Problem(400, "Nested too deep", f"the JSON is nested deeper than {most} levels")


def is_deeper(body: bytes, most: int) -> bool:
    """Return whether arrays and objects are nested deeper than `most`; strings are passed over."""
    depth = 0
    for found in _TOKEN.finditer(body):
        first = body[found.start()]
        if first in b"[{":
            depth += 1
            if depth > most:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _too_large(most: int) -> Problem:
    # Not closed: what still comes is read and dropped, else the client would see a reset only.
    return Problem(413, "Too large", f"the body is over the limit of {most:,} bytes")


def _too_slow() -> Problem:
    headers = {"Connection": "close"}
    return Problem(408, "Too slow", "the body was not sent in time", headers=headers)
