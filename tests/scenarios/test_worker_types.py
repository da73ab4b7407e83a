"""Which type a worker is of, the app of a handler worker, and the queues that it is to serve."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.probes import ROOT
from tests.scenarios.fleet import POOL, Scene
from tests.scenarios.handler_scene import APP, HandlerScene
from tests.servers import RealServer


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[HandlerScene]:
    with HandlerScene(real_server, prefix, tmp_path) as scene:
        yield scene


def refused(scene: Scene, *arguments: str) -> list[str]:
    """What a worker says that cannot begin because of how it was called."""
    ended = scene.command("consumers", "run", "--pool", POOL, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    return [row for row in ended.stderr.splitlines() if not row.startswith("{")]


# --- Types


def test_a_worker_is_of_the_type_of_its_pool(scene):
    scene.create_pool(type="process")
    scene.ready_dispatcher()
    scene.ready_worker("a")
    assert scene.inspector.holders(POOL)[0].type == "process"
    assert scene.wait_end(scene.submit("true")).state_type == "COMPLETED"


def test_a_worker_may_be_of_another_type_than_its_pool(scene):
    scene.create_pool(type="process", command="true")
    scene.ready_dispatcher()
    worker = scene.hand("a", "--type", "handler")
    assert scene.inspector.holders(POOL)[0].type == "handler"
    run = scene.wait_end(scene.put("ask again", times=0))
    assert scene.result(run) == 1
    scene.drain(worker)
    assert worker.exit_code() == 0

    scene.store.set_pool(POOL, {"command": "echo by a process"})
    scene.ready_worker("b", "--type", "process")
    run = scene.wait_end(scene.put("ask again", times=0))
    assert scene.inspector.output(run) == b"by a process\n"


def test_a_pool_of_handlers_needs_no_command(scene):
    created = scene.command("dispatcher", "pool", "create", POOL, "--type", "handler")
    assert created.returncode == 0
    scene.ready_dispatcher()
    scene.hand("a")

    run = scene.wait_end(scene.put())

    assert run.state_type == "COMPLETED"


NO_APP = "say --app package.module:app"


@pytest.mark.parametrize(
    ("kind", "arguments", "line"),
    [
        ("handler", [], f"pool 'etl' is of type 'handler': {NO_APP}"),
        ("process", ["--type", "handler"], f"a handler worker needs an app: {NO_APP}"),
        (
            "process",
            ["--app", APP],
            "pool 'etl' is of type 'process': an --app is for workers of --type handler",
        ),
        (
            "handler",
            ["--app", APP, "--type", "process"],
            "--app is for workers of --type handler, not process",
        ),
        (
            "kubernetes",
            [],
            "pool 'etl' is of type 'kubernetes': say with --type what runs its runs: ",
        ),
        ("process", ["--create"], "--create creates what --queue names: say which"),
    ],
)
def test_a_type_that_does_not_fit_is_wrong_usage(scene, kind, arguments, line):
    scene.create_pool(type=kind)
    (said,) = refused(scene, *arguments)
    assert said.startswith(f"error: {line}")
    assert scene.inspector.holders(POOL) == []


# --- The app


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("flows", "error: --app 'flows' must look like package.module:app"),
        ("no_such:app", "error: --app no_such:app: there is no module 'no_such' in "),
        ("tests.scenarios.flows:no", "error: --app tests.scenarios.flows:no: tests.scenarios"),
        ("tests.scenarios.flows:echo", "error: --app tests.scenarios.flows:echo is of type fun"),
    ],
)
def test_an_app_that_is_not_there_is_wrong_usage_and_told_in_one_line(scene, where, line):
    scene.create_handler_pool()
    (said,) = refused(scene, "--app", where)
    assert said.startswith(line)


def test_an_app_that_cannot_be_imported_is_told_before_any_server_is_asked(scene, tmp_path):
    (tmp_path / "broken.py").write_text("raise ValueError('no settings')")
    scene.working_dir = tmp_path

    ended = scene.command(
        *("consumers", "run", "--pool", POOL, "--redis-url", "redis://127.0.0.1:1/0"),
        *("--app", "broken:app"),
    )

    *trace, line = ended.stderr.splitlines()
    assert (ended.returncode, line) == (
        2,
        "error: --app broken:app: importing broken failed: ValueError: no settings",
    )
    assert trace[0] == "Traceback (most recent call last):"


def test_the_app_is_looked_for_in_the_working_directory_and_may_come_by_the_environment(
    scene, tmp_path
):
    project = tmp_path / "project"
    project.mkdir()
    (project / "own.py").write_text((ROOT / "tests" / "scenarios" / "flows.py").read_text())
    scene.working_dir = project
    scene.create_handler_pool()
    scene.ready_dispatcher()
    scene.ready_worker("a", CONSUMERS_RUN_APP="own:app")

    assert scene.wait_end(scene.put()).state_type == "COMPLETED"


# --- Queues


def test_a_queue_that_is_not_there_is_created_when_that_is_asked_for(scene):
    scene.create_pool()
    scene.ready_dispatcher()
    a = scene.ready_worker("a", "--queue", "urgent", "--queue", "default", "--create")
    b = scene.ready_worker("b", "--queue", "urgent", "--create")

    run = scene.wait_end(scene.submit("true", queue="urgent"))

    assert run.state_type == "COMPLETED"
    assert sorted(scene.inspector.queue_names(POOL)) == ["default", "urgent"]
    assert a.plain == ["created queue urgent of pool etl"]
    assert b.plain == []
    served = {holder.worker: holder.queues for holder in scene.inspector.holders(POOL)}
    assert served == {"a": ("urgent", "default"), "b": ("urgent",)}


def test_workers_that_begin_together_create_a_queue_once(scene):
    scene.create_pool()
    workers = [scene.worker(f"w{i}", "--queue", "new", "--create") for i in range(4)]
    for worker in workers:
        worker.wait_said("registered")
    assert sorted(scene.inspector.queue_names(POOL)) == ["default", "new"]
    assert len(scene.events("queue-created", queue="new")) == 1


def test_a_queue_with_a_name_that_is_none_is_refused(scene):
    scene.create_pool()
    ended = scene.command("consumers", "run", "--pool", POOL, "--queue", "a/b", "--create")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: queue name 'a/b' contains /")
