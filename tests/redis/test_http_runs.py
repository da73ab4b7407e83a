"""Submitting, reading and listing runs over HTTP."""

import json
from uuid import UUID, uuid5

import pytest

from dispatcher.stored import Pool, Queue
from tests.edge import Edge

NAMES = UUID("57789097-a1ba-45da-819b-5a238accc0d6")
FLOW = str(uuid5(NAMES, "flow"))
JSON = {"Content-Type": "application/json"}
LATER = "2099-01-01T00:00:00Z"


def run_id(number: int) -> str:
    return str(uuid5(NAMES, str(number)))


def a_run(number: int, **fields) -> dict:
    return {"id": run_id(number), "flow_id": FLOW, "name": f"run {number}"} | fields


@pytest.fixture
def edge(client, prefix) -> Edge:
    """An edge with the pool `etl`, which has the queues `default` and `bulk`."""
    edge = Edge(client, prefix)
    pool = Pool("etl", str(uuid5(NAMES, "etl")), "any")
    edge.doors.store.create_pool(pool, default_queue_id=str(uuid5(NAMES, "default")))
    edge.doors.store.create_queue(Queue("bulk", "etl", str(uuid5(NAMES, "bulk")), 0))
    return edge


def submit(edge: Edge, runs: object, **params) -> tuple[int, object]:
    answer = edge("POST", "/api/flow_runs", params={"work_pool_name": "etl"} | params, json=runs)
    return answer.status_code, answer.json()


def test_one_run_is_accepted_with_its_receipt(edge):
    assert submit(edge, a_run(1, next_scheduled_start_time=LATER)) == (
        201,
        {
            "result": "accepted",
            "id": run_id(1),
            "work_pool_name": "etl",
            "work_queue_name": "default",
            "expected_start_time": "2099-01-01T00:00:00.000Z",
        },
    )


def test_what_is_accepted_is_kept_byte_for_byte(edge):
    pool, queue = str(uuid5(NAMES, "etl")), str(uuid5(NAMES, "bulk"))
    raw = (
        f'{{"flow_run" : {{"id":"{run_id(1)}","flow_id":"{FLOW}", "parameters":{{"x": 1.10, '
        f'"y":"\\u00fc"}} }},\n "work_pool_id":"{pool}","work_queue_id":"{queue}", "own":1e2}}'
    ).encode()
    answer = edge("POST", "/api/flow_runs", content=b" " + raw + b"\n", headers=JSON)
    assert answer.json()["work_queue_name"] == "bulk"
    assert edge("GET", f"/api/flow_runs/{run_id(1)}/payload").content == raw


def test_a_run_that_is_known_is_a_duplicate_and_no_error(edge):
    submit(edge, a_run(1, next_scheduled_start_time=LATER))
    status, receipt = submit(edge, a_run(1, next_scheduled_start_time=LATER))
    assert (status, receipt["result"], receipt["id"]) == (200, "duplicate", run_id(1))


def test_a_repeated_idempotency_key_answers_the_first_run(edge):
    submit(edge, a_run(1, idempotency_key="k"))
    status, receipt = submit(edge, a_run(2, idempotency_key="k"))
    assert (status, receipt["id"], receipt["offered_id"]) == (200, run_id(1), run_id(2))


def test_an_array_is_answered_with_a_result_for_each_run_in_order(edge):
    runs = [a_run(1), {**a_run(2), "flow_id": 7}, a_run(3), a_run(1)]
    status, results = submit(edge, runs)
    assert status == 200
    assert [result["result"] for result in results] == [
        *("accepted", "refused", "accepted", "duplicate")
    ]
    assert results[1] == {
        "result": "refused",
        "where": "index 1",
        "field": "flow_id",
        "reason": "must be a UUID; got 7",
    }


def test_a_run_that_is_wrong_is_a_problem_with_the_path_of_the_field(edge):
    status, problem = submit(edge, {"flow_run": {"id": run_id(1)}, "work_pool_id": 1})
    assert status == 422
    assert problem["type"] == "urn:dispatcher:problem:invalid"
    assert problem["errors"] == [{"field": "body.work_pool_id", "detail": "must be a UUID; got 1"}]
    assert edge("GET", f"/api/flow_runs/{run_id(1)}").status_code == 404


