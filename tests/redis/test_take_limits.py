"""Taking a run by its id, continued: the limits of deployments, and runs that are late."""

import pytest

from dispatcher.records import Taken, Word
from tests.builders import T0, Fleet


@pytest.fixture
def fleet(client, prefix):
    """A pool that is handed out by polling."""
    return Fleet(client, prefix, handout="poll")


# --- Deployments


@pytest.mark.parametrize("limit", [1, 2, None])
def test_no_more_runs_of_a_deployment_are_taken_than_its_limit(fleet, limit):
    fleet.set_deployment("dep", limit)
    fleet.submit(*"abc", deployment="dep")
    words = [fleet.take(run_id, run_id).word for run_id in "abc"]
    taken = 3 if limit is None else limit
    assert words == [Word.TAKEN] * taken + [Word.WAITING] * (3 - taken)
    assert len(fleet.members("deployment_slots", "dep")) == taken


def test_a_run_that_finds_its_deployment_full_is_cancelled_when_that_is_its_strategy(fleet):
    fleet.set_deployment("dep", 1, "CANCEL_NEW")
    fleet.submit(*"ab", deployment="dep")
    fleet.take("a", "a")
    reason = "Deployment concurrency limit reached."
    assert fleet.take("b") == Taken(Word.SKIPPED, reason)
    record = fleet.run("b")
    assert (record["place"], record["state_type"], record["message"]) == (
        "ended",
        "CANCELLED",
        reason,
    )
    assert fleet.dump()["queue:default"]["skipped"] == "1"


def test_a_run_that_came_back_is_not_cancelled_as_a_new_one(fleet):
    fleet.set_deployment("dep", 1, "CANCEL_NEW")
    fleet.submit(*"ab", deployment="dep")
    fleet.release(fleet.take_one("a", "a1"))
    fleet.take("b", "b1")
    assert fleet.take("a", "a2") == Taken(Word.WAITING, "dep")
    assert fleet.dispatch().waiting == [("a", "default")]


def test_a_run_does_not_pass_by_an_earlier_one_that_waits_for_its_deployment(fleet):
    fleet.set_deployment("dep", 1)
    fleet.submit(*"abc", deployment="dep")
    claim = fleet.take_one("a", "a")
    assert [run for run, _ in fleet.dispatch(limit=1).waiting] == ["b"]
    fleet.finish(claim)

    assert fleet.take("c", "c").word is Word.WAITING
    assert fleet.take("b", "b").word is Word.WAITING  # nobody has let it in yet
    fleet.dispatch()
    assert fleet.take("b", "b2").word is Word.TAKEN


@pytest.mark.parametrize(
    "end",
    [
        lambda fleet, claim: fleet.finish(claim),
        lambda fleet, claim: fleet.release(claim, delay_ms=1_000),
        lambda fleet, _: fleet.lose("w~a.a"),
        lambda fleet, _: fleet.set_deployment("dep", 2),
    ],
)
def test_whatever_makes_room_lets_the_next_one_in(fleet, listener, end):
    fleet.set_queue(on_worker_lost="crash")
    fleet.set_deployment("dep", 1)
    fleet.submit(*"ab", deployment="dep")
    claim = fleet.take_one("a", "a")
    assert listener.heard()[-1] == "default 0"
    assert fleet.dispatch().waiting == [("b", "default")]
    end(fleet, claim)
    assert "default 0" in listener.heard()
    fleet.dispatch()
    assert fleet.take("b", "b").word is Word.TAKEN


@pytest.mark.parametrize("how", ["cancel", "retime", "too late"])
def test_a_run_that_was_let_in_and_goes_leaves_its_room_to_the_next(fleet, how):
    fleet.set_deployment("dep", 1)
    fleet.submit("a", deployment="dep", due_ms=T0)
    fleet.submit("b", deployment="dep", due_ms=T0 + 60_000)
    fleet.advance(60_000)
    assert fleet.dispatch().waiting == [("b", "default")]
    if how == "cancel":
        fleet.cancel("a")
    elif how == "retime":
        fleet.retime("a", T0 + 120_000)
    else:
        fleet.set_queue(late_drop_ms=30_000)
        assert fleet.take("a").word is Word.SKIPPED
    fleet.dispatch()
    assert fleet.take("b", "b").word is Word.TAKEN


# --- Late runs


def test_a_run_that_its_queue_drops_is_cancelled(fleet):
    fleet.set_queue(late_drop_ms=1_000)
    fleet.submit("a")
    fleet.advance(1_001)
    reason = "late by more than 1 s, which its queue drops"
    assert fleet.take("a") == Taken(Word.SKIPPED, reason)
    assert fleet.run("a")["message"] == reason
    assert "scheduled:default" not in fleet.dump()


@pytest.mark.parametrize(("wait_ms", "word"), [(14_999, Word.TAKEN), (15_000, Word.SKIPPED)])
def test_of_late_runs_only_the_latest_is_taken_when_that_is_the_policy(fleet, wait_ms, word):
    fleet.set_queue(late_policy="latest")
    fleet.submit(*"ab", deployment="dep")
    fleet.submit("c", deployment="other")
    fleet.advance(wait_ms)
    assert [fleet.take(run_id, run_id).word for run_id in "abc"] == [word, Word.TAKEN, Word.TAKEN]


def test_the_latest_is_known_though_it_was_taken_on_time(fleet):
    fleet.set_queue(late_policy="latest")
    fleet.submit("b", deployment="dep")
    fleet.take("b", "b")
    fleet.submit("a", deployment="dep", due_ms=T0 - 20_000)
    assert fleet.take("a").word is Word.SKIPPED


def test_the_latest_of_many_is_found_in_bounded_steps(fleet, monkeypatch):
    fleet.set_queue(late_policy="latest")
    runs = [f"r{number:04}" for number in range(1_100)]
    fleet.submit(*runs, deployment="dep")
    fleet.advance(20_000)
    words, step = [], fleet.store._step

    def counted(*args, **fields):
        answer = step(*args, **fields)
        words.append(answer[0])
        return answer

    monkeypatch.setattr(fleet.store, "_step", counted)
    assert fleet.take(runs[0]).word is Word.SKIPPED
    assert words == [b"more", b"more", b"skipped"]
    assert fleet.take(runs[-1]).word is Word.TAKEN


@pytest.mark.parametrize("how", ["submitted", "retimed"])
def test_a_run_that_comes_in_behind_what_was_seen_may_be_the_latest(fleet, how):
    fleet.set_queue(late_policy="latest")
    fleet.set_deployment("other", 1)
    fleet.submit("a", deployment="dep", due_ms=T0)
    fleet.submit("z", due_ms=T0 + 20_000)
    if how == "retimed":
        fleet.submit("b", deployment="dep", due_ms=T0 + 90_000)
    fleet.advance(20_000)
    fleet.dispatch()
    if how == "submitted":
        fleet.submit("b", deployment="dep", due_ms=T0 + 10_000)
    else:
        fleet.retime("b", T0 + 10_000)
    assert fleet.take("a").word is Word.SKIPPED
