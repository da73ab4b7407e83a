"""The limits of pools and queues: exact at every claim, from the moment they are set."""

from itertools import product

import pytest

from dispatcher.records import ClaimAnswer, Word
from tests.builders import T0, changed, ids, set_limit, shown, sleep_on, woken

NOTHING = ClaimAnswer(Word.CLAIMED, [], more=False)


# --- Exact, in any combination


def room(limit: int | None, most: int) -> int:
    """How many of `most` a limit lets through."""
    return most if limit is None else min(limit, most)


def expected(pool: int | None, default: int | None, low: int | None, dep: int | None) -> list[int]:
    """How many of four runs and four of a deployment, in two queues, are claimed of each queue."""
    of_default = room(dep, 4)
    of_low = room(None if dep is None else dep - of_default, 4)
    in_default = room(default, 4 + of_default)
    in_low = room(low, 4 + of_low)
    from_default = room(pool, in_default)
    return [from_default, room(None if pool is None else pool - from_default, in_low)]


@pytest.mark.parametrize(
    ("pool", "default", "low", "dep"),
    list(product([None, 0, 5], [None, 0, 2], [None, 1], [None, 2, 6])),
)
def test_limits_hold_exactly_in_any_combination(fleet, pool, default, low, dep):
    fleet.create_queue("low")
    fleet.set_pool(limit=pool)
    fleet.set_queue(limit=default)
    fleet.set_queue("low", limit=low)
    fleet.set_deployment("dep", dep)
    for queue in ("default", "low"):
        fleet.submit(*(f"{queue}-{n}" for n in range(4)), queue=queue)
        fleet.submit(*(f"{queue}-dep-{n}" for n in range(4)), queue=queue, deployment="dep")
    fleet.dispatch()
    workers = [fleet.register(str(number)) for number in range(4)]

    claims = [c for _ in range(3) for w in workers for c in fleet.claim(w, slots=2)]

    queues = [claim.queue for claim in claims]
    held = sorted(ids(claims))
    assert [queues.count("default"), queues.count("low")] == expected(pool, default, low, dep)
    assert sorted(fleet.members("pool_slots")) == held
    assert (
        sorted(fleet.members("queue_slots", "default") + fleet.members("queue_slots", "low"))
        == held
    )
    assert len(fleet.members("deployment_slots", "dep")) == room(dep, 8)


LIMITS = list(product([None, 2], [None, 1], [None, 1]))


@pytest.mark.parametrize(("pool", "default", "low"), LIMITS)
def test_all_runs_end_under_any_limits_and_no_limit_is_ever_passed(fleet, pool, default, low):
    fleet.create_queue("low")
    fleet.set_pool(limit=pool)
    fleet.set_queue(limit=default)
    fleet.set_queue("low", limit=low)
    fleet.set_deployment("dep", 1)
    fleet.submit(*"abc", deployment="dep")
    fleet.submit(*"defg", queue="low")
    workers = [fleet.register(str(number)) for number in range(3)]

    for _ in range(7):
        fleet.dispatch()
        claims = [claim for worker in workers for claim in fleet.claim(worker, slots=1)]
        assert len(claims) == len(fleet.members("pool_slots")) <= room(pool, 3)
        for queue, limit in [("default", default), ("low", low)]:
            assert len(fleet.members("queue_slots", queue)) <= room(limit, 3)
        assert len(fleet.members("deployment_slots", "dep")) <= 1
        for claim in claims:
            fleet.finish(claim)

    assert {fleet.run(run_id)["place"] for run_id in "abcdefg"} == {"ended"}


# --- What a full limit does


@pytest.mark.parametrize("limit", [0, 1])
def test_a_full_pool_gives_nothing_and_leaves_no_wake(fleet, limit):
    fleet.set_pool(limit=limit)
    fleet.put(*"abc")
    holder, other = fleet.register(), fleet.register("other")
    fleet.claim(holder)
    sleep_on(fleet)
    before = fleet.dump()

    assert fleet.answer(other) == NOTHING

    assert changed(before, fleet.dump()) == {
        "holder:other.1": {"claim_number": "1", "claim_runs": ""}
    }


@pytest.mark.parametrize("limit", [0, 1])
def test_a_full_queue_gives_nothing_and_leaves_no_wake(fleet, limit):
    fleet.set_queue(limit=limit)
    fleet.put(*"abc")
    holder, other = fleet.register(), fleet.register("other")
    fleet.claim(holder)
    sleep_on(fleet)
    before = fleet.dump()

    assert fleet.answer(other) == NOTHING

    assert changed(before, fleet.dump()) == {
        "holder:other.1": {"claim_number": "1", "claim_runs": ""}
    }


def test_a_claim_that_fills_the_pool_says_that_there_is_no_more(fleet):
    fleet.set_pool(limit=2)
    fleet.put(*"abc")
    answer = fleet.answer(fleet.register())
    assert (ids(answer.claims), answer.more) == (["a", "b"], False)


