"""Retries: by another claim or under the same one, as often as Prefect retries a flow run."""

import pytest

from dispatcher.records import Claim, Finish, Outcome, Start, Word
from tests.builders import OUTCOMES, POOL, T0, Fleet, changed

TYPES = pytest.mark.parametrize("retry_type", ["reschedule", "in_process"])
TIMED_OUT = Outcome("FAILED", "TimedOut", "after 5 s")


def claimed(fleet: Fleet, **policy: object) -> Claim:
    """Submit "a" and return its claim by w.1."""
    fleet.put("a", **{"retries": 1} | policy)
    return fleet.claim_one(fleet.register())


def start(fleet: Fleet, claim: Claim, run_count: int) -> Word:
    return fleet.store.report(POOL, Start("a", claim.token, run_count))


def finish(fleet: Fleet, claim: Claim, run_count: int | None, state: str = "FAILED") -> Word:
    report = Finish("a", claim.token, OUTCOMES[state], run_count=run_count)
    return fleet.store.report(POOL, report)


def failed(fleet: Fleet, **policy: object) -> Claim:
    """Let "a" fail once; return the claim under which it did."""
    claim = claimed(fleet, **policy)
    start(fleet, claim, 1)
    finish(fleet, claim, 1)
    return claim


def states(fleet: Fleet) -> tuple[str, str, str]:
    """Place, state type and state name of "a"."""
    run = fleet.run("a")
    return run["place"], run["state_type"], run["state_name"]


def attempt(fleet: Fleet, claim: Claim, run_count: int) -> tuple[Claim, Word]:
    """Let "a" fail once more, under this claim or the next one; return it and the answer."""
    if states(fleet)[0] == "scheduled":
        fleet.store.now_ms = int(fleet.run("a")["due_ms"])
        fleet.dispatch()
        claim = fleet.claim_one(fleet.register(incarnation=str(run_count)))
        assert claim.run_count == run_count - 1
    assert start(fleet, claim, run_count) is Word.STARTED
    return claim, finish(fleet, claim, run_count)


# --- The two ways


def test_a_failed_run_is_scheduled_anew_for_another_claim(fleet):
    claim = claimed(fleet, retry_delay_ms=1000, deployment="dep")
    start(fleet, claim, 1)
    before = fleet.dump()
    fleet.advance(7)

    assert finish(fleet, claim, 1) is Word.RESCHEDULED

    entry, due_ms = before["run:a"]["entry"], T0 + 1007
    assert changed(before, fleet.dump()) == {
        "scheduled:default": {before["run:a"]["member"]: due_ms},
        "unstarted": {"a": due_ms},
        "claims:w.1": None,
        "slots:pool": None,
        "slots:queue:default": None,
        "slots:deployment:dep": None,
        "stream:default": {
            "entries": {entry: None},
            "groups": {"workers": {"pending": {entry: None}}},
        },
        "run:a": {
            "place": "scheduled",
            "state_type": "SCHEDULED",
            "state_name": "AwaitingRetry",
            "due_ms": str(due_ms),
            "retrying": "1",
            "message": "exit code 1",
            "output": "no such file",
            "ran_ms": "7",
            "delivery.1.ended_ms": str(T0 + 7),
            "delivery.1.outcome": "FAILED",
            "answer_token": claim.token,
            "answer_count": "1",
            "answer": "rescheduled",
            **dict.fromkeys(["entry", "token", "holder", "claim"]),
        },
        "events": [retrying(T0 + 7, due_ms)],
    }


def test_a_failed_run_stays_with_its_worker_for_a_retry_under_its_claim(fleet):
    claim = claimed(fleet, retry_delay_ms=1000, retry_type="in_process", deployment="dep")
    start(fleet, claim, 1)
    before = fleet.dump()
    fleet.advance(7)

    assert finish(fleet, claim, 1) is Word.RETRYING

    due_ms = T0 + 1007
    assert changed(before, fleet.dump()) == {
        "run:a": {
            "state_type": "SCHEDULED",
            "state_name": "AwaitingRetry",
            "due_ms": str(due_ms),
            "retrying": "1",
            "message": "exit code 1",
            "output": "no such file",
            "ran_ms": "7",
            "answer_token": claim.token,
            "answer_count": "1",
            "answer": "retrying",
        },
        "events": [retrying(T0 + 7, due_ms)],
    }


def retrying(at_ms: int, due_ms: int) -> dict[str, str]:
    """The event of a retry that is to come."""
    told = {"run": "a", "queue": "default", "from": "RUNNING", "to": "SCHEDULED", "worker": "w.1"}
    when = {"at_ms": str(at_ms), "due_ms": str(due_ms)}
    return {"event": "retrying", "reason": "exit code 1"} | told | when


def test_a_retry_under_the_same_claim_goes_on_under_its_token(fleet):
    claim = failed(fleet, retry_type="in_process")

    assert start(fleet, claim, 2) is Word.STARTED
    assert states(fleet) == ("claimed", "RUNNING", "Retrying")
    assert finish(fleet, claim, 2, "COMPLETED") is Word.FINISHED


