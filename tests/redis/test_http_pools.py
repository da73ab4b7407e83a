"""Pools, queues, deployments, dead letters and workers over HTTP."""

from uuid import UUID, uuid5

import pytest

from tests.commands import Hands, a_run, run_id
from tests.edge import Edge
from tests.redis.test_http_run_changes import LATER
from tests.redis.test_http_runs import ETL, NAMES

ID = str(uuid5(NAMES, "etl"))
DEPLOYMENT = run_id(77)
NO_POOL = "pool 'nope' does not exist; create it with `dispatcher pool create`"
NO_QUEUE = "queue 'nope' does not exist in pool 'etl'; create it with `dispatcher queue create`"


@pytest.fixture
def edge(client, prefix) -> Edge:
    """An edge with the pool `etl`."""
    edge = Edge(client, prefix)
    assert ask(edge, "POST", "/work_pools", name="etl", id=ID, command="true")[0] == 201
    return edge


@pytest.fixture
def hands(edge, client, prefix) -> Hands:
    """A worker of the pool."""
    return Hands(client, prefix)


def ask(edge: Edge, method: str, path: str, **body) -> tuple[int, dict]:
    answer = edge(method, f"/api{path}", json=body or None)
    return answer.status_code, answer.json()


def submit(edge: Edge, *numbers: int, **fields) -> None:
    runs = [a_run(number, **fields) for number in numbers]
    edge("POST", "/api/flow_runs", params=ETL, json=runs)


def test_a_pool_is_created_with_its_default_queue(edge):
    status, pool = ask(edge, "GET", "/work_pools/etl")
    (queue,) = pool["work_queues"]
    assert (status, pool["id"], pool["command"], pool["handout"]) == (200, ID, "true", "stream")
    assert (queue["name"], queue["id"]) == ("default", pool["default_queue_id"])


def test_the_same_pool_again_is_no_error_and_another_one_is(edge):
    assert ask(edge, "POST", "/work_pools", name="etl", id=ID)[0] == 200
    status, problem = ask(edge, "POST", "/work_pools", name="etl")
    assert (status, problem["type"]) == (409, "urn:dispatcher:problem:already-exists")


SETTINGS = {
    "concurrency_limit": 3,
    "lease_seconds": 30.0,
    "retention_seconds": 60.0,
    "keep_payload": True,
    "late_after_seconds": 1.5,
    "idempotency_ttl_seconds": 60.0,
    "dead_retention_seconds": 60.0,
    "handout": "poll",
    "command": "false",
    "base_job_template": {
        "job_configuration": {"command": "{{ command }}"},
        "variables": {"properties": {"command": {"type": "string"}}},
    },
}


def test_every_setting_of_a_pool_is_changed_and_shown(edge):
    status, pool = ask(edge, "PATCH", "/work_pools/etl", **SETTINGS)
    assert (status, {name: pool[name] for name in SETTINGS}) == (200, SETTINGS)
    assert pool["heartbeat_interval_seconds"] == 10.0


def test_what_is_not_given_stays_and_null_takes_away(edge):
    ask(edge, "PATCH", "/work_pools/etl", **SETTINGS)
    gone = {"concurrency_limit": None, "command": None, "base_job_template": None}
    _, pool = ask(edge, "PATCH", "/work_pools/etl", **gone)
    left = {**SETTINGS, **gone, "base_job_template": {}}
    assert {name: pool[name] for name in SETTINGS} == left


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (
            {"name": "a/b"},
            "body.name: pool name 'a/b' contains /; these are not allowed: / % & > <",
        ),
        ({"name": "b", "lease_seconds": 0.1}, "body.lease_seconds: must be greater than or equal"),
        ({"name": "b", "lease_seconds": None}, "body.lease_seconds: must be a valid number"),
        ({"name": "b", "limit": 1}, "body.limit: is not known here"),
        ({"name": "b", "command": "'"}, "body.command: cannot be split into words: No closing"),
        (
            {"name": "b", "base_job_template": {"x": 1}},
            "body.base_job_template: is neither a template",
        ),
        ({"name": "b", "handout": "push"}, "body.handout: must be 'stream' or 'poll'"),
    ],
)
def test_a_pool_that_cannot_be_is_refused_with_its_field(body, detail, edge):
    status, problem = ask(edge, "POST", "/work_pools", **body)
    assert status == 422
    assert problem["detail"].startswith(detail)
    assert problem["errors"][0]["field"] == detail.partition(":")[0]
    assert [pool["name"] for pool in edge("GET", "/api/work_pools").json()] == ["etl"]


