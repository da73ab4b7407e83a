"""`dispatcher run`: dispatching, recovery and upkeep in loops, started and stopped together."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from dispatcher.connection import Connection
from dispatcher.dispatching import Dispatcher
from dispatcher.errors import DispatcherError, RedisRefused, RedisUnavailable
from dispatcher.heartbeats import Heartbeats
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.records import Hint
from dispatcher.recovery import Recovery
from dispatcher.settings import Settings
from dispatcher.store import Store
from dispatcher.upkeep import Upkeep

STOP_WITHIN_S = 0.5
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.5


class Runnable(Protocol):
    """What `run_until_signal` runs: a service alone, or with what it needs around it."""

    def start(self) -> None:
        """Start, and return."""

    def stop(self) -> None:
        """End what was started."""

    def check(self) -> None:
        """Raise what ended it for good; called every half second."""


class Together:
    """Several parts as one: started in order, stopped in reverse."""

    def __init__(self, *parts: Runnable) -> None:
        self._parts = parts

    def start(self) -> None:
        """Start each part."""
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Stop each part, the last one first."""
        for part in reversed(self._parts):
            part.stop()

    def check(self) -> None:
        """Raise what ended a part for good."""
        for part in self._parts:
            part.check()


class Service:
    """A dispatcher with its recovery and upkeep, on connections of their own; `stop()` ends it.

    `heartbeats` are those of the loops that runs wait for: `dispatch` and `recovery`.
    """

    def __init__(self, url: str, settings: Settings, *, pools: Sequence[str] = ()) -> None:
        self._log = logger()
        self._sweep_s = settings.sweep_s
        self.heartbeats = Heartbeats("dispatch", "recovery")
        self._stop = threading.Event()
        self._wakeup = threading.Event()
        self._new_pool = threading.Event()
        self._hints: queue.SimpleQueue[Hint | None] = queue.SimpleQueue()
        self._dispatcher = Dispatcher(
            *_doors(url, settings),
            pools=pools,
            sweep_s=settings.sweep_s,
            on_new_pool=self._new_pool.set,
        )
        self._recovery = Recovery(*_doors(url, settings), pools=self._dispatcher.pools)
        self._upkeep = Upkeep(
            *_doors(url, settings),
            pools=self._dispatcher.pools,
            every_s=settings.repair_s,
            all_pools=not pools,
        )
        # Waits for messages without end, so without a read timeout; keepalive notices a dead peer.
        self._listener = Inspector(Connection.open(url, read_timeout_s=None), settings.key_prefix)
        self._subscription = self._listener.subscribe(pools)
        self._failure: DispatcherError | None = None
        self._threads = [
            threading.Thread(target=target, name=target.__name__, daemon=True)
            for target in (self._listen, self._dispatch, self._recover, self._repair)
        ]

    def start(self) -> None:
        """Start the loops; they wait for a Redis that is not there yet."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the loops; a step in flight is left to Redis, all of them may be cut anywhere."""
        self._stop.set()
        self._wakeup.set()
        self._new_pool.set()
        self._subscription.close()
        for thread in self._threads:
            thread.join(STOP_WITHIN_S / len(self._threads))

    def check(self) -> None:
        """Raise what ended a loop for good, such as a refused password."""
        if self._failure:
            raise self._failure

    def _listen(self) -> None:
        messages = self._subscription.messages()

        def listen() -> None:
            message = next(messages)
            hint = self._listener.hint(*message) if message else None
            if message is None or hint:
                self._hints.put(hint)
                self._wakeup.set()

        def subscribe_again() -> None:
            nonlocal messages
            messages = self._subscription.messages()

        self._until_stopped(listen, after_outage=subscribe_again)

    def _dispatch(self) -> None:
        def dispatch() -> None:
            self._wakeup.clear()
            while not self._hints.empty():
                hint = self._hints.get()
                if hint:
                    self._dispatcher.hear(hint)
                else:  # the subscription is confirmed: from here on nothing is missed
                    self._dispatcher.resync()
            idle_s = self._dispatcher.run_once(self._wakeup.is_set)
            # With much to do, the next turn itself goes on until a sweep is due.
            self.heartbeats.beat("dispatch", next_in_s=idle_s + self._sweep_s)
            self._wakeup.wait(idle_s)

        self._until_stopped(dispatch, after_outage=lambda: self._hints.put(None))

    def _recover(self) -> None:
        def recover() -> None:
            self._new_pool.clear()
            idle_s = self._recovery.run_once()
            self.heartbeats.beat("recovery", next_in_s=idle_s)
            self._new_pool.wait(idle_s)

        self._until_stopped(recover)

    def _repair(self) -> None:
        self._until_stopped(lambda: self._stop.wait(self._upkeep.run_once()))

    def _until_stopped(
        self, step: Callable[[], object], *, after_outage: Callable[[], None] | None = None
    ) -> None:
        """Repeat a loop's step; wait out outages; end everything on what waiting cannot heal."""
        loop, pause_s, reached = threading.current_thread().name, RETRY_FIRST_S, False
        while not self._stop.is_set():
            try:
                step()
                if pause_s > RETRY_FIRST_S:
                    self._log.info("redis-back", loop=loop.strip("_"))
                pause_s, reached = RETRY_FIRST_S, True
            except RedisUnavailable as error:
                if self._stop.is_set():
                    return
                if isinstance(error, RedisRefused) and not reached:
                    self._failure = error
                    return
                if pause_s == RETRY_FIRST_S:
                    self._log.warning("redis-away", loop=loop.strip("_"), reason=str(error))
                if after_outage:
                    after_outage()
                self._stop.wait(pause_s)
                pause_s = min(RETRY_MOST_S, pause_s * 2)
            except DispatcherError as error:
                self._failure = error
                return


def run_until_signal(service: Runnable) -> int:
    """Run a service until SIGTERM, Ctrl-C or a failure; return the exit code."""
    log = logger()
    with _signals() as received:
        service.start()
        log.info("started", pid=os.getpid())
        try:
            while (name := _next_signal(received)) is None:
                service.check()
            log.info("stopping", reason=name)
            return 0
        finally:
            service.stop()


def _next_signal(received: "queue.SimpleQueue[str]") -> str | None:
    try:
        return received.get(timeout=0.5)
    except queue.Empty:
        return None


@contextmanager
def _signals() -> Iterator["queue.SimpleQueue[str]"]:
    # A SimpleQueue may be put to from a handler; an Event may not, its lock could be held.
    received: queue.SimpleQueue[str] = queue.SimpleQueue()
    chosen = (signal.SIGTERM, signal.SIGINT)
    before = {
        number: signal.signal(number, lambda n, _: received.put(signal.Signals(n).name))
        for number in chosen
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _doors(url: str, settings: Settings) -> tuple[Store, Inspector]:
    connection = Connection.open(url)
    return Store(connection, settings.key_prefix), Inspector(connection, settings.key_prefix)
