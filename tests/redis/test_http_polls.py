"""The route of Prefect beyond what was recorded: odd bodies, and runs as they are by now."""

import json
from datetime import datetime, timedelta
from uuid import uuid5

import pytest

from dispatcher.models import FlowRun, FlowRunPolicy, State, StateDetails
from dispatcher.stored import Pool, Queue
from tests.commands import a_run, run_id
from tests.edge import Edge
from tests.redis.test_http_runs import NAMES

ROUTE = "/api/work_pools/etl/get_scheduled_flow_runs"
JSON = {"Content-Type": "application/json"}
IDS = {name: str(uuid5(NAMES, name)) for name in ("etl", "default", "hi")}
T = datetime.fromisoformat("2026-11-23T12:00:00.000001+00:00")


@pytest.fixture
def edge(client, prefix) -> Edge:
    """An edge with the polled pool `etl`, which has the queues `default` and `hi`."""
    edge = Edge(client, prefix)
    pool = Pool("etl", IDS["etl"], "process", handout="poll")
    edge.doors.store.create_pool(pool, default_queue_id=IDS["default"])
    edge.doors.store.create_queue(Queue("hi", "etl", IDS["hi"], 0), priority=1)
    return edge


def submit(edge: Edge, number: int = 1, queue: str = "default", **fields) -> None:
    names = {"work_pool_name": "etl", "work_queue_name": queue}
    answer = edge("POST", "/api/flow_runs", params=names, json=a_run(number, **fields))
    assert answer.status_code == 201


def poll(edge: Edge, **body) -> list[dict]:
    answer = edge("POST", ROUTE, json=body)
    assert answer.status_code == 200
    return answer.json()


def names(edge: Edge, **body) -> list[str]:
    return [row["flow_run"]["name"] for row in poll(edge, **body)]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"{}", b'{"limit": "5"}', b'{"limit": 5.0}', b'{"limit": true}'),
        *(b'{"scheduled_before": 4102444800}', b'{"scheduled_before": "4102444800000"}'),
        *(b'{"scheduled_after": "2000-01-01"}', b'{"scheduled_after": "2000-01-01 00:00:00"}'),
        *(b'{"work_queue_names": []}', b'{"work_queue_names": ["default", "default", "hi"]}'),
        b'\xef\xbb\xbf{"limit": null, "own": {"x": [1]}}',
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_a_body_that_the_real_server_takes_is_taken(body, kind, edge):
    submit(edge)
    answer = edge("POST", ROUTE, content=body, headers={"Content-Type": kind})
    assert [row["flow_run"]["name"] for row in answer.json()] == ["run-1"]


def detail(*fields: str, kind: str, said: str, given: object) -> dict:
    return {"type": kind, "loc": ["body", *fields], "msg": said, "input": given}


MISSING = [
    detail(field, kind="missing", said="Field required", given=None)
    for field in ("limit", "work_queue_names", "scheduled_before", "scheduled_after")
]
FRACTION = "Input should be a valid integer, got a number with a fractional part"


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (b"[]", MISSING),
        (b'"x"', MISSING),
        (b'{"limit": 5.5}', [detail("limit", kind="int_from_float", said=FRACTION, given=5.5)]),
        (
            b'{"work_queue_names": [1], "limit": [2]}',
            [
                detail("limit", kind="int_type", said="Input should be a valid integer", given=[2]),
                detail(
                    *("work_queue_names", 0),
                    kind="string_type",
                    said="Input should be a valid string",
                    given=1,
                ),
            ],
        ),
    ],
)
def test_a_body_of_the_wrong_form_is_told_in_the_second_envelope(body, details, edge):
    answer = edge("POST", ROUTE, content=body, headers=JSON)
    assert (answer.status_code, answer.json()) == (
        422,
        {
            "exception_message": "Invalid request received.",
            "exception_detail": details,
            "request_body": json.loads(body),
        },
    )


def test_a_limit_out_of_bounds_is_told_before_anything_else(edge):
    answer = edge("POST", ROUTE, json={"limit": 201, "work_queue_names": 1})
    assert (answer.status_code, answer.json()) == (
        *(422, {"detail": "Invalid limit: must be less than or equal to 200."}),
    )


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"scheduled_before": NaN}', b'{"limit": 1e999}', b'{"scheduled_before": true}'),
        *(b'{"scheduled_before": 1%b}' % (b"0" * 400), b'{"scheduled_before": {}}'),
        *(b'{"limit": "\\ud800"}', b'{"work_queue_names": ["\\u0000", 1]}'),
        *(b'{"scheduled_after": ""}', b'{"scheduled_after": "99999-01-01T00:00:00Z"}'),
    ],
)
def test_a_hostile_body_is_answered_in_json_that_can_be_read(body, edge):
    answer = edge("POST", ROUTE, content=body, headers=JSON)
    assert answer.status_code == 422
    assert json.loads(answer.content, parse_constant=pytest.fail)["exception_detail"]


