"""Damage for reconciling to find and repair, done by hand to a fleet with a run in each place."""

from collections.abc import Callable
from typing import Any, NamedTuple

from dispatcher.records import Claim
from tests.builders import Fleet

HOLDER = "hands.1"


class Busy(NamedTuple):
    """A fleet with a run in each place, named after it, and the claims that its worker has."""

    fleet: Fleet
    claims: dict[str, Claim]

    def key(self, name: str, part: str = "") -> str:
        return self.fleet.keys[name] + part

    def member(self, run_id: str) -> str:
        return self.fleet.run(run_id)["member"]

    def entry(self, run_id: str) -> str:
        return self.fleet.run(run_id)["entry"]


class Damage(NamedTuple):
    """What is done by hand, and what is found: (code, run); with repair perhaps something else.

    `heals`: the repair leaves everything as it was before the damage. `loses`: runs without record.
    """

    do: Callable[[Busy], Any]
    found: list[tuple[str, str]]
    heals: bool = True
    repaired: list[tuple[str, str]] | None = None
    loses: tuple[str, ...] = ()


def stray_entry(busy: Busy, run_id: str) -> None:
    fields = {"run": run_id, "payload": "x", "due_ms": 0, "run_count": 0, "delivery": 1}
    busy.fleet.client.xadd(busy.key("stream", "default"), fields)


def read_by_hand(busy: Busy) -> None:
    busy.fleet.client.xreadgroup("workers", "me", {busy.key("stream", "default"): ">"})


def forget_holder(busy: Busy) -> None:
    busy.fleet.client.delete(busy.key("holder", HOLDER), busy.key("claims", HOLDER))


def lose_group(busy: Busy) -> None:
    busy.fleet.client.xgroup_destroy(busy.key("stream", "default"), "workers")
    busy.fleet.client.delete(busy.key("ready"), busy.key("wake", "default"))


def c(busy: Busy) -> Any:
    return busy.fleet.client


