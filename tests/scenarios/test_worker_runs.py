"""Workers at work: how many at a time, from which queues, what is kept of a run, at what cost."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dispatcher.records import Submission
from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene, outcomes
from tests.servers import RealServer

DEFAULT_MS = {"lease_ms": 15_000, "renew_ms": 5_000}
PROMPT_MS = 1_000  # for a busy machine; far less than a renewal of DEFAULT_MS
# Tells how many are at work at a time, itself included.
COUNT = (
    'me="$0/$DISPATCHER_RUN_ID"; mkdir "$me"; ls "$0" | wc -l >> "$0.counts"; '
    'sleep 0.1; rmdir "$me"'
)


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


def test_a_worker_never_runs_more_than_its_limit_at_a_time_and_uses_it(scene, tmp_path):
    scene.create_pool()
    scene.create_queue("second")
    (tmp_path / "at-work").mkdir()
    command = ["/bin/sh", "-c", COUNT, str(tmp_path / "at-work")]
    runs = [scene.submit(command, queue=("default", "second")[i % 2]) for i in range(14)]

    scene.ready_dispatcher()
    scene.ready_worker("a", "--limit", "2")
    for run in runs:
        assert scene.wait_end(run).state_type == "COMPLETED"

    counts = [int(line) for line in (tmp_path / "at-work.counts").read_text().split()]
    assert len(counts) == len(runs)
    assert max(counts) == 2


def test_runs_of_two_queues_whose_entries_have_the_same_id_all_run(scene):
    scene.create_pool()
    queues = ["default", *(f"q{i}" for i in range(20))]
    for queue in queues[1:]:
        scene.create_queue(queue)
    runs = [scene.submit("true", queue=queue) for queue in queues]
    # One dispatch for all of them: entries of a millisecond have the same id in each stream.
    scene.store.dispatch(POOL, queues)
    with scene.server.client() as client:
        keys = scene.store.keys(POOL)
        entries = Counter(client.hget(keys["run"] + run, "entry") for run in runs)
    assert entries.most_common(1)[0][1] > 1

    scene.ready_worker("a", "--limit", "50")

    for run in runs:
        assert outcomes(scene.wait_end(run)) == [("a", "COMPLETED")]


def test_a_new_queue_is_served_at_once_by_a_worker_that_waits(scene):
    scene.create_pool(**DEFAULT_MS)
    scene.ready_dispatcher()
    scene.ready_worker("a")
    scene.wait_end(scene.submit("true"))

    scene.create_queue("new")
    run = scene.wait_end(scene.submit("true", queue="new"))

    assert run.claimed_ms - run.dispatched_ms < PROMPT_MS
    assert run.queue == "new"


def test_a_full_worker_hears_of_its_free_slot_at_once(scene):
    scene.create_pool(**DEFAULT_MS)
    scene.ready_dispatcher()
    scene.ready_worker("a", "--limit", "1")
    first = scene.hold()
    scene.child(first)
    second = scene.wait_dispatched(scene.submit("true"))

    scene.let_go()

    first, second = scene.wait_end(first), scene.wait_end(second.id)
    assert 0 <= second.claimed_ms - first.ended_ms < PROMPT_MS


def test_a_worker_serves_only_the_queues_it_is_told(scene):
    scene.create_pool()
    for name in ("other", "größe #1"):
        scene.create_queue(name)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", "--queue", "größe #1", "--queue", "default")
    elsewhere = scene.submit("true", queue="other")
    scene.wait_dispatched(elsewhere)

    runs = [scene.submit("true", queue=queue) for queue in ("default", "größe #1")]
    for run in runs:
        scene.wait_end(run)

    assert scene.run(elsewhere).place == "stream"
    assert not worker.said("claimed", run=elsewhere)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b'{"flow_run":{"job_variables":{"command":7}}}', "must be a string or a list of strings"),
        (b'{"flow_run":{}}', "is missing, and the pool has no command"),
        (b"no JSON at all", "the runner failed: JSONDecodeError"),
        (b'{"flow_run":{"job_variables":{"command":["echo","\\ud800"]}}}', "the runner failed"),
    ],
)
def test_a_run_that_came_with_an_impossible_job_ends_crashed(scene, payload, message):
    scene.create_pool()
    run_id = str(uuid4())
    submission = Submission(run_id, "default", payload, "run", request=run_id)
    scene.store.submit(POOL, submission)
    scene.store.dispatch(POOL, ["default"])

    scene.ready_worker("a")

    run = scene.wait_end(run_id)
    assert run.state_type == "CRASHED"
    assert message in run.message
    assert scene.wait_end(scene_submits_another(scene)).state_type == "COMPLETED"


def scene_submits_another(scene: Scene) -> str:
    run_id = scene.submit("true")
    scene.store.dispatch(POOL, ["default"])
    return run_id


@pytest.mark.xdist_group("idle")
def test_an_idle_worker_sends_at_most_one_command_in_two_seconds(
    own_server: Callable[..., RealServer], prefix: str, tmp_path: Path
):
    with Scene(own_server(), prefix, tmp_path) as scene:
        scene.create_pool(**DEFAULT_MS)
        scene.ready_worker("a")
        scene.wait_renewed()

        seen = scene.commands_meanwhile(12.0)

    # Renewals and blocks; once, after its first renewal, it looks at the queues.
    look = {"HMGET": seen.pop("HMGET", 0), "ZRANGE": seen.pop("ZRANGE", 0)}
    assert look in ({"HMGET": 0, "ZRANGE": 0}, {"HMGET": 1, "ZRANGE": 2})
    assert set(seen) <= {"EVALSHA", "BLPOP"}, seen
    assert 3 <= sum(seen.values()) <= 6, seen


def test_a_worker_that_waits_for_redis_begins_when_it_is_there(
    own_server: Callable[..., RealServer], prefix: str, tmp_path: Path
):
    server = own_server(config={"appendonly": "yes"})
    with Scene(server, prefix, tmp_path) as scene:
        scene.create_pool()
        run_id = scene.submit("true")
        scene.store.dispatch(POOL, ["default"])
        server.stop()
        worker = scene.worker("a")
        wait_until(lambda: worker.plain, "it says that it waits", timeout_s=PATIENCE_S)

        server.start()

        assert scene.wait_end(run_id).state_type == "COMPLETED"
        (line,) = worker.plain
        assert line.startswith("waiting: Redis at unix://")
