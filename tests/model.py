"""What one pool has stored, read whole, and what the outside world was told of it.

`Stored` is one moment of the server. `Ledger` is what callers were told and may rely on; the
events move its runs. What must hold between the two is in `promises.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dispatcher.keys import TABLE, PoolKeys
from dispatcher.records import Word

BYTES = {"payload", "output"}  # kept as they are; all other fields are text
UNCLAIMED = {"scheduled", "waiting", "stream"}
OVER = {"ended", "dead"}
# Event: the places it may leave, the place it leads to; "" is a run that is not known.
MOVES = {
    "submitted": ({"", *OVER}, "scheduled"),
    "retimed": (UNCLAIMED, "scheduled"),
    "dispatched": ({"scheduled"}, "stream"),
    "waiting": ({"scheduled"}, "waiting"),
    "admitted": ({"waiting"}, "scheduled"),
    "skipped": ({"scheduled", "stream"}, "ended"),
    "withdrawn": ({"stream"}, "scheduled"),
    "cancelled": (UNCLAIMED, "ended"),
    "claimed": ({"stream", "scheduled"}, "claimed"),  # out of the schedule by a take
    "started": ({"claimed"}, "claimed"),
    "cancelling": ({"claimed"}, "claimed"),
    "retrying": ({"claimed"}, "scheduled"),
    "finished": ({"claimed"}, "ended"),
    "released": ({"claimed"}, "scheduled"),
    "lost": ({"claimed"}, "scheduled"),
    "dead": ({"claimed"}, "dead"),
    "requeued": ({"dead"}, "scheduled"),
    "purged": ({"dead"}, ""),
}
# Events after which a run is to start by a moment; a run that was announced late is not again.
EXPECTED = {"submitted", "retimed", "admitted", "requeued", "retrying"}
SETTLED = {"started", "waiting", "cancelled", "cancelling", "skipped", "finished", "dead"}


@dataclass(frozen=True)
class Stream:
    """A queue's stream: its entries in order, and who has which of them pending."""

    entries: dict[str, dict[str, Any]]
    pending: dict[str, str]
    consumers: frozenset[str]
    grouped: bool

    @property
    def unread(self) -> int:
        """How many entries nobody has, whatever they stand for: these count against the bound."""
        return len(self.entries) - len(self.pending)


@dataclass(frozen=True)
class Stored:
    """All keys of a pool at one moment: `stored["run"]` is every run's record by id."""

    tables: dict[str, dict[str, Any]]
    expires_ms: dict[tuple[str, str], int]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.tables.get(name, {})

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """Every run's record by id."""
        return self["run"]

    @property
    def queues(self) -> list[str]:
        """The encoded names of the queues, highest priority first."""
        return [name for name, _ in self["queues"].get("", [])]

    @property
    def events(self) -> dict[str, dict[str, str]]:
        """All events by id, oldest first."""
        return self["events"][""].entries if "" in self["events"] else {}

    def members(self, name: str, key: str = "") -> list[str]:
        """Return the members of a zset in order, none when it is not there."""
        return [member for member, _ in self[name].get(key, [])]

    def unclaimed(self, queue: str) -> list[str]:
        """Return the runs that wait in the stream of a queue, in its order."""
        stream = self["stream"].get(queue)
        pairs = [(e, f["run"]) for e, f in stream.entries.items()] if stream else []
        runs = self.runs
        return [
            run
            for entry, run in pairs
            if runs.get(run, {}).get("place") == "stream" and runs[run]["entry"] == entry
        ]

    def unread(self, queue: str) -> int:
        """Return how many entries count against the bound of a queue."""
        stream = self["stream"].get(queue)
        return stream.unread if stream else 0

    def room(self, slots: str, key: str = "") -> float:
        """Return how many more runs the limit of these slots lets through."""
        settings = self[slots.removesuffix("_slots")].get(key, {})
        most = int(settings["limit"]) if "limit" in settings else math.inf
        return most - len(self.members(slots, key))

    def paused_until_ms(self, queue: str | None, now_ms: int, kind: str = "paused") -> float:
        """Return when the pause of a queue (None: the pool) ends; 0 when there is none now."""
        settings = self["pool"].get("", {}) if queue is None else self["queue"].get(queue, {})
        until_ms = float(settings.get(f"{kind}_until_ms", math.inf))
        return until_ms if kind in settings and now_ms < until_ms else 0

    def is_paused(self, queue: str, now_ms: int, kind: str = "paused") -> bool:
        """Return whether a queue or its pool is paused."""
        ends = (self.paused_until_ms(key, now_ms, kind) for key in (None, queue))
        return any(end > 0 for end in ends)

    @property
    def is_polled(self) -> bool:
        """Whether the pool is handed out by polling."""
        return self["pool"].get("", {}).get("handout") == "poll"

    def waiting(self) -> list[tuple[str, str]]:
        """Return (deployment, queue) of each set of waiting runs."""
        return [tuple(key.split(":", 1)) for key in self["waiting"]]

    def differences(self, other: "Stored", *, beside: set[str]) -> list[str]:
        """Return the keys that differ between two moments, other than those of these names."""
        keys = {(n, k) for s in (self, other) for n, table in s.tables.items() for k in table}
        return sorted(
            f"{name} {key}"
            for name, key in keys
            if name not in beside
            and (
                self[name].get(key) != other[name].get(key)
                or self.expires_ms.get((name, key)) != other.expires_ms.get((name, key))
            )
        )


