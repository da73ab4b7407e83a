"""What a queue does with late runs: it runs all, or the latest of a deployment, or drops old ones.

A run that was claimed before is always run, and so is one that waited for its deployment.
"""

import pytest

from dispatcher.records import Moved, Skipped
from tests.builders import T0, Fleet, changed

LATE_MS = 15_000  # what a pool has without a setting of its own
MINUTE_MS = 60_000
NOT_LATEST = "late, and a later run of its deployment is due"
DROPPED = "late by more than 60 s, which its queue drops"


def put_in_time(fleet: Fleet, *run_ids: str, **fields: object) -> None:
    """Put runs into the stream, each when it is due, a minute apart."""
    for run_id in run_ids:
        fleet.put(run_id, due_ms=fleet.store.now_ms, **fields)
        fleet.advance(MINUTE_MS)


def submit_each_minute(fleet: Fleet, *run_ids: str, **fields: object) -> None:
    """Submit runs that are due a minute apart; the clock ends a minute after the last."""
    for run_id in run_ids:
        fleet.submit(run_id, due_ms=fleet.store.now_ms, **fields)
        fleet.advance(MINUTE_MS)


def moved(fleet: Fleet, **bounds: int) -> list[str]:
    return [run.run_id for run in fleet.dispatch(**bounds).moved]


def claimed(fleet: Fleet) -> list[str]:
    return [claim.run_id for claim in fleet.claim(fleet.register())]


# --- Dropped after some time


def test_a_run_that_is_too_late_for_its_queue_is_dropped_by_dispatch(fleet):
    fleet.set_queue(late_drop_ms=MINUTE_MS)
    fleet.submit("a", "b", due_ms=T0)
    fleet.submit("c", due_ms=T0 + 1)
    before = fleet.dump()
    fleet.advance(MINUTE_MS + 1)

    answer = fleet.dispatch()

    assert answer.moved == [Moved("c", "default", T0 + 1)]
    assert answer.skipped == [Skipped(run, "default", DROPPED) for run in "ab"]
    at_ms = T0 + MINUTE_MS + 1
    difference = changed(before, fleet.dump())
    assert difference["run:a"] == {
        "place": "ended",
        "state_type": "CANCELLED",
        "state_name": "Cancelled",
        "message": DROPPED,
        "ended_ms": str(at_ms),
        "payload": None,
    }
    assert difference["finished"] == {"a": at_ms, "b": at_ms}
    assert difference["queue:default"]["skipped"] == "2"
    assert difference["unstarted"] == {"a": None, "b": None}
    assert difference["events"][0] == {
        **{"event": "skipped", "at_ms": str(at_ms), "run": "a", "queue": "default"},
        **{"from": "SCHEDULED", "to": "CANCELLED", "reason": DROPPED},
    }


def test_an_entry_that_is_too_late_for_its_queue_is_dropped_by_a_claim(fleet):
    fleet.set_queue(late_drop_ms=MINUTE_MS)
    fleet.put("a", deployment="dep")
    fleet.advance(1)
    fleet.put("b")
    fleet.advance(MINUTE_MS)
    before = fleet.dump()

    assert claimed(fleet) == ["b"]

    difference = changed(before, fleet.dump())
    assert difference["run:a"] == {
        "place": "ended",
        "state_type": "CANCELLED",
        "state_name": "Cancelled",
        "message": DROPPED,
        "ended_ms": str(T0 + MINUTE_MS + 1),
        **dict.fromkeys(["payload", "entry"]),
    }
    queue = difference["queue:default"]
    assert (queue["skipped"], queue["unclaimed_bytes"]) == ("1", "0")
    assert difference["slots:deployment:dep"] is None
    assert difference["stream:default"]["entries"] == {before["run:a"]["entry"]: None}
    (skipped,) = [event for event in difference["events"] if event["event"] == "skipped"]
    assert (skipped["run"], skipped["reason"]) == ("a", DROPPED)


@pytest.mark.parametrize(("late_ms", "runs"), [(MINUTE_MS, ["a"]), (MINUTE_MS + 1, [])])
def test_a_run_that_is_as_late_as_its_queue_allows_is_run(fleet, late_ms, runs):
    fleet.set_queue(late_drop_ms=MINUTE_MS)
    fleet.put("a")
    fleet.advance(late_ms)
    assert claimed(fleet) == runs


def test_a_queue_may_drop_all_that_is_late_at_all(fleet):
    fleet.set_queue(late_drop_ms=0)
    fleet.submit("a")
    fleet.submit("b", due_ms=T0 + 1)
    fleet.advance(1)
    assert moved(fleet) == ["b"]


