"""`dispatcher pool`: create, ls, show."""

from uuid import UUID, uuid4

import click

from dispatcher.cli.fields import pool_fields, queue_fields
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.options import as_json, duration, pool_name
from dispatcher.cli.output import echo_fields, echo_json, echo_table, shown_span, shown_time
from dispatcher.cli.queues import COLUMNS as QUEUE_COLUMNS
from dispatcher.cli.queues import row as queue_row
from dispatcher.cli.session import Session
from dispatcher.errors import InvalidRun
from dispatcher.job_configuration import process_job
from dispatcher.records import Pool


@click.group(cls=Group)
def pool() -> None:
    """Pools: where runs go, and what claims them."""


@pool.command()
@click.argument("name", type=pool_name)
@click.option("--type", "kind", default="process", show_default=True, help="What runs its runs.")
@click.option("--id", "pool_id", type=click.UUID, help="Its id, such as that of a Prefect pool.")
@click.option("--command", default="", help="What runs of a process pool run that bring none.")
@click.option(
    "--lease",
    "lease_ms",
    type=duration(500),
    default="15s",
    show_default=True,
    help="How long a silent worker keeps its runs; it renews three times as often.",
)
@click.option(
    "--retention",
    "retention_ms",
    type=duration(1_000),
    default="24h",
    show_default=True,
    help="How long ended runs are kept, and their ids recognised.",
)
@click.option("--keep-payload", is_flag=True, help="Keep what was accepted beyond the end.")
@as_json
@pass_session
def create(
    session: Session,
    /,
    *,
    name: str,
    kind: str,
    pool_id: UUID | None,
    command: str,
    lease_ms: int,
    retention_ms: int,
    keep_payload: bool,
    as_json: bool,
) -> None:
    """Create a pool with its queue `default`."""
    if command:
        _check_command(command)
    wanted = Pool(
        name=name,
        id=str(pool_id or uuid4()),
        type=kind,
        command=command,
        lease_ms=lease_ms,
        renew_ms=lease_ms // 3,
        retention_ms=retention_ms,
        keep_payload=keep_payload,
    )
    is_new = session.store.create_pool(wanted, default_queue_id=str(uuid4()))
    if as_json:
        echo_json(pool_fields(session.inspector.pool(name)))
    else:
        click.echo(f"{'created' if is_new else 'unchanged'} {name} {wanted.id}")


@pool.command()
@as_json
@pass_session
def ls(session: Session, *, as_json: bool) -> None:
    """List all pools."""
    pools = session.inspector.pools()
    if as_json:
        for each in pools:
            echo_json(pool_fields(each))
        return
    rows = [
        (each.name, each.type, each.id, shown_span(each.lease_ms), each.command) for each in pools
    ]
    echo_table(("NAME", "TYPE", "ID", "LEASE", "COMMAND"), rows)


@pool.command()
@click.argument("name", type=pool_name)
@as_json
@pass_session
def show(session: Session, *, name: str, as_json: bool) -> None:
    """Show a pool with its queues."""
    found = session.inspector.pool(name)
    queues = session.inspector.queues(name)
    if as_json:
        default = next((queue.id for queue in queues if queue.name == "default"), None)
        listed = [queue_fields(queue) for queue in queues]
        echo_json({**pool_fields(found), "default_queue_id": default, "work_queues": listed})
        return
    echo_fields(
        (
            ("name", found.name),
            ("id", found.id),
            ("type", found.type),
            ("command", found.command),
            ("lease", f"{shown_span(found.lease_ms)}, renewed every {shown_span(found.renew_ms)}"),
            ("retention", shown_span(found.retention_ms)),
            ("keep payload", "yes" if found.keep_payload else "no"),
            ("created", shown_time(found.created_ms)),
        )
    )
    click.echo()
    echo_table(QUEUE_COLUMNS, map(queue_row, queues))


def _check_command(command: str) -> None:
    try:
        process_job(None, command)
    except InvalidRun as error:
        raise click.BadParameter(error.problem, param_hint="'--command'") from None