def test_a_pause_says_since_when_by_whom_why_and_until(edge):
    status, pool = ask(edge, "POST", "/work_pools/etl/pause", until=LATER, reason="why")
    assert (status, pool["is_paused"], pool["intake_paused"]) == (200, True, False)
    pause = {name: pool["pause"][name] for name in ("by", "until", "reason")}
    assert pause == {"by": "http@127.0.0.1", "until": "2099-01-01T00:00:00.000Z", "reason": "why"}
    assert ask(edge, "POST", "/work_pools/etl/resume")[1]["is_paused"] is False


def test_a_paused_intake_refuses_runs_with_the_reason(edge):
    ask(edge, "POST", "/work_pools/etl/queues/default/pause", intake=True, reason="too many")
    answer = edge("POST", "/api/flow_runs", params=ETL, json=a_run(1))
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith("intake of etl/default is paused: too many")
    assert ask(edge, "POST", "/work_pools/etl/queues/default/resume", intake=True)[0] == 200
    submit(edge, 1)


def test_an_end_of_a_pause_that_has_passed_is_refused(edge):
    status, problem = ask(edge, "POST", "/work_pools/etl/pause", until="2000-01-01T00:00:00Z")
    assert (status, problem["detail"]) == (
        *(409, "until 2000-01-01T00:00:00Z has passed already; give a later time"),
    )
    assert ask(edge, "GET", "/work_pools/etl")[1]["is_paused"] is False


QUEUE = {
    "concurrency_limit": 2,
    "max_unclaimed": 10,
    "max_deliveries": 1,
    "on_worker_lost": "crash",
    "timeout_seconds": 5.0,
    "cancel_grace_seconds": 0.0,
    "late_policy": "latest",
    "late_drop_seconds": 60.0,
}


@pytest.mark.parametrize("is_new", [True, False])
def test_every_setting_of_a_queue_is_set_and_shown(is_new, edge):
    if is_new:
        status, _ = ask(edge, "POST", "/work_pools/etl/queues", name="q", priority=1, **QUEUE)
        assert status == 201
    else:
        ask(edge, "POST", "/work_pools/etl/queues", name="q")
        ask(edge, "PATCH", "/work_pools/etl/queues/q", priority=1, **QUEUE)
    queues = edge("GET", "/api/work_pools/etl/queues").json()
    assert [(queue["name"], queue["priority"]) for queue in queues] == [("q", 1), ("default", 2)]
    assert {name: queues[0][name] for name in QUEUE} == QUEUE


@pytest.mark.parametrize(
    ("method", "path", "detail"),
    [
        ("GET", "/work_pools/nope", NO_POOL),
        ("PATCH", "/work_pools/nope", NO_POOL),
        ("POST", "/work_pools/nope/pause", NO_POOL),
        ("POST", "/work_pools/nope/resume", NO_POOL),
        ("DELETE", "/work_pools/nope", NO_POOL),
        ("GET", "/work_pools/nope/queues", NO_POOL),
        ("GET", "/work_pools/nope/workers", NO_POOL),
        ("GET", "/work_pools/etl/queues/nope", NO_QUEUE),
        ("PATCH", "/work_pools/etl/queues/nope", NO_QUEUE),
        ("POST", "/work_pools/etl/queues/nope/pause", NO_QUEUE),
        ("POST", "/work_pools/etl/queues/nope/resume", NO_QUEUE),
        ("DELETE", "/work_pools/etl/queues/nope", NO_QUEUE),
        ("GET", "/deployments?work_pool_name=nope", NO_POOL),
        ("GET", f"/deployments/{DEPLOYMENT}?work_pool_name=nope", NO_POOL),
        ("GET", "/dead_letters?work_pool_name=nope", NO_POOL),
        ("GET", "/flow_runs?work_pool_name=nope", NO_POOL),
        ("GET", "/events?work_pool_name=nope", NO_POOL),
    ],
)
def test_what_is_not_there_is_not_found(method, path, detail, edge):
    body = {"concurrency_limit": 1} if method == "PATCH" else {}
    status, problem = ask(edge, method, path, **body)
    assert (status, problem["type"], problem["detail"]) == (
        *(404, "urn:dispatcher:problem:not-found", detail),
    )


