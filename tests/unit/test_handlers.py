"""The handler runner: which handler gets a run, and what becomes of what it returns or raises."""

import asyncio
import json
import sys
import threading
from typing import Any

import pytest

from consumers import Retry, Run
from consumers.runners import Again, Stop, Why
from consumers.runners.handler import OUTPUT_BYTES
from dispatcher import Outcome
from tests.builders import a_pool
from tests.handlers import KINDS, a_claim, add
from tests.templates import a_template

PATH = "flow_run.job_variables.handler"


# --- Which handler


def test_the_handler_is_the_one_that_the_run_names_else_the_default_one(app, start):
    app.handler()(lambda run: "default")
    app.handler("nightly report")(lambda run: "report")

    def said(variables: dict[str, Any] | None) -> str:
        return json.loads(start().run(a_claim(variables), Stop()).output)

    assert said({"handler": "nightly report"}) == "report"
    for variables in ({"handler": ""}, {"handler": None}, {"other": 1}, {}, None):
        assert said(variables) == "default"


@pytest.mark.parametrize(
    ("names", "variables", "message"),
    [
        (
            ["", "load"],
            {"handler": "nope"},
            "flows:app has no handler 'nope'; it has a default handler, handler 'load'",
        ),
        (
            ["load", "clean"],
            {},
            "flows:app has no default handler; it has handler 'clean', handler 'load'",
        ),
        (["load"], {"handler": 5}, "must be the name of a handler"),
    ],
)
def test_a_run_that_no_handler_takes_crashes_with_a_sentence(app, start, names, variables, message):
    for name in names:
        app.handler(name)(lambda run: None)

    outcome = start().run(a_claim(variables), Stop())

    assert outcome == Outcome("CRASHED", "Crashed", f"{PATH}: {message}")


def test_a_template_of_the_pool_may_say_which_handler_and_how_long(app, start, alarms):
    app.handler("load")(lambda run: "loaded")
    app.handler("wait")(lambda run: run.cancelled.wait(60))
    runner = start(environ={"KIND": "wait", "DISPATCHER_REDIS_URL": "secret"})

    def by(configuration: dict[str, Any], stop: Stop, **variables: Any) -> Outcome:
        template = a_template(configuration, what={"default": "load"}, handler={})
        runner.configure(a_pool(type="handler", base_job_template=template))
        outcome = runner.run(a_claim(variables), stop)
        assert isinstance(outcome, Outcome)
        return outcome

    assert by({"handler": "{{ what }}"}, Stop()).output == b'"loaded"'
    stop = Stop(alarms)
    by({"handler": "{{ $KIND }}", "timeout_s": 0.1}, stop, what="x")
    assert (stop.reason, stop.limit_s) == (Why.TIMED_OUT, 0.1)
    refused = by({"handler": "load"}, Stop(), handler="wait")
    assert refused.message == (
        f"{PATH}: cannot be given: the pool's base job template has no {{{{ handler }}}}, "
        "so nobody can override the handler"
    )


# --- What it gets


@KINDS
def test_a_handler_gets_the_run_as_it_was_claimed(app, start, is_coroutine):
    got = []
    add(app, got.append, is_coroutine=is_coroutine)
    payload = b'{"flow_run" : {"parameters":{"day": "\xc3\xa9"}, "job_variables":null} }'

    start().run(a_claim(payload=payload), Stop())

    (run,) = got
    assert (run.id, run.name, run.pool, run.queue) == ("run-1", "brave-otter", "etl", "default")
    assert (run.raw, run.parameters) == (payload, {"day": "é"})
    assert (run.due_ms, run.run_count, run.delivery) == (1_000, 2, 3)
    assert run.fencing_token == "1-0.abc.7"
    assert not run.cancelled


@KINDS
def test_what_a_handler_logs_carries_its_run(app, start, capsys, is_coroutine):
    add(app, lambda run: app.log.info("loaded", rows=3), is_coroutine=is_coroutine)

    start().run(a_claim(), Stop())
    app.log.info("outside")

    inside, outside = capsys.readouterr().out.splitlines()
    for part in ("loaded", "rows", "run-1", "etl"):
        assert part in inside
    assert "run-1" not in outside


def test_functions_run_in_the_thread_of_their_run_and_coroutines_share_one_loop(app, start):
    seen = []
    add(app, lambda run: seen.append(threading.current_thread()), is_coroutine=False)
    add(app, lambda run: seen.append(asyncio.get_running_loop()), is_coroutine=True, name="aio")
    runner = start()

    for name in ("", "aio", "aio"):
        runner.run(a_claim({"handler": name}), Stop())

    assert seen[0] is threading.current_thread()
    assert seen[1] is seen[2]