class Grant(NamedTuple):
    """One claim of a run, told apart by who asked, not by what its token looks like."""

    run: str
    holder: str
    number: int
    token: str

    def holds(self, stored: Stored) -> bool:
        """Return whether this claim is the run's present one."""
        run = stored.runs.get(self.run, {})
        held = run.get("place") == "claimed" and run.get("holder") == self.holder
        return held and int(run.get("claim", -1)) == self.number


class Accepted(NamedTuple):
    """A run as its submitter was told that it is accepted; `due_ms` moves with it."""

    queue: str
    due_ms: int
    payload: bytes
    request: str
    sequence: int
    offered_ms: int
    deployment: str = ""
    state_id: str = ""
    idempotency: str = ""
    retries: int = 0
    retry_delay_ms: int = 0
    retry_type: str = "reschedule"
    word: Word = Word.ACCEPTED


class Answer(NamedTuple):
    """The first answer to the end of a claim: a repeat gets it again."""

    grant: Grant
    run_count: str
    word: Word


@dataclass
class Ledger:
    """What callers were told, and what was done to the data from outside; goes back with it."""

    now_ms: int
    submissions: int = 0
    accepted: dict[str, Accepted] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    counted: bool = False  # whether the finish under way says which start has ended
    first: dict[str, str] = field(default_factory=dict)  # run by idempotency digest
    told: dict[str, tuple[str, str]] = field(default_factory=dict)  # place and state by events
    unstarted: dict[str, int] = field(default_factory=dict)  # from when on a run should start
    late: set[str] = field(default_factory=set)  # announced since they were offered or retimed
    past: dict[str, set[str]] = field(default_factory=dict)  # events since a run was submitted
    unserved: set[str] = field(default_factory=set)  # queues said to have no worker
    skipped: dict[str, int] = field(default_factory=dict)  # by queue
    present: set[str] = field(default_factory=set)  # holders, by events
    unmarked: set[tuple[str, str]] = field(default_factory=set)  # entries that lost their holder
    strays: set[tuple[str, str]] = field(default_factory=set)  # entries that no dispatch made
    awake: set[tuple[str, str]] = field(default_factory=set)  # (holder, queue) of taken wakes


# Everything in one answer: for each key when it expires, and its value; of the events the new ones.
SNAPSHOT = """
local function value_of(key)
    local kind = redis.call("TYPE", key)
    kind = type(kind) == "table" and kind.ok or kind
    if kind == "hash" then
        return redis.call("HGETALL", key)
    elseif kind == "zset" then
        return redis.call("ZRANGE", key, 0, -1, "WITHSCORES")
    elseif kind == "set" then
        return redis.call("SMEMBERS", key)
    elseif kind == "list" then
        return redis.call("LRANGE", key, 0, -1)
    elseif kind == "string" then
        return redis.call("GET", key)
    elseif key == ARGV[2] then
        return { redis.call("XLEN", key), redis.call("XRANGE", key, ARGV[3], "+") }
    end
    local pending = redis.pcall("XPENDING", key, "workers", "-", "+", 10000)
    if pending.err then
        return { redis.call("XRANGE", key, "-", "+") }
    end
    local consumers = redis.call("XINFO", "CONSUMERS", key, "workers")
    return { redis.call("XRANGE", key, "-", "+"), pending, consumers }
end
local answer = {}
for _, key in ipairs(redis.call("KEYS", ARGV[1])) do
    answer[#answer + 1] = { key, redis.call("PEXPIRETIME", key), value_of(key) }
end
return answer
"""
_TYPES = {row.name: row.type for row in TABLE}


def read(client: Any, keys: PoolKeys, known: dict[str, dict[str, str]]) -> Stored:
    """Return everything that the pool has stored; events that are known are not read again."""
    tag = keys["pool"].removesuffix("pool")
    after = f"({list(known)[-1]}" if known else "-"
    rows = client.eval(SNAPSHOT, 0, tag + "*", keys["events"], after)
    tables: dict[str, dict[str, Any]] = {}
    expires_ms = {}
    for raw_key, expires, value in sorted(rows):
        name, key = _named(keys, raw_key.decode())
        expires_ms[name, key] = expires
        told = _events(known, value) if name == "events" else _value(_TYPES[name], value)
        tables.setdefault(name, {})[key] = told
    return Stored(tables, expires_ms)


