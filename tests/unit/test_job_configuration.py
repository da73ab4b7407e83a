"""What a process worker makes of job variables, with a template and without one."""

import json
from typing import Any

import pytest

from dispatcher.errors import InvalidRun, InvalidSettings
from dispatcher.job_configuration import (
    HandlerJob,
    ProcessJob,
    check_job,
    check_template,
    payload_handler_job,
    payload_process_job,
    process_job,
)
from tests.builders import a_pool
from tests.templates import PROCESS_TEXT, a_template

WRONG = (
    "flow_run.job_variables.timeout_s: must be a number of seconds above 0 and not above 1e9, "
    "or null for no timeout"
)


@pytest.mark.parametrize(
    ("variables", "queue_ms", "timeout_s"),
    [
        ({}, None, None),
        ({}, 1_500, 1.5),
        ({"timeout_s": 7}, None, 7.0),
        ({"timeout_s": 0.25}, 1_500, 0.25),
        ({"timeout_s": 90}, 1_500, 90.0),
        ({"timeout_s": None}, 1_500, None),
    ],
)
def test_a_job_has_the_timeout_of_its_queue_unless_it_brings_its_own(
    variables, queue_ms, timeout_s
):
    variables = {"command": "true"} | variables
    payload = json.dumps({"flow_run": {"job_variables": variables}}).encode()

    assert process_job(variables, timeout_ms=queue_ms).timeout_s == timeout_s
    assert payload_process_job(payload, timeout_ms=queue_ms).timeout_s == timeout_s


@pytest.mark.parametrize(
    "timeout_s",
    [0, -1, True, False, "5", [5], {}, 1e10, 10**400, float("inf"), float("-inf"), float("nan")],
)
def test_a_timeout_that_is_none_is_refused_with_its_path(timeout_s):
    with pytest.raises(InvalidRun) as refused:
        process_job({"command": "true", "timeout_s": timeout_s})
    assert str(refused.value) == WRONG


@pytest.mark.parametrize("template", ["", PROCESS_TEXT])
@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, ProcessJob(("own",))),
        ({"command": None, "env": None, "stream_output": None}, ProcessJob(("own",))),
        ({"working_dir": "", "labels": None, "name": None}, ProcessJob(("own",))),
        ({"command": "a 'b c'"}, ProcessJob(("a", "b c"))),
        ({"env": {"A": "1"}, "env.B": "2"}, ProcessJob(("own",), {"A": "1", "B": "2"})),
        ({"working_dir": "/w"}, ProcessJob(("own",), working_dir="/w")),
        ({"stream_output": False}, ProcessJob(("own",), stream_output=False)),
        ({"timeout_s": 5}, ProcessJob(("own",), timeout_s=5.0)),
        ({"name": "n", "labels": {"a": "b"}}, ProcessJob(("own",), name="n", labels={"a": "b"})),
        ({"image": "x", "more": {"y": 1}}, ProcessJob(("own",))),
    ],
    ids=str,
)
def test_prefects_template_for_processes_makes_what_no_template_makes(template, variables, job):
    assert process_job(variables, "own", base_job_template=template) == job


def test_a_template_fills_every_field_of_a_job():
    configuration = {
        "command": ["python", "{{ script }}", "-n{{ n }}"],
        "env": {"N": "{{ n }}", "YES": True, "RATIO": 0.5, "HOME": None},
        "working_dir": "{{ $BASE }}/{{ n }}",
        "stream_output": "{{ loud }}",
        "timeout_s": "{{ n }}",
        "name": "{{ ctx.flow_run.name }} of {{ ctx.flow.id }} {{ ctx.flow.no }}{{ n }}",
        "labels": {"n": "{{ n }}", "none": None},
        "image": "python",
    }
    template = a_template(configuration, script={}, n={"default": 3}, loud={})
    run = {"job_variables": {"script": "a b.py", "loud": False}, "name": "a", "flow_id": "f"}

    job = payload_process_job(
        json.dumps({"flow_run": run}).encode(), base_job_template=template, environ={"BASE": "/b"}
    )

    assert job == ProcessJob(
        command=("python", "a b.py", "-n3"),
        env={"N": "3", "YES": "True", "RATIO": "0.5", "HOME": None},
        working_dir="/b/3",
        stream_output=False,
        timeout_s=3.0,
        name="a of f 3",
        labels={"n": "3"},
    )


