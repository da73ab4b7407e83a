"""What a template makes of job variables, as Prefect's workers do; nothing in it is code."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidRun
from dispatcher.job_templates import configure
from tests.templates import PROCESS_TEXT, a_template

ANY: dict[str, Any] = {}
WORDS = {"x": ANY, "y": ANY, "env": ANY}


def made(configuration: dict[str, Any], variables: Any = None, **properties: Any) -> dict[str, Any]:
    template = a_template(configuration, **WORDS | properties)
    return dict(configure(variables, template).fields)


# --- What comes out


@pytest.mark.parametrize(
    ("configuration", "variables", "fields"),
    [
        ({"a": "{{ x }}"}, {"x": "text"}, {"a": "text"}),
        ({"a": "{{x}}"}, {"x": 5}, {"a": 5}),
        ({"a": "{{ x }}"}, {"x": None}, {"a": None}),
        ({"a": "{{ x }}"}, {"x": {"b": [1]}}, {"a": {"b": [1]}}),
        ({"a": "{{ x }}"}, {}, {}),
        ({"a": "{{ x }}"}, None, {}),
        ({"a": "n={{ x }}"}, {"x": 5}, {"a": "n=5"}),
        ({"a": " {{ x }}"}, {"x": 5}, {"a": " 5"}),
        ({"a": "{{ x }}{{ x }}"}, {"x": 5}, {"a": "55"}),
        ({"a": "{{ x }}/{{ y }}"}, {"x": True, "y": 1.5}, {"a": "True/1.5"}),
        ({"a": "{{ x }}/{{ y }}"}, {"y": "b"}, {"a": "/b"}),
        ({"a": ["{{ x }}", "{{ y }}", 7]}, {"y": "b"}, {"a": ["b", 7]}),
        ({"a": {"b": {"c": "{{ x }}", "d": None}}}, {}, {"a": {"b": {"d": None}}}),
        ({"a": "{{ x.b }}"}, {"x": {"b": [1]}}, {"a": [1]}),
        ({"a": "{{ x.b[1] }}"}, {"x": {"b": [1, 2]}}, {"a": 2}),
        ({"a": "{{ x[2] }}"}, {"x": [1]}, {}),
        ({"a": "{{ x.b }}"}, {"x": "b"}, {}),
        ({"{{ x }}": 1}, {"x": "text"}, {"{{ x }}": 1}),
        ({"a": "{ x } {{}} {{ x y }}"}, {"x": 5}, {"a": "{ x } {{}} {{ x y }}"}),
        ({"a": 1, "b": None, "c": True}, {}, {"a": 1, "b": None, "c": True}),
    ],
    ids=str,
)
def test_a_placeholder_is_replaced_as_prefect_replaces_it(configuration, variables, fields):
    assert made(configuration, variables) == fields


@pytest.mark.parametrize(
    ("default", "variables", "expected"),
    [
        ({"default": "d"}, {}, {"a": "d"}),
        ({"default": "d"}, {"x": "own"}, {"a": "own"}),
        ({"default": {"b": 1}}, {"x": {"c": 2}}, {"a": {"c": 2}}),
        ({"default": None}, {}, {}),
        ({"default": "d"}, {"x": None}, {"a": None}),
    ],
)
def test_what_a_run_brings_takes_the_place_of_a_default(default, variables, expected):
    assert made({"a": "{{ x }}"}, variables, x=default) == expected


@pytest.mark.parametrize(
    ("variables", "env"),
    [
        ({}, {"A": "1", "B": "1"}),
        ({"env": {"B": "2", "C": "2"}}, {"A": "1", "B": "2", "C": "2"}),
        ({"env": {"A": None}}, {"A": None, "B": "1"}),
        ({"env": None}, {"A": "1", "B": "1"}),
        ({"env.B": "3"}, {"A": "1", "B": "3"}),
        ({"env.B": "3", "env": {"B": "2"}}, {"A": "1", "B": "2"}),
        ({"env.B": "3", "env": {"C": "2"}}, {"A": "1", "B": "3", "C": "2"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["placeholder", "object", "default only"])
def test_an_environment_is_merged_and_never_replaced(form, variables, env):
    default = {"default": {"A": "1", "B": "1"} if form != "object" else {"B": "1"}}
    configuration = {"placeholder": {"env": "{{ env }}"}, "object": {"env": {"A": "1"}}}
    assert made(configuration.get(form, {"a": 1}), variables, env=default)["env"] == env


def test_an_environment_in_the_template_may_have_placeholders():
    configuration = {"env": {"A": "{{ x }}", "B": "b{{ y }}", "C": "{{ y }}"}}
    assert made(configuration, {"x": "1", "env": {"D": "4"}}) == {
        "env": {"A": "1", "B": "b", "D": "4"}
    }


def test_an_environment_that_the_template_has_no_place_for_is_left_out():
    assert made({"a": 1}, {"env": {"A": "1"}}) == {"a": 1}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"x.b": 1}, {"b": 1}),
        ({"x.b.c": 1, "x.d": 2}, {"b": {"c": 1}, "d": 2}),
        ({"x.b.c": 1, "x": {"b": {"d": 2}}}, {"b": {"c": 1, "d": 2}}),
        ({"x.b": 1, "x": 2}, 2),
        ({"x.b.c": 1, "x.b": 2}, {"b": 2}),
        ({"x.b.c": 1, "x.b": {"d": 2}}, {"b": {"c": 1, "d": 2}}),
    ],
    ids=str,
)
def test_names_with_dots_are_nested_and_what_is_nested_already_wins(variables, expected):
    before = json.dumps(variables)
    assert made({"a": "{{ x }}"}, variables) == {"a": expected}
    assert json.dumps(variables) == before


def test_without_a_template_the_job_variables_are_the_configuration():
    variables = {"command": "true", "env.A": "{{ x }}", "other": [1]}
    expected = {"command": "true", "env": {"A": "{{ x }}"}, "other": [1]}
    assert configure(variables).fields == expected
    assert configure(variables, "{}").fields == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
).filter(lambda value: "prefect." not in json.dumps(value) and "$ref" not in json.dumps(value))


@given(value=JSON, blanks=st.text(" \t\n", max_size=3))
def test_a_single_placeholder_keeps_the_type_of_its_value(value, blanks):
    found = configure({"x": value}, a_template({"a": [{"b": f"{{{{{blanks}x }}}}"}]}, x=ANY))
    (inner,) = found.fields["a"]
    assert json.dumps(inner["b"]) == json.dumps(value)


@given(value=st.text().filter(lambda text: "prefect." not in text), before=st.text("{ ,"))
def test_a_value_is_data_and_is_not_searched_for_placeholders(value, before):
    value = f"{value}{{{{ y }}}}"
    found = configure({"x": value, "y": 7}, a_template({"a": f"{before}-{{{{ x }}}}"}, x={}, y={}))
    assert found.fields["a"] == f"{before}-{value}"


# --- The environment of the worker


@pytest.mark.parametrize("template", [a_template({"a": "{{ $A }}", "x": "{{ x }}"}, x=ANY), ""])
def test_the_environment_is_left_to_the_worker_and_read_there(template):
    variables = {"a": "{{ $A }}", "x": ["{{ $A }}/{{ $NONE }}", "{{ $NONE }}"]}

    assert configure(variables, template).fields == variables
    assert configure(variables, template, environ={"A": "{{ $A }}{{ x }}"}).fields == {
        "a": "{{ $A }}{{ x }}",
        "x": ["{{ $A }}{{ x }}/", ""],
    }


# --- What is refused at submit


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "n: is required by the pool's base job template"),
        ({"n": "5"}, "n: '5' is not of type 'integer'"),
        ({"n": 0}, "n: 0 is less than the minimum of 1"),
        ({"n": None}, "n: None is not of type 'integer'"),
        ({"n": 1, "o": {"p": [1, "x"]}}, "o.p.1: 'x' is not of type 'integer'"),
        ({"n": 1, "o": {}}, "o.p: is required by the pool's base job template"),
        ({"n": 1, "o.p": 5}, "o.p: 5 is not of type 'array'"),
        ({"n": 1, "u": 5}, "u: 5 is not of type 'string', 'null'"),
        ({"n": 1, "e": "c"}, "e: 'c' is not one of ['a', 'b']"),
        ({"n": 1, "more": 5}, ": Additional properties are not allowed ('more' was unexpected)"),
        ({"n": ["long" * 20]}, "n: what is given is not of type 'integer'"),
    ],
    ids=str,
)
def test_a_run_that_breaks_the_schema_is_refused_with_the_path(variables, message):
    schema = {
        "properties": {
            "n": {"type": "integer", "minimum": 1},
            "o": {"$ref": "#/definitions/inner"},
            "u": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "e": {"type": "string", "enum": ["a", "b"]},
        },
        "definitions": {
            "inner": {
                "type": "object",
                "properties": {"p": {"type": "array", "items": {"type": "integer"}}},
                "required": ["p"],
            }
        },
        "required": ["n"],
        "additionalProperties": False,
    }
    template = json.dumps({"job_configuration": {"a": "{{ n }}"}, "variables": schema})

    with pytest.raises(InvalidRun) as refused:
        configure(variables, template)

    separator = "" if message.startswith(":") else "."
    assert str(refused.value) == f"flow_run.job_variables{separator}{message}"
    assert configure({"n": 1, "o": {"p": [1]}, "u": "x", "e": "b"}, template).fields == {"a": 1}


@pytest.mark.parametrize("kind", ["string", "integer", "object", ["string", "boolean"]])
def test_what_is_not_required_may_be_null(kind):
    assert made({"a": "{{ x }}"}, {"x": None}, x={"type": kind}) == {"a": None}


def test_a_tuple_of_an_older_draft_is_understood():
    properties = {"x": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]}}
    assert made({"a": "{{ x }}"}, {"x": ["b", 1]}, **properties) == {"a": ["b", 1]}
    with pytest.raises(InvalidRun, match=r"job_variables\.x\.1: 'c' is not of type 'integer'"):
        made({}, {"x": ["b", "c"]}, **properties)


def test_our_own_timeout_works_whatever_the_template_says_of_it():
    closed = {"properties": {"x": {}}, "additionalProperties": False}
    template = json.dumps({"job_configuration": {"a": "{{ x }}"}, "variables": closed})
    assert configure({"timeout_s": 5}, template).fields == {"timeout_s": 5}

    fixed = a_template({"timeout_s": 60})
    assert configure({"timeout_s": 5}, fixed).fields == {"timeout_s": 60}

    bounded = {"timeout_s": {"type": "number", "maximum": 10, "default": 7}}
    declared = a_template({"a": 1}, **bounded)
    assert configure({}, declared).fields == {"a": 1, "timeout_s": 7}
    assert configure({"timeout_s": 5}, declared).fields == {"a": 1, "timeout_s": 5}
    with pytest.raises(InvalidRun, match=r"job_variables\.timeout_s: 11 is greater than"):
        configure({"timeout_s": 11}, declared)


@pytest.mark.parametrize("template", ["", PROCESS_TEXT])
@pytest.mark.parametrize(
    ("variables", "start"),
    [
        ({"env": {"A": "b {{ prefect.blocks.secret.key }}"}}, "env.A: {{ prefect.blocks.secret."),
        ({"env.A": "{{ prefect.variables.a }}"}, "env.A: {{ prefect.variables.a }} is kept by a"),
        ({"command": ["a", "{{prefect.variables.a}}"]}, "command.1: {{ prefect.variables.a }} is"),
        ({"x": {"$ref": {"block_document_id": "7"}}}, "x: a block document is kept by a Prefect"),
    ],
    ids=str,
)
def test_what_a_prefect_server_keeps_is_refused(template, variables, start):
    with pytest.raises(InvalidRun) as refused:
        configure(variables, template)
    assert str(refused.value).startswith(f"flow_run.job_variables.{start}")
    assert "{{ $NAME }}" in str(refused.value)


# --- Bounds


@pytest.mark.parametrize(
    "configuration",
    [{"a": "{{ x }}" * 30_000}, {"a": ["{{ x }}"] * 20_000}, {"a": ["{{ x }} "] * 20_000}],
    ids=["text", "list", "texts"],
)
@pytest.mark.parametrize("value", ["b" * 1_000, ["b"] * 1_000, [{"b": {"c": 1}}] * 500])
def test_what_comes_out_is_bounded(configuration, value):
    with pytest.raises(InvalidRun, match="make a job configuration of more than 4 MiB"):
        made(configuration, {"x": value})


def test_what_comes_out_of_the_environment_is_bounded():
    with pytest.raises(InvalidRun, match="make a job configuration of more than 4 MiB"):
        configure({"a": "{{ $A }}" * 1_000}, environ={"A": "b" * 5_000})


def test_a_schema_that_leads_back_to_itself_refuses_the_run():
    template = a_template({"a": "{{ x }}"}, x={"$ref": "#/properties/x"})
    with pytest.raises(InvalidRun, match="the schema leads back to itself without end"):
        configure({"x": 1}, template)


def test_a_name_with_very_many_dots_is_refused():
    with pytest.raises(InvalidRun, match="has more than 20 parts"):
        configure({"x" + ".y" * 50_000: 1})


def test_many_names_with_dots_take_no_more_time_than_their_number():
    variables = {f"env.A{i}": "b" for i in range(30_000)}
    assert len(configure(variables).fields["env"]) == 30_000
