"""Why a run in a stream has not started: each answer as whole text."""

import pytest

from dispatcher import probing
from tests.builders import Fleet
from tests.explanations import codes, explained, told

START = "2023-11-14T22:13:20.000Z"  # T0
SERVE = "start `consumers run --pool pool --queue default`."
UNCLAIMED = f"It has been unclaimed for 0 ms, since {START}"


# --- Limits


@pytest.mark.parametrize(
    ("name", "command"),
    [("Pool pool", "pool set pool"), ("Queue default", "queue set default --pool pool")],
)
def test_a_run_behind_a_full_limit_says_who_holds_the_slots(fleet, name, command):
    (fleet.set_pool if name == "Pool pool" else fleet.set_queue)(limit=2)
    fleet.put("b", "c", "a")
    holder = fleet.register()
    fleet.start(fleet.claim_one(holder))
    fleet.advance(1)
    fleet.claim_one(holder)
    assert (
        told(fleet)
        == [
            f"{name} is full at its limit of 2: b (Running) and c (Pending) hold its slots; "
            f"`dispatcher {command} --limit N` changes the limit.",
            f"It has been unclaimed for 1 ms, since {START}, and is the next one for 1 live worker "
            "with free slots; if it stays so, ask `dispatcher doctor`.",
        ][:1]
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [("Pool pool", "pool set pool"), ("Queue default", "queue set default --pool pool")],
)
def test_a_limit_of_zero_stops_a_run_alone(fleet, name, command):
    fleet.put("a")
    fleet.register()
    (fleet.set_pool if name == "Pool pool" else fleet.set_queue)(limit=0)
    assert told(fleet) == [
        f"{name} has a limit of 0; `dispatcher {command} --limit N` changes the limit."
    ]


def test_every_limit_and_who_is_first_are_said_in_order(fleet):
    fleet.set_pool(limit=1)
    fleet.set_queue(limit=1)
    fleet.put("b", "c", "a")
    fleet.claim_one(fleet.register(slots=1))
    assert codes(fleet) == ["pool_full", "queue_full", "workers_full", "behind"]


# --- Workers


def lost(fleet: Fleet) -> None:
    fleet.register("other")
    fleet.advance(15_000)


def draining(fleet: Fleet) -> None:
    fleet.store.drain(fleet.pool, fleet.register(), reason="test")


def elsewhere(fleet: Fleet) -> None:
    fleet.create_queue("other")
    fleet.store.drain(fleet.pool, fleet.register("x", queues=("other",)), reason="test")
    fleet.register("y", queues=("other",))


def all_of_them(fleet: Fleet) -> None:
    elsewhere(fleet)
    fleet.register("z", queues=("other",))
    draining(fleet)


def displaced(fleet: Fleet) -> None:
    fleet.create_queue("other")
    fleet.register()
    fleet.register(incarnation="2", queues=("other",))


@pytest.mark.parametrize(
    ("prepare", "rest"),
    [
        (lambda fleet: None, ""),
        (lost, ""),
        (draining, " (1 drains)"),
        (elsewhere, " (1 serves other queues)"),
        (all_of_them, " (2 serve other queues, 1 drains)"),
        (displaced, " (1 serves other queues)"),
    ],
)
def test_a_run_that_no_live_worker_serves_says_so(fleet, prepare, rest):
    prepare(fleet)
    fleet.put("a")
    assert told(fleet) == [f"No live worker serves queue default{rest}: {SERVE}"]


def test_a_run_whose_workers_are_all_full_says_how_many_slots_there_are(fleet):
    fleet.create_queue("other")
    fleet.register("free", queues=("other",))
    fleet.put("b", "c", "d")
    fleet.claim(fleet.register("v", slots=1), 1)
    fleet.claim(fleet.register("w", slots=2, queues=("default",)), 2)
    fleet.put("a")
    assert told(fleet) == [
        "No slot is free: 2 live workers serve queue default and hold 3 runs in 3 slots; one more "
        "worker, or a higher `consumers run --limit`, makes room."
    ]


# --- Order


def test_a_run_says_how_many_are_claimed_before_it(fleet):
    for number, name in enumerate(["first", "second", "full", "paused"], 1):
        fleet.create_queue(name, number)
        fleet.put(f"{name}-1", f"{name}-2", queue=name)
    fleet.set_queue("full", limit=0)
    fleet.pause("paused")
    fleet.put("b", "c", "a")
    fleet.create_queue("low")
    fleet.put("x", queue="low")
    fleet.register("all")
    fleet.claim_one(fleet.register("one", queues=("second", "default", "first")))
    assert told(fleet) == [
        f"{UNCLAIMED}; ahead of it: 3 runs of queues with higher priority (first 1, second 2) "
        "and 2 runs of its own queue."
    ]


def test_a_queue_that_a_free_worker_does_not_serve_is_not_ahead(fleet):
    fleet.create_queue("high", 1)
    fleet.put("x", queue="high")
    fleet.put("b", "a")
    fleet.register("all")
    fleet.register("one", queues=("default",))
    assert told(fleet) == [f"{UNCLAIMED}; ahead of it: 1 run of its own queue."]


def test_no_more_than_five_queues_are_named(fleet):
    fleet.set_queue(priority=9)
    for number in range(1, 7):
        fleet.create_queue(f"q{number}", number)
        fleet.put(str(number), queue=f"q{number}")
    fleet.put("a")
    fleet.register()
    assert told(fleet) == [
        f"{UNCLAIMED}; ahead of it: 6 runs of queues with higher priority "
        "(q1 1, q2 1, q3 1, q4 1, q5 1, …)."
    ]


def test_entries_that_are_claimed_are_not_ahead(fleet):
    fleet.put("b", "c", "d", "a")
    holder = fleet.register()
    fleet.claim(holder, 2)
    assert told(fleet) == [f"{UNCLAIMED}; ahead of it: 1 run of its own queue."]


@pytest.mark.parametrize(("page", "most"), [(2, 4), (3, 4), (100, 1_000)])
@pytest.mark.parametrize("ahead", [3, 4, 5, 9])
def test_entries_ahead_are_counted_page_by_page_up_to_a_bound(
    fleet, monkeypatch, page, most, ahead
):
    monkeypatch.setattr(probing, "PAGE_ENTRIES", page)
    monkeypatch.setattr(probing, "MOST_ENTRIES", most)
    fleet.put(*(f"b{number}" for number in range(ahead)), "a")
    fleet.register()
    (reason,) = explained(fleet).reasons
    counted = -(-most // page) * page
    found = (reason.same_queue, reason.is_least)
    assert found == ((counted, True) if ahead >= counted else (ahead, False))


def test_a_bounded_count_says_that_it_is_one(fleet, monkeypatch):
    monkeypatch.setattr(probing, "MOST_ENTRIES", 1)
    monkeypatch.setattr(probing, "PAGE_BYTES", 1)
    fleet.put("b", "c", "a")
    fleet.register()
    assert told(fleet) == [f"{UNCLAIMED}; ahead of it: at least 1 run of its own queue."]


@pytest.mark.parametrize(("workers", "who"), [(1, "1 live worker"), (2, "2 live workers")])
def test_a_run_that_nothing_keeps_says_who_may_claim_it(fleet, workers, who):
    fleet.put("b")
    fleet.claim_one(fleet.register("full", slots=1))
    for number in range(workers):
        fleet.register(f"w{number}")
    fleet.put("a")
    assert told(fleet) == [
        f"{UNCLAIMED}, and is the next one for {who} with free slots; "
        "if it stays so, ask `dispatcher doctor`."
    ]
