"""What must hold of a pool at every moment: docs/data-model.md as checks.

Each check yields a sentence per broken promise, so a failure reads as what went wrong.
"""

from collections.abc import Iterator
from typing import Any

from tests.model import OVER, Accepted, Ledger, Stored

PLACES = {"scheduled", "waiting", "stream", "claimed", "dead", "ended"}
MARKS = {"entry", "token", "holder", "claim"}  # what a record has while it is handed out
STATES = {
    "PENDING": {"Pending"},
    "RUNNING": {"Running", "Retrying"},
    "CANCELLING": {"Cancelling"},
    "CANCELLED": {"Cancelled"},
}
PAUSES = ("paused", "intake_paused")
SET_TTL = {"run", "finished", "idempotency"}


def broken_promises(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Yield what is wrong with what is stored now."""
    for run in sorted(ledger.accepted.keys() - stored.runs.keys()):
        yield f"{run} was accepted and is not known any more"
    for run, record in stored.runs.items():
        yield from _places(stored, ledger, run, record)
        yield from _record(stored, ledger, run, record)
        yield from _state(record, run)
    yield from _strangers(stored, ledger)
    yield from _holders(stored, ledger)
    yield from _slots(stored)
    yield from _lists(stored, ledger)
    yield from _counts(stored, ledger)
    yield from _settings(stored, ledger)
    yield from _ready(stored)
    yield from _expiring(stored, ledger)


def _places(stored: Stored, ledger: Ledger, run: str, record: dict[str, Any]) -> Iterator[str]:
    """Invariant 1: the run is where its record says, and nowhere else."""
    place = record.get("place", "")
    if place not in PLACES:
        yield f"{run} has the place {place!r}"
    found = {
        f"{name} in {key} at {due_ms}"
        for name in ("scheduled", "waiting")
        for key, members in stored[name].items()
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
    found |= {name for name in ("dead", "finished") if run in stored.members(name)}
    expected = _expected(record)
    if found != expected:
        yield f"{run} is {place}: expected {sorted(expected)}, found {sorted(found)}"


def was_taken(record: dict[str, Any]) -> bool:
    """Whether a run is claimed without an entry: its token begins with its delivery."""
    return record.get("token", "").startswith(record["delivery"] + ".")


def _expected(record: dict[str, Any]) -> set[str]:
    queue, entry, holder = (record.get(name) for name in ("queue", "entry", "holder"))
    due_ms = record.get("due_ms")
    if was_taken(record):
        return {f"claimed by {holder}"}
    return {
        "scheduled": {f"scheduled in {queue} at {due_ms}"},
        "waiting": {f"waiting in {record.get('deployment')}:{queue} at {due_ms}"},
        "stream": {f"in {queue} as {entry}, pending for None"},
        "claimed": {f"in {queue} as {entry}, pending for {holder}", f"claimed by {holder}"},
        "dead": {"dead"},
        "ended": {"finished"},
    }.get(record.get("place", ""), set())


def _record(stored: Stored, ledger: Ledger, run: str, record: dict[str, Any]) -> Iterator[str]:
    """Invariants 9 and 10, and the marks that go with each place."""
    place, state, accepted = record.get("place"), record.get("state_type"), ledger.accepted.get(run)
    if accepted is None:
        yield f"{run} was never accepted"
        return
    of_claim = MARKS - {"entry"} if was_taken(record) else MARKS
    marks = {"claimed": of_claim, "stream": {"entry"}}.get(str(place), set())
    if MARKS & record.keys() != marks:
        yield f"{run} is {place} and has the marks {sorted(MARKS & record.keys())}"
    told = ledger.told.get(run)
    if told != (place, state):
        yield f"{run} is {place} and {state}; the events say {told}"
    if run in ledger.ended and (place not in OVER or state != ledger.ended[run]):
        yield f"{run} had ended as {ledger.ended[run]} and is {place}, {state}"
    if (place == "ended") != (stored.expires_ms["run", run] != -1):
        yield f"the record of {run}, {place}, expires at {stored.expires_ms['run', run]}"
    yield from _kept(accepted, run, record)


def _kept(accepted: Accepted, run: str, record: dict[str, Any]) -> Iterator[str]:
    """Invariants 2 and 12: what a run keeps from its acceptance to its end."""
    place, state = record["place"], record["state_type"]
    if place == "stream" and int(record["dispatched_ms"]) < accepted.due_ms:
        yield f"{run} was dispatched before it was due"
    dropped = place == "ended" and state in ("COMPLETED", "CANCELLED")
    if record.get("payload") != (None if dropped else accepted.payload):
        yield f"{run}, {place} and {state}, has the payload {record.get('payload')!r}"
    if record["member"] != f"{accepted.sequence:016x}{run}":
        yield f"{run} has the place {record['member']}, not {accepted.sequence}"
    if (record["queue"], int(record["due_ms"])) != (accepted.queue, accepted.due_ms):
        yield f"{run} has moved to {record['queue']} at {record['due_ms']}"
    for name in ("deployment", "state_id", "idempotency", "retry_type"):
        if record[name] != getattr(accepted, name):
            yield f"{run} has the {name} {record[name]}, not {getattr(accepted, name)}"


def _state(record: dict[str, Any], run: str) -> Iterator[str]:
    """The state names that go with the state types and places."""
    place, state, name = (record[field] for field in ("place", "state_type", "state_name"))
    names = STATES.get(state, {name})
    if state == "SCHEDULED":
        names = {"waiting": {"AwaitingConcurrencySlot"}, "claimed": {"AwaitingRetry"}}.get(
            place, {"Scheduled", "AwaitingRetry"}
        )
    if name not in names:
        yield f"{run} is {place} and {state}, its state is named {name}"


def _strangers(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Invariant 1 from the other side: nothing is listed that no record stands for."""
    members = [m for name in ("scheduled", "waiting") for key in stored[name].values() for m in key]
    listed = {member[16:] for member, _ in members}
    listed |= {m for name in ("dead", "finished") for m in stored.members(name)}
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
    holders = set(stored.members("holders"))
    if not holders == stored["holder"].keys() == ledger.present:
        yield (
            f"holders with a lease {sorted(holders)}, with a record "
            f"{sorted(stored['holder'])}, by their events {sorted(ledger.present)}"
        )
    present = set(stored["workers"].get("", {}).values())
    for holder, record in stored["holder"].items():
        if "dead" not in record and holder not in present:
            yield f"{holder} lives and its name stands for {sorted(present)}"
    for name in ("claims", "inbox", "orders"):
        for holder in stored[name].keys() - stored["holder"].keys():
            yield f"{holder} is gone and has left its {name}"


def _slots(stored: Stored) -> Iterator[str]:
    """Invariant 5: who holds slots, and who has an order to end."""
    expected: dict[tuple[str, str], set[str]] = {}
    for run, record in stored.runs.items():
        place, queue, deployment = (record[f] for f in ("place", "queue", "deployment"))
        held = [("pool_slots", ""), ("queue_slots", queue)] if place == "claimed" else []
        if deployment and place in ("stream", "claimed"):
            held.append(("deployment_slots", deployment))
        if record["state_type"] == "CANCELLING":
            held.append(("orders", record["holder"]))
        for slots in held:
            expected.setdefault(slots, set()).add(run)
    found = {("orders", key): set(runs) for key, runs in stored["orders"].items()}
    for name in ("pool_slots", "queue_slots", "deployment_slots"):
        found |= {(name, key): set(stored.members(name, key)) for key in stored[name]}
    for name, key in sorted(found.keys() | expected.keys()):
        runs, wanted = found.get((name, key), set()), expected.get((name, key), set())
        if runs != wanted:
            yield f"{name} {key} has {sorted(runs)} instead of {sorted(wanted)}"


def _lists(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """What is beside the runs and must agree with them."""
    sets = sorted(" ".join(pair) for pair in stored.waiting())
    if sets != sorted(stored.members("waits")):
        yield f"runs wait in {sets}, listed are {stored.members('waits')}"
    expected = sorted(ledger.unstarted.items())
    if expected != sorted(stored["unstarted"].get("", [])):
        yield f"unstarted are {expected}, listed are {stored['unstarted'].get('')}"
    if ledger.first != stored["idempotency"]:
        yield f"keys were given to {ledger.first}, stored are {stored['idempotency']}"
    limited = sorted(stored["deployment"])
    if limited != stored["deployments"].get("", []):
        yield f"{limited} have limits, listed are {stored['deployments'].get('')}"
    for name in ("wake", "inbox"):
        for key, elements in stored[name].items():
            if len(elements) > 1:
                yield f"{name} {key} has {len(elements)} elements"


def _counts(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """A stream is bounded, and the bytes that count against its bound are right."""
    for queue in stored.queues:
        settings, unclaimed = stored["queue"][queue], stored.unclaimed(queue)
        if len(unclaimed) > int(settings.get("max_unclaimed", 1000)):
            yield f"{queue} has {len(unclaimed)} unclaimed entries"
        size = sum(len(stored.runs[run]["payload"]) for run in unclaimed)
        if unclaimed and int(settings.get("unclaimed_bytes", 0)) != size:
            yield f"{queue} has {size} unclaimed bytes, counted {settings.get('unclaimed_bytes')}"
        largest = max((len(stored.runs[run]["payload"]) for run in unclaimed), default=0)
        if int(settings.get("largest_bytes", 0)) < largest:
            yield f"{queue} has {largest} bytes at once, said {settings.get('largest_bytes')}"
        skipped = ledger.skipped.get(queue, 0)
        if int(settings.get("skipped", 0)) != skipped:
            yield f"{queue} has skipped {skipped}, counted {settings.get('skipped')}"


def _settings(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """A pause leaves nothing behind, nor does a late policy, nor that nobody serves a queue."""
    for settings in [stored["pool"][""], *stored["queue"].values()]:
        for kind in PAUSES:
            about = {name for name in settings if name.startswith(kind)}
            if about and kind not in settings:
                yield f"a pause that has ended leaves {sorted(about)}"
    for queue, settings in stored["queue"].items():
        if "unserved_ms" in settings and queue not in ledger.unserved:
            yield f"{queue} is served, and said not to be"
        known = queue in stored["newest"] or "seen_until" in settings
        if known and settings.get("late_policy") != "latest":
            yield f"{queue} knows its newest runs and runs all of them"


def _ready(stored: Stored) -> Iterator[str]:
    """Priorities are unique, and what workers find ready can be claimed."""
    priorities = dict(stored["queues"].get("", []))
    if len(set(priorities.values())) < len(priorities):
        yield f"queues have the same priority: {priorities}"
    for queue, score in stored["ready"].get("", []):
        settings = stored["queue"][queue]
        if priorities.get(queue) != score:
            yield f"{queue} is ready at {score}, its priority is {priorities.get(queue)}"
        if "paused" in settings and "paused_until_ms" not in settings:
            yield f"{queue} is paused and ready"
        if stored.room("queue_slots", queue) <= 0:
            yield f"{queue} is full and ready"


def _expiring(stored: Stored, ledger: Ledger) -> Iterator[str]:
    """Invariant 10: what an ended run leaves ends by itself, and nothing else does."""
    for name, table in stored.tables.items():
        expiring = {key for key in table if stored.expires_ms[name, key] != -1}
        if name == "finished" and not expiring:
            yield "the list of ended runs never expires"
        elif name not in SET_TTL and expiring:
            yield f"{name} {sorted(expiring)} will expire"
    for digest, run in stored["idempotency"].items():
        record = stored.runs.get(run, {"place": "ended"})
        used = record["place"] != "ended" and record["idempotency"] == digest
        if used != (stored.expires_ms["idempotency", digest] == -1):
            yield f"the key {digest} of {run}, {record['place']}, does not end with it"
