"""The atomic step `withdraw`: what nobody has claimed of a paused queue goes back to its place."""

import pytest

from dispatcher.keys import GROUP
from dispatcher.records import Moved, Word
from tests.builders import T0, changed

TARGETS = pytest.mark.parametrize("target", [None, "default"], ids=["pool", "queue"])


@TARGETS
def test_dispatch_asks_for_a_withdrawal_while_unclaimed_entries_are_left(fleet, target):
    fleet.put("a")
    fleet.pause(target)
    asked = fleet.dispatch().withdraw
    fleet.withdraw()

    assert (asked, fleet.dispatch().withdraw) == (["default"], [])


@TARGETS
def test_a_withdrawal_puts_a_run_back_to_its_place_and_gives_its_slot_back(fleet, target):
    fleet.put("a", deployment="dep")
    fleet.pause(target)
    before = fleet.dump()
    fleet.advance(3)

    fleet.withdraw()

    entry = before["run:a"]["entry"]
    assert changed(before, fleet.dump()) == {
        "scheduled:default": {before["run:a"]["member"]: T0},
        "stream:default": {"entries": {entry: None}},
        "queue:default": {"unclaimed_bytes": "0"},
        "slots:deployment:dep": None,
        "run:a": {"place": "scheduled", "entry": None},
        "events": [{"event": "withdrawn", "at_ms": str(T0 + 3), "run": "a", "queue": "default"}],
    } | ({"ready": None} if target is None else {})


def test_a_withdrawal_lets_a_run_of_another_queue_have_the_slot(fleet):
    fleet.create_queue("other")
    fleet.set_deployment("dep", 1)
    fleet.put("a", deployment="dep")
    fleet.put("b", deployment="dep", queue="other")
    fleet.pause("default")

    fleet.withdraw()

    assert fleet.dispatch().moved == [Moved("b", "other", T0)]
    assert fleet.dump()["slots:deployment:dep"] == {"b": T0}


def test_a_withdrawal_leaves_what_is_claimed(fleet):
    fleet.put("a", "b")
    claim = fleet.claim_one(fleet.register())
    fleet.pause("default")

    fleet.withdraw()

    assert (fleet.run("a")["place"], fleet.run("b")["place"]) == ("claimed", "scheduled")
    assert fleet.finish(claim) is Word.FINISHED


def test_a_withdrawal_leaves_what_is_claimed_also_when_the_group_was_made_again(fleet):
    fleet.put("a", "b")
    claim = fleet.claim_one(fleet.register())
    fleet.client.xgroup_destroy(fleet.keys["stream"] + "default", GROUP)
    fleet.client.xgroup_create(fleet.keys["stream"] + "default", GROUP, "0")
    fleet.pause()

    fleet.withdraw()

    assert (fleet.run("a")["place"], fleet.run("b")["place"]) == ("claimed", "scheduled")
    assert fleet.finish(claim) is Word.FINISHED


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6])
def test_a_withdrawal_in_steps_takes_everything_back(fleet, limit):
    fleet.put("x", *"abcde")
    fleet.claim_one(fleet.register())
    fleet.pause()

    fleet.withdraw(limit=limit)

    dump = fleet.dump()
    assert [member[16:] for member in dump["scheduled:default"]] == list("abcde")
    assert list(dump["stream:default"]["entries"]) == [dump["run:x"]["entry"]]


def test_a_withdrawal_drops_an_entry_that_stands_for_no_run(fleet):
    fleet.put("a")
    fields = {"run": "a", "payload": "stray"}
    fleet.client.xadd(fleet.keys["stream"] + "default", fields)
    fleet.pause()

    fleet.withdraw()

    dump = fleet.dump()
    assert dump["stream:default"]["entries"] == {}
    assert len(dump["scheduled:default"]) == 1


def test_a_withdrawal_from_a_queue_that_is_not_paused_changes_nothing(fleet):
    fleet.put("a")
    before = fleet.dump()
    fleet.withdraw()
    assert fleet.dump() == before


def test_a_withdrawal_from_a_queue_that_never_had_an_entry_changes_nothing(fleet):
    fleet.pause()
    before = fleet.dump()
    fleet.withdraw()
    assert fleet.dump() == before


@TARGETS
def test_a_resumed_queue_hands_out_again_in_order(fleet, target):
    fleet.put("b", "c", due_ms=T0)
    fleet.pause(target)
    fleet.withdraw()
    fleet.submit("d", due_ms=T0)
    fleet.submit("a", due_ms=T0 - 1)
    fleet.resume(target)

    moved = [run.run_id for run in fleet.dispatch().moved]

    assert moved == ["a", "b", "c", "d"]
    assert [claim.run_id for claim in fleet.claim(fleet.register())] == moved


@TARGETS
def test_entries_that_nobody_withdrew_are_handed_out_after_the_pause(fleet, target):
    fleet.put("a")
    fleet.pause(target)
    fleet.resume(target)
    fleet.client.delete(fleet.keys["wake"] + "default")

    fleet.dispatch()

    assert fleet.dump()["wake:default"] == ["1"]
    assert fleet.claim_one(fleet.register()).run_id == "a"
