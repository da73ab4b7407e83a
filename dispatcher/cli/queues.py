"""`dispatcher queue`: create, ls, show."""

from uuid import UUID, uuid4

import click

from dispatcher.cli.fields import queue_fields
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.options import as_json, pool_name, queue_name
from dispatcher.cli.output import echo_fields, echo_json, echo_table, shown_time
from dispatcher.cli.session import Session
from dispatcher.records import Queue

COLUMNS = ("QUEUE", "PRIORITY", "SCHEDULED", "UNCLAIMED", "CLAIMED", "ID")
_of_pool = click.option("--pool", type=pool_name, required=True, help="The pool of the queue.")


@click.group(cls=Group)
def queue() -> None:
    """Queues: what a pool's workers claim from, by priority."""


@queue.command()
@click.argument("name", type=queue_name)
@_of_pool
@click.option(
    "--priority", type=click.IntRange(1, 1_000_000), help="1 is first; else after all others."
)
@click.option("--id", "queue_id", type=click.UUID, help="Its id, such as that of a Prefect queue.")
@click.option(
    "--max-unclaimed",
    type=click.IntRange(1, 1_000_000),
    default=1_000,
    show_default=True,
    help="Most runs that are dispatched ahead of their claims.",
)
@as_json
@pass_session
def create(
    session: Session,
    /,
    *,
    name: str,
    pool: str,
    priority: int | None,
    queue_id: UUID | None,
    max_unclaimed: int,
    as_json: bool,
) -> None:
    """Create a queue; a priority that is taken moves the others down."""
    wanted = Queue(
        name=name,
        pool=pool,
        id=str(queue_id or uuid4()),
        priority=priority or 0,
        max_unclaimed=max_unclaimed,
    )
    session.store.create_queue(wanted, priority=priority)
    if as_json:
        echo_json(queue_fields(session.inspector.queue(pool, name)))
    else:
        click.echo(f"created {pool}/{name} {wanted.id}")


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
            ("max unclaimed", found.max_unclaimed),
            ("scheduled", found.scheduled),
            ("unclaimed", found.unclaimed),
            ("claimed", found.claimed),
            ("created", shown_time(found.created_ms)),
        )
    )


def row(queue: Queue) -> tuple[object, ...]:
    """Return a queue's row of a table."""
    counts = (queue.priority, queue.scheduled, queue.unclaimed, queue.claimed)
    return (queue.name, *counts, queue.id)
