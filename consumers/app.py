"""What programs of handlers import: the app that has them, and the run that each one gets."""

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from dispatcher import ScheduledFlowRun, logger

DEFAULT = ""  # the name of the handler for runs that name none
MOST_DELAY_S = 1e9  # about 30 years
_running: ContextVar["Run | None"] = ContextVar("running", default=None)


class Retry(Exception):
    """Raise it in a handler to have the run again, `delay_s` seconds from then.

    Any worker may get it. How often is the handler's business: `Run.run_count` says which start it
    is. Raises ValueError for a delay that is none.
    """

    def __init__(self, delay_s: float = 0.0, reason: str = "") -> None:
        if not math.isfinite(delay_s) or not 0 <= delay_s <= MOST_DELAY_S:
            raise ValueError(f"delay_s must be seconds from 0 to 1e9, not {delay_s!r}")
        super().__init__(reason or "its handler asked for it")
        self.delay_s = delay_s
        self.reason = str(self)


class Cancelled:
    """Is set when the run is to stop: look at it now and then, or wait for it.

    True when it is set, and `reason` then says why: the run was cancelled, took too long, the
    worker ends, the claim was lost. Whatever the handler returns after that, the run ends so.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.reason = ""

    def __bool__(self) -> bool:
        return self._event.is_set()

    def is_set(self) -> bool:
        """Return whether the run is to stop."""
        return self._event.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the run is to stop, in a thread; return whether it is."""
        return self._event.wait(timeout_s)

    async def wait_async(self, timeout_s: float | None = None) -> bool:
        """Wait until the run is to stop, in a coroutine; return whether it is."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.append(waiter)
        try:
            if not self._event.is_set():
                async with asyncio.timeout(timeout_s):
                    await waiter[1].wait()
        except TimeoutError:
            return self._event.is_set()
        finally:
            with self._lock:
                self._waiters.remove(waiter)
        return True

    def set(self, reason: str = "") -> None:
        """Ask to stop; the worker does that, and tests of handlers may."""
        with self._lock:
            self.reason = self.reason or reason
            self._event.set()
            waiters = list(self._waiters)
        for loop, event in waiters:
            with suppress(RuntimeError):  # its loop has closed
                loop.call_soon_threadsafe(event.set)


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One start of a claimed run, as its handler gets it.

    `raw` is the payload byte for byte, `payload` the same as a model. Times are in ms; `due_ms`,
    `run_count` (starts, this one included) and `delivery` (claims) outrank those in the payload.
    Whoever guards a side effect accepts a delivery that is not smaller than the last it has seen.
    """

    id: str
    name: str = ""
    pool: str = ""
    queue: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    raw: bytes = b""
    due_ms: int = 0
    run_count: int = 1
    delivery: int = 1
    fencing_token: str = ""
    cancelled: Cancelled = field(default_factory=Cancelled)

    @cached_property
    def payload(self) -> ScheduledFlowRun:
        """The payload as a model, made when it is asked for; raises pydantic's ValidationError."""
        return ScheduledFlowRun.model_validate_json(self.raw)


Handler = Callable[[Run], object]
H = TypeVar("H", bound=Handler)


class App:
    """Handlers by name: `consumers run --type handler --app package.module:app` runs them.

    A handler is a function or a coroutine function with one argument, the `Run`.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def handler(self, name: str = DEFAULT) -> Callable[[H], H]:
        """Make a function the handler of runs that name it in `job_variables.handler`.

        Without a name it is the one for runs that name none. Raises ValueError for a name that is
        taken, TypeError for what cannot be a handler.
        """
        if not isinstance(name, str):
            raise TypeError("write @app.handler() or @app.handler('name'), with parentheses")
        name = name.strip()

        def add(handler: H) -> H:
            _check(handler)
            if name in self._handlers:
                raise ValueError(f"{_shown(name)} is there already: {self._handlers[name]!r}")
            self._handlers[name] = handler
            return handler

        return add

    def find(self, name: str = DEFAULT) -> Handler | None:
        """Return the handler of this name, the default one for none; None when there is none."""
        return self._handlers.get(name)

    def __len__(self) -> int:
        """Return how many handlers there are."""
        return len(self._handlers)

    def __str__(self) -> str:
        """Say which handlers there are."""
        return ", ".join(map(_shown, sorted(self._handlers))) or "no handler at all"

    @property
    def log(self) -> Any:
        """The worker's log; what a handler writes to it carries the id of its run."""
        run = _running.get()
        return logger(run=run.id, pool=run.pool, queue=run.queue) if run else logger()


@contextmanager
def running(run: Run) -> Iterator[None]:
    """Let `App.log` carry this run in what the present thread calls, and in its coroutines."""
    token = _running.set(run)
    try:
        yield
    finally:
        _running.reset(token)


def _check(handler: object) -> None:
    if not callable(handler):
        raise TypeError(f"a handler is a function, not {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"{handler!r} yields; a handler returns its result")
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        raise TypeError(f"{handler!r} must take one argument, the run: {error}") from None
    except ValueError:  # a function in C that does not say what it takes
        return


def _shown(name: str) -> str:
    return f"handler {name!r}" if name else "a default handler"