def test_a_queue_without_a_policy_runs_everything(fleet):
    submit_each_minute(fleet, "a", "b", "c", deployment="dep")
    fleet.advance(1000 * MINUTE_MS)
    assert moved(fleet) == ["a", "b", "c"]
    assert claimed(fleet) == ["a", "b", "c"]


def test_a_claim_goes_on_behind_what_it_dropped(fleet):
    fleet.set_queue(late_drop_ms=MINUTE_MS)
    fleet.put(*(f"old-{number}" for number in range(50)))
    fleet.advance(1)
    fleet.put("a")
    fleet.advance(MINUTE_MS)

    assert [claim.run_id for claim in fleet.claim(fleet.register(), 1)] == ["a"]


# --- Only the latest


def test_of_late_runs_only_the_latest_is_dispatched(fleet):
    fleet.set_queue(late_policy="latest")
    submit_each_minute(fleet, "a", "b", "c", deployment="dep")

    answer = fleet.dispatch()

    assert [run.run_id for run in answer.moved] == ["c"]
    assert answer.skipped == [Skipped(run, "default", NOT_LATEST) for run in "ab"]
    assert fleet.dump()["queue:default"]["skipped"] == "2"
    assert claimed(fleet) == ["c"]


def test_of_entries_that_have_become_late_only_the_latest_is_claimed(fleet):
    fleet.set_queue(late_policy="latest")
    put_in_time(fleet, "a", "b", "c", deployment="dep")

    assert claimed(fleet) == ["c"]

    records = [fleet.run(run) for run in "ab"]
    assert [run["state_type"] for run in records] == ["CANCELLED"] * 2
    assert [run["message"] for run in records] == [NOT_LATEST] * 2
    assert fleet.dump()["queue:default"]["skipped"] == "2"


def test_an_entry_is_passed_over_for_a_run_that_is_due_and_not_yet_late(fleet):
    fleet.set_queue(late_policy="latest")
    put_in_time(fleet, "a", deployment="dep")
    fleet.put("b", deployment="dep")
    assert claimed(fleet) == ["b"]


def test_runs_that_are_not_late_are_all_run(fleet):
    fleet.set_queue(late_policy="latest")
    for run_id in "abc":
        fleet.put(run_id, due_ms=fleet.store.now_ms, deployment="dep")
        fleet.advance(4_999)
    assert claimed(fleet) == ["a", "b", "c"]


def test_a_run_that_is_not_due_yet_is_not_the_latest(fleet):
    fleet.set_queue(late_policy="latest")
    fleet.submit("a", deployment="dep")
    fleet.advance(MINUTE_MS)
    fleet.submit("b", deployment="dep", due_ms=T0 + MINUTE_MS + 1)
    assert moved(fleet) == ["a"]


def test_of_runs_due_at_the_same_time_the_last_submitted_is_the_latest(fleet):
    fleet.set_queue(late_policy="latest")
    fleet.submit("c", "a", "b", deployment="dep", due_ms=T0)
    fleet.advance(MINUTE_MS)
    assert moved(fleet) == ["b"]


def test_each_deployment_has_its_own_latest_run(fleet):
    fleet.set_queue(late_policy="latest")
    submit_each_minute(fleet, "a1", "a2", deployment="a")
    submit_each_minute(fleet, "b1", "b2", deployment="b")
    assert moved(fleet) == ["a2", "b2"]


def test_runs_without_a_deployment_are_all_run(fleet):
    fleet.set_queue(late_policy="latest")
    submit_each_minute(fleet, "a", "b")
    assert moved(fleet) == ["a", "b"]


def test_each_queue_has_its_own_policy(fleet):
    fleet.create_queue("other")
    fleet.set_queue(late_policy="latest")
    for queue in ("default", "other"):
        fleet.submit(f"{queue}-1", f"{queue}-2", queue=queue, deployment="dep")
    fleet.advance(MINUTE_MS)
    assert moved(fleet) == ["default-2", "other-1", "other-2"]


@pytest.mark.parametrize("limit", [1, 7, 100, 300])
def test_the_latest_of_300_survives_also_over_several_dispatches(fleet, limit):
    fleet.set_queue(late_policy="latest")
    runs = [f"run-{number}" for number in range(300)]
    for number, run_id in enumerate(runs):
        fleet.submit(run_id, deployment="dep", due_ms=T0 + number)
    fleet.advance(MINUTE_MS)

    answers = [fleet.dispatch(limit=limit)]
    while answers[-1].more:
        answers.append(fleet.dispatch(limit=limit))

    assert [run.run_id for answer in answers for run in answer.moved] == runs[-1:]
    assert [run.run_id for answer in answers for run in answer.skipped] == runs[:-1]
    assert fleet.dump()["queue:default"]["skipped"] == "299"


