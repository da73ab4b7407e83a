"""Runs in RQ as `explain` and `doctor` see them."""

import pytest

from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.reconciling import Reconciler
from dispatcher.records import Claim, Finding
from tests.builders import POOL, Fleet
from tests.explanations import codes, told
from tests.redis.test_hand_over import SHARED, hand_over, renew, share

RELEASE = "`dispatcher flow-run release a` takes it away from there."
LEASE = "its lease holds for another 12 s"


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a", which was handed over 3 seconds ago; its consumer is "w"."""
    fleet.put("a")
    share(fleet, slots=1)
    claim = fleet.claim_one(fleet.register(slots=1, type="rq"))
    hand_over(fleet, claim)
    fleet.advance(3_000)
    return claim


def look(fleet: Fleet, *, fix: bool) -> list[Finding]:
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)
    pages = Reconciler(fleet.store, inspector, fix=fix).walk([POOL], names=True)
    return [finding for page in pages for finding in page]


def test_a_run_that_waits_in_rq_says_where(fleet, claim):
    (sentence,) = told(fleet)
    assert sentence == (
        "It has been handed over to RQ queue flows for 3 s, since 2023-11-14T22:13:20.000Z, "
        "in delivery 1, and waits there for an RQ worker (`rq info` lists them); "
        f"{LEASE}; {RELEASE}"
    )


def test_a_run_that_an_rq_worker_has_taken_says_so(fleet, claim):
    renew(fleet, claim, "host.7.abc")
    (sentence,) = told(fleet)
    assert "RQ worker host.7 has it and has not started it;" in sentence
    assert codes(fleet) == ["handed_over"]


def test_a_run_that_is_running_in_rq_says_in_which_worker(fleet, claim):
    renew(fleet, claim, "w7.abc")
    fleet.start(claim)
    (sentence,) = told(fleet)
    assert sentence.startswith("It has been running on RQ worker w7 (RQ queue flows) for 0 ms, ")


def test_a_run_that_is_being_cancelled_in_rq_says_who_has_the_order(fleet, claim):
    renew(fleet, claim, "w7.abc")
    fleet.start(claim)
    fleet.cancel("a")
    (sentence,) = told(fleet)
    assert "RQ worker w7 (RQ queue flows) has the order" in sentence


def test_an_rq_consumer_is_full_of_what_is_in_rq(fleet, claim):
    fleet.put("b")
    assert codes(fleet, "b") == ["workers_full"]
    assert "1 live worker serves queue default and holds 1 run in 1 slot" in told(fleet, "b")[0]


def test_what_is_in_rq_serves_no_queue_by_itself(fleet, claim):
    fleet.lose("w.1")
    share(fleet, slots=1)
    fleet.put("b")
    assert codes(fleet, "b") == ["unserved"]
    fleet.advance(60_000)
    share(fleet, slots=1)
    assert fleet.watch().unserved == ["default"]


def test_the_doctor_finds_nothing_about_runs_in_rq(fleet, claim):
    assert look(fleet, fix=False) == []
    renew(fleet, claim)
    fleet.start(claim)
    fleet.cancel("a")
    assert look(fleet, fix=False) == []


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda c, keys: c.srem(keys["claims"] + SHARED, "a"), "not-listed"),
        (lambda c, keys: c.zrem(keys["pool_slots"], "a"), "no-slot"),
        (
            lambda c, keys: c.xack(
                keys["stream"] + "default", "workers", c.hget(keys["run"] + "a", "entry")
            ),
            "not-pending",
        ),
    ],
)
def test_the_doctor_repairs_what_does_not_agree_about_runs_in_rq(fleet, claim, damage, code):
    before = fleet.dump()
    damage(fleet.client, fleet.keys)
    assert code in [finding.code for finding in look(fleet, fix=True)]
    after = fleet.dump()
    assert look(fleet, fix=False) == []
    assert after["run:a"] == before["run:a"]
    assert after[f"claims:{SHARED}"] == ["a"]
