"""`dispatcher deployment`: set, ls."""

from uuid import UUID

import click

from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.options import NONE, as_json, count, or_none, pool_name
from dispatcher.cli.output import echo_json, echo_table
from dispatcher.cli.session import Session
from dispatcher.shapes import deployment_fields
from dispatcher.stored import Deployment

_of_pool = click.option("--pool", type=pool_name, required=True, help="The pool of its runs.")


@click.group(cls=Group)
def deployment() -> None:
    """Deployments: how many runs of each may be under way at a time."""


@deployment.command("set")
@click.argument("deployment_id", metavar="ID", type=click.UUID)
@_of_pool
@click.option(
    "--limit",
    type=or_none(count),
    metavar="N|none",
    required=True,
    help="Most runs between dispatch and end; 0 lets all of them wait.",
)
@click.option(
    "--collision-strategy",
    "strategy",
    type=click.Choice(["ENQUEUE", "CANCEL_NEW"], case_sensitive=False),
    default="ENQUEUE",
    show_default=True,
    help="What becomes of a run that finds it full: it waits, or it is cancelled.",
)
@as_json
@pass_session
def set_limit(
    session: Session,
    /,
    *,
    deployment_id: UUID,
    pool: str,
    limit: int,
    strategy: str,
    as_json: bool,
) -> None:
    """Set the concurrency limit of a deployment in a pool, or take it away."""
    wanted = None if limit == NONE else limit
    session.store.set_deployment(pool, str(deployment_id), wanted, strategy=strategy, by=session.by)
    if as_json:
        echo_json(deployment_fields(session.inspector.deployment(pool, str(deployment_id))))
    else:
        told = "no limit" if wanted is None else f"limit {wanted:,} {strategy}"
        click.echo(f"changed {deployment_id} in {pool}: {told}")


@deployment.command()
@_of_pool
@as_json
@pass_session
def ls(session: Session, *, pool: str, as_json: bool) -> None:
    """List the deployments that have a limit, with the slots held and the runs that wait."""
    found = session.inspector.deployments(pool)
    if as_json:
        for each in found:
            echo_json(deployment_fields(each))
        return
    echo_table(("ID", "LIMIT", "HELD", "WAITING", "COLLISION STRATEGY"), map(_row, found))


def _row(deployment: Deployment) -> tuple[object, ...]:
    counts = (deployment.limit, deployment.held, deployment.waiting)
    return (deployment.id, *counts, deployment.collision_strategy)
