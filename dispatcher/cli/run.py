"""`dispatcher run`: dispatch in the foreground, and serve HTTP beside it if asked to."""

import sys
from collections.abc import Sequence

import click

from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import pool_name
from dispatcher.cli.serving import OFF, bound_server, http_options
from dispatcher.cli.session import Session
from dispatcher.errors import DispatcherError
from dispatcher.logs import logger
from dispatcher.preflight import NOT_CHECKED, look_at_servers
from dispatcher.service import Runnable, Service, Together, run_until_signal


@click.command(cls=Command)
@click.option(
    "--pool", "pools", type=pool_name, multiple=True, help="Only this pool; may be repeated."
)
@http_options("Serve HTTP here, such as 127.0.0.1:4200 or [::1]:4200; port 0 is any free one.")
@pass_session
def run(session: Session, *, pools: tuple[str, ...]) -> None:
    """Dispatch the runs of all pools when they are due, until SIGTERM or Ctrl-C.

    Any number of these may run side by side.
    """
    session.configure_logs()
    whole = _whole(session, Service(session.url, session.settings, pools=pools))
    _warn(session, pools)
    sys.exit(run_until_signal(whole))


def _whole(session: Session, service: Service) -> Runnable:
    """Return the loops, with HTTP beside them if there is an address for it."""
    address = session.settings.http
    if address is None or address == OFF:
        return service
    from dispatcher.http.options import read_options

    options = read_options(session.settings, address)
    server = bound_server(session.url, session.settings, options, service.heartbeats)
    return Together(service, server)


def _warn(session: Session, pools: Sequence[str]) -> None:
    """Log what looks wrong; a server that is not there yet, or forbids to ask, is fine."""
    log, inspector = logger(), session.inspector
    try:
        for finding in look_at_servers(inspector.connection).findings:
            tell = log.debug if finding.code == NOT_CHECKED else log.warning
            tell(finding.code, reason=finding.problem)
        known = inspector.pool_names()
        for name in pools:
            if name not in known:
                log.warning("no-such-pool", pool=name)
    except DispatcherError as error:
        log.debug(NOT_CHECKED, reason=str(error))
