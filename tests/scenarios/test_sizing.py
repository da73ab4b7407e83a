"""The figures of "Sizing" in docs/operations.md: connections per process, memory per run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dispatcher.connection import Connection
from dispatcher.records import Claim, Finish, Registration, Start
from dispatcher.store import Store
from tests.builders import COMPLETED, a_pool, a_submission
from tests.conftest import BACKENDS, embedded
from tests.probes import ROOT, wait_until
from tests.scenarios.fleet import POOL, Scene
from tests.scenarios.handler_scene import APP
from tests.servers import RealServer, system_binary

RUNS, PAYLOAD, BATCH = 1_000, b"x" * 2_000, 100
REAL = [backend for backend in BACKENDS if backend != "fakeredis"]


def documented(heading: str) -> dict[str, list[str]]:
    """The first table below a heading of the page: its rows by their first cells."""
    page = (ROOT / "docs" / "operations.md").read_text()
    lines = iter(page.split(f"\n{heading}\n")[1].splitlines())
    table = [next(line for line in lines if line.startswith("|"))]
    while (line := next(lines)).startswith("|"):
        table.append(line)
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table[2:]]
    return {row[0]: row[1:] for row in cells}


# --- Connections


@pytest.fixture
def scene(own_server: Callable[..., RealServer], prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(own_server(), prefix, tmp_path) as opened:
        opened.create_pool()
        opened.working_dir = ROOT
        yield opened


def connected(scene: Scene) -> set[str]:
    with scene.server.client() as client:
        found = {each["id"] for each in client.client_list()}
        return found - {str(client.client_id())}


def has_dispatched(scene: Scene) -> None:
    scene.wait_dispatched(scene.submit("true"))


def has_worked(scene: Scene) -> None:
    run_id = scene.submit("true")
    scene.store.dispatch(POOL, ["default"])
    scene.wait_end(run_id)


@pytest.mark.parametrize(
    ("row", "arguments", "work"),
    [
        ("`dispatcher run`", [], has_dispatched),
        ("`consumers run`", ["--type", "process"], has_worked),
        ("`consumers run`", ["--type", "handler", "--app", APP], has_worked),
    ],
)
def test_a_process_has_as_many_connections_as_the_page_says(scene, row, arguments, work):
    most = int(documented("## Processes")[row][0].split(",")[0])
    before = connected(scene)

    if "consumers" in row:
        scene.ready_worker("a", *arguments)
    else:
        scene.ready_dispatcher()

    work(scene)
    wait_until(lambda: len(connected(scene) - before) == most, f"it has {most}")
    work(scene)
    assert len(connected(scene) - before) == most


# --- Memory


@pytest.fixture(params=REAL)
def server(request: pytest.FixtureRequest, own_server: Callable[..., RealServer]) -> RealServer:
    """A fresh server of each kind: what others have left would be measured as well."""
    return own_server(binary=embedded() if request.param == "valkey" else system_binary())


class Cost:
    """What runs cost a server that has nothing else, each beside its payload, in kB."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._empty = self._used()
        self.kb: dict[str, float] = {}

    def measure(self, what: str, *, payloads: int) -> None:
        """Note what a run costs now, beside so many times its payload."""
        used = (self._used() - self._empty) / RUNS
        self.kb[what] = (used - payloads * len(PAYLOAD)) / 1_000

    def _used(self) -> int:
        client, events = self._store.connection.client, self._store.keys(POOL)["events"]
        used = client.info("memory")["used_memory_dataset"]
        return int(used) - (client.memory_usage(events, samples=0) or 0)  # they are bounded


def submitted(store: Store) -> None:
    for _ in range(RUNS // BATCH):
        fields = {"payload": PAYLOAD, "name": "nightly-report", "due_ms": None}
        ids = [{"deployment": str(uuid4()), "request": str(uuid4())} for _ in range(BATCH)]
        store.submit_many(POOL, [a_submission(str(uuid4()), **fields, **each) for each in ids])


def started(store: Store) -> list[Claim]:
    holder = store.register(POOL, Registration("w", "1", slots=RUNS)).holder
    claims: list[Claim] = []
    while len(claims) < RUNS:
        number = len(claims) + 1
        claims += store.claim(POOL, holder, number=number, slots=BATCH).claims
    store.report_many(POOL, [Start(claim.run_id, claim.token, 1) for claim in claims])
    return claims


def test_a_run_costs_the_memory_that_the_page_says(server):
    with server.client() as client:
        store = Store(Connection(client), "dispatcher")
        store.create_pool(a_pool(POOL, id=str(uuid4())), default_queue_id=str(uuid4()))
        store.set_queue(POOL, "default", {"max_unclaimed": RUNS})
        store.warm_up()
        cost = Cost(store)

        submitted(store)
        cost.measure("scheduled", payloads=1)
        while store.dispatch(POOL, ["default"]).moved:
            pass
        cost.measure("unclaimed", payloads=2)
        claims = started(store)
        cost.measure("running", payloads=2)
        store.report_many(POOL, [Finish(c.run_id, c.token, COMPLETED) for c in claims])
        cost.measure("ended", payloads=0)

    most = {row: float(cells[0]) for row, cells in documented("## Sizing").items()}
    assert cost.kb.keys() == most.keys()
    assert {row: kb for row, kb in cost.kb.items() if not most[row] / 2 < kb < most[row]} == {}
