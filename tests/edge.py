"""The HTTP edge within the test's process: one request at a time, no socket."""

import asyncio
from typing import Any

import httpx

from dispatcher.connection import Connection
from dispatcher.heartbeats import Heartbeats
from dispatcher.http.app import create_app
from dispatcher.http.doors import Doors
from dispatcher.http.options import Address, Options
from dispatcher.settings import Settings

HERE = Address("127.0.0.1", 4200)


def some_options(**fields: Any) -> Options:
    """Options of an edge on this machine."""
    return Options(**{"address": HERE} | fields)


class Edge:
    """An application on a client of the test's, asked as `edge("GET", "/healthz")`."""

    def __init__(
        self,
        client: Any,
        prefix: str,
        *,
        heartbeats: Heartbeats | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        settings = Settings(key_prefix=prefix)
        self.doors = Doors(Connection(client), settings, heartbeats=heartbeats)
        self.app = app or create_app(self.doors, some_options(**options))

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request and return the answer."""
        return asyncio.run(asked(self.app, method, path, **options))


async def asked(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request to an ASGI application and return the answer."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HERE}") as client:
        return await client.request(method, path, **options)
