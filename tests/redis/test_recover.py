"""The atomic step `recover`: what a dead holder had goes on, in bounded steps."""

import pytest

from dispatcher.records import Recovered, Word
from tests.builders import POOL, T0, Fleet, changed

LEASE_MS = 15_000


@pytest.fixture
def holder(fleet: Fleet) -> str:
    return fleet.register()


def pending(fleet: Fleet, queue: str = "default") -> dict[str, str]:
    return fleet.dump()[f"stream:{queue}"]["groups"]["workers"]["pending"]


def test_a_recovered_holder_is_forgotten_and_its_runs_are_scheduled(fleet, holder):
    fleet.put("a")
    fleet.claim_one(holder)
    before = fleet.dump()
    fleet.advance(LEASE_MS)

    assert fleet.store.recover(POOL, holder) == Recovered(Word.RECOVERED, requeued=["a"])

    entry, at_ms = before["run:a"]["entry"], str(T0 + LEASE_MS)
    assert changed(before, fleet.dump()) == {
        "scheduled:default": {before["run:a"]["member"]: T0},
        "stream:default": {
            "entries": {entry: None},
            "groups": {"workers": {"consumers": [], "pending": {entry: None}}},
        },
        "claims:w.1": None,
        "slots:pool": None,
        "slots:queue:default": None,
        "holder:w.1": None,
        "holders": None,
        "workers": None,
        "run:a": {
            "place": "scheduled",
            "state_type": "SCHEDULED",
            "state_name": "Scheduled",
            "unstarted": "1",
            "delivery.1.ended_ms": at_ms,
            "delivery.1.outcome": "lost",
            "entry": None,
            "token": None,
            "holder": None,
            "claim": None,
        },
        "events": [
            {"event": "worker-lost", "at_ms": at_ms, "worker": holder},
            {
                "event": "lost",
                "at_ms": at_ms,
                "run": "a",
                "queue": "default",
                "from": "PENDING",
                "to": "SCHEDULED",
                "worker": holder,
                "reason": "before start",
            },
            {"event": "recovered", "at_ms": at_ms, "worker": holder},
        ],
    }


def test_a_holder_is_alive_up_to_the_millisecond_before_its_lease_ends(fleet, holder):
    fleet.put("a")
    fleet.claim_one(holder)
    before = fleet.dump()
    fleet.advance(LEASE_MS - 1)

    assert fleet.store.recover(POOL, holder) == Recovered(Word.ALIVE)
    assert fleet.dump() == before


def test_a_holder_that_renewed_in_time_is_alive(fleet, holder):
    fleet.advance(LEASE_MS)
    fleet.renew(holder, held=0)
    assert fleet.store.recover(POOL, holder).word is Word.ALIVE


def test_a_holder_that_nobody_knows_is_unknown_and_nothing_changes(fleet):
    before = fleet.dump()
    assert fleet.store.recover(POOL, "nobody.1") == Recovered(Word.UNKNOWN)
    assert fleet.dump() == before


def test_a_holder_without_a_record_leaves_the_list_of_leases(fleet):
    before = fleet.dump()
    fleet.client.zadd(fleet.keys["holders"], {"ghost.1": T0})
    assert fleet.store.recover(POOL, "ghost.1").word is Word.UNKNOWN
    assert fleet.dump() == before


def test_recovering_again_finds_nobody_and_changes_nothing(fleet, holder):
    fleet.put("a")
    fleet.claim_one(holder)
    fleet.lose(holder)
    before = fleet.dump()
    assert fleet.store.recover(POOL, holder) == Recovered(Word.UNKNOWN)
    assert fleet.dump() == before


def test_the_keys_of_a_recovered_holder_are_gone(fleet, holder):
    fleet.put("a", "b")
    first, _ = fleet.claim(holder)
    fleet.release(first, nudge=True)
    fleet.lose(holder)
    assert [name for name in fleet.dump() if holder in name] == []


def test_a_run_goes_back_to_its_old_place_number(fleet, holder):
    fleet.put("a", "b")
    member = fleet.run("a")["member"]
    fleet.claim_one(holder)
    fleet.submit("c")

    fleet.lose(holder)

    assert fleet.run("a")["member"] == member
    assert [run.run_id for run in fleet.dispatch().moved] == ["a", "c"]


def test_what_the_holder_finished_or_released_is_left_alone(fleet, holder):
    fleet.put("a", "b", "c")
    a, b, _ = fleet.claim(holder)
    fleet.finish(a)
    fleet.release(b)
    fleet.dispatch()
    before = fleet.dump()

    fleet.advance(LEASE_MS)

    assert fleet.store.recover(POOL, holder).requeued == ["c"]
    difference = changed(before, fleet.dump())
    assert [name for name in difference if name.startswith("run:")] == ["run:c"]


