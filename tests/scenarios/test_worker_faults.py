"""A worker inside the test process, on a real server, with faults between the two."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from consumers.doors import BLOCK_S
from consumers.leasing import STUCK_S
from dispatcher import Clock, Connection, DispatcherError, Start
from dispatcher.connection import Call
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.keys import GROUP
from dispatcher.records import Registration, Word
from tests.builders import a_submission
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene
from tests.scenarios.inside import QUICK_MS, StartWorker, Workers, put, wait_ends
from tests.servers import RealServer

LEASE_S = 3.0


class Ahead(Clock):
    """A clock that can be ahead, as if much time had passed."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


class Lossy(Connection):
    """A connection that loses replies: the step was done, and its caller hears of an outage."""

    chance = random.Random(11)
    lost = 0

    def call(self, call: Call) -> Any:
        return self._perhaps(super().call(call))

    def call_many(self, calls: Any) -> list[Any]:
        answers: list[Any] = self._perhaps(super().call_many(calls))
        return answers

    def _perhaps(self, answer: Any) -> Any:
        if self.chance.random() < 0.25:
            type(self).lost += 1
            raise RedisUnavailable("the reply was lost")
        return answer


class Picky(Connection):
    """A connection on which the first start of each batch but one is refused once."""

    refused = 0

    def call_many(self, calls: Any) -> list[Any]:
        answers = super().call_many(calls)
        if calls[0].script.name == "start" and len(calls) > 1 and not self.refused:
            type(self).refused += 1
            answers[-1] = RedisRefused("this one not")
        return answers


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool(**QUICK_MS)
        yield scene


@pytest.fixture
def start_worker(scene: Scene) -> Iterator[StartWorker]:
    """A function that starts a worker whose connections are of a kind."""
    with Workers(scene) as workers:
        yield workers.start


def test_whatever_replies_are_lost_each_run_runs_once_and_no_block_is_sat_out(scene, start_worker):
    runs = put(scene, 40)
    Lossy.lost = 0

    worker, runner = start_worker(Lossy)

    assert wait_ends(scene, runs) == {("COMPLETED", 1): 40}
    assert runner.ran == Counter(runs)
    ends_ms = sorted(run.ended_ms for run in scene.inspector.records(POOL, runs))
    assert max(later - earlier for earlier, later in pairwise(ends_ms)) < BLOCK_S * 1000 / 2
    assert Lossy.lost >= 5
    assert worker.failure is None


def test_whatever_replies_are_lost_each_run_is_tried_as_often_as_its_policy_says(
    scene, start_worker
):
    policy = {"retries": 2, "retry_type": "in_process", "retry_delay_ms": 20}
    runs = put(scene, 20, payload=b"fail 2", **policy)
    Lossy.lost = 0

    _, runner = start_worker(Lossy)

    assert wait_ends(scene, runs) == {("COMPLETED", 1): 20}
    assert runner.ran == Counter(dict.fromkeys(runs, 3))
    assert {run.run_count for run in scene.inspector.records(POOL, runs)} == {3}
    assert Lossy.lost >= 5


def test_whatever_replies_are_lost_a_cancelled_run_ends_cancelled(scene, start_worker):
    runs = put(scene, 10, payload=b"hold")
    Lossy.lost = 0
    _, runner = start_worker(Lossy, limit=10)
    wait_until(lambda: len(runner.ran) == 10, "all run")

    for run in runs:
        scene.store.cancel(POOL, run)

    assert wait_ends(scene, runs) == {("CANCELLED", 1): 10}
    assert runner.ran == Counter(runs)


def test_a_start_that_is_refused_is_repeated_and_the_others_of_its_batch_run_once(
    scene, start_worker
):
    runs = put(scene, 5)
    Picky.refused = 0

    _, runner = start_worker(Picky)

    assert wait_ends(scene, runs) == {("COMPLETED", 1): 5}
    assert runner.ran == Counter(runs)
    assert Picky.refused == 1


def test_a_connection_that_is_reset_again_and_again_harms_no_worker(scene, start_worker):
    worker, runner = start_worker()
    over = threading.Event()

    def reset() -> None:
        while not over.wait(0.001):
            worker._doors.claiming.connection.reset()

    thread = threading.Thread(target=reset)
    thread.start()
    try:
        scene.let_pass(1.0)
    finally:
        over.set()
        thread.join()
    runs = put(scene, 20)

    assert wait_ends(scene, runs) == {("COMPLETED", 1): 20}
    assert runner.ran == Counter(runs)
    assert not worker.ended.is_set()


