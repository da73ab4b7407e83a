"""What requests bring, read strictly: JSON bodies, names, times, run ids; and what answers are."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from starlette.responses import Response

from dispatcher.errors import InvalidInput, NotFound
from dispatcher.http.doors import Doors
from dispatcher.http.problems import Problem
from dispatcher.intake import parse_when
from dispatcher.keys import check_name
from dispatcher.listings import pools_of

JSON = "application/json"
MOST_COUNT = 1_000_000
MOST_SECONDS = 36_500 * 86_400.0
DEFAULT_LIMIT, MOST_LIMIT = 50, 200
_MOST_WORKER_BYTES = 200  # what an edge puts behind it has room then
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_MOST_ERRORS = 20
ModelT = TypeVar("ModelT", bound=BaseModel)


class Body(BaseModel):
    """A JSON body of ours: types are not converted, and a field that is not known is refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_whole_numbers(cls, data: Any) -> Any:
        # 5.0 is a whole number in JSON, and some languages write every number so.
        if not isinstance(data, dict):
            return data
        return {name: _whole_if_so(value) for name, value in data.items()}


class Params(BaseModel):
    """The parameters of a query: one that is not known is refused, as it may be a misspelt one."""

    model_config = ConfigDict(extra="forbid")


def _whole_if_so(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _named(kind: str) -> Any:
    def check(name: str) -> str:
        try:
            return check_name(kind, name)
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


def _whole(value: object) -> object:
    # Pydantic reads "5.0", "1_000" and " 5" as numbers; a query that says so is mistaken.
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


def _flag(value: object) -> object:
    # Pydantic reads "1", "on" and "yes" as true; the document says true or false.
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


def _worker(name: str) -> str:
    try:
        check_name("worker", name)
    except InvalidInput as error:
        raise ValueError(str(error)) from None
    if len(name.encode()) > _MOST_WORKER_BYTES:
        raise ValueError(f"worker name is over {_MOST_WORKER_BYTES} bytes")
    return name


NAME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": r"^[^/%&><]*[^/%&><\s][^/%&><]*$",
}
WHEN_SCHEMA: dict[str, Any] = {
    "description": "`now`, a delay such as `+10m` or `+1h30m`, or a time in RFC 3339.",
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": r"^\+([0-9]{1,6}(d|h|m|s|ms)){1,3}$"},
        {"type": "string", "enum": ["now"]},
    ],
    "examples": ["+10m"],
}
PoolName = Annotated[str, _named("pool"), WithJsonSchema(NAME_SCHEMA)]
QueueName = Annotated[str, _named("queue"), WithJsonSchema(NAME_SCHEMA)]
WorkerName = Annotated[
    str,
    AfterValidator(_worker),
    WithJsonSchema({**NAME_SCHEMA, "maxLength": _MOST_WORKER_BYTES}),
]
When = Annotated[str, StringConstraints(max_length=80), WithJsonSchema(WHEN_SCHEMA)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Reason = Annotated[str, StringConstraints(max_length=1_000)]
Limit = Annotated[
    int,
    Field(ge=1, le=MOST_LIMIT, description="Most that one answer has.", examples=[50]),
    BeforeValidator(_whole),
]
Cursor = Annotated[
    str,
    Field(
        description="Where to go on: the `next_cursor` of the answer before.",
        json_schema_extra={"format": "cursor"},
    ),
]


async def raw_json(request: Request, *, kinds: Iterable[str] = (JSON,)) -> bytes:
    """Return the body; raises Problem 415 for one that does not say that it is JSON.

    A web page can send anything else to this machine without being asked for permission.
    """
    raw = await request.body()
    kind = media_type(request)
    if raw and kind not in kinds:
        wanted = " or ".join(kinds)
        problem = f"the body is {kind or 'of no type'}: send Content-Type: {wanted}"
        raise Problem(415, "Unsupported media type", problem, kind="media-type")
    return raw


def media_type(request: Request) -> str:
    """Return the type of the body without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_body(model: type[ModelT]) -> Callable[[Request], Awaitable[ModelT]]:
    """Return what reads a body as `model`, an empty one as `{}`; raises Problem 415 or 422."""

    async def read(request: Request) -> ModelT:
        return checked(model, await raw_json(request) or b"{}")

    read.body_model = model  # type: ignore[attr-defined]  # for the OpenAPI document
    return read


def checked(model: type[ModelT], raw: bytes) -> ModelT:
    """Return JSON as `model`; raises Problem 422 with every field that is wrong."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> Problem:
    """Return the problem of a body that is not as it should be."""
    found = error.errors(include_url=False, include_context=False)[:_MOST_ERRORS]
    errors = [{"field": _path(each["loc"]), "detail": _said(each)} for each in found]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{errors[0]['field']}: {errors[0]['detail']}{more}"
    return Problem(422, "Invalid", detail, kind="invalid", errors=errors)


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(["body", *(str(part)[:80] for part in loc)])


def _said(error: Any) -> str:
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "extra_forbidden":
        return "is not known here"
    said: str = error["msg"]
    return said.removeprefix("Value error, ").replace("Input should be", "must be")


def wrong(field: str, problem: str) -> Problem:
    """Return the problem of one field that is wrong, such as `body.at`."""
    errors = [{"field": field, "detail": problem}]
    return Problem(422, "Invalid", f"{field}: {problem}", kind="invalid", errors=errors)


def due(text: str, now_ms: int, field: str = "body.at") -> int:
    """Return the time that a body or query names, in ms; raises Problem 422 with the field."""
    try:
        return parse_when(text, now_ms)
    except InvalidInput as error:
        raise wrong(field, str(error)) from None


def respond(content: Any, status: int = 200) -> Response:
    """Return an answer as JSON, written in ASCII, so that no text can break it."""
    return Response(json.dumps(content).encode(), status, media_type=JSON)


def page(results: list[dict[str, Any]], next_cursor: str | None) -> Response:
    """Return one page of a list."""
    return respond({"results": results, "next_cursor": next_cursor})


def sender(request: Request) -> str:
    """Return who asks, for events: `http@` and the address."""
    return f"http@{request.client.host}" if request.client else "http"


async def pool_of(doors: Doors, run_id: str, pool: str | None) -> str:
    """Return the pool that has a run: the one that is named, else the only one.

    Raises NotFound, and Problem 409 when several pools have a run of this id.
    """
    if pool:
        return pool
    found = await doors.do(pools_of, doors.inspector, run_id)
    if not found:
        raise NotFound(f"run {run_id} is not known in any pool")
    if len(found) > 1:
        raise Problem(
            409,
            "Ambiguous",
            f"run {run_id} is in {len(found)} pools: say which by work_pool_name",
            kind="ambiguous",
        )
    return found[0]


def reads(model: type[ModelT]) -> Any:
    """Return the dependency that reads a body as `model`."""
    return Depends(json_body(model))