@pytest.mark.parametrize(
    ("params", "status", "detail"),
    [
        (
            {"work_pool_name": "nope"},
            404,
            "pool 'nope' does not exist; create it with `dispatcher pool create`",
        ),
        (
            {"work_queue_name": "nope"},
            404,
            "queue 'nope' does not exist in pool 'etl'; create it with `dispatcher queue create`",
        ),
        ({"create": "yes"}, 422, "query.create: Value error, must be true or false"),
        ({"pool": "etl"}, 422, "query.pool: Extra inputs are not permitted"),
        (
            {"at": "noon"},
            422,
            "query.at: time 'noon' is not understood; give now, a delay such as +10m or +1h30m, "
            "or a time such as 2026-01-31T08:00:00Z",
        ),
    ],
)
def test_a_query_that_is_wrong_refuses_the_whole_call(params, status, detail, edge):
    found, problem = submit(edge, [a_run(1)], **params)
    assert (found, problem["detail"]) == (status, detail)


def test_a_pool_and_queue_that_are_missing_can_be_created_with_the_first_run(edge):
    names = {"work_pool_name": "new", "work_queue_name": "own", "create": "true"}
    run = a_run(1, job_variables={"command": "true"})
    status, receipt = submit(edge, run, **names)
    assert (status, receipt["work_pool_name"], receipt["work_queue_name"]) == (201, "new", "own")


def test_a_time_in_the_query_beats_the_one_of_the_run(edge):
    at = "2098-01-01T00:00:00Z"
    _, receipt = submit(edge, a_run(1, next_scheduled_start_time=LATER), at=at)
    assert receipt["expected_start_time"] == "2098-01-01T00:00:00.000Z"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", ["/api/flow_runs", "/api/work_pools", "/api/flow_runs/stream"])
