"""Reconciling, continued: pools that are handed out by polling, and claims without entries."""

import pytest

from dispatcher.inspector import Inspector
from dispatcher.reconciling import Reconciler
from dispatcher.records import Word
from dispatcher.store import Store
from tests.builders import POOL, Fleet, changed

HOLDER = "w~1.1"


@pytest.fixture
def polled(client, prefix):
    """A pool that is handed out by polling from its beginning."""
    return Fleet(client, prefix, handout="poll")


def findings(fleet: Fleet, *, fix: bool = False) -> list[tuple[str, str, str]]:
    store = Store(fleet.store.connection, fleet.store.prefix)
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)
    reconciler = Reconciler(store, inspector, fix=fix)
    return [(f.code, f.run, f.problem) for page in reconciler.walk([POOL]) for f in page]


def test_a_pool_that_is_polled_has_no_findings_whatever_happens_in_it(polled):
    polled.set_deployment("dep", 1)
    polled.create_queue("low")
    polled.submit(*"abc", deployment="dep")
    polled.submit(*"de", queue="low")
    polled.dispatch()
    for run_id in "ad":
        polled.take(run_id, run_id)
    assert findings(polled) == []
    polled.cancel("a")
    polled.finish(polled.take_one("e", "e"), "FAILED")
    assert findings(polled) == []
    polled.lose("w~d.d")
    polled.dispatch()
    assert findings(polled) == []


def test_a_taken_run_whose_holder_is_not_there_is_taken_back(polled):
    polled.submit("a")
    polled.take("a")
    polled.client.delete(polled.keys["holder"] + HOLDER)
    polled.client.zrem(polled.keys["holders"], HOLDER)
    polled.client.delete(polled.keys["workers"])
    assert findings(polled, fix=True)[0][:2] == ("no-holder", "a")
    assert (polled.run("a")["place"], polled.run("a")["losses"]) == ("scheduled", "1")
    assert findings(polled) == []


@pytest.mark.parametrize("lost", ["pool_slots", "queue_slots", "claims", "deployment_slots"])
def test_what_a_taken_run_should_have_is_given_to_it(polled, lost):
    part = {"queue_slots": "default", "claims": HOLDER, "deployment_slots": "dep"}.get(lost, "")
    polled.submit("a", deployment="dep")
    polled.take("a")
    before = polled.dump()
    polled.client.delete(polled.keys[lost] + part)
    assert len(findings(polled, fix=True)) == 1
    assert changed(before, polled.dump()).keys() == {"events"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda fleet, key: fleet.client.hset(key, "entry", "1-1"),
        lambda fleet, key: fleet.client.hset(key, "token", "5-0.1.1"),
        lambda fleet, key: fleet.client.hdel(key, "token"),
    ],
)
def test_a_claim_without_an_entry_is_right_only_when_it_was_taken(polled, damage):
    polled.submit("a")
    polled.take("a")
    damage(polled, polled.keys["run"] + "a")
    ((code, run, problem),) = findings(polled, fix=True)
    assert (code, run) == ("no-holder", "a")
    assert problem == "is claimed, and its record does not say by whom and how"
    assert polled.run("a")["place"] == "scheduled"
    assert polled.take("a", "2").word is Word.TAKEN


def test_a_claimed_run_that_lost_its_entry_is_taken_back(fleet):
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.client.hdel(fleet.keys["run"] + "a", "entry")
    codes = [code for code, *_ in findings(fleet, fix=True)]
    assert "no-holder" in codes
    assert fleet.run("a")["place"] == "scheduled"


def test_a_run_that_is_scheduled_for_polling_is_no_damage_after_the_change(fleet):
    fleet.put(*"ab")
    fleet.set_pool(handout="poll")
    assert findings(fleet) == []
    fleet.dispatch()
    fleet.withdraw()
    assert findings(fleet) == []
