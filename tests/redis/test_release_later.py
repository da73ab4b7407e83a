"""The atomic step `release` with a delay: a run goes back, to be run again later."""

import pytest

from dispatcher.records import Claim, Word
from tests.builders import POOL, T0, Fleet, changed, moved, refused, sleep_on, woken

LATER_MS = 1_500


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a", of a deployment, by w.1, started."""
    fleet.put("a", deployment="dep")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    return claim


def later(fleet: Fleet, claim: Claim, delay_ms: int = LATER_MS, **fields: object) -> Word:
    return fleet.release(claim, "not yet", delay_ms=delay_ms, **fields)


def test_a_run_that_is_released_for_later_is_due_again_after_the_delay(fleet, claim):
    before = fleet.dump()
    fleet.advance(7)

    assert later(fleet, claim) is Word.RESCHEDULED

    entry, due_ms = before["run:a"]["entry"], T0 + 7 + LATER_MS
    assert changed(before, fleet.dump()) == {
        "scheduled:default": {before["run:a"]["member"]: due_ms},
        "unstarted": {"a": due_ms},
        "stream:default": {
            "entries": {entry: None},
            "groups": {"workers": {"pending": {entry: None}}},
        },
        "claims:w.1": None,
        "slots:pool": None,
        "slots:queue:default": None,
        "slots:deployment:dep": None,
        "run:a": {
            "place": "scheduled",
            "state_type": "SCHEDULED",
            "state_name": "AwaitingRetry",
            "due_ms": str(due_ms),
            "retrying": "1",
            "message": "not yet",
            "delivery.1.ended_ms": str(T0 + 7),
            "delivery.1.outcome": "released",
            "ran_ms": "7",
            "answer_token": claim.token,
            "answer": "rescheduled",
            **dict.fromkeys(["entry", "token", "holder", "claim"]),
        },
        "events": [
            {
                "event": "retrying",
                "at_ms": str(T0 + 7),
                "run": "a",
                "queue": "default",
                "from": "RUNNING",
                "to": "SCHEDULED",
                "worker": "w.1",
                "due_ms": str(due_ms),
                "reason": "not yet",
            }
        ],
    }


def test_it_is_dispatched_at_that_millisecond_and_not_before(fleet, claim):
    later(fleet, claim)

    fleet.advance(LATER_MS - 1)
    assert moved(fleet.dispatch()) == []
    fleet.advance(1)
    assert moved(fleet.dispatch()) == ["a"]


def test_dispatchers_hear_when_it_is_due(fleet, claim, listener):
    later(fleet, claim)
    assert listener.heard() == [f"default {T0 + LATER_MS}"]


def test_without_any_delay_it_is_due_at_once_and_no_longer_when_it_was(fleet, claim):
    fleet.advance(3)

    assert later(fleet, claim, 0) is Word.RESCHEDULED

    assert fleet.run("a")["due_ms"] == str(T0 + 3)
    assert moved(fleet.dispatch()) == ["a"]


def test_its_next_start_is_a_retry_with_the_next_count(fleet, claim):
    later(fleet, claim)
    fleet.advance(LATER_MS)
    fleet.dispatch()

    again = fleet.claim_one(fleet.register("v"))
    fleet.start(again)

    run = fleet.run("a")
    assert (run["state_name"], run["run_count"], run["delivery"]) == ("Retrying", "2", "2")
    assert "retrying" not in run
    assert fleet.finish(again) is Word.FINISHED


def test_it_may_be_done_as_often_as_the_work_wants_and_is_nobodys_loss(fleet):
    fleet.submit("a")
    holder = fleet.register()
    for count in range(12):
        fleet.dispatch()
        claim = fleet.claim_one(holder)
        assert claim.run_count == count
        fleet.start(claim)
        assert later(fleet, claim, 100) is Word.RESCHEDULED
        fleet.advance(100)

    run = fleet.run("a")
    assert (run["place"], run["delivery"], run["run_count"]) == ("scheduled", "12", "12")
    assert (run.get("losses"), run.get("unstarted")) == (None, None)


def test_its_starts_count_as_those_of_the_runs_own_retries_do(fleet):
    fleet.put("a", retries=1)
    holder = fleet.register()
    for _ in range(2):
        claim = fleet.claim_one(holder)
        fleet.start(claim)
        later(fleet, claim, 0)
        fleet.dispatch()
    claim = fleet.claim_one(holder)
    fleet.start(claim)

    assert fleet.finish(claim, "FAILED") is Word.FINISHED


def test_it_gives_its_slots_to_others_meanwhile(fleet):
    fleet.set_pool(limit=1)
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")
    holder = fleet.register()
    claim = fleet.claim_one(holder)
    fleet.start(claim)

    later(fleet, claim)

    assert moved(fleet.dispatch()) == ["b"]
    assert fleet.claim_one(holder).run_id == "b"


