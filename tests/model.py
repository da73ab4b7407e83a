"""What one pool has stored, read whole, and what must hold of it: docs/data-model.md as checks.

`Stored` is one moment of the server. `Ledger` is what the outside world was told and may rely on.
Each check yields a sentence per broken promise, so a failure reads as what went wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dispatcher.keys import GROUP, TABLE, PoolKeys
from dispatcher.records import Word

BYTES = {"payload", "output"}  # kept as they are; all other fields are text
PLACES = {"scheduled", "stream", "claimed", "dead", "ended"}
MARKS = {"entry", "token", "holder", "claim"}  # what a record has while it is handed out
# Event: the places it may leave, the place it leads to; "" is a run that was not known.
MOVES = {
    "submitted": ({""}, "scheduled"),
    "dispatched": ({"scheduled"}, "stream"),
    "claimed": ({"stream"}, "claimed"),
    "started": ({"claimed"}, "claimed"),
    "finished": ({"claimed"}, "ended"),
    "released": ({"claimed"}, "scheduled"),
    "lost": ({"claimed"}, "scheduled"),
    "dead": ({"claimed"}, "dead"),
}


@dataclass(frozen=True)
class Stream:
    """A queue's stream: its entries in order, and who has which of them pending."""

    entries: dict[str, dict[str, Any]]
    pending: dict[str, str]
    consumers: frozenset[str]
    grouped: bool


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

    def unclaimed(self, queue: str) -> list[str]:
        """Return the runs of a queue that a worker may claim now, in the order of its stream."""
        stream = self["stream"].get(queue)
        pairs = [(e, f["run"]) for e, f in stream.entries.items()] if stream else []
        runs = self.runs
        return [
            run
            for entry, run in pairs
            if runs.get(run, {}).get("place") == "stream" and runs[run]["entry"] == entry
        ]

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
    """A run as its submitter was told that it is accepted."""

    queue: str
    due_ms: int
    payload: bytes
    request: str
    sequence: int


@dataclass
class Ledger:
    """What callers were told, and what was done to the data from outside; goes back with it."""

    now_ms: int
    accepted: dict[str, Accepted] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[Grant, Word]] = field(default_factory=dict)
    told: dict[str, tuple[str, str]] = field(default_factory=dict)  # place and state by events
    present: set[str] = field(default_factory=set)  # holders, by events
    unmarked: set[tuple[str, str]] = field(default_factory=set)  # entries that lost their holder
    strays: set[tuple[str, str]] = field(default_factory=set)  # entries that no dispatch made
    awake: set[tuple[str, str]] = field(default_factory=set)  # (holder, queue) of taken wakes


def read(client: Any, keys: PoolKeys) -> Stored:
    """Return everything that the pool has stored."""
    tag = keys["pool"].removesuffix("pool")
    named = [_named(keys, key.decode()) for key in sorted(client.keys(tag + "*"))]
    pipeline = client.pipeline(transaction=False)
    for name, key in named:
        _ask(pipeline, _TYPES[name], keys[name] + key)
    answers = iter(pipeline.execute(raise_on_error=False))
    tables: dict[str, dict[str, Any]] = {}
    expires_ms = {}
    for name, key in named:
        expires_ms[name, key] = next(answers)
        tables.setdefault(name, {})[key] = _value(_TYPES[name], answers)
    return Stored(tables, expires_ms)


_TYPES = {row.name: row.type for row in TABLE}


def _named(keys: PoolKeys, key: str) -> tuple[str, str]:
    bases = [row for row in TABLE if row.pattern.startswith("{p}")]
    for row in bases:
        if key == keys[row.name] or ("<" in row.pattern and key.startswith(keys[row.name])):
            return row.name, key.removeprefix(keys[row.name])
    raise AssertionError(f"{key} is not in the data model")


def _ask(pipeline: Any, kind: str, key: str) -> None:
    pipeline.pexpiretime(key)
    if kind == "hash":
        pipeline.hgetall(key)
    elif kind == "zset":
        pipeline.zrange(key, 0, -1, withscores=True)
    elif kind == "set":
        pipeline.smembers(key)
    elif kind == "list":
        pipeline.lrange(key, 0, -1)
    else:
        pipeline.xrange(key)
        pipeline.xpending_range(key, GROUP, "-", "+", 10_000)
        pipeline.xinfo_consumers(key, GROUP)


