"""What a poll lists, in which order: as a Prefect server does (prefect-observed.md, B)."""

import pytest

from dispatcher.errors import PoolNotFound, QueueNotFound, Refused
from dispatcher.inspector import Inspector
from tests.builders import POOL, Fleet


@pytest.fixture
def fleet(client, prefix):
    """A pool that is handed out by polling; its clock is the server's."""
    fleet = Fleet(client, prefix, handout="poll")
    fleet.store.now_ms = server_ms(fleet)
    return fleet


def server_ms(fleet: Fleet) -> int:
    return inspector(fleet).server_time_ms(POOL)


def inspector(fleet: Fleet) -> Inspector:
    return Inspector(fleet.store.connection, fleet.store.prefix)


def page(fleet: Fleet, *queues: str, **bounds: float) -> list[str]:
    """The ids of the runs that a poll lists."""
    return [row.run.id for row in inspector(fleet).scheduled_page(POOL, queues, **bounds).runs]


def at(fleet: Fleet, seconds: float) -> int:
    """A moment so far from now."""
    return (fleet.store.now_ms or 0) + int(seconds * 1000)


def submit(fleet: Fleet, *runs: str, **fields: object) -> None:
    """Submit runs called `<queue>@<seconds from now>`."""
    for run_id in runs:
        queue, _, seconds = run_id.partition("@")
        fleet.submit(run_id, queue=queue, due_ms=at(fleet, float(seconds)), **fields)


def take(fleet: Fleet, *runs: str) -> None:
    for run_id in runs:
        assert fleet.take(run_id, run_id).claim is not None


# --- What a row says


def test_a_row_has_the_record_the_bytes_and_the_ids_of_pool_and_queue(fleet):
    fleet.submit("a", payload=b"\xc3\x84\r\n", run_count=2, state_name="Late", name="n")
    found = inspector(fleet).scheduled_page(POOL)
    (row,) = found.runs
    assert (found.pool_id, found.late_after_ms) == ("id-of-pool", 15_000)
    assert abs(found.now_ms - (fleet.store.now_ms or 0)) < 60_000
    assert (row.payload, row.queue_id) == (b"\xc3\x84\r\n", "id-of-default")
    assert row.run == next(inspector(fleet).runs(POOL))
    assert (row.run.state_name, row.run.run_count) == ("Late", 2)


def test_reading_claims_nothing_and_changes_nothing(fleet):
    fleet.submit("a")
    before = fleet.dump()
    assert [page(fleet) for _ in range(3)] == [["a"]] * 3
    assert fleet.dump() == before


# --- Order and choice of queues


@pytest.fixture
def three(fleet):
    """Queues hi (1), mid (10), lo (20) with two runs each."""
    for name, priority in (("hi", 1), ("lo", 20), ("mid", 10)):
        fleet.create_queue(name, priority)
    submit(fleet, "lo@-300", "mid@-200", "hi@-100", "lo@-30", "hi@-250", "mid@-400")
    return fleet


ALL = ["hi@-250", "hi@-100", "mid@-400", "mid@-200", "lo@-300", "lo@-30"]
LOW = ["lo@-300", "lo@-30"]


@pytest.mark.parametrize(
    ("queues", "limit", "listed"),
    [
        ((), 200, ALL),
        ((), 3, ALL[:3]),
        ((), 1, ALL[:1]),
        ((), 0, []),
        (("lo", "hi"), 200, ALL[:2] + LOW),
        (("lo", "lo"), 200, LOW),
        (("lo", "hi"), 2, ALL[:2]),
        (("default",), 200, []),
    ],
)
def test_runs_are_listed_by_priority_then_by_due_time_up_to_the_limit(three, queues, limit, listed):
    assert page(three, *queues, limit=limit) == listed


def test_no_list_of_queues_means_all(three):
    found = inspector(three).scheduled_page(POOL, None)
    assert [row.run.id for row in found.runs] == ALL


def test_a_changed_priority_changes_the_order(three):
    three.set_queue("lo", priority=1)
    assert page(three) == LOW + ALL[:4]


@pytest.mark.parametrize("names", [["nope"], ["lo", "nope"], ["nope", "neither"]])
def test_an_unknown_queue_fails_the_whole_call(three, names):
    with pytest.raises(QueueNotFound, match="queue 'nope' does not exist"):
        page(three, *names)
    three.pause()
    with pytest.raises(QueueNotFound):
        page(three, *names, limit=0)


def test_an_unknown_pool_is_not_found(fleet):
    with pytest.raises(PoolNotFound):
        inspector(fleet).scheduled_page("other")


def test_a_pool_of_streams_is_not_polled(fleet):
    fleet.set_pool(handout="stream")
    with pytest.raises(Refused, match="pool 'pool' hands out by stream"):
        page(fleet)


