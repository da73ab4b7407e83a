"""The atomic step `watch`: late runs are announced once, and queues that nobody serves."""

from typing import Any

import pytest

from dispatcher.errors import NotFound
from dispatcher.records import Watched
from tests.builders import T0, Fleet, changed

LATE_MS = 15_000  # what a pool has without a setting of its own


def watched(fleet: Fleet) -> tuple[list[str], list[str]]:
    """The late runs and the unserved queues that one watch announces."""
    answer = fleet.watch()
    return [run for run, _ in answer.late], answer.unserved


def events(fleet: Fleet, name: str) -> list[dict[str, str]]:
    return [event for event in fleet.dump()["events"] if event["event"] == name]


# --- Announced once


def test_a_run_that_nobody_started_in_time_is_announced_with_an_event(fleet):
    fleet.submit("a")
    before = fleet.dump()
    fleet.advance(LATE_MS)

    assert fleet.watch() == Watched([("a", "default")], [], False, None)

    at_ms = str(T0 + LATE_MS)
    told = {"run": "a", "queue": "default", "due_ms": str(T0), "from": "SCHEDULED"}
    assert changed(before, fleet.dump()) == {
        "unstarted": None,
        "run:a": {"late_ms": at_ms},
        "events": [{"event": "late", "at_ms": at_ms} | told],
    }


def test_a_late_run_is_announced_once(fleet):
    fleet.submit("a")
    fleet.advance(LATE_MS)
    fleet.watch()
    before = fleet.dump()
    fleet.advance(LATE_MS)

    assert fleet.watch() == Watched([], [], False, None)
    assert fleet.dump() == before


def test_a_run_is_not_late_a_moment_earlier(fleet):
    fleet.submit("a", due_ms=T0 + 5)
    fleet.advance(LATE_MS + 4)
    before = fleet.dump()

    assert fleet.watch() == Watched([], [], False, T0 + 5 + LATE_MS)
    assert fleet.dump() == before


def test_a_pool_says_when_a_run_is_late(fleet):
    fleet.set_pool(late_after_ms=2000)
    fleet.submit("a")
    assert fleet.dispatch().late_at_ms == T0 + 2000
    fleet.advance(2000)
    assert watched(fleet)[0] == ["a"]


def test_dispatch_says_when_the_next_run_will_be_late(fleet):
    assert fleet.dispatch().late_at_ms is None
    fleet.submit("a", due_ms=T0 + 5)
    fleet.submit("b", due_ms=T0 + 9)
    assert fleet.dispatch().late_at_ms == T0 + 5 + LATE_MS


def test_late_runs_are_announced_a_bounded_number_at_a_time(fleet):
    fleet.submit("a", "b", "c")
    fleet.advance(LATE_MS)
    answers = [fleet.watch(limit=2), fleet.watch(limit=2)]
    assert [len(answer.late) for answer in answers] == [2, 1]
    assert [answer.more for answer in answers] == [True, False]


def claimed(fleet: Fleet) -> Any:
    fleet.put("a")
    return fleet.claim_one(fleet.register())


def test_a_claimed_run_that_was_not_started_in_time_is_late_with_its_worker(fleet):
    claimed(fleet)
    fleet.advance(LATE_MS)
    watched(fleet)
    (late,) = events(fleet, "late")
    assert (late["worker"], late["from"]) == ("w.1", "PENDING")


def started(fleet: Fleet) -> None:
    fleet.start(claimed(fleet))


def ended(fleet: Fleet) -> None:
    fleet.finish(claimed(fleet))


def cancelled(fleet: Fleet) -> None:
    fleet.submit("a")
    fleet.cancel("a")


def cancelling(fleet: Fleet) -> None:
    claimed(fleet)
    fleet.cancel("a")


def released_after_its_start(fleet: Fleet) -> None:
    claim = claimed(fleet)
    fleet.start(claim)
    fleet.release(claim)
    fleet.dispatch()


def awaiting_its_retry(fleet: Fleet) -> None:
    fleet.put("a", retries=1)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")


def retry_dispatched(fleet: Fleet) -> None:
    awaiting_its_retry(fleet)
    fleet.dispatch()


