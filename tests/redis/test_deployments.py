"""Limits of deployments: a run whose deployment is full waits apart until there is room."""

from collections.abc import Callable

import pytest

from dispatcher.records import Dispatched, Word
from tests.builders import T0, Fleet, changed, moved, shown

LATE_MS = 15_000


@pytest.fixture
def full(fleet: Fleet) -> Fleet:
    """A deployment "dep" with one slot, held by "a", which w.1 has claimed; "b" waits for it."""
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")
    fleet.claim_one(fleet.register())
    fleet.client.delete(fleet.keys["wake"] + "default")
    return fleet


def end(fleet: Fleet, run_id: str = "a") -> None:
    """Let a claimed run end."""
    claim = next(c for c in fleet.claim("w.1", number=fleet.numbers["w.1"]) if c.run_id == run_id)
    fleet.finish(claim)


def places(fleet: Fleet, run_ids: str) -> dict[str, str]:
    return {run_id: fleet.run(run_id)["place"] for run_id in run_ids}


# --- Waiting


def test_a_run_whose_deployment_is_full_waits_apart(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", deployment="dep")
    fleet.submit("b", deployment="dep", due_ms=T0 - 5)
    member = fleet.run("b")["member"]
    before = fleet.dump()

    answer = fleet.dispatch()

    late_at_ms = T0 - 5 + LATE_MS
    assert answer == Dispatched(
        T0 * 1000, next_due_ms={"default": None}, waiting=[("b", "default")], late_at_ms=late_at_ms
    )
    assert changed(before, fleet.dump()) == {
        "scheduled:default": None,
        "waiting:dep:default": {member: T0 - 5},
        "waits": {"dep default": 0},
        "unstarted": {"b": None},
        "run:b": {"place": "waiting", "state_name": "AwaitingConcurrencySlot", "waited": "1"},
        "events": [shown("waiting", run="b", queue="default", deployment="dep")],
    }


def test_a_dispatched_run_holds_a_slot_of_its_deployment_from_then_on(fleet):
    fleet.set_deployment("dep", 2)
    fleet.submit("a", "b", "c", deployment="dep")
    before = fleet.dump()
    fleet.dispatch()
    assert changed(before, fleet.dump())["slots:deployment:dep"] == {"a": T0, "b": T0}


def test_slots_are_kept_without_a_limit_so_that_one_can_be_set(fleet):
    fleet.put("a", "b", deployment="dep")
    fleet.set_deployment("dep", 2)
    fleet.put("c", deployment="dep")
    assert places(fleet, "abc") == {"a": "stream", "b": "stream", "c": "waiting"}


def test_a_limit_counts_over_all_queues_of_the_pool(fleet):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 1)
    fleet.submit("b", queue="low", deployment="dep")
    fleet.submit("a", deployment="dep")
    assert moved(fleet.dispatch("low", "default")) == ["a"]


def test_runs_of_other_deployments_and_of_none_go_on(fleet):
    fleet.set_deployment("dep", 0)
    fleet.submit("a", deployment="dep")
    fleet.submit("b", deployment="another")
    fleet.submit("c")
    assert moved(fleet.dispatch()) == ["b", "c"]


def test_a_waiting_run_is_not_due_any_more(full):
    before = full.dump()
    answer = full.dispatch()
    assert (answer.next_due_ms, answer.more) == ({"default": None}, [])
    assert full.dump() == before


# --- A free slot


def test_the_end_of_a_run_is_told_to_the_first_queue_in_which_runs_wait(full, listener):
    full.create_queue("low")
    full.put("c", queue="low", deployment="dep")
    listener.heard()
    before = full.dump()

    end(full)

    assert listener.heard() == ["default 0"]
    since = changed(before, full.dump())
    assert since["freed:default"] == ["dep"]
    assert "freed:low" not in since
    assert since["slots:deployment:dep"] is None


def test_a_paused_queue_keeps_the_word_of_a_free_slot_and_the_next_one_gets_it_too(full, listener):
    full.create_queue("low")
    full.put("c", queue="low", deployment="dep")
    full.pause("default")
    listener.heard()
    before = full.dump()

    end(full)

    assert listener.heard() == ["low 0"]
    since = changed(before, full.dump())
    assert (since["freed:default"], since["freed:low"]) == (["dep"], ["dep"])


def test_a_freed_slot_lets_the_next_one_in_at_its_old_place(full):
    end(full)
    full.advance(9)
    before = full.dump()

    assert moved(full.dispatch()) == ["b"]
    since = changed(before, full.dump())
    entry = full.run("b")["entry"]
    at_ms = str(T0 + 9)
    assert since.pop("stream:default")["entries"].keys() == {entry}
    assert since == {
        "waiting:dep:default": None,
        "waits": None,
        "freed:default": None,
        "slots:deployment:dep": {"b": T0 + 9},
        "unstarted": {"b": T0 + 9},
        "ready": {"default": 1},
        "wake:default": ["1"],
        "queue:default": {"unclaimed_bytes": "12"},
        "run:b": {
            "place": "stream",
            "state_name": "Scheduled",
            "entry": entry,
            "dispatched_ms": at_ms,
        },
        "events": [
            shown("admitted", at_ms=at_ms, run="b", queue="default", deployment="dep"),
            shown("dispatched", at_ms=at_ms, run="b", queue="default", due_ms=str(T0)),
        ],
    }


def finish(fleet: Fleet) -> None:
    end(fleet)


def retry(fleet: Fleet) -> None:
    (claim,) = fleet.claim("w.1", number=1)
    fleet.start(claim)
    assert fleet.finish(claim, "FAILED") is Word.RESCHEDULED


