"""The HTTP API is what its OpenAPI document says, asked at random with a fixed seed."""

import json
import secrets
from collections.abc import Callable, Iterator
from uuid import UUID, uuid5

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dispatcher.connection import Connection
from dispatcher.http.app import create_app
from dispatcher.http.doors import Doors
from dispatcher.http.examples import FLOW_RUN
from dispatcher.http.ndjson import NDJSON
from dispatcher.http.options import Address, Options
from dispatcher.http.serving import HttpServer
from dispatcher.producer import Producer
from dispatcher.settings import Settings
from dispatcher.stored import Pool

POLL = "get_scheduled_flow_runs"
LOGIN = ("user", "password")
OPTIONS = Options(address=Address("127.0.0.1", 0), auth_string=":".join(LOGIN))
MOST_EXAMPLES, SEED = 30, 20_261_125
DOCUMENT = create_app(Doors(Connection(), Settings()), OPTIONS).openapi()
NAMES = UUID("57789097-a1ba-45da-819b-5a238accc0d6")
OTHER = {**FLOW_RUN, "id": "0199f0a2-6d2c-4f0e-9f6e-2b9f0d6a1c13", "deployment_id": None}
# Cursors are what an answer has had; any other text is refused.
schemathesis.openapi.format("cursor", st.just(""))
schemathesis.openapi.format("event-cursor", st.sampled_from(["", "0-0", "1764057600000-1"]))


@schemathesis.serializer(NDJSON)
def _as_lines(_context, value) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def schema_of(operation_id: str) -> schemathesis.BaseSchema:
    """The document with one operation chosen; the pool is one that is there."""
    pool = "polled" if operation_id == POLL else "etl"
    names = {"path.name": pool, "path.queue": "default", "query.work_pool_name": "etl"}
    login = {"basic": {"username": LOGIN[0], "password": LOGIN[1]}}
    config = {"seed": SEED, "parameters": names, "auth": login}
    whole = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config.from_dict(config))
    return whole.include(operation_id=operation_id)


class Site:
    """A served edge with a pool in which one run is scheduled."""

    def __init__(self, doors: Doors, server: HttpServer) -> None:
        self._doors = doors
        self.url = f"http://{server.address}"

    def restore(self) -> None:
        """Make the pools, anew if a call deleted one; their runs need nothing to be accepted."""
        producer = Producer(self._doors.store, self._doors.inspector)
        for name, handout in (("etl", "stream"), ("polled", "poll")):
            pool = Pool(name, str(uuid5(NAMES, name)), type="any", handout=handout)
            self._doors.store.create_pool(pool, default_queue_id=str(uuid5(NAMES, f"{name}/")))
            for intake in (True, False):  # a deletion that was refused has paused it
                self._doors.store.resume(name, intake=intake)
            for payload in (FLOW_RUN, OTHER):
                producer.submit({**payload, "next_scheduled_start_time": None}, pool=name)


@pytest.fixture(scope="module")
def site(servers) -> Iterator[Site]:
    """An edge on a port of this machine, on a real server."""
    prefix = f"t{secrets.token_hex(4)}"
    doors = Doors.open(servers.get("valkey").url, Settings(key_prefix=prefix))
    server = HttpServer(doors, OPTIONS)
    server.start()
    site = Site(doors, server)
    site.restore()
    yield site
    server.stop()
    servers.forget(prefix)


def not_asked(case) -> list:
    """The checks that cannot hold for a call."""
    if case.operation.definition.raw["operationId"] == POLL:
        # The real server takes what its own document forbids, such as a limit that is a text.
        return [schemathesis.checks.negative_data_rejection]
    if isinstance(case.body, dict) and isinstance(case.body.get("base_job_template"), dict):
        # No JSON Schema says which templates can be used; the tests of templates do.
        return [schemathesis.checks.positive_data_acceptance]
    return []


def asking(operation_id: str) -> Callable[..., None]:
    """A test that asks one operation; schemathesis gives all of a schema the same name."""

    def test(case, site):
        case.call_and_validate(base_url=site.url, excluded_checks=not_asked(case), timeout=20)
        if case.method == "DELETE":
            site.restore()

    test.__name__ = test.__qualname__ = f"test_{operation_id}_answers_as_its_document_says"
    seeded = settings(
        max_examples=MOST_EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    whole: Callable[..., None] = schema_of(operation_id).parametrize()(seeded(test))
    return whole


OPERATIONS = [
    operation["operationId"]
    for methods in DOCUMENT["paths"].values()
    for operation in methods.values()
]
for _id in OPERATIONS:
    globals()[f"test_{_id}_answers_as_its_document_says"] = asking(_id)