def test_runs_that_are_due_at_one_moment_are_listed_in_the_order_of_submission(fleet):
    ids = ["c", "a", "e", "b", "d"]
    fleet.submit(*ids, due_ms=at(fleet, -1))
    assert page(fleet) == ids


def test_more_queues_than_are_read_at_once_are_listed_in_their_order(fleet):
    names = [f"q{number:03}" for number in range(120)]
    for name in names:
        fleet.create_queue(name)
    submit(fleet, *(f"{name}@-1" for name in reversed(names)))
    assert page(fleet) == [f"{name}@-1" for name in names]
    assert page(fleet, limit=60) == [f"{name}@-1" for name in names[:60]]


# --- Bounds of time


@pytest.mark.parametrize(
    ("after", "before", "listed"),
    [
        (None, None, ["default@0", "default@1", "default@2"]),
        (None, 1, ["default@0", "default@1"]),
        (None, 1 - 0.000_001, ["default@0"]),
        (1, None, ["default@1", "default@2"]),
        (1 + 0.000_001, None, ["default@2"]),
        (1, 1, ["default@1"]),
        (2, 0, []),
    ],
)
def test_both_bounds_are_inclusive_and_exact_to_the_microsecond(fleet, after, before, listed):
    fleet.advance(3_600_000)
    submit(fleet, "default@0", "default@1", "default@2")
    base = fleet.store.now_ms or 0
    bounds = {"after_ms": after, "before_ms": before}
    given = {name: base + value * 1000 for name, value in bounds.items() if value is not None}
    assert page(fleet, **given) == listed


# --- Pauses


@pytest.mark.parametrize(
    ("queue", "asked", "listed"),
    [("mid", (), ALL[:2] + LOW), ("mid", ("mid",), []), (None, (), []), ("default", (), ALL)],
)
def test_what_is_paused_lists_nothing(three, queue, asked, listed):
    three.pause(queue)
    assert page(three, *asked) == listed


@pytest.mark.parametrize("queue", [None, "default"])
def test_a_pause_whose_end_has_come_is_none(fleet, queue):
    fleet.submit("a")
    fleet.pause(queue, until_ms=at(fleet, 3_600))
    assert page(fleet) == []
    fleet.pause(queue, until_ms=at(fleet, -1))
    assert page(fleet) == ["a"]


# --- Limits


def set_limit(fleet: Fleet, kind: str, limit: int) -> None:
    fleet.set_pool(limit=limit) if kind == "pool" else fleet.set_queue(limit=limit)


@pytest.mark.parametrize("kind", ["pool", "queue"])
@pytest.mark.parametrize(
    ("limit", "taken", "listed"),
    [(2, "", "ab"), (2, "a", "b"), (2, "ab", ""), (0, "", ""), (5, "", "abcde"), (1, "e", "")],
)
def test_a_limit_lists_as_many_as_it_has_slots(fleet, kind, limit, taken, listed):
    fleet.submit(*"abcde")
    take(fleet, *taken)
    set_limit(fleet, kind, limit)
    assert page(fleet) == list(listed)


@pytest.mark.parametrize("kind", ["pool", "queue"])
def test_a_run_that_is_cancelling_holds_its_slot(fleet, kind):
    fleet.submit(*"abc")
    take(fleet, "a")
    set_limit(fleet, kind, 2)
    fleet.cancel("a")
    assert page(fleet) == ["b"]


def test_the_least_of_several_limits_counts(fleet):
    fleet.create_queue("a", 1)
    fleet.create_queue("b", 2)
    fleet.set_queue("a", limit=2)
    for queue in "ab":
        fleet.submit(*(f"{queue}{number}" for number in range(4)), queue=queue)
    fleet.set_pool(limit=3)
    assert page(fleet) == ["a0", "a1", "b0"]
    assert page(fleet, limit=2) == ["a0", "a1"]


def test_what_was_taken_put_back_or_ended_is_listed_as_it_is_now(fleet):
    fleet.submit(*"abcd")
    fleet.finish(fleet.take_one("a", "a"))
    fleet.release(fleet.take_one("b", "b"))
    take(fleet, "c")
    fleet.cancel("d")
    assert page(fleet) == ["b"]


# --- Deployments


def test_a_due_run_whose_deployment_is_full_is_not_listed(fleet):
    fleet.set_deployment("dep", 1)
    fleet.submit(*"abc", deployment="dep")
    fleet.submit("d", deployment="other")
    fleet.submit("e")
    assert page(fleet) == list("abcde")  # as there, while nothing of it runs
    claim = fleet.take_one("a", "a")
    assert page(fleet) == list("de")
    fleet.finish(claim)
    assert page(fleet) == list("bcde")


