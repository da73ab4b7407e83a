"""Reconciling: each kind of damage is found, and repaired so that every run still ends."""

import pytest

from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.reconciling import Reconciler
from dispatcher.records import Finding
from tests.builders import POOL, Fleet, changed
from tests.damages import DAMAGES, HOLDER, Busy, Damage

LATER_MS = 60_000


@pytest.fixture
def busy(fleet: Fleet) -> Busy:
    fleet.create_queue("idle")
    fleet.set_deployment("one", 1)
    fleet.set_queue(max_deliveries=1)
    fleet.put("dead")
    holder = fleet.register()
    fleet.start(fleet.claim_one(holder))
    fleet.lose(holder)
    fleet.set_queue(max_deliveries=None)
    holder = fleet.register("hands")
    fleet.put("ended")
    fleet.finish(fleet.claim_one(holder))
    fleet.put("claimed", deployment="one")
    fleet.put("cancelling")
    claims = {claim.run_id: claim for claim in fleet.claim(holder)}
    for claim in claims.values():
        fleet.start(claim)
    fleet.cancel("cancelling")
    fleet.put("waiting", deployment="one")
    fleet.put("stream", deployment="two")
    assert fleet.store.now_ms
    fleet.submit("scheduled", due_ms=fleet.store.now_ms + LATER_MS)
    return Busy(fleet, claims)


def look(fleet: Fleet, *, fix: bool = False, pools: tuple[str, ...] = (POOL,)) -> list[Finding]:
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)
    pages = Reconciler(fleet.store, inspector, fix=fix).walk(pools, names=True)
    return [finding for page in pages for finding in page]


def named(findings: list[Finding]) -> list[tuple[str, str]]:
    return sorted((finding.code, finding.run) for finding in findings)


def places(fleet: Fleet, *run_ids: str) -> dict[str, str]:
    return {run_id: fleet.run(run_id).get("place", "gone") for run_id in run_ids}


def work_off(fleet: Fleet) -> None:
    """Lose every worker, let everything become due, and let a new worker do it all."""
    for holder in fleet.members("holders"):
        fleet.lose(holder)
    fleet.advance(2 * LATER_MS)
    holder = fleet.register("fresh")
    for _ in range(6):
        fleet.dispatch()
        for claim in fleet.claim(holder):
            fleet.start(claim)
            fleet.finish(claim)


PLACES = ("scheduled", "waiting", "stream", "claimed", "cancelling", "ended", "dead")
PLACES_AT_THE_END = dict.fromkeys(PLACES, "ended") | {"dead": "dead"}


@pytest.fixture(params=DAMAGES.values(), ids=[name.replace(" ", "-") for name in DAMAGES])
def damage(request: pytest.FixtureRequest) -> Damage:
    damage: Damage = request.param
    return damage


def test_a_run_in_each_place_is_no_finding(busy):
    before = busy.fleet.dump()

    assert look(busy.fleet) == look(busy.fleet, fix=True) == []
    assert busy.fleet.dump() == before


def test_damage_is_found_and_nothing_is_changed(busy, damage):
    damage.do(busy)
    before = busy.fleet.dump()

    findings = look(busy.fleet)

    assert named(findings) == sorted(damage.found)
    assert {finding.repaired for finding in findings} == {False}
    assert busy.fleet.dump() == before


def test_damage_is_repaired_with_an_event_for_each_and_then_every_run_ends(busy, damage):
    before = busy.fleet.dump()
    damage.do(busy)
    events = len(before["events"])

    findings = look(busy.fleet, fix=True)

    after = busy.fleet.dump()
    told = [e for e in after["events"][events:] if e["event"] == "repaired"]
    assert named(findings) == sorted(damage.repaired or damage.found)
    assert {finding.repaired for finding in findings} == {True}
    assert [(e["what"], e.get("run", "")) for e in told] == [(f.code, f.run) for f in findings]
    assert [e["reason"] for e in told] == [finding.problem for finding in findings]
    if damage.heals:
        assert changed(before, after) == {"events": told}
    assert look(busy.fleet) == []
    work_off(busy.fleet)
    assert places(busy.fleet, *PLACES) == PLACES_AT_THE_END | dict.fromkeys(damage.loses, "gone")
    assert look(busy.fleet) == []


def test_what_has_left_a_listing_meanwhile_is_no_finding(busy):
    listings = [
        ("scheduled", "idle", busy.member("scheduled")),
        ("waiting", "two:default", busy.member("waiting")),
        ("claims", HOLDER, "stream"),
        ("orders", HOLDER, "claimed"),
        ("dead", "", "ended"),
        ("finished", "", "claimed"),
        ("unstarted", "", "claimed"),
        ("pool_slots", "", "ended"),
        ("holders", "", "ghost.1"),
        ("workers", "", "ghost"),
        ("waits", "", "two default"),
        ("pending", "default", "1-1"),
    ]

    found = [
        busy.fleet.store.reconcile_listings(POOL, structure, part, [member], fix=True)
        for structure, part, member in listings
    ]

    assert found == [[]] * len(listings)


def test_an_ended_run_whose_record_has_expired_is_no_finding(busy):
    busy.fleet.client.delete(busy.key("run", "ended"))

    assert look(busy.fleet) == []


def test_a_deployment_for_which_runs_of_two_queues_wait_is_found_once(busy):
    busy.fleet.put("idle one", queue="idle", deployment="one")
    assert busy.fleet.run("idle one")["place"] == "waiting"
    busy.fleet.client.hset(busy.key("deployment", "one"), "limit", 2)

    assert named(look(busy.fleet)) == [("unmarked", "")]


def test_where_more_is_due_than_can_be_looked_at_a_free_slot_is_taken_to_be_looked_after(busy):
    busy.fleet.client.hset(busy.key("deployment", "one"), "limit", 2)
    for number in range(101):
        busy.fleet.submit(f"due {number}", queue="idle")

    assert look(busy.fleet) == []


def test_a_worker_that_is_being_recovered_does_not_get_its_name_back(busy):
    busy.fleet.client.hset(busy.key("holder", HOLDER), "dead", 1)
    busy.fleet.client.hdel(busy.key("workers"), "hands")

    assert look(busy.fleet, fix=True) == []
