"""Every exchange that was recorded from a real Prefect server, asked of ours and compared.

The recorded runs are submitted as they are; the moment of an answer is the recorded one.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dispatcher.clock import to_ms
from dispatcher.stored import Pool, Queue
from tests.edge import Edge

RECORDED = Path(__file__).parents[3] / "shared/fixtures/prefect"
PATTERNS = ("scheduled.*", "accepted.*", "error.*")
EXCHANGES = {
    path.name.removesuffix(".exchange.json"): json.loads(path.read_text())
    for pattern in PATTERNS
    for path in sorted(RECORDED.glob(f"{pattern}.exchange.json"))
}
SUBMITTED = ("scheduled.one", "scheduled.many")
LATE_AFTER = timedelta(seconds=15)


class Difference(NamedTuple):
    """A field that may differ, and why; `is_meant` looks at theirs and ours of one run."""

    field: str
    reason: str
    is_meant: Callable[[dict[str, Any], dict[str, Any]], bool]


def became_late(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    moment = due(theirs) + timedelta(seconds=theirs["estimated_start_time_delta"])
    names = (theirs["state_name"], ours["state_name"])
    return names == ("Scheduled", "Late") and moment - due(theirs) >= LATE_AFTER


def by_a_moment(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    field = "estimated_start_time_delta"
    return abs(theirs[field] - ours[field]) <= 0.1


_LATE = (
    "a run is Late the moment it is 15 s past its due time; Prefect's service names a few runs "
    "per round, so that some are still Scheduled a minute later"
)
DIFFERENCES = [
    Difference("flow_run.state_name", _LATE, became_late),
    Difference("flow_run.state_id", f"another state has another id: {_LATE}", became_late),
    Difference("flow_run.state.id", f"another state has another id: {_LATE}", became_late),
    Difference("flow_run.state.name", _LATE, became_late),
    Difference("flow_run.state.timestamp", f"when it became Late: {_LATE}", became_late),
    Difference(
        "flow_run.estimated_start_time_delta",
        "Prefect reads its clock anew for each run of an answer, we once, and in milliseconds",
        by_a_moment,
    ),
]


def due(flow_run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(flow_run["expected_start_time"])


def recorded_pool(name: str) -> tuple[Pool, dict[str, Any]]:
    """A pool under its recorded id, with the ids of its queues."""
    if name == "fx-many":
        pool = json.loads((RECORDED / "work_pool.body.json").read_bytes())
        queues = json.loads((RECORDED / "work_queues.filter.body.json").read_bytes())
        return Pool(name, pool["id"], "process", limit=pool["concurrency_limit"]), {
            queue["name"]: queue for queue in queues
        }
    one = EXCHANGES["scheduled.one"]["response"]["body"][0]
    ids = (one["work_pool_id"], one["work_queue_id"]) if name == "fx-one" else ("0", "1")
    return Pool(name, ids[0], "process"), {"default": {"id": ids[1], "priority": 1}}


@pytest.fixture
def edge(client, prefix) -> Edge:
    """An edge on a server that has the recorded pools and all recorded runs."""
    edge = Edge(client, prefix)
    for name in ("fx-one", "fx-many", "fx-empty"):
        pool, queues = recorded_pool(name)
        pool = replace(pool, handout="poll", command="true")
        edge.doors.store.create_pool(pool, default_queue_id=queues["default"]["id"])
        for queue, fields in queues.items():
            if queue != "default":
                made = Queue(queue, name, fields["id"], 0, limit=fields["concurrency_limit"])
                edge.doors.store.create_queue(made, priority=fields["priority"])
    for recorded in SUBMITTED:
        body = (RECORDED / f"{recorded}.body.json").read_bytes()
        answer = edge("POST", "/api/flow_runs", content=body, headers=JSON)
        assert {result["result"] for result in answer.json()} == {"accepted"}
    return edge


JSON = {"Content-Type": "application/json"}


def at_that_moment(edge: Edge, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the edge answer at the moment of a recorded answer: its runs say how late they are."""
    late = [
        due(row["flow_run"]) + timedelta(seconds=row["flow_run"]["estimated_start_time_delta"])
        for row in (answer if isinstance(answer, list) else [])
        if row["flow_run"]["estimated_start_time_delta"] > 1
    ]
    if late:
        read = edge.doors.inspector.scheduled_page
        monkeypatch.setattr(
            edge.doors.inspector,
            "scheduled_page",
            lambda *args, **options: replace(read(*args, **options), now_ms=to_ms(late[0])),
        )


