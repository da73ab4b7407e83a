"""NDJSON both ways at once: lines cut from what arrives, results kept until the client reads."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.intake import Element

NDJSON = "application/x-ndjson"
NDJSON_TYPES = (NDJSON, "application/ndjson", "application/jsonl", "application/json-lines")
BATCH_LINES = 100
BATCH_BYTES = 1_048_576
MOST_UNREAD_BYTES = 64 * 1_048_576  # of results; some clients send all before they read any


class Lines:
    """Cuts bytes into lines; one that is too long is told of, and never kept."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rest = bytearray()
        self._dropped = 0  # bytes of a line that is too long already
        self._number = 0

    def add(self, data: bytes) -> list[Element]:
        """Return the lines that end within `data`, blank ones left out."""
        found: list[Element] = []
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._keep(part)
            found += self._take()
        self._keep(rest)
        return found

    def end(self) -> list[Element]:
        """Return the last line, which needs no line feed."""
        return self._take()

    def _keep(self, part: bytes) -> None:
        if self._dropped or len(self._rest) + len(part) > self._most_bytes:
            self._dropped += len(self._rest) + len(part)
            self._rest.clear()
        else:
            self._rest += part

    def _take(self) -> list[Element]:
        self._number += 1
        where = f"line {self._number}"
        raw, size = bytes(self._rest), self._dropped
        self._rest.clear()
        self._dropped = 0
        if size:
            limit = self._most_bytes
            problem = f"payload of {size:,} bytes is over the limit of {limit:,} bytes"
            return [Element(where, b"", problem)]
        if self._number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        return [Element(where, raw.strip())] if raw.strip() else []


async def line_batches(
    chunks: AsyncIterator[bytes], *, most_bytes: int
) -> AsyncIterator[list[Element]]:
    """Yield lines as they arrive, in batches: what is there is not kept waiting for more."""
    lines = Lines(most_bytes=most_bytes)
    async for chunk in chunks:
        for batch in _batched(lines.add(chunk)):
            yield batch
    for batch in _batched(lines.end()):
        yield batch


def _batched(elements: list[Element]) -> list[list[Element]]:
    batches: list[list[Element]] = []
    size = 0
    for element in elements:
        if not batches or len(batches[-1]) >= BATCH_LINES or size >= BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(element)
        size += len(element.raw)
    return batches


class Results(Response):
    """An answer made ahead of a client that has not begun to read.

    Many clients send their whole request before they read; waiting for them would be for ever.
    Nothing listens for the client's leaving here: that would take the request's body away.
    """

    def __init__(self, made: AsyncIterator[bytes]) -> None:
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self._made = made
        self._unread: list[bytes] = []
        self._size = 0
        self._news = asyncio.Condition()
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the results as they are made; ends the making of them when sending fails."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        making = asyncio.create_task(self._make())
        try:
            while ready := await self._next():
                await send({"type": "http.response.body", "body": ready, "more_body": True})
            await making
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientDisconnect:
            return
        finally:
            making.cancel()

    async def _make(self) -> None:
        try:
            async for line in self._made:
                async with self._news:
                    await self._news.wait_for(lambda: self._size < MOST_UNREAD_BYTES)
                    self._unread.append(line)
                    self._size += len(line)
                    self._news.notify_all()
        finally:
            async with self._news:
                self._ended = True
                self._news.notify_all()

    async def _next(self) -> bytes:
        async with self._news:
            await self._news.wait_for(lambda: bool(self._unread) or self._ended)
            ready = b"".join(self._unread)
            self._unread.clear()
            self._size = 0
            self._news.notify_all()
            return ready
