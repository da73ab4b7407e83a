"""`consumers run` and `consumers check`: parse, build, call."""

import os
import queue
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from shlex import quote
from typing import Any
from uuid import uuid4

import click

from consumers.app import App
from consumers.loading import load_app
from consumers.names import WorkerName
from consumers.runners.handler import HandlerRunner
from consumers.runners.process import ProcessRunner
from consumers.serving import Signals, receive_signals, serve
from consumers.worker import Doors, Worker
from dispatcher import (
    AlreadyExists,
    Connection,
    DispatcherError,
    Inspector,
    InvalidSettings,
    NotFound,
    Pool,
    Queue,
    RedisUnavailable,
    Refused,
    Settings,
    Store,
    __version__,
    configure_logs,
    find_url,
    read_settings,
)

READ_TIMEOUT_S = 10.0
RQ_QUEUE = "dispatcher"
TYPES = ("process", "handler", "rq")
OpenDoors = Callable[[float | None], tuple[Store, Inspector]]


class WrongUsage(click.ClickException):
    """What was asked for does not fit together; one line and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the line to standard error."""
        click.echo(f"error: {self.message}", err=True, file=file)


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
@click.option("--create", is_flag=True, help="Create the queues of --queue that do not exist.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(TYPES),
    envvar="CONSUMERS_RUN_TYPE",
    help="What runs the runs; else the pool's type.",
)
@click.option(
    "--app",
    "where",
    metavar="MODULE:APP",
    envvar="CONSUMERS_RUN_APP",
    help="The app of a handler worker.",
)
@click.option(
    "--rq-queue",
    metavar="NAME",
    envvar="CONSUMERS_RUN_RQ_QUEUE",
    help="The RQ queue to which a worker of type rq hands runs over.",
    show_default="dispatcher",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, help="Most runs at a time.")
@click.option("--name", help="Stable name; else the host and an index.")
@click.option(
    "--grace", "grace_s", type=click.FloatRange(0), default=30.0, help="Seconds to drain."
)
@redis_options
def run(
    *,
    pool: str,
    queues: tuple[str, ...],
    create: bool,
    kind: str | None,
    where: str | None,
    rq_queue: str | None,
    limit: int,
    name: str | None,
    grace_s: float,
    **flags: Any,
) -> None:
    """Claim runs, and run each as a child process, with a handler or in RQ, until a signal comes.

    The first signal drains: no new claims, running runs end, for up to --grace seconds. A second
    one gives back what is left and ends.
    """
    settings, _, warnings = read_settings(**flags)
    configure_logs(settings.log_level, settings.log_format)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if create and not queues:
        raise WrongUsage("--create creates what --queue names: say which")
    app = _load(where, kind)  # before Redis is asked: what is wrong with it is said at once
    url = find_url(settings)
    held_name = None if name else WorkerName(pool, scope=f"{url}\0{settings.key_prefix}")
    chosen = name or (held_name.name if held_name else "")
    with_doors = partial(_open, url, settings)
    received = receive_signals()
    if (found := _wait_for_pool(with_doors, pool, queues, received, create=create)) is None:
        return
    kind = _kind(found, kind, has_app=app is not None)
    if rq_queue and kind != "rq":
        raise WrongUsage(f"--rq-queue is for workers of --type rq, not {kind}")
    runs = _runs(kind, app, where or "", with_doors, rq_queue or RQ_QUEUE)
    worker = Worker(
        Doors(with_doors), pool=pool, name=chosen, limit=limit, queues=queues, kind=kind, **runs
    )
    sys.exit(serve(worker, received, grace_s))


@cli.command()
@click.option("--pool", help="Only this pool.")
@click.option("--name", help="Only the worker of this name.")
@redis_options
def check(pool: str | None, name: str | None, **flags: Any) -> None:
    """Exit 0 while a worker of this host has a live lease (for health checks)."""
    settings, _, _ = read_settings(**flags)
    _, inspector = _open(find_url(settings), settings, READ_TIMEOUT_S)
    for each in [pool] if pool else inspector.pool_names():
        now_ms = inspector.server_time_ms(each)
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


def _load(where: str | None, kind: str | None) -> App | None:
    """Return the app that is named, if one is."""
    if where is None:
        if kind == "handler":
            raise WrongUsage("a handler worker needs an app: say --app package.module:app")
        return None
    if kind not in (None, "handler"):
        raise WrongUsage(f"--app is for workers of --type handler, not {kind}")
    try:
        return load_app(where)
    except InvalidSettings as error:
        raise WrongUsage(str(error)) from None


def _kind(pool: Pool, kind: str | None, *, has_app: bool) -> str:
    """Return the type of the worker: the one that was asked for, else that of the pool."""
    if pool.handout == "poll":
        raise Refused(
            f"pool {pool.name!r} is handed out by polling, so workers have nothing to claim; "
            f"`dispatcher pool set {quote(pool.name)} --handout stream` changes that"
        )
    chosen = kind or pool.type
    of_pool = f"pool {pool.name!r} is of type {pool.type!r}"
    if chosen not in TYPES:
        raise WrongUsage(f"{of_pool}: say with --type what runs its runs: {', '.join(TYPES)}")
    if chosen == "handler" and not has_app:
        raise WrongUsage(f"{of_pool}: say --app package.module:app")
    if chosen != "handler" and has_app:
        raise WrongUsage(f"{of_pool}: an --app is for workers of --type handler")
    return chosen


def _runs(
    kind: str, app: App | None, where: str, open_doors: OpenDoors, rq_queue: str
) -> dict[str, Any]:
    """Return what runs the runs of a worker of this type, as the arguments that it takes."""
    if kind == "rq":
        from consumers.runners.rq_hands import Hands, Nothing, refuse_at_start  # RQ is not small

        doors = open_doors(READ_TIMEOUT_S)
        refuse_at_start(doors, rq_queue)
        return {"runner": Nothing(), "running": partial(Hands, doors=doors, rq_queue=rq_queue)}
    runner = HandlerRunner(app, where=where) if app is not None else ProcessRunner()
    return {"runner": runner, "configure": runner.configure}


def _wait_for_pool(
    open_doors: OpenDoors,
    pool: str,
    queues: tuple[str, ...],
    received: Signals,
    *,
    create: bool,
) -> Pool | None:
    """Return the pool once Redis answers; None when a signal came first."""
    store, inspector = open_doors(READ_TIMEOUT_S)
    told = False
    while True:
        try:
            found = inspector.pool(pool)
            for name in queues:
                _check_queue(store if create else None, inspector, pool, name)
            return found
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


def _check_queue(store: Store | None, inspector: Inspector, pool: str, name: str) -> None:
    """Raise NotFound for a queue that is not there, or create it when a store is given."""
    try:
        inspector.queue(pool, name)
    except NotFound as error:
        if store is None:
            raise NotFound(f"{error}, or with --create") from None
        with suppress(AlreadyExists):  # another worker was quicker
            store.create_queue(Queue(name=name, pool=pool, id=str(uuid4()), priority=0))
            click.echo(f"created queue {name} of pool {pool}", err=True)
