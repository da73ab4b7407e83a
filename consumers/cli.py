"""`consumers run` and `consumers check`: parse, build, call."""

import os
import queue
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from consumers.names import WorkerName
from consumers.runners.process import ProcessRunner
from consumers.worker import Doors, Worker
from dispatcher import (
    Clock,
    Connection,
    DispatcherError,
    Inspector,
    InvalidSettings,
    RedisUnavailable,
    Settings,
    Store,
    __version__,
    configure_logs,
    find_url,
    read_settings,
)

READ_TIMEOUT_S = 10.0
RELEASE_S = 7.0  # children have 5 s between SIGTERM and SIGKILL


@click.group(context_settings={"auto_envvar_prefix": "CONSUMERS", "show_default": True})
@click.version_option(__version__, prog_name="consumers")
def cli() -> None:
    """Workers that claim flow runs and run them."""


def redis_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where Redis is and how logs look."""
    for option in (
        click.option("--redis-url", help="Where Redis is; else DISPATCHER_REDIS_URL."),
        click.option("--key-prefix", help="What every key begins with."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"])),
        click.option("--log-format", type=click.Choice(["auto", "console", "json"])),
    ):
        command = option(command)
    return command


@cli.command()
@click.option("--pool", required=True, help="The pool to claim from.")
@click.option("--queue", "queues", multiple=True, help="A queue to serve; none means all.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, help="Most runs at a time.")
@click.option("--name", help="Stable name; else the host and an index.")
@click.option(
    "--grace", "grace_s", type=click.FloatRange(0), default=30.0, help="Seconds to drain."
)
@redis_options
def run(
    pool: str,
    queues: tuple[str, ...],
    limit: int,
    name: str | None,
    grace_s: float,
    **flags: Any,
) -> None:
    """Claim runs and run each as a child process, until SIGTERM or Ctrl-C.

    The first signal drains: no new claims, running runs end, for up to --grace seconds. A second
    one gives back what is left and ends.
    """
    settings, _, warnings = read_settings(**flags)
    configure_logs(settings.log_level, settings.log_format)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    url = find_url(settings)
    held_name = None if name else WorkerName(pool, scope=f"{url}\0{settings.key_prefix}")
    chosen = name or (held_name.name if held_name else "")
    with_doors = partial(_open, url, settings)
    received = _receive_signals()
    command = _wait_for_pool(with_doors, pool, queues, received)
    if command is None:
        return
    worker = Worker(
        Doors(with_doors),
        ProcessRunner(pool_command=command),
        pool=pool,
        name=chosen,
        limit=limit,
        queues=queues,
    )
    sys.exit(_serve(worker, received, grace_s))


@cli.command()
@click.option("--pool", help="Only this pool.")
@click.option("--name", help="Only the worker of this name.")
@redis_options
def check(pool: str | None, name: str | None, **flags: Any) -> None:
    """Exit 0 while a worker of this host has a live lease (for health checks)."""
    settings, _, _ = read_settings(**flags)
    _, inspector = _open(find_url(settings), settings, READ_TIMEOUT_S)
    now_ms = inspector.server_time_ms()
    for each in [pool] if pool else inspector.pool_names():
        for holder in inspector.holders(each):
            mine = holder.host == socket.gethostname() and name in (None, holder.worker)
            if mine and not holder.dead and holder.lease_end_ms > now_ms:
                click.echo(f"worker {holder.worker} of pool {each} has a live lease")
                return
    raise InvalidSettings(f"no worker of host {socket.gethostname()} has a live lease")


def main() -> None:
    """Run the command line; an error of ours is one line and exit code 1."""
    if os.name == "nt":
        sys.exit("error: dispatcher runs on Linux and macOS; on Windows use WSL 2")
    try:
        cli(standalone_mode=True)
    except DispatcherError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _open(url: str, settings: Settings, read_timeout_s: float | None) -> tuple[Store, Inspector]:
    connection = Connection.open(url, read_timeout_s=read_timeout_s or READ_TIMEOUT_S)
    return Store(connection, settings.key_prefix), Inspector(connection, settings.key_prefix)


def _receive_signals() -> "queue.SimpleQueue[str]":
    # A SimpleQueue may be put to from a handler; an Event may not, its lock could be held.
    received: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: received.put(signal.Signals(n).name))
    return received


def _wait_for_pool(
    open_doors: Callable[[float | None], tuple[Store, Inspector]],
    pool: str,
    queues: tuple[str, ...],
    received: "queue.SimpleQueue[str]",
) -> str | None:
    """Return the pool's command once Redis answers; None when a signal came first."""
    _, inspector = open_doors(READ_TIMEOUT_S)
    told = False
    while True:
        try:
            command = inspector.pool(pool).command
            for name in queues:
                inspector.queue(pool, name)
            return command
        except RedisUnavailable as error:
            if type(error) is not RedisUnavailable:
                raise
            if not told:
                click.echo(f"waiting: {error}", err=True)
                told = True
        try:
            received.get(timeout=0.5)
            return None
        except queue.Empty:
            continue


def _serve(worker: Worker, received: "queue.SimpleQueue[str]", grace_s: float) -> int:
    """Run a worker until it ends by itself or a signal drains it; return the exit code."""
    worker.start()
    while not worker.ended.is_set():
        try:
            worker.drain(received.get(timeout=0.25))
            break
        except queue.Empty:
            continue
    _drain(worker, received, grace_s)
    worker.close()
    if worker.failure:
        raise worker.failure
    return 0


def _drain(worker: Worker, received: "queue.SimpleQueue[str]", grace_s: float) -> None:
    clock = Clock()
    until_s = clock.monotonic_s() + grace_s
    while received.empty() and clock.monotonic_s() < until_s:
        if worker.wait_idle(0.1):
            return
    worker.release_all()
    worker.wait_idle(RELEASE_S)