@pytest.mark.parametrize(
    ("configuration", "variables", "words"),
    [
        ({}, {}, ("own",)),
        ({"command": None}, {}, ("own",)),
        ({"command": "{{ a }} {{ b }}"}, {}, ("own",)),
        ({"command": "{{ a }} {{ b }}"}, {"a": "x"}, ("x",)),
        ({"command": "fixed"}, {"a": "x"}, ("fixed",)),
        ({"command": "fixed"}, {"command": None}, ("fixed",)),
        ({"command": "sh -c {{ command }}"}, {"command": "x"}, ("sh", "-c", "x")),
    ],
    ids=str,
)
def test_the_command_is_the_templates_else_the_pools(configuration, variables, words):
    template = a_template(configuration, a={}, b={}, command={})
    assert process_job(variables, "own", base_job_template=template).command == words


@pytest.mark.parametrize("variables", [{"command": "x"}, {"command": ["x"]}, {"command.a": "x"}])
@pytest.mark.parametrize("configuration", [{"command": "fixed {{ a }}"}, {"env": "{{ env }}"}])
def test_a_command_is_refused_where_the_template_has_no_place_for_it(configuration, variables):
    template = a_template(configuration, a={}, env={}, command={})
    with pytest.raises(InvalidRun) as refused:
        process_job(variables, "own", base_job_template=template)
    assert str(refused.value) == (
        "flow_run.job_variables.command: cannot be given: the pool's base job template has no "
        "{{ command }}, so nobody can override the command"
    )


