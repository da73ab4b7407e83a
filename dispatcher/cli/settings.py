"""`dispatcher settings`: what holds, and where it comes from."""

import click

from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import as_json
from dispatcher.cli.output import echo_json, echo_table
from dispatcher.cli.session import Session
from dispatcher.errors import InvalidSettings
from dispatcher.settings import Effective, masked, variable


@click.command(cls=Command)
@as_json
@pass_session
def settings(session: Session, *, as_json: bool) -> None:
    """Show every setting with its source, secrets masked."""
    rows = [_found(session, row) for row in session.effective]
    if as_json:
        for row in rows:
            echo_json(row._asdict())
        return
    echo_table(("NAME", "VALUE", "SOURCE", "MEANING"), rows)


def _found(session: Session, row: Effective) -> Effective:
    """Return where Redis is also when a file or a running `dispatcher dev` says so."""
    if row.name != variable("redis_url") or row.value:
        return row
    try:
        value = masked("redis_url", session.url)
    except InvalidSettings as error:
        click.echo(f"warning: {error}", err=True)
        return row
    source = variable("redis_url_file") if session.settings.redis_url_file else "dispatcher dev"
    return row._replace(value=value, source=source)