def test_a_rescheduled_retry_is_claimed_as_pending_and_runs_as_retrying(fleet):
    failed(fleet)
    fleet.dispatch()
    assert states(fleet) == ("stream", "SCHEDULED", "AwaitingRetry")
    claim = fleet.claim_one("w.1")
    assert states(fleet) == ("claimed", "PENDING", "Pending")
    start(fleet, claim, 2)
    assert states(fleet) == ("claimed", "RUNNING", "Retrying")


def test_who_does_not_count_starts_gets_no_retry_under_its_claim(fleet):
    claim = claimed(fleet, retry_type="in_process")
    start(fleet, claim, 1)

    assert finish(fleet, claim, None) is Word.RESCHEDULED
    assert states(fleet) == ("scheduled", "SCHEDULED", "AwaitingRetry")


# --- How often, and for what


@TYPES
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_run_that_always_fails_starts_once_more_than_it_has_retries(fleet, retry_type, retries):
    claim = claimed(fleet, retries=retries, retry_type=retry_type, retry_delay_ms=5)
    answers = []
    for run_count in range(1, retries + 2):
        claim, answer = attempt(fleet, claim, run_count)
        answers.append(answer)

    again = Word.RETRYING if retry_type == "in_process" else Word.RESCHEDULED
    assert answers == [again] * retries + [Word.FINISHED]
    assert states(fleet) == ("ended", "FAILED", "Failed")
    assert fleet.run("a")["run_count"] == str(retries + 1)


@pytest.mark.parametrize(
    ("run_count", "answer"), [(2, Word.RESCHEDULED), (3, Word.FINISHED), (7, Word.FINISHED)]
)
def test_starts_before_the_submission_count(fleet, run_count, answer):
    claim = claimed(fleet, retries=3, run_count=run_count)
    start(fleet, claim, run_count + 1)
    assert finish(fleet, claim, run_count + 1) is answer


@TYPES
@pytest.mark.parametrize("state", ["COMPLETED", "CRASHED", "CANCELLED"])
def test_only_a_failed_run_is_retried(fleet, retry_type, state):
    claim = claimed(fleet, retries=3, retry_type=retry_type)
    start(fleet, claim, 1)
    assert finish(fleet, claim, 1, state) is Word.FINISHED
    assert states(fleet)[:2] == ("ended", state)


def test_a_run_that_timed_out_is_retried(fleet):
    claim = claimed(fleet)
    start(fleet, claim, 1)
    report = Finish("a", claim.token, TIMED_OUT, run_count=1)
    assert fleet.store.report(POOL, report) is Word.RESCHEDULED


@TYPES
@pytest.mark.parametrize("retries", [0, 3])
def test_a_run_that_failed_before_its_start_is_not_retried(fleet, retry_type, retries):
    claim = claimed(fleet, retries=retries, retry_type=retry_type)
    assert finish(fleet, claim, 0) is Word.FINISHED
    assert states(fleet) == ("ended", "FAILED", "Failed")


def test_a_retry_is_nobodys_loss(fleet):
    failed(fleet)
    run = fleet.run("a")
    assert (run.get("losses"), run.get("unstarted")) == (None, None)


# --- When


def test_a_rescheduled_retry_is_handed_out_when_its_delay_is_over(fleet):
    failed(fleet, retry_delay_ms=1000)
    fleet.advance(999)
    early = fleet.dispatch().moved
    fleet.advance(1)

    assert early == []
    assert [run.run_id for run in fleet.dispatch().moved] == ["a"]


def test_the_worker_hears_of_the_delay_with_its_claim(fleet):
    assert claimed(fleet, retry_delay_ms=1500).retry_delay_ms == 1500


def test_dispatchers_hear_of_a_rescheduled_retry(fleet, listener):
    failed(fleet, retry_delay_ms=1000)
    assert f"default {T0 + 1000}" in listener.heard()


@TYPES
def test_the_first_start_is_kept_and_only_time_of_running_adds_up(fleet, retry_type):
    claim = claimed(fleet, retries=2, retry_type=retry_type, retry_delay_ms=1000)
    for run_count in (1, 2, 3):
        if states(fleet)[0] == "scheduled":
            fleet.dispatch()
            claim = fleet.claim_one("w.1")
        start(fleet, claim, run_count)
        fleet.advance(10 * run_count)
        finish(fleet, claim, run_count)
        fleet.advance(1000)

    run = fleet.run("a")
    assert run["first_started_ms"] == str(T0)
    assert run["started_ms"] == str(T0 + 1010 + 1020)
    assert run["ran_ms"] == str(10 + 20 + 30)


def test_a_run_keeps_its_slots_in_the_pause_before_a_retry_under_its_claim(fleet):
    failed(fleet, retry_type="in_process", deployment="dep")
    dump = fleet.dump()
    for name in ("slots:pool", "slots:queue:default", "slots:deployment:dep"):
        assert list(dump[name]) == ["a"]