def test_other_holders_keep_what_they_have(fleet, holder):
    other = fleet.register("other")
    fleet.put("a", "b")
    fleet.claim_one(holder)
    kept = fleet.claim_one(other)
    fleet.advance(LEASE_MS)
    fleet.renew(other, held=1)

    assert fleet.store.recover_all(POOL, holder).requeued == ["a"]
    assert fleet.finish(kept) is Word.FINISHED


def test_dispatchers_hear_of_the_runs_that_came_back(fleet, holder, listener):
    fleet.put("a")
    fleet.claim_one(holder)
    listener.heard()
    fleet.lose(holder)
    assert listener.heard() == [f"default {T0}"]


# --- Bounded steps


def test_many_claims_are_taken_back_in_steps_of_the_limit(fleet, holder):
    runs = [f"r{number:03}" for number in range(250)]
    fleet.submit(*runs)
    fleet.dispatch(limit=250)
    fleet.claim(holder, slots=250)
    fleet.advance(LEASE_MS)

    steps = [fleet.store.recover(POOL, holder, limit=100) for _ in range(4)]

    assert [step.word for step in steps] == ["more", "more", "recovered", "unknown"]
    assert [len(step.requeued) for step in steps] == [100, 100, 50, 0]
    assert sorted(run for step in steps for run in step.requeued) == runs
    assert len(fleet.dump()["scheduled:default"]) == 250
    assert fleet.dump()["stream:default"] == {
        "entries": {},
        "groups": {"workers": {"consumers": [], "pending": {}}},
    }


def test_many_queues_are_left_in_steps_of_the_limit_though_priorities_change(fleet):
    names = [f"q{number}" for number in range(5)]
    for name in names:
        fleet.create_queue(name)
    holder = fleet.register()
    for name in names:
        fleet.put(f"in-{name}", queue=name)
    for claim in fleet.claim(holder):
        fleet.finish(claim)
    fleet.advance(LEASE_MS)

    words = []
    for name in ("q4", "q0", "q1"):
        words.append(fleet.store.recover(POOL, holder, limit=2).word)
        fleet.set_queue(name, priority=1)
    assert words == ["more", "more", "recovered"]
    state = fleet.dump()
    assert [state[f"stream:{name}"]["groups"]["workers"]["consumers"] for name in names] == [[]] * 5


def test_recovering_everything_repeats_the_steps(fleet, holder):
    runs = [f"r{number:03}" for number in range(130)]
    fleet.submit(*runs)
    fleet.dispatch(limit=200)
    fleet.claim(holder, slots=200)
    fleet.advance(LEASE_MS)

    recovered = fleet.store.recover_all(POOL, holder)

    assert (recovered.word, sorted(recovered.requeued)) == (Word.RECOVERED, runs)


def test_a_holder_is_marked_dead_before_the_first_run_is_taken_back(fleet, holder):
    fleet.put("a", "b")
    first, second = fleet.claim(holder)
    fleet.advance(LEASE_MS)

    step = fleet.store.recover(POOL, holder, limit=1)

    (kept,) = [claim for claim in (first, second) if claim.run_id not in step.requeued]
    assert fleet.dump()["holders"] == {holder: 0}
    assert fleet.renew(holder, held=2) is Word.LOST
    # What is still its own it may still finish: nobody else has it.
    assert fleet.finish(kept) is Word.FINISHED


# --- Losses


def lose_started(fleet: Fleet, times: int) -> None:
    """Claim, start and lose the run that often."""
    for number in range(times):
        fleet.dispatch()
        holder = fleet.register("crashing", str(number))
        fleet.start(fleet.claim_one(holder))
        fleet.lose(holder)


def lose_unstarted(fleet: Fleet, times: int) -> None:
    for number in range(times):
        fleet.dispatch()
        holder = fleet.register("dying", str(number))
        fleet.claim_one(holder)
        fleet.lose(holder)


def test_a_loss_counts_only_after_the_start(fleet):
    fleet.submit("a")
    lose_unstarted(fleet, 2)
    assert (fleet.run("a").get("losses"), fleet.run("a")["unstarted"]) == (None, "2")
    lose_started(fleet, 1)
    assert (fleet.run("a")["losses"], fleet.run("a")["unstarted"]) == ("1", "2")


def test_the_second_loss_still_goes_back(fleet):
    fleet.submit("a")
    lose_started(fleet, 2)
    assert (fleet.run("a")["place"], fleet.run("a")["losses"]) == ("scheduled", "2")


def test_the_third_loss_is_dead_lettered_as_crashed(fleet):
    fleet.submit("a")
    lose_started(fleet, 2)
    fleet.dispatch()
    holder = fleet.register()
    fleet.start(fleet.claim_one(holder))
    fleet.advance(LEASE_MS)

    assert fleet.store.recover(POOL, holder) == Recovered(Word.RECOVERED, dead=["a"])

    run, state = fleet.run("a"), fleet.dump()
    assert (run["place"], run["state_type"], run["state_name"]) == ("dead", "CRASHED", "Crashed")
    assert (run["message"], run["payload"]) == ("lost while running 3 times", "payload of a")
    assert state["dead"] == {"a": fleet.store.now_ms}
    assert state["stream:default"]["entries"] == {}
    assert (state.get("scheduled:default"), state["expiring"]) == (None, [])
    assert [event["event"] for event in state["events"][-2:]] == ["dead", "recovered"]


