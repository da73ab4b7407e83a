"""Errors as RFC 9457 problem details, and as Prefect has them on its route."""

import asyncio
import json

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute
from pydantic import BaseModel

from dispatcher import errors
from dispatcher.http.problems import Problem, add_handlers, problem_of, problem_responses
from tests.edge import asked

CASES = [
    (errors.PoolNotFound("etl"), 404, "not-found"),
    (errors.QueueNotFound("etl", "q"), 404, "not-found"),
    (errors.AlreadyExists("pool 'etl' is there"), 409, "already-exists"),
    (errors.Refused("it is paused"), 409, "refused"),
    (errors.NotEmpty("it has runs"), 409, "refused"),
    (errors.PoolChanged("etl"), 409, "refused"),
    (errors.ClaimLost("r"), 409, "claim-lost"),
    (errors.HolderLost("h", displaced=False), 409, "claim-lost"),
    (errors.InvalidInput("it is wrong"), 422, "invalid"),
    (errors.InvalidName("pool", "a/b", "has a slash"), 422, "invalid"),
    (errors.InvalidRun("flow_run.id", "is no UUID"), 422, "invalid"),
    (errors.RedisUnavailable("it is away"), 503, "redis-away"),
    (errors.RedisFull("it is full"), 503, "redis-full"),
    (errors.RedisRefused("no permission"), 502, "redis-refused"),
    (errors.DispatcherError("anything else"), 500, "internal"),
]


class Body(BaseModel):
    limit: int
    names: list[str]


def app_that_raises(error):
    app = FastAPI()
    add_handlers(app)

    @app.get("/raise")
    async def raises() -> None:
        raise error

    @app.post("/api/work_pools/{name}/get_scheduled_flow_runs")
    @app.post("/body")
    async def takes(body: Body, name: str = "") -> None:
        raise error

    app.state.routes = [route for route in app.routes if isinstance(route, APIRoute)]
    return app


def ask(app, method, path, **options):
    return asyncio.run(asked(app, method, path, **options))


@pytest.mark.parametrize(("error", "status", "kind"), CASES, ids=lambda case: str(case)[:20])
def test_each_error_of_ours_has_a_status_and_a_kind(error, status, kind):
    answer = ask(app_that_raises(error), "GET", "/raise")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == status
    body = answer.json()
    assert (body["status"], body["type"]) == (status, f"urn:dispatcher:problem:{kind}")
    assert (body["detail"], body["instance"]) == (str(error), "/raise")
    assert body["title"]


@pytest.mark.parametrize(("error", "status", "_"), CASES, ids=lambda case: str(case)[:20])
def test_what_passes_by_itself_says_when_to_try_again(error, status, _):
    assert problem_of(error).headers == ({"Retry-After": "1"} if status == 503 else {})


def test_every_kind_of_error_is_among_the_cases():
    tested = {type(error) for error, _, _ in CASES}
    known = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.DispatcherError)
    }
    assert known - tested == {errors.InvalidSettings, errors.NotFound}


def test_a_field_at_fault_is_named():
    problem = problem_of(errors.InvalidRun("flow_run.id", "is no UUID"))
    assert problem.errors == [{"field": "flow_run.id", "detail": "is no UUID"}]
    assert problem_of(errors.InvalidRun("", "is no JSON")).errors == []


def test_a_problem_without_a_kind_is_blank_and_one_without_fields_names_none():
    assert Problem(415, "Unsupported", "not JSON").body("/x") == {
        "type": "about:blank",
        "title": "Unsupported",
        "status": 415,
        "detail": "not JSON",
        "instance": "/x",
    }


def test_a_body_of_the_wrong_form_names_every_field_and_echoes_nothing():
    answer = ask(
        app_that_raises(None), "POST", "/body", json={"limit": "s3cret", "names": ["a", 1]}
    )

    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == ["body.limit", "body.names.1"]
    assert answer.json()["detail"].endswith(" (and 1 more)")
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/raise", 405)]
)
def test_a_route_or_method_that_is_not_there_is_a_problem(method, path, status):
    answer = ask(app_that_raises(None), method, path)

    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("allow") == ("GET" if status == 405 else None)


def test_a_text_that_is_no_unicode_can_be_told():
    answer = ask(app_that_raises(errors.Refused("half \ud800")), "GET", "/raise")
    assert answer.json()["detail"] == "half ?"


@pytest.mark.parametrize("error", [HTTPException(418, "teapot"), Problem(418, "t", "teapot")])
def test_the_route_of_prefect_has_the_envelope_of_prefect(error):
    app = app_that_raises(error)
    path = "/api/work_pools/etl/get_scheduled_flow_runs"

    answer = ask(app, "POST", path, json={"limit": 1, "names": []})

    assert (answer.status_code, answer.json()) == (418, {"detail": "teapot"})
    assert answer.headers["content-type"] == "application/json"


def test_the_problems_of_a_route_are_documented_by_their_schema():
    found = problem_responses(404, 409)
    assert set(found) == {404, 409}
    assert json.dumps(found[404]) == json.dumps(
        {
            "description": "Not Found",
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/ProblemDetails"}
                }
            },
        }
    )
