"""Runs that fail are tried again: scheduled anew for any worker, or in process by their own."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.records import Word
from dispatcher.stored import RunRecord
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene, outcomes, wait_gone
from tests.servers import AOF, RealServer

PROMPT_MS = 3_000  # for a busy machine; far less than a renewal
# Fails until it was started so often as its second argument says.
FAIL = 'echo x >> "$0"; n=$(wc -l < "$0"); echo "start $n"; [ $n -ge "$1" ] || exit 7'
LONG = {"retries": 1, "retry_delay": 3_600}


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(lease_ms=60_000, renew_ms=20_000)
        yield scene


def failing(scene: Scene, *, until: int, **policy: Any) -> str:
    """Submit a run that fails until its n-th start."""
    starts = scene.directory / f"starts.{until}.{policy.get('retry_type')}"
    command = ["/bin/sh", "-c", FAIL, str(starts), str(until)]
    return scene.submit(command, empirical_policy={"retry_delay": 0} | policy)


def starts(scene: Scene, run: RunRecord) -> list[tuple[str, str]]:
    """What happened to a run, without its claims and dispatches."""
    names = ("started", "retrying", "finished", "released")
    return [(e["event"], e["to"]) for e in scene.events(*names, run=run.id)]


def test_a_run_that_is_rescheduled_is_claimed_anew_for_each_try(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")

    run = scene.wait_end(failing(scene, until=3, retries=2, retry_type="reschedule"))

    assert outcomes(run) == [("a", "FAILED"), ("a", "FAILED"), ("a", "COMPLETED")]
    assert (run.state_type, run.run_count, run.losses) == ("COMPLETED", 3, 0)
    assert starts(scene, run) == [
        *[("started", "RUNNING"), ("retrying", "SCHEDULED")] * 2,
        *[("started", "RUNNING"), ("finished", "COMPLETED")],
    ]
    assert scene.inspector.output(run) == b"start 3\n"
    (first, second) = worker.wait_said("rescheduled", run=run.id, times=2)
    assert (first["state"], first["why"], second["delivery"]) == ("Failed", "exit code 7", 2)
    assert worker.wait_said("finished", run=run.id, state="Completed")


def test_a_run_that_is_retried_in_process_stays_with_its_claim(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")

    run = scene.wait_end(failing(scene, until=3, retries=2, retry_type="in_process"))

    assert outcomes(run) == [("a", "COMPLETED")]
    assert (run.state_type, run.run_count, run.delivery) == ("COMPLETED", 3, 1)
    assert starts(scene, run) == [
        *[("started", "RUNNING"), ("retrying", "SCHEDULED")] * 2,
        *[("started", "RUNNING"), ("finished", "COMPLETED")],
    ]
    assert len(worker.wait_said("retrying", run=run.id, times=2)) == 2
    assert [s["run_count"] for s in worker.said("started", run=run.id)] == [1, 2, 3]
    assert len(worker.said("claimed", run=run.id)) == 1


@pytest.mark.parametrize(
    ("retry_type", "deliveries"), [("reschedule", 3), ("in_process", 1), (None, 3)]
)
def test_a_run_that_fails_whenever_it_is_tried_has_failed_after_its_last_retry(
    scene, retry_type, deliveries
):
    scene.ready_dispatcher()
    scene.ready_worker("a")

    run = scene.wait_end(failing(scene, until=99, retries=2, retry_type=retry_type))

    assert (run.state_type, run.state_name, run.message) == ("FAILED", "Failed", "exit code 7")
    assert (run.run_count, run.delivery) == (3, deliveries)
    assert scene.inspector.output(run) == b"start 3\n"


def test_the_delay_lies_between_a_failure_and_the_next_start(scene):
    scene.ready_dispatcher()
    scene.ready_worker("a")
    policies = [
        {"max_retries": 1, "retry_delay_seconds": 0.7, "retry_delay": None, "retry_type": kind}
        for kind in ("reschedule", "in_process")
    ]

    for policy in policies:
        run = scene.wait_end(failing(scene, until=2, **policy))
        (retry,) = scene.events("retrying", run=run.id)
        after_ms = run.started_ms - int(retry["at_ms"])
        assert 700 <= after_ms < 700 + PROMPT_MS
        assert run.state_type == "COMPLETED"


def test_a_crash_is_not_retried(scene):
    scene.ready_dispatcher()
    scene.ready_worker("a")
    policy = {"retries": 5, "retry_type": "in_process"}

    run = scene.wait_end(scene.submit("sh -c 'kill -9 $$'", empirical_policy=policy))

    assert (run.state_type, run.run_count) == ("CRASHED", 1)


def test_a_rescheduled_run_may_go_to_another_worker(scene):
    scene.ready_dispatcher()
    a = scene.ready_worker("a")
    run_id = failing(scene, until=2, retries=1, retry_delay=1, retry_type="reschedule")
    a.wait_said("rescheduled", run=run_id)

    a.signal(signal.SIGTERM)
    assert a.exit_code() == 0
    scene.ready_worker("b")

    assert outcomes(scene.wait_end(run_id)) == [("a", "FAILED"), ("b", "COMPLETED")]


# --- The pause of a retry in process


def paused(scene: Scene, worker: Process, **policy: Any) -> str:
    """A run that has failed under this worker and waits for its next start."""
    run_id = failing(scene, until=2, **{"retry_type": "in_process"} | LONG | policy)
    worker.wait_said("retrying", run=run_id)
    return run_id


def test_in_its_pause_a_run_keeps_its_slot_of_the_worker_and_of_the_pool(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--limit", "1")
    run_id = paused(scene, worker, retry_delay=1)
    other = scene.submit("true")

    first, second = scene.wait_end(run_id), scene.wait_end(other)

    assert (first.state_type, first.run_count) == ("COMPLETED", 2)
    assert second.claimed_ms >= first.ended_ms
    assert second.claimed_ms - first.ended_ms < PROMPT_MS


def test_in_its_pause_a_run_is_shown_as_awaiting_its_retry_and_held(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")

    run = scene.run(paused(scene, worker))

    assert (run.place, run.state_type, run.state_name) == (
        *("claimed", "SCHEDULED"),
        "AwaitingRetry",
    )
    assert scene.inspector.pool(POOL).claimed == 1
    assert (run.due_ms - scene.now_ms()) / 1000 == pytest.approx(3_600, abs=30)


def test_a_cancel_ends_the_pause_at_once_and_keeps_the_output(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = paused(scene, worker)

    assert scene.store.cancel(POOL, run_id, reason="enough").word is Word.CANCELLING

    run = scene.wait_end(run_id)
    (ordered,) = scene.events("cancelling", run=run_id)
    assert (run.state_type, run.message, run.run_count) == ("CANCELLED", "enough", 1)
    assert outcomes(run) == [("a", "CANCELLED")]
    assert run.ended_ms - int(ordered["at_ms"]) < PROMPT_MS
    assert scene.inspector.output(run) == b"start 1\n"
    assert scene.inspector.pool(POOL).claimed == 0


def test_a_draining_worker_still_tries_again(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = paused(scene, worker, retry_delay=2)

    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    run = scene.run(run_id)
    assert outcomes(run) == [("a", "COMPLETED")]
    assert run.run_count == 2


def test_a_draining_worker_that_must_end_gives_a_paused_run_back_at_once(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = paused(scene, worker)

    worker.signal(signal.SIGTERM)
    worker.wait_said("draining")
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    run = scene.run(run_id)
    assert outcomes(run) == [("a", "released")]
    assert (run.place, run.losses) == ("scheduled", 0)
    assert len(worker.said("started", run=run_id)) == 1


def lose_its_lease(scene: Scene, worker: Process) -> None:
    worker.freeze()
    wait_until(lambda: not scene.inspector.holders(POOL), "it is recovered", timeout_s=PATIENCE_S)
    worker.thaw()


def be_taken_away(scene: Scene, worker: Process) -> None:
    (run_id,) = scene.inspector.claims(POOL, scene.inspector.holders(POOL)[0].id)
    scene.release(run_id)


@pytest.mark.parametrize(
    ("lose", "outcome"), [(lose_its_lease, "lost"), (be_taken_away, "released")]
)
def test_a_claim_that_is_lost_in_the_pause_is_dropped_there(scene, lose: Callable, outcome):
    scene.store.set_pool(POOL, {"lease_ms": 2_000, "renew_ms": 667})
    dispatcher = scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = paused(scene, worker)

    lose(scene, worker)

    assert worker.wait_said("claim-lost", run=run_id)
    run = scene.run(run_id)
    assert outcomes(run) == [("a", outcome)]
    assert (run.state_type, run.state_name) == ("SCHEDULED", "AwaitingRetry")
    assert len(worker.said("started", run=run_id)) == 1
    assert not dispatcher.said("dispatched", run=run_id)[1:]


def test_a_server_that_is_away_during_the_pause_only_delays_the_next_start(
    own_server: Callable[..., RealServer], prefix: str, tmp_path: Path
):
    server = own_server(config=AOF)
    with Scene(server, prefix, tmp_path) as scene:
        scene.create_pool(lease_ms=60_000, renew_ms=20_000)
        scene.ready_dispatcher()
        worker = scene.ready_worker("a")
        run_id = paused(scene, worker, retry_delay=1)

        server.kill()
        scene.let_pass(1.5)
        server.start()

        run = scene.wait_end(run_id)
        assert (outcomes(run), run.run_count) == ([("a", "COMPLETED")], 2)


def test_a_worker_that_is_killed_in_the_pause_loses_its_run_to_another(scene):
    scene.store.set_pool(POOL, {"lease_ms": 2_000, "renew_ms": 667})
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = paused(scene, worker, retry_delay=3)

    worker.kill()
    scene.ready_worker("b")

    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "lost"), ("b", "COMPLETED")]
    assert run.run_count == 2


def test_a_cancel_in_the_second_try_stops_its_child(scene):
    scene.ready_dispatcher()
    scene.ready_worker("a")
    script = '[ -e "$0" ] || { touch "$0"; exit 1; }; echo $$ > "$0.new"; mv "$0.new" "$0.pid"; '
    command = ["/bin/sh", "-c", script + "exec sleep 1000", str(scene.directory / "once")]
    policy = {"retries": 1, "retry_delay": 0, "retry_type": "in_process"}
    run_id = scene.submit(command, empirical_policy=policy)
    told = scene.directory / "once.pid"
    wait_until(told.exists, "the second try has a child", timeout_s=PATIENCE_S)
    child = int(told.read_text())
    assert process_state(child)

    scene.store.cancel(POOL, run_id)

    wait_gone(child, "the child")
    run = scene.wait_end(run_id)
    assert (run.state_type, run.run_count) == ("CANCELLED", 2)
