"""The atomic steps `pause` and `resume`: hand-out stops at once, or intake does."""

import pytest

from dispatcher.errors import NotFound, Refused
from dispatcher.inspector import Inspector
from dispatcher.records import Moved, Receipt, Word
from dispatcher.stored import Pause
from tests.builders import POOL, T0, Fleet, Listener, changed
from tests.servers import AOF

YEAR_9999_MS = 253_402_300_799_000
TARGETS = pytest.mark.parametrize("target", [None, "default"], ids=["pool", "queue"])
FIELDS = {"until_ms": T0 + 9, "reason": "disk is full", "by": "ana"}


def settings_of(target: str | None) -> str:
    """The key whose hash says that the pool or the queue is paused."""
    return "pool" if target is None else f"queue:{target}"


def event(name: str, target: str | None, at_ms: int = T0, **fields: str) -> dict[str, str]:
    queue = {} if target is None else {"queue": target}
    return {"event": name, "at_ms": str(at_ms)} | queue | fields


# --- What is stored


@TARGETS
@pytest.mark.parametrize(
    ("kind", "name"), [("paused", "paused"), ("intake_paused", "intake-paused")]
)
def test_a_pause_is_kept_with_its_reason_its_end_and_who_did_it(fleet, target, kind, name):
    before = fleet.dump()

    fleet.pause(target, intake=kind == "intake_paused", **FIELDS)

    told = {"until_ms": str(T0 + 9), "reason": "disk is full", "by": "ana"}
    assert changed(before, fleet.dump()) == {
        settings_of(target): {kind: "1", f"{kind}_ms": str(T0)}
        | {f"{kind}_{field}": value for field, value in told.items()},
        "events": [event(name, target, **told)],
    }


@TARGETS
@pytest.mark.parametrize("intake", [False, True])
def test_a_resume_leaves_nothing_of_the_pause_but_events(fleet, target, intake):
    before = fleet.dump()
    fleet.pause(target, intake=intake, **FIELDS)

    assert fleet.resume(target, intake=intake, by="bo")

    (_, resumed) = changed(before, fleet.dump())["events"]
    assert list(changed(before, fleet.dump())) == ["events"]
    assert resumed == event("intake-resumed" if intake else "resumed", target, by="bo")


@TARGETS
def test_the_same_pause_again_changes_nothing(fleet, target):
    fleet.pause(target, **FIELDS)
    before = fleet.dump()
    fleet.advance(3)

    fleet.pause(target, **FIELDS)

    assert fleet.dump() == before


@TARGETS
def test_another_pause_takes_the_place_of_the_first(fleet, target):
    fleet.pause(target, **FIELDS)
    fleet.advance(3)

    fleet.pause(target, reason="maintenance", by="bo")

    told = {name: v for name, v in fleet.dump()[settings_of(target)].items() if "paused" in name}
    assert told == {
        "paused": "1",
        "paused_ms": str(T0 + 3),
        "paused_reason": "maintenance",
        "paused_by": "bo",
    }


@TARGETS
@pytest.mark.parametrize("intake", [False, True])
def test_a_resume_of_what_is_not_paused_changes_nothing(fleet, target, intake):
    fleet.pause(target, intake=not intake)
    before = fleet.dump()

    assert not fleet.resume(target, intake=intake)
    assert fleet.dump() == before


@pytest.mark.parametrize("step", ["pause", "resume"])
def test_a_queue_that_does_not_exist_is_neither_paused_nor_resumed(fleet, step):
    before = fleet.dump()
    with pytest.raises(NotFound, match=f"queue 'nowhere' does not exist in pool '{POOL}'"):
        getattr(fleet, step)("nowhere")
    assert fleet.dump() == before


@pytest.mark.parametrize("step", ["pause", "resume"])
def test_a_pool_that_does_not_exist_is_neither_paused_nor_resumed(fleet, step):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        getattr(fleet.store, step)("nowhere")
    assert list(fleet.client.scan_iter(f"{fleet.store.prefix}:*nowhere*")) == []


