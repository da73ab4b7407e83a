"""The OpenAPI document, completed with bodies, problems and examples; and a page that shows it."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, Response

from dispatcher.http.answers import RefusalAnswer
from dispatcher.http.bodies import NAME_SCHEMA
from dispatcher.http.documents import as_html
from dispatcher.http.examples import BODIES, LINES, PARAMETERS, POLL_ERRORS, RUN_BODY
from dispatcher.http.ndjson import NDJSON
from dispatcher.http.problems import MEDIA_TYPE, ProblemDetails
from dispatcher.models import ScheduledFlowRun

router = APIRouter()
TAGS = {
    "work pools": "Where runs go, and what claims them; the route of Prefect is here.",
    "work queues": "What a pool's workers claim from, by priority.",
    "flow runs": "What was submitted, and what became of it.",
    "claims": "Workers that speak HTTP: claim, start, renew, finish, release.",
    "deployments": "How many runs of each may be under way at a time.",
    "dead letters": "Runs that were set aside, after their workers were lost too often.",
    "workers": "Who holds leases.",
    "events": "What has happened.",
    "health": "For what watches this dispatcher.",
}
POLL = "/api/work_pools/{name}/get_scheduled_flow_runs"
SUBMITS = {"/api/flow_runs": "application/json", "/api/flow_runs/stream": NDJSON}
_ALWAYS = (400, 401, 403, 408, 413, 500, 502, 503)
_REF = "#/components/schemas/{model}"
_API_VERSION = {
    "name": "x-prefect-api-version",
    "in": "header",
    "required": False,
    "description": "What the client speaks; 0.8.0 and later ones are served.",
    "schema": {"type": "string", "enum": ["0.8.4"]},
    "example": "0.8.4",
}


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Show the document as one page; nothing of it comes from anywhere else."""
    return HTMLResponse(as_html(request.app.openapi()))