def test_a_rescheduled_retry_lets_the_next_run_of_its_deployment_in(fleet):
    fleet.set_deployment("dep", 1)
    claim = claimed(fleet, deployment="dep", retry_delay_ms=1000)
    fleet.put("b", deployment="dep")
    start(fleet, claim, 1)

    finish(fleet, claim, 1)

    assert [run.run_id for run in fleet.dispatch().moved] == ["b"]


@pytest.mark.parametrize(("retry_type", "nudged"), [("reschedule", True), ("in_process", False)])
def test_a_holder_is_nudged_for_a_slot_that_a_retry_frees(fleet, retry_type, nudged):
    claim = claimed(fleet, retry_type=retry_type)
    start(fleet, claim, 1)
    report = Finish("a", claim.token, OUTCOMES["FAILED"], nudge=True, run_count=1)

    fleet.store.report(POOL, report)

    assert ("inbox:w.1" in fleet.dump()) == nudged


# --- The same report again


def nothing(fleet: Fleet, claim: Claim) -> None:
    pass


def started_again(fleet: Fleet, claim: Claim) -> None:
    start(fleet, claim, 2)


def ended(fleet: Fleet, claim: Claim) -> None:
    start(fleet, claim, 2)
    finish(fleet, claim, 2, "COMPLETED")


def claimed_again(fleet: Fleet, claim: Claim) -> None:
    fleet.dispatch()
    start(fleet, fleet.claim_one("w.1"), 2)


@pytest.mark.parametrize("since", [nothing, started_again])
def test_the_finish_of_an_attempt_is_answered_as_before_while_its_claim_goes_on(fleet, since):
    claim = failed(fleet, retries=3, retry_type="in_process")
    since(fleet, claim)
    before = fleet.dump()
    fleet.advance(1)

    assert finish(fleet, claim, 1) is Word.RETRYING
    assert fleet.dump() == before


@pytest.mark.parametrize("since", [nothing, claimed_again])
def test_the_finish_that_rescheduled_is_answered_as_before(fleet, since):
    claim = failed(fleet)
    since(fleet, claim)
    before = fleet.dump()
    fleet.advance(1)

    assert finish(fleet, claim, 1) is Word.RESCHEDULED
    assert fleet.dump() == before


@pytest.mark.parametrize("run_count", [1, 2])
def test_a_finish_under_a_claim_that_has_ended_hears_how_it_ended(fleet, run_count):
    claim = failed(fleet, retry_type="in_process")
    ended(fleet, claim)
    before = fleet.dump()

    assert finish(fleet, claim, run_count) is Word.FINISHED
    assert fleet.dump() == before


@pytest.mark.parametrize("run_count", [1, 2])
def test_the_start_of_a_retry_again_changes_nothing(fleet, run_count):
    claim = claimed(fleet, retry_type="in_process")
    for count in range(1, run_count + 1):
        start(fleet, claim, count)
        if count < run_count:
            finish(fleet, claim, count)
    before = fleet.dump()
    fleet.advance(1)

    assert start(fleet, claim, run_count) is Word.STARTED
    assert fleet.dump() == before


# --- The worker is gone in the pause before a retry under its claim


def lost(fleet: Fleet, claim: Claim) -> None:
    fleet.lose("w.1")


def released(fleet: Fleet, claim: Claim) -> None:
    assert fleet.release(claim) is Word.RELEASED


@pytest.mark.parametrize("gone", [lost, released])
@pytest.mark.parametrize("delay_ms", [1000, 60_000])
def test_a_retry_whose_worker_is_gone_is_anybodys_at_its_time(fleet, gone, delay_ms):
    claim = failed(fleet, retry_type="in_process", retry_delay_ms=delay_ms)
    gone(fleet, claim)
    assert states(fleet) == ("scheduled", "SCHEDULED", "AwaitingRetry")
    fleet.store.now_ms = max(T0 + delay_ms, fleet.store.now_ms)
    fleet.dispatch()

    again = fleet.claim_one(fleet.register("other"))

    assert (again.run_count, again.due_ms, again.delivery) == (1, T0 + delay_ms, 2)
    assert start(fleet, again, 2) is Word.STARTED
    assert states(fleet) == ("claimed", "RUNNING", "Retrying")
    assert finish(fleet, again, 2) is Word.FINISHED
    assert fleet.run("a")["ran_ms"] == "0"


@pytest.mark.parametrize("policy", ["requeue", "crash"])
def test_a_worker_that_dies_in_the_pause_before_a_retry_had_nothing_running(fleet, policy):
    fleet.set_queue(on_worker_lost=policy, max_deliveries=1)
    failed(fleet, retry_type="in_process", retry_delay_ms=1000)

    fleet.lose("w.1")

    run = fleet.run("a")
    assert states(fleet) == ("scheduled", "SCHEDULED", "AwaitingRetry")
    assert (run.get("losses"), run["unstarted"]) == (None, "1")


def test_a_worker_that_comes_back_too_late_for_its_retry_is_told(fleet):
    claim = failed(fleet, retry_type="in_process")
    fleet.lose("w.1")
    assert start(fleet, claim, 2) is Word.LOST
    assert states(fleet) == ("scheduled", "SCHEDULED", "AwaitingRetry")