def test_readers_see_a_pause_with_its_reason_its_end_and_who_did_it(fleet):
    fleet.pause(until_ms=YEAR_9999_MS, reason="disk is full", by="ana")
    fleet.pause("default", intake=True)
    inspector = Inspector(fleet.store.connection, fleet.store.prefix)

    pool, queue = inspector.pool(POOL), inspector.queue(POOL, "default")

    assert pool.paused == Pause(T0, "ana", "disk is full", YEAR_9999_MS)
    assert queue.intake_paused == Pause(T0)
    assert (pool.intake_paused, queue.paused) == (None, None)


def test_a_pause_is_there_after_the_server_restarted(own_server):
    server = own_server(config=AOF)
    with server.client() as client:
        fleet = Fleet(client, "t")
        fleet.put("a")
        fleet.pause("default", reason="disk is full")
        before = fleet.dump()
        server.restart()

        assert fleet.claim(fleet.register()) == []
        assert fleet.dump()["queue:default"] == before["queue:default"]


# --- Hand-out


@TARGETS
def test_what_is_in_a_stream_is_not_claimed_from_the_moment_of_the_pause(fleet, target):
    fleet.put("a")
    holder = fleet.register()
    fleet.pause(target)
    before = fleet.dump()

    answer = fleet.answer(holder)

    assert (answer.word, answer.claims, answer.more) == (Word.CLAIMED, [], False)
    assert changed(before, fleet.dump()) == {"holder:w.1": {"claim_number": "1", "claim_runs": ""}}


@TARGETS
def test_what_is_due_is_not_dispatched_from_the_moment_of_the_pause(fleet, target):
    fleet.submit("a")
    fleet.pause(target)
    before = fleet.dump()

    answer = fleet.dispatch()

    assert (answer.moved, answer.more, answer.next_due_ms) == ([], [], {"default": None})
    assert fleet.dump() == before


def test_a_paused_queue_stops_no_other_queue(fleet):
    fleet.create_queue("other")
    fleet.put("a")
    fleet.pause("default")

    fleet.put("b", queue="other")

    assert [claim.run_id for claim in fleet.claim(fleet.register())] == ["b"]


def test_a_resumed_pool_leaves_its_queue_paused(fleet):
    fleet.put("a")
    fleet.pause()
    fleet.pause("default")

    fleet.resume()

    assert fleet.claim(fleet.register()) == []


@TARGETS
def test_what_was_claimed_before_the_pause_runs_to_its_end(fleet, target):
    fleet.put("a")
    holder = fleet.register()
    claim = fleet.claim_one(holder)
    fleet.pause(target)
    fleet.withdraw()

    assert fleet.start(claim) is Word.STARTED
    assert fleet.renew(holder, held=1) is Word.RENEWED
    assert fleet.finish(claim) is Word.FINISHED


@TARGETS
def test_what_comes_back_during_a_pause_stays_scheduled(fleet, target):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.pause(target)

    fleet.release(claim)

    assert fleet.dispatch().moved == []
    assert fleet.run("a")["place"] == "scheduled"


@TARGETS
def test_dispatchers_hear_of_a_pause_and_of_its_end(fleet, listener: Listener, target):
    fleet.pause(target)
    fleet.resume(target)
    assert listener.heard() == [f"{target or ''} 0"] * 2


@TARGETS
def test_a_pause_of_intake_is_no_news_for_dispatchers(fleet, listener: Listener, target):
    fleet.pause(target, intake=True)
    fleet.resume(target, intake=True)
    assert listener.heard() == []


# --- A pause with an end


@TARGETS
def test_dispatch_is_to_look_again_at_the_end_of_a_pause(fleet, target):
    fleet.submit("a")
    fleet.pause(target, until_ms=T0 + 9)
    fleet.advance(8)

    answer = fleet.dispatch()

    assert (answer.moved, answer.next_due_ms) == ([], {"default": T0 + 9})