@pytest.mark.parametrize(
    ("configuration", "variables", "message"),
    [
        ({"command": "{{ x }}"}, {"x": 5}, "base_job_template.job_configuration.command: must be"),
        ({"env": "{{ env }}"}, {"env": []}, "flow_run.job_variables.env: must be an object of"),
        ({"env": "{{ x }}"}, {"x": "a"}, "base_job_template.job_configuration.env: must be an"),
        ({"env": {"A": "{{ x }}"}}, {"x": [1]}, "base_job_template.job_configuration.env.A: must"),
        ({"working_dir": "{{ x }}"}, {"x": 5}, "base_job_template.job_configuration.working_dir"),
        ({"stream_output": "{{ x }}"}, {"x": "yes"}, "base_job_template.job_configuration.stream"),
        ({"timeout_s": "{{ x }}"}, {"x": -1}, "base_job_template.job_configuration.timeout_s: mu"),
        ({"labels": "{{ x }}"}, {"x": {"a": []}}, "base_job_template.job_configuration.labels.a"),
        ({"labels": "{{ x }}"}, {"x": 5}, "base_job_template.job_configuration.labels: must be an"),
        ({"name": "{{ x }}"}, {"x": 5}, "base_job_template.job_configuration.name: must be a str"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_used_is_refused_where_it_comes_from(
    configuration, variables, message
):
    template = a_template(configuration, x={}, env={}, command={})
    with pytest.raises(InvalidRun) as refused:
        process_job(variables, "own", base_job_template=template)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("configuration", "path"),
    [
        ({}, "base_job_template.job_configuration"),
        ({"command": "{{ command }}"}, "flow_run.job_variables"),
    ],
)
def test_a_run_without_any_command_is_refused(configuration, path):
    template = a_template(configuration, command={})
    with pytest.raises(InvalidRun) as refused:
        process_job({}, base_job_template=template)
    assert str(refused.value).startswith(f"{path}.command: is missing, and the pool has no command")


def test_what_a_process_needs_is_asked_of_process_pools_alone():
    variables: dict[str, Any] = {"command": 5, "labels": 5, "env": 5}
    template = a_template({"a": "{{ n }}"}, n={"type": "integer"})
    for kind in ("prefect", "handler"):
        check_job(variables, a_pool(type=kind))
        check_job(variables, a_pool(type=kind, base_job_template=template))
        with pytest.raises(InvalidRun, match=r"job_variables\.n: 'x' is not of type"):
            check_job({"n": "x"}, a_pool(type=kind, base_job_template=template))
    with pytest.raises(InvalidRun, match=r"job_variables\.command"):
        check_job(variables, a_pool())


@pytest.mark.parametrize(
    ("configuration", "properties", "message"),
    [
        ({"stream_output": "yes"}, {}, "stream_output: must be true or false"),
        ({"env": {"A=B": "1"}}, {}, "env: has a name that no environment can hold: 'A=B'"),
        ({"command": "'"}, {}, "command: cannot be split into words: No closing quotation"),
        ({"timeout_s": "{{ t }}"}, {"t": {"default": "soon"}}, "timeout_s: must be a number"),
    ],
    ids=str,
)
def test_a_template_that_no_run_can_make_a_process_of_is_refused(
    configuration, properties, message
):
    template = a_template(configuration, **properties)
    check_template(template, "rq")
    with pytest.raises(InvalidSettings) as refused:
        check_template(template, "process")
    assert str(refused.value).startswith(f"base_job_template.job_configuration.{message}")


def test_a_template_may_leave_to_the_runs_what_it_needs():
    check_template(
        a_template({"stream_output": "{{ x }}", "env": "{{ env }}"}, x={}, env={}), "process"
    )
    required = a_template({"working_dir": "/{{ x }}"}, x={"type": "string"}, required=["x"])
    check_template(required, "process")


def test_numbers_in_the_environment_of_a_run_are_refused_without_a_template():
    with pytest.raises(InvalidRun, match=r"job_variables\.env\.A: must be a string"):
        process_job({"command": "true", "env": {"A": 5}})


def handler_job(variables: dict[str, Any] | None, **options: Any) -> HandlerJob:
    payload = json.dumps({"flow_run": {"job_variables": variables}}).encode()
    return payload_handler_job(payload, **options)


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        (None, HandlerJob()),
        ({"handler": None, "command": 5}, HandlerJob()),
        ({"handler": " nightly report "}, HandlerJob("nightly report")),
        ({"handler": "a", "timeout_s": 5}, HandlerJob("a", 5.0)),
    ],
    ids=str,
)
def test_a_handler_worker_runs_the_handler_that_a_run_names(variables, job):
    assert handler_job(variables) == job


def test_a_handler_may_be_named_by_the_template_and_its_time_by_the_queue():
    template = a_template({"handler": "{{ kind }} {{ of }}"}, kind={"default": "load"}, of={})
    assert handler_job({"of": "x"}, base_job_template=template) == HandlerJob("load x")
    assert handler_job(None, base_job_template=template) == HandlerJob("load")
    assert handler_job(None, timeout_ms=1_500) == HandlerJob("", 1.5)


@pytest.mark.parametrize(
    ("variables", "template", "message"),
    [
        ({"handler": 5}, "", "flow_run.job_variables.handler: must be the name of a handler"),
        ({"timeout_s": 0}, "", "flow_run.job_variables.timeout_s: must be a number of seconds"),
        (
            {"handler": "a"},
            a_template({"env": {}}, handler={}),
            "flow_run.job_variables.handler: cannot be given: the pool's base job template has "
            "no {{ handler }}, so nobody can override the handler",
        ),
    ],
    ids=["no name", "no time", "no place"],
)
def test_what_names_no_handler_is_refused_when_it_is_submitted(variables, template, message):
    with pytest.raises(InvalidRun) as refused:
        check_job(variables, a_pool(type="handler", base_job_template=template))
    assert str(refused.value).startswith(message)
