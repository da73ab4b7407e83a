"""The slow work of a dispatcher: its pace, what it logs, and dead letters that were kept enough."""

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import structlog
from structlog.testing import capture_logs

from dispatcher.connection import Connection
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.stored import DEAD_RETENTION_MS
from dispatcher.upkeep import PAGE_REST_S, Upkeep
from tests.builders import POOL, Fleet, shown

EVERY_S = 600.0
LEASE_MS = 15_000  # what `kill` takes


@pytest.fixture
def fleet(prefix: str) -> Iterator[Fleet]:
    with fakeredis.FakeRedis(version=(7,), protocol=2) as client:
        yield Fleet(client, prefix)


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def an_upkeep(fleet: Fleet, *pools: str, every_s: float = EVERY_S, **fields: Any) -> Upkeep:
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)
    names = pools or (POOL,)
    return Upkeep(fleet.store, inspector, pools=lambda: names, every_s=every_s, **fields)


def one_pass(upkeep: Upkeep) -> tuple[list[float], list[Any]]:
    """Return the rests of a pass, from the wait before it to the one behind it, and its logs."""
    with capture_logs() as logs:
        rests = [upkeep.run_once(), upkeep.run_once()]
        while rests[-1] <= PAGE_REST_S:
            rests.append(upkeep.run_once())
    return rests, [row for row in logs if row["log_level"] != "debug"]


def kill(fleet: Fleet, *run_ids: str) -> None:
    """Let runs be lost once too often."""
    fleet.set_queue(max_deliveries=1)
    fleet.put(*run_ids)
    holder = fleet.register()
    for claim in fleet.claim(holder, slots=len(run_ids)):
        fleet.start(claim)
    fleet.lose(holder)


def test_it_rests_before_a_pass_behind_each_page_and_until_the_next_pass(fleet):
    rests, logs = one_pass(an_upkeep(fleet))

    assert EVERY_S / 10 <= rests[0] <= EVERY_S
    assert set(rests[1:-1]) == {PAGE_REST_S}
    assert EVERY_S * 0.75 <= rests[-1] <= EVERY_S * 1.25
    assert logs == []


def test_those_that_start_together_do_not_work_together(fleet):
    assert len({an_upkeep(fleet).run_once() for _ in range(5)}) == 5


def test_a_shorter_interval_has_shorter_rests(fleet):
    upkeep = an_upkeep(fleet, every_s=3.0)
    upkeep.run_once()

    assert upkeep.run_once() == 0.01


def test_it_repairs_and_says_what_with_pool_and_run(fleet):
    fleet.submit("a")
    fleet.client.delete(fleet.keys["scheduled"] + "default")

    _, logs = one_pass(an_upkeep(fleet))

    assert logs == [
        {
            "event": "repaired",
            "log_level": "warning",
            "what": "not-listed",
            "pool": POOL,
            "queue": "default",
            "run": "a",
            "reason": "is scheduled in default and not in the schedule",
            "repair": "put there",
        }
    ]
    assert one_pass(an_upkeep(fleet))[1] == []


def test_what_it_cannot_repair_is_said_in_each_pass_and_the_other_pools_are_looked_at(
    fleet, prefix
):
    other = Fleet(fleet.client, prefix, "other")
    other.client.zadd(other.keys["pool_slots"], {"ghost": 1})
    fleet.client.hset(fleet.keys["pool"], "version", 2)
    upkeep = an_upkeep(fleet, POOL, "other")

    passes = [one_pass(upkeep)[1] for _ in range(2)]

    assert [[(row["event"], row["pool"], row["what"]) for row in logs] for logs in passes] == [
        [("not-repaired", POOL, "refused"), ("repaired", "other", "stray-slot")],
        [("not-repaired", POOL, "refused")],
    ]


def test_pools_that_are_not_its_own_are_not_named(fleet, prefix):
    fleet.client.srem(f"{prefix}:pools", POOL)

    assert one_pass(an_upkeep(fleet, "other", all_pools=False))[1] == []
    (row,) = one_pass(an_upkeep(fleet, "other"))[1]
    assert (row["what"], row["pool"]) == ("unnamed-pool", POOL)


def test_a_server_that_forbids_a_command_does_not_end_it(fleet, monkeypatch):
    def forbid(*_: object, **__: object) -> None:
        raise RedisRefused("no permission to run 'scan'")

    monkeypatch.setattr(fleet.client, "scan", forbid)

    rests, logs = one_pass(an_upkeep(fleet))

    assert [(row["event"], row["reason"]) for row in logs] == [
        ("upkeep-stopped", "no permission to run 'scan'")
    ]
    assert rests[-1] > PAGE_REST_S


def test_after_an_outage_a_pass_begins_anew(fleet, monkeypatch):
    upkeep = an_upkeep(fleet)
    for _ in range(2):
        upkeep.run_once()
    fleet.client.zadd(fleet.keys["pool_slots"], {"ghost": 1})
    with monkeypatch.context() as patched:

        def fail(*_: object, **__: object) -> None:
            raise RedisUnavailable("away")

        patched.setattr(Connection, "read", fail)
        patched.setattr(Connection, "call", fail)
        with pytest.raises(RedisUnavailable):
            upkeep.run_once()

    with capture_logs() as logs:
        while upkeep.run_once() <= PAGE_REST_S:
            pass
    assert [row["event"] for row in logs if row["log_level"] == "warning"] == ["repaired"]


def test_dead_letters_go_when_their_pool_has_kept_them_for_long_enough(fleet):
    kill(fleet, "a", "b")
    fleet.advance(DEAD_RETENTION_MS - LEASE_MS - 1)
    kill(fleet, "c")
    assert one_pass(an_upkeep(fleet))[1] == []
    fleet.set_pool(dead_retention_ms=fleet.store.now_ms - int(fleet.run("a")["ended_ms"]))
    events, message = len(fleet.dump()["events"]), fleet.run("a")["message"]

    _, logs = one_pass(an_upkeep(fleet))

    assert logs == [
        {
            "event": "purged",
            "log_level": "warning",
            "pool": POOL,
            "runs": 2,
            "reason": "kept for long enough",
        }
    ]
    purged = [
        shown(
            "purged",
            at_ms=fleet.store.now_ms,
            **{"run": run_id, "queue": "default", "from": "CRASHED", "by": "retention"},
            reason=message,
        )
        for run_id in ("a", "b")
    ]
    state = fleet.dump()
    assert state["events"][events:] == purged
    assert (list(state["dead"]), "run:a" in state, "run:c" in state) == (["c"], False, True)


def test_more_dead_letters_than_a_step_takes_go_page_by_page(fleet):
    runs = [f"run-{n}" for n in range(230)]
    for page in range(0, 230, 100):
        kill(fleet, *runs[page : page + 100])
    fleet.set_pool(dead_retention_ms=0)

    rests, logs = one_pass(an_upkeep(fleet))

    assert [(row["event"], row["runs"]) for row in logs] == [("purged", 230)]
    assert "dead" not in fleet.dump()
    assert len(rests) > 3
