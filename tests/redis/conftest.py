"""Fixtures for the atomic steps: a pool with its fleet, and an ear on its `changes` channel."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.builders import Fleet, Listener
from tests.servers import RealServer, embedded_binary, system_binary

BINARIES = {"valkey": embedded_binary, "redis": system_binary}
FOUND = [name for name, find in BINARIES.items() if name == "valkey" or find()]


@pytest.fixture
def fleet(client: redis.Redis, prefix: str) -> Fleet:
    """A pool with its default queue, and nothing else, on each kind of server."""
    return Fleet(client, prefix)


@pytest.fixture
def listener(client: redis.Redis, fleet: Fleet) -> Iterator[Listener]:
    """What dispatchers hear of the fleet's pool from now on."""
    with Listener(client, fleet.keys["changes"]) as heard:
        yield heard


@pytest.fixture(params=FOUND)
def start(request: pytest.FixtureRequest, own_server: Callable[..., RealServer]):
    """A function that starts a server of the test's own."""
    binary: Path | None = BINARIES[request.param]()
    return lambda **options: own_server(binary=binary, **options)


@pytest.fixture
def server(start: Callable[..., RealServer]) -> RealServer:
    """A server of the test's own, without further settings."""
    return start()


@pytest.fixture
def own_fleet(server: RealServer) -> Iterator[Fleet]:
    """A pool on that server."""
    with server.client() as client:
        yield Fleet(client, "t")


@pytest.fixture
def served(real_server: RealServer, prefix: str) -> Iterator[Any]:
    """A pool with an HTTP server beside it."""
    from tests.served import Served  # what it imports is for those tests alone

    with closing(Served(real_server, prefix)) as it:
        yield it


@pytest.fixture
def token(served: Any) -> str:
    """The token of the run "a", which was claimed over HTTP."""
    served.put_json("a")
    return str(served.claim_one()["claim"]["token"])
