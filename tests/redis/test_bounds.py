"""Each step handles no more than its count of runs and its bytes of payload, and says "more"."""

from collections.abc import Callable

import pytest

from dispatcher.connection import Call
from dispatcher.records import Dispatched
from tests.builders import MIB, POOL, T0, Fleet, ids, moved

Dispatch = Callable[..., list[Dispatched]]


@pytest.fixture
def steps(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the steps that are sent from now on."""
    sent: list[str] = []
    call = fleet.store.connection.call

    def noting(step: Call) -> object:
        sent.append(step.script.name)
        return call(step)

    monkeypatch.setattr(fleet.store.connection, "call", noting)
    return sent


@pytest.fixture
def dispatch_all(fleet: Fleet) -> Dispatch:
    """A function that dispatches as long as the answer says that there is more."""

    def dispatched(*queues: str, **bounds: int) -> list[Dispatched]:
        answers = [fleet.dispatch(*(queues or ["default"]), **bounds)]
        while answers[-1].more:
            answers.append(fleet.dispatch(*answers[-1].more, **bounds))
        return answers

    return dispatched


def handled(answer: Dispatched) -> int:
    return len(answer.moved) + len(answer.waiting) + len(answer.skipped)


# --- dispatch


def wait(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)


def cancel_new(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0, "CANCEL_NEW")


def drop_late(fleet: Fleet) -> None:
    fleet.set_queue(late_drop_ms=1000)
    fleet.advance(1001)


def mix(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 2)


@pytest.mark.parametrize("fate", [wait, cancel_new, drop_late, mix])
def test_runs_that_wait_or_are_skipped_count_in_the_limit_of_a_dispatch(fleet, dispatch_all, fate):
    fleet.submit(*"abcde", deployment="dep")
    fate(fleet)
    assert [handled(answer) for answer in dispatch_all(limit=2)] == [2, 2, 1]


@pytest.mark.parametrize("fate", [wait, cancel_new, drop_late, mix])
def test_the_limit_of_a_dispatch_counts_over_all_its_queues(fleet, dispatch_all, fate):
    fleet.create_queue("low")
    fleet.set_queue("low", late_drop_ms=1000)
    fleet.submit(*"abc", deployment="dep")
    fleet.submit(*"def", deployment="dep", queue="low")
    fate(fleet)

    answers = dispatch_all("default", "low", limit=2)

    assert [handled(answer) for answer in answers] == [2, 2, 2]
    assert [answer.more for answer in answers] == [["default", "low"], ["low"], []]


@pytest.mark.parametrize("fate", [wait, cancel_new, drop_late])
def test_runs_that_are_not_moved_cost_no_bytes(fleet, fate):
    fleet.submit(*"abcde", deployment="dep", payload=b"x" * 100)
    fate(fleet)
    answer = fleet.dispatch(max_bytes=100)
    assert (handled(answer), answer.more) == (5, [])


def test_the_bytes_of_a_dispatch_count_over_all_its_queues(fleet, dispatch_all):
    fleet.create_queue("low")
    fleet.submit(*"abc", payload=b"x" * 100)
    fleet.submit(*"def", payload=b"x" * 100, queue="low")
    answers = dispatch_all("default", "low", max_bytes=200)
    assert [moved(answer) for answer in answers] == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_no_more_runs_are_let_in_than_a_dispatch_may_handle(fleet):
    deployments = ("one", "two", "three")
    for deployment in deployments:
        fleet.set_deployment(deployment, 0)
        fleet.put(*(f"{deployment}-{n}" for n in range(4)), deployment=deployment)
    for deployment in deployments:
        fleet.set_deployment(deployment, None)

    calls = []
    for _ in range(3):
        before = len(fleet.dump()["events"])
        answer = fleet.dispatch(limit=5)
        events = [event["event"] for event in fleet.dump()["events"][before:]]
        calls.append((events.count("admitted"), len(answer.moved), answer.more))

    assert calls == [(5, 5, ["default"]), (5, 5, ["default"]), (2, 2, [])]


def test_a_queue_that_the_budget_of_a_call_did_not_come_to_has_more(fleet):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 0)
    fleet.set_deployment("another", 0)
    fleet.put(*"abcde", deployment="dep")
    fleet.put("f", deployment="another", queue="low")
    fleet.set_queue(max_unclaimed=2)
    fleet.set_deployment("dep", None)
    fleet.set_deployment("another", None)

    answer = fleet.dispatch("default", "low", limit=5)

    assert (moved(answer), answer.more) == (["a", "b"], ["low"])
    assert moved(fleet.dispatch("low")) == ["f"]


def test_more_deployments_than_a_call_looks_at_are_looked_at_by_the_next(fleet, dispatch_all):
    deployments = [f"dep-{number}" for number in range(101)]
    for deployment in deployments:
        fleet.set_deployment(deployment, 0)
        fleet.submit(deployment, deployment=deployment)
    dispatch_all()
    for deployment in deployments:
        fleet.set_deployment(deployment, 1)

    answers = dispatch_all(limit=200)

    assert [len(answer.moved) for answer in answers] == [100, 1]


# --- dispatch under the late policy `latest`


@pytest.fixture
def many_late(fleet: Fleet) -> Fleet:
    """1,200 late runs of two deployments in a queue that runs the latest of each."""
    fleet.set_queue(late_policy="latest")
    fleet.create_queue("low", late_policy="latest")
    for number in range(1200):
        fleet.submit(f"{number:04}", due_ms=T0 - number, deployment=f"dep-{number % 2}")
    fleet.advance(60_000)
    return fleet


def test_due_runs_are_looked_at_five_hundred_at_a_time(many_late):
    seen = []
    for _ in range(3):
        answer = many_late.dispatch("default")
        seen.append((handled(answer), answer.more))
    assert seen == [(0, ["default"]), (0, ["default"]), (100, ["default"])]


def test_the_looks_of_a_dispatch_count_over_all_its_queues(many_late):
    for number in range(300):
        many_late.submit(f"low-{number}", due_ms=T0 - number, deployment="dep", queue="low")
    more = [many_late.dispatch("default", "low").more for _ in range(2)]
    assert more == [["default", "low"], ["default", "low"]]
    assert "newest:low" not in many_late.dump()


def test_all_but_the_latest_are_skipped_a_hundred_at_a_time(many_late, dispatch_all):
    answers = dispatch_all()

    assert max(handled(answer) for answer in answers) == 100
    assert sum(len(answer.skipped) for answer in answers) == 1198
    assert sorted(run for answer in answers for run in moved(answer)) == ["0000", "0001"]


# --- claim


def test_a_claim_looks_at_its_slots_and_two_hundred_entries_more(fleet):
    fleet.put(*(f"{number:03}" for number in range(100)))
    for start in (100, 200):
        fleet.put(*(f"{number:03}" for number in range(start, start + 100)))
    fleet.set_queue(late_drop_ms=1000)
    fleet.advance(1001)
    fleet.put("fresh")
    holder = fleet.register()

    first = fleet.answer(holder, slots=5)
    left = fleet.client.xlen(fleet.keys["stream"] + "default")
    second = fleet.answer(holder, slots=5)

    assert (ids(first.claims), first.more, left) == ([], True, 301 - 205)
    assert (ids(second.claims), second.more) == (["fresh"], False)


def test_entries_that_a_claim_skips_count_in_its_bytes(fleet):
    fleet.submit(*"abcdef", payload=b"x" * MIB)
    fleet.dispatch(max_bytes=64 * MIB)
    fleet.set_queue(late_drop_ms=1000)
    fleet.advance(1001)
    holder = fleet.register()

    answers = [fleet.answer(holder) for _ in range(2)]

    assert [(answer.claims, answer.more) for answer in answers] == [([], True), ([], False)]
    assert [event["event"] for event in fleet.dump()["events"]].count("skipped") == 6


# --- Steps that are repeated


def test_a_withdrawal_goes_on_until_nothing_is_left(fleet, steps):
    fleet.put(*"abcde")
    fleet.pause()
    steps.clear()
    fleet.withdraw(limit=2)
    assert steps == ["withdraw"] * 3
    assert [fleet.run(run_id)["place"] for run_id in "abcde"] == ["scheduled"] * 5


@pytest.mark.parametrize(("size", "calls"), [(100, 3), (300, 6), (10, 1)])
def test_a_withdrawal_looks_at_no_more_than_its_bytes_in_a_call(fleet, steps, size, calls):
    fleet.put(*"abcde", payload=b"x" * size)
    fleet.pause()
    steps.clear()
    fleet.withdraw(max_bytes=200)
    assert steps == ["withdraw"] * calls
    assert [fleet.run(run_id)["place"] for run_id in "abcde"] == ["scheduled"] * 5


def test_a_recovery_takes_a_few_runs_at_a_time(fleet):
    fleet.put(*"abcde")
    fleet.claim(fleet.register())
    fleet.advance(15_000)
    taken = [len(fleet.store.recover(POOL, "w.1", limit=2).requeued) for _ in range(3)]
    assert taken == [2, 2, 1]


def test_a_recovery_reads_no_more_than_four_mebibytes_of_entries(fleet):
    key = fleet.keys["stream"] + "default"
    holder = fleet.register()
    fleet.submit(*"abcdef", payload=b"x" * MIB)
    fleet.dispatch(max_bytes=64 * MIB)
    fleet.client.xgroup_create(key, "workers", "0")
    fleet.client.xreadgroup("workers", holder, {key: ">"})  # by hand, past `claim`
    fleet.advance(15_000)

    words = [str(fleet.store.recover(POOL, holder).word) for _ in range(2)]

    assert words == ["more", "recovered"]
    assert [fleet.run(run_id)["place"] for run_id in "abcdef"] == ["scheduled"] * 6


def test_a_watch_announces_a_few_runs_at_a_time(fleet):
    fleet.submit(*"abcde")
    fleet.advance(15_000)
    watched = [fleet.watch(limit=2) for _ in range(3)]
    assert [(len(each.late), each.more) for each in watched] == [(2, True), (2, True), (1, False)]


def test_dead_letters_are_purged_a_hundred_at_a_time(fleet, steps):
    fleet.set_queue(max_deliveries=1)
    runs = [f"{number:03}" for number in range(101)]
    fleet.submit(*runs)
    fleet.dispatch(limit=200)
    for claim in fleet.claim(fleet.register(), slots=200):
        fleet.start(claim)
    fleet.lose("w.1")
    steps.clear()

    assert fleet.purge(*runs) == 101
    assert steps == ["purge"] * 2
