"""`pool delete` and `queue delete`: refused while something is left, or all is cancelled first."""

import re

import pytest

from dispatcher.errors import RedisUnavailable
from tests.commands import Commands, Done, Hands, a_run, ndjson, run_id
from tests.scenarios.fleet import Scene

LATER = "2035-01-31T08:00:00Z"
DEPLOYMENT = run_id(8)
POOL = ("pool", "delete", "etl")
QUEUE = ("queue", "delete", "q", "--pool", "etl")
BOTH = pytest.mark.parametrize("what", [POOL, QUEUE], ids=["pool", "queue"])


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    assert cli("queue", "create", "q", "--pool", "etl").code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


@pytest.fixture
def hands(etl, client, prefix):
    return Hands(client, prefix)


def submit(cli, *runs, **options):
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert cli("submit", "-", "--pool", "etl", *given, given=ndjson(*runs)).code == 0


def error_of(done: Done) -> str:
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    return line


def named(what):
    return "pool etl" if what is POOL else "queue etl/q"


def everything(client, prefix):
    return {key: client.dump(key) for key in client.scan_iter(f"{prefix}:*")}


def keys(client, prefix):
    return sorted(key.decode().removeprefix(prefix) for key in client.scan_iter(f"{prefix}:*"))


# --- What is empty


def test_an_empty_queue_is_deleted_and_its_keys_are_gone(etl, hands, client, prefix):
    submit(etl, a_run(1), queue="q")
    hands.finish(hands.start(hands.claim("q")))

    done = etl(*QUEUE)

    assert (done.code, done.lines, done.err) == (0, ["deleted queue etl/q"], "")
    queues = etl("queue", "ls", "--pool", "etl", "--json").objects
    assert [queue["name"] for queue in queues] == ["default"]
    assert [key for key in keys(client, prefix) if key.endswith(":q")] == []


def test_an_empty_pool_is_deleted_and_only_its_events_stay_for_a_while(etl, hands, client, prefix):
    etl("deployment", "set", DEPLOYMENT, "--pool", "etl", "--limit", "1")
    submit(etl, a_run(1, idempotency_key="once"))
    hands.work("FAILED")

    done = etl(*POOL)

    assert (done.code, done.lines, done.err) == (0, ["deleted pool etl"], "")
    assert keys(client, prefix) == [":{etl}:events"]
    assert client.ttl(f"{prefix}:{{etl}}:events") > 86_000
    assert etl("pool", "ls", "--json").objects == []
    assert etl("event", "--pool", "etl").lines[-1].split()[1:3] == ["etl", "pool-deleted"]


def test_a_pool_of_the_name_of_a_deleted_one_is_new(etl, hands):
    submit(etl, a_run(1, idempotency_key="once"), at=LATER)
    etl("flow-run", "cancel", run_id(1))
    etl(*POOL)
    assert etl("pool", "create", "etl").code == 0
    done = etl("submit", "-", "--pool", "etl", given=ndjson(a_run(1, idempotency_key="once")))
    assert done.lines[0].startswith(f"accepted {run_id(1)} etl/default")


# --- What is not


def test_what_is_left_is_counted_and_nothing_changes_without_force(etl, hands, client, prefix):
    etl("deployment", "set", DEPLOYMENT, "--pool", "etl", "--limit", "0")
    submit(etl, a_run(1), a_run(2), a_run(3, deployment_id=DEPLOYMENT), queue="q")
    submit(etl, a_run(4), a_run(5), queue="q", at=LATER)
    hands.claim("q")
    before = everything(client, prefix)

    errors = [error_of(etl(*what)) for what in (QUEUE, POOL)]

    left = "2 scheduled, 1 waiting, 1 unclaimed, 1 claimed"
    assert errors == [
        f"error: {named(what)} is not empty: {left}; --force cancels its runs first"
        for what in (QUEUE, POOL)
    ]
    assert everything(client, prefix) == before


def test_dead_letters_keep_a_pool_but_not_a_queue(etl, hands):
    put_dead(etl, hands, 1)
    assert error_of(etl(*POOL)) == (
        "error: pool etl is not empty: dead letters; --force cancels its runs first"
    )
    assert etl(*QUEUE).code == 0
    for lists in ("dead-letter", "flow-run"):
        (found,) = etl(lists, "ls", "--json").objects
        assert (found["id"], found["work_queue_name"]) == (run_id(1), "q")
    assert error_of(etl("dead-letter", "requeue", run_id(1))) == (
        "error: queue 'q' does not exist in pool 'etl'; create it with `dispatcher queue create`"
    )
    assert etl(*POOL, "--force").lines == ["deleted pool etl: 1 dead letter purged"]


def put_dead(etl, hands, number):
    etl("queue", "set", "q", "--pool", "etl", "--max-deliveries", "1")
    submit(etl, a_run(number), queue="q")
    hands.start(hands.claim("q"))
    hands.die()


@BOTH
def test_forced_it_cancels_and_tells_what(etl, hands, client, prefix, what):
    etl("deployment", "set", DEPLOYMENT, "--pool", "etl", "--limit", "0")
    submit(etl, a_run(1), a_run(2, deployment_id=DEPLOYMENT), queue="q")
    submit(etl, a_run(3), queue="q", at=LATER)
    hands.store.dispatch("etl", ["q"])

    done = etl(*what, "--force")

    assert (done.code, done.err) == (0, "")
    *cancelled, last = done.lines
    assert sorted(cancelled) == [f"cancelled {run_id(number)}" for number in (1, 2, 3)]
    assert last == f"deleted {named(what)}: 3 cancelled"
    if what is QUEUE:
        shown = etl("flow-run", "show", run_id(1), "--json").objects[0]["state"]
        assert (shown["type"], shown["message"]) == ("CANCELLED", "its queue was deleted")


