"""How workers end: drained, released, displaced, refused; and what `consumers check` says."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.probes import process_state, wait_until
from tests.scenarios.fleet import POOL, Scene, outcomes, wait_gone
from tests.servers import RealServer

DEFAULT_MS = {"lease_ms": 15_000, "renew_ms": 5_000}


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(**DEFAULT_MS)
        yield scene


def test_the_first_signal_drains_what_runs_ends_and_nothing_more_is_claimed(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--limit", "2")
    running = scene.hold()
    child = scene.child(running)

    worker.signal(signal.SIGINT)
    worker.wait_said("draining", reason="SIGINT", running=1)
    waiting = scene.wait_dispatched(scene.submit("true"))
    (holder,) = wait_until(
        lambda: [h for h in scene.inspector.holders(POOL) if h.draining], "it is draining"
    )
    assert (holder.worker, holder.held) == ("a", 1)
    assert process_state(child)
    scene.let_go()

    assert worker.exit_code() == 0
    assert outcomes(scene.run(running)) == [("a", "COMPLETED")]
    assert scene.run(waiting.id).place == "stream"
    assert scene.inspector.holders(POOL) == []
    assert not worker.plain
    assert not worker.said("redis-away")


def test_an_idle_worker_ends_at_once_and_leaves_nothing(scene):
    worker = scene.ready_worker("a")
    guardian = worker.guardian()
    began_s = scene.clock.monotonic_s()

    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    assert scene.clock.monotonic_s() - began_s < 5
    assert scene.inspector.holders(POOL) == []
    wait_gone(guardian, "the guardian")
    assert list((scene.directory / "tmp").glob("dispatcher-*/*.json")) == []
    with scene.server.client() as client:
        left = [key.decode() for key in client.scan_iter(f"{scene.prefix}:*a.*")]
    assert left == []


def test_the_second_signal_gives_back_what_runs_and_another_worker_runs_it(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    child = scene.child(run_id)

    worker.signal(signal.SIGTERM)
    worker.wait_said("draining")
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    wait_gone(child, "the child")
    assert worker.said("released", run=run_id)
    scene.ready_worker("b")
    scene.child(run_id, delivery=2)
    scene.let_go()
    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "released"), ("b", "COMPLETED")]
    assert (run.losses, run.run_count) == (0, 2)


def test_what_runs_longer_than_the_grace_is_given_back(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--grace", "0.5")
    run_id = scene.hold()
    child = scene.child(run_id)

    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    wait_gone(child, "the child")
    run = scene.run(run_id)
    assert outcomes(run) == [("a", "released")]
    assert (run.losses, run.state_type) == (0, "SCHEDULED")


def test_a_worker_that_is_told_to_drain_from_elsewhere_ends_after_its_runs(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    scene.child(run_id)
    (holder,) = scene.inspector.holders(POOL)

    scene.store.drain(POOL, holder.id, reason="upgrade")
    scene.wait_dispatched(scene.submit("true"))
    scene.let_go()

    assert worker.exit_code() == 0
    assert outcomes(scene.run(run_id)) == [("a", "COMPLETED")]


def test_of_two_workers_of_one_name_the_older_stops_its_runs_and_ends_with_one_line(scene):
    scene.ready_dispatcher()
    older = scene.ready_worker("a")
    run_id = scene.hold()
    first = scene.child(run_id)

    newer = scene.ready_worker("a")

    assert older.exit_code() == 1
    wait_gone(first, "the older worker's child")
    (line,) = older.plain
    assert line.startswith("error: worker a.")
    assert line.endswith("is no longer registered: another worker runs under this name")
    scene.child(run_id, delivery=2)
    scene.let_go()
    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "lost"), ("a", "COMPLETED")]
    newer.wait_said("finished", run=run_id)
    assert not older.said("finished")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--pool", "nope"],
            "error: pool 'nope' does not exist; create it with `dispatcher pool create`",
        ),
        (
            ["--pool", POOL, "--queue", "nope"],
            f"error: queue 'nope' does not exist in pool '{POOL}'; "
            "create it with `dispatcher queue create`, or with --create",
        ),
        (
            ["--pool", POOL, "--name", "a/b"],
            "error: worker name 'a/b' contains /; these are not allowed: / % & > <",
        ),
        (
            ["--pool", POOL, "--redis-url", "http://x"],
            "error: Redis URL begins with http; use redis://, rediss://, unix://, "
            "redis+sentinel:// or redis+cluster://",
        ),
    ],
)
def test_a_worker_that_cannot_begin_says_why_in_one_line(scene, arguments, line):
    ended = scene.command("consumers", "run", *arguments)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert [row for row in ended.stderr.splitlines() if not row.startswith("{")] == [line]


@pytest.mark.parametrize(
    "arguments", [[], ["--pool", POOL, "--limit", "0"], ["--pool", POOL, "--grace", "-1"]]
)
def test_a_wrong_option_is_wrong_usage(scene, arguments):
    ended = scene.command("consumers", "run", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_check_says_whether_this_host_has_a_worker_with_a_live_lease(scene):
    def code(*arguments: str) -> int:
        return scene.command("consumers", "check", *arguments).returncode

    before = scene.command("consumers", "check")
    worker = scene.ready_worker("a")
    with_worker = scene.command("consumers", "check")
    told = [code("--pool", POOL), code("--name", "a"), code("--name", "b"), code("--pool", "nope")]
    worker.signal(signal.SIGTERM)
    worker.exit_code()

    assert (before.returncode, before.stdout) == (1, "")
    assert before.stderr.startswith("error: no worker of host ")
    assert with_worker.returncode == 0
    assert with_worker.stdout == f"worker a of pool {POOL} has a live lease\n"
    assert told == [0, 0, 1, 1]
    assert code() == 1


def test_check_says_in_one_line_that_redis_is_away(scene):
    ended = scene.command("consumers", "check", "--redis-url", "unix:///nowhere/s")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot be reached" in ended.stderr


def test_a_worker_ends_when_redis_is_away_and_what_it_had_is_recovered_later(
    own_server, prefix, tmp_path
):
    server = own_server(config={"appendonly": "yes"})
    with Scene(server, prefix, tmp_path) as scene:
        scene.create_pool()
        scene.ready_dispatcher()
        worker = scene.ready_worker("a", "--grace", "0.2")
        run_id = scene.hold()
        child = scene.child(run_id)

        server.stop()
        worker.signal(signal.SIGTERM)
        assert worker.exit_code(60) == 0
        wait_gone(child, "the child")
        server.start()
        scene.ready_worker("b")
        scene.child(run_id, delivery=2)
        scene.let_go()

        assert outcomes(scene.wait_end(run_id)) == [("a", "lost"), ("b", "COMPLETED")]