def _named(keys: PoolKeys, key: str) -> tuple[str, str]:
    bases = [row for row in TABLE if row.pattern.startswith("{p}")]
    for row in bases:
        if key == keys[row.name] or ("<" in row.pattern and key.startswith(keys[row.name])):
            return row.name, key.removeprefix(keys[row.name])
    raise AssertionError(f"{key} is not in the data model")


def _events(known: dict[str, dict[str, str]], value: list[Any]) -> Stream:
    count, news = value
    events = known | {entry.decode(): _fields(fields) for entry, fields in news}
    assert count == len(events), "an event has gone"
    return Stream(events, {}, frozenset(), grouped=False)


def _value(kind: str, value: Any) -> Any:
    if kind == "hash":
        return _fields(value)
    if kind == "zset":
        return [(member.decode(), int(score)) for member, score in _pairs(value)]
    if kind in ("set", "list"):
        return sorted(member.decode() for member in value)
    if kind == "string":
        return value.decode()
    entries = {entry.decode(): _fields(fields) for entry, fields in value[0]}
    if len(value) == 1:
        return Stream(entries, {}, frozenset(), grouped=False)
    pending = {entry.decode(): consumer.decode() for entry, consumer, *_ in value[1]}
    consumers = frozenset(dict(_pairs(row))[b"name"].decode() for row in value[2])
    return Stream(entries, pending, consumers, grouped=True)


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _fields(raw: list[bytes]) -> dict[str, Any]:
    named = ((name.decode(), value) for name, value in _pairs(raw))
    return {name: value if name in BYTES else value.decode() for name, value in named}


def follow(ledger: Ledger, events: list[dict[str, str]]) -> None:
    """Move the runs of the ledger as new events say; raises AssertionError for an odd move."""
    for event in events:
        name, run, worker = event["event"], event.get("run", ""), event.get("worker", "")
        if name == "registered":
            ledger.present.add(worker)
        elif name == "recovered":
            ledger.present.discard(worker)
        elif name == "late":
            assert run not in ledger.late, f"{run} was announced as late once more: {event}"
            ledger.late.add(run)
            del ledger.unstarted[run]
        elif name == "unserved":
            ledger.unserved.add(event["queue"])
        if name in MOVES:
            _move(ledger, event, run)
            _expect(ledger, event, run)


def _move(ledger: Ledger, event: dict[str, str], run: str) -> None:
    name = event["event"]
    froms, place = MOVES[name]
    before, state = ledger.told.get(run, ("", ""))
    assert before in froms, f"{run} was {before or 'unknown'}, and then the event {event}"
    if "from" in event:
        assert event["from"] == state, f"{run} was {state}, and then the event {event}"
    if state == "CANCELLING":
        assert event.get("to") == "CANCELLED", f"{run} was to be cancelled, and then {event}"
    accepted = ledger.accepted.get(run)
    if name == "retrying" and accepted and ledger.counted and accepted.retry_type == "in_process":
        place = "claimed"
    ledger.told[run] = (place, event.get("to", state))
    ledger.ended.pop(run, None)
    if place in OVER:
        ledger.ended[run] = event["to"]
    if name == "purged":
        for known in (ledger.told, ledger.accepted, ledger.answers):
            known.pop(run, None)
    elif accepted and name in EXPECTED and "due_ms" in event:
        ledger.accepted[run] = accepted._replace(due_ms=int(event["due_ms"]))


def _expect(ledger: Ledger, event: dict[str, str], run: str) -> None:
    name = event["event"]
    if name == "submitted":
        ledger.past[run] = set()
    past = ledger.past.setdefault(run, set())
    if name in EXPECTED and ledger.told[run][0] == "scheduled":
        ledger.unstarted[run] = int(event.get("due_ms", event["at_ms"]))
    elif name in SETTLED:
        ledger.unstarted.pop(run, None)
    elif name == "dispatched" and "claimed" in past:
        ledger.unstarted.setdefault(run, int(event["at_ms"]))
    elif name == "claimed":
        ledger.unserved.discard(event["queue"])
    if name in ("dispatched", "retimed"):
        past.discard("admitted")
    elif name == "started":
        past.discard("retrying")
    past.add(name)
    if name in ("submitted", "retimed", "requeued"):
        ledger.late.discard(run)
    if name == "skipped":
        ledger.skipped[event["queue"]] = ledger.skipped.get(event["queue"], 0) + 1
