"""A backup is made under load, the server is lost, and a new one goes on from the backup.

The commands are those of docs/operations.md, run as they stand there; what the page says that is
lost, runs again, and is refused is what this test sees.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from dispatcher.errors import NotFound
from dispatcher.records import Claim, Finish, Registration, Start, Word
from dispatcher.stored import Place
from tests.builders import COMPLETED
from tests.conftest import embedded
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene, outcomes, wait_gone
from tests.scenarios.load import Submitting
from tests.scenarios.pages import block, do, redis_cli
from tests.servers import AOF, RealServer

PAGE = "operations.md"


def restore_aof(server: RealServer, cwd: Path, data: Path, tools: Path) -> None:
    do(block(PAGE, "restore-aof"), cwd=cwd, data=str(data))
    server.start()


def restore_rdb(server: RealServer, cwd: Path, data: Path, tools: Path) -> None:
    do(block(PAGE, "restore-rdb"), cwd=cwd, data=str(data))
    server._config["appendonly"] = "no"
    server.start()
    do(block(PAGE, "restore-rdb-started"), cwd=cwd, path=tools)
    server._config["appendonly"] = "yes"
    server.restart()  # as it will be one day: its AOF has all of it


def by_hand(scene: Scene) -> Claim:
    """Claim a run of the queue `hands` as a worker of that name."""
    wait_until(lambda: scene.inspector.queue(POOL, "hands").unclaimed, "there is something")
    (claim,) = scene.store.claim(POOL, "hands.1", number=1, slots=1).claims
    assert scene.store.report(POOL, Start(claim.run_id, claim.token, 1)) is Word.STARTED
    return claim


def begin(scene: Scene) -> Process:
    """Start a fleet; a worker by hand alone serves one of the queues. Return the dispatcher."""
    scene.create_pool(lease_ms=60_000, renew_ms=500)
    for name in ("hands", "later"):
        scene.create_queue(name)
    scene.store.register(POOL, Registration("hands", "1", slots=5, queues=("hands",)))
    dispatcher = scene.ready_dispatcher()
    for name in ("a", "b"):
        scene.ready_worker(name, "--queue", "default", "--queue", "later", "--limit", "4")
    return dispatcher


def more(load: Submitting) -> list[str]:
    """Wait for 20 more runs that are accepted, and return them."""
    first = len(load.runs) + 1  # one may be on its way
    wait_until(lambda: len(load.runs) >= first + 20, "there is load", timeout_s=PATIENCE_S)
    return load.runs[first : first + 20]


@pytest.mark.parametrize(("kind", "restore"), [("aof", restore_aof), ("rdb", restore_rdb)])
def test_a_fleet_goes_on_from_a_backup_and_what_it_does_not_know_is_refused(
    own_server: Callable[..., RealServer],
    prefix: str,
    tmp_path: Path,
    kind: str,
    restore: Callable[..., None],
) -> None:
    old = own_server(config=AOF, tcp=True)
    new = RealServer(embedded(), tmp_path / "new", config=AOF, tcp=old.port)
    tools = redis_cli(tmp_path / "tools", old.url)
    with Scene(old, prefix, tmp_path) as scene, closing(new):
        dispatcher = begin(scene)
        goes_on, ends_later = scene.hold(), scene.hold()
        for run_id in (goes_on, ends_later):
            scene.child(run_id)
        claimed_later = scene.submit("true", queue="hands")
        scene.store.pause(POOL, "later")
        runs_later = scene.hold(queue="later")
        load = Submitting(old.url, prefix, POOL)
        kept = more(load)
        scene.wait_end(kept[0])

        do(block(PAGE, f"backup-{kind}"), cwd=tmp_path, path=tools)
        lost = more(load)
        old_claim = by_hand(scene)
        scene.store.resume(POOL, "later")
        stopped = scene.child(runs_later)
        scene.let_go(scene.run(ends_later).token)
        scene.wait_end(ends_later)
        old.kill()
        restore(new, tmp_path, tmp_path / "new" / "data", tools)
        later = more(load)
        load.stop()

        # What the backup does not know is lost, and can be submitted again.
        for run_id in lost:
            with pytest.raises(NotFound):
                scene.run(run_id)
        again = {"id": lost[0], "flow_id": str(uuid4()), "name": "run"}
        scene.producer.submit(again | {"job_variables": {"command": "true"}}, pool=POOL)
        assert scene.wait_end(lost[0]).state_type == "COMPLETED"
        # The token of a claim that was made since is refused, before another one has it and after.
        finish = Finish(claimed_later, old_claim.token, COMPLETED)
        assert scene.store.report(POOL, finish) is Word.LOST
        scene.ready_worker("c", "--queue", "hands")
        assert outcomes(scene.wait_end(claimed_later)) == [("c", "COMPLETED")]
        assert scene.store.report(POOL, finish) is Word.LOST
        # What a worker has claimed since is stopped there, and waits: the pause is back, too.
        wait_gone(stopped, "the child")
        assert scene.run(runs_later).place is not Place.CLAIMED
        scene.store.resume(POOL, "later")
        # What had ended since runs again; what ran before goes on, and ends once.
        scene.wait_run(ends_later, lambda run: run.delivery == 2, "is claimed again")
        scene.let_go()
        assert [outcome for _, outcome in outcomes(scene.wait_end(ends_later))] == [
            *("released", "COMPLETED")
        ]
        run = scene.wait_end(goes_on)
        assert (run.state_type, run.delivery, run.run_count) == ("COMPLETED", 1, 1)
        all_else = [*kept, *later, runs_later]
        assert {scene.wait_end(run_id).state_type for run_id in all_else} == {"COMPLETED"}
        assert scene.run(kept[0]).delivery == 1
        assert not dispatcher.said("worker-recovered")
        doctor = scene.command("dispatcher", "doctor")
        assert (doctor.returncode, doctor.stderr) == (0, ""), doctor.stdout
