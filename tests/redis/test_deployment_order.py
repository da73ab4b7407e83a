"""Who gets the free slot of a deployment: by queue priority, then due time, then submission."""

from collections.abc import Callable

import pytest

from tests.builders import T0, Fleet, a_submission, changed, moved

MANY = 10_000


def drain(fleet: Fleet, *queues: str) -> list[str]:
    """Run everything to its end and return the order in which runs were claimed."""
    holder = fleet.register()
    order = []
    fleet.dispatch(*queues)
    while claims := fleet.claim(holder):
        order += [claim.run_id for claim in claims]
        for claim in claims:
            fleet.finish(claim)
        fleet.dispatch(*queues)
    return order


# --- Within a queue


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_waiting_keeps_the_order_by_due_time_and_then_submission(fleet, limit):
    fleet.set_deployment("dep", limit)
    for run_id, due_ms in [("z", T0), ("late", T0 + 1), ("a", T0), ("early", T0 - 1), ("m", T0)]:
        fleet.submit(run_id, due_ms=due_ms, deployment="dep")
    fleet.advance(1)
    assert drain(fleet) == ["early", "z", "a", "m", "late"]


def test_a_run_that_is_due_earlier_goes_before_those_that_wait(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")
    fleet.submit("earlier", due_ms=T0 - 9, deployment="dep")
    assert drain(fleet) == ["a", "earlier", "b"]


def test_a_run_that_is_due_later_goes_behind_those_that_wait(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", deployment="dep")
    fleet.advance(9)
    fleet.finish(fleet.claim_one(fleet.register()))
    fleet.submit("later", deployment="dep")

    assert moved(fleet.dispatch()) == ["b"]
    assert fleet.run("later")["place"] == "waiting"


def test_what_is_let_in_a_part_at_a_time_keeps_its_order(fleet):
    fleet.set_deployment("dep", 0)
    fleet.put(*"abcde", deployment="dep")
    fleet.set_deployment("dep", 9)
    fleet.advance(1)
    fleet.submit("later", deployment="dep")

    order = []
    for _ in range(4):
        answer = fleet.dispatch(limit=2)
        order.append((moved(answer), answer.more))

    assert order == [
        (["a", "b"], ["default"]),
        (["c", "d"], ["default"]),
        (["e", "later"], []),
        ([], []),
    ]


def test_a_new_run_does_not_pass_by_those_that_a_call_has_not_come_to(fleet):
    others = [f"other-{number}" for number in range(10)]
    for deployment in ("dep", *others):
        fleet.set_deployment(deployment, 0)
    fleet.put("first", due_ms=T0 - 9, deployment="dep")
    for deployment in others:
        fleet.put(f"{deployment}-a", f"{deployment}-b", deployment=deployment)
    for deployment in (*others, "dep"):
        fleet.set_deployment(deployment, 2)
    fleet.submit("second", due_ms=T0 - 5, deployment="dep")

    order, more = [], True
    while more:
        answer = fleet.dispatch(limit=2)
        order, more = order + moved(answer), answer.more

    assert [run_id for run_id in order if run_id in ("first", "second")] == ["first", "second"]


# --- Between queues


def three_queues(fleet: Fleet) -> None:
    """The queues high, default and low; a run of each waits for "dep", whose one slot is held."""
    fleet.create_queue("high", 1)
    fleet.create_queue("low", 3)
    fleet.set_deployment("dep", 0)
    for run_id, queue in [("l", "low"), ("d", "default"), ("h", "high")]:
        fleet.put(run_id, queue=queue, deployment="dep")
        fleet.advance(1)


def test_a_freed_slot_goes_to_the_queue_of_highest_priority(fleet):
    three_queues(fleet)
    fleet.set_deployment("dep", 1)
    assert drain(fleet) == ["h", "d", "l"]


@pytest.mark.parametrize("first", ["low", "default"])
def test_a_dispatch_of_a_lower_queue_leaves_the_slot_to_the_higher_one(fleet, first, listener):
    three_queues(fleet)
    listener.heard()
    fleet.set_deployment("dep", 1)
    assert listener.heard() == ["high 0"]

    answer = fleet.dispatch(first)

    assert (moved(answer), answer.more) == ([], [])
    assert moved(fleet.dispatch("high")) == ["h"]


def test_a_queue_that_was_told_leaves_the_slot_to_a_higher_one_that_waits_by_then(fleet):
    three_queues(fleet)
    fleet.pause("high")
    fleet.pause("default")
    fleet.set_deployment("dep", 1)
    fleet.resume("high")
    before = fleet.dump()

    assert moved(fleet.dispatch("low")) == []
    assert changed(before, fleet.dump()) == {"freed:low": None}
    assert moved(fleet.dispatch("high")) == ["h"]


def test_a_new_run_of_a_lower_queue_does_not_take_the_slot_of_those_that_wait(fleet):
    three_queues(fleet)
    fleet.set_deployment("dep", 1)
    fleet.cancel("l")
    fleet.submit("new", queue="low", deployment="dep")

    answer = fleet.dispatch("low")

    assert (moved(answer), answer.waiting) == ([], [("new", "low")])
    assert drain(fleet) == ["h", "d", "new"]


def test_slots_that_higher_queues_leave_over_go_to_the_lower_ones(fleet, listener):
    three_queues(fleet)
    fleet.set_deployment("dep", 2)
    assert moved(fleet.dispatch("low")) == []
    listener.heard()

    assert moved(fleet.dispatch("high")) == ["h"]
    assert listener.heard() == ["default 0"]
    assert moved(fleet.dispatch("low")) == []
    assert moved(fleet.dispatch("default")) == ["d"]
    assert listener.heard() == []
    assert moved(fleet.dispatch("low")) == []


def test_a_new_run_that_left_a_slot_to_others_hears_of_one_that_they_leave_over(fleet, listener):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 0)
    fleet.put("d", deployment="dep")
    fleet.set_deployment("dep", 2)
    fleet.put("new", queue="low", deployment="dep")
    listener.heard()

    assert moved(fleet.dispatch("default")) == ["d"]
    assert listener.heard() == ["low 0"]
    assert moved(fleet.dispatch("low")) == ["new"]


def pause(fleet: Fleet, queue: str) -> None:
    fleet.pause(queue)


def fill_the_stream(fleet: Fleet, queue: str) -> None:
    fleet.set_queue(queue, max_unclaimed=1)
    fleet.put("x", "y", queue=queue)
    assert fleet.dump()[f"queue:{queue}"]["blocked"] == "unclaimed"


@pytest.mark.parametrize("stop", [pause, fill_the_stream])
def test_a_queue_that_cannot_dispatch_is_passed_over(fleet, stop: Callable[[Fleet, str], None]):
    three_queues(fleet)
    stop(fleet, "high")
    fleet.set_deployment("dep", 1)
    assert moved(fleet.dispatch("low", "default")) == ["d"]


def test_a_queue_that_is_paused_after_it_was_told_passes_the_word_on(fleet, listener):
    three_queues(fleet)
    fleet.set_deployment("dep", 1)
    fleet.pause("high")
    listener.heard()

    assert moved(fleet.dispatch("high")) == []
    assert listener.heard() == ["default 0"]
    assert moved(fleet.dispatch("default")) == ["d"]


def test_a_queue_whose_stream_is_full_when_it_was_told_passes_the_word_on(fleet, listener):
    three_queues(fleet)
    fleet.set_queue("high", max_unclaimed=1)
    fleet.put("x", queue="high")
    fleet.set_deployment("dep", 1)
    listener.heard()

    assert moved(fleet.dispatch("high")) == []
    assert listener.heard() == ["default 0"]
    assert fleet.run("h")["place"] == "waiting"
    assert moved(fleet.dispatch("default")) == ["d"]


def test_a_queue_with_room_in_its_stream_again_lets_its_own_in(fleet):
    fleet.set_deployment("dep", 0)
    fleet.put("d", deployment="dep")
    fleet.set_queue(max_unclaimed=4)
    fleet.put(*"wxyz")
    fleet.set_deployment("dep", 1)
    fleet.dispatch()
    assert fleet.dump()["queue:default"]["blocked"] == "unclaimed"

    fleet.claim_one(fleet.register())

    assert moved(fleet.dispatch()) == ["d"]


def test_a_word_for_a_slot_that_is_taken_meanwhile_is_not_passed_on(fleet, listener):
    three_queues(fleet)
    fleet.set_deployment("dep", 1)
    fleet.pause("high")
    fleet.set_deployment("dep", 0)
    listener.heard()

    fleet.dispatch("high")
    assert listener.heard() == []


def test_a_resumed_queue_gets_the_next_free_slot(fleet):
    three_queues(fleet)
    fleet.pause("high")
    fleet.set_deployment("dep", 1)
    fleet.dispatch()
    fleet.resume("high")
    assert drain(fleet) == ["d", "h", "l"]


def test_a_changed_priority_decides_about_the_next_free_slot(fleet):
    three_queues(fleet)
    fleet.set_queue("low", 1)
    fleet.set_deployment("dep", 1)
    assert drain(fleet) == ["l", "h", "d"]


def test_a_pause_of_the_pool_lets_nobody_in(fleet):
    three_queues(fleet)
    fleet.pause()
    fleet.set_deployment("dep", 1)
    assert moved(fleet.dispatch()) == []
    fleet.resume()
    assert moved(fleet.dispatch()) == ["h"]


def test_a_waiting_run_that_is_cancelled_leaves_the_slot_to_the_next_one(fleet):
    three_queues(fleet)
    fleet.set_deployment("dep", 1)
    fleet.cancel("h")
    assert drain(fleet) == ["d", "l"]


def test_a_waiting_run_that_is_retimed_waits_for_its_time(fleet):
    fleet.set_deployment("dep", 1)
    fleet.put("a", "b", "c", deployment="dep")
    fleet.retime("b", T0 + 60_000)
    assert drain(fleet) == ["a", "c"]
    assert fleet.run("b")["place"] == "scheduled"


# --- Many that wait


@pytest.fixture
def commands(own_fleet: Fleet) -> Callable[[Callable[[], object]], int]:
    """A function that counts the commands that a step takes, those inside of its script too."""

    def count() -> int:
        return sum(stat["calls"] for stat in own_fleet.client.info("commandstats").values())

    def counted(step: Callable[[], object]) -> int:
        before = count()
        step()
        return count() - before

    return counted


def let_wait(fleet: Fleet, many: int, first: int = 0) -> None:
    """Let runs wait for "dep" in the default queue."""
    batch = [a_submission(f"w{n:05}", deployment="dep") for n in range(first, many)]
    for start in range(0, len(batch), 500):
        fleet.store.submit_many(fleet.pool, batch[start : start + 500])
    while fleet.dispatch("default", limit=500).more:
        pass
    assert fleet.client.zcard(fleet.keys["waiting"] + "dep:default") > many - 5


def test_ten_thousand_waiting_runs_cost_others_of_their_queue_nothing(own_fleet, commands):
    fleet = own_fleet
    fleet.create_queue("low")
    fleet.set_deployment("dep", 0)
    holder = fleet.register()

    def lead(run_id: str, queue: str) -> int:
        def steps() -> None:
            fleet.put(run_id, queue=queue)
            fleet.finish(fleet.claim_one(holder))

        return commands(steps)

    def both(name: str) -> list[int]:
        return [lead(f"{name}-default", "default"), lead(f"{name}-low", "low")]

    both("first")
    let_wait(fleet, 1)
    few = both("few")
    let_wait(fleet, MANY, first=1)
    assert both("many") == few


def test_a_free_slot_costs_the_same_however_many_wait_for_it(own_fleet, commands):
    fleet = own_fleet
    holder = fleet.register()
    fleet.set_deployment("dep", 1)
    fleet.put("a", deployment="dep")
    claims = fleet.claim(holder)

    def next_one() -> None:
        fleet.finish(claims.pop())
        assert len(fleet.dispatch("default").moved) == 1
        claims.extend(fleet.claim(holder))

    let_wait(fleet, 3)
    next_one()
    few = commands(next_one)
    let_wait(fleet, MANY, first=3)
    assert commands(next_one) == few
