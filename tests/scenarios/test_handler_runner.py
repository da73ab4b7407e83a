"""Handler workers as real processes: what handlers get, how they end, and that leases are kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.fleet import POOL, outcomes
from tests.scenarios.handler_scene import APP, HandlerScene
from tests.servers import RealServer
from tests.templates import a_template


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[HandlerScene]:
    with HandlerScene(real_server, prefix, tmp_path) as scene:
        scene.create_handler_pool()
        yield scene


def test_a_handler_gets_its_run_and_what_it_returns_is_kept(scene):
    scene.ready_dispatcher()
    worker = scene.hand("a")

    run_id = scene.put(day="monday", fields={"name": "brave-otter", "tags": ["x"]})

    run = scene.wait_end(run_id)
    (claimed,) = scene.events("claimed", run=run_id)
    result = scene.result(run)
    assert (run.state_type, run.state_name, run.message) == ("COMPLETED", "Completed", "")
    assert result["name"] == "brave-otter"
    assert result["parameters"] == {"day": "monday", "directory": str(scene.directory)}
    assert (result["counts"], result["tags"]) == ([1, 1], ["x"])
    assert result["token"].split(".")[1] == claimed["worker"].split(".")[1]
    (echoed,) = worker.wait_said("echoed", run=run_id)
    assert (echoed["day"], echoed["pool"], echoed["queue"]) == ("monday", POOL, "default")
    assert worker.wait_said("finished", run=run_id, state="Completed")


def test_a_worker_of_a_handler_pool_is_one_and_says_so(scene):
    scene.hand("a")
    (holder,) = scene.inspector.holders(POOL)
    assert holder.type == "handler"


def test_a_handler_that_raises_has_failed_with_its_traceback(scene):
    scene.ready_dispatcher()
    scene.hand("a")

    run = scene.wait_end(scene.put("fail", times=9))

    output = scene.inspector.output(run).decode().splitlines()
    assert (run.state_type, run.state_name, run.message) == (
        *("FAILED", "Failed"),
        "ValueError: start 1",
    )
    assert (output[0], output[-1]) == ("Traceback (most recent call last):", run.message)
    assert "tests/scenarios/flows.py" in output[1]


@pytest.mark.parametrize(("retry_type", "deliveries"), [("in_process", 1), ("reschedule", 3)])
def test_a_handler_that_raises_is_tried_again_as_its_policy_says(scene, retry_type, deliveries):
    scene.ready_dispatcher()
    scene.hand("a")
    policy = {"retries": 2, "retry_delay": 0, "retry_type": retry_type}

    run = scene.wait_end(scene.put("fail", times=2, fields={"empirical_policy": policy}))

    assert (run.state_type, scene.result(run)) == ("COMPLETED", "at last")
    assert (run.run_count, run.delivery) == (3, deliveries)


def test_a_handler_that_asks_for_it_is_run_again_after_the_delay(scene):
    scene.ready_dispatcher()
    worker = scene.hand("a")

    run = scene.wait_end(scene.put("ask again", times=2, delay_s=0.4))

    asked = scene.events("retrying", run=run.id)
    starts = [int(event["at_ms"]) for event in scene.events("started", run=run.id)]
    assert (run.state_type, scene.result(run)) == ("COMPLETED", 3)
    assert outcomes(run) == [("a", "released"), ("a", "released"), ("a", "COMPLETED")]
    assert (run.losses, run.unstarted, run.retries) == (0, 0, 0)
    assert [(e["reason"], e["to"]) for e in asked] == [("no room yet", "SCHEDULED")] * 2
    for event, next_start in zip(asked, starts[1:], strict=True):
        assert int(event["due_ms"]) - int(event["at_ms"]) == 400
        assert next_start >= int(event["due_ms"])
    said = worker.wait_said("rescheduled", run=run.id, times=2)
    assert {(row["after_s"], row["why"]) for row in said} == {(0.4, "no room yet")}


def test_what_asks_to_be_run_again_is_shown_as_awaiting_its_retry_and_anybodys(scene):
    scene.ready_dispatcher()
    first = scene.hand("a")
    run_id = scene.put("ask again", times=1, delay_s=3_600)
    first.wait_said("rescheduled", run=run_id)
    shown = scene.command("dispatcher", "flow-run", "show", run_id).stdout
    scene.drain(first)
    scene.hand("b")
    scene.store.retime(POOL, run_id, None)

    run = scene.wait_end(run_id)

    assert "SCHEDULED (AwaitingRetry)" in shown
    assert "no room yet" in shown
    assert outcomes(run) == [("a", "released"), ("b", "COMPLETED")]


def test_a_run_that_no_handler_takes_crashes_and_names_those_there_are(scene):
    scene.ready_dispatcher()
    scene.hand("a")

    run = scene.wait_end(scene.put("nope"))

    assert run.state_type == "CRASHED"
    path = "flow_run.job_variables.handler"
    assert run.message.startswith(f"{path}: {APP} has no handler 'nope'; it has a default handler")
    assert "handler 'hold aio'" in run.message


def test_a_coroutine_that_exits_ends_itself_alone(scene):
    scene.ready_dispatcher()
    scene.hand("a")

    first = scene.wait_end(scene.put("exit"))
    second = scene.wait_end(scene.put("ask again", times=0))

    assert (first.state_type, first.message) == ("FAILED", "SystemExit: enough")
    assert second.state_type == "COMPLETED"


def test_the_pools_template_says_which_handler_is_run(scene):
    template = a_template({"handler": "{{ what }}"}, what={"default": "ask again"})
    scene.store.set_pool(POOL, {"base_job_template": template})
    scene.ready_dispatcher()
    scene.hand("a")

    default = scene.wait_end(scene.put(times=0))
    other = scene.wait_end(scene.put(times=0, fields={"job_variables": {"what": "fail"}}))

    assert (scene.result(default), scene.result(other)) == (1, "at last")


def test_what_a_handler_prints_is_the_workers_and_not_the_runs(scene):
    scene.ready_dispatcher()
    worker = scene.hand("a")

    run = scene.wait_end(scene.put("print"))

    assert scene.inspector.output(run) == b""
    assert "said by a handler" in worker.plain


def test_hundreds_of_coroutines_run_side_by_side(scene):
    scene.ready_dispatcher()
    worker = scene.hand("a", "--limit", "200")
    runs = [scene.put("hold aio") for _ in range(200)]
    for run_id in runs:
        scene.wait_told(run_id)

    scene.let_go()

    assert {scene.wait_end(run_id).state_type for run_id in runs} == {"COMPLETED"}
    assert not worker.said("lease-lost")


# --- Leases


def quick(scene: HandlerScene) -> None:
    """Let leases be short: a second, renewed three times as often."""
    scene.store.set_pool(POOL, {"lease_ms": 1_000, "renew_ms": 333})


@pytest.mark.parametrize("handler", ["busy", "busy aio"])
def test_a_pure_python_loop_of_three_leases_keeps_its_lease(scene, handler):
    quick(scene)
    scene.ready_dispatcher()
    worker = scene.hand("a")
    runs = [scene.put(handler, seconds=3.2) for _ in range(1 if handler == "busy aio" else 3)]

    ended = [scene.wait_end(run_id) for run_id in runs]

    for run in ended:
        assert outcomes(run) == [("a", "COMPLETED")]
        assert run.ended_ms - run.started_ms >= 3_000
        assert scene.result(run) > 0
    assert not worker.said("lease-lost")
    assert not scene.events("worker-lost")
    (registered,) = scene.events("registered")
    assert registered["worker"] == scene.inspector.holders(POOL)[0].id


def test_code_that_holds_the_interpreter_for_longer_loses_its_lease_and_nothing_else(scene):
    quick(scene)
    scene.ready_dispatcher()
    first = scene.hand("a", "--limit", "1")
    run_id = scene.put("hold the interpreter", seconds=4)
    scene.wait_told(run_id)
    scene.hand("b")

    run = scene.wait_end(run_id)

    assert outcomes(run) == [("a", "lost"), ("b", "COMPLETED")]
    assert scene.result(run) == 2
    first.wait_said("registered", times=2)
    assert len(scene.events("finished", run=run_id)) == 1


def test_a_worker_that_stood_still_unnoticed_goes_on_with_what_it_has(scene):
    quick(scene)
    worker = scene.hand("a")
    run_id = scene.put("hold")
    scene.store.dispatch(POOL, ["default"])
    scene.wait_told(run_id)

    worker.freeze()
    scene.let_pass(1.5)  # no dispatcher runs, so nobody takes anything back
    worker.thaw()
    scene.wait_renewed()
    scene.let_go()

    run = scene.wait_end(run_id)
    assert outcomes(run) == [("a", "COMPLETED")]
    assert not scene.has_told(run_id, "stopped")
