"""Fixtures for the atomic steps: a pool with its fleet, and an ear on its `changes` channel."""

from collections.abc import Iterator

import pytest
import redis

from tests.builders import Fleet, Listener


@pytest.fixture
def fleet(client: redis.Redis, prefix: str) -> Fleet:
    """A pool with its default queue, and nothing else, on each kind of server."""
    return Fleet(client, prefix)


@pytest.fixture
def listener(client: redis.Redis, fleet: Fleet) -> Iterator[Listener]:
    """What dispatchers hear of the fleet's pool from now on."""
    with Listener(client, fleet.keys["changes"]) as heard:
        yield heard