def describe(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Complete the OpenAPI document of an app; made when somebody first asks for it."""
    routes = [route for each in routers for route in each.routes if isinstance(route, APIRoute)]
    app.state.routes = routes

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(app, routes)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _completed(app: FastAPI, routes: list[APIRoute]) -> dict[str, Any]:
    whole = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=app.description,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    bodies = _bodies(routes)
    schemas = whole["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= _schemas([*bodies.values(), ScheduledFlowRun, ProblemDetails, RefusalAnswer])
    schemas |= _submitted(schemas)
    schemas["PrefectError"] = POLL_ERRORS
    names = {
        (each.path_format, m): each.operation_id or each.name
        for each in routes
        for m in each.methods or ()
    }
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            operation["operationId"] = names[path, method.upper()]
            if model := bodies.get((path, method.upper())):
                operation["requestBody"] = _json_body(model, operation["operationId"])
            _complete(path, method, operation)
    _complete_poll(whole["paths"][POLL]["post"])
    for path, kind in SUBMITS.items():
        _complete_submit(whole["paths"][path]["post"], kind)
    _secure(whole, app)
    return whole


def _bodies(routes: Iterable[APIRoute]) -> dict[tuple[str, str], type[BaseModel]]:
    """Return the models of the JSON bodies that routes read, by path and method."""
    return {
        (route.path_format, method): model
        for route in routes
        for dependency in route.dependant.dependencies
        for method in route.methods or ()
        if (model := getattr(dependency.call, "body_model", None)) is not None
    }


def _schemas(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    wanted = [(model, "validation") for model in dict.fromkeys(models)]
    _, whole = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    found: dict[str, Any] = whole["$defs"]
    return found


def _submitted(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of what may be submitted: runs that have not begun."""
    for kind in schemas["FlowRunPolicy"]["properties"]["pause_keys"]["anyOf"]:
        kind.pop("uniqueItems", None)  # one that comes twice is taken once, as Prefect does
    run = {**schemas["FlowRun"], "title": "SubmittedFlowRun"}
    scheduled = {"anyOf": [{"type": "string", "enum": ["SCHEDULED"]}, {"type": "null"}]}
    state = {**schemas["State"], "title": "SubmittedState"}
    state["properties"] = {**state["properties"], "type": {"type": "string", "enum": ["SCHEDULED"]}}
    nullable = {"anyOf": [{"$ref": _REF.format(model="SubmittedState")}, {"type": "null"}]}
    changed = {"state_type": {**scheduled, "default": None}, "state": {**nullable, "default": None}}
    run["properties"] = {**run["properties"], **changed}
    whole = {**schemas["ScheduledFlowRun"], "title": "SubmittedScheduledFlowRun"}
    inner = {"flow_run": {"$ref": _REF.format(model="SubmittedFlowRun")}}
    whole["properties"] = {**whole["properties"], **inner}
    return {
        "SubmittedState": state,
        "SubmittedFlowRun": run,
        "SubmittedScheduledFlowRun": whole,
    }


def _json_body(model: type[BaseModel], operation_id: str) -> dict[str, Any]:
    extra = model.model_config.get("json_schema_extra")
    needed = bool(extra) or any(f.is_required() for f in model.model_fields.values())
    content: dict[str, Any] = {"schema": {"$ref": _REF.format(model=model.__name__)}}
    if example := BODIES.get(operation_id):
        content["example"] = example
    return {"required": needed, "content": {"application/json": content}}


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add what all operations share: every problem that they may answer with."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" and parameter["name"] in ("name", "queue"):
            parameter["schema"] = NAME_SCHEMA
        if parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
    responses = operation["responses"]
    for status in _statuses(path, method, operation):
        schema = {"$ref": _REF.format(model="ProblemDetails")}
        problem = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if status == 422 or str(status) not in responses:
            responses[str(status)] = problem
    operation["responses"] = dict(sorted(responses.items()))


def _statuses(path: str, method: str, operation: dict[str, Any]) -> Iterator[int]:
    if not path.startswith("/api/"):
        yield from (401, 403)
        return
    yield from _ALWAYS
    if "parameters" in operation or "requestBody" in operation:
        yield from (404, 422)
    if method != "get" or "{id}" in path:
        yield 409
    if "requestBody" in operation or path in SUBMITS:
        yield 415


def _complete_poll(operation: dict[str, Any]) -> None:
    """Describe the route of Prefect as Prefect does, with the errors that it really answers."""
    ref = {"$ref": _REF.format(model="ScheduledFlowRun")}
    found = {"description": "What may be started, by priority of the queue and due time."}
    content = {"application/json": {"schema": {"type": "array", "items": ref}}}
    responses = {"200": {**found, "content": content}}
    for status in (*_ALWAYS, 404, 409, 422):
        error = {"application/json": {"schema": {"$ref": _REF.format(model="PrefectError")}}}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
    operation["responses"] = dict(sorted(responses.items()))
    operation["parameters"].append(_API_VERSION)
    operation["requestBody"] = {
        "required": False,
        "content": {"application/json": RUN_BODY["poll"]},
    }


def _complete_submit(operation: dict[str, Any], kind: str) -> None:
    """Describe what a submit takes: JSON that is read as it is, so that its bytes are kept."""
    one = {
        "anyOf": [
            {"$ref": _REF.format(model="SubmittedScheduledFlowRun")},
            {"$ref": _REF.format(model="SubmittedFlowRun")},
        ]
    }
    receipt = {"$ref": _REF.format(model="ReceiptAnswer")}
    result = {"anyOf": [receipt, {"$ref": _REF.format(model="RefusalAnswer")}]}
    if kind == NDJSON:
        # Any text can be sent: each line is judged by itself.
        lines = {"description": "One such object per line, as JSON."}
        body: dict[str, Any] = {"schema": lines, "example": LINES}
        answer: dict[str, Any] = {NDJSON: {"schema": {"type": "string"}}}
    else:
        # An element of an array is judged by itself: what is wrong with one is its result.
        several = {"type": "array", "description": "Any number of such objects.", "items": {}}
        body = {"schema": {"anyOf": [one, several]}, **RUN_BODY["submit"]}
        answer = {
            "application/json": {"schema": {"anyOf": [receipt, {"type": "array", "items": result}]}}
        }
    operation["requestBody"] = {"required": True, "content": {kind: body}}
    operation["responses"]["200"]["content"] = answer


def _secure(whole: dict[str, Any], app: FastAPI) -> None:
    """Say how to prove who asks, where that is needed."""
    options = app.state.options
    schemes = {}
    if options.auth_string is not None:
        schemes["basic"] = {"type": "http", "scheme": "basic"}
    if options.token is not None:
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    if schemes:
        whole["components"]["securitySchemes"] = schemes
        whole["security"] = [{name: []} for name in schemes]
    for path in ("/healthz", "/readyz"):
        if path in whole["paths"]:
            whole["paths"][path]["get"]["security"] = []