def test_what_a_web_page_can_send_without_asking_is_refused(kind, path, edge):
    answer = edge("POST", path, content=json.dumps(a_run(1)), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert "Content-Type: application/" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty: send a run or an array"),
        (b"{", "malformed JSON: the value from byte 0 on never ends"),
        (
            b'{"id":1}\n{"id":2}',
            "the body has several objects: send them as an array, or to /api/flow_runs/stream",
        ),
    ],
)
def test_a_body_that_is_no_run_is_refused(body, detail, edge):
    answer = edge("POST", "/api/flow_runs", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


def test_a_run_is_read_with_its_state_and_deliveries(edge):
    submit(edge, a_run(1, next_scheduled_start_time=LATER))
    run = edge("GET", f"/api/flow_runs/{run_id(1)}").json()
    assert run["state"] == {"type": "SCHEDULED", "name": "Scheduled", "message": None}
    assert (run["work_queue_name"], run["losses"], run["deliveries"]) == ("default", 0, [])


def test_a_run_that_two_pools_have_is_asked_for_by_its_pool(edge):
    other = Pool("b", str(uuid5(NAMES, "b")), "any")
    edge.doors.store.create_pool(other, default_queue_id=str(uuid5(NAMES, "b default")))
    submit(edge, a_run(1))
    submit(edge, a_run(1), work_pool_name="b")
    path = f"/api/flow_runs/{run_id(1)}"
    problem = edge("GET", path)
    assert (problem.status_code, problem.json()["type"]) == (
        *(409, "urn:dispatcher:problem:ambiguous"),
    )
    assert edge("GET", path, params={"work_pool_name": "b"}).json()["work_pool_name"] == "b"


def pages(edge: Edge, **params) -> list[list[str]]:
    """The names of the runs, page by page."""
    found, cursor = [], ""
    while True:
        answer = edge("GET", "/api/flow_runs", params={**params, "cursor": cursor}).json()
        found.append([run["name"] for run in answer["results"]])
        if (cursor := answer["next_cursor"]) is None:
            return found


def ten_runs(edge: Edge) -> None:
    for number in range(10):
        queue = "bulk" if number % 2 else "default"
        at = f"2099-01-01T00:00:0{number}Z"
        submit(edge, a_run(number), work_queue_name=queue, at=at)


def test_runs_are_listed_page_by_page_each_once(edge):
    ten_runs(edge)
    found = pages(edge, limit=4)
    assert found == [
        ["run 0", "run 2", "run 4", "run 6"],
        ["run 8", "run 1", "run 3", "run 5"],
        ["run 7", "run 9"],
    ]


def test_a_page_that_ends_with_the_list_is_followed_by_an_empty_one(edge):
    ten_runs(edge)
    assert [len(page) for page in pages(edge, limit=5)] == [5, 5, 0]


def test_a_run_that_leaves_between_two_pages_takes_none_with_it(edge):
    ten_runs(edge)
    first = edge("GET", "/api/flow_runs", params={"limit": 3, "work_queue_name": "default"} | ETL)
    names = [run["name"] for run in first.json()["results"]]
    for number in (2, 4):  # one that was read, and the one that the cursor names
        edge("POST", f"/api/flow_runs/{run_id(number)}/cancel")
    rest = edge(
        "GET",
        "/api/flow_runs",
        params={"limit": 3, "cursor": first.json()["next_cursor"]}
        | {"work_queue_name": "default", "state_type": "SCHEDULED"}
        | ETL,
    )
    assert names + [run["name"] for run in rest.json()["results"]] == [
        *("run 0", "run 2", "run 4", "run 6", "run 8")
    ]


ETL = {"work_pool_name": "etl"}


def test_ended_runs_come_behind_the_others_the_last_one_first(edge):
    ten_runs(edge)
    for number in (3, 0, 5):
        edge("POST", f"/api/flow_runs/{run_id(number)}/cancel")
    assert pages(edge, state_type="CANCELLED", limit=2) == [["run 5", "run 0"], ["run 3"]]
    assert pages(edge, limit=20)[0][-3:] == ["run 5", "run 0", "run 3"]


def test_runs_are_listed_by_deployment(edge):
    submit(edge, a_run(1, deployment_id=run_id(77)))
    submit(edge, a_run(2))
    assert pages(edge, deployment_id=run_id(77)) == [["run 1"]]


@pytest.mark.parametrize("cursor", ["x", "W10", "WyJldGwiLCIxIGRlZmF1bHQiLCJhIiwibmFuIl0", "ü"])
def test_a_cursor_that_no_answer_has_had_is_refused(cursor, edge):
    answer = edge("GET", "/api/flow_runs", params={"cursor": cursor})
    assert answer.status_code == 422
    assert "give the next_cursor of an answer" in answer.json()["detail"]


def test_a_queue_without_its_pool_is_refused(edge):
    answer = edge("GET", "/api/flow_runs", params={"work_queue_name": "default"})
    assert answer.status_code == 404
    assert "give work_pool_name with it" in answer.json()["detail"]


def lines(*runs: object) -> bytes:
    return b"".join(json.dumps(run).encode() + b"\n" for run in runs)


NDJSON = {"Content-Type": "application/x-ndjson"}


def streamed(edge: Edge, content: object) -> list[dict]:
    answer = edge("POST", "/api/flow_runs/stream", params=ETL, content=content, headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_stream_of_runs_is_answered_with_a_line_for_each(edge):
    body = lines(a_run(1), a_run(2)) + b'\n{"id": 3}\nno json\n' + lines(a_run(1)).strip()
    results = streamed(edge, body)
    assert [(result["result"], result.get("where")) for result in results] == [
        *(("accepted", None), ("accepted", None)),
        *(("refused", "line 4"), ("refused", "line 5"), ("duplicate", None)),
    ]


def test_lines_of_a_stream_may_be_cut_anywhere(edge):
    body = lines(*(a_run(number) for number in range(250)))

    async def pieces():
        for at in range(0, len(body), 997):
            yield body[at : at + 997]

    results = streamed(edge, pieces())
    assert [result["id"] for result in results] == [run_id(number) for number in range(250)]


def test_a_line_that_is_too_long_is_refused_and_the_next_one_is_not(edge):
    most = edge.doors.settings.max_payload_bytes
    long = a_run(1, parameters={"x": "y" * most})
    results = streamed(edge, lines(long, a_run(2)))
    size = len(lines(long)) - 1
    assert results[0]["reason"] == f"payload of {size:,} bytes is over the limit of {most:,} bytes"
    assert [result["result"] for result in results] == ["refused", "accepted"]


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00.000Z"),
        ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59.000Z"),
        ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_at_the_end_of_all_times_breaks_no_list(at, shown, edge):
    assert submit(edge, a_run(1, next_scheduled_start_time=at))[0] == 201
    (run,) = edge("GET", "/api/flow_runs").json()["results"]
    assert run["expected_start_time"] == shown
    assert edge("GET", f"/api/flow_runs/{run_id(1)}/explain").status_code == 200
