"""The route that is Prefect's: its body read as the real server does, its two error envelopes."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

MOST_RUNS = 200  # the default and the most, as PREFECT_SERVER_API_DEFAULT_LIMIT
_OLDEST_API = (0, 8, 0)
_MOST_ERRORS = 100  # a body of a million wrong names must not become as many errors
_ROUTE = re.compile(r"/api/work_pools/[^/]+/get_scheduled_flow_runs/?")
_SAID = {401: "Unauthorized", 500: "Internal Server Error", 503: "Service Unavailable"}
_INTEGER: TypeAdapter[int] = TypeAdapter(int)
_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)
_FIELDS = ("limit", "work_queue_names", "scheduled_before", "scheduled_after")


class Wish(NamedTuple):
    """What a poll asks for: queues (none: all), bounds of the due time, and how many at most."""

    queues: tuple[str, ...] = ()
    before: datetime | None = None
    after: datetime | None = None
    limit: int = MOST_RUNS


class Malformed(Exception):
    """A poll that the real server refuses, with the answer it gives."""

    def __init__(self, response: Response) -> None:
        super().__init__("the poll is malformed")
        self.response = response


def is_prefects(path: str) -> bool:
    """Return whether a path, percent-decoded, is the route that answers as Prefect does."""
    return bool(_ROUTE.fullmatch(path))


def failure(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return what the real server answers with this status."""
    body = {"exception_message": _SAID[status]} if status in _SAID else {"detail": detail}
    return JSONResponse(body, status, headers=dict(headers or {}))


def invalid(error: RequestValidationError) -> Response:
    """Return what the real server answers to a body of the wrong form."""
    return _invalid(jsonable_encoder(error.errors()), jsonable_encoder(error.body))


def read_wish(raw: bytes) -> Wish:
    """Return what a body asks for, an empty one and `null` too; raises Malformed."""
    if not raw:
        return Wish()
    body = _decoded(raw)
    if body is None:
        return Wish()
    if not isinstance(body, dict):
        missing = [_error("missing", field, "Field required", None) for field in _FIELDS]
        raise Malformed(_invalid(missing, body))
    errors: list[dict[str, Any]] = []
    limit = _limit(body.get("limit"), errors)
    wish = Wish(
        queues=_names(body.get("work_queue_names"), errors),
        before=_time("scheduled_before", body.get("scheduled_before"), errors),
        after=_time("scheduled_after", body.get("scheduled_after"), errors),
        limit=limit,
    )
    if errors:
        raise Malformed(_invalid(errors[:_MOST_ERRORS], body))
    return wish


def check_version(version: str | None) -> None:
    """Raise Malformed for an X-PREFECT-API-VERSION that the real server does not serve."""
    if not version:
        return
    try:
        major, minor, patch = (int(part) for part in version.split("."))
    except ValueError:
        problem = (
            "Invalid X-PREFECT-API-VERSION header format."
            f"Expected header in format 'x.y.z' but received {version}"
        )
        raise Malformed(failure(400, problem)) from None
    if (major, minor, patch) < _OLDEST_API:
        oldest = ".".join(map(str, _OLDEST_API))
        problem = (
            f"The request specified API version {version} but this server "
            f"only supports version {oldest} and higher."
        )
        raise Malformed(failure(400, problem))


def _decoded(raw: bytes) -> Any:
    def refuse(name: str) -> Any:  # also what no answer could repeat, such as 1e999
        raise json.JSONDecodeError("Expecting value", text, text.find(name))

    def finite(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits)

    text = raw.decode("utf-8", errors="replace")
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        found = {
            "type": "json_invalid",
            "loc": ["body", error.pos],
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise Malformed(_invalid([found], text)) from None
    except (ValueError, RecursionError):  # no UTF-8, or a number of too many digits
        raise Malformed(failure(400, "There was an error parsing the body")) from None


def _limit(given: object, errors: list[dict[str, Any]]) -> int:
    """Return the limit; one out of bounds is refused before anything else is looked at."""
    if given is None:
        return MOST_RUNS
    try:
        limit = _INTEGER.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        errors.append(_error(first["type"], "limit", first["msg"], given))
        return MOST_RUNS
    bound = "greater than or equal to 0" if limit < 0 else f"less than or equal to {MOST_RUNS}"
    if not 0 <= limit <= MOST_RUNS:
        raise Malformed(failure(422, f"Invalid limit: must be {bound}."))
    return limit


def _names(given: object, errors: list[dict[str, Any]]) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        problem = "Input should be a valid list"
        errors.append(_error("list_type", "work_queue_names", problem, given))
        return ()
    for index, name in enumerate(given):
        if not isinstance(name, str) and len(errors) < _MOST_ERRORS:
            wrong = _error(
                "string_type", "work_queue_names", "Input should be a valid string", name
            )
            wrong["loc"].append(index)
            errors.append(wrong)
    return tuple(dict.fromkeys(name for name in given if isinstance(name, str)))


def _time(field: str, given: object, errors: list[dict[str, Any]]) -> datetime | None:
    """Return a time, a naive one in UTC."""
    if given is None:
        return None
    try:
        at = _TIME.validate_python(given)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except ValidationError:
        problem = f"Value error, Unable to parse string [{given}]"
        errors.append({**_error("value_error", field, problem, given), "ctx": {"error": {}}})
        return None


def _error(kind: str, field: str, problem: str, given: object) -> dict[str, Any]:
    return {"type": kind, "loc": ["body", field], "msg": problem, "input": given}


def _invalid(errors: Any, body: Any) -> Response:
    whole = {
        "exception_message": "Invalid request received.",
        "exception_detail": errors,
        "request_body": body,
    }
    # In ASCII: what came may hold half a surrogate pair, which no UTF-8 can say.
    return Response(json.dumps(whole).encode(), 422, media_type="application/json")
