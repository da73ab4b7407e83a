"""What follows a claim over HTTP: start, renew, finish, release, each with the token."""

import pytest

from dispatcher.http.claim_steps import OUTPUT_BYTES
from dispatcher.records import Registration, Word
from tests.builders import POOL, a_pool, a_submission
from tests.held import LEASE_MS, RENEW_MS
from tests.served import problem

LOST = {"type": "urn:dispatcher:problem:claim-lost", "status": 409}


# --- Start, renew, finish, release


def test_a_run_goes_its_way_and_leaves_no_holder(served, token):
    started = served.step("a", "start", token)
    assert started.json() == {"answer": "started", "work_pool_name": POOL, "run_count": 1}
    assert started.headers["dispatcher-answer"] == "started"
    renewed = served.step("a", "renew", token).json()
    assert renewed == {
        "answer": "renewed",
        "work_pool_name": POOL,
        "cancel": False,
        "lease_ms": LEASE_MS,
        "renew_ms": RENEW_MS,
        "flow_run_ids": ["a"],
    }
    state = {"type": "COMPLETED", "message": "done"}
    finished = served.step("a", "finish", token, state=state, output="hello\n")
    assert finished.json() == {"answer": "finished", "work_pool_name": POOL}
    run = served.inspector.run("a", POOL)
    assert (run.state_type, run.state_name, run.message) == ("COMPLETED", "Completed", "done")
    assert served.inspector.output(run) == b"hello\n"
    assert served.claimers() == []


@pytest.mark.parametrize(
    ("step", "body"),
    [
        ("start", {}),
        ("start", {"run_count": 1}),
        ("finish", {"state": {"type": "COMPLETED"}}),
        ("finish", {"state": {"type": "FAILED"}, "run_count": 0}),
        ("release", {}),
        ("release", {"delay_ms": 60_000}),
    ],
)
def test_the_same_call_again_is_answered_the_same_and_changes_nothing(served, token, step, body):
    first = served.step("a", step, token, **body)
    assert first.status_code == 200
    before = served.inspector.run("a", POOL)
    assert served.step("a", step, token, **body).json() == first.json()
    assert served.inspector.run("a", POOL) == before


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        ("COMPLETED", "Completed"),
        ("FAILED", "Failed"),
        ("CRASHED", "Crashed"),
        ("CANCELLED", "Cancelled"),
    ],
)
def test_a_run_ends_with_any_outcome(served, token, type_, name):
    served.step("a", "start", token)
    served.step("a", "finish", token, state={"type": type_})
    run = served.inspector.run("a", POOL)
    assert (run.state_type, run.state_name) == (type_, name)


def test_a_state_may_have_a_name_of_its_own(served, token):
    served.step("a", "start", token)
    served.step("a", "finish", token, state={"type": "FAILED", "name": "TimedOut"})
    assert served.inspector.run("a", POOL).state_name == "TimedOut"


def test_the_last_64_kib_of_an_output_are_kept(served, token):
    output = "é" * OUTPUT_BYTES + "end"
    served.step("a", "finish", token, state={"type": "COMPLETED"}, output=output)
    kept = served.inspector.output(served.inspector.run("a", POOL))
    assert kept.decode() == output[-len(kept.decode()) :]
    assert OUTPUT_BYTES - 2 < len(kept) <= OUTPUT_BYTES


def test_a_failed_run_with_retries_is_scheduled_anew(served):
    served.put_json("a", retries=1)
    token = served.claim_one()["claim"]["token"]
    served.step("a", "start", token)
    answer = served.step("a", "finish", token, state={"type": "FAILED"}, run_count=1)
    assert answer.json()["answer"] == "rescheduled"
    assert served.claimers() == []
    served.store.dispatch(POOL, ["default"])
    again = served.claim_one()["claim"]
    assert (again["run_count"], again["delivery"]) == (1, 2)


def test_a_retry_in_process_goes_on_under_the_same_token(served):
    served.put_json("a", retries=1, retry_type="in_process", retry_delay_ms=5)
    claim = served.claim_one()["claim"]
    assert claim["retry_delay_ms"] == 5
    token, failed = claim["token"], {"state": {"type": "FAILED"}}
    served.step("a", "start", token)
    first = served.step("a", "finish", token, run_count=1, **failed)
    assert first.json()["answer"] == "retrying"
    assert served.step("a", "finish", token, run_count=1, **failed).json() == first.json()
    assert served.step("a", "start", token).json()["run_count"] == 2
    assert served.step("a", "finish", token, run_count=2, **failed).json()["answer"] == "finished"
    assert served.claimers() == []


def test_a_release_gives_the_run_to_the_next_one_uncounted(served, token):
    served.step("a", "start", token)
    answer = served.step("a", "release", token, reason="not here")
    assert answer.json()["answer"] == "released"
    served.store.dispatch(POOL, ["default"])
    assert served.claim_one()["claim"]["delivery"] == 2
    assert served.inspector.run("a", POOL).losses == 0


