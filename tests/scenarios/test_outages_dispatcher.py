"""`dispatcher run` by itself: quiet between due times, woken in time, patient, quick to end."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.probes import wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Scene
from tests.servers import AOF, RealServer, system_binary

ENDS_WITHIN_S = 1.0
PROMPT_MS = 500  # for a busy machine; 10 ms on an idle one
BINARIES = [pytest.param(None, id="valkey")]
if found := system_binary():
    BINARIES.append(pytest.param(found, id="redis"))
AT_LEISURE = {"DISPATCHER_SWEEP_S": "60"}


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.create_pool()
        yield scene


@pytest.fixture
def own_scene(
    own_server: Callable[..., RealServer],
    prefix: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Scene]:
    binary = getattr(request, "param", None)
    with Scene(own_server(config=AOF, binary=binary), prefix, tmp_path) as scene:
        scene.create_pool(lease_ms=60_000, renew_ms=20_000)
        yield scene


def test_between_due_times_it_sends_nothing_but_the_sweep(own_scene):
    own_scene.submit("true", due_in_ms=600_000)
    dispatcher = own_scene.ready_dispatcher(DISPATCHER_SWEEP_S="2")
    own_scene.let_pass(0.5)

    seen = own_scene.commands_meanwhile(7.0)

    # A sweep asks for the names of a pool's queues and dispatches them.
    assert set(seen) == {"ZRANGE", "EVALSHA"}, seen
    assert 3 <= seen["EVALSHA"] <= 4
    assert seen["ZRANGE"] == seen["EVALSHA"]
    assert not dispatcher.said("redis-away")


@pytest.mark.parametrize("pools", [[], ["--pool", POOL], ["--pool", "other", "--pool", POOL]])
def test_it_is_woken_by_a_run_that_is_due_earlier(scene, pools):
    later = scene.submit("true", due_in_ms=600_000)
    scene.ready_dispatcher(*pools, **AT_LEISURE)

    now = [scene.wait_dispatched(scene.submit("true")) for _ in range(3)]
    soon = scene.wait_dispatched(scene.submit("true", due_in_ms=700))

    for run in [*now, soon]:
        assert 0 <= run.dispatched_ms - run.due_ms < PROMPT_MS
    assert scene.run(later).dispatched_ms is None


def test_it_serves_a_pool_and_a_queue_that_are_new(scene, prefix):
    scene.ready_dispatcher(**AT_LEISURE)

    scene.create_queue("new")
    run = scene.wait_dispatched(scene.submit("true", queue="new"))
    scene.producer.submit(
        {"id": run.id, "flow_id": run.id, "job_variables": {"command": "true"}},
        pool="another",
        create=True,
    )

    assert run.dispatched_ms - run.due_ms < PROMPT_MS
    wait_until(lambda: scene.inspector.run(run.id, "another").dispatched_ms, "it is dispatched")


def test_it_leaves_the_pools_alone_that_it_is_not_for(scene):
    other = scene.dispatcher("--pool", "other", **AT_LEISURE)
    other.wait_said("started")
    scene.ready_dispatcher("--pool", POOL)

    scene.wait_dispatched(scene.submit("true"))

    assert not other.said("dispatched")


def test_it_waits_for_a_redis_that_is_not_there_yet(own_scene):
    run_id = own_scene.submit("true")
    own_scene.server.kill()
    dispatcher = own_scene.dispatcher()
    dispatcher.wait_said("redis-away", loop="dispatch")

    own_scene.server.start()

    run = own_scene.wait_dispatched(run_id)
    assert run.dispatched_ms - own_scene.now_ms() < PROMPT_MS
    assert not dispatcher.plain


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("redis_is", ["there", "frozen", "gone"])
def test_it_ends_within_a_second_of_a_signal(own_scene, number, redis_is):
    dispatcher = own_scene.ready_dispatcher(DISPATCHER_SWEEP_S="0.2")
    if redis_is == "frozen":
        own_scene.server.freeze()
        own_scene.let_pass(0.5)  # by then it waits for an answer
    elif redis_is == "gone":
        own_scene.server.kill()
        dispatcher.wait_said("redis-away")

    began_s = own_scene.clock.monotonic_s()
    dispatcher.signal(number)

    assert dispatcher.exit_code() == 0
    assert own_scene.clock.monotonic_s() - began_s < ENDS_WITHIN_S
    assert dispatcher.said("stopping", reason=number.name)
    assert not dispatcher.plain
    if redis_is == "frozen":
        own_scene.server.thaw()


@pytest.mark.parametrize("own_scene", BINARIES, indirect=True)
def test_it_goes_on_by_itself_after_the_server_took_no_writes_for_a_while(own_scene):
    run_id = own_scene.submit("true", due_in_ms=1_000)
    dispatcher = own_scene.ready_dispatcher(**AT_LEISURE)

    with own_scene.server.client() as client:
        client.replicaof("127.0.0.1", "1")
        (said, *_) = dispatcher.wait_said("redis-away", loop="dispatch")
        client.replicaof("NO", "ONE")

    own_scene.wait_dispatched(run_id)
    assert "cannot serve now" in said["reason"]
    assert len(dispatcher.said("redis-away", loop="dispatch")) == 1


def test_it_goes_on_by_itself_when_its_connections_are_cut(own_scene):
    dispatcher = own_scene.ready_dispatcher(**AT_LEISURE)

    for times in (1, 2, 3):
        with own_scene.server.client() as client:
            client.client_kill_filter(_type="pubsub")
            client.client_kill_filter(_type="normal", skipme=True)
        run = own_scene.wait_dispatched(own_scene.submit("true"))
        assert run.dispatched_ms - run.due_ms < 2_000
        dispatcher.wait_said("redis-back", loop="listen", times=times)


def test_a_wrong_password_ends_it_with_one_line(own_server, tmp_path, prefix):
    server = own_server(config={"requirepass": "right"}, tcp=True)
    with Scene(server, prefix, tmp_path) as scene:
        wrong = server.url.replace("right", "not-this-one")
        dispatcher = scene.dispatcher(DISPATCHER_REDIS_URL=wrong)

        assert dispatcher.exit_code(PATIENCE_S) == 1

    (line,) = dispatcher.plain
    assert line.startswith("error: Redis at redis://127.0.0.1:")
    assert "WRONGPASS" in line or "invalid" in line
    assert "not-this-one" not in dispatcher.text