def test_a_pool_that_has_runs_is_deleted_by_force_alone(edge):
    submit(edge, 1, 2)
    status, problem = ask(edge, "DELETE", "/work_pools/etl")
    assert (status, problem["detail"]) == (
        409,
        "pool etl is not empty: 2 scheduled; force=true cancels its runs first",
    )
    assert ask(edge, "DELETE", "/work_pools/etl?force=true") == (
        200,
        {"result": "deleted", "work_pool_name": "etl", "cancelled": 2, "purged": 0},
    )
    assert edge("GET", "/api/work_pools").json() == []


def test_a_queue_whose_runs_workers_have_is_deleted_when_they_have_ended(edge, hands):
    ask(edge, "POST", "/work_pools/etl/queues", name="q")
    edge("POST", "/api/flow_runs", params={**ETL, "work_queue_name": "q"}, json=a_run(1))
    claim = hands.start(hands.claim("q"))
    status, problem = ask(edge, "DELETE", "/work_pools/etl/queues/q?force=true")
    assert status == 409
    assert problem["detail"].endswith("its workers were told to end them: call again")
    hands.finish(claim, "CANCELLED")
    assert ask(edge, "DELETE", "/work_pools/etl/queues/q?force=true")[0] == 200


def test_the_default_queue_goes_with_its_pool(edge):
    status, problem = ask(edge, "DELETE", "/work_pools/etl/queues/default")
    assert (status, problem["detail"]) == (
        *(409, "queue 'default' goes with its pool; it cannot be deleted by itself"),
    )


def test_a_deployment_gets_a_limit_and_loses_it(edge):
    path = f"/deployments/{DEPLOYMENT}?work_pool_name=etl"
    strategy = {"collision_strategy": "CANCEL_NEW"}
    ask(edge, "PATCH", path, concurrency_limit=1)
    status, found = ask(edge, "PATCH", path, concurrency_options=strategy)
    assert (status, found) == (
        200,
        {
            "id": DEPLOYMENT,
            "work_pool_name": "etl",
            "concurrency_limit": 1,
            "concurrency_options": strategy,
            "held": 0,
            "waiting": 0,
        },
    )
    assert edge("GET", "/api/deployments", params=ETL).json() == [found]
    assert ask(edge, "PATCH", path, concurrency_limit=None)[1]["concurrency_limit"] is None
    assert edge("GET", "/api/deployments", params=ETL).json() == []


@pytest.fixture
def dead(edge, hands) -> list[str]:
    """Two dead letters, the first one first."""
    ask(edge, "PATCH", "/work_pools/etl/queues/default", max_deliveries=1)
    for number in (1, 2):
        submit(edge, number)
        hands.start(hands.claim())
        hands.die()
    return [run_id(1), run_id(2)]


def listed(edge: Edge) -> list[str]:
    answer = edge("GET", "/api/dead_letters", params=ETL).json()
    return [letter["id"] for letter in answer["results"]]