def test_a_function_that_returns_an_awaitable_is_awaited(app, start):
    async def later() -> int:
        return 5

    app.handler()(lambda run: later())
    assert start().run(a_claim(), Stop()).output == b"5"


# --- What becomes of it


@KINDS
@pytest.mark.parametrize(
    ("result", "output"),
    [
        (None, b""),
        ("done", b'"done"'),
        ({"rows": 3, "größe": [1.5, True]}, '{"rows": 3, "größe": [1.5, true]}'.encode()),
        ("\ud800", b'"\\ud800"'),
    ],
)
def test_what_a_handler_returns_is_kept_as_json(app, start, is_coroutine, result, output):
    add(app, lambda run: result, is_coroutine=is_coroutine)
    assert start().run(a_claim(), Stop()) == Outcome("COMPLETED", "Completed", "", output)


def test_of_a_long_result_the_first_64_kib_are_kept_and_that_is_said(app, start):
    app.handler()(lambda run: "é" * 100_000)

    outcome = start().run(a_claim(), Stop())

    assert len(outcome.output) == OUTPUT_BYTES == 65_536
    assert outcome.message == "the first 65536 of 200002 bytes of its result are kept"
    assert outcome.state_type == "COMPLETED"


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("result", [object(), {1, 2}, float("nan"), LOOP, {(1,): 2}, b"x"])
def test_what_is_not_json_is_a_fault_of_the_handler(app, start, result):
    app.handler()(lambda run: result)

    outcome = start().run(a_claim(), Stop())

    kind = type(result).__name__
    assert outcome.state_type == "FAILED"
    assert outcome.message.startswith(f"its handler returned what is not JSON: {kind}: ")


class TwoLinesError(Exception):
    def __str__(self) -> str:
        return "no such\tfile\nand more"


@KINDS
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad day"), "ValueError: bad day"),
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (SyntaxError("invalid", ("f.py", 1, 1, "x =")), "SyntaxError: invalid"),
        (TwoLinesError(), f"{__name__}.TwoLinesError: no such file"),
        (ValueError("\ud800" + "x" * 2000), "ValueError: \\ud800" + "x" * 987),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_handler_raises_is_told_in_one_line(app, start, is_coroutine, error, message):
    def fail(run: Run) -> None:
        raise error

    add(app, fail, is_coroutine=is_coroutine)
    runner = start()

    outcome = runner.run(a_claim(), Stop())

    assert (outcome.state_type, outcome.state_name) == ("FAILED", "Failed")
    assert outcome.message == message
    add(app, lambda run: "still here", is_coroutine=is_coroutine, name="next")
    assert runner.run(a_claim({"handler": "next"}), Stop()).output == b'"still here"'


@KINDS
def test_the_output_of_one_that_raised_is_its_traceback_without_our_frames(
    app, start, is_coroutine
):
    def fail(run: Run) -> None:
        raise ValueError("bad day")

    add(app, fail, is_coroutine=is_coroutine)

    lines = start().run(a_claim(), Stop()).output.decode().splitlines()

    places = [line for line in lines if line.startswith("  File")]
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: bad day"
    assert all("/tests/" in place for place in places)
    assert len(places) == 1 + is_coroutine


def test_of_a_long_traceback_the_last_64_kib_are_kept(app, start):
    def fail(run: Run) -> None:
        raise ValueError("x" * 200_000 + "end")

    app.handler()(fail)
    output = start().run(a_claim(), Stop()).output
    assert (len(output), output[-4:]) == (OUTPUT_BYTES, b"end\n")


@KINDS
def test_one_that_asks_for_a_retry_is_given_back(app, start, is_coroutine):
    def ask(run: Run) -> None:
        raise Retry(2.5, "no room\nyet")

    add(app, ask, is_coroutine=is_coroutine)
    assert start().run(a_claim(), Stop()) == Again(2.5, "no room")


def test_a_fault_of_a_handler_has_nothing_to_do_with_the_choice_of_one(app, start):
    def fail(run: Run) -> None:
        raise LookupError("mine")

    app.handler()(fail)
    outcome = start().run(a_claim(), Stop())
    assert (outcome.state_type, outcome.message) == ("FAILED", "LookupError: mine")


def test_recursion_without_end_ends_the_handler_alone(app, start):
    def recurse(run: Run) -> None:
        recurse(run)

    app.handler()(recurse)
    outcome = start().run(a_claim(), Stop())
    assert outcome.message.startswith("RecursionError: maximum recursion depth exceeded")
    assert len(outcome.output) < sys.getrecursionlimit() * 100