def test_the_latest_of_more_than_a_dispatch_can_see_at_once_survives(fleet):
    fleet.set_queue(late_policy="latest")
    for number in range(1200):
        fleet.submit(f"run-{number}", deployment=f"dep-{number % 2}", due_ms=T0 + number)
    fleet.advance(MINUTE_MS)

    answers = [fleet.dispatch(limit=1200)]
    while answers[-1].more:
        answers.append(fleet.dispatch(limit=1200))

    assert [run.run_id for answer in answers for run in answer.moved] == ["run-1198", "run-1199"]
    assert sum(len(answer.skipped) for answer in answers) == 1198
    assert not answers[0].skipped, "it saw all that is due in one call"


def test_a_policy_holds_for_what_is_due_already(fleet):
    submit_each_minute(fleet, "a", "b", deployment="dep")
    fleet.set_queue(late_policy="latest")
    assert moved(fleet) == ["b"]


def test_nothing_is_left_of_a_policy_that_is_taken_away(fleet):
    fleet.set_queue(late_policy="latest")
    submit_each_minute(fleet, "a", "b", deployment="dep")
    fleet.dispatch()
    fleet.set_queue(late_policy="all")
    submit_each_minute(fleet, "c", "d", deployment="dep")

    assert moved(fleet) == ["c", "d"]
    dump = fleet.dump()
    assert ("newest:default" in dump, "seen_until" in dump["queue:default"]) == (False, False)


# --- The latest is gone


def cancel(fleet: Fleet) -> None:
    fleet.cancel("d")


def retime(fleet: Fleet) -> None:
    fleet.retime("d", T0 + 1000 * MINUTE_MS)


def offer_for_later(fleet: Fleet) -> None:
    fleet.submit("d", request="other", deployment="dep", due_ms=T0 + 1000 * MINUTE_MS)


GONE = pytest.mark.parametrize("gone", [cancel, retime, offer_for_later])


@GONE
def test_a_run_that_will_not_run_now_takes_no_earlier_one_with_it(fleet, gone):
    fleet.set_queue(late_policy="latest")
    submit_each_minute(fleet, "a", "b", "c", "d", deployment="dep")
    fleet.dispatch(limit=1)
    gone(fleet)

    answer = fleet.dispatch()

    assert [run.run_id for run in answer.moved] == ["c"]
    assert [run.run_id for run in answer.skipped] == ["b"]


@GONE
def test_an_entry_that_will_not_be_claimed_takes_no_earlier_one_with_it(fleet, gone):
    fleet.set_queue(late_policy="latest")
    put_in_time(fleet, "c", "d", deployment="dep")
    gone(fleet)

    assert claimed(fleet) == ["c"]


def test_the_latest_is_still_the_latest_after_a_withdrawal(fleet):
    fleet.set_queue(late_policy="latest")
    put_in_time(fleet, "a", "b", "c", deployment="dep")
    fleet.pause()
    fleet.withdraw()
    fleet.resume()

    assert moved(fleet) == ["c"]


# --- Who is not asked


def released(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep")
    fleet.release(fleet.claim_one(fleet.register()))


def lost(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep")
    fleet.claim_one(fleet.register())
    fleet.lose("w.1")


def failed(fleet: Fleet) -> None:
    fleet.put("a", deployment="dep", retries=1)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")


def waited(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")
    fleet.advance(1000 * MINUTE_MS)
    fleet.set_deployment("dep", None)


@pytest.mark.parametrize("before", [released, lost, failed, waited])
@pytest.mark.parametrize("policy", [{"late_policy": "latest"}, {"late_drop_ms": MINUTE_MS}])
def test_a_late_run_is_run_all_the_same_when_it_was(fleet, before, policy):
    fleet.set_queue(**policy)
    before(fleet)
    fleet.advance(10 * MINUTE_MS)
    fleet.submit("b", deployment="dep")

    assert moved(fleet) == ["a", "b"]
    fleet.advance(LATE_MS)
    assert claimed(fleet) == ["a", "b"]


def test_a_new_round_of_a_run_is_asked_again(fleet):
    fleet.set_queue(late_drop_ms=MINUTE_MS)
    fleet.put("a", state_id="1")
    fleet.finish(fleet.claim_one(fleet.register()))
    fleet.submit("a", request="other", state_id="2", due_ms=T0 + 1)
    fleet.advance(2 * MINUTE_MS)

    assert [skipped.run_id for skipped in fleet.dispatch().skipped] == ["a"]