def cancel(fleet: Fleet) -> None:
    (claim,) = fleet.claim("w.1", number=1)
    fleet.cancel("a")
    fleet.finish(claim)


def bury(fleet: Fleet) -> None:
    fleet.set_queue(max_deliveries=1)
    fleet.start(fleet.claim("w.1", number=1)[0])
    fleet.lose("w.1")


def raise_limit(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 2)


def remove_limit(fleet: Fleet) -> None:
    fleet.set_deployment("dep", None)


FREE = [finish, retry, cancel, bury, raise_limit, remove_limit]


@pytest.mark.parametrize("free", FREE)
def test_whatever_makes_room_lets_the_next_one_in(fleet, listener, free: Callable[[Fleet], None]):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 1)
    fleet.put("a", deployment="dep", retries=1, retry_delay_ms=60_000)
    fleet.claim_one(fleet.register())
    fleet.put("b", queue="low", deployment="dep")
    listener.heard()

    free(fleet)

    assert "low 0" in listener.heard()
    assert moved(fleet.dispatch("low")) == ["b"]


def cancel_entry(fleet: Fleet) -> None:
    fleet.cancel("a")


def retime_entry(fleet: Fleet) -> None:
    fleet.retime("a", T0 + 60_000)


def withdraw_entry(fleet: Fleet) -> None:
    fleet.pause("default")
    fleet.withdraw()


def drop_late_entry(fleet: Fleet) -> None:
    fleet.set_queue(late_drop_ms=1000)
    fleet.advance(1001)
    assert fleet.claim(fleet.register()) == []


@pytest.mark.parametrize("free", [cancel_entry, retime_entry, withdraw_entry, drop_late_entry])
def test_whatever_takes_an_entry_back_lets_the_next_one_in(fleet, free: Callable[[Fleet], None]):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 1)
    fleet.put("a", deployment="dep")
    fleet.put("b", queue="low", deployment="dep")

    free(fleet)

    assert fleet.members("deployment_slots", "dep") == []
    assert moved(fleet.dispatch("low")) == ["b"]


@pytest.mark.parametrize(
    "back", [Fleet.release, Fleet.take_away, lambda fleet, _: fleet.lose("w.1")]
)
def test_a_run_that_comes_back_goes_before_those_that_wait(full, back):
    back(full, full.claim("w.1", number=1)[0])

    answer = full.dispatch()

    assert (moved(answer), answer.waiting) == (["a"], [("b", "default")])
    assert full.members("deployment_slots", "dep") == ["a"]


def test_a_slot_is_held_through_the_retries_of_a_claim(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep", retries=1, retry_type="in_process")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    assert fleet.finish(claim, "FAILED", run_count=1) is Word.RETRYING
    assert moved(fleet.dispatch()) == []


def test_a_slot_is_held_while_a_run_is_being_cancelled(full):
    full.cancel("a")
    assert moved(full.dispatch()) == []


def test_a_mark_is_told_of_once(fleet, listener):
    fleet.set_deployment("dep", 2)
    fleet.put(*"abcd", deployment="dep")
    claims = fleet.claim(fleet.register())
    listener.heard()
    for claim in claims:
        fleet.finish(claim)
    assert listener.heard() == ["default 0"]
    assert moved(fleet.dispatch()) == ["c", "d"]


def test_a_slot_that_nobody_waits_for_is_no_news(fleet, listener):
    fleet.set_deployment("dep", 1)
    fleet.put("a", deployment="dep")
    claim = fleet.claim_one(fleet.register())
    listener.heard()
    fleet.finish(claim)
    assert listener.heard() == []


# --- Setting a limit


def test_setting_a_limit_is_on_record(fleet):
    before = fleet.dump()
    fleet.store.set_deployment("pool", "dep", 2, strategy="CANCEL_NEW", by="ops")
    assert changed(before, fleet.dump()) == {
        "deployments": ["dep"],
        "deployment:dep": {"limit": "2", "collision_strategy": "CANCEL_NEW"},
        "events": [
            shown("deployment-set", deployment="dep", limit="2", by="ops", reason="CANCEL_NEW")
        ],
    }


def test_taking_a_limit_away_leaves_an_event_alone(fleet):
    before = fleet.dump()
    fleet.set_deployment("dep", 2)
    fleet.store.set_deployment("pool", "dep", None, by="ops")
    since = changed(before, fleet.dump())
    assert list(since) == ["events"]
    assert since["events"][-1] == shown(
        "deployment-set", deployment="dep", by="ops", reason="no limit"
    )


@pytest.mark.parametrize(("limit", "let_in"), [(1, "a"), (3, "abc"), (9, "abcde"), (None, "abcde")])
def test_as_many_come_in_as_fit_when_a_limit_is_raised_or_removed(fleet, limit, let_in):
    fleet.set_deployment("dep", 0)
    fleet.put(*"abcde", deployment="dep")

    fleet.set_deployment("dep", limit)

    assert moved(fleet.dispatch()) == list(let_in)
    assert fleet.members("deployment_slots", "dep") == list(let_in)


def test_a_limit_below_what_runs_stops_new_runs_only(fleet):
    fleet.set_deployment("dep", 3)
    fleet.put(*"abcde", deployment="dep")
    claims = fleet.claim(fleet.register())
    assert len(claims) == 3

    fleet.set_deployment("dep", 1)

    let_in = []
    for claim in claims:
        assert fleet.finish(claim) is Word.FINISHED
        let_in.append(moved(fleet.dispatch()))
    assert let_in == [[], [], ["d"]]
