"""Templates at work: what a real worker makes of them, and when it hears that they have changed."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dispatcher.errors import RedisUnavailable
from dispatcher.stored import Pool
from tests.builders import a_submission
from tests.scenarios.fleet import POOL, Scene
from tests.scenarios.inside import QUICK_MS, Workers, wait_ends
from tests.servers import RealServer
from tests.templates import PROCESS_TEXT, a_template

TELL = """
echo "$WHO in $(pwd) as $DISPATCHER_JOB_NAME with $DISPATCHER_JOB_LABELS"
"""


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as scene:
        yield scene


@pytest.fixture
def tell(tmp_path: Path) -> str:
    script = tmp_path / "tell.sh"
    script.write_text(TELL)
    return f"/bin/sh {script}"


def submit(scene: Scene, **variables: object) -> str:
    """Submit a run with these job variables."""
    run = {"id": str(uuid4()), "flow_id": str(uuid4()), "name": "run", "job_variables": variables}
    scene.producer.submit(run, pool=POOL)
    return str(run["id"])


def output(scene: Scene, run_id: str) -> str:
    """Wait until a run has completed, and return what it wrote."""
    run = scene.wait_end(run_id)
    assert (run.state_type, run.message) == ("COMPLETED", "")
    return scene.inspector.output(run).decode().rstrip("\n")


@pytest.mark.parametrize("template", ["", PROCESS_TEXT], ids=["none", "prefect"])
def test_prefects_template_for_processes_works_like_none(scene, tmp_path, tell, template):
    scene.create_pool(command=tell, base_job_template=template)
    scene.ready_dispatcher()
    worker = scene.ready_worker("a", WHO="worker")

    there = {"working_dir": str(tmp_path), "name": "of {{ ctx.flow_run.name }}"}
    loud = submit(scene, **there, **{"env.WHO": "run"}, labels={"a": "b"})
    quiet = submit(scene, command=None, working_dir=str(tmp_path), stream_output=False)
    other = submit(scene, command="echo {{ $WHO }}")

    assert output(scene, loud) == f'run in {tmp_path} as of run with {{"a": "b"}}'
    assert output(scene, quiet) == f"worker in {tmp_path} as  with "
    assert output(scene, other) == "worker"
    assert worker.said("output", run=loud)
    assert not worker.said("output", run=quiet)


def test_the_environment_is_the_workers_without_what_is_ours(scene):
    names = ("BASE", "DISPATCHER_REDIS_URL", "CONSUMERS_LIMIT", "MISSING")
    command = ["echo", *(f"<{{{{ ${name} }}}}>" for name in names)]
    scene.create_pool(base_job_template=a_template({"command": [*command, "{{ x }}"]}, x={}))
    scene.ready_dispatcher()
    scene.ready_worker("a", BASE="{{ x }}", CONSUMERS_LIMIT="5")

    run = submit(scene, x="{{ $BASE }}/{{ $DISPATCHER_KEY_PREFIX }}")

    assert output(scene, run) == "<{{ x }}> <> <> <> {{ x }}/"


def test_a_change_holds_for_the_next_run_and_needs_no_restart(scene):
    scene.create_pool(command="echo 0")
    scene.ready_dispatcher()
    scene.ready_worker("a")
    expected, found = [], []
    for number in range(1, 6):
        template = a_template({"command": f"echo template {number} {{{{ x }}}}"}, x={})
        for fields, text in (
            ({"command": f"echo {number}", "base_job_template": None}, f"{number}"),
            ({"base_job_template": template}, f"template {number} x"),
        ):
            scene.store.set_pool(POOL, fields)
            found.append(output(scene, submit(scene, x="x")))
            expected.append(text)
    assert found == expected


def test_a_run_is_made_by_the_template_that_holds_when_it_is_claimed(scene):
    scene.create_pool(command="echo before")
    waiting, impossible = submit(scene, x="5"), submit(scene)
    template = a_template({"command": "echo {{ x }}"}, x={"type": "string"}, required=["x"])
    scene.store.set_pool(POOL, {"base_job_template": template})

    scene.ready_dispatcher()
    scene.ready_worker("a")

    assert output(scene, waiting) == "5"
    run = scene.wait_end(impossible)
    assert (run.state_type, run.message) == (
        "CRASHED",
        "flow_run.job_variables.x: is required by the pool's base job template",
    )


def test_a_stored_template_that_is_none_ends_its_runs_with_a_sentence(scene):
    scene.create_pool(command="true")
    run_id = submit(scene)
    with scene.server.client() as client:
        client.hset(scene.store.keys(POOL)["pool"], "base_job_template", "no json")

    scene.ready_dispatcher()
    scene.ready_worker("a")

    run = scene.wait_end(run_id)
    assert (run.state_type, run.message) == (
        "CRASHED",
        "the pool's base_job_template: is not JSON: Expecting value: line 1 column 1 (char 0)",
    )


# --- When a worker reads its pool


def work(scene: Scene, count: int = 7) -> None:
    """Have runs of their own worked off."""
    runs = [f"run-{uuid4()}" for _ in range(count)]
    for run in runs:
        scene.store.submit(POOL, a_submission(run))
    scene.store.dispatch(POOL, ["default"])
    assert wait_ends(scene, runs) == {("COMPLETED", 1): count}


def test_a_worker_reads_its_pool_before_its_first_run_and_after_each_change_alone(scene):
    scene.create_pool(**QUICK_MS)
    heard: list[Pool] = []
    with Workers(scene) as workers:
        workers.start(configure=heard.append)
        work(scene)
        work(scene)
        assert [pool.command for pool in heard] == [""]

        scene.store.set_pool(POOL, {"limit": 5, "lease_ms": 4_000})
        work(scene)
        assert [pool.command for pool in heard] == [""]

        scene.store.set_pool(POOL, {"command": "other"})
        work(scene)
        work(scene)
    assert [pool.command for pool in heard] == ["", "other"]


def test_no_run_begins_before_its_pool_could_be_read(scene):
    scene.create_pool(**QUICK_MS)
    heard: list[int] = []

    def configure(_: Pool) -> None:
        heard.append(runner.ran.total())
        if len(heard) < 3:
            raise RedisUnavailable("not now")

    with Workers(scene) as workers:
        _, runner = workers.start(configure=configure)
        work(scene)
    assert heard == [0, 0, 0]
