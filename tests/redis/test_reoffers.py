"""What an offer of a run that is known means: the table "Idempotency and re-offers", row by row.

The table is in docs/semantics.md; `test_every_offer_of_a_known_run_is_in_one_row` says it is whole.
"""

from collections.abc import Callable
from itertools import chain, product
from typing import Any

import pytest

from dispatcher.errors import Refused
from dispatcher.records import Claim, Moved, Receipt, Word
from tests.builders import OUTCOMES, POOL, T0, Fleet, changed, refused

MINUTE_MS = 60_000
STATE_IDS = {"same": "s1", "other": "s2", "no": ""}
TIMES = {"same": T0, "no": None, "later": T0 + MINUTE_MS, "earlier": T0 - MINUTE_MS}


# --- Where a run may be when it is offered again; it was offered for T0 with the state id s1


def offer(fleet: Fleet, **fields: Any) -> None:
    fleet.submit("a", **{"due_ms": T0, "state_id": "s1", "idempotency": "digest"} | fields)


def waiting(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    offer(fleet, deployment="dep")
    fleet.dispatch()


def in_stream(fleet: Fleet) -> None:
    offer(fleet)
    fleet.dispatch()


def claim(fleet: Fleet) -> Claim:
    in_stream(fleet)
    return fleet.claim_one(fleet.register())


def running(fleet: Fleet) -> None:
    fleet.start(claim(fleet))


def cancelling(fleet: Fleet) -> None:
    claim(fleet)
    fleet.cancel("a")


def dead_letter(fleet: Fleet) -> None:
    fleet.set_queue(max_deliveries=1)
    running(fleet)
    fleet.lose("w.1")


def ended(state: str) -> Callable[[Fleet], None]:
    def end(fleet: Fleet) -> None:
        fleet.finish(claim(fleet), state)

    return end


UNCLAIMED = {"scheduled": offer, "waiting": waiting, "in its stream": in_stream}
CLAIMED = {"claimed": claim, "running": running, "cancelling": cancelling}
ENDED = {state.lower(): ended(state) for state in OUTCOMES} | {"dead letter": dead_letter}
PLACES: dict[str, Callable[[Fleet], Any]] = {**UNCLAIMED, **CLAIMED, **ENDED}

# --- The rows: stored, state id, time

Row = list[tuple[str, str, str]]
UNCHANGED: Row = list(product(PLACES, STATE_IDS, ["same", "no"]))
RETIMED: Row = list(product(UNCLAIMED, STATE_IDS, ["later", "earlier"]))
TAKEN: Row = list(product(CLAIMED, STATE_IDS, ["later", "earlier"]))
NEW_ROUND: Row = list(product(ENDED, ["other"], ["later"]))
OVER: Row = [
    *product(ENDED, ["same", "no"], ["later", "earlier"]),
    *product(ENDED, ["other"], ["earlier"]),
]
ROWS = [UNCHANGED, RETIMED, TAKEN, NEW_ROUND, OVER]


def rows(row: Row) -> Any:
    ids = [f"{stored}, {state_id} state_id, {time} time" for stored, state_id, time in row]
    return pytest.mark.parametrize(("stored", "state_id", "time"), row, ids=ids)


PLACED = pytest.mark.parametrize("stored", PLACES)


def test_every_offer_of_a_known_run_is_in_one_row():
    assert sorted(chain(*ROWS)) == sorted(product(PLACES, STATE_IDS, TIMES))


def offer_again(fleet: Fleet, state_id: str, time: str) -> list[Receipt]:
    """Offer "a" once more, with other bytes, two seconds later."""
    fleet.advance(2000)
    fields = {"state_id": STATE_IDS[state_id], "due_ms": TIMES[time], "idempotency": "digest"}
    return fleet.submit("a", request="other", payload=b"other", **fields)


@rows(UNCHANGED)
def test_an_offer_without_another_time_is_a_duplicate(fleet, stored, state_id, time):
    PLACES[stored](fleet)
    before = fleet.dump()

    answers = offer_again(fleet, state_id, time)

    state = before["run:a"]["state_type"]
    assert answers == [Receipt("a", Word.DUPLICATE, POOL, "default", state=state)]
    assert fleet.dump() == before


@rows(RETIMED)
def test_a_run_that_nobody_has_claimed_is_retimed_by_an_offer_for_another_time(
    fleet, stored, state_id, time
):
    PLACES[stored](fleet)
    before, due_ms = fleet.dump(), TIMES[time]

    answers = offer_again(fleet, state_id, time)

    assert answers == [Receipt("a", Word.RETIMED, POOL, "default", due_ms)]
    after, member = fleet.dump(), before["run:a"]["member"]
    kept = ("place", "state_name", "due_ms", "offered_ms", "state_id", "payload", "member")
    expected = ["scheduled", "Scheduled", str(due_ms), str(due_ms), STATE_IDS[state_id]]
    assert [after["run:a"][name] for name in kept] == [*expected, "other", member]
    assert after["scheduled:default"] == {member: due_ms}
    assert [n for n in after if n.startswith(("waiting:", "slots:")) or n == "waits"] == []
    assert after.get("stream:default", {"entries": {}})["entries"] == {}
    (event,) = changed(before, after)["events"]
    assert (event["event"], event["from"], event["to"]) == ("retimed", "SCHEDULED", "SCHEDULED")


@rows(TAKEN)
def test_a_claimed_run_offered_for_another_time_is_refused(fleet, stored, state_id, time):
    PLACES[stored](fleet)
    before = fleet.dump()

    with pytest.raises(Refused, match=r"run a is [A-Z]+: its time cannot be changed any more"):
        offer_again(fleet, state_id, time)

    reason = "offered for another time while a worker has it"
    assert changed(before, fleet.dump()) == refused("a", reason, at_ms=T0 + 2000)


@rows(NEW_ROUND)
def test_an_ended_run_offered_as_a_new_scheduling_begins_a_new_round(fleet, stored, state_id, time):
    PLACES[stored](fleet)

    answers = offer_again(fleet, state_id, time)

    assert answers == [Receipt("a", Word.ACCEPTED, POOL, "default", T0 + MINUTE_MS)]
    dump, now_ms = fleet.dump(), fleet.store.now_ms
    record = {n: v for n, v in dump["run:a"].items() if not n.startswith(("answer", "delivery."))}
    assert record == {
        "payload": "other",
        "place": "scheduled",
        "state_type": "SCHEDULED",
        "state_name": "Scheduled",
        "queue": "default",
        "due_ms": str(T0 + MINUTE_MS),
        "offered_ms": str(T0 + MINUTE_MS),
        "member": "0000000000000002a",
        "name": "name-of-a",
        "deployment": "",
        "request": "other",
        "submitted_ms": str(now_ms),
        "run_count": "0",
        "delivery": "1",
        "state_id": "s2",
        "idempotency": "digest",
        "retries": "0",
        "retry_delay_ms": "0",
        "retry_type": "reschedule",
    }
    assert dump["scheduled:default"] == {"0000000000000002a": T0 + MINUTE_MS}
    assert dump["unstarted"] == {"a": T0 + MINUTE_MS}
    assert ("finished" in dump, "dead" in dump, dump["expiring"]) == (False, False, [])


@rows(OVER)
def test_an_ended_run_offered_otherwise_for_another_time_is_refused(fleet, stored, state_id, time):
    PLACES[stored](fleet)
    before = fleet.dump()

    with pytest.raises(Refused, match=r"run a has ended already: [A-Z]+; another round takes"):
        offer_again(fleet, state_id, time)

    at_ms = fleet.store.now_ms
    difference = changed(before, fleet.dump())
    assert difference == refused("a", "offered again after its end", at_ms=at_ms)


# --- The same request


@PLACED
def test_the_same_request_again_is_answered_as_before(fleet, stored):
    PLACES[stored](fleet)
    before = fleet.dump()
    fleet.advance(2000)

    answers = fleet.submit("a", due_ms=T0 + MINUTE_MS, state_id="s2")

    assert answers == [Receipt("a", Word.ACCEPTED, POOL, "default", T0)]
    assert fleet.dump() == before


def retry(fleet: Fleet) -> None:
    fleet.dispatch()
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")
    assert fleet.run("a")["due_ms"] == str(T0 + 1000)


def retime(fleet: Fleet) -> None:
    fleet.retime("a", T0 + 1000)


@pytest.mark.parametrize("since", [retry, retime])
def test_the_same_request_again_is_told_the_time_that_it_was_told_first(fleet, since):
    first = fleet.submit("a", retries=1, retry_delay_ms=1000)
    since(fleet)
    assert fleet.submit("a") == first


def test_the_request_that_retimed_is_answered_as_before(fleet):
    fleet.submit("a")
    first = fleet.submit("a", request="other", due_ms=T0 + MINUTE_MS)
    before = fleet.dump()

    assert fleet.submit("a", request="other", due_ms=T0 + MINUTE_MS) == first
    assert first[0].word is Word.RETIMED
    assert fleet.dump() == before


# --- An idempotency key that another run has


@PLACED
def test_an_offer_under_a_known_key_gets_the_first_runs_id(fleet, stored):
    PLACES[stored](fleet)
    before = fleet.dump()
    fleet.advance(2000)

    answers = fleet.submit("b", idempotency="digest", due_ms=T0 + MINUTE_MS, state_id="s2")

    state = before["run:a"]["state_type"]
    assert answers == [Receipt("a", Word.DUPLICATE, POOL, "default", state=state)]
    assert fleet.dump() == before


def test_a_known_run_offered_under_the_key_of_another_gets_the_others_id(fleet):
    offer(fleet)
    fleet.submit("b", idempotency="of b")
    before = fleet.dump()

    answers = fleet.submit("b", request="other", idempotency="digest", due_ms=T0 + 1)

    assert answers == [Receipt("a", Word.DUPLICATE, POOL, "default", state="SCHEDULED")]
    assert fleet.dump() == before


@pytest.mark.parametrize("run_id", ["a", "b"])
def test_a_run_whose_record_is_gone_is_known_by_its_key(fleet, run_id):
    ended("COMPLETED")(fleet)
    fleet.client.delete(fleet.keys["run"] + "a")
    before = fleet.dump()

    answers = fleet.submit(run_id, request="other", idempotency="digest")

    assert answers == [Receipt("a", Word.DUPLICATE, POOL, "default", state="")]
    assert fleet.dump() == before


@pytest.mark.parametrize("fields", [{}, {"idempotency": "digest"}])
def test_a_run_is_new_when_its_record_and_its_key_are_gone(fleet, fields):
    ended("COMPLETED")(fleet)
    fleet.client.delete(fleet.keys["run"] + "a", fleet.keys["idempotency"] + "digest")

    answers = fleet.submit("a", request="other", **fields)

    assert answers == [Receipt("a", Word.ACCEPTED, POOL, "default", T0)]
    assert fleet.dispatch().moved == [Moved("a", "default", T0)]


# --- What moves with a retimed run


def test_a_retimed_run_may_go_to_another_queue(fleet):
    fleet.create_queue("other")
    in_stream(fleet)

    (answer,) = fleet.submit("a", request="other", queue="other", due_ms=T0 - 1)

    assert (answer.word, answer.queue) == (Word.RETIMED, "other")
    assert fleet.dispatch().moved == [Moved("a", "other", T0 - 1)]
    assert fleet.claim_one(fleet.register()).queue == "other"
    assert fleet.dump()["stream:default"]["entries"] == {}


def test_a_retimed_entry_gives_the_slot_of_its_deployment_to_the_next_run(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")

    fleet.submit("a", request="other", deployment="another", due_ms=T0 + MINUTE_MS)

    assert fleet.dispatch().moved == [Moved("b", "default", T0)]


@pytest.mark.parametrize("size", [1, 1000])
def test_a_retimed_entry_leaves_the_bytes_of_the_others(fleet, size):
    fleet.put("a", payload=b"a" * 100)
    fleet.put("b", payload=b"b" * 50)

    fleet.submit("a", request="other", payload=b"a" * size, due_ms=T0 + MINUTE_MS)

    assert fleet.dump()["queue:default"]["unclaimed_bytes"] == "50"
