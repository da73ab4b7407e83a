"""`dispatcher explain`: why a run has not started, or what has become of it."""

from uuid import UUID

import click

from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import as_json, pool_name
from dispatcher.cli.output import clean, echo_json, shown_span, shown_time
from dispatcher.cli.session import Session
from dispatcher.clock import utc
from dispatcher.explaining import explain as explained


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=click.UUID)
@click.option("--pool", type=pool_name, help="Look in this pool only.")
@as_json
@pass_session
def explain(session: Session, *, run_id: UUID, pool: str | None, as_json: bool) -> None:
    """Say why a run has not started, or what has become of it.

    What stands in its way comes first, then what happened before.
    """
    found = explained(session.inspector, str(run_id), pool=pool)
    if as_json:
        echo_json(found.as_json(time=utc, span=shown_span))
        return
    for line in found.lines(time=shown_time, span=shown_span):
        click.echo(clean(line))