@BOTH
def test_programs_get_an_object_for_each_run_and_one_for_the_end(etl, what):
    submit(etl, a_run(1), queue="q", at=LATER)
    run, end = etl(*what, "--force", "--json").objects
    place = {"work_pool_name": "etl"} | ({"work_queue_name": "q"} if what is QUEUE else {})
    assert run == {"result": "cancelled", "id": run_id(1)}
    assert end == {"result": "deleted", **place, "cancelled": 1, "purged": 0}


# --- Runs that workers have


@BOTH
def test_it_waits_for_runs_that_workers_have(etl, hands, what):
    submit(etl, a_run(1), queue="q")
    claim = hands.start(hands.claim("q"))
    process = etl.start(*what, "--force")
    with process.stdout, process.stderr, process.stdin:
        told = process.stdout.readline().decode()
        assert told == f"cancelling {run_id(1)} worker hands.1 is told\n"
        assert process.poll() is None
        hands.finish(claim)
        rest = process.stdout.read().decode().splitlines()
        assert rest == [f"ended {run_id(1)} CANCELLED", f"deleted {named(what)}: 1 cancelled"]
        assert (process.wait(30), process.stderr.read()) == (0, b"")


@BOTH
def test_it_refuses_to_remove_while_something_is_claimed_and_can_be_given_again(etl, hands, what):
    submit(etl, a_run(1), queue="q")
    claim = hands.start(hands.claim("q"))

    first = etl(*what, "--force", "--timeout", "0")
    kept = etl("queue", "show", "q", "--pool", "etl", "--json").objects[0]
    pool = etl("pool", "show", "etl", "--json").objects[0]
    hands.finish(claim)
    second = etl(*what)

    still = "queue 'q' of pool 'etl' still has runs: 1"
    assert first.code == 1
    assert first.err == (
        f"error: {still}; it is paused now, with its intake: give the command again\n"
    )
    paused = pool if what is POOL else kept
    assert (kept["claimed"], paused["is_paused"], paused["intake_paused"]) == (1, True, True)
    assert paused["pause"]["reason"] == "it is being deleted"
    assert second.lines == [f"deleted {named(what)}"]


def test_a_run_that_comes_between_the_look_and_the_pause_stops_it(etl, hands, monkeypatch):
    from dispatcher import removing

    counts = removing._counts

    def count_then_submit(queues):
        found = counts(queues)
        submit(etl, a_run(1), queue="q", at=LATER)
        return found

    monkeypatch.setattr(removing, "_counts", count_then_submit)
    assert error_of(etl(*QUEUE)) == (
        "error: queue 'q' of pool 'etl' still has runs: 1; it is paused now, with its intake: "
        "delete it with --force, or resume it"
    )
    assert etl("queue", "show", "q", "--pool", "etl", "--json").objects[0]["is_paused"]


def test_a_pool_that_was_deleted_halfway_is_deleted_by_the_same_command(etl, hands, monkeypatch):
    from dispatcher.store import Store

    etl("queue", "create", "r", "--pool", "etl")
    submit(etl, a_run(1), queue="q", at=LATER)
    whole = Store.delete_queue

    def break_off(store, pool, name, *, by):
        if name == "r":
            raise RedisUnavailable("Redis is away")
        whole(store, pool, name, by=by)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete_queue", break_off)
        first = etl(*POOL, "--force")
    queues = [queue["name"] for queue in etl("queue", "ls", "--pool", "etl", "--json").objects]

    assert (first.code, first.err) == (1, "error: Redis is away\n")
    assert queues == ["default", "r"]
    assert etl(*POOL, "--force").lines == ["deleted pool etl"]


def test_very_many_runs_are_cancelled_before(etl):
    submit(etl, *map(a_run, range(1_234)), queue="q", at=LATER)
    done = etl(*QUEUE, "--force")
    assert len(done.lines) == 1_235
    assert done.lines[-1] == "deleted queue etl/q: 1,234 cancelled"


# --- What cannot be


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_default_queue_goes_with_its_pool(etl, client, prefix, force):
    before = everything(client, prefix)
    assert error_of(etl("queue", "delete", "default", "--pool", "etl", *force)) == (
        "error: queue 'default' goes with its pool; it cannot be deleted by itself"
    )
    assert everything(client, prefix) == before


@pytest.mark.parametrize(
    "args",
    [("pool", "delete", "no"), ("queue", "delete", "no", *QUEUE[3:]), (*QUEUE[:4], "no")],
    ids=" ".join,
)
def test_what_is_not_there_cannot_be_deleted(etl, args):
    assert re.fullmatch(r"error: (pool|queue) 'no' does not exist.*", error_of(etl(*args)))


def test_lists_leave_out_what_is_deleted_while_they_are_read(etl, hands, client, prefix):
    etl("pool", "create", "other")
    submit(etl, a_run(1), queue="q", at=LATER)
    kept = hands.store.keys("etl")
    client.delete(kept["queue"] + "q", hands.store.keys("other")["pool"])
    names = [queue["name"] for queue in etl("queue", "ls", "--pool", "etl", "--json").objects]
    pools = [pool["name"] for pool in etl("pool", "ls", "--json").objects]
    assert (names, pools) == (["default"], ["etl"])
    for args in (("worker", "ls"), ("flow-run", "ls"), ("dead-letter", "ls"), ("event",)):
        assert etl(*args, "--json").code == 0


def test_a_worker_of_a_deleted_pool_ends_with_one_line(real_server, prefix, tmp_path):
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool()
        worker = scene.ready_worker("w")
        assert scene.command("dispatcher", *POOL).returncode == 0
        assert worker.exit_code() == 1
        assert worker.plain[-1].startswith("error: pool 'etl' does not exist")
