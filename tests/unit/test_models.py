"""The models accept what the endpoint was seen to answer, and refuse wrong types by path."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import ValidationError

from dispatcher.models import (
    CreatedBy,
    FlowRun,
    FlowRunPolicy,
    RetryType,
    ScheduledFlowRun,
    State,
    StateDetails,
    StateType,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
PREFECT = SHARED / "fixtures" / "prefect"
SEED = SHARED / "seed" / "load_scheduled_runs.response.json"
RECORDED = sorted(path.name for path in PREFECT.glob("scheduled.*.body.json"))
MODELS = [StateDetails, State, FlowRunPolicy, CreatedBy, FlowRun, ScheduledFlowRun]
RUN_ID = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
FLOW_ID = "41cb79e5-03c6-4e96-b376-a10cb852f0d9"


def a_run(**fields):
    return FlowRun.model_validate({"id": RUN_ID, "flow_id": FLOW_ID, **fields})


def first_error(**fields):
    with pytest.raises(ValidationError) as refused:
        a_run(**fields)
    return refused.value.errors()[0]["loc"]


def schema_of(model):
    document = json.loads((PREFECT / "openapi.get_scheduled_flow_runs.json").read_bytes())
    name = "WorkerFlowRunResponse" if model is ScheduledFlowRun else model.__name__
    return document["components"]["schemas"][name]


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_answer_is_accepted(name):
    elements = json.loads((PREFECT / name).read_bytes())

    runs = [ScheduledFlowRun.model_validate(element) for element in elements]

    assert [str(run.flow_run.id) for run in runs] == [e["flow_run"]["id"] for e in elements]


def test_the_recorded_answers_hold_runs():
    assert sum(len(json.loads((PREFECT / name).read_bytes())) for name in RECORDED) == 45


def test_the_published_example_is_accepted_with_every_value():
    example = json.loads(SEED.read_bytes())[0]

    scheduled = ScheduledFlowRun.model_validate(example)

    assert json.loads(scheduled.model_dump_json()) == example


@pytest.mark.parametrize("name", RECORDED)
def test_a_dump_of_a_recorded_run_says_the_same_as_the_recording(name):
    for element in json.loads((PREFECT / name).read_bytes()):
        scheduled = ScheduledFlowRun.model_validate(element)

        assert json.loads(scheduled.model_dump_json()) == element


@pytest.mark.parametrize(
    "name", ["flow_run.body.json", *sorted(path.name for path in PREFECT.glob("*must-not*body*"))]
)
def test_a_run_read_by_itself_is_accepted_although_it_names_its_pool(name):
    raw = (PREFECT / name).read_bytes()

    run = FlowRun.model_validate_json(raw)

    assert run.model_extra["work_pool_name"] == json.loads(raw)["work_pool_name"]


@pytest.mark.parametrize("model", MODELS)
def test_every_field_of_the_published_schema_is_modelled(model):
    assert set(schema_of(model)["properties"]) == set(model.model_fields)


@pytest.mark.parametrize("model", MODELS)
def test_every_field_has_a_description(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("model", MODELS)
def test_defaults_that_the_published_schema_names_are_ours(model):
    published = {
        name: field["default"]
        for name, field in schema_of(model)["properties"].items()
        if "default" in field
    }

    assert {name: model.model_fields[name].default for name in published} == published


def test_the_state_types_are_the_published_ones():
    assert [member.value for member in StateType] == schema_of(StateType)["enum"]


def test_the_retry_types_are_the_published_ones():
    published = schema_of(FlowRunPolicy)["properties"]["retry_type"]["anyOf"][0]["enum"]

    assert [member.value for member in RetryType] == published


def test_four_state_types_are_terminal():
    assert {state for state in StateType if state.is_terminal} == {
        StateType.COMPLETED,
        StateType.FAILED,
        StateType.CANCELLED,
        StateType.CRASHED,
    }


def test_a_run_needs_nothing_but_its_id_and_its_flow():
    run = a_run()

    assert run.id == UUID(RUN_ID)
    assert run.flow_id == UUID(FLOW_ID)
    assert (run.name, run.parameters, run.context, run.tags, run.labels) == (None, {}, {}, [], {})
    assert (run.run_count, run.total_run_time, run.auto_scheduled) == (0, 0.0, False)
    assert (run.state, run.state_type, run.job_variables) == (None, None, None)


@pytest.mark.parametrize("field", ["id", "flow_id"])
def test_a_run_without_its_id_or_its_flow_is_refused(field):
    fields = {"id": RUN_ID, "flow_id": FLOW_ID}
    del fields[field]

    with pytest.raises(ValidationError) as refused:
        FlowRun.model_validate(fields)

    assert refused.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize("field", ["work_pool_id", "work_queue_id", "flow_run"])
def test_an_envelope_without_one_of_its_three_fields_is_refused(field):
    fields = json.loads(SEED.read_bytes())[0]
    del fields[field]

    with pytest.raises(ValidationError) as refused:
        ScheduledFlowRun.model_validate(fields)

    assert refused.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "not a uuid"),
        ("flow_id", 7),
        ("name", 7),
        ("deployment_id", "x"),
        ("parameters", []),
        ("parameters", None),
        ("context", "x"),
        ("empirical_policy", None),
        ("tags", "a"),
        ("labels", []),
        ("state_type", "scheduled"),
        ("run_count", -1),
        ("run_count", "3"),
        ("run_count", 1.5),
        ("run_count", True),
        ("run_count", 2**31),
        ("total_run_time", "1"),
        ("total_run_time", float("inf")),
        ("estimated_run_time", True),
        ("auto_scheduled", "yes"),
        ("auto_scheduled", 1),
        ("created_by", "me"),
        ("state", "SCHEDULED"),
        ("job_variables", []),
        ("next_scheduled_start_time", "2026-01-31T08:00:00"),
        ("next_scheduled_start_time", "2026-01-31"),
        ("next_scheduled_start_time", "2026-02-31T08:00:00Z"),
        ("next_scheduled_start_time", "1700000000"),
        ("next_scheduled_start_time", 1700000000),
        ("next_scheduled_start_time", ""),
    ],
)
def test_a_wrong_type_is_refused_at_its_field(field, value):
    assert first_error(**{field: value}) == (field,)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("tags.1", {"tags": ["a", 7]}),
        ("labels.bad", {"labels": {"ok": 1, "bad": [1]}}),
        ("labels.bad", {"labels": {"bad": None}}),
        ("empirical_policy.retries", {"empirical_policy": {"retries": -1}}),
        (
            "empirical_policy.retry_delay_seconds",
            {"empirical_policy": {"retry_delay_seconds": -0.5}},
        ),
        ("empirical_policy.retry_type", {"empirical_policy": {"retry_type": "later"}}),
        ("empirical_policy.pause_keys.0", {"empirical_policy": {"pause_keys": [1]}}),
        ("state.type", {"state": {}}),
        ("state.timestamp", {"state": {"type": "SCHEDULED", "timestamp": "today"}}),
        (
            "state.state_details.deferred",
            {"state": {"type": "SCHEDULED", "state_details": {"deferred": 1}}},
        ),
        ("created_by.id", {"created_by": {"id": "x"}}),
    ],
)
def test_a_wrong_type_inside_is_refused_with_the_whole_path(path, fields):
    assert ".".join(str(name) for name in first_error(**fields)) == path


def test_a_label_of_a_wrong_type_is_one_error():
    with pytest.raises(ValidationError) as refused:
        a_run(labels={"bad": []})

    assert refused.value.error_count() == 1


def test_of_many_wrong_tags_only_the_first_is_an_error():
    with pytest.raises(ValidationError) as refused:
        a_run(tags=[1] * 10_000)

    assert refused.value.error_count() == 1


@pytest.mark.parametrize("count", [3, 3.0, 0.0])
def test_a_count_may_be_written_as_a_number_with_nothing_behind_the_point(count):
    assert a_run(run_count=count).run_count == int(count)


def test_labels_keep_their_types():
    labels = {"text": "1", "whole": 1, "part": 1.5, "truth": True}

    kept = a_run(labels=labels).labels

    assert {name: (type(value), value) for name, value in kept.items()} == {
        name: (type(value), value) for name, value in labels.items()
    }


def test_unknown_fields_survive_at_every_level():
    fields = {
        "shade": 1,
        "empirical_policy": {"shade": 2},
        "created_by": {"shade": 3},
        "state": {"type": "SCHEDULED", "shade": 4, "state_details": {"shade": 5}},
    }

    dumped = json.loads(a_run(**fields).model_dump_json())

    assert (dumped["shade"], dumped["empirical_policy"]["shade"]) == (1, 2)
    assert (dumped["created_by"]["shade"], dumped["state"]["shade"]) == (3, 4)
    assert dumped["state"]["state_details"]["shade"] == 5


def test_a_run_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        a_run().name = "other"


def test_durations_are_seconds_as_float():
    run = a_run(total_run_time=3, estimated_start_time_delta=67.308499)

    assert run.total_run_time == 3.0
    assert run.estimated_start_time_delta == 67.308499


def test_a_time_keeps_its_moment_whatever_its_offset():
    run = a_run(expected_start_time="2026-01-31T08:00:00.5+02:00")

    assert run.expected_start_time == datetime(2026, 1, 31, 6, 0, 0, 500_000, UTC)


def test_aware_datetimes_of_python_are_taken_as_they_are():
    at = datetime(2026, 1, 31, 8, tzinfo=UTC)

    assert a_run(expected_start_time=at).expected_start_time == at


def test_naive_datetimes_of_python_are_refused():
    assert first_error(created=datetime(2026, 1, 31, 8)) == ("created",)


def test_pause_keys_are_a_set():
    policy = FlowRunPolicy.model_validate({"pause_keys": ["a", "b", "a"]})

    assert policy.pause_keys == {"a", "b"}


@pytest.mark.parametrize(
    ("policy", "retries", "delay_s"),
    [
        ({}, 0, 0.0),
        ({"retries": 2, "retry_delay": 40}, 2, 40.0),
        ({"max_retries": 3, "retry_delay_seconds": 1.5}, 3, 1.5),
        ({"max_retries": 3, "retries": None, "retry_delay": None}, 3, 0.0),
        ({"max_retries": 3, "retry_delay_seconds": 9, "retries": 0, "retry_delay": 0}, 0, 0.0),
        ({"max_retries": 3, "retry_delay_seconds": 9.0, "retries": 1}, 1, 9.0),
    ],
)
def test_the_deprecated_retry_fields_count_where_the_new_ones_are_null(policy, retries, delay_s):
    given = FlowRunPolicy.model_validate(policy)

    assert (given.effective_retries, given.effective_retry_delay_s) == (retries, delay_s)


def test_effective_retries_change_no_field():
    policy = FlowRunPolicy.model_validate({"max_retries": 3})

    assert policy.effective_retries == 3
    assert policy.retries is None


NEXT = datetime(2026, 1, 31, 8, tzinfo=UTC)
IN_STATE = NEXT + timedelta(hours=1)
EXPECTED = NEXT + timedelta(hours=2)


@pytest.mark.parametrize(
    ("fields", "scheduled"),
    [
        (("next", "state", "expected"), NEXT),
        (("next", "expected"), NEXT),
        (("state", "expected"), IN_STATE),
        (("expected",), EXPECTED),
        (("empty state", "expected"), EXPECTED),
        (("state",), IN_STATE),
        ((), None),
    ],
)
def test_the_scheduled_time_is_the_next_start_then_the_states_then_the_expected(fields, scheduled):
    values = {
        "next": {"next_scheduled_start_time": NEXT},
        "state": {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": IN_STATE}}},
        "empty state": {"state": {"type": "SCHEDULED"}},
        "expected": {"expected_start_time": EXPECTED},
    }
    given = {}
    for field in fields:
        given |= values[field]

    assert a_run(**given).scheduled_time() == scheduled