@pytest.mark.parametrize("body", [b"\xff", b'{"limit": ' + b"9" * 5_000 + b"}"])
def test_a_body_that_cannot_be_read_is_told_as_prefect_does(body, edge):
    answer = edge("POST", ROUTE, content=body, headers=JSON)
    assert (answer.status_code, answer.json()) == (
        *(400, {"detail": "There was an error parsing the body"}),
    )


def test_a_million_wrong_names_are_no_million_errors(edge):
    answer = edge("POST", ROUTE, content=b'{"work_queue_names": [%s1]}' % (b"1," * 10**6))
    assert (answer.status_code, len(answer.json()["exception_detail"])) == (422, 100)


def test_ten_thousand_queue_names_are_looked_up(edge):
    submit(edge)
    many = [f"q{number}" for number in range(10_000)]
    answer = edge("POST", ROUTE, json={"work_queue_names": ["default", *many]})
    assert (answer.status_code, answer.json()) == (
        *(404, {"detail": "Work pool queue 'etl/q0' not found."}),
    )
    assert names(edge, work_queue_names=["default"] * 10_000) == ["run-1"]


@pytest.mark.parametrize(
    ("version", "status"),
    [("0.8.4", 200), ("0.8.0", 200), ("1.0.0", 200), ("0.7.9", 400), ("8", 400), ("a.b.c", 400)],
)
def test_an_api_version_that_is_too_old_or_none_is_refused(version, status, edge):
    answer = edge("POST", ROUTE, headers={"X-PREFECT-API-VERSION": version})
    assert answer.status_code == status


def test_bounds_are_inclusive_to_the_microsecond(edge):
    second, just = timedelta(seconds=1), timedelta(microseconds=1)
    for number in range(3):
        submit(edge, number, next_scheduled_start_time=(T + number * second).isoformat())

    def between(after: datetime | None, before: datetime | None) -> list[str]:
        bounds = {"scheduled_after": after, "scheduled_before": before}
        return names(edge, **{name: at and at.isoformat() for name, at in bounds.items()})

    assert between(None, T + second) == ["run-0", "run-1"]
    assert between(None, T + second - just) == ["run-0"]
    assert between(T + second, None) == ["run-1", "run-2"]
    assert between(T + second + just, None) == ["run-2"]
    assert between(T + second, T + second) == ["run-1"]
    assert between(T + second, T) == []


def test_a_run_has_every_field_though_it_was_accepted_with_three(edge):
    submit(edge, job_variables={"command": "true"}, own="kept")
    (row,) = poll(edge)
    run = row["flow_run"]
    assert (row["work_pool_id"], row["work_queue_id"]) == (IDS["etl"], IDS["default"])
    assert run.keys() == FlowRun.model_fields.keys() | {"own"}
    assert run["empirical_policy"].keys() == FlowRunPolicy.model_fields.keys()
    assert run["state"].keys() == State.model_fields.keys()
    assert run["state"]["state_details"].keys() == StateDetails.model_fields.keys()
    assert FlowRun.model_validate(run | {"state": None, "empirical_policy": {}})
    assert (run["work_queue_name"], run["state_type"], run["own"]) == (
        "default",
        "SCHEDULED",
        "kept",
    )
    assert run["state_id"] == run["state"]["id"]


def test_a_state_that_we_made_has_the_same_id_at_every_poll(edge):
    submit(edge)
    assert poll(edge)[0]["flow_run"]["state"] == poll(edge)[0]["flow_run"]["state"]


def test_a_run_that_was_given_another_time_says_so(edge):
    submit(edge, next_scheduled_start_time="2099-01-01T00:00:00.123456Z", expected_start_time=None)
    assert poll(edge)[0]["flow_run"]["next_scheduled_start_time"] == "2099-01-01T00:00:00.123456Z"
    edge("POST", f"/api/flow_runs/{run_id(1)}/retime", json={"at": "2098-01-01T00:00:00Z"})
    run = poll(edge)[0]["flow_run"]
    assert run["next_scheduled_start_time"] == "2098-01-01T00:00:00.000Z"
    assert run["state"]["state_details"]["scheduled_time"] == "2098-01-01T00:00:00.000Z"


def test_a_run_is_late_by_the_clock_of_the_server(edge):
    submit(edge, next_scheduled_start_time="2026-01-01T00:00:00Z")
    run = poll(edge)[0]["flow_run"]
    assert (run["state_name"], run["state"]["name"]) == ("Late", "Late")
    assert run["state"]["timestamp"] == "2026-01-01T00:00:15.000Z"
    assert run["estimated_start_time_delta"] > 0


def test_a_run_that_was_taken_is_not_listed(edge):
    submit(edge)
    taken = edge("POST", f"/api/flow_runs/{run_id(1)}/start", json={"worker": "w"})
    assert taken.status_code == 200
    assert poll(edge) == []


def test_a_pool_that_hands_out_by_stream_says_what_to_call(edge):
    edge.doors.store.set_pool("etl", {"handout": "stream"})
    answer = edge("POST", ROUTE)
    assert (answer.status_code, answer.json()) == (
        409,
        {
            "detail": "Work pool 'etl' hands its runs out by stream, so nothing can be polled: "
            "call POST /api/work_pools/etl/claim, or set its handout to poll."
        },
    )
