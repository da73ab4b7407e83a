"""Cancelling, retiming and explaining runs, and reading what became of them, over HTTP."""

from uuid import uuid5

import pytest

from dispatcher.stored import Pool, Queue
from tests.commands import Hands, a_run, run_id
from tests.edge import Edge
from tests.redis.test_http_runs import ETL, NAMES

LATER = "2099-01-01T00:00:00Z"
DEPLOYMENT = run_id(77)


@pytest.fixture
def edge(client, prefix) -> Edge:
    """An edge with the pool `etl`, which has the queues `default` and `bulk`."""
    edge = Edge(client, prefix)
    pool = Pool("etl", str(uuid5(NAMES, "etl")), "process")
    edge.doors.store.create_pool(pool, default_queue_id=str(uuid5(NAMES, "default")))
    edge.doors.store.create_queue(Queue("bulk", "etl", str(uuid5(NAMES, "bulk")), 0))
    return edge


@pytest.fixture
def hands(edge, client, prefix) -> Hands:
    """A worker of the pool."""
    return Hands(client, prefix)


def submit(edge: Edge, *numbers: int, queue: str = "default", **fields) -> None:
    runs = [a_run(number, **fields) for number in numbers]
    answer = edge("POST", "/api/flow_runs", params={**ETL, "work_queue_name": queue}, json=runs)
    assert {result["result"] for result in answer.json()} == {"accepted"}


def post(edge: Edge, path: str, **body) -> tuple[int, dict]:
    answer = edge("POST", f"/api{path}", json=body)
    return answer.status_code, answer.json()


def state_of(edge: Edge, number: int) -> str:
    return edge("GET", f"/api/flow_runs/{run_id(number)}").json()["state_type"]


def test_a_run_that_nobody_has_is_cancelled_at_once(edge):
    submit(edge, 1)
    told = {"result": "cancelled", "id": run_id(1), "work_pool_name": "etl"}
    assert post(edge, f"/flow_runs/{run_id(1)}/cancel", reason="why") == (200, told)
    run = edge("GET", f"/api/flow_runs/{run_id(1)}").json()
    assert run["state"] == {"type": "CANCELLED", "name": "Cancelled", "message": "why"}
    (event,) = edge("GET", "/api/events", params={**ETL, "limit": 1}).json()["results"]
    assert (event["event"], event["by"], event["reason"]) == ("cancelled", "http@127.0.0.1", "why")


def test_a_cancel_is_an_order_to_the_worker_that_has_the_run(edge, hands):
    submit(edge, 1)
    hands.start(hands.claim())
    status, told = post(edge, f"/flow_runs/{run_id(1)}/cancel")
    assert (status, told["result"], told["worker"]) == (200, "cancelling", hands.holder)


def test_a_run_that_has_ended_otherwise_is_not_cancelled(edge, hands):
    submit(edge, 1)
    hands.work()
    status, problem = post(edge, f"/flow_runs/{run_id(1)}/cancel")
    assert (status, problem["detail"]) == (*(409, f"run {run_id(1)} has ended already: COMPLETED"),)


def test_a_cancel_without_a_body_is_one(edge):
    submit(edge, 1)
    assert edge("POST", f"/api/flow_runs/{run_id(1)}/cancel").json()["result"] == "cancelled"


FILTERS = [
    ({}, {1, 2, 3, 4}),
    ({"work_queue_name": "bulk"}, {3}),
    ({"deployment_id": DEPLOYMENT}, {4}),
    ({"only_unclaimed": True}, {2, 3, 4}),
    ({"flow_run_ids": [run_id(1), run_id(3)]}, {1, 3}),
    ({"flow_run_ids": [run_id(1), run_id(3)], "work_queue_name": "bulk"}, {3}),
]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(("chosen", "numbers"), FILTERS)
def test_a_filter_cancels_what_it_finds_or_says_what_it_would(
    chosen, numbers, dry_run, edge, hands
):
    submit(edge, 1, 2)
    submit(edge, 3, queue="bulk")
    submit(edge, 4, next_scheduled_start_time=LATER, deployment_id=DEPLOYMENT)
    hands.claim()  # run 1
    status, told = post(edge, "/flow_runs/cancel", **ETL, filter=chosen, dry_run=dry_run)
    assert (status, told["dry_run"], told["found"], told["more"]) == (
        *(200, dry_run, len(numbers), False),
    )
    assert {result["id"] for result in told["results"]} == {run_id(n) for n in numbers}
    ended = {n for n in (1, 2, 3, 4) if state_of(edge, n) in ("CANCELLED", "CANCELLING")}
    assert ended == (set() if dry_run else numbers)


