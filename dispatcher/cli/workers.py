"""`dispatcher worker`: ls, drain."""

import click

from dispatcher.cli.draining import drain
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.options import as_json, pool_name
from dispatcher.cli.output import echo_json, echo_table, shown_span
from dispatcher.cli.session import Session
from dispatcher.shapes import lease_left_ms, worker_fields, worker_status


@click.group(cls=Group)
def worker() -> None:
    """Workers: what claims runs."""


worker.add_command(drain)


@worker.command()
@click.option("--pool", type=pool_name, help="Only this pool's.")
@as_json
@pass_session
def ls(session: Session, *, pool: str | None, as_json: bool) -> None:
    """List workers: ready, draining, drained, or lost when the lease has ended."""
    inspector = session.inspector
    pools = [pool] if pool else [each.name for each in inspector.pools()]
    holders = [holder for name in pools for holder in inspector.holders(name)]
    now_ms = {name: inspector.server_time_ms(name) for name in pools}
    if as_json:
        for holder in holders:
            echo_json(worker_fields(holder, now_ms[holder.pool]))
        return
    rows = [
        (
            holder.worker,
            holder.pool,
            worker_status(holder, now_ms[holder.pool]),
            holder.host,
            holder.pid,
            holder.slots,
            holder.held,
            shown_span(lease_left_ms(holder, now_ms[holder.pool])),
            " ".join(holder.queues) or "all",
        )
        for holder in holders
    ]
    columns = ("NAME", "POOL", "STATE", "HOST", "PID", "SLOTS", "HELD", "LEASE LEFT", "QUEUES")
    echo_table(columns, rows)
