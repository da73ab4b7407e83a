"""The atomic step `release` by an operator: a claim is taken away from the worker that has it."""

import pytest

from dispatcher.records import Claim, Release, Word
from tests.builders import POOL, T0, Fleet, changed


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, started."""
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    return claim


def test_a_run_that_was_taken_away_is_scheduled_and_its_worker_is_told_to_compare(fleet, claim):
    before = fleet.dump()

    assert fleet.take_away(claim, by="ana") is Word.RELEASED

    difference = changed(before, fleet.dump())
    assert difference["run:a"]["place"] == "scheduled"
    assert difference["scheduled:default"] == {before["run:a"]["member"]: T0}
    assert difference["holder:w.1"] == {"differs": "1"}
    assert difference["inbox:w.1"] == ["1"]
    assert (difference["events"][0]["event"], difference["events"][0]["by"]) == ("released", "ana")


def test_the_next_renewal_of_a_worker_without_its_claim_answers_compare(fleet, claim):
    fleet.take_away(claim)
    assert fleet.renew("w.1", held=1) is Word.COMPARE


def test_a_worker_that_gave_the_run_up_by_itself_renews_as_ever(fleet, claim):
    fleet.take_away(claim)
    assert fleet.renew("w.1", held=0) is Word.RENEWED
    assert fleet.renew("w.1", held=0) is Word.RENEWED


def test_what_a_worker_reports_after_its_claim_was_taken_away_changes_nothing(fleet, claim):
    fleet.take_away(claim)
    before = fleet.dump()
    assert fleet.finish(claim) is Word.RELEASED
    assert fleet.dump() == before


def test_a_claim_that_was_taken_away_is_anybodys(fleet, claim):
    fleet.take_away(claim)
    fleet.dispatch()
    other = fleet.claim_one(fleet.register("other"))
    assert (other.run_id, other.delivery) == ("a", 2)
    assert fleet.start(claim) is Word.LOST
    assert fleet.start(other) is Word.STARTED


def test_a_claim_is_taken_away_once(fleet, claim):
    fleet.take_away(claim)
    before = fleet.dump()
    assert fleet.take_away(claim) is Word.RELEASED
    assert fleet.dump() == before


def test_a_claim_whose_worker_is_not_on_record_any_more_is_taken_away_too(fleet, claim):
    fleet.client.delete(fleet.keys["holder"] + "w.1")
    assert fleet.take_away(claim) is Word.RELEASED
    assert [n for n in fleet.dump() if n.startswith(("holder:", "inbox:"))] == []


def test_an_operator_takes_no_claim_away_that_has_changed_hands(fleet, claim):
    fleet.lose("w.1")
    fleet.dispatch()
    fleet.claim_one(fleet.register("other"))
    report = Release("a", claim.token, "taken away", by="ana")
    assert fleet.store.report(POOL, report) is Word.LOST
    assert fleet.run("a")["holder"] == "other.1"
