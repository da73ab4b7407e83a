"""What every request leaves behind: one event at level debug, and an answer whatever fails."""

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatcher.clock import Clock
from dispatcher.http.options import Options
from dispatcher.http.problems import Problem, answer
from dispatcher.logs import logger

Requests = Counter[tuple[str, int]]  # by route and status; only the serving thread adds to it


class Access:
    """Logs method, route, status and time of each request; no query, no body, no header.

    They are counted in `requests` of the application's state.
    """

    def __init__(self, app: ASGIApp, *, options: Options) -> None:
        self._app = app
        self._clock = Clock()
        self._log = logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; what fails inside is answered as an internal error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = self._clock.monotonic_s(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - the service goes on, and the log says what it was
            problem = _problem_of(error)
            if problem.status == 500:
                self._log.error("http-failed", route=_route(scope), exc_info=True)
            if not status:
                await answer(scope["path"], problem)(scope, receive, watched)
        finally:
            self._count(scope, status)
            took_ms = round((self._clock.monotonic_s() - began_s) * 1000, 1)
            shown = {"method": scope["method"], "route": _route(scope)}
            self._log.debug("http", **shown, status=status, took_ms=took_ms)

    def _count(self, scope: Scope, status: int) -> None:
        requests: Requests = scope["app"].state.requests
        requests[_route(scope), status] += 1


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):  # of a middleware further in
        return error
    if isinstance(error, UnicodeEncodeError):  # "\ud800" is JSON, and no text
        return Problem(422, "Invalid", "a text holds half of a surrogate pair", kind="invalid")
    if isinstance(error, RecursionError):
        return Problem(400, "Malformed", "the body is nested too deep")
    return Problem(500, "Internal error", "it failed here; the log says how", kind="internal")


def _route(scope: Scope) -> str:
    """Return the template of the route, which holds no name and no id; "" for none."""
    return str(getattr(scope.get("route"), "path", ""))