def asked(edge: Edge, request: dict[str, Any]) -> Any:
    raw = request.get("raw_body")
    if raw is None and request["body"] is not None:
        raw = json.dumps(request["body"])
    return edge(request["method"], request["path"], content=raw or b"", headers=JSON)


def differing(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """The paths at which two JSON values differ, in value, in type or in their names."""
    if type(theirs) is not type(ours):
        return [f"{path}: a {type(theirs).__name__} is a {type(ours).__name__}"]
    if isinstance(theirs, dict):
        names = [f"{path}: {name} is on one side" for name in theirs.keys() ^ ours.keys()]
        both = theirs.keys() & ours.keys()
        return names + [
            found
            for name in sorted(both)
            for found in differing(theirs[name], ours[name], f"{path}.{name}".strip("."))
        ]
    if isinstance(theirs, list) and len(theirs) == len(ours):
        return [
            found
            for i, (one, other) in enumerate(zip(theirs, ours, strict=True))
            for found in differing(one, other, f"{path}[{i}]")
        ]
    return [] if theirs == ours else [path]


def unexplained(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The fields of one run that differ and are not in the list, or not for the reason given."""
    meant = {
        each.field for each in DIFFERENCES if each.is_meant(theirs["flow_run"], ours["flow_run"])
    }
    return [path for path in differing(theirs, ours) if path not in meant]


@pytest.mark.parametrize("name", EXCHANGES)
def test_it_answers_as_the_recorded_server_did(name, edge, monkeypatch):
    request, response = EXCHANGES[name]["request"], EXCHANGES[name]["response"]
    theirs = response["body"]
    at_that_moment(edge, theirs, monkeypatch)
    answer = asked(edge, request)
    ours = answer.json()
    assert answer.status_code == response["status"]
    assert answer.headers["content-type"] == response["headers"]["content-type"]
    if not isinstance(theirs, list):
        assert ours == theirs
        return
    assert [row["flow_run"]["id"] for row in ours] == [row["flow_run"]["id"] for row in theirs]
    pairs = zip(theirs, ours, strict=True)
    assert [found for pair in pairs if (found := unexplained(*pair))] == []


def test_all_recorded_exchanges_are_replayed():
    assert len(EXCHANGES) == 23
    assert {name.split(".")[0] for name in EXCHANGES} == {"scheduled", "accepted", "error"}


@pytest.mark.parametrize("difference", DIFFERENCES, ids=[each.field for each in DIFFERENCES])
def test_each_difference_in_the_list_is_one(difference, edge, monkeypatch):
    theirs = EXCHANGES["scheduled.many"]["response"]["body"]
    at_that_moment(edge, theirs, monkeypatch)
    ours = asked(edge, EXCHANGES["scheduled.many"]["request"]).json()
    assert difference.reason
    found = [path for pair in zip(theirs, ours, strict=True) for path in differing(*pair)]
    assert difference.field in found


def test_a_difference_that_is_not_in_the_list_is_seen():
    theirs = EXCHANGES["scheduled.one"]["response"]["body"][0]
    ours = json.loads(json.dumps(theirs))
    ours["flow_run"]["run_count"] = 1
    ours["flow_run"]["tags"] = None
    del ours["flow_run"]["name"]
    assert unexplained(theirs, ours) == [
        "flow_run: name is on one side",
        "flow_run.run_count",
        "flow_run.tags: a list is a NoneType",
    ]