def test_one_call_cancels_no_more_than_its_limit_and_says_that_there_are_others(edge):
    submit(edge, 1, 2, 3)
    _, told = post(edge, "/flow_runs/cancel", **ETL, filter={}, limit=2)
    assert (told["found"], told["more"]) == (2, True)
    assert [state_of(edge, n) for n in (1, 2, 3)] == ["CANCELLED", "CANCELLED", "SCHEDULED"]


def test_a_cancel_of_many_without_a_filter_is_refused(edge):
    submit(edge, 1)
    status, problem = post(edge, "/flow_runs/cancel", **ETL)
    assert (status, problem["detail"]) == (422, "body.filter: is required")
    assert state_of(edge, 1) == "SCHEDULED"


def test_a_run_that_nobody_has_is_given_another_time(edge):
    submit(edge, 1)
    status, told = post(edge, f"/flow_runs/{run_id(1)}/retime", at=LATER)
    assert (status, told["expected_start_time"]) == (200, "2099-01-01T00:00:00.000Z")


def test_a_run_that_a_worker_has_is_not_given_another_time(edge, hands):
    submit(edge, 1)
    hands.claim()
    status, problem = post(edge, f"/flow_runs/{run_id(1)}/retime", at="now")
    assert status == 409
    assert problem["detail"] == (
        f"worker {hands.holder} has run {run_id(1)}: its time cannot be changed any more"
    )


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, [{"field": "body.at", "detail": "is required"}]),
        ({"at": 5}, [{"field": "body.at", "detail": "must be a valid string"}]),
        (
            {"at": "now", "reason": "x"},
            [{"field": "body.reason", "detail": "is not known here"}],
        ),
    ],
)
def test_a_body_that_is_wrong_is_told_field_by_field(body, errors, edge):
    status, problem = post(edge, f"/flow_runs/{run_id(1)}/retime", **body)
    assert (status, problem["errors"]) == (422, errors)


def test_a_run_is_explained(edge):
    submit(edge, 1, next_scheduled_start_time=LATER)
    answer = edge("GET", f"/api/flow_runs/{run_id(1)}/explain").json()
    assert (answer["id"], answer["reasons"][0]["code"]) == (run_id(1), "not_due")


def test_the_output_of_a_run_is_read_as_it_was_written(edge, hands):
    submit(edge, 1)
    hands.work()
    answer = edge("GET", f"/api/flow_runs/{run_id(1)}/logs")
    assert answer.content == b"said \x00 and \xff\n"
    assert answer.headers["content-type"] == "application/octet-stream"


def test_what_an_ended_run_has_dropped_is_not_found(edge, hands):
    submit(edge, 1)
    hands.work()
    answer = edge("GET", f"/api/flow_runs/{run_id(1)}/payload")
    assert answer.status_code == 404
    assert answer.json()["detail"].endswith("its payload was dropped; keep_payload keeps it")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", ""), ("GET", "/payload"), ("GET", "/logs"), ("GET", "/explain")),
        *(("POST", "/cancel"), ("POST", "/retime")),
    ],
)
def test_a_run_that_nobody_knows_is_not_found(method, path, edge):
    body = {"at": "now"} if path == "/retime" else None
    answer = edge(method, f"/api/flow_runs/{run_id(9)}{path}", json=body)
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"run {run_id(9)} is not known in any pool"


def test_events_are_read_on_behind_a_cursor(edge):
    submit(edge, 1)
    first = edge("GET", "/api/events", params=ETL).json()
    submit(edge, 2)
    after = {**ETL, "after": first["cursor"]}
    second = edge("GET", "/api/events", params=after, headers={"Prefer": "wait=5"}).json()
    assert [event["flow_run_id"] for event in second["results"]] == [run_id(2)]
    last = edge("GET", "/api/events", params={**ETL, "after": second["results"][-1]["cursor"]})
    assert last.json() == {"results": [], "cursor": second["cursor"]}


def test_events_of_all_pools_have_a_cursor_too(edge):
    submit(edge, 1)
    first = edge("GET", "/api/events", params={"limit": 1}).json()
    submit(edge, 2)
    second = edge("GET", "/api/events", params={"after": first["cursor"]}).json()
    assert [event["flow_run_id"] for event in second["results"]] == [run_id(2)]


@pytest.mark.parametrize("cursor", ["x", "1", "1-x", f"{2**64}-0", "=1-1"])
def test_a_cursor_of_events_that_no_answer_has_had_is_refused(cursor, edge):
    assert edge("GET", "/api/events", params={**ETL, "after": cursor}).status_code == 422
