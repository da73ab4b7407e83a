"""Every change leaves an event that says of which run, from what to what, who, why and when."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dispatcher
from dispatcher.errors import Refused
from dispatcher.records import Claim
from tests.builders import POOL, T0, Fleet

MINUTE_MS = 60_000
LUA = Path(dispatcher.__file__).parent / "lua"
RUN = {"run": "a", "queue": "default"}
WORKER = {"worker": "w.1"}
TO_DEAD = {"max_deliveries": 1}


def claimed(fleet: Fleet, **fields: Any) -> Claim:
    fleet.put("a", **fields)
    return fleet.claim_one(fleet.register())


def running(fleet: Fleet, **fields: Any) -> Claim:
    claim = claimed(fleet, **fields)
    fleet.start(claim)
    return claim


def ended(fleet: Fleet, **fields: Any) -> None:
    fleet.finish(running(fleet, **fields))


def dead(fleet: Fleet) -> None:
    fleet.set_queue(**TO_DEAD)
    running(fleet)
    fleet.lose("w.1")


def waiting(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0)
    fleet.put("a", deployment="dep")


def refused(fleet: Fleet, **fields: Any) -> None:
    with suppress(Refused):
        fleet.submit("a", request="other", **fields)
        raise AssertionError("it was accepted")


def drained(fleet: Fleet) -> str:
    holder = fleet.register()
    fleet.store.drain(POOL, holder, reason="stop")
    return holder


def late(fleet: Fleet) -> None:
    fleet.put("a")
    fleet.advance(MINUTE_MS)
    fleet.watch()


def pause_that_ends(fleet: Fleet, queue: str | None, **fields: Any) -> None:
    fleet.pause(queue, until_ms=T0 + 9, **fields)
    fleet.advance(9)
    fleet.dispatch()


def with_policy(fleet: Fleet, then: Callable[[Fleet], Any], **fields: Any) -> None:
    fleet.set_queue(**fields)
    then(fleet)


def claim_too_late(fleet: Fleet) -> None:
    fleet.put("a")
    fleet.advance(MINUTE_MS)
    fleet.claim(fleet.register())


def dispatch_too_late(fleet: Fleet) -> None:
    fleet.submit("a")
    fleet.advance(MINUTE_MS)
    fleet.dispatch()


def cancel_new(fleet: Fleet) -> None:
    fleet.set_deployment("dep", 0, "CANCEL_NEW")
    fleet.put("a", deployment="dep")


def cancelling(fleet: Fleet) -> Claim:
    claim = running(fleet)
    fleet.cancel("a", reason="not wanted", by="ana")
    return claim


def admitted(fleet: Fleet) -> None:
    waiting(fleet)
    fleet.set_deployment("dep", 1)
    fleet.dispatch()


def withdrawn(fleet: Fleet) -> None:
    fleet.put("a")
    fleet.pause()
    fleet.withdraw()


def old_token(fleet: Fleet, step: str) -> None:
    claim = claimed(fleet)
    fleet.lose("w.1")
    getattr(fleet, step)(claim)


def purged(fleet: Fleet) -> None:
    dead(fleet)
    fleet.purge("a", by="ana")


def requeued(fleet: Fleet) -> None:
    dead(fleet)
    fleet.requeue("a", T0, by="ana")


def deleted(fleet: Fleet) -> None:
    fleet.create_queue("other")
    fleet.pause("other", intake=True)
    fleet.pause("other")
    fleet.store.delete_queue(POOL, "other", by="ana")


def told(state: str, to: str, reason: str = "", **fields: str) -> dict[str, str]:
    """The event of a run that goes from one state to another."""
    return RUN | {"from": state, "to": to} | ({"reason": reason} if reason else {}) | fields


def drop(then: Callable[[Fleet], Any]) -> Callable[[Fleet], None]:
    return lambda fleet: with_policy(fleet, then, late_drop_ms=1000)


def crash(fleet: Fleet) -> None:
    with_policy(fleet, running, on_worker_lost="crash")
    fleet.lose("w.1")


WHY = {"reason": "disk is full", "by": "ana"}
TOO_LATE = "late by more than 1 s, which its queue drops"
END_OF_PAUSE = {"reason": "the end of the pause has come"}
DUE = {"due_ms": str(T0)}
CRASHED = "its worker was lost while running it"
NOT_WANTED = {"reason": "not wanted", "by": "ana"}

# The event's name, what leads to it, and all that it says beside its name and time.
TABLE: list[tuple[str, Callable[[Fleet], Any], dict[str, str]]] = [
    ("pool-created", lambda f: None, {"id": f"id-of-{POOL}"}),
    ("queue-created", lambda f: f.create_queue("q"), {"queue": "q", "id": "id-of-q"}),
    ("queue-deleted", deleted, {"queue": "other", "by": "ana"}),
    (
        "pool-set",
        lambda f: f.store.set_pool(POOL, {"limit": 3, "command": None}, by="ana"),
        {"reason": "limit=3 command=none", "by": "ana"},
    ),
    (
        "queue-set",
        lambda f: f.store.set_queue(POOL, "default", {"limit": None}, priority=2, by="ana"),
        {"queue": "default", "reason": "priority=2 limit=none", "by": "ana"},
    ),
    (
        "deployment-set",
        lambda f: f.store.set_deployment(POOL, "dep", 3, strategy="CANCEL_NEW", by="ana"),
        {"deployment": "dep", "limit": "3", "reason": "CANCEL_NEW", "by": "ana"},
    ),
    (
        "deployment-set",
        lambda f: f.store.set_deployment(POOL, "dep", None, by="ana"),
        {"deployment": "dep", "reason": "no limit", "by": "ana"},
    ),
    ("paused", lambda f: f.pause(until_ms=T0 + 9, **WHY), WHY | {"until_ms": str(T0 + 9)}),
    ("paused", lambda f: f.pause("default", **WHY), WHY | {"queue": "default"}),
    ("intake-paused", lambda f: f.pause(intake=True, **WHY), WHY),
    ("resumed", lambda f: (f.pause(), f.resume(by="bo")), {"by": "bo"}),
    ("resumed", lambda f: pause_that_ends(f, None), END_OF_PAUSE),
    ("resumed", lambda f: pause_that_ends(f, "default"), END_OF_PAUSE | {"queue": "default"}),
    (
        "intake-resumed",
        lambda f: (f.pause("default", intake=True), f.resume("default", intake=True, by="bo")),
        {"queue": "default", "by": "bo"},
    ),
    ("intake-resumed", lambda f: pause_that_ends(f, None, intake=True), END_OF_PAUSE),
    ("submitted", lambda f: f.submit("a"), RUN | {"to": "SCHEDULED"} | DUE),
    (
        "submitted",
        lambda f: (ended(f), f.submit("a", request="new", state_id="2", due_ms=T0 + 1)),
        told("COMPLETED", "SCHEDULED", due_ms=str(T0 + 1)),
    ),
    (
        "retimed",
        lambda f: (f.submit("a"), f.submit("a", request="other", due_ms=T0 + 1)),
        told("SCHEDULED", "SCHEDULED", due_ms=str(T0 + 1)),
    ),
    (
        "retimed",
        lambda f: (f.submit("a"), f.retime("a", T0 + 1, by="ana")),
        RUN | {"due_ms": str(T0 + 1), "by": "ana"},
    ),
    (
        "refused",
        lambda f: (running(f), refused(f, due_ms=T0 + 1)),
        RUN | {"reason": "offered for another time while a worker has it"},
    ),
    (
        "refused",
        lambda f: (ended(f), refused(f, due_ms=T0 + 1)),
        RUN | {"reason": "offered again after its end"},
    ),
    (
        "refused",
        lambda f: (f.pause(intake=True, **WHY), refused(f)),
        RUN | {"reason": "intake is paused: disk is full"},
    ),
    *(
        (
            "refused",
            lambda f, s=step: old_token(f, s),
            RUN | {"reason": f"a {step} with an old token"},
        )
        for step in ("start", "finish", "release")
    ),
    ("dispatched", lambda f: f.put("a"), RUN | DUE),
    ("waiting", waiting, RUN | {"deployment": "dep"}),
    ("admitted", admitted, RUN | {"deployment": "dep"}),
    ("skipped", drop(dispatch_too_late), told("SCHEDULED", "CANCELLED", TOO_LATE)),
    ("skipped", drop(claim_too_late), told("SCHEDULED", "CANCELLED", TOO_LATE)),
    (
        "skipped",
        cancel_new,
        told("SCHEDULED", "CANCELLED", "Deployment concurrency limit reached."),
    ),
    ("withdrawn", withdrawn, RUN),
    ("claimed", claimed, told("SCHEDULED", "PENDING", **WORKER)),
    ("started", running, told("PENDING", "RUNNING", **WORKER)),
    ("finished", ended, told("RUNNING", "COMPLETED", **WORKER)),
    (
        "finished",
        lambda f: f.finish(running(f), "FAILED"),
        told("RUNNING", "FAILED", "exit code 1", **WORKER),
    ),
    (
        "finished",
        lambda f: f.finish(cancelling(f)),
        told("CANCELLING", "CANCELLED", "not wanted", **WORKER),
    ),
    (
        "finished",
        lambda f: f.release(cancelling(f), "worker stops"),
        told("CANCELLING", "CANCELLED", "worker stops", **WORKER),
    ),
    (
        "finished",
        lambda f: (cancelling(f), f.lose("w.1")),
        told("CANCELLING", "CANCELLED", "not wanted", **WORKER),
    ),
    ("finished", crash, told("RUNNING", "CRASHED", CRASHED, **WORKER)),
    (
        "retrying",
        lambda f: f.finish(running(f, retries=1, retry_delay_ms=5), "FAILED"),
        told("RUNNING", "SCHEDULED", "exit code 1", due_ms=str(T0 + 5), **WORKER),
    ),
    (
        "released",
        lambda f: f.release(running(f), "worker stops"),
        told("RUNNING", "SCHEDULED", "worker stops", **WORKER),
    ),
    (
        "released",
        lambda f: f.take_away(claimed(f), by="ana"),
        told("PENDING", "SCHEDULED", "taken away", by="ana", **WORKER),
    ),
    (
        "cancelled",
        lambda f: (f.submit("a"), f.cancel("a", **NOT_WANTED)),
        told("SCHEDULED", "CANCELLED", **NOT_WANTED),
    ),
    ("cancelling", cancelling, told("RUNNING", "CANCELLING", **NOT_WANTED, **WORKER)),
    ("late", late, RUN | DUE | {"from": "SCHEDULED"}),
    (
        "unserved",
        late,
        {"queue": "default", "reason": "due runs and no live worker for this queue"},
    ),
    (
        "lost",
        lambda f: (running(f), f.lose("w.1")),
        told("RUNNING", "SCHEDULED", "while running", **WORKER),
    ),
    (
        "lost",
        lambda f: (claimed(f), f.lose("w.1")),
        told("PENDING", "SCHEDULED", "before start", **WORKER),
    ),
    ("dead", dead, told("RUNNING", "CRASHED", "lost while running 1 time", **WORKER)),
    ("requeued", requeued, told("CRASHED", "SCHEDULED", by="ana") | DUE),
    (
        "purged",
        purged,
        RUN | {"from": "CRASHED", "reason": "lost while running 1 time", "by": "ana"},
    ),
    ("registered", lambda f: f.register(), WORKER),
    ("draining", drained, WORKER | {"reason": "stop"}),
    ("drained", lambda f: f.store.recover_all(POOL, drained(f)), WORKER),
    ("worker-lost", lambda f: f.lose(f.register()), WORKER),
    ("recovered", lambda f: f.lose(f.register()), WORKER),
]
# tests/redis/test_reconcil*.py, test_delete.py, test_hand_over.py
ELSEWHERE = {"repaired", "pool-deleted", "handed-over"}


@pytest.mark.parametrize(
    ("name", "lead_to", "says"),
    TABLE,
    ids=[" ".join([name, *says.values()]) for name, _, says in TABLE],
)
def test_a_change_leaves_the_event(fleet, name, lead_to, says):
    lead_to(fleet)

    *_, last = [event for event in fleet.dump()["events"] if event["event"] == name]

    assert last == {"event": name, "at_ms": str(fleet.store.now_ms)} | says


def test_every_event_that_a_script_leaves_is_in_the_table():
    calls = "".join(
        call
        for file in LUA.glob("*.lua")
        for call in re.findall(r"event\(keys, at_ms, ([^{]*),\s*{", file.read_text())
    )
    names = set(re.findall(r'"([a-z-]+)"', calls))

    assert names == {name for name, _, _ in TABLE} - {"released"} | ELSEWHERE


def test_old_events_make_room_for_new_ones(fleet):
    pipeline = fleet.client.pipeline(transaction=False)
    for number in range(10_500):
        pipeline.xadd(fleet.keys["events"], {"event": f"old-{number}"})
    pipeline.execute()

    fleet.submit("a")

    assert 10_000 <= fleet.client.xlen(fleet.keys["events"]) <= 10_200
    (latest,) = fleet.client.xrevrange(fleet.keys["events"], count=1)
    assert latest[1][b"event"] == b"submitted"
