"""The atomic step `claim`, continued: a group that was destroyed is made again from 0."""

import pytest

from dispatcher.records import Word
from tests.builders import Fleet


@pytest.fixture
def holder(fleet: Fleet) -> str:
    """A worker that holds the run "a", started, when the group is destroyed."""
    holder = fleet.register("first")
    fleet.put("a")
    fleet.start(fleet.claim_one(holder))
    destroy_group(fleet)
    return holder


def destroy_group(fleet: Fleet) -> None:
    fleet.client.xgroup_destroy(fleet.keys["stream"] + "default", "workers")


def forget(fleet: Fleet, holder: str) -> None:
    """Take a holder away as lost writes do, without its recovery."""
    fleet.client.delete(fleet.keys["holder"] + holder, fleet.keys["claims"] + holder)
    fleet.client.zrem(fleet.keys["holders"], holder)


def again(fleet: Fleet, holder: str) -> str:
    """The token that the holder was given for "a"."""
    (claim,) = fleet.claim(holder, number=1)
    return claim.token


def test_the_first_claim_of_a_queue_makes_the_group(fleet):
    fleet.put("a")
    holder = fleet.register()
    entry = fleet.run("a")["entry"]
    assert fleet.dump()["stream:default"]["groups"] == {}

    fleet.claim(holder)

    group = {"consumers": [holder], "pending": {entry: holder}}
    assert fleet.dump()["stream:default"]["groups"] == {"workers": group}


def test_a_run_with_a_live_holder_is_given_to_nobody(fleet, holder):
    fleet.dispatch()
    other = fleet.register("other")
    before = fleet.run("a")

    assert fleet.claim(other) == []

    entry = before["entry"]
    assert fleet.run("a") == before
    assert fleet.dump()["stream:default"]["groups"]["workers"]["pending"] == {entry: holder}
    assert fleet.dump()["claims:first.1"] == ["a"]


def test_a_live_holder_keeps_its_run_when_it_claims_itself(fleet, holder):
    fleet.dispatch()
    before = fleet.run("a")

    assert fleet.claim(holder) == []

    pending = fleet.dump()["stream:default"]["groups"]["workers"]["pending"]
    assert pending == {before["entry"]: holder}
    assert fleet.run("a") == before


def test_the_finish_of_a_live_holder_counts(fleet, holder):
    (claim,) = fleet.claim(holder, number=1)
    fleet.dispatch()
    fleet.claim(fleet.register("other"))

    assert fleet.finish(claim) is Word.FINISHED

    state = fleet.dump()
    assert state["run:a"]["place"] == "ended"
    assert state["stream:default"]["entries"] == {}
    assert state["stream:default"]["groups"]["workers"]["pending"] == {}


def test_a_finish_counts_also_while_there_is_no_group(fleet, holder):
    (claim,) = fleet.claim(holder, number=1)
    assert fleet.finish(claim) is Word.FINISHED
    assert fleet.dump()["stream:default"] == {"entries": {}, "groups": {}}


def test_a_release_counts_also_while_there_is_no_group(fleet, holder):
    (claim,) = fleet.claim(holder, number=1)
    assert fleet.release(claim) is Word.RELEASED
    fleet.dispatch()
    assert fleet.claim_one(fleet.register("other")).run_id == "a"


def test_a_repeated_claim_gives_its_holder_the_same_token(fleet, holder):
    before = fleet.run("a")["token"]
    fleet.dispatch()
    fleet.claim(fleet.register("other"))
    assert again(fleet, holder) == before


def test_runs_that_nobody_holds_are_claimed(fleet, holder):
    fleet.put("b", "c")
    other = fleet.register("other")
    assert [claim.run_id for claim in fleet.claim(other)] == ["b", "c"]


def test_what_is_given_back_takes_no_slots(fleet, holder):
    fleet.put("b", "c")
    other = fleet.register("other")
    assert [claim.run_id for claim in fleet.claim(other, slots=2)] == ["b", "c"]


def test_a_started_run_whose_holder_is_gone_counts_as_a_loss_and_goes_on(fleet, holder):
    (claim,) = fleet.claim(holder, number=1)
    forget(fleet, holder)
    fleet.dispatch()
    other = fleet.register("other")

    assert fleet.claim(other) == []

    run = fleet.run("a")
    assert (run["place"], run["losses"], run["delivery.1.outcome"]) == ("scheduled", "1", "lost")
    fleet.dispatch()
    assert fleet.claim_one(other).run_id == "a"
    assert fleet.finish(claim) is Word.LOST


def test_a_run_that_its_gone_holder_never_started_counts_no_loss(fleet):
    holder = fleet.register("first")
    fleet.put("a")
    fleet.claim_one(holder)
    destroy_group(fleet)
    forget(fleet, holder)
    fleet.dispatch()

    fleet.claim(fleet.register("other"))

    run = fleet.run("a")
    assert (run["place"], run.get("losses"), run["unstarted"]) == ("scheduled", None, "1")


def test_a_dead_holder_is_recovered_without_its_group(fleet, holder):
    fleet.lose(holder)
    fleet.dispatch()
    assert fleet.run("a")["losses"] == "1"
    assert fleet.claim_one(fleet.register("other")).run_id == "a"


def test_an_entry_that_went_back_to_a_dying_holder_is_recovered_with_it(fleet, holder):
    fleet.advance(15_000)
    fleet.dispatch()
    other = fleet.register("other")
    fleet.claim(other)

    assert fleet.store.recover_all(fleet.pool, holder).requeued == ["a"]

    fleet.dispatch()
    assert fleet.claim_one(other).run_id == "a"
    assert fleet.dump()["stream:default"]["groups"]["workers"]["consumers"] == [other]


def test_giving_entries_back_makes_room_for_what_was_blocked(fleet, holder, listener):
    fleet.client.hset(fleet.keys["queue"] + "default", "max_unclaimed", 1)
    fleet.submit("b")
    assert fleet.dispatch().moved == []
    listener.heard()

    fleet.claim(fleet.register("other"))

    assert listener.heard() == ["default 0"]
    assert [run.run_id for run in fleet.dispatch().moved] == ["b"]


def test_a_finish_counts_also_while_there_is_no_stream(fleet, holder):
    (claim,) = fleet.claim(holder, number=1)
    fleet.client.delete(fleet.keys["stream"] + "default")
    assert fleet.finish(claim) is Word.FINISHED
    assert fleet.run("a")["place"] == "ended"