def test_dead_letters_are_listed_the_last_one_first_page_by_page(edge, dead):
    first = edge("GET", "/api/dead_letters", params={"limit": 1}).json()
    second = edge("GET", "/api/dead_letters", params={"cursor": first["next_cursor"]}).json()
    found = [letter for page in (first, second) for letter in page["results"]]
    assert [(letter["id"], letter["losses"]) for letter in found] == [(dead[1], 1), (dead[0], 1)]
    assert second["next_cursor"] is None


def test_a_dead_letter_is_read_with_its_deliveries_and_payload(edge, dead):
    letter = edge("GET", f"/api/dead_letters/{dead[0]}").json()
    assert (letter["state_type"], letter["deliveries"][0]["outcome"]) == ("CRASHED", "lost")
    assert letter["payload"]["flow_run"]["id"] == dead[0]


def test_a_dead_letter_is_requeued(edge, dead):
    status, told = ask(edge, "POST", f"/dead_letters/{dead[0]}/requeue", at=LATER)
    assert (status, told["result"], told["expected_start_time"]) == (
        *(200, "requeued", "2099-01-01T00:00:00.000Z"),
    )
    assert listed(edge) == [dead[1]]


def test_a_dead_letter_is_purged(edge, dead):
    told = {"result": "purged", "id": dead[0], "work_pool_name": "etl"}
    assert ask(edge, "POST", f"/dead_letters/{dead[0]}/purge") == (200, told)
    assert edge("GET", f"/api/flow_runs/{dead[0]}").status_code == 404


@pytest.mark.parametrize("step", ["requeue", "purge"])
def test_a_run_that_is_no_dead_letter_is_refused(step, edge):
    submit(edge, 1)
    status, problem = ask(edge, "POST", f"/dead_letters/{run_id(1)}/{step}")
    assert (status, problem["detail"]) == (
        *(409, f"run {run_id(1)} is not dead-lettered: it is SCHEDULED"),
    )


@pytest.mark.parametrize("step", ["requeue", "purge"])
@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ({}, [2, 1]),
        ({"older_than_seconds": 3600}, []),
        ({"flow_run_ids": [run_id(1)]}, [1]),
    ],
)
def test_a_filter_chooses_dead_letters(chosen, numbers, step, edge, dead):
    ids = [run_id(number) for number in numbers]
    body = {**ETL, "filter": chosen}
    _, would = ask(edge, "POST", f"/dead_letters/{step}", **body, dry_run=True)
    assert [(r["id"], r["result"]) for r in would["results"]] == [
        (each, f"would be {step}d".replace("eed", "ed")) for each in ids
    ]
    assert len(listed(edge)) == 2
    _, told = ask(edge, "POST", f"/dead_letters/{step}", **body)
    assert (told["found"], told["more"]) == (len(ids), False)
    assert listed(edge) == [each for each in (dead[1], dead[0]) if each not in ids]


def test_an_id_that_is_no_dead_letter_is_refused_among_others(edge, dead):
    ids = [dead[0], run_id(9)]
    _, told = ask(edge, "POST", "/dead_letters/purge", **ETL, filter={"flow_run_ids": ids})
    assert [result["result"] for result in told["results"]] == ["purged", "refused"]


def test_workers_are_listed_with_what_they_hold(edge, hands):
    submit(edge, 1)
    hands.claim()
    (worker,) = edge("GET", "/api/workers").json()
    assert edge("GET", "/api/work_pools/etl/workers").json()[0]["id"] == worker["id"]
    assert (worker["name"], worker["status"], worker["held"]) == ("hands", "ready", 1)
    assert 0 < worker["lease_left_seconds"] <= 15


def test_the_methods_of_a_path_are_told_to_who_uses_another_one(edge):
    answer = edge("PUT", "/api/work_pools/etl")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, PATCH")


def test_a_name_may_hold_what_a_path_has_encoded(edge):
    name = "a b?{ü}:#."
    assert ask(edge, "POST", "/work_pools", name=name)[0] == 201
    answer = edge("GET", "/api/work_pools/a%20b%3F%7B%C3%BC%7D%3A%23.")
    assert (answer.json()["name"], UUID(answer.json()["id"]).version) == (name, 4)
