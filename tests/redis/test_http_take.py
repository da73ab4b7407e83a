"""Runs of a polled pool are taken over HTTP: by exactly one, with all that a claim has."""

import threading
from typing import Any

import httpx
import pytest

from tests.builders import POOL
from tests.held import LEASE_MS
from tests.served import Served, problem


@pytest.fixture
def polled(served: Served) -> Served:
    """The same with a pool that is polled, and the due run "a"."""
    served.store.set_pool(POOL, {"handout": "poll"})
    served.put_json("a")
    return served


def take(served: Served, run_id: str = "a", **body: Any) -> httpx.Response:
    return served.post(f"/api/flow_runs/{run_id}/start", body)


def test_a_start_without_a_token_takes_a_run_with_its_claim(polled):
    answer = take(polled, worker="poller")
    told = answer.json()
    claim = told.pop("claim")
    assert told == {
        "answer": "started",
        "work_pool_name": POOL,
        "run_count": 1,
        "work_pool_id": "p",
        "flow_run": {"id": "a"},
    }
    run = polled.inspector.run("a", POOL)
    assert (claim["token"], claim["holder"], claim["lease_ms"]) == (run.token, run.holder, LEASE_MS)
    assert answer.headers["dispatcher-fencing-token"] == run.token
    assert run.state_type == "RUNNING"
    assert run.holder.startswith("poller~")
    assert polled.step("a", "renew", run.token).json()["answer"] == "renewed"
    finished = polled.step("a", "finish", run.token, state={"type": "COMPLETED"})
    assert finished.json()["answer"] == "finished"
    assert polled.claimers() == []


def test_of_all_who_take_a_run_exactly_one_gets_it(polled):
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(take(polled).status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 7


def test_the_same_incarnation_takes_the_same_run_again(polled):
    first = take(polled, incarnation="0123456789ab")
    assert take(polled, incarnation="0123456789ab").json() == first.json()
    assert "taken already" in problem(take(polled, incarnation="0123456789ac"), 409)["detail"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda served: served.store.pause(POOL, None), "its pool is paused"),
        (lambda served: served.store.pause(POOL, "default"), "its queue is paused"),
        (lambda served: served.store.set_pool(POOL, {"limit": 0}), "its pool has no free slot"),
        (lambda served: served.store.cancel(POOL, "a"), "has ended: CANCELLED"),
        (
            lambda served: served.store.retime(POOL, "a", 9_999_999_999_000),
            "is not due before 2286",
        ),
    ],
)
def test_why_a_run_cannot_be_taken_is_said(polled, change, told):
    change(polled)
    assert told in problem(take(polled), 409)["detail"]


def test_a_run_of_a_pool_that_streams_is_claimed_instead(served):
    served.put_json("a")
    assert "claim from it" in problem(take(served), 409)["detail"]


@pytest.mark.parametrize(
    "body", [{"incarnation": "short"}, {"token": None, "incarnation": "0123456789AB"}]
)
def test_an_incarnation_is_twelve_hexadecimal_digits(polled, body):
    wrong = problem(take(polled, **body), 422)
    assert [error["field"] for error in wrong["errors"]] == ["body.incarnation"]
