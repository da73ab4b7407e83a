"""`dispatcher queue`: create, set, ls, show, pause, resume, delete."""

from typing import Any
from uuid import UUID, uuid4

import click

from dispatcher.cli.deleting import delete_options, delete_queue
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.options import (
    as_json,
    count,
    duration,
    given_settings,
    or_none,
    pool_name,
    queue_name,
    with_options,
)
from dispatcher.cli.output import echo_fields, echo_json, echo_table, shown_span, shown_time
from dispatcher.cli.pauses import intake_option, pause_options, shown_pauses
from dispatcher.cli.pauses import pause as pause_what
from dispatcher.cli.pauses import resume as resume_what
from dispatcher.cli.session import Session
from dispatcher.shapes import queue_fields
from dispatcher.stored import Queue

COLUMNS = (
    *("QUEUE", "PRIORITY", "LIMIT", "SCHEDULED", "WAITING", "UNCLAIMED", "CLAIMED"),
    *("ID", "PAUSED"),
)
_of_pool = click.option("--pool", type=pool_name, required=True, help="The pool of the queue.")
_settings = with_options(
    click.option(
        "--priority",
        type=click.IntRange(1, 1_000_000),
        help="1 is first; a new queue comes after all others.",
    ),
    click.option(
        "--limit",
        type=or_none(count),
        metavar="N|none",
        help="Most runs that workers have at a time; 0 stops hand-out.",
    ),
    click.option(
        "--max-unclaimed",
        type=click.IntRange(1, 1_000_000),
        help="Most runs that are dispatched ahead of their claims.  [1000]",
    ),
    click.option(
        "--max-deliveries",
        type=click.IntRange(1, 1_000),
        help="How often a run may be lost while running; then it is dead-lettered.  [3]",
    ),
    click.option(
        "--on-worker-lost",
        type=click.Choice(["requeue", "crash"]),
        help="What becomes of a run whose worker was lost while running it.  [requeue]",
    ),
    click.option(
        "--timeout",
        "timeout_ms",
        type=or_none(duration(1)),
        metavar="DURATION|none",
        help="How long a run may run; then it has FAILED.",
    ),
    click.option(
        "--cancel-grace",
        "cancel_grace_ms",
        type=duration(0),
        metavar="DURATION",
        help="How long a run that is stopped may take to end; then it is killed.  [30s]",
    ),
    click.option(
        "--late-policy",
        type=click.Choice(["all", "latest"]),
        help="Which late runs of a deployment still run.  [all]",
    ),
    click.option(
        "--late-drop",
        "late_drop_ms",
        type=or_none(duration(1)),
        metavar="DURATION|none",
        help="Runs that are late by more than this are cancelled.",
    ),
)


@click.group(cls=Group)
def queue() -> None:
    """Queues: what a pool's workers claim from, by priority."""


@queue.command()
@click.argument("name", type=queue_name)
@_of_pool
@click.option("--id", "queue_id", type=click.UUID, help="Its id, such as that of a Prefect queue.")
@_settings
@as_json
@pass_session
def create(
    session: Session,
    /,
    *,
    name: str,
    pool: str,
    queue_id: UUID | None,
    priority: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Create a queue; a priority that is taken moves the others down."""
    settings = given_settings(given)
    wanted = Queue(
        name=name, pool=pool, id=str(queue_id or uuid4()), priority=priority or 0, **settings
    )
    session.store.create_queue(wanted, priority=priority)
    line = f"created {pool}/{name} {wanted.id}"
    _tell(session, line, pool=pool, name=name, as_json=as_json)


@queue.command("set")
@click.argument("name", type=queue_name)
@_of_pool
@_settings
@as_json
@pass_session
def set_settings(
    session: Session, /, *, name: str, pool: str, priority: int | None, as_json: bool, **given: Any
) -> None:
    """Change settings of a queue; a priority that is taken moves the others down."""
    settings = given_settings(given)
    if not settings and priority is None:
        raise click.UsageError("give at least one setting to change")
    session.store.set_queue(pool, name, settings, priority=priority, by=session.by)
    _tell(session, f"changed {pool}/{name}", pool=pool, name=name, as_json=as_json)


@queue.command()
@_of_pool
@as_json
@pass_session
def ls(session: Session, *, pool: str, as_json: bool) -> None:
    """List a pool's queues, highest priority first."""
    queues = session.inspector.queues(pool)
    if not as_json:
        echo_table(COLUMNS, map(row, queues))
        return
    for each in queues:
        echo_json(queue_fields(each))


@queue.command()
@click.argument("name", type=queue_name)
@_of_pool
@as_json
@pass_session
def show(session: Session, *, name: str, pool: str, as_json: bool) -> None:
    """Show a queue with how many runs are where."""
    found = session.inspector.queue(pool, name)
    if as_json:
        echo_json(queue_fields(found))
        return
    echo_fields(
        (
            ("name", found.name),
            ("pool", found.pool),
            ("id", found.id),
            ("priority", found.priority),
            ("limit", _or_none(found.limit)),
            ("pause", shown_pauses(found)),
            ("max unclaimed", found.max_unclaimed),
            ("max deliveries", found.max_deliveries),
            ("on worker lost", found.on_worker_lost),
            ("timeout", _or_none(shown_span(found.timeout_ms) or None)),
            ("cancel grace", shown_span(found.cancel_grace_ms)),
            ("late policy", found.late_policy),
            ("late drop", _or_none(shown_span(found.late_drop_ms) or None)),
            ("scheduled", found.scheduled),
            ("waiting", found.waiting),
            ("unclaimed", found.unclaimed),
            ("claimed", found.claimed),
            ("skipped", found.skipped),
            ("created", shown_time(found.created_ms)),
        )
    )


@queue.command()
@click.argument("name", type=queue_name)
@_of_pool
@pause_options
@as_json
@pass_session
def pause(session: Session, /, *, name: str, pool: str, as_json: bool, **options: Any) -> None:
    """Hand out nothing of a queue, or with --intake accept nothing into it, until it is resumed."""
    pause_what(session, pool, name, **options)
    shown = shown_pauses(session.inspector.queue(pool, name))
    _tell(session, f"{pool}/{name}: {shown}", pool=pool, name=name, as_json=as_json)


@queue.command()
@click.argument("name", type=queue_name)
@_of_pool
@intake_option
@as_json
@pass_session
def resume(session: Session, *, name: str, pool: str, intake: bool, as_json: bool) -> None:
    """End a pause of a queue."""
    line = resume_what(session, pool, name, intake=intake)
    _tell(session, line, pool=pool, name=name, as_json=as_json)


@queue.command()
@click.argument("name", type=queue_name)
@_of_pool
@delete_options
@as_json
@pass_session
def delete(
    session: Session, *, name: str, pool: str, force: bool, timeout_ms: int, as_json: bool
) -> None:
    """Delete a queue that has no runs left, or with --force cancel what it has first."""
    delete_queue(session, pool, name, force=force, timeout_s=timeout_ms / 1000, as_json=as_json)


def row(queue: Queue) -> tuple[object, ...]:
    """Return a queue's row of a table."""
    counts = (queue.scheduled, queue.waiting, queue.unclaimed, queue.claimed)
    rank = (queue.name, queue.priority, _or_none(queue.limit))
    return (*rank, *counts, queue.id, shown_pauses(queue))


def _tell(session: Session, line: str, *, pool: str, name: str, as_json: bool) -> None:
    if as_json:
        echo_json(queue_fields(session.inspector.queue(pool, name)))
    else:
        click.echo(line)


def _or_none(value: object) -> object:
    return "none" if value is None else value
