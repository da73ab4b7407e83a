"""The OpenAPI document is whole: every operation is named, said, and has what it answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dispatcher.connection import Connection
from dispatcher.http import openapi
from dispatcher.http.app import create_app
from dispatcher.http.documents import as_html
from dispatcher.http.doors import Doors
from dispatcher.settings import Settings
from tests.edge import some_options

RECORDED = Path(__file__).parents[3] / "shared/fixtures/prefect"


def document(**options: Any) -> dict[str, Any]:
    return create_app(Doors(Connection(), Settings()), some_options(**options)).openapi()


DOCUMENT = document()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def test_it_is_openapi_3_1_and_every_operation_has_a_name_of_its_own():
    assert DOCUMENT["openapi"] == "3.1.0"
    assert len(OPERATIONS) == sum(len(methods) for methods in DOCUMENT["paths"].values())
    assert {tag["name"] for tag in DOCUMENT["tags"]} == set(openapi.TAGS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_says_what_it_does_and_what_it_answers(name):
    method, path, operation = OPERATIONS[name]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    assert operation["summary"]
    assert operation["description"]
    assert set(operation["tags"]) <= set(openapi.TAGS)
    assert {"401", "403"} <= operation["responses"].keys()
    if path.startswith("/api/"):
        assert {"400", "408", "413", "500", "502", "503"} <= operation["responses"].keys()
    if "{" in path:
        assert "404" in operation["responses"]
    for status, response in operation["responses"].items():
        assert response["description"]
        if status >= "400" and name not in ("get_scheduled_flow_runs", "readyz"):
            problem = {"$ref": "#/components/schemas/ProblemDetails"}
            assert response["content"] == {"application/problem+json": {"schema": problem}}
    if method == "get":
        assert "requestBody" not in operation


def examples(content: dict[str, Any]) -> list[Any]:
    several = [each["value"] for each in content.get("examples", {}).values()]
    return several + ([content["example"]] if "example" in content else [])


def with_bodies() -> list[str]:
    return [name for name, (_, _, operation) in OPERATIONS.items() if "requestBody" in operation]


@pytest.mark.parametrize("name", with_bodies())
def test_a_body_has_an_example_that_is_one(name):
    for content in OPERATIONS[name][2]["requestBody"]["content"].values():
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        found = examples(content)
        assert found
        for example in found:
            assert list(Draft202012Validator(schema).iter_errors(example)) == []


def test_every_reference_is_to_a_schema_that_is_there():
    text = json.dumps(DOCUMENT)
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert wanted <= DOCUMENT["components"]["schemas"].keys()


def test_who_asks_is_in_the_document_where_it_is_needed():
    assert "security" not in DOCUMENT
    secured = document(auth_string="user:password", token="secret")
    assert secured["security"] == [{"basic": []}, {"bearer": []}]
    assert secured["paths"]["/healthz"]["get"]["security"] == []
    assert "secret" not in json.dumps(secured)


def test_the_page_shows_every_operation_and_loads_nothing():
    page = as_html(DOCUMENT)
    for name in OPERATIONS:
        assert f"id='{name}'" in page
    assert re.findall(r"<script|<link|src=|url\(|@import", page) == []
    assert set(re.findall(r"href='?([^#'>][^'>]*)", page)) == {"/openapi.json"}


def test_the_page_writes_what_is_in_the_document_and_never_runs_it():
    hostile = json.loads(json.dumps(DOCUMENT).replace("Delete a pool", "<script>alert(1)</script>"))
    assert "<script" not in as_html(hostile)


def test_the_route_of_prefect_names_what_the_published_document_names():
    recorded = json.loads((RECORDED / "openapi.get_scheduled_flow_runs.json").read_text())
    (body,) = (
        schema for name, schema in recorded["components"]["schemas"].items() if "Body" in name
    )
    _, _, ours = OPERATIONS["get_scheduled_flow_runs"]
    (accepted, nothing) = ours["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert accepted["properties"].keys() == body["properties"].keys()
    assert nothing == {"type": "null"}
    schemas = DOCUMENT["components"]["schemas"]
    answered = ours["responses"]["200"]["content"]["application/json"]["schema"]
    assert answered["items"] == {"$ref": "#/components/schemas/ScheduledFlowRun"}
    for name in ("FlowRun", "FlowRunPolicy", "State", "StateDetails", "CreatedBy"):
        theirs = recorded["components"]["schemas"][name]["properties"]
        assert schemas[name]["properties"].keys() == theirs.keys()
