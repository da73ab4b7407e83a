"""`dispatcher doctor`: what it says and does; what `dispatcher run` repairs by itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.reconciling import Reconciler
from dispatcher.records import Finding
from tests.commands import Commands, Done, Hands, ndjson, run_id
from tests.commands import a_run as a_submitted_run
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene
from tests.servers import AOF, RealServer, embedded_binary, version_of

RUNS, PASSES = 120, 10


@pytest.fixture
def server(own_server: Callable[..., RealServer]) -> RealServer:
    """A server as it should be."""
    return own_server(config=AOF)


@pytest.fixture
def client(server: RealServer) -> Iterator[Any]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def cli(server: RealServer, prefix: str) -> Commands:
    return Commands(server.url, prefix)


@pytest.fixture
def hands(cli: Commands, client: Any, prefix: str) -> Hands:
    """A worker by hand on a pool with one claimed and one scheduled run."""
    assert cli("pool", "create", "etl").code == 0
    runs = ndjson(a_submitted_run(1), a_submitted_run(2))
    assert cli("submit", "-", "--pool", "etl", "--at", "now", given=runs).code == 0
    hands = Hands(client, prefix)
    hands.start(hands.claim())
    return hands


def damage(hands: Hands, client: Any) -> None:
    """Take away the slot of the claimed run, and make "ready" forget the other."""
    keys = hands.store.keys("etl")
    client.delete(keys["pool_slots"], keys["ready"], keys["wake"] + "default")


def place(runs: int = 2, pools: int = 1) -> str:
    version = ".".join(map(str, version_of(embedded_binary() or Path())))
    named = f"{pools} pool{'s' * (pools != 1)}, {pools} queue{'s' * (pools != 1)}"
    return f"looked at {named}, {runs} runs, and Valkey {version}"


def table(done: Done) -> list[list[str]]:
    """The rows of a table, cells apart at two spaces or more."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in done.lines]


def test_a_pool_in_order_is_one_line_and_exit_code_0(cli, hands):
    done = cli("doctor")

    assert (done.code, done.out, done.err) == (0, f"nothing found: {place()}\n", "")


def test_findings_are_a_table_with_what_can_be_repaired_and_exit_code_1(cli, hands, client):
    damage(hands, client)

    done = cli.execute("doctor")

    slot = f"is claimed by {hands.holder} in default and holds no slot of the pool"
    asleep = "has 1 unclaimed entries, and no worker is woken for them"
    assert done.code == 1
    assert table(done) == [
        ["FOUND", "POOL", "QUEUE", "RUN", "WHAT IS WRONG", "REPAIR"],
        ["asleep", "etl", "default", asleep, "with --fix: offered"],
        ["no-slot", "etl", "default", run_id(1), slot, "with --fix: given one"],
        [f"2 found: 2 that --fix repairs, 0 left to you; {place()}"],
    ]


def test_fix_repairs_says_so_and_then_finds_nothing(cli, hands, client):
    damage(hands, client)

    fixed, again = cli("doctor", "--fix"), cli("doctor", "--fix", "--pool", "etl")

    assert (fixed.code, fixed.lines[-1]) == (1, f"2 found: 2 repaired, 0 left to you; {place()}")
    assert [row[-1] for row in table(fixed)[1:3]] == ["offered", "given one"]
    assert (again.code, again.out) == (0, f"nothing found: {place()}\n")
    hands.work()
    assert cli("flow-run", "show", run_id(2), "--json").objects[0]["state_type"] == "COMPLETED"


def test_json_is_an_object_for_each_finding_and_nothing_else_on_standard_output(cli, hands, client):
    damage(hands, client)

    done, fixed, again = cli("doctor", "--json"), cli("doctor", "--json", "--fix"), cli("doctor")

    first = {
        "finding": "asleep",
        "work_pool_name": "etl",
        "work_queue_name": "default",
        "flow_run_id": None,
        "problem": "has 1 unclaimed entries, and no worker is woken for them",
        "repair": "offered",
        "repaired": False,
    }
    assert done.objects[0] == first
    assert fixed.objects[0] == first | {"repaired": True}
    assert [row["flow_run_id"] for row in done.objects] == [None, run_id(1)]
    assert done.err == f"2 found: 2 that --fix repairs, 0 left to you; {place()}\n"
    assert (done.code, fixed.code, again.code) == (1, 1, 0)


def test_data_of_a_newer_release_is_a_finding_and_the_other_pools_are_looked_at(cli, hands, client):
    assert cli("pool", "create", "next").code == 0
    client.hset(hands.store.keys("next")["pool"], "version", 2)
    damage(hands, client)

    done = cli("doctor", "--fix")

    line = "pool 'next' has data version 2, this release knows 1; use the newer release"
    assert done.code == 1
    assert ["refused", "next", line, "none"] in table(done)
    assert "3 found: 2 repaired, 1 left to you" in done.out