def test_a_renewal_wakes_nobody_for_a_full_pool(fleet):
    fleet.set_pool(limit=1)
    fleet.put("a", "b")
    holder = fleet.register()
    fleet.claim(holder)
    sleep_on(fleet)
    fleet.renew(holder, held=1)
    assert woken(fleet) == []


def test_a_full_queue_is_not_ready_and_does_not_hold_up_a_lower_one(fleet):
    fleet.create_queue("low")
    fleet.set_queue(limit=1)
    fleet.put(*"abc")
    fleet.put("d", queue="low")
    assert ids(fleet.claim(fleet.register())) == ["a", "d"]
    sleep_on(fleet, "default", "low")

    fleet.put("e")
    fleet.put("f", queue="low")

    assert fleet.dump()["ready"] == {"low": 2}
    assert woken(fleet) == ["low"]
    assert ids(fleet.claim("w.1")) == ["f"]


def test_a_full_queue_does_not_make_the_claim_of_a_lower_one_smaller(fleet):
    fleet.create_queue("low")
    fleet.set_queue(limit=1)
    fleet.put(*"abc")
    fleet.put(*"defg", queue="low")
    assert ids(fleet.claim(fleet.register(), slots=4)) == ["a", "d", "e", "f"]


def test_the_slots_of_a_paused_queue_count_in_its_pool(fleet):
    fleet.create_queue("low")
    fleet.set_pool(limit=1)
    fleet.put("a")
    holder = fleet.register()
    fleet.claim(holder)
    fleet.pause("default")
    fleet.put("b", queue="low")
    assert fleet.answer(holder) == NOTHING


@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_a_repeated_claim_takes_no_second_slot(fleet, kind):
    set_limit(fleet, kind, 2)
    fleet.put(*"abc")
    holder = fleet.register()
    first = fleet.claim(holder, 1)
    assert fleet.claim(holder, number=1) == first
    assert ids(fleet.claim(holder)) == ["b"]


# --- Setting a limit


@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_a_limit_below_what_runs_stops_new_runs_only(fleet, kind):
    fleet.put(*"abcde")
    holder = fleet.register()
    claims = fleet.claim(holder, 3)

    set_limit(fleet, kind, 1)

    assert fleet.answer(holder) == NOTHING
    assert [fleet.start(claim) for claim in claims] == [Word.STARTED] * 3
    assert fleet.renew(holder, held=3) is Word.RENEWED
    held = [(fleet.finish(claim), ids(fleet.claim(holder))) for claim in claims]
    assert held == [(Word.FINISHED, []), (Word.FINISHED, []), (Word.FINISHED, ["d"])]


@pytest.mark.parametrize("kind", ["pool", "queue"])
@pytest.mark.parametrize(("limit", "then"), [(3, ["c"]), (None, ["c", "d", "e"])])
def test_raising_or_removing_a_limit_acts_at_once(fleet, kind, limit, then):
    set_limit(fleet, kind, 2)
    fleet.put(*"abcde")
    holder = fleet.register()
    fleet.claim(holder)
    sleep_on(fleet)

    set_limit(fleet, kind, limit)

    assert woken(fleet) == ["default"]
    assert ids(fleet.claim(holder)) == then


@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_lowering_a_limit_acts_at_once(fleet, kind):
    set_limit(fleet, kind, 3)
    fleet.put(*"abc")
    holder = fleet.register()
    set_limit(fleet, kind, 1)
    assert ids(fleet.claim(holder)) == ["a"]
    assert fleet.answer(holder) == NOTHING


@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_zero_stops_hand_out_until_there_is_another_limit(fleet, kind):
    set_limit(fleet, kind, 0)
    fleet.put("a")
    holder = fleet.register()
    assert fleet.answer(holder) == NOTHING
    set_limit(fleet, kind, 1)
    assert ids(fleet.claim(holder)) == ["a"]


def test_setting_the_limit_of_a_pool_is_on_record(fleet):
    before = fleet.dump()
    fleet.store.set_pool("pool", {"limit": 2, "command": None}, by="ops")
    assert changed(before, fleet.dump()) == {
        "pool": {"limit": "2", "command": None, "job_version": str(T0 + 1)},
        "events": [shown("pool-set", reason="limit=2 command=none", by="ops")],
    }


def test_setting_the_limit_of_a_queue_is_on_record(fleet):
    before = fleet.dump()
    fleet.store.set_queue("pool", "default", {"limit": 2}, by="ops")
    assert changed(before, fleet.dump()) == {
        "queue:default": {"limit": "2"},
        "events": [shown("queue-set", queue="default", reason="limit=2", by="ops")],
    }


def test_dispatchers_hear_of_changed_settings(fleet, listener):
    fleet.set_pool(limit=2)
    fleet.set_queue(limit=2)
    assert listener.heard() == [" 0", "default 0"]
