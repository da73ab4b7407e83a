"""A frozen worker: its runs go to another, and what it still says about them is refused."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.probes import process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene, outcomes, wait_gone
from tests.servers import AOF, RealServer


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool()
        yield scene


def test_a_frozen_workers_child_is_ended_when_its_lease_ends(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    child = scene.child(scene.hold())

    worker.freeze()

    wait_gone(child, "the child")
    assert process_state(worker.pid) == "T"


def test_another_worker_takes_a_frozen_workers_run_and_only_its_end_counts(scene):
    scene.ready_dispatcher()
    a = scene.ready_worker("a")
    run_id = scene.hold()
    first = scene.child(run_id)
    b = scene.ready_worker("b")

    a.freeze()
    second = scene.child(run_id, delivery=2)
    assert not process_state(first)
    a.thaw()
    a.wait_said("claim-lost", run=run_id)
    assert a.wait_said("registered", times=2)[0]["holder"] == scene.run(run_id).deliveries[0].holder
    assert process_state(second)
    scene.let_go()

    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "lost"), ("b", "COMPLETED")]
    assert (run.state_type, run.delivery, run.losses) == ("COMPLETED", 2, 1)
    assert b.wait_said("finished", run=run_id, delivery=2, state="Completed")
    assert not a.said("finished")


def test_a_worker_that_wakes_stops_what_it_lost_by_itself(scene):
    scene.ready_dispatcher()
    a = scene.ready_worker("a")
    run_id = scene.hold()
    first = scene.child(run_id)
    scene.ready_worker("b")

    scene.freeze_guardian(a)
    a.freeze()
    second = scene.child(run_id, delivery=2)
    assert process_state(first)
    a.thaw()

    wait_gone(first, "the child of the lost claim")
    assert process_state(second)
    scene.let_go()
    assert outcomes(scene.wait_end(run_id)) == [("a", "lost"), ("b", "COMPLETED")]
    assert a.wait_said("claim-lost", run=run_id)
    assert not a.said("finished")


def test_a_finish_that_was_kept_back_by_a_freeze_is_refused(scene):
    scene.ready_dispatcher()
    a = scene.ready_worker("a")
    run_id = scene.hold()
    first = scene.child(run_id)
    token = scene.run(run_id).token
    scene.ready_worker("b")

    scene.freeze_guardian(a)
    a.freeze()
    scene.let_go(token)
    wait_until(lambda: process_state(first) == "", "the first child has worked to its end")
    scene.child(run_id, delivery=2)
    before = scene.run(run_id)
    a.thaw()

    a.wait_said("claim-lost", run=run_id)
    assert scene.run(run_id) == before
    scene.let_go()
    assert outcomes(scene.wait_end(run_id)) == [("a", "lost"), ("b", "COMPLETED")]
    assert not a.said("finished")


def test_a_worker_that_was_recovered_in_its_sleep_goes_on_as_a_new_incarnation(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    before = scene.inspector.holders(POOL)

    worker.freeze()
    wait_until(lambda: not scene.inspector.holders(POOL), "it is recovered", timeout_s=PATIENCE_S)
    run_id = scene.submit("true")
    scene.wait_dispatched(run_id)
    worker.thaw()

    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "COMPLETED")]
    assert run.deliveries[0].holder not in [holder.id for holder in before]
    assert worker.said("lease-lost")
    assert len(worker.said("registered")) == 2


def test_a_run_whose_child_ended_in_a_freeze_that_nobody_noticed_runs_again(scene):
    dispatcher = scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    first = scene.child(run_id)
    dispatcher.signal(signal.SIGTERM)
    assert dispatcher.exit_code() == 0

    worker.freeze()
    wait_gone(first, "the child")
    worker.thaw()

    scene.wait_run(run_id, lambda run: run.place == "scheduled", "was given back")
    scene.let_go()
    scene.dispatcher()
    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "released"), ("a", "COMPLETED")]
    assert run.losses == 0


def test_a_claim_made_before_writes_were_lost_is_refused_its_finish(
    own_server: Callable[..., RealServer], prefix: str, tmp_path: Path
):
    server = own_server(config=AOF)
    with Scene(server, prefix, tmp_path) as scene:
        scene.create_pool(lease_ms=60_000, renew_ms=20_000)
        run_id = scene.hold()
        scene.store.dispatch(POOL, ["default"])
        before = server.snapshot()
        a = scene.ready_worker("a")
        first, lost_token = scene.child(run_id), scene.run(run_id).token
        a.freeze()

        server.restore(before)
        b = scene.ready_worker("b")
        held = scene.wait_run(run_id, lambda run: run.state_type == "RUNNING", "is run by B")
        # The same entry and the same delivery, and yet another claim.
        assert (held.token.split(".")[0], held.delivery) == (lost_token.split(".")[0], 1)
        scene.let_go(lost_token)
        wait_gone(first, "A's child, its work done")
        a.thaw()

        a.wait_said("claim-lost", run=run_id, reason="it was recovered; its end was refused")
        assert scene.run(run_id) == held
        scene.let_go()
        assert outcomes(scene.wait_end(run_id)) == [("b", "COMPLETED")]
        assert b.wait_said("finished", run=run_id)
