"""`dispatcher check`: whether the dispatcher of this host does its work, for health checks."""

import json
from http.client import HTTPConnection, HTTPException

import click

from dispatcher.cli.group import Command, Failure, pass_session
from dispatcher.cli.serving import OFF, http_option
from dispatcher.cli.session import Session
from dispatcher.errors import InvalidSettings

WITHIN_S = 5.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # reached from here by these


@click.command(cls=Command)
@http_option("Where it serves HTTP.")
@pass_session
def check(session: Session) -> None:
    """Exit 0 when the dispatcher that serves HTTP at this address is ready, else 1 with why not."""
    address = session.settings.http
    if address is None or address == OFF:
        raise InvalidSettings("no address: set DISPATCHER_HTTP=HOST:PORT, or give --http")
    from dispatcher.http.options import parse_address

    host, port = parse_address(address)
    status, body = _asked(_ANY.get(host, host), port, address)
    if status != 200:
        raise Failure(f"the dispatcher at {address} is not ready: {_reasons(body) or status}")
    click.echo("ready")


def _asked(host: str, port: int, address: str) -> tuple[int, bytes]:
    client = HTTPConnection(host, port, timeout=WITHIN_S)
    try:
        client.request("GET", "/readyz")
        answer = client.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Failure(f"the dispatcher at {address} does not answer: {reason}") from None
    finally:
        client.close()


def _reasons(body: bytes) -> str:
    try:
        checks = json.loads(body)["checks"]
        failed = [f"{name}: {each['reason']}" for name, each in checks.items() if not each["ok"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return "; ".join(failed)
