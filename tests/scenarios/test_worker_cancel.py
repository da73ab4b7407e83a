"""Cancelled runs: their work stops, at once or after the grace, wherever their worker is then."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Connection
from dispatcher.connection import Call
from dispatcher.errors import RedisUnavailable
from dispatcher.records import ClaimAnswer, Word
from dispatcher.stored import RunRecord
from tests.probes import process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene, outcomes, wait_gone
from tests.scenarios.inside import StartWorker, Workers, put
from tests.scenarios.proxy import Proxy
from tests.servers import RealServer

DEFAULT_MS = {"lease_ms": 60_000, "renew_ms": 20_000}
PROMPT_MS = 3_000  # for a busy machine; far less than a renewal of DEFAULT_MS


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(**DEFAULT_MS)
        yield scene


@pytest.fixture
def start_worker(scene: Scene) -> Iterator[StartWorker]:
    """A function that starts a worker whose connections are of a kind."""
    with Workers(scene) as workers:
        yield workers.start


def cancel(scene: Scene, run_id: str) -> None:
    """Cancel a run that a worker has."""
    told = scene.store.cancel(POOL, run_id, reason="no longer needed", by="me")
    assert told.word is Word.CANCELLING


def wait_cancelled(scene: Scene, run_id: str) -> RunRecord:
    """Wait for the end of a run that was cancelled, and look whether it left anything."""
    run = scene.wait_end(run_id)
    assert (run.state_type, run.state_name, run.message) == (
        *("CANCELLED", "Cancelled"),
        "no longer needed",
    )
    assert scene.inspector.pool(POOL).claimed == 0
    with scene.server.client() as client:
        assert not list(client.scan_iter(f"{scene.store.keys(POOL)['orders']}*"))
    return run


def cancelled_after_ms(scene: Scene, run: RunRecord) -> int:
    """How long it took from the order to the end."""
    (ordered,) = scene.events("cancelling", run=run.id)
    assert run.ended_ms is not None
    return run.ended_ms - int(ordered["at_ms"])


def be_full(scene: Scene, worker: Process) -> None:
    """Do nothing: it has one slot, and one run."""


@pytest.mark.parametrize(
    ("limit", "become"),
    [("1", be_full), ("10", Scene.drain), ("1", Scene.drain)],
    ids=["full", "draining", "full-and-draining"],
)
def test_a_running_run_is_stopped_at_once_whatever_its_worker_waits_for(scene, limit, become):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--limit", limit)
    run_id = scene.hold()
    child = scene.child(run_id)
    become(scene, worker)

    cancel(scene, run_id)

    wait_gone(child, "the child")
    run = wait_cancelled(scene, run_id)
    assert outcomes(run) == [("a", "CANCELLED")]
    assert cancelled_after_ms(scene, run) < PROMPT_MS
    assert worker.wait_said("cancelling", run=run_id, grace_s=30.0)
    assert worker.wait_said("finished", run=run_id, state="Cancelled")


def test_the_slot_of_a_cancelled_run_is_free_for_the_next_one(scene):
    scene.ready_dispatcher()
    scene.ready_worker("a", "--limit", "1")
    run_id = scene.hold()
    scene.child(run_id)
    waiting = scene.wait_dispatched(scene.submit("true"))

    cancel(scene, run_id)

    scene.wait_end(run_id)
    assert scene.wait_end(waiting.id).state_type == "COMPLETED"


def test_a_child_that_does_not_mind_sigterm_is_killed_after_the_grace_of_its_queue(scene):
    scene.set_queue(cancel_grace_ms=700)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    child = scene.child(run_id)

    cancel(scene, run_id)

    wait_gone(child, "the child")
    run = wait_cancelled(scene, run_id)
    assert 700 <= cancelled_after_ms(scene, run) < 700 + PROMPT_MS
    assert worker.wait_said("cancelling", run=run_id, grace_s=0.7)


def test_a_child_may_use_its_grace_to_end_in_order_and_its_output_is_kept(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    script = (
        "trap 'sleep 0.3; echo tidied up; exit 0' TERM; echo at work; "
        "until [ -e /nowhere ]; do sleep 0.05; done"
    )
    run_id = scene.submit(["/bin/sh", "-c", script])
    worker.wait_said("output", run=run_id, line="at work")

    cancel(scene, run_id)

    run = wait_cancelled(scene, run_id)
    assert scene.inspector.output(run).endswith(b"tidied up\n")
    assert run.outcome == "CANCELLED"


def test_a_worker_that_must_end_gives_a_cancelled_child_no_more_than_its_own_grace(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    child = scene.child(run_id)
    cancel(scene, run_id)
    worker.wait_said("cancelling", run=run_id, grace_s=30.0)

    began_s = scene.clock.monotonic_s()
    worker.signal(signal.SIGTERM)
    worker.wait_said("draining")
    worker.signal(signal.SIGTERM)

    assert worker.exit_code() == 0
    assert scene.clock.monotonic_s() - began_s < 15
    assert not process_state(child)
    wait_cancelled(scene, run_id)


def test_a_worker_that_was_frozen_when_its_run_was_cancelled_stops_it_when_it_wakes(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    child = scene.child(run_id)
    worker.freeze()

    cancel(scene, run_id)
    scene.let_pass(0.5)
    assert (scene.run(run_id).state_type, process_state(child) != "") == ("CANCELLING", True)
    worker.thaw()

    wait_gone(child, "the child")
    assert outcomes(wait_cancelled(scene, run_id)) == [("a", "CANCELLED")]


def test_a_worker_that_is_cut_off_stops_a_cancelled_run_as_soon_as_it_is_back(scene):
    with Proxy(scene.server.url) as proxy:
        scene.ready_dispatcher()
        worker = scene.ready_worker("a", DISPATCHER_REDIS_URL=proxy.url)
        run_id = scene.hold()
        child = scene.child(run_id)
        proxy.cut()
        worker.wait_said("redis-away")

        cancel(scene, run_id)
        scene.let_pass(0.5)
        assert (scene.run(run_id).state_type, process_state(child) != "") == ("CANCELLING", True)
        proxy.mend()
        back_ms = scene.now_ms()

        wait_gone(child, "the child")
        run = wait_cancelled(scene, run_id)
        assert outcomes(run) == [("a", "CANCELLED")]
        assert run.ended_ms - back_ms < PROMPT_MS


@pytest.mark.parametrize("times", range(3))
def test_connections_that_are_killed_while_an_order_comes_only_delay_it(scene, times):
    scene.store.set_pool(POOL, {"lease_ms": 6_000, "renew_ms": 2_000})
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold()
    child = scene.child(run_id)

    cancel(scene, run_id)
    with scene.server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    wait_gone(child, "the child")
    assert outcomes(wait_cancelled(scene, run_id)) == [("a", "CANCELLED")]
    assert not worker.said("lease-lost")


def test_a_cancelled_run_whose_worker_is_killed_ends_cancelled_and_runs_nowhere_else(scene):
    scene.store.set_pool(POOL, {"lease_ms": 2_000, "renew_ms": 667})
    scene.ready_dispatcher()
    worker = scene.ready_worker("a")
    run_id = scene.hold(stubborn=True)
    child = scene.child(run_id)
    scene.ready_worker("b")
    cancel(scene, run_id)
    worker.wait_said("cancelling", run=run_id)

    worker.kill()

    assert outcomes(wait_cancelled(scene, run_id)) == [("a", "lost")]
    wait_gone(child, "the child, which its guardian gives five seconds")


# --- Who comes first


def test_a_run_that_has_ended_is_not_cancelled_any_more(scene):
    scene.ready_dispatcher()
    scene.ready_worker("a")
    before = scene.wait_end(scene.submit("true"))

    told = scene.store.cancel(POOL, before.id)

    assert (told.word, told.detail) == (Word.ENDED, "COMPLETED")
    assert scene.run(before.id) == before


class Interrupted(Connection):
    """A connection on which each run is cancelled just before its first step of a kind."""

    before = ""
    cancel: Callable[[str], object]

    def call_many(self, calls: Any) -> list[Any]:
        for call in calls:
            if call.script.name == self.before:
                self.cancel(_run_of(call))
        return super().call_many(calls)


def _run_of(call: Call) -> str:
    return str(call.args[1])


def interrupted(scene: Scene, before: str) -> type[Connection]:
    def cancel_it(_: Connection, run_id: str) -> None:
        scene.store.cancel(POOL, run_id, reason="no longer needed")

    return type("Interrupted", (Interrupted,), {"before": before, "cancel": cancel_it})


class Forgetful(Connection):
    """A connection that loses the first reply to a start, and then the run is cancelled."""

    cancel: Callable[[str], object]
    lost = False

    def call_many(self, calls: Any) -> list[Any]:
        answers = super().call_many(calls)
        if calls[0].script.name == "start" and not self.lost:
            type(self).lost = True
            self.cancel(_run_of(calls[0]))
            raise RedisUnavailable("the reply was lost")
        return answers


def test_a_run_that_is_cancelled_when_the_reply_to_its_start_was_lost_is_not_run_either(
    scene, start_worker
):
    cancel_it = {"cancel": lambda _, run_id: cancel(scene, run_id)}
    _, runner = start_worker(type("Forgetful", (Forgetful,), cancel_it))
    (run_id,) = put(scene, 1)

    run = wait_cancelled(scene, run_id)

    assert (outcomes(run), run.run_count) == ([("w", "CANCELLED")], 1)
    assert runner.ran == {}


def test_a_run_that_ends_by_itself_while_its_order_is_under_way_is_reported_as_it_was(
    scene, start_worker
):
    start_worker(interrupted(scene, "finish"))
    (run_id,) = put(scene, 1)

    run = wait_cancelled(scene, run_id)
    assert (run.outcome, outcomes(run)) == ("COMPLETED", [("w", "COMPLETED")])
    states = [event.get("to") for event in scene.events(run=run_id)]
    assert states[-2:] == ["CANCELLING", "CANCELLED"]


def test_whichever_of_cancel_and_finish_comes_first_decides(scene):
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--limit", "20")
    runs = [scene.submit("true") for _ in range(40)]

    words = {}
    for run_id in runs:
        scene.wait_run(run_id, lambda run: run.place != "scheduled", "is on its way")
        words[run_id] = scene.store.cancel(POOL, run_id).word

    for run_id, word in words.items():
        run = scene.wait_end(run_id)
        expected = "COMPLETED" if word is Word.ENDED else "CANCELLED"
        assert run.state_type == expected
    assert not worker.said("claim-lost")


# --- A worker that hears the call and cannot ask, and one that never listens


class Broken(Connection):
    """A connection that breaks once as it renews a lease, when a test says so."""

    breaks = False

    def call(self, call: Call) -> Any:
        if call.script.name == "renew" and self.breaks:
            type(self).breaks = False
            raise RedisUnavailable("the connection broke")
        return super().call(call)


def test_an_order_that_could_not_be_read_is_asked_for_again_at_once(scene, start_worker):
    _, runner = start_worker(Broken)
    (run_id,) = put(scene, 1, payload=b"hold")
    wait_until(lambda: runner.ran, "it runs")

    Broken.breaks = True
    cancel(scene, run_id)

    assert cancelled_after_ms(scene, wait_cancelled(scene, run_id)) < PROMPT_MS
    assert not Broken.breaks


def test_a_worker_that_claims_again_and_again_hears_of_a_cancel_at_once(scene, start_worker):
    worker, runner = start_worker()
    (run_id,) = put(scene, 1, payload=b"hold")
    wait_until(lambda: runner.ran, "it runs")
    claims = []

    def claim(*_: object, **__: object) -> ClaimAnswer:
        claims.append(1)
        return ClaimAnswer(Word.CLAIMED, [], more=True)

    worker._doors.claiming.claim = claim  # as if what is claimed were always too large for more
    scene.create_queue("wakes-it")
    wait_until(lambda: len(claims) > 10, "it is busy", timeout_s=PATIENCE_S)

    cancel(scene, run_id)

    assert cancelled_after_ms(scene, wait_cancelled(scene, run_id)) < PROMPT_MS
