"""`dispatcher submit`: accept runs from a file, from standard input, or described by options."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import as_json, open_file, pool_name, queue_name
from dispatcher.cli.progress import Screen
from dispatcher.cli.receipts import Feed, Receipts
from dispatcher.cli.session import Session
from dispatcher.cli.waiting import follow
from dispatcher.intake import Element, compose_run, parse_when, read_elements
from dispatcher.producer import Target

new_id_option = click.option("--new-id", is_flag=True, help="Give each run an id of its own.")
at_option = click.option(
    "--at", metavar="WHEN", help="When runs are due: now, +10m, or 2026-01-31T08:00:00Z."
)


@click.command(cls=Command)
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("--pool", type=pool_name, help="The pool; else the run's work_pool_id says which.")
@click.option(
    "--queue", type=queue_name, help="The queue; else the run says which, or it is default."
)
@click.option("--create", is_flag=True, help="Create the pool or queue that is missing.")
@at_option
@new_id_option
@click.option("--wait", is_flag=True, help="Follow the runs; exit 0 if all of them complete.")
@click.option("--name", help="Instead of FILE: the name of one run.")
@click.option(
    "--param",
    "params",
    metavar="NAME=VALUE",
    multiple=True,
    help="Instead of FILE: a parameter; JSON, else text.",
)
@click.option("--command", help="Instead of FILE: what a process pool runs for it.")
@click.option("--tag", "tags", multiple=True, help="Instead of FILE: a tag.")
@as_json
@pass_session
def submit(
    session: Session,
    /,
    *,
    file: str | None,
    pool: str | None,
    queue: str | None,
    create: bool,
    at: str | None,
    new_id: bool,
    wait: bool,
    as_json: bool,
    **described: Any,
) -> None:
    """Accept flow runs from FILE, standard input (-), or one described by options.

    FILE holds the objects of Prefect's get_scheduled_flow_runs, or bare flow runs: an array, one
    object, or one object per line.
    """
    if (file is None) != any(described.values()):
        raise click.UsageError("give FILE, - for standard input, or --name, --param, --command")
    receipts = Receipts(as_json=as_json, follow=wait)
    with _opened(file) as source:
        check_target(session, pool, queue, create=create)
        due_ms = None if at is None else parse_when(at, session.inspector.server_time_ms())
        elements = _elements(session, source, due_ms, **described)
        feed = Feed(session.producer(), receipts, Screen(source), new_id=new_id)
        feed.run(elements, target=Target(pool, queue, create), due_ms=due_ms)
    completed = not wait or _follow(session, receipts)
    sys.exit(0 if completed and not receipts.refused else 1)


def check_target(session: Session, pool: str | None, queue: str | None, *, create: bool) -> None:
    """Raise NotFound for a pool or queue that was named, rather than refuse every single run."""
    inspector = session.inspector
    inspector.server_time_ms()  # a server that is not there is not waited for
    if pool and not create:
        inspector.pool(pool)
        if queue:
            inspector.queue(pool, queue)


@contextmanager
def _opened(path: str | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
    elif path == "-":
        yield sys.stdin.buffer
    else:
        with open_file(path) as source:
            yield source


def _elements(
    session: Session,
    source: BinaryIO | None,
    due_ms: int | None,
    *,
    name: str | None,
    params: tuple[str, ...],
    command: str | None,
    tags: tuple[str, ...],
) -> Iterable[Element]:
    if source is not None:
        return read_elements(source, max_payload_bytes=session.settings.max_payload_bytes)
    raw = compose_run(
        name=name, parameters=_parameters(params), command=command, tags=tags, due_ms=due_ms
    )
    return [Element("options", raw)]


def _parameters(given: tuple[str, ...]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for each in given:
        name, mark, text = each.partition("=")
        if not name or not mark:
            raise click.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="'--param'")
        if name in parameters:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="'--param'")
        parameters[name] = _value(text)
    return parameters


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _follow(session: Session, receipts: Receipts) -> bool:
    """Write a line for each run that ends; return whether all of them completed."""
    completed = True
    for run_id, run in follow(session.patient_inspector(), receipts.followed):
        click.echo(receipts.end(run_id, run))
        completed = completed and run is not None and run.state_type == "COMPLETED"
    return completed