def test_a_release_with_a_delay_is_due_again_later(served, token):
    assert served.step("a", "release", token, delay_ms=60_000).json()["answer"] == "rescheduled"
    run = served.inspector.run("a", POOL)
    assert run.state_name == "AwaitingRetry"
    assert run.due_ms > served.inspector.server_time_ms(POOL) + 50_000


def test_one_renewal_keeps_all_runs_of_its_claim(served):
    served.put_json("a", "b")
    tokens = {
        each["flow_run"]["id"]: each["claim"]["token"] for each in served.claim(slots=2).json()
    }
    assert served.step("a", "renew", tokens["a"]).json()["flow_run_ids"] == ["a", "b"]
    served.step("b", "finish", tokens["b"], state={"type": "COMPLETED"})
    assert served.step("a", "renew", tokens["a"]).json()["flow_run_ids"] == ["a"]
    problem(served.step("b", "renew", tokens["b"]), 409)


# --- Cancel


def test_a_cancel_before_the_start_is_told_by_the_start(served, token):
    served.store.cancel(POOL, "a")
    assert served.step("a", "start", token).json()["answer"] == "cancelling"
    finished = served.step("a", "finish", token, state={"type": "CANCELLED"})
    assert finished.json()["answer"] == "finished"
    assert served.inspector.run("a", POOL).state_type == "CANCELLED"


def test_a_cancel_while_running_is_told_by_the_next_renewal(served, token):
    served.step("a", "start", token)
    served.store.cancel(POOL, "a")
    renewed = served.step("a", "renew", token)
    assert renewed.json()["cancel"] is True
    assert renewed.headers["dispatcher-answer"] == "cancelling"
    assert served.step("a", "release", token).json()["answer"] == "finished"
    assert served.inspector.run("a", POOL).state_type == "CANCELLED"


# --- Lost claims, and claims of others


@pytest.mark.parametrize(
    ("step", "body"),
    [
        ("start", {}),
        ("start", {"run_count": 1}),
        ("renew", {}),
        ("finish", {"state": {"type": "COMPLETED"}}),
        ("release", {}),
    ],
)
def test_a_claim_that_was_recovered_is_lost_for_every_step(served, token, step, body):
    (holder,) = served.claimers()
    served.store.connection.read(lambda c: c.zadd(served.store.keys(POOL)["holders"], {holder: 1}))
    served.store.recover_all(POOL, holder)
    before = served.inspector.run("a", POOL)
    told = problem(served.step("a", step, token, **body), 409)
    assert told | LOST == told
    assert served.inspector.run("a", POOL) == before


def test_a_finish_after_a_release_does_not_count(served, token):
    served.step("a", "release", token)
    problem(served.step("a", "finish", token, state={"type": "COMPLETED"}), 409)
    assert served.place("a") == "scheduled"


@pytest.mark.parametrize("step", ["start", "renew", "finish", "release"])
def test_a_token_of_nobody_is_refused(served, token, step):
    body = {"state": {"type": "COMPLETED"}} if step == "finish" else {}
    before = served.inspector.run("a", POOL)
    problem(served.step("a", step, "1-1.abc.1", **body), 409)
    assert served.inspector.run("a", POOL) == before


def test_the_token_of_a_stream_worker_is_as_good_but_its_lease_is_its_own(served):
    served.put_json("a")
    holder = served.store.register(POOL, Registration("stream", "1", 1)).holder
    (claim,) = served.store.claim(POOL, holder, number=1, slots=1).claims
    assert served.step("a", "start", claim.token).json()["answer"] == "started"
    assert "renews for itself" in problem(served.step("a", "renew", claim.token), 409)["detail"]
    served.step("a", "finish", claim.token, state={"type": "COMPLETED"})
    assert served.store.renew(POOL, holder, held=0, number=1).word is Word.RENEWED
    assert [h.draining for h in served.inspector.holders(POOL)] == [False]


def test_a_run_that_nobody_knows_is_not_found(served):
    problem(served.step("zzz", "start", "t"), 404)
    problem(served.step("zzz", "start", "t", work_pool_name=POOL), 404)


def test_the_pool_may_be_named_and_must_be_where_two_have_the_id(served, token):
    served.store.create_pool(a_pool("other"), default_queue_id="q")
    served.store.submit("other", a_submission("a"))
    problem(served.step("a", "start", token), 409)
    started = served.step("a", "start", token, work_pool_name=POOL)
    assert started.json()["answer"] == "started"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.token"),
        ({"token": ""}, "body.token"),
        ({"token": "t"}, "body.state"),
        ({"token": "t", "state": {"type": "RUNNING"}}, "body.state.type"),
        ({"token": "t", "state": {"type": "FAILED"}, "output": 1}, "body.output"),
    ],
)
def test_a_finish_that_is_not_as_it_should_be_is_refused_with_its_field(served, body, field):
    wrong = problem(served.post("/api/flow_runs/a/finish", body), 422)
    assert field in [error["field"] for error in wrong["errors"]]
