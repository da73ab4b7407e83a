"""`--http` of the commands that serve: fastapi is loaded only when HTTP is asked for."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli.options import with_options
from dispatcher.cli.session import Session
from dispatcher.errors import Refused
from dispatcher.settings import read_secret

if TYPE_CHECKING:
    from dispatcher.heartbeats import Heartbeats
    from dispatcher.http.options import Options
    from dispatcher.http.serving import HttpServer
    from dispatcher.settings import Settings

OFF = "off"
DEV_ADDRESS = "127.0.0.1:4200"
TOKEN_FILE = "http_token"


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    session = ctx.find_object(Session)
    if value and session is not None and param.name:
        session.flags[param.name] = value


def http_option(help_text: str) -> Callable[[Any], Any]:
    """Return a decorator that adds `--http` to a command."""
    return click.option(
        "--http", metavar="HOST:PORT", expose_value=False, callback=_remember, help=help_text
    )


def http_options(help_text: str) -> Callable[[Any], Any]:
    """Return a decorator that adds `--http` and `--http-without-auth` to a command."""
    return with_options(
        http_option(help_text),
        click.option(
            "--http-without-auth",
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Serve HTTP without a login to whoever reaches the address.",
        ),
    )


def bound_server(
    url: str, settings: "Settings", options: "Options", heartbeats: "Heartbeats"
) -> "HttpServer":
    """Return a server that has its address; raises Refused when it is taken, InvalidSettings."""
    from dispatcher.http.doors import Doors
    from dispatcher.http.serving import HttpServer

    server = HttpServer(Doors.open(url, settings, heartbeats=heartbeats), options)
    server.bind()
    return server


def own_server(
    url: str, settings: "Settings", state_dir: Path, heartbeats: "Heartbeats"
) -> "HttpServer | None":
    """Return the server of `dispatcher dev`, bound; None for `--http off`.

    Where nothing else is set, it takes a token that only this user can read: whoever may submit
    runs may run commands as this user, and the port is open to everybody on the machine.
    """
    if settings.http == OFF:
        return None
    from dispatcher.http.options import read_options

    options = read_options(settings, settings.http or DEV_ADDRESS)
    how = "without a login" if options.without_auth else "with the login that was set"
    if not options.needs_auth and not options.without_auth:
        path = state_dir / TOKEN_FILE
        options = replace(options, token=_own_token(path))
        how = f"with the bearer token in {shortened(path)}"
    try:
        server = bound_server(url, settings, options, heartbeats)
    except Refused:
        if settings.http is not None:
            raise
        options = replace(options, address=options.address._replace(port=0))
        server = bound_server(url, settings, options, heartbeats)
    click.echo(f"HTTP at http://{server.address}, {how}", err=True)
    return server


def shortened(path: Path) -> str:
    """Return a path for showing, with ~ for the home of this user."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _own_token(path: Path) -> str:
    """Return the token of an earlier start, else make one."""
    with suppress(FileExistsError):
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(made, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return read_secret(str(path), str(path.name))
