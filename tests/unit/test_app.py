"""What programs of handlers import: the app, the run, how it is asked to stop, how it is found."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import ValidationError

from consumers import App, Cancelled, Retry, Run
from consumers.loading import load_app
from dispatcher import InvalidSettings
from tests.probes import wait_until


def work(run: Run) -> None:
    """A handler."""


async def aio_work(run: Run) -> None:
    """A handler."""


# --- Handlers by name


def test_a_handler_is_found_by_its_name_and_the_default_one_by_none():
    app = App()
    assert app.handler()(work) is work
    assert app.handler("nightly report")(aio_work) is aio_work

    assert (app.find(), app.find("nightly report")) == (work, aio_work)
    assert app.find("report") is None
    assert str(app) == "a default handler, handler 'nightly report'"


def test_an_app_without_handlers_finds_none_and_says_so():
    assert App().find() is None
    assert (str(App()), len(App())) == ("no handler at all", 0)


@pytest.mark.parametrize("name", ["", "load"])
def test_a_name_is_taken_once(name):
    app = App()
    app.handler(name)(work)
    with pytest.raises(ValueError, match="is there already"):
        app.handler(name)(aio_work)
    assert app.find(name) is work


def yields(run: Run) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (5, "a handler is a function, not 5"),
        (lambda: None, "must take one argument, the run"),
        (lambda a, b: None, "must take one argument, the run"),
        (lambda *, run: None, "must take one argument, the run"),
        (yields, "yields; a handler returns its result"),
    ],
)
def test_what_cannot_be_a_handler_is_refused_where_it_is_written(handler, problem):
    with pytest.raises(TypeError, match=problem):
        App().handler()(handler)


def test_a_handler_without_its_parentheses_is_refused():
    with pytest.raises(TypeError, match="with parentheses"):
        App().handler(work)


class Sum:
    def add(self, run: Run) -> None: ...

    def __call__(self, run: Run, more: int = 0) -> None: ...


@pytest.mark.parametrize("handler", [Sum(), Sum().add, partial(lambda a, run: None, 1), print])
def test_whatever_can_be_called_with_the_run_is_a_handler(handler):
    assert App().handler()(handler) is handler


# --- The run


def test_a_run_can_be_made_by_hand_for_a_test_of_a_handler():
    run = Run(id="1", parameters={"day": "monday"})
    assert (run.parameters["day"], run.run_count, bool(run.cancelled)) == ("monday", 1, False)


def test_the_payload_is_made_a_model_when_it_is_asked_for():
    flow_run = {"id": str(UUID(int=1)), "flow_id": str(UUID(int=2)), "tags": ["a"]}
    ids = {"work_pool_id": str(UUID(int=3)), "work_queue_id": str(UUID(int=4))}
    run = Run(id="1", raw=json.dumps(ids | {"flow_run": flow_run}).encode())

    assert run.payload.flow_run.tags == ["a"]
    assert run.payload is run.payload

    with pytest.raises(ValidationError):
        _ = Run(id="1", raw=b"{}").payload


def test_a_run_cannot_be_changed():
    with pytest.raises(AttributeError):
        Run(id="1").id = "2"


# --- Asked to stop


def test_the_first_reason_to_stop_is_the_one_that_is_told():
    cancelled = Cancelled()
    assert (bool(cancelled), cancelled.is_set(), cancelled.wait(0), cancelled.reason) == (
        *(False, False, False),
        "",
    )

    cancelled.set("it was cancelled")
    cancelled.set("the worker ends")

    assert (bool(cancelled), cancelled.is_set(), cancelled.wait(), cancelled.reason) == (
        *(True, True, True),
        "it was cancelled",
    )


def test_coroutines_of_several_loops_hear_of_it_from_another_thread():
    cancelled, heard = Cancelled(), []

    async def listen() -> None:
        heard.extend(await asyncio.gather(cancelled.wait_async(), cancelled.wait_async(60)))

    threads = [threading.Thread(target=asyncio.run, args=(listen(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(cancelled._waiters) == 6, "all wait")

    cancelled.set()

    for thread in threads:
        thread.join()
    assert heard == [True] * 6
    assert cancelled._waiters == []


def test_a_coroutine_may_wait_for_a_while_or_find_it_set():
    cancelled = Cancelled()
    assert asyncio.run(cancelled.wait_async(0.01)) is False
    cancelled.set()
    assert asyncio.run(cancelled.wait_async()) is True
    assert asyncio.run(cancelled.wait_async(0)) is True
    assert cancelled._waiters == []


def test_a_coroutine_that_waits_can_be_cancelled():
    cancelled = Cancelled()

    async def wait_shortly() -> None:
        async with asyncio.timeout(0.01):
            await cancelled.wait_async()

    with pytest.raises(TimeoutError):
        asyncio.run(wait_shortly())
    assert cancelled._waiters == []


@pytest.mark.parametrize(
    ("retry", "delay_s", "reason"),
    [
        (Retry(), 0, "its handler asked for it"),
        (Retry(2.5), 2.5, "its handler asked for it"),
        (Retry(1e9, "no room"), 1e9, "no room"),
    ],
)
def test_a_retry_has_a_delay_and_a_reason(retry, delay_s, reason):
    assert (retry.delay_s, retry.reason, str(retry)) == (delay_s, reason, reason)


@pytest.mark.parametrize("delay_s", [-0.1, 2e9, float("inf"), float("nan")])
def test_a_delay_that_is_none_is_refused(delay_s):
    with pytest.raises(ValueError, match="delay_s must be seconds from 0 to 1e9"):
        Retry(delay_s)


# --- Found by its name

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """A function that writes a module into the working directory, which is not on the path."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)

    def write(name: str, source: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


APP = "from consumers import App\napp = App()\n@app.handler()\ndef f(run): ...\n"


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("own_flows.py", "own_flows:app"),
        ("own_shop/flows.py", "own_shop.flows:app"),
        ("own_flows.py", "own_flows:Nested.app"),
    ],
)
def test_an_app_is_imported_from_the_working_directory(write, file, where):
    write(file, f"{APP}class Nested:\n    app = app\n")
    assert load_app(where).find() is not None


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("own_flows", "--app 'own_flows' must look like package.module:app"),
        (":app", "--app ':app' must look like package.module:app"),
        ("own_flows:", "--app 'own_flows:' must look like package.module:app"),
        ("no_such:app", "--app no_such:app: there is no module 'no_such' in {cwd} or among what"),
        ("own_shop.no:app", "--app own_shop.no:app: there is no module 'own_shop.no' in {cwd} or"),
        ("own_flows:ap", "--app own_flows:ap: own_flows has no 'ap'"),
        ("own_flows:app.no", "--app own_flows:app.no: own_flows has no 'app.no'"),
        ("own_flows:f", "--app own_flows:f is of type function, not a consumers.App"),
        ("own_flows:empty", "--app own_flows:empty has no handler; write one with @empty.handler"),
        ("own_lib:app", "--app own_lib:app: there is no module 'no_lib', which own_lib imports"),
    ],
)
def test_an_app_that_cannot_be_found_is_told_in_one_line(write, capsys, tmp_path, where, line):
    write("own_flows.py", f"{APP}empty = App()\n")
    write("own_shop/__init__.py", "")
    write("own_lib.py", "import no_lib")

    with pytest.raises(InvalidSettings) as refused:
        load_app(where)

    assert str(refused.value).startswith(line.format(cwd=tmp_path))
    assert "\n" not in str(refused.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise AttributeError('own fault')", "AttributeError: own fault"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_what_a_program_raises_is_told_with_its_traceback(write, capsys, source, said):
    write("own_broken.py", source)

    with pytest.raises(InvalidSettings) as refused:
        load_app("own_broken:app")

    assert str(refused.value) == f"--app own_broken:app: importing own_broken failed: {said}"
    assert "own_broken.py" in capsys.readouterr().err
