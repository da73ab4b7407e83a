"""What goes wrong, as RFC 9457 problem details; the route of Prefect answers as Prefect does."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dispatcher.errors import (
    AlreadyExists,
    ClaimLost,
    DispatcherError,
    HolderLost,
    InvalidInput,
    InvalidRun,
    NotFound,
    RedisFull,
    RedisRefused,
    RedisUnavailable,
    Refused,
)
from dispatcher.http import envelopes

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
_URI = "urn:dispatcher:problem:"


class FieldError(BaseModel):
    """One thing that is wrong with a request: `field` is where, such as `body.limit`."""

    model_config = ConfigDict(title="FieldError")

    field: str = Field(examples=["body.limit"])
    detail: str = Field(examples=["Input should be greater than or equal to 0"])


class ProblemDetails(BaseModel):
    """The body of an error, as RFC 9457 has it."""

    type: str = Field(description="Names the kind of problem.", examples=[f"{_URI}not-found"])
    title: str = Field(description="The kind of problem in words.", examples=["Not found"])
    status: int = Field(description="The status of the response.", examples=[404])
    detail: str = Field(
        description="What is wrong, where, and what to do.",
        examples=["pool 'etl' does not exist; create it with `dispatcher pool create`"],
    )
    instance: str = Field(description="The path asked for.", examples=["/api/work_pools/etl"])
    errors: list[FieldError] | None = Field(default=None, description="Each field at fault.")


class Problem(Exception):
    """What a route or middleware raises to answer with problem details.

    `errors` has one {"field": …, "detail": …} for each field at fault; `kind` is a word of
    docs/http.md, by default that of the status.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        kind: str = "",
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.kind = kind
        self.errors = [dict(error) for error in errors]
        self.headers = dict(headers or {})

    def body(self, path: str) -> dict[str, Any]:
        """Return the members of the problem; `path` is that of the request."""
        whole: dict[str, Any] = {
            "type": _URI + self.kind if self.kind else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
        }
        return whole | ({"errors": self.errors} if self.errors else {})


# The first that fits counts.
_ROWS: tuple[tuple[type[DispatcherError], int, str, str], ...] = (
    (NotFound, 404, "Not found", "not-found"),
    (AlreadyExists, 409, "Already exists", "already-exists"),
    (Refused, 409, "Refused", "refused"),
    (ClaimLost, 409, "Claim lost", "claim-lost"),
    (HolderLost, 409, "Claim lost", "claim-lost"),
    (InvalidInput, 422, "Invalid", "invalid"),
    (RedisFull, 503, "Redis is full", "redis-full"),
    (RedisRefused, 502, "Redis refused", "redis-refused"),
    (RedisUnavailable, 503, "Redis is away", "redis-away"),
    (DispatcherError, 500, "Internal error", "internal"),
)


def problem_of(error: DispatcherError) -> Problem:
    """Return the problem that an error of ours is."""
    rows = (row for row in _ROWS if isinstance(error, row[0]))
    _, status, title, kind = next(rows)
    errors = []
    if isinstance(error, InvalidRun) and error.path:
        errors = [{"field": error.path, "detail": error.problem}]
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return Problem(status, title, str(error), kind=kind, errors=errors, headers=headers)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses=` for the problems that a route can answer with."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def answer(path: str, problem: Problem) -> Response:
    """Return the response that says a problem, in the words of the route that was asked."""
    if envelopes.is_prefects(path):
        return envelopes.failure(problem.status, problem.detail, problem.headers)
    body = json.dumps(problem.body(path), ensure_ascii=False).encode(errors="replace")
    return Response(body, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Have every error of an app answered by a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(DispatcherError, _on_ours)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(request.scope["path"], error)


async def _on_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, DispatcherError)
    return answer(request.scope["path"], problem_of(error))


async def _on_http(request: Request, error: Exception) -> Response:
    """Answer what the framework found: no such route, no such method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request)
    problem = Problem(error.status_code, title, str(error.detail), headers=headers)
    return answer(request.scope["path"], problem)


def _allowed(request: Request) -> str:
    """Return the methods of a path: several routes may have one each, and one alone is asked."""
    path = request.scope["path"]
    routes = [route for route in request.app.state.routes if route.path_regex.match(path)]
    return ", ".join(sorted({method for route in routes for method in route.methods}))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if envelopes.is_prefects(request.scope["path"]):
        return envelopes.invalid(error)
    errors = [
        {"field": ".".join(str(part) for part in each["loc"]), "detail": str(each["msg"])}
        for each in error.errors()
    ]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{errors[0]['field']}: {errors[0]['detail']}{more}"
    return answer(
        request.scope["path"], Problem(422, "Invalid", detail, kind="invalid", errors=errors)
    )
