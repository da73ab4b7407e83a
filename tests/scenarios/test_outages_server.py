"""A server that is away, read-only, loading or full: everything goes on without help after it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from dispatcher.errors import RedisFull
from dispatcher.records import Word
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import LEASE_MS, PATIENCE_S, POOL, Scene, outcomes
from tests.servers import AOF, RealServer

LONGER_S = LEASE_MS / 1000 + 1.5  # than every lease


@pytest.fixture
def open_scene(
    own_server: Callable[..., RealServer], prefix: str, tmp_path: Path
) -> Iterator[Callable[..., Scene]]:
    """A function that opens a scene on a server of its own."""
    opened: list[Scene] = []

    def open_one(**config: str) -> Scene:
        scene = Scene(own_server(config=AOF | config), prefix, tmp_path)
        opened.append(scene)
        scene.create_pool()
        return scene

    yield open_one
    for scene in opened:
        scene.__exit__(None, None, None)


def be_killed(scene: Scene) -> None:
    scene.server.kill()
    scene.let_pass(LONGER_S)
    scene.server.start()


def be_frozen(scene: Scene) -> None:
    scene.server.freeze()
    scene.let_pass(LONGER_S)
    scene.server.thaw()


def be_read_only(scene: Scene) -> None:
    with scene.server.client() as client:
        client.replicaof("127.0.0.1", "1")
        scene.let_pass(LONGER_S)
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize("be_away", [be_killed, be_frozen, be_read_only])
def test_no_live_worker_is_recovered_when_a_server_is_back_that_was_away_for_longer_than_leases(
    open_scene, be_away
):
    scene = open_scene()
    dispatcher = scene.ready_dispatcher()
    workers = [scene.ready_worker(name, "--limit", "1") for name in ("a", "b", "c")]
    runs = [scene.hold() for _ in workers]
    children = [scene.child(run) for run in runs]
    holders = scene.inspector.holders(POOL)

    be_away(scene)
    later = scene.submit("true")
    scene.let_pass(LONGER_S)

    assert all(process_state(child) for child in children)
    assert [h.id for h in scene.inspector.holders(POOL)] == [h.id for h in holders]
    assert not dispatcher.said("worker-recovered")
    scene.let_go()
    for run in [*runs, later]:
        record = scene.wait_end(run)
        assert (record.state_type, record.delivery) == ("COMPLETED", 1)


def test_nothing_accepted_is_lost_when_a_server_with_aof_is_killed_and_started_again(open_scene):
    scene = open_scene()
    scene.ready_dispatcher()
    for name in ("a", "b"):
        scene.ready_worker(name, "--limit", "3")
    accepted = [scene.submit("sleep 0.1", due_in_ms=50 * i) for i in range(40)]

    scene.wait_end(accepted[5])
    scene.server.kill()
    scene.server.start()
    accepted += [scene.submit("true") for _ in range(5)]
    scene.wait_end(accepted[-1])
    scene.server.kill()
    scene.server.start()

    ended = [scene.wait_end(run) for run in accepted]
    assert {(run.state_type, run.delivery, run.run_count) for run in ended} == {("COMPLETED", 1, 1)}


def test_work_goes_on_after_the_script_cache_was_flushed(open_scene):
    scene = open_scene()
    scene.ready_dispatcher()
    scene.ready_worker("a")
    scene.wait_end(scene.submit("true"))

    with scene.server.client() as client:
        client.script_flush()

    assert scene.wait_end(scene.submit("true")).state_type == "COMPLETED"


def test_a_server_that_loads_its_data_is_waited_for(open_scene):
    # Each key takes 2 ms to load, and commands in between are answered with LOADING.
    slow = {"key-load-delay": "2000", "loading-process-events-interval-bytes": "1024"}
    scene = open_scene(**slow)
    dispatcher = scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    scene.child(run_id)
    with scene.server.client() as client:
        client.mset({f"{scene.prefix}:load:{i}": "x" * 1_000 for i in range(1_000)})
        client.bgrewriteaof()
        wait_until(lambda: not _rewriting(client), "the AOF is rewritten")

    scene.server.restart()
    later = scene.submit("true")
    scene.let_go()

    for run in (run_id, later):
        record = scene.wait_end(run)
        assert (record.state_type, record.delivery) == ("COMPLETED", 1)
    for process in (dispatcher, worker):
        assert "cannot serve now" in process.text


def _rewriting(client: "redis.Redis") -> bool:
    info = client.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def fill_memory(client: "redis.Redis", prefix: str) -> None:
    """Leave no room: a limit just above what is used, and then something that takes the rest."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
    with suppress(redis.OutOfMemoryError):
        for i in range(10_000):
            client.set(f"{prefix}:fill:{i}", "x" * 1_000)


def test_at_full_memory_work_ends_and_leases_go_on_and_then_submit_is_accepted_again(open_scene):
    scene = open_scene()
    dispatcher = scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    large = {"parameters": {"text": "x" * 100_000}}
    runs = [scene.hold(**large) for _ in range(10)]
    for run in runs:
        scene.child(run)

    with scene.server.client() as client:
        fill_memory(client, scene.prefix)
        scene.store.connection._patience_s = 0
        with pytest.raises(RedisFull, match="out of memory"):
            scene.submit("true", **large)
        scene.wait_renewed(times=5)  # for more than a lease
        with pytest.raises(RedisFull, match="out of memory"):
            scene.submit("true", **large)
        scene.let_go()
        for run in runs:
            assert outcomes(scene.wait_end(run)) == [("a", "COMPLETED")]

        accepted = wait_until(
            lambda: _submitted(scene, **large), "a submit is accepted", timeout_s=PATIENCE_S
        )

    assert scene.wait_end(accepted).state_type == "COMPLETED"
    assert not worker.said("lease-lost")
    assert not dispatcher.said("worker-recovered")


def _submitted(scene: Scene, **fields: object) -> str:
    with suppress(RedisFull):
        return scene.submit("true", **fields)
    return ""


def test_a_worker_that_dies_at_full_memory_is_recovered_all_the_same(open_scene):
    scene = open_scene()
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    scene.child(run_id)
    (holder,) = scene.inspector.holders(POOL)

    with scene.server.client() as client:
        fill_memory(client, scene.prefix)
        worker.kill()

        wait_until(
            lambda: scene.run(run_id).place == "scheduled", "it is taken back", timeout_s=PATIENCE_S
        )
        client.config_set("maxmemory", 0)
    scene.ready_worker("b")
    scene.let_go()
    assert outcomes(scene.wait_end(run_id)) == [("a", "lost"), ("b", "COMPLETED")]
    assert scene.store.recover(POOL, holder.id).word is Word.UNKNOWN