def test_the_tenth_claim_without_a_start_is_dead_lettered(fleet):
    fleet.submit("a")
    lose_unstarted(fleet, 9)
    assert fleet.run("a")["place"] == "scheduled"
    lose_unstarted(fleet, 1)
    assert fleet.run("a")["place"] == "dead"
    assert fleet.run("a")["message"] == "claimed without a start 10 times"


@pytest.mark.parametrize("most", [1, 5])
def test_a_queue_says_how_many_losses_it_takes(fleet, most):
    fleet.create_queue("q", max_deliveries=most)
    fleet.submit("a", queue="q")
    lose_started(fleet, most - 1)
    assert fleet.run("a")["place"] == "scheduled"
    lose_started(fleet, 1)
    assert fleet.run("a")["place"] == "dead"


def test_a_dead_lettered_run_is_never_dispatched_again(fleet):
    fleet.submit("a")
    lose_started(fleet, 3)
    assert fleet.dispatch().moved == []


# --- What drifted


def test_an_entry_that_only_the_consumer_knows_is_taken_back_too(fleet, holder):
    fleet.put("a")
    fleet.claim_one(holder)
    fleet.client.delete(fleet.keys["claims"] + holder)
    fleet.advance(LEASE_MS)

    assert fleet.store.recover(POOL, holder).requeued == ["a"]
    assert fleet.run("a")["place"] == "scheduled"


def read_stray(fleet: Fleet, holder: str, run_id: str, count: int = 1) -> None:
    """Let the holder's consumer read entries that no record names."""
    key = fleet.keys["stream"] + "default"
    fields = {"run": run_id, "payload": "stray", "due_ms": T0, "run_count": 0, "delivery": 1}
    for _ in range(count):
        fleet.client.xadd(key, fields)
    fleet.client.xreadgroup("workers", holder, {key: ">"})


def test_an_entry_that_was_read_and_never_marked_goes_back_to_its_place(fleet, holder):
    before = fleet.dump()
    fleet.put("a")
    key = fleet.keys["stream"] + "default"
    fleet.client.xgroup_create(key, "workers", "0")
    fleet.client.xreadgroup("workers", holder, {key: ">"})

    fleet.lose(holder)

    run = changed(before, fleet.dump())["run:a"]
    assert (run["place"], run.get("entry"), run["delivery"]) == ("scheduled", None, "0")
    fleet.dispatch()
    assert fleet.claim_one(fleet.register("other")).run_id == "a"


def test_an_entry_of_a_run_that_has_ended_is_deleted_with_its_consumer(fleet, holder):
    fleet.put("a", "b")
    a, _ = fleet.claim(holder)
    fleet.finish(a)
    read_stray(fleet, holder, "a")
    before = fleet.run("a")

    fleet.lose(holder)

    assert (fleet.run("a"), pending(fleet)) == (before, {})
    assert fleet.dump()["stream:default"]["entries"] == {}


def test_a_second_entry_of_a_run_in_its_stream_is_deleted_with_its_consumer(fleet, holder):
    fleet.put("a")
    fleet.claim_one(holder)
    read_stray(fleet, holder, "b")
    fleet.put("b")
    before = fleet.run("b")

    fleet.lose(holder)

    assert fleet.run("b") == before
    assert list(fleet.dump()["stream:default"]["entries"]) == [before["entry"]]


def test_an_entry_of_a_run_that_another_one_holds_goes_to_that_one(fleet, holder):
    other = fleet.register("other")
    fleet.put("a")
    claim = fleet.claim_one(other)
    key = fleet.keys["stream"] + "default"
    fleet.client.xclaim(key, "workers", holder, 0, [fleet.run("a")["entry"]])
    before = fleet.run("a")
    fleet.advance(LEASE_MS)
    fleet.renew(other, held=1)

    assert fleet.store.recover_all(POOL, holder) == Recovered(Word.RECOVERED)

    assert (fleet.run("a"), pending(fleet)) == (before, {before["entry"]: other})
    assert fleet.finish(claim) is Word.FINISHED


def test_a_consumer_is_kept_until_nothing_is_pending_for_it(fleet, holder):
    fleet.put("a")
    fleet.claim_one(holder)
    read_stray(fleet, holder, "unknown", count=5)
    fleet.advance(LEASE_MS)

    steps = [fleet.store.recover(POOL, holder, limit=2).word for _ in range(3)]

    assert steps == [Word.MORE, Word.MORE, Word.RECOVERED]
    assert fleet.dump()["stream:default"] == {
        "entries": {},
        "groups": {"workers": {"consumers": [], "pending": {}}},
    }