def test_it_goes_before_what_came_later_and_is_due_with_it(fleet, claim):
    fleet.submit("b", due_ms=T0 + LATER_MS)
    later(fleet, claim)
    fleet.advance(LATER_MS)

    assert moved(fleet.dispatch()) == ["a", "b"]


def nothing(fleet: Fleet) -> None:
    pass


def dispatched(fleet: Fleet) -> None:
    fleet.advance(LATER_MS)
    fleet.dispatch()


def claimed(fleet: Fleet) -> None:
    dispatched(fleet)
    fleet.claim_one(fleet.register("another"))


@pytest.mark.parametrize("since", [nothing, dispatched, claimed])
@pytest.mark.parametrize("repeated", [LATER_MS, 5, None])
def test_the_same_release_again_gets_the_same_answer_and_moves_nothing(
    fleet, claim, since, repeated
):
    later(fleet, claim)
    since(fleet)
    before = fleet.dump()
    fleet.advance(1)

    assert fleet.release(claim, delay_ms=repeated, nudge=True) is Word.RESCHEDULED
    assert fleet.dump() == before


def test_a_finish_after_it_hears_that_the_run_was_rescheduled(fleet, claim):
    later(fleet, claim)
    before = fleet.dump()

    assert fleet.finish(claim) is Word.RESCHEDULED
    assert fleet.dump() == before


@pytest.mark.parametrize(
    ("before_it", "word"), [(Fleet.finish, Word.FINISHED), (Fleet.release, Word.RELEASED)]
)
def test_after_another_end_it_changes_nothing_and_hears_of_that(fleet, claim, before_it, word):
    before_it(fleet, claim)
    before = fleet.dump()

    assert later(fleet, claim, nudge=True) is word
    assert fleet.dump() == before


def test_with_an_old_token_it_is_lost_and_leaves_an_event_alone(fleet, claim):
    fleet.lose("w.1")
    before, at_ms = fleet.dump(), fleet.store.now_ms

    assert later(fleet, claim, nudge=True) is Word.LOST

    reason = "a release with an old token"
    assert changed(before, fleet.dump()) == refused("a", reason, at_ms=at_ms)


def test_a_run_that_is_being_cancelled_is_not_run_again(fleet, claim):
    fleet.cancel("a", reason="enough")

    assert later(fleet, claim) is Word.FINISHED

    run = fleet.run("a")
    assert (run["place"], run["state_type"], run["message"]) == ("ended", "CANCELLED", "enough")
    assert "retrying" not in run
    assert fleet.members("unstarted") == []


def test_a_cancel_ends_it_while_it_waits_for_its_time(fleet, claim):
    later(fleet, claim)

    fleet.cancel("a")

    assert fleet.run("a")["state_type"] == "CANCELLED"
    fleet.advance(LATER_MS)
    assert moved(fleet.dispatch()) == []


def test_like_any_retry_it_is_never_late_and_tells_of_a_queue_that_nobody_serves(fleet, claim):
    later(fleet, claim)
    fleet.advance(LATER_MS)
    fleet.dispatch()
    fleet.store.drain(POOL, "w.1", reason="test")

    fleet.advance(14_999)
    assert fleet.watch().unserved == []
    fleet.advance(1)
    watched = fleet.watch()
    assert (watched.late, watched.unserved) == ([], ["default"])


def test_in_the_pause_of_a_retry_in_process_it_ends_the_claim(fleet):
    fleet.put("a", retries=1, retry_type="in_process", retry_delay_ms=60_000)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    assert fleet.finish(claim, "FAILED", run_count=1) is Word.RETRYING

    assert later(fleet, claim) is Word.RESCHEDULED

    run = fleet.run("a")
    assert (run["place"], run["state_name"]) == ("scheduled", "AwaitingRetry")
    assert run["due_ms"] == str(T0 + LATER_MS)


@pytest.mark.parametrize("nudge", [True, False])
def test_a_holder_is_nudged_if_it_asks_for_it(fleet, claim, nudge):
    later(fleet, claim, nudge=nudge)
    assert fleet.dump().get("inbox:w.1") == (["1"] if nudge else None)


def test_an_operator_may_take_a_claim_away_until_later(fleet, claim):
    assert later(fleet, claim, by="ana") is Word.RESCHEDULED

    dump = fleet.dump()
    assert dump["holder:w.1"]["differs"] == "1"
    assert dump["inbox:w.1"] == ["1"]
    assert dump["events"][-1]["by"] == "ana"


def test_what_comes_next_is_offered_at_once(fleet):
    fleet.set_queue(limit=1)
    fleet.put("a", "b")
    claim = fleet.claim_one(fleet.register())
    sleep_on(fleet)

    later(fleet, claim)

    assert woken(fleet) == ["default"]