@pytest.mark.parametrize(
    ("config", "codes"),
    [
        ({"maxmemory-policy": "allkeys-lru", "appendonly": "yes"}, ["maxmemory-policy"]),
        ({"appendonly": "no", "save": ""}, ["persistence"]),
        ({"appendonly": "yes", "maxmemory": "1mb"}, ["memory"]),
    ],
)
def test_what_is_wrong_with_the_server_is_found(own_server, prefix, config, codes):
    done = Commands(own_server(config=config).url, prefix)("doctor", "--json")

    assert [row["finding"] for row in done.objects] == codes
    assert {row["repair"] for row in done.objects} == {None}
    assert done.code == 1


def test_what_the_server_forbids_to_ask_is_found_as_not_checked(cli, hands, client, server, prefix):
    client.acl_setuser(
        "shy",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-info", "-config"],
    )
    shy = Commands(server.url.replace("unix://", "unix://shy:secret@"), prefix)

    done = shy("doctor", "--json")

    (row,) = done.objects
    assert (row["finding"], row["problem"].split(":")[0]) == ("not-checked", "INFO was refused")
    assert "secret" not in done.out + done.err
    assert done.code == 1


def test_a_server_that_is_away_is_one_line_and_so_is_a_pool_that_is_not_there(cli, server):
    missing = cli("doctor", "--pool", "nope")
    server.kill()
    away = cli("doctor")

    assert (missing.code, away.code) == (1, 1)
    assert missing.err.startswith("error: pool 'nope' does not exist")
    assert away.err.startswith("error: Redis at ")
    assert away.err.count("\n") == 1
    assert missing.out == away.out == ""


# --- Real dispatchers and workers


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


def test_a_dispatcher_repairs_by_itself_and_the_run_ends(scene):
    scene.create_pool()
    dispatcher = scene.ready_dispatcher(DISPATCHER_REPAIR_S="0.3", DISPATCHER_SWEEP_S="60")
    scene.ready_worker("w")
    run = scene.submit("true", due_in_ms=600_000)
    key = scene.store.keys(POOL)["scheduled"] + "default"
    with scene.server.client() as client:
        client.delete(key)

    (row,) = dispatcher.wait_said("repaired", run=run)

    assert (row["what"], row["pool"], row["level"]) == ("not-listed", POOL, "warning")
    scene.store.retime(POOL, run, None)
    assert scene.wait_end(run).state_type == "COMPLETED"
    (event,) = [e for e in scene.events() if e["event"] == "repaired"]
    assert (event["what"], event["run"]) == ("not-listed", run)


def submit_one(scene: Scene, number: int) -> str:
    """Submit a run to one of two queues; some have a deployment, some fail and are run again."""
    return scene.submit(
        "false" if number % 10 == 0 else "true",
        queue=("default", "other")[number % 2],
        deployment_id=run_id(7) if number % 3 == 0 else None,
        empirical_policy={"retries": 1},
    )


def test_a_busy_pool_in_order_has_no_findings(scene):
    scene.create_pool(limit=6)
    scene.create_queue("other")
    scene.store.set_deployment(POOL, run_id(7), 2)
    scene.store.set_queue(POOL, "other", {"limit": 3, "max_unclaimed": 10})
    dispatchers = [scene.ready_dispatcher(DISPATCHER_REPAIR_S="1") for _ in range(2)]
    for worker in ("v", "w"):
        scene.ready_worker(worker, "--limit", "4")
    deadline_s = scene.clock.monotonic_s() + 2 * PATIENCE_S
    runs: list[str] = []
    findings: list[Finding] = []
    passes = 0
    while len(runs) < RUNS or any(scene.run(run).ended_ms is None for run in runs):
        assert scene.clock.monotonic_s() < deadline_s, "the runs do not end"
        if len(runs) < RUNS:  # so that there is work while each of the first passes is made
            runs += [submit_one(scene, n) for n in range(len(runs), len(runs) + RUNS // PASSES)]
        for page in Reconciler(scene.store, scene.inspector, fix=False).walk([POOL], names=True):
            findings += page
        passes += 1
        if passes % 5 == 0:
            scene.store.pause(POOL, "other")
            scene.store.resume(POOL, "other")
        if passes < PASSES:
            scene.store.cancel(POOL, runs[-passes])

    assert findings == []
    for dispatcher in dispatchers:
        dispatcher.wait_said("reconciled")
    told = [row for d in dispatchers for row in d.said("repaired") + d.said("not-repaired")]
    assert told == []