def test_dispatch_is_to_look_again_when_the_last_of_two_pauses_ends(fleet):
    fleet.pause(until_ms=T0 + 5)
    fleet.pause("default", until_ms=T0 + 9)
    assert fleet.dispatch().next_due_ms == {"default": T0 + 9}
    fleet.pause()
    assert fleet.dispatch().next_due_ms == {"default": None}


@TARGETS
@pytest.mark.parametrize(("intake", "name"), [(False, "resumed"), (True, "intake-resumed")])
def test_dispatch_ends_a_pause_whose_end_has_come_and_says_so(fleet, target, intake, name):
    before = fleet.dump()
    fleet.pause(target, intake=intake, **FIELDS)
    fleet.advance(9)

    fleet.dispatch()

    difference = changed(before, fleet.dump())
    reason = "the end of the pause has come"
    assert difference.pop("events")[1:] == [event(name, target, T0 + 9, reason=reason)]
    assert difference == {}


@TARGETS
def test_what_is_due_is_dispatched_at_the_end_of_a_pause(fleet, target):
    fleet.submit("a")
    fleet.pause(target, until_ms=T0 + 9)
    fleet.advance(9)
    assert fleet.dispatch().moved == [Moved("a", "default", T0)]


def test_a_claim_hands_out_at_the_end_of_a_pools_pause_before_any_dispatch(fleet):
    fleet.put("a")
    holder = fleet.register()
    fleet.pause(until_ms=T0 + 9)
    fleet.advance(8)
    early = fleet.claim(holder)
    fleet.advance(1)

    assert early == []
    assert fleet.claim_one(holder).run_id == "a"


@TARGETS
def test_a_submit_is_accepted_at_the_end_of_a_pause_before_any_dispatch(fleet, target):
    fleet.pause(target, intake=True, until_ms=T0 + 9)
    fleet.advance(8)
    with pytest.raises(Refused):
        fleet.submit("a")
    fleet.advance(1)

    assert [receipt.word for receipt in fleet.submit("a")] == [Word.ACCEPTED]


# --- Intake


@TARGETS
def test_a_submit_is_refused_with_the_reason_of_the_pause(fleet, target):
    fleet.pause(target, intake=True, reason="disk is full")
    before = fleet.dump()

    with pytest.raises(Refused) as refusal:
        fleet.submit("a")

    assert str(refusal.value) == f"run a: intake of {POOL}/default is paused: disk is full"
    told = {"run": "a", "reason": "intake is paused: disk is full"}
    assert changed(before, fleet.dump()) == {"events": [event("refused", "default", **told)]}


@TARGETS
@pytest.mark.parametrize("known", ["scheduled", "ended"])
def test_a_known_run_gets_no_other_time_while_intake_is_paused(fleet, target, known):
    fleet.put("a", state_id="1")
    if known == "ended":
        fleet.finish(fleet.claim_one(fleet.register()))
    fleet.pause(target, intake=True)
    before = fleet.dump()

    with pytest.raises(Refused, match=f"run a: intake of {POOL}/default is paused"):
        fleet.submit("a", request="other", state_id="2", due_ms=T0 + 5)

    assert list(changed(before, fleet.dump())) == ["events"]


@TARGETS
def test_a_repeated_offer_is_answered_while_intake_is_paused(fleet, target):
    accepted = fleet.submit("a")
    fleet.pause(target, intake=True)
    before = fleet.dump()

    assert fleet.submit("a") == accepted
    assert fleet.submit("a", request="other") == [
        Receipt("a", Word.DUPLICATE, POOL, "default", state="SCHEDULED")
    ]
    assert fleet.dump() == before


@TARGETS
def test_what_was_accepted_is_handed_out_while_intake_is_paused(fleet, target):
    fleet.submit("a")
    fleet.pause(target, intake=True)
    fleet.dispatch()
    assert fleet.claim_one(fleet.register()).run_id == "a"


def test_a_queue_whose_intake_is_paused_stops_no_other_queue(fleet):
    fleet.create_queue("other")
    fleet.pause("default", intake=True)
    assert [receipt.word for receipt in fleet.submit("a", queue="other")] == [Word.ACCEPTED]
