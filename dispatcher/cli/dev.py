"""`dispatcher dev`: a server, a dispatcher and a worker on one machine, until Ctrl-C."""

import sys
import threading
from contextlib import closing
from itertools import takewhile
from typing import BinaryIO
from uuid import uuid4

import click

from dispatcher.cli.children import WorkerProcess
from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import open_file
from dispatcher.cli.progress import Screen
from dispatcher.cli.receipts import Feed, Receipts
from dispatcher.cli.serving import http_options, own_server, shortened
from dispatcher.cli.session import Session
from dispatcher.cli.submit import at_option, new_id_option
from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.embedded import EmbeddedServer
from dispatcher.errors import DispatcherError
from dispatcher.guardian import Guardian
from dispatcher.inspector import Inspector
from dispatcher.intake import parse_when, read_elements
from dispatcher.logs import logger
from dispatcher.producer import PATIENCE_S, Producer, Target
from dispatcher.service import Runnable, Service, Together, run_until_signal
from dispatcher.settings import Settings
from dispatcher.store import Store
from dispatcher.stored import Pool

POOL = "default"
WORKER = "dev"
STOP_FEEDING_S = 2.0


@click.command(cls=Command)
@click.option("--submit", "file", metavar="FILE", help="Submit these runs once all is there.")
@at_option
@new_id_option
@click.option("--limit", type=click.IntRange(1, 10_000), help="Most runs that run at a time.")
@http_options("Serve HTTP here, by default on a port of this machine; `off` serves none.")
@pass_session
def dev(
    session: Session, *, file: str | None, at: str | None, new_id: bool, limit: int | None
) -> None:
    """Serve on this machine alone: a server with its data on disk, a dispatcher, one worker.

    Other commands find it while no DISPATCHER_REDIS_URL is set. Ctrl-C ends it, its data stays.
    """
    session.configure_logs()
    if file is None and (at or new_id):
        raise click.UsageError("--at and --new-id are for --submit FILE")
    if at:
        parse_when(at, Clock().now_ms())  # so that a mistake is told before anything starts
    source = open_file(file) if file else None
    settings = session.settings
    with Guardian() as guardian, EmbeddedServer(guardian=guardian) as server:
        service = Service(server.url, settings)
        http = own_server(server.url, settings, server.state_dir, service.heartbeats)
        _announce(server, settings)
        serves = _prepare_pool(server.url, settings)
        arguments = ["--pool", POOL, "--name", WORKER, *(["--limit", str(limit)] if limit else [])]
        worker = WorkerProcess(server.url, settings, guardian, arguments=arguments)
        feeding = Feeding(server.url, settings, source, at=at, new_id=new_id) if source else None
        parts = Together(service, http) if http else service
        development = Development(server, parts, worker if serves else None, feeding)
        code = run_until_signal(development)
    sys.exit(code)


class Development:
    """The parts of `dispatcher dev`, started in order, watched, and stopped in reverse."""

    def __init__(
        self,
        server: EmbeddedServer,
        service: Runnable,
        worker: WorkerProcess | None,
        feeding: "Feeding | None",
    ) -> None:
        self._server = server
        self._service = service
        self._worker = worker
        self._feeding = feeding
        self._log = logger()

    def start(self) -> None:
        """Start the dispatcher and the worker, then submit."""
        self._service.start()
        if self._worker:
            self._worker.start()
        if self._feeding:
            self._feeding.start()

    def check(self) -> None:
        """Start again what has died; raises what cannot be mended."""
        if not self._server.is_running():
            self._log.warning("server-ended", log=str(self._server.log_path))
            self._server.stop()
            self._server.start()
        self._service.check()
        if self._worker:
            self._worker.check()

    def stop(self) -> None:
        """Stop submitting, drain the worker, stop dispatching; the server is the caller's."""
        if self._feeding:
            self._feeding.stop()
        if self._worker:
            self._worker.stop()
        self._service.stop()


class Feeding:
    """Submits a file on a thread of its own, so that Ctrl-C need not wait for its end."""

    def __init__(
        self, url: str, settings: Settings, source: BinaryIO, *, at: str | None, new_id: bool
    ) -> None:
        self._settings = settings
        self._source = source
        self._at = at
        self._new_id = new_id
        self._stop = threading.Event()
        self._connection = Connection.open(url, patience_s=PATIENCE_S, stop=self._stop)
        self._thread = threading.Thread(target=self._run, name="submit", daemon=True)

    def start(self) -> None:
        """Begin, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Submit nothing more."""
        self._stop.set()
        self._thread.join(STOP_FEEDING_S)

    def _run(self) -> None:
        inspector = Inspector(self._connection, self._settings.key_prefix)
        store = Store(self._connection, self._settings.key_prefix)
        most_bytes = self._settings.max_payload_bytes
        producer = Producer(store, inspector, max_payload_bytes=most_bytes)
        with self._source, closing(producer):
            elements = read_elements(self._source, max_payload_bytes=most_bytes)
            wanted = takewhile(lambda _: not self._stop.is_set(), elements)
            feed = Feed(producer, Receipts(as_json=False), Screen(), new_id=self._new_id)
            target = Target(POOL, create=True)
            try:
                due_ms = parse_when(self._at, inspector.server_time_ms()) if self._at else None
                feed.run(wanted, target=target, due_ms=due_ms)
            except (DispatcherError, BrokenPipeError) as error:
                logger().error("submit-ended", reason=str(error))


def _announce(server: EmbeddedServer, settings: Settings) -> None:
    click.echo(f"data and the server's log are in {shortened(server.state_dir)}", err=True)
    click.echo(f"reached at {server.url}", err=True)
    if settings.redis_url or settings.redis_url_file:
        text = "warning: DISPATCHER_REDIS_URL is set: other commands go there, not to this server"
    else:
        text = "other commands of yours find it by themselves; Ctrl-C ends it, its data stays"
    click.echo(text, err=True)


def _prepare_pool(url: str, settings: Settings) -> bool:
    """Create the first pool; return whether there is one for our worker."""
    connection = Connection.open(url, patience_s=PATIENCE_S)
    with closing(connection):
        inspector = Inspector(connection, settings.key_prefix)
        names = inspector.pool_names()
        if not names:
            first = Pool(name=POOL, id=str(uuid4()), type="process")
            Store(connection, settings.key_prefix).create_pool(first, default_queue_id=str(uuid4()))
            return True
        kind = inspector.pool(POOL).type if POOL in names else ""
    if not kind:
        click.echo(f"warning: there is no pool {POOL!r}, so no worker is started", err=True)
    elif kind != "process":
        text = f"pool {POOL!r} is of type {kind!r}, so no worker is started"
        click.echo(f"warning: {text}; start one with `consumers run --pool {POOL}`", err=True)
    return kind == "process"
