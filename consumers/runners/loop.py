"""One event loop in a thread of its own, for the coroutines of all runs of a worker."""

import asyncio
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from consumers.runners import RUN_THREADS, Stop

CLOSE_S = 1.0


class Loop:
    """Begins with the first coroutine; `stop_grace_s` is for stops that bring no grace."""

    def __init__(self, stop_grace_s: float) -> None:
        self._stop_grace_s = stop_grace_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Named like the threads of runs: what coroutines hand to it is their work too.
        self._executor = ThreadPoolExecutor(thread_name_prefix=RUN_THREADS)
        self._thread: threading.Thread | None = None

    def wait(self, awaitable: Awaitable[Any], stop: Stop) -> Any:
        """Run to the end, and return or raise as it does; cancelled when a stop's grace is over.

        Called from another thread, whose context variables it sees.
        """
        loop = self._begun()
        work = _Work(awaitable)
        loop.call_soon_threadsafe(work.begin)

        def ask() -> None:
            grace_s = self._stop_grace_s if stop.grace_s is None else stop.grace_s
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(work.cancel_after, grace_s)

        stop.on_request(ask)
        return work.wait()

    def close(self) -> None:
        """Cancel what is left and end the thread; a loop that is blocked is left to its own."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        with suppress(RuntimeError):  # it has closed already
            loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                loop.set_default_executor(self._executor)
                serve = partial(_serve, loop)
                self._thread = threading.Thread(target=serve, name="coroutines", daemon=True)
                self._thread.start()
            return self._loop


class _Work:
    """One coroutine of a run: begun and cancelled in the loop, awaited in the run's thread."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Make a task of it."""
        self._task = asyncio.get_running_loop().create_task(self._settle())
        self._task.add_done_callback(self._end)

    def cancel_after(self, grace_s: float) -> None:
        """Cancel it once, when the grace is over; a shorter one takes the place of a longer one."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and not self._task.cancelling():
            self._timer = asyncio.get_running_loop().call_later(grace_s, self._task.cancel)

    def wait(self) -> Any:
        """Return its result, or raise its error."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result

    async def _settle(self) -> None:
        try:
            self._result = await self._awaitable
        except BaseException as error:  # noqa: BLE001  sys.exit() in one must not end the loop
            self._error = error

    def _end(self, task: "asyncio.Task[None]") -> None:
        if self._timer is not None:
            self._timer.cancel()
        if task.cancelled():  # before its first step
            self._error = asyncio.CancelledError()
        self._done.set()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(_wait_for_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _wait_for_all() -> None:
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
