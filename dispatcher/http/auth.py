"""Who may use the edge: HTTP Basic or a bearer token, and no web page of somebody else."""

import base64
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dispatcher.http.options import Options, is_loopback
from dispatcher.http.problems import Problem, answer

OPEN = frozenset({"/healthz", "/readyz"})  # asked by what watches containers


class Auth:
    """Lets requests through that prove who they are from; compares in constant time."""

    def __init__(self, app: ASGIApp, *, options: Options) -> None:
        self._app = app
        self._expected: list[bytes] = []
        challenges = []
        if options.auth_string is not None:
            login = base64.b64encode(options.auth_string.encode()).decode()
            self._expected.append(f"basic {login}".encode())
            challenges.append('Basic realm="dispatcher", charset="UTF-8"')
        if options.token is not None:
            self._expected.append(b"bearer " + options.token.encode())
            challenges.append('Bearer realm="dispatcher"')
        self._challenge = ", ".join(challenges)
        # A web page that calls us by a name of its own must not reach what trusts this machine.
        self._only_loopback = not self._expected and not options.without_auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] == "http" and (problem := self._judge(scope)):
            await answer(scope["path"], problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _judge(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if (problem := self._foreign(headers)) is not None:
            return problem
        if not self._expected or scope["path"] in OPEN:
            return None
        if self._is_known(headers):
            return None
        detail = "the credentials are missing or wrong; send them as the Authorization header"
        return Problem(401, "Unauthorized", detail, headers={"WWW-Authenticate": self._challenge})

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        given = f"{scheme.lower()} {secret.strip()}".encode("latin-1")  # as it was sent
        # All are compared, so that the time tells nothing.
        return sum(hmac.compare_digest(given, expected) for expected in self._expected) > 0

    def _foreign(self, headers: Headers) -> Problem | None:
        """Return why a browser's request is refused: it was sent by a page from elsewhere."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return Problem(403, "Forbidden", "it was sent by a web page from elsewhere (Origin)")
        if self._only_loopback and host and not is_loopback(_name(host)):
            detail = "the Host is not this machine; use 127.0.0.1 or localhost"
            return Problem(403, "Forbidden", detail)
        return None


def _name(host: str) -> str:
    """Return the host of a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
