"""The atomic step `claim`, continued: its numbers, its refusals, and the word it passes on."""

import pytest

from dispatcher.records import ClaimAnswer, Word
from tests.builders import Fleet

# What a holder may be that claims nothing, and the word it hears.
REFUSED = {
    "unknown": (lambda fleet: "nobody.1", Word.LOST),
    "recovered": (lambda fleet: recovered(fleet), Word.LOST),
    "displaced": (lambda fleet: displaced(fleet), Word.LOST),
    "silent": (lambda fleet: silent(fleet), Word.LOST),
    "draining": (lambda fleet: draining(fleet), Word.DRAINING),
    "behind": (lambda fleet: behind(fleet), Word.STALE),
}


def recovered(fleet: Fleet) -> str:
    holder = fleet.register()
    fleet.lose(holder)
    return holder


def displaced(fleet: Fleet) -> str:
    holder = fleet.register(incarnation="1")
    fleet.register(incarnation="2")
    return holder


def silent(fleet: Fleet) -> str:
    holder = fleet.register()
    fleet.advance(15_000)
    return holder


def draining(fleet: Fleet) -> str:
    holder = fleet.register()
    fleet.store.drain(fleet.pool, holder, reason="test")
    return holder


def behind(fleet: Fleet) -> str:
    """A holder whose next claim has a number below its last one."""
    holder = fleet.register()
    fleet.claim(holder, number=7)
    fleet.numbers[holder] = 5
    return holder


def take_wakes(fleet: Fleet) -> None:
    """Pop every wake, as workers do that then act on it or die."""
    for name in [name for name in fleet.dump() if name.startswith("wake:")]:
        fleet.client.lpop(fleet.keys["pool"].removesuffix("pool") + name)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_claim_takes_nothing_and_changes_nothing(fleet, kind):
    prepare, word = REFUSED[kind]
    holder = prepare(fleet)
    fleet.put("a")
    before = fleet.dump()

    assert fleet.answer(holder) == ClaimAnswer(word, [])
    assert fleet.dump() == before


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_claim_strands_no_run(fleet, kind):
    prepare, _ = REFUSED[kind]
    holder = prepare(fleet)
    fleet.put("a")
    fleet.answer(holder)
    assert fleet.claim_one(fleet.register("another")).run_id == "a"


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_claim_passes_its_wake_on(fleet, kind):
    prepare, _ = REFUSED[kind]
    holder = prepare(fleet)
    fleet.put("a")
    before = fleet.dump()
    take_wakes(fleet)

    fleet.answer(holder)

    assert fleet.dump() == before


def test_a_lease_serves_up_to_the_millisecond_before_its_end(fleet):
    holder = fleet.register()
    fleet.put("a")
    fleet.advance(14_999)
    assert fleet.claim_one(holder).run_id == "a"


def test_a_lease_that_ended_serves_again_once_it_is_renewed(fleet):
    holder = silent(fleet)
    fleet.put("a")
    fleet.renew(holder, held=0)
    assert fleet.claim_one(holder).run_id == "a"


# --- Numbers


def test_the_same_number_gets_the_same_answer_and_changes_nothing(fleet):
    fleet.put("a", "b", "c")
    holder = fleet.register()
    first = fleet.answer(holder, slots=2)
    before = fleet.dump()

    assert fleet.answer(holder, slots=2, number=1) == first
    assert fleet.dump() == before


def test_the_same_number_takes_nothing_more_than_the_first_time(fleet):
    fleet.put("a")
    holder = fleet.register()
    first = fleet.claim(holder)
    fleet.put("b")

    again = fleet.answer(holder, number=1)

    assert again == ClaimAnswer(Word.CLAIMED, first, more=True)


def test_the_same_number_leaves_out_what_has_ended_since(fleet):
    fleet.put("a", "b")
    holder = fleet.register()
    a, b = fleet.claim(holder)
    fleet.finish(a)

    assert fleet.claim(holder, number=1) == [b]


def test_the_same_number_leaves_out_what_was_released_and_claimed_again(fleet):
    fleet.put("a", "b")
    holder = fleet.register()
    a, b = fleet.claim(holder)
    fleet.release(a)
    fleet.dispatch()
    fleet.claim_one(fleet.register("another"))

    assert fleet.claim(holder, number=1) == [b]


def test_the_same_number_has_the_run_count_of_now(fleet):
    fleet.put("a")
    holder = fleet.register()
    claim = fleet.claim_one(holder)
    fleet.start(claim)
    assert [again.run_count for again in fleet.claim(holder, number=1)] == [1]


def test_a_number_may_be_left_out(fleet):
    fleet.put("a")
    holder = fleet.register()
    assert fleet.claim(holder, number=5)[0].token.endswith(".1.5")
    assert fleet.answer(holder, number=4).word is Word.STALE


# --- Wakes


@pytest.mark.parametrize("slots", [0, 1])
def test_a_claim_that_leaves_something_wakes_another_worker(fleet, slots):
    fleet.put("a", "b")
    holder = fleet.register()
    take_wakes(fleet)

    fleet.answer(holder, slots=slots)

    assert fleet.dump()["wake:default"] == ["1"]


def test_a_claim_that_leaves_nothing_wakes_nobody(fleet):
    fleet.put("a")
    holder = fleet.register()
    take_wakes(fleet)

    fleet.answer(holder, slots=1)

    assert "wake:default" not in fleet.dump()


def test_a_repeated_claim_wakes_another_worker(fleet):
    fleet.put("a", "b")
    holder = fleet.register()
    fleet.answer(holder, slots=1)
    take_wakes(fleet)

    fleet.answer(holder, slots=1, number=1)

    assert fleet.dump()["wake:default"] == ["1"]


def test_a_claim_wakes_each_of_its_queues_that_has_something_left_and_no_other(fleet):
    for queue in ("one", "two", "empty", "unserved"):
        fleet.create_queue(queue)
    for queue in ("one", "two", "unserved"):
        fleet.put(f"in-{queue}", queue=queue)
    holder = fleet.register(queues=("one", "two", "empty"))
    take_wakes(fleet)

    fleet.answer(holder, slots=0)

    woken = [name for name in fleet.dump() if name.startswith("wake:")]
    assert woken == ["wake:one", "wake:two"]


def test_a_wake_list_never_holds_more_than_one_element(fleet):
    fleet.put("a", "b", "c")
    holder = fleet.register()
    for _ in range(2):
        fleet.answer(holder, slots=1)
    assert fleet.dump()["wake:default"] == ["1"]


# --- A claim that comes too late


def test_a_claim_between_the_steps_of_a_recovery_takes_nothing(fleet):
    fleet.put("a", "b")
    holder = fleet.register()
    fleet.claim(holder, slots=2)
    fleet.put("c")
    fleet.advance(15_000)
    assert fleet.store.recover(fleet.pool, holder, limit=1).word is Word.MORE
    before = fleet.dump()

    assert fleet.answer(holder).word is Word.LOST
    assert fleet.dump() == before
    assert fleet.store.recover(fleet.pool, holder, limit=10).word is Word.RECOVERED
