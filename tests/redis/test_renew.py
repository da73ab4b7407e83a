"""The atomic step `renew`: a lease goes on, and both sides compare what they believe."""

import pytest

from dispatcher.records import Renewed, Word
from tests.builders import POOL, T0, Fleet, changed


def renewed(**fields: object) -> Renewed:
    return Renewed(**{"word": Word.RENEWED, "lease_ms": 15_000, "renew_ms": 5_000} | fields)


@pytest.fixture
def holder(fleet: Fleet) -> str:
    return fleet.register()


def test_a_renewed_lease_ends_later_and_nothing_else_changes(fleet, holder):
    before = fleet.dump()
    fleet.advance(4_000)

    answer = fleet.store.renew(POOL, holder, held=0, number=0)

    assert answer == renewed(queues_version=1)
    assert changed(before, fleet.dump()) == {"holders": {holder: T0 + 19_000}}


def test_the_same_renewal_again_changes_nothing(fleet, holder):
    fleet.renew(holder, held=0)
    before = fleet.dump()
    assert fleet.renew(holder, held=0) is Word.RENEWED
    assert fleet.dump() == before


def test_a_lease_that_ended_is_renewed_if_nobody_recovered_it(fleet, holder):
    fleet.advance(60_000)
    assert fleet.renew(holder, held=0) is Word.RENEWED
    assert fleet.dump()["holders"] == {holder: T0 + 75_000}


def test_the_answer_has_the_settings_of_now(fleet, holder):
    fleet.client.hset(fleet.keys["pool"], mapping={"lease_ms": 30_000, "renew_ms": 10_000})
    fleet.create_queue("later")

    answer = fleet.store.renew(POOL, holder, held=0, number=0)

    assert answer == renewed(lease_ms=30_000, renew_ms=10_000, queues_version=2)
    assert fleet.dump()["holders"] == {holder: T0 + 30_000}


def test_a_draining_holder_keeps_its_lease_and_is_told(fleet, holder):
    fleet.store.drain(POOL, holder, reason="test")
    fleet.advance(1)

    answer = fleet.store.renew(POOL, holder, held=0, number=0)

    assert answer == renewed(queues_version=1, draining=True)
    assert fleet.dump()["holders"] == {holder: T0 + 15_001}


# --- Who has lost its lease


def recovered(fleet: Fleet, holder: str) -> Word:
    fleet.lose(holder)
    return Word.LOST


def dying(fleet: Fleet, holder: str) -> Word:
    """Its recovery has begun and is not through."""
    fleet.put("a", "b")
    fleet.claim(holder)
    fleet.advance(15_000)
    fleet.store.recover(POOL, holder, limit=1)
    return Word.LOST


def displaced(fleet: Fleet, holder: str) -> Word:
    fleet.register(incarnation="2")
    return Word.DISPLACED


def displaced_and_recovered(fleet: Fleet, holder: str) -> Word:
    fleet.register(incarnation="2")
    fleet.store.recover_all(POOL, holder)
    return Word.DISPLACED


def recovered_and_replaced(fleet: Fleet, holder: str) -> Word:
    fleet.lose(holder)
    fleet.register(incarnation="2")
    return Word.DISPLACED


def displaced_by_one_that_left(fleet: Fleet, holder: str) -> Word:
    other = fleet.register(incarnation="2")
    fleet.store.recover_all(POOL, holder)
    fleet.lose(other)
    return Word.LOST


def its_successor_is_silent_too(fleet: Fleet, holder: str) -> Word:
    fleet.register(incarnation="2")
    fleet.advance(15_000)  # as after lost writes that brought an older incarnation back
    return Word.LOST


def another_name(fleet: Fleet, holder: str) -> Word:
    fleet.lose(holder)
    fleet.register("another")
    return Word.LOST


CASES = [
    recovered,
    dying,
    displaced,
    displaced_and_recovered,
    recovered_and_replaced,
    displaced_by_one_that_left,
    its_successor_is_silent_too,
    another_name,
]


@pytest.mark.parametrize("case", CASES)
def test_a_holder_that_is_no_longer_one_is_told_why_and_changes_nothing(fleet, holder, case):
    word = case(fleet, holder)
    before = fleet.dump()

    assert fleet.store.renew(POOL, holder, held=0, number=0) == Renewed(word)
    assert fleet.dump() == before


def test_a_new_incarnation_renews_beside_the_old_one(fleet, holder):
    new = fleet.register(incarnation="2")
    assert fleet.renew(holder, held=0) is Word.DISPLACED
    assert fleet.renew(new, held=0) is Word.RENEWED


# --- What both sides believe


def test_one_difference_is_not_yet_a_reason_to_compare(fleet, holder):
    assert [fleet.renew(holder, held) for held in (1, 0, 1, 0)] == [Word.RENEWED] * 4


def test_a_second_difference_in_a_row_is(fleet, holder):
    words = [fleet.renew(holder, held) for held in (0, 1, 2, 1, 0, 1)]
    assert words == ["renewed", "renewed", "compare", "compare", "renewed", "renewed"]


def test_a_compare_prolongs_the_lease_too(fleet, holder):
    fleet.renew(holder, held=1)
    fleet.advance(100)
    assert fleet.renew(holder, held=1) is Word.COMPARE
    assert fleet.dump()["holders"] == {holder: T0 + 15_100}


def test_the_number_of_the_last_claim_is_compared_too(fleet, holder):
    fleet.claim(holder)
    fleet.numbers[holder] = 0
    assert [fleet.renew(holder, held=0) for _ in range(2)] == [Word.RENEWED, Word.COMPARE]


def test_what_is_claimed_is_what_is_held(fleet, holder):
    fleet.put("a", "b")
    claims = fleet.claim(holder)
    assert [fleet.renew(holder, held=2) for _ in range(2)] == [Word.RENEWED] * 2
    fleet.finish(claims[0])
    fleet.release(claims[1])
    assert [fleet.renew(holder, held=0) for _ in range(2)] == [Word.RENEWED] * 2


# --- Wakes that died with a worker


@pytest.mark.parametrize("draining", [False, True])
def test_a_lost_wake_comes_back_with_a_renewal_unless_it_is_draining(fleet, holder, draining):
    if draining:
        fleet.store.drain(POOL, holder, reason="test")
    fleet.put("a")
    fleet.client.lpop(fleet.keys["wake"] + "default")

    fleet.renew(holder, held=0)

    assert fleet.dump().get("wake:default") == (None if draining else ["1"])


def test_a_renewal_wakes_nobody_for_a_queue_that_it_does_not_serve(fleet):
    fleet.create_queue("other")
    holder = fleet.register(queues=("other",))
    fleet.put("a")
    fleet.client.lpop(fleet.keys["wake"] + "default")

    fleet.renew(holder, held=0)

    assert "wake:default" not in fleet.dump()
