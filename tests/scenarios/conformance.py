"""The conformance suite: fleets of every type of worker, each on its own server, do the same work.

`FLEETS` has one entry per type. A test of the suite takes a fleet and says what holds whatever runs
the runs; what only one type does has tests of its own.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from dispatcher.stored import RunRecord
from tests.conftest import embedded
from tests.scenarios.gate import Gate
from tests.scenarios.rq_fleet import RqFleet
from tests.scenarios.teams import Fleet, HandlerFleet, ProcessFleet
from tests.servers import RealServer

SHORT_MS = {"lease_ms": 1_500, "renew_ms": 500}
FLEETS: dict[str, type[Fleet]] = {"process": ProcessFleet, "handler": HandlerFleet, "rq": RqFleet}


@contextmanager
def fleet_of(kind: str, directory: Path, **pool: Any) -> Iterator[Fleet]:
    """Start a server, a pool of this type and a dispatcher of it; all end with the fleet."""
    with (
        RealServer(embedded(), directory / "server") as server,
        Gate(server.url) as gate,
        FLEETS[kind](server, directory, gate) as fleet,
    ):
        fleet.create_pool(**{"type": kind} | fleet.leisure_ms | pool)
        fleet.dispatcher()
        yield fleet


def ends(run: RunRecord) -> list[str]:
    """Return how each delivery of a run ended."""
    return [delivery.outcome for delivery in run.deliveries]


def envelope(run: dict[str, Any]) -> bytes:
    """Return an object of the endpoint, written as nobody else would write it."""
    text = json.dumps(run, ensure_ascii=False, indent=3, separators=(" , ", " :\t"))
    pool, queue = uuid4(), uuid4()
    odd = text.replace("größe", "gr\\u00f6\\u00dfe", 1)
    return f'{{\n"work_queue_id":"{queue}","flow_run" : {odd} ,"work_pool_id": "{pool}" }}'.encode()