def _value(kind: str, answers: Iterator[Any]) -> Any:
    value = next(answers)
    if kind == "hash":
        return _fields(value)
    if kind == "zset":
        return [(member.decode(), int(score)) for member, score in value]
    if kind in ("set", "list"):
        return sorted(member.decode() for member in value)
    pending, consumers = next(answers), next(answers)
    grouped = not isinstance(pending, Exception)
    return Stream(
        {entry.decode(): _fields(fields) for entry, fields in value},
        {p["message_id"].decode(): p["consumer"].decode() for p in pending} if grouped else {},
        frozenset(c["name"].decode() for c in consumers) if grouped else frozenset(),
        grouped,
    )


def _fields(raw: dict[bytes, bytes]) -> dict[str, Any]:
    named = ((name.decode(), value) for name, value in raw.items())
    return {name: value if name in BYTES else value.decode() for name, value in named}


def broken_promises(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Yield what is wrong with what is stored now."""
    for run in sorted(ledger.accepted.keys() - stored.runs.keys()):
        yield f"{run} was accepted and is not known any more"
    for run, record in stored.runs.items():
        yield from _places(stored, ledger, run, record)
        yield from _record(stored, ledger, run, record)
    yield from _strangers(stored, ledger)
    yield from _holders(stored, ledger)
    yield from _bells(stored, ledger)
    yield from _counts(stored)


def _places(stored: Stored, ledger: Ledger, run: str, record: dict[str, Any]) -> Iterator[str]:
    """Invariant 1: the run is where its record says, and nowhere else."""
    place = record.get("place", "")
    if place not in PLACES:
        yield f"{run} has the place {place!r}"
    found = {
        f"scheduled in {queue} at {due_ms}"
        for queue, members in stored["scheduled"].items()
        for member, due_ms in members
        if member[16:] == run
    }
    for queue, stream in stored["stream"].items():
        for entry in (e for e, f in stream.entries.items() if f["run"] == run):
            holder = stream.pending.get(entry)
            if (queue, entry) in ledger.unmarked and place == "claimed":
                holder = holder or record.get("holder")
            if (queue, entry) not in ledger.strays:
                found.add(f"in {queue} as {entry}, pending for {holder}")
    found |= {f"claimed by {h}" for h, runs in stored["claims"].items() if run in runs}
    for name in ("dead", "finished"):
        found |= {name for member, _ in stored[name].get("", []) if member == run}
    expected = _expected(record)
    if found != expected:
        yield f"{run} is {place}: expected {sorted(expected)}, found {sorted(found)}"


def _expected(record: dict[str, Any]) -> set[str]:
    queue, entry, holder = (record.get(name) for name in ("queue", "entry", "holder"))
    return {
        "scheduled": {f"scheduled in {queue} at {record.get('due_ms')}"},
        "stream": {f"in {queue} as {entry}, pending for None"},
        "claimed": {f"in {queue} as {entry}, pending for {holder}", f"claimed by {holder}"},
        "dead": {"dead"},
        "ended": {"finished"},
    }.get(record.get("place", ""), set())


def _record(stored: Stored, ledger: Ledger, run: str, record: dict[str, Any]) -> Iterator[str]:
    """Invariants 2, 9, 10 and 12, and the marks that go with each place."""
    place, state, accepted = record.get("place"), record.get("state_type"), ledger.accepted.get(run)
    if accepted is None:
        yield f"{run} was never accepted"
        return
    marks = {"claimed": MARKS, "stream": {"entry"}}.get(str(place), set())
    if MARKS & record.keys() != marks:
        yield f"{run} is {place} and has the marks {sorted(MARKS & record.keys())}"
    told = ledger.told.get(run)
    if told != (place, state):
        yield f"{run} is {place} and {state}; the events say {told}"
    if int(record.get("dispatched_ms", accepted.due_ms)) < accepted.due_ms:
        yield f"{run} was dispatched before it was due"
    if run in ledger.ended and (place not in ("ended", "dead") or state != ledger.ended[run]):
        yield f"{run} had ended as {ledger.ended[run]} and is {place}, {state}"
    if (place == "ended") != (stored.expires_ms["run", run] != -1):
        yield f"the record of {run}, {place}, expires at {stored.expires_ms['run', run]}"
    dropped = place == "ended" and state in ("COMPLETED", "CANCELLED")
    if record.get("payload") != (None if dropped else accepted.payload):
        yield f"{run}, {place} and {state}, has the payload {record.get('payload')!r}"
    if (record["queue"], int(record["due_ms"])) != (accepted.queue, accepted.due_ms):
        yield f"{run} has moved to {record['queue']} at {record['due_ms']}"


def _strangers(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Invariant 1 from the other side: nothing is listed that no record stands for."""
    listed = {m[16:] for members in stored["scheduled"].values() for m, _ in members}
    listed |= {m for name in ("dead", "finished") for m, _ in stored[name].get("", [])}
    listed |= {run for runs in stored["claims"].values() for run in runs}
    for run in sorted(listed - stored.runs.keys()):
        yield f"{run} is listed and has no record"
    for queue, stream in stored["stream"].items():
        for entry, fields in stream.entries.items():
            record = stored.runs.get(fields["run"], {})
            stray = (queue, entry) in ledger.strays
            if not stray and fields["payload"] != record.get("payload"):
                yield f"{entry} of {queue} has the payload {fields['payload']!r}"
        for entry in stream.pending.keys() - stream.entries.keys():
            yield f"{entry} of {queue} is pending and gone"
        for consumer in stream.consumers - stored["holder"].keys():
            yield f"{consumer} is still a consumer of {queue}"


def _holders(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Whoever has a lease has a record, its name while it lives, and nothing when it is gone."""
    holders = {holder for holder, _ in stored["holders"].get("", [])}
    if not holders == stored["holder"].keys() == ledger.present:
        yield (
            f"holders with a lease {sorted(holders)}, with a record "
            f"{sorted(stored['holder'])}, by their events {sorted(ledger.present)}"
        )
    present = set(stored["workers"].get("", {}).values())
    for holder, record in stored["holder"].items():
        if "dead" not in record and holder not in present:
            yield f"{holder} lives and its name stands for {sorted(present)}"
    for name in ("claims", "inbox"):
        for holder in stored[name].keys() - stored["holder"].keys():
            yield f"{holder} is gone and has left its {name}"


def _bells(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Invariant 11: where something can be claimed, workers find it and one of them is woken."""
    ready = {queue for queue, _ in stored["ready"].get("", [])}
    for queue in stored.queues:
        waiting = stored.unclaimed(queue)
        if waiting and queue not in ready:
            yield f"{queue} has {waiting} and is not ready"
        taken = any(queue == woken for _, woken in ledger.awake)
        if waiting and queue not in stored["wake"] and not taken:
            yield f"{queue} has {waiting} and wakes nobody"
    for name in ("wake", "inbox"):
        for key, elements in stored[name].items():
            if len(elements) > 1:
                yield f"{name} {key} has {len(elements)} elements"


def _counts(stored: Stored) -> Iterator[str]:
    """A stream is bounded, and the bytes that count against its bound are right."""
    for queue in stored.queues:
        settings, waiting = stored["queue"][queue], stored.unclaimed(queue)
        if len(waiting) > int(settings.get("max_unclaimed", 1000)):
            yield f"{queue} has {len(waiting)} unclaimed entries"
        size = sum(len(stored.runs[run]["payload"]) for run in waiting)
        if waiting and int(settings.get("unclaimed_bytes", 0)) != size:
            yield f"{queue} has {size} unclaimed bytes, counted {settings.get('unclaimed_bytes')}"
    for name, table in stored.tables.items():
        expiring = {key for key in table if stored.expires_ms[name, key] != -1}
        if name == "finished" and not expiring:
            yield "the list of ended runs never expires"
        elif name not in ("run", "finished") and expiring:
            yield f"{name} {sorted(expiring)} will expire"


def follow(ledger: Ledger, events: list[dict[str, str]]) -> None:
    """Move the runs of the ledger as new events say; raises AssertionError for an odd move."""
    for event in events:
        name, run, worker = event["event"], event.get("run", ""), event.get("worker", "")
        if name == "registered":
            ledger.present.add(worker)
        elif name == "recovered":
            ledger.present.discard(worker)
        if name not in MOVES:
            continue
        froms, place = MOVES[name]
        before, state = ledger.told.get(run, ("", ""))
        assert before in froms, f"{run} was {before or 'unknown'}, and then the event {event}"
        if "from" in event:
            assert event["from"] == state, f"{run} was {state}, and then the event {event}"
        ledger.told[run] = (place, event.get("to", state))
        if place in ("ended", "dead"):
            ledger.ended[run] = event["to"]