def test_runs_that_are_not_due_are_listed_whatever_runs_of_their_deployment(fleet):
    fleet.set_deployment("dep", 0)
    submit(fleet, "default@3600", "default@-1", deployment="dep")
    assert page(fleet) == ["default@3600"]


def test_runs_that_wait_for_their_deployment_are_not_listed_until_they_come_in(fleet):
    fleet.set_deployment("dep", 1)
    fleet.submit(*"abc", deployment="dep")
    fleet.dispatch()
    assert page(fleet) == ["a"]
    fleet.finish(fleet.take_one("a", "a"))
    fleet.dispatch()
    assert page(fleet) == ["b"]


@pytest.mark.parametrize("limits", [{}, {"limit": 2}])
def test_runs_of_full_deployments_do_not_use_up_the_limit_of_a_queue(fleet, limits):
    fleet.set_queue(limit=3)
    fleet.set_deployment("dep", 0)
    fleet.submit(*"abc", deployment="dep")
    fleet.submit(*"defg")
    assert page(fleet, **limits) == list("def")[: limits.get("limit", 3)]


# --- Bounded


def put_many(fleet: Fleet, count: int, **fields: object) -> None:
    """Put records and members there as `submit` does, quicker."""
    fields = {"place": "scheduled", "queue": "default", "state_type": "SCHEDULED"} | fields
    fields |= {"state_name": "Scheduled", "name": "n", "submitted_ms": 0, "run_count": 0}
    fields |= {"delivery": 0, "due_ms": at(fleet, -60), "payload": "{}"}
    for first in range(0, count, 5_000):
        pipeline = fleet.client.pipeline(transaction=False)
        members = {}
        for number in range(first, min(first + 5_000, count)):
            run_id = f"r{number:06}"
            members[f"{number:016x}{run_id}"] = at(fleet, -60)
            pipeline.hset(fleet.keys["run"] + run_id, mapping=fields | {"member": run_id})
        pipeline.zadd(fleet.keys["scheduled"] + "default", members)
        pipeline.execute()


class Counted:
    """Counts the commands that a page sends, and its round trips."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trips = self.commands = 0
        make = fleet.client.pipeline

        def pipeline(*args: object, **fields: object) -> object:
            made = make(*args, **fields)
            execute = made.execute

            def counted() -> object:
                self.trips, self.commands = self.trips + 1, self.commands + len(made.command_stack)
                return execute()

            made.execute = counted
            return made

        monkeypatch.setattr(fleet.client, "pipeline", pipeline)


def test_a_page_of_a_long_schedule_costs_no_more_than_its_own_runs(fleet, monkeypatch):
    put_many(fleet, 5_000)
    counted = Counted(fleet, monkeypatch)
    assert page(fleet) == [f"r{number:06}" for number in range(200)]
    assert (counted.trips, counted.commands) == (4, 5 + 3 + 2 * 200 + 200)


def test_a_page_behind_a_full_deployment_looks_at_a_bounded_number(fleet, monkeypatch):
    put_many(fleet, 2_000, deployment="dep")
    fleet.submit("behind")
    fleet.set_deployment("dep", 0)
    counted = Counted(fleet, monkeypatch)
    assert page(fleet) == []
    assert counted.commands <= 1_100


def test_a_dispatcher_puts_apart_what_would_fill_the_page(fleet):
    fleet.submit(*(f"r{number:03}" for number in range(300)), deployment="dep")
    fleet.submit("behind")
    fleet.set_deployment("dep", 0)
    while fleet.dispatch().more:
        pass
    assert page(fleet) == ["behind"]


def test_payloads_that_are_too_large_for_one_page_come_with_the_next_one(fleet, monkeypatch):
    monkeypatch.setattr("dispatcher.pages.MOST_BYTES", 10)
    for run_id, size in (("a", 20), ("b", 4), ("c", 1)):
        fleet.submit(run_id, payload=b"x" * size)
    assert page(fleet) == ["a"]
    take(fleet, "a")
    assert page(fleet) == ["b", "c"]


def test_no_more_than_200_runs_are_listed_whatever_the_caller_asks(fleet):
    put_many(fleet, 210)
    assert len(page(fleet, limit=1_000)) == 200


def test_a_run_that_moves_while_it_is_read_is_left_out(fleet, monkeypatch):
    fleet.submit(*"ab")
    look = "dispatcher.pages._Look.choose"

    def choose(self: object, pool: str, wanted: object, limit: int) -> list[tuple[str, str]]:
        take(fleet, "a")
        return [("a", "q"), ("b", "q"), ("gone", "q")]

    monkeypatch.setattr(look, choose)
    assert page(fleet) == ["b"]