def test_a_fault_of_the_runner_crashes_its_run_and_nothing_else(scene, start_worker):
    (bad,) = put(scene, 1, payload=b"raise")
    start_worker()

    wait_ends(scene, [bad])

    run = scene.run(bad)
    assert (run.state_type, run.message) == (
        "CRASHED",
        "the runner failed: RuntimeError('a fault of the runner')",
    )


def test_a_claim_that_the_worker_does_not_know_of_is_given_back(scene, start_worker):
    worker, runner = start_worker(limit=1)
    (holding,) = put(scene, 1, payload=b"hold")
    wait_until(lambda: runner.ran, "it is full")

    # As if the answer to a claim had been lost, and the worker had not asked again.
    scene.store.submit(POOL, a_submission("stranded"))
    scene.store.dispatch(POOL, ["default"])
    number = worker._lease.number + 1
    claims = scene.store.claim(POOL, worker._lease.me.holder, number=number, slots=1).claims
    assert [claim.run_id for claim in claims] == ["stranded"]

    began_s = scene.clock.monotonic_s()
    scene.wait_run("stranded", lambda run: run.place == "scheduled", "is given back")
    assert scene.clock.monotonic_s() - began_s < BLOCK_S / 2
    assert scene.run(holding).place == "claimed"
    runner.may_end.set()
    scene.store.dispatch(POOL, ["default"])
    assert wait_ends(scene, [holding, "stranded"]) == {("COMPLETED", 1): 1, ("COMPLETED", 2): 1}
    assert runner.ran == {holding: 1, "stranded": 1}


def test_a_fault_in_the_claim_loop_ends_the_worker_with_a_failure(scene, start_worker):
    worker, _ = start_worker()
    wait_until(lambda: worker._lease.me, "it is registered")

    def fail(*_: object, **__: object) -> None:
        raise KeyError("never expected")

    worker._doors.claiming.wait = fail
    worker._doors.claiming.claim = fail
    scene.create_queue("wakes-it")

    assert worker.ended.wait(PATIENCE_S)
    assert isinstance(worker.failure, DispatcherError)
    assert "never expected" in str(worker.failure)


def test_a_worker_whose_claim_loop_hangs_keeps_neither_its_lease_nor_its_children(
    scene, start_worker
):
    clock, may_go_on = Ahead(), threading.Event()
    worker, runner = start_worker(clock=clock)
    wait_until(lambda: worker._lease.me, "it is registered")
    scene.wait_renewed()
    hang = worker._doors.claiming.wait
    worker._doors.claiming.wait = lambda *_, **__: may_go_on.wait(PATIENCE_S) and None
    scene.create_queue("wakes-it")
    wait_until(lambda: worker._served_version == 2, "it hangs")

    clock.ahead_s = STUCK_S + LEASE_S + 1
    scene.let_pass(0.5)  # until what was under way is over
    before = (scene.inspector.leases(POOL).ends, runner.promises)
    scene.let_pass(1.0)
    assert (scene.inspector.leases(POOL).ends, runner.promises) == before

    worker._doors.claiming.wait = hang
    may_go_on.set()
    scene.wait_renewed()
    assert runner.promises > before[1]


def test_a_claim_or_start_of_a_recovered_worker_is_refused(scene):
    store = scene.store
    me = store.register(POOL, Registration("w", "1", slots=1))
    put(scene, 2)
    (claim,) = store.claim(POOL, me.holder, number=1, slots=1).claims
    store.register(POOL, Registration("w", "2", slots=1))
    store.recover_all(POOL, me.holder)

    answer = store.claim(POOL, me.holder, number=2, slots=1)
    start = store.report(POOL, Start(claim.run_id, claim.token, 1))

    assert (answer.word, answer.claims, start) == (Word.LOST, [], Word.LOST)


def test_a_group_that_is_destroyed_again_and_again_stops_nobody(scene, start_worker):
    _, runner = start_worker()
    wait_ends(scene, put(scene, 1))
    runs = [f"again-{i}" for i in range(15)]

    with scene.server.client() as client:
        for run in runs:
            client.xgroup_destroy(scene.store.keys(POOL)["stream"] + "default", GROUP)
            scene.store.submit(POOL, a_submission(run))
            scene.store.dispatch(POOL, ["default"])

    assert wait_ends(scene, runs) == {("COMPLETED", 1): 15}
    assert max(runner.ran.values()) == 1
