"""A pool that is handed out by polling, with real processes: workers stand aside."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher import Word
from dispatcher.records import Finish
from tests.builders import COMPLETED
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene
from tests.servers import RealServer


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


def test_a_worker_of_a_pool_that_is_polled_says_in_one_line_why_it_ends(scene):
    scene.create_pool(handout="poll")
    ended = scene.command("consumers", "run", "--pool", POOL)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        f"error: pool '{POOL}' is handed out by polling, so workers have nothing to claim; "
        f"`dispatcher pool set {POOL} --handout stream` changes that"
    ]


def polled(scene: Scene) -> None:
    changed = scene.command("dispatcher", "pool", "set", POOL, "--handout", "poll")
    assert changed.stdout == f"changed {POOL}\n"


def test_workers_that_are_switched_under_say_so_once_and_claim_again_afterwards(scene):
    scene.create_pool()
    scene.ready_dispatcher()
    workers = [scene.ready_worker(name, "--limit", "1") for name in "ab"]
    held = [scene.hold() for _ in workers]
    for run_id in held:
        scene.child(run_id)
    left = scene.hold()
    scene.wait_dispatched(left)

    polled(scene)

    for worker in workers:
        worker.wait_said("polled")
    scene.wait_run(left, lambda run: run.place == "scheduled", "goes back to its place")
    scene.let_go()
    assert [scene.wait_end(run_id).state_type for run_id in held] == ["COMPLETED"] * 2
    scene.wait_renewed()
    assert scene.run(left).place == "scheduled"
    (row,) = scene.inspector.scheduled_page(POOL).runs
    assert row.run.id == left

    changed = scene.command("dispatcher", "pool", "set", POOL, "--handout", "stream")
    assert changed.returncode == 0
    assert scene.wait_end(left).state_type == "COMPLETED"
    assert [len(worker.said("polled")) for worker in workers] == [1, 1]


def test_a_run_that_nobody_finishes_is_recovered_and_one_that_ends_leaves_nothing(scene):
    scene.create_pool(handout="poll")
    dispatcher = scene.ready_dispatcher()
    run_id = scene.submit("true")

    first = scene.store.take(POOL, run_id, worker="w", incarnation="1")
    assert first.word is Word.TAKEN
    dispatcher.wait_said("worker-recovered", worker=first.holder)
    second = scene.store.take(POOL, run_id, worker="w", incarnation="2")
    assert second.claim is not None
    assert (second.claim.delivery, scene.run(run_id).losses) == (2, 1)

    finish = Finish(run_id, second.claim.token, COMPLETED)
    assert scene.store.report(POOL, finish) is Word.FINISHED
    wait_until(
        lambda: not scene.inspector.holders(POOL), "its holder is forgotten", timeout_s=PATIENCE_S
    )