NOTHING_LEFT = [("bytes", ""), ("nothing-ready", "")]
DAMAGES = {
    # --- A slot without a run, a run without a slot
    "a slot of the pool without a run": Damage(
        lambda b: c(b).zadd(b.key("pool_slots"), {"ghost": 1}), [("stray-slot", "ghost")]
    ),
    "a slot of a queue for a run that has ended": Damage(
        lambda b: c(b).zadd(b.key("queue_slots", "default"), {"ended": 1}),
        [("stray-slot", "ended")],
    ),
    "a slot of a queue for a claimed run of another one": Damage(
        lambda b: c(b).zadd(b.key("queue_slots", "idle"), {"claimed": 1}),
        [("stray-slot", "claimed")],
    ),
    "a slot of a deployment for a run of another one": Damage(
        lambda b: c(b).zadd(b.key("deployment_slots", "three"), {"claimed": 1}),
        [("stray-slot", "claimed")],
    ),
    "a claimed run without a slot of the pool": Damage(
        lambda b: c(b).zrem(b.key("pool_slots"), "claimed"), [("no-slot", "claimed")]
    ),
    "a claimed run without a slot of its queue": Damage(
        lambda b: c(b).zrem(b.key("queue_slots", "default"), "claimed"), [("no-slot", "claimed")]
    ),
    "a claimed run without a slot of its deployment": Damage(
        lambda b: c(b).zrem(b.key("deployment_slots", "one"), "claimed"),
        [("no-slot", "claimed"), ("unmarked", "")],
        heals=False,
    ),
    "a run in its stream without a slot of its deployment": Damage(
        lambda b: c(b).zrem(b.key("deployment_slots", "two"), "stream"), [("no-slot", "stream")]
    ),
    # --- A run in two places
    "a claimed run that is scheduled, too": Damage(
        lambda b: c(b).zadd(b.key("scheduled", "default"), {b.member("claimed"): 1}),
        [("two-places", "claimed")],
    ),
    "a scheduled run that waits, too": Damage(
        lambda b: c(b).zadd(b.key("waiting", "one:default"), {b.member("scheduled"): 1}),
        [("two-places", "scheduled")],
    ),
    "a scheduled run that another queue's schedule has, too": Damage(
        lambda b: c(b).zadd(b.key("scheduled", "idle"), {b.member("scheduled"): 1}),
        [("two-places", "scheduled")],
    ),
    "a scheduled run that is in the schedule twice": Damage(
        lambda b: c(b).zadd(b.key("scheduled", "default"), {"f" * 16 + "scheduled": 1}),
        [("two-places", "scheduled")],
    ),
    "a waiting run that waits for another deployment, too": Damage(
        lambda b: c(b).zadd(b.key("waiting", "two:default"), {b.member("waiting"): 1}),
        [("two-places", "waiting"), ("not-listed", "")],
    ),
    "an ended run among the dead letters": Damage(
        lambda b: c(b).zadd(b.key("dead"), {"ended": 1}), [("two-places", "ended")]
    ),
    "a run in its stream that is listed as ended": Damage(
        lambda b: c(b).zadd(b.key("finished"), {"stream": 1}), [("two-places", "stream")]
    ),
    "a run among the claims of a worker that has not claimed it": Damage(
        lambda b: c(b).sadd(b.key("claims", HOLDER), "stream"), [("two-places", "stream")]
    ),
    "a second entry of a run": Damage(
        lambda b: stray_entry(b, "stream"), [("two-places", "stream")]
    ),
    # --- Entries and listings without a record
    "an entry of an unknown run": Damage(
        lambda b: stray_entry(b, "ghost"), [("no-record", "ghost")], heals=False
    ),
    "the record of a claimed run is gone": Damage(
        lambda b: c(b).delete(b.key("run", "claimed")),
        [("no-record", "claimed")] * 2 + [("stray-slot", "claimed")] * 3,
        heals=False,
        loses=("claimed",),
    ),
    "the record of a run in its stream is gone": Damage(
        lambda b: c(b).delete(b.key("run", "stream")),
        [("no-record", "stream"), ("stray-mark", "stream"), ("stray-slot", "stream")],
        heals=False,
        loses=("stream",),
    ),
    "the record of a waiting run is gone": Damage(
        lambda b: c(b).delete(b.key("run", "waiting")),
        [("no-record", "waiting")],
        heals=False,
        loses=("waiting",),
    ),
    "the record of a dead letter is gone": Damage(
        lambda b: c(b).delete(b.key("run", "dead")),
        [("no-record", "dead")],
        heals=False,
        loses=("dead",),
    ),
    # --- Records without an entry, or without what lists them
    "the entry of an unclaimed run is gone": Damage(
        lambda b: c(b).xdel(b.key("stream", "default"), b.entry("stream")),
        [*NOTHING_LEFT, ("no-entry", "stream")],
        heals=False,
    ),
    "a whole stream is gone": Damage(
        lambda b: c(b).delete(b.key("stream", "default")),
        [*NOTHING_LEFT, ("no-entry", "stream")],
        heals=False,
    ),
    "the entry of a claimed run is gone": Damage(
        lambda b: c(b).xdel(b.key("stream", "default"), b.entry("claimed")),
        [*NOTHING_LEFT, ("stray-mark", "")],
        heals=False,
        repaired=[("stray-mark", "")],
    ),
    "a scheduled run that the schedule lacks": Damage(
        lambda b: c(b).zrem(b.key("scheduled", "default"), b.member("scheduled")),
        [("not-listed", "scheduled")],
    ),
    "a scheduled run at another time than its record": Damage(
        lambda b: c(b).zadd(b.key("scheduled", "default"), {b.member("scheduled"): 1}),
        [("not-listed", "scheduled")],
    ),
    "a waiting run that waits nowhere": Damage(
        lambda b: c(b).zrem(b.key("waiting", "one:default"), b.member("waiting")),
        [("not-listed", "waiting"), ("stray-mark", "")],
        heals=False,
    ),
    "a waiting set that is not listed": Damage(
        lambda b: c(b).zrem(b.key("waits"), "one default"), [("not-listed", "")], heals=False
    ),
    "a waiting set that is listed and empty": Damage(
        lambda b: c(b).zadd(b.key("waits"), {"two default": 0}), [("stray-mark", "")]
    ),
    "a claimed run that its worker's claims lack": Damage(
        lambda b: c(b).srem(b.key("claims", HOLDER), "claimed"), [("not-listed", "claimed")]
    ),
    "a dead letter that is not listed": Damage(
        lambda b: c(b).zrem(b.key("dead"), "dead"), [("not-listed", "dead")]
    ),
    "an ended run that is not listed": Damage(
        lambda b: c(b).zrem(b.key("finished"), "ended"), [("not-listed", "ended")]
    ),
    "an order to cancel is lost": Damage(
        lambda b: c(b).delete(b.key("orders", HOLDER), b.key("inbox", HOLDER)),
        [("no-order", "cancelling")],
    ),
    "an order to cancel a run that nobody cancels": Damage(
        lambda b: c(b).sadd(b.key("orders", HOLDER), "claimed"), [("stray-mark", "claimed")]
    ),
    "a run that has started is to be announced as late": Damage(
        lambda b: c(b).zadd(b.key("unstarted"), {"claimed": 1}), [("stray-mark", "claimed")]
    ),
    # --- Groups, consumers, holders
    "a worker is forgotten with what it holds": Damage(
        forget_holder,
        [("dead-consumer", "cancelling"), ("dead-consumer", "claimed")]
        + [("stray-holder", "")] * 2,
        heals=False,
    ),
    "an entry was read by hand": Damage(
        read_by_hand,
        [*NOTHING_LEFT, ("dead-consumer", "stream")],
        heals=False,
        repaired=[("dead-consumer", "stream")],
    ),
    "a consumer of nobody is left over": Damage(
        lambda b: c(b).xgroup_createconsumer(b.key("stream", "default"), "workers", "ghost"),
        [("dead-consumer", "")],
    ),
    "the group is gone": Damage(
        lambda b: c(b).xgroup_destroy(b.key("stream", "default"), "workers"),
        [("no-group", "")],
        repaired=[("no-group", ""), ("not-pending", "cancelling"), ("not-pending", "claimed")],
    ),
    "the group is gone with everybody asleep": Damage(
        lose_group,
        [("no-group", "")],
        repaired=[("no-group", ""), ("not-pending", "cancelling"), ("not-pending", "claimed")],
    ),
    "the entry of a claimed run is pending for nobody": Damage(
        lambda b: c(b).xack(b.key("stream", "default"), "workers", b.entry("claimed")),
        [("not-pending", "claimed")],
    ),
    "the entry of a claimed run is pending for somebody else": Damage(
        lambda b: c(b).xclaim(
            b.key("stream", "default"), "workers", "ghost", 0, [b.entry("claimed")]
        ),
        [("wrong-consumer", "claimed")],
    ),
    "a claim without its fencing token": Damage(
        lambda b: c(b).hdel(b.key("run", "claimed"), "token"),
        [("no-holder", "claimed")],
        heals=False,
    ),
    "a claim without its holder and its entry": Damage(
        lambda b: c(b).hdel(b.key("run", "claimed"), "holder", "entry"),
        [("no-holder", "claimed")] + [("two-places", "claimed")] * 2,
        heals=False,
    ),
    "a claim of a worker that nobody knows": Damage(
        lambda b: c(b).hset(b.key("run", "claimed"), "holder", "ghost.1"),
        [("no-holder", "claimed"), ("two-places", "claimed")],
        heals=False,
    ),
    "a worker without a lease": Damage(
        lambda b: c(b).zrem(b.key("holders"), HOLDER), [("no-lease", "")]
    ),
    "a lease without a worker": Damage(
        lambda b: c(b).zadd(b.key("holders"), {"ghost.1": 1}), [("stray-holder", "")]
    ),
    "a worker whose name has no holder": Damage(
        lambda b: c(b).hdel(b.key("workers"), "hands"), [("not-listed", "")]
    ),
    "a name whose holder is not there": Damage(
        lambda b: c(b).hset(b.key("workers"), "ghost", "ghost.1"), [("stray-holder", "")]
    ),
    # --- Who is woken
    "an unclaimed entry with everybody asleep": Damage(
        lambda b: c(b).delete(b.key("ready"), b.key("wake", "default")), [("asleep", "")]
    ),
    "an empty queue that is offered": Damage(
        lambda b: c(b).zadd(b.key("ready"), {"idle": 2}), [("nothing-ready", "")]
    ),
    "bytes are counted in an empty queue": Damage(
        lambda b: c(b).hset(b.key("queue", "idle"), "unclaimed_bytes", 7),
        [("bytes", "")],
        heals=False,
    ),
    "a waiting run with a free slot": Damage(
        lambda b: c(b).hset(b.key("deployment", "one"), "limit", 2),
        [("unmarked", "")],
        heals=False,
    ),
    # --- When records end
    "a scheduled run whose record would be forgotten": Damage(
        lambda b: c(b).pexpire(b.key("run", "scheduled"), 9_999_999), [("expires", "scheduled")]
    ),
    "an ended run whose record would stay": Damage(
        lambda b: c(b).persist(b.key("run", "ended")), [("no-ttl", "ended")]
    ),
}
