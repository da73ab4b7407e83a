"""Handler workers whose runs are to stop: cancelled, too late, drained, or somebody else's."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, outcomes
from tests.scenarios.handler_scene import HandlerScene
from tests.servers import RealServer

BOTH = pytest.mark.parametrize("handler", ["hold", "hold aio"])
PROMPT_MS = 3_000  # for a busy machine; far less than a renewal or the default grace


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[HandlerScene]:
    with HandlerScene(real_server, prefix, tmp_path) as scene:
        scene.create_handler_pool()
        yield scene


def begun(scene: HandlerScene, handler: str, **fields: object) -> tuple[Process, str]:
    """Start a worker and a run, and wait until its handler has begun."""
    scene.ready_dispatcher()
    worker = scene.hand("a")
    run_id = scene.put(handler, fields=fields)
    scene.wait_told(run_id)
    return worker, run_id


def since_ms(scene: HandlerScene, event: str, run_id: str, until_ms: int) -> int:
    """How long ago an event of a run was, at a moment."""
    (found,) = scene.events(event, run=run_id)
    return until_ms - int(found["at_ms"])


# --- Cancel


def test_a_coroutine_that_minds_a_cancel_ends_at_once_as_cancelled(scene):
    worker, run_id = begun(scene, "hold aio")

    scene.cancel(run_id)

    run = scene.wait_end(run_id)
    assert (run.state_type, run.message) == ("CANCELLED", "no longer needed")
    assert since_ms(scene, "cancelling", run_id, run.ended_ms) < PROMPT_MS
    assert scene.result(run) == "stopped: it was cancelled"
    assert scene.inspector.pool(POOL).claimed == 0
    assert worker.wait_said("finished", run=run_id, state="Cancelled")


def test_a_coroutine_that_does_not_mind_is_cancelled_when_the_grace_is_over(scene):
    scene.set_queue(cancel_grace_ms=700)
    _, run_id = begun(scene, "stubborn aio")

    scene.cancel(run_id)

    run = scene.wait_end(run_id)
    assert run.state_type == "CANCELLED"
    assert 700 <= since_ms(scene, "cancelling", run_id, run.ended_ms) < 700 + PROMPT_MS
    assert scene.has_told(run_id, "cleaned")


def test_a_function_that_does_not_mind_keeps_its_slot_until_it_returns(scene):
    scene.set_queue(cancel_grace_ms=100)
    worker, run_id = begun(scene, "stubborn")

    scene.cancel(run_id)

    scene.let_pass(1)
    assert scene.run(run_id).state_type == "CANCELLING"
    assert scene.held() == {"a": 1}
    scene.let_go()
    run = scene.wait_end(run_id)
    assert (run.state_type, scene.result(run)) == ("CANCELLED", "went")
    assert scene.held() == {"a": 0}
    assert len(worker.said("cancelling", run=run_id)) == 1


# --- Time limits


def test_a_coroutine_that_minds_that_its_time_is_up_ends_at_once(scene):
    _, run_id = begun(scene, "hold aio", job_variables={"timeout_s": 1})

    run = scene.wait_end(run_id)

    assert (run.state_type, run.state_name) == ("FAILED", "TimedOut")
    assert run.message == "timed out after 1 s"
    assert scene.result(run) == "stopped: it took too long"
    assert 1_000 <= run.ended_ms - run.started_ms < 1_000 + PROMPT_MS


def test_a_coroutine_that_takes_too_long_is_cancelled_after_five_seconds(scene):
    scene.set_queue(timeout_ms=300)
    _, run_id = begun(scene, "stubborn aio")

    run = scene.wait_end(run_id)

    assert (run.state_type, run.state_name) == ("FAILED", "TimedOut")
    assert 5_300 <= run.ended_ms - run.started_ms < 5_300 + PROMPT_MS
    assert scene.has_told(run_id, "cleaned")


def test_a_function_that_takes_too_long_has_failed_when_it_returns(scene):
    scene.set_queue(timeout_ms=300)
    _, run_id = begun(scene, "stubborn")

    scene.let_pass(1)
    assert scene.run(run_id).state_type == "RUNNING"
    scene.let_go()

    run = scene.wait_end(run_id)
    assert (run.state_type, run.state_name, run.message) == (
        *("FAILED", "TimedOut"),
        "timed out after 0.3 s",
    )
    assert run.ended_ms - run.started_ms >= 1_000


# --- Drain


def test_a_draining_worker_lets_its_coroutines_end(scene):
    worker, run_id = begun(scene, "stubborn aio")

    scene.drain(worker)
    scene.let_go()

    assert worker.exit_code() == 0
    run = scene.run(run_id)
    assert outcomes(run) == [("a", "COMPLETED")]
    assert scene.result(run) == "went"


@BOTH
def test_a_worker_that_must_end_gives_back_what_its_handlers_leave(scene, handler):
    worker, run_id = begun(scene, handler)

    scene.drain(worker)
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    scene.hand("b")
    scene.wait_told(run_id, delivery=2)
    scene.let_go()
    run = scene.wait_end(run_id)
    assert (outcomes(run), run.losses) == ([("a", "released"), ("b", "COMPLETED")], 0)
    assert scene.result(run) == "went"


def test_a_worker_that_must_end_cancels_coroutines_and_gives_back_their_runs(scene):
    worker, run_id = begun(scene, "stubborn aio")

    scene.drain(worker)
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    run = scene.run(run_id)
    assert (outcomes(run), run.losses) == ([("a", "released")], 0)
    assert scene.has_told(run_id, "cleaned")


def test_a_function_that_never_returns_ends_with_the_worker_and_its_run_is_a_loss(scene):
    scene.store.set_pool(POOL, {"lease_ms": 3_000, "renew_ms": 1_000})
    worker, run_id = begun(scene, "stubborn")

    scene.drain(worker)
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 1
    assert worker.plain[-1] == (
        "error: 1 of its runs did not stop when asked to; what is left ends with this process, "
        "and is run elsewhere when the lease has ended"
    )
    scene.hand("b")
    scene.wait_told(run_id, delivery=2)
    scene.let_go()
    run = scene.wait_end(run_id)
    assert (outcomes(run), run.losses) == ([("a", "lost"), ("b", "COMPLETED")], 1)


# --- Claims that are lost


def test_a_coroutine_hears_that_its_claim_was_lost_and_its_result_is_dropped(scene):
    worker, run_id = begun(scene, "hold aio")
    scene.store.pause(POOL, "default")

    scene.release(run_id)

    scene.wait_told(run_id, "stopped")
    assert worker.wait_said("claim-lost", run=run_id)
    run = scene.run(run_id)
    assert (outcomes(run), run.state_type) == ([("a", "released")], "SCHEDULED")
    assert scene.inspector.output(run) == b""


def test_a_function_whose_claim_was_lost_keeps_its_slot_of_the_worker_alone(scene):
    scene.ready_dispatcher()
    worker = scene.hand("a", "--limit", "2")
    run_id = scene.put("stubborn")
    scene.wait_told(run_id)

    scene.release(run_id)

    scene.wait_told(run_id, delivery=2)
    assert scene.held() == {"a": 1}
    third = scene.put()
    scene.let_pass(0.5)
    assert scene.run(third).place == "stream"
    scene.let_go()
    assert worker.wait_said("claim-lost", run=run_id)
    assert outcomes(scene.wait_end(run_id)) == [("a", "released"), ("a", "COMPLETED")]
    assert scene.wait_end(third).state_type == "COMPLETED"


def test_a_worker_whose_lost_runs_go_on_agrees_with_redis_about_the_others(scene):
    scene.store.set_pool(POOL, {"renew_ms": 100})
    worker, run_id = begun(scene, "stubborn")
    scene.store.pause(POOL, "default")
    scene.release(run_id)
    scene.let_pass(0.5)  # it has compared, and heard of the loss

    (holder,) = scene.inspector.holders(POOL)
    scene.wait_renewed(times=3)

    with scene.server.client() as client:
        assert client.hget(scene.store.keys(POOL)["holder"] + holder.id, "differs") is None
    scene.let_go()
    assert worker.wait_said("claim-lost", run=run_id)


def test_a_worker_that_lost_its_lease_claims_anew_when_its_functions_have_returned(scene):
    scene.store.set_pool(POOL, {"lease_ms": 1_000, "renew_ms": 333})
    worker, run_id = begun(scene, "stubborn")
    worker.freeze()
    wait_until(lambda: not scene.inspector.holders(POOL), "it is lost", timeout_s=PATIENCE_S)
    worker.thaw()

    worker.wait_said("lease-lost")
    scene.let_pass(0.5)
    assert len(worker.said("registered")) == 1
    scene.let_go()

    worker.wait_said("registered", times=2)
    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "lost"), ("a", "COMPLETED")]


def test_a_worker_that_waits_for_functions_of_a_lost_lease_can_be_ended(scene):
    scene.store.set_pool(POOL, {"lease_ms": 1_000, "renew_ms": 333})
    worker, _ = begun(scene, "stubborn")
    worker.freeze()
    wait_until(lambda: not scene.inspector.holders(POOL), "it is lost", timeout_s=PATIENCE_S)
    worker.thaw()
    worker.wait_said("lease-lost")

    worker.signal(signal.SIGTERM)
    worker.wait_said("draining")
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 1
    assert "did not stop when asked to" in worker.plain[-1]