def waiting(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")


NOT_LATE = [
    *(started, ended, cancelled, cancelling, released_after_its_start),
    *(awaiting_its_retry, retry_dispatched, waiting),
]


@pytest.mark.parametrize("what", NOT_LATE)
def test_a_run_is_not_late_when_it(fleet, what):
    what(fleet)
    fleet.advance(LATE_MS)
    assert watched(fleet)[0] == []
    assert events(fleet, "late") == []


def test_a_run_that_waited_is_late_only_after_it_was_let_in(fleet):
    waiting(fleet)
    fleet.advance(LATE_MS)
    fleet.set_deployment("dep", None)
    fleet.dispatch()
    assert watched(fleet)[0] == []
    fleet.advance(LATE_MS)
    assert watched(fleet)[0] == ["a"]


def test_a_late_run_that_waited_since_is_not_announced_again(fleet):
    fleet.set_deployment("dep", 0)
    fleet.submit("a", deployment="dep")
    fleet.advance(LATE_MS)
    fleet.watch()
    fleet.dispatch()
    fleet.set_deployment("dep", None)
    fleet.dispatch()
    fleet.advance(LATE_MS)
    assert watched(fleet)[0] == []


def retimed(fleet: Fleet) -> None:
    fleet.retime("a")


def offered_for_another_time(fleet: Fleet) -> None:
    fleet.submit("a", request="other", due_ms=fleet.store.now_ms)


@pytest.mark.parametrize("again", [retimed, offered_for_another_time])
def test_a_run_with_a_new_time_may_be_late_once_more(fleet, again):
    fleet.submit("a")
    fleet.advance(LATE_MS)
    assert watched(fleet)[0] == ["a"]
    again(fleet)
    assert watched(fleet)[0] == []
    fleet.advance(LATE_MS)
    assert watched(fleet)[0] == ["a"]


def test_a_pool_that_does_not_exist_is_not_watched(fleet):
    with pytest.raises(NotFound, match="pool 'nowhere' does not exist"):
        fleet.store.watch("nowhere")


# --- Queues that nobody serves


def test_a_queue_with_due_runs_and_no_worker_is_announced_once(fleet):
    fleet.put("a", "b")
    fleet.advance(LATE_MS)
    first = watched(fleet)
    fleet.put("c")
    fleet.advance(LATE_MS)
    second = watched(fleet)

    assert (first[1], second[1]) == (["default"], [])
    reason = "due runs and no live worker for this queue"
    told = {"event": "unserved", "at_ms": str(T0 + LATE_MS), "queue": "default", "reason": reason}
    assert events(fleet, "unserved") == [told]
    assert fleet.dump()["queue:default"]["unserved_ms"] == str(T0 + LATE_MS)


def test_a_queue_is_announced_again_after_somebody_claimed_from_it(fleet):
    fleet.put("a")
    fleet.advance(LATE_MS)
    fleet.watch()
    fleet.finish(fleet.claim_one(fleet.register()))
    fleet.advance(LATE_MS)
    fleet.put("b")
    fleet.advance(LATE_MS)
    assert watched(fleet) == (["b"], ["default"])


def another_queue(fleet: Fleet) -> None:
    fleet.create_queue("default-2")
    fleet.register(queues=("default-2",))


def dead_worker(fleet: Fleet) -> None:
    fleet.register()
    fleet.register(incarnation="2", queues=("other",))


def draining(fleet: Fleet) -> None:
    fleet.store.drain(fleet.pool, fleet.register(), reason="stop")


def lease_ended(fleet: Fleet) -> None:
    fleet.register()


@pytest.mark.parametrize("worker", [another_queue, dead_worker, draining, lease_ended])
def test_a_worker_that_does_not_count_is(fleet, worker):
    if worker is not lease_ended:
        fleet.advance(LATE_MS)  # its lease is still good when we look
    worker(fleet)
    fleet.put("a", due_ms=T0)
    if worker is lease_ended:
        fleet.advance(LATE_MS)
    assert watched(fleet)[1] == ["default"]


@pytest.mark.parametrize("queues", [(), ("default",), ("other", "default")])
def test_a_queue_that_a_live_worker_serves_is_not_announced(fleet, queues):
    fleet.create_queue("other")
    fleet.put("a")
    fleet.advance(LATE_MS)
    fleet.register(queues=queues)
    assert watched(fleet) == (["a"], [])


def test_a_queue_with_an_odd_name_is_announced_under_its_name(fleet):
    fleet.create_queue("a b{c}")
    fleet.put("a", queue="a b{c}")
    fleet.advance(LATE_MS)
    assert watched(fleet) == (["a"], ["a b{c}"])


def test_a_run_that_is_still_scheduled_says_nothing_about_workers(fleet):
    fleet.pause()
    fleet.submit("a")
    fleet.advance(LATE_MS)
    assert watched(fleet) == (["a"], [])


def test_a_retry_that_nobody_takes_tells_of_its_queue(fleet):
    retry_dispatched(fleet)
    fleet.advance(LATE_MS)
    assert watched(fleet) == ([], ["default"])


@pytest.mark.parametrize("was_started", [False, True])
def test_a_run_whose_only_worker_died_tells_of_its_queue(fleet, was_started):
    claim = claimed(fleet)
    if was_started:
        fleet.start(claim)
    fleet.lose("w.1")
    fleet.dispatch()
    fleet.advance(LATE_MS)
    assert watched(fleet)[1] == ["default"]
