"""Templates that are refused when they are set: what they hold, their size, their files."""

import json

import pytest

from dispatcher.errors import InvalidRun, InvalidSettings
from dispatcher.job_templates import (
    MOST_BYTES,
    configure,
    parse_template,
    read_template,
    template_fields,
)
from tests.templates import PROCESS, a_template


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ([], "must be an object"),
        ({"job_configuration": {}}, ".variables: is missing"),
        ({"variables": {}}, ".job_configuration: is missing"),
        ({"job_configuration": [], "variables": {}}, ".job_configuration: must be an object"),
        ({"job_configuration": {}, "variables": []}, ".variables: must be an object"),
        (
            {"job_configuration": {"a": "{{ b.c }}"}, "variables": {}},
            ".job_configuration: {{ b }} is not among variables.properties; declare it there",
        ),
    ],
)
def test_a_template_that_is_none_is_refused_with_the_path(template, message):
    with pytest.raises(InvalidSettings) as refused:
        parse_template(json.dumps(template))
    separator = "" if message.startswith(".") else ": "
    assert str(refused.value) == f"base_job_template{separator}{message}"


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"x": 5}, "x: must be an object"),
        ({"x": {"type": "text"}}, "x.type.0: 'text' is not one of"),
        ({"x": {"pattern": "("}}, "x.pattern: '(' is not a 'regex'"),
        ({"x": {"type": "string", "default": 5}}, "x.default: 5 is not of type"),
        ({"x": {"items": {}, "default": [], "minItems": 1}}, "x.default: [] should be non-empty"),
        ({"x": {"$ref": "https://x.test/s"}}, "x.$ref: https://x.test/s leads out of the schema"),
        ({"x": {"$ref": "file.json#/a"}}, "x.$ref: file.json#/a leads out of the schema"),
        ({"x": {"allOf": [{"$ref": "#/no"}]}}, "x.allOf.0.$ref: #/no is not in the schema"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_path(properties, message):
    with pytest.raises(InvalidSettings) as refused:
        parse_template(a_template({"a": 1}, **properties))
    start = f"base_job_template.variables.properties.{message}"
    assert str(refused.value).startswith(start)


@pytest.mark.parametrize(
    "schema", [{"properties": []}, {"required": True}, {"properties": {}, "definitions": 5}]
)
def test_a_schema_that_is_none_is_refused(schema):
    text = json.dumps({"job_configuration": {"a": 1}, "variables": schema})
    with pytest.raises(InvalidSettings, match=r"^base_job_template\.variables\."):
        parse_template(text)


@pytest.mark.parametrize(
    ("configuration", "properties"),
    [
        ({"a": ["{{ prefect.blocks.secret.key }}"]}, {}),
        ({"a": {"$ref": {"block_document_id": "7"}}}, {}),
        ({}, {"x": {"default": "{{ prefect.variables.a }}"}}),
        ({}, {"x": {"default": {"$ref": {"block_document_id": "7"}}}}),
    ],
)
def test_a_template_that_asks_a_prefect_server_is_refused(configuration, properties):
    with pytest.raises(InvalidSettings, match="is kept by a Prefect server, which nobody asks"):
        parse_template(a_template(configuration, **properties))


def test_the_size_and_the_depth_of_a_template_are_bounded():
    fits = a_template({"a": ""})
    assert parse_template(fits.replace('""', f'"{"x" * (MOST_BYTES - len(fits))}"'))
    with pytest.raises(InvalidSettings, match="is larger than 256 KiB"):
        parse_template(fits.replace('""', f'"{"x" * (MOST_BYTES - len(fits) + 1)}"'))

    deep = "[" * 49 + "]" * 49
    assert parse_template(fits.replace('""', deep))
    with pytest.raises(InvalidSettings, match="nested more than 50 levels deep"):
        parse_template(fits.replace('""', f"[{deep}]"))
    with pytest.raises(InvalidSettings, match="is nested too deep"):
        parse_template(fits.replace('""', "[" * 100_000))


# --- Files


@pytest.mark.parametrize("whole", [PROCESS, {"name": "p", "base_job_template": PROCESS}])
def test_a_file_holds_a_template_or_a_pool_that_has_one(whole):
    text = read_template(json.dumps(whole, indent=2).encode())
    assert template_fields(text) == PROCESS
    assert len(text) < len(json.dumps(PROCESS))


@pytest.mark.parametrize("whole", [{}, {"base_job_template": {}, "name": "p"}])
def test_an_empty_template_is_none(whole):
    assert read_template(json.dumps(whole).encode()) == ""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is not JSON"),
        (b"[]", "must be an object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"name": "p"}', "is neither a template (job_configuration, variables) nor a pool with"),
        (b'{"base_job_template": 5}', "must be an object"),
        (b'{"job_configuration": {"a": "\xff"}, "variables": {}}', "is not UTF-8"),
        (b'{"job_configuration": {"a": "\\ud800"}, "variables": {}}', "one half of a surrogate"),
        (b" " * 1_048_577, "a file of more than 1024 KiB"),
    ],
)
def test_a_file_that_holds_neither_is_refused(raw, message):
    with pytest.raises(InvalidSettings) as refused:
        read_template(raw)
    assert str(refused.value).startswith("base_job_template: ")
    assert message in str(refused.value)


@pytest.mark.parametrize("text", ["", "{}", "no json", "[]"])
def test_what_is_stored_and_no_template_is_shown_as_none(text):
    assert template_fields(text) == {}


def test_a_stored_template_that_cannot_be_used_refuses_its_runs():
    with pytest.raises(InvalidRun, match=r"^the pool's base_job_template: is not JSON"):
        configure({}, "no json")
