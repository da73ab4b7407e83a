"""Pools, runs, workers and whole states for tests, with defaults that a test need not name."""

from collections import Counter
from typing import Any, Self

from dispatcher.connection import Connection
from dispatcher.controls import Told
from dispatcher.keys import PoolKeys, decode
from dispatcher.records import (
    Claim,
    ClaimAnswer,
    Dispatched,
    Finish,
    Outcome,
    Receipt,
    Registration,
    Release,
    Start,
    Submission,
    Taken,
    Watched,
    Word,
)
from dispatcher.store import Store
from dispatcher.stored import (
    Pool,
    Queue,
)

T0 = 1_700_000_000_000  # where the virtual clock of a test begins
MIB = 1_048_576
POOL = "pool"
COMPLETED = Outcome("COMPLETED", "Completed")
OUTCOMES = {
    "COMPLETED": COMPLETED,
    "FAILED": Outcome("FAILED", "Failed", "exit code 1", b"no such file"),
    "CRASHED": Outcome("CRASHED", "Crashed", "killed by signal 9"),
    "CANCELLED": Outcome("CANCELLED", "Cancelled"),
}
# What keys, lists of names, patterns and formats use themselves.
ODD_NAMES = ["a b", "{a}", "a:b", "a#b", "a*?[b]", "größe 池 🏊", "a.b.c", "a\tb", '"a\\']


def a_pool(name: str = POOL, **fields: Any) -> Pool:
    """A pool of processes; its id follows from its name."""
    return Pool(**{"name": name, "id": f"id-of-{name}", "type": "process"} | fields)


def a_queue(name: str, pool: str = POOL, **fields: Any) -> Queue:
    """A queue; its id follows from its name."""
    return Queue(**{"name": name, "pool": pool, "id": f"id-of-{name}", "priority": 0} | fields)


def a_submission(run_id: str = "a", **fields: Any) -> Submission:
    """A run that is due now; its name, payload and request follow from its id."""
    defaults = {
        "run_id": run_id,
        "queue": "default",
        "payload": f"payload of {run_id}".encode(),
        "name": f"name-of-{run_id}",
        "request": f"request-of-{run_id}",
    }
    return Submission(**defaults | fields)


def a_store(client: Any, prefix: str) -> Store:
    """A store whose clock stands at T0; a test moves it by setting `now_ms`."""
    store = Store(Connection(client), prefix)
    store.now_ms = T0
    return store


class Fleet:
    """A pool that exists, with workers that claim and report; the methods say one step each.

    Claims are numbered as a worker does it: each one of a holder is one higher than the last.
    """

    def __init__(self, client: Any, prefix: str, pool: str = POOL, **fields: Any) -> None:
        self.client = client
        self.pool = pool
        self.store = a_store(client, prefix)
        self.keys = self.store.keys(pool)
        self.numbers: Counter[str] = Counter()
        self.store.create_pool(a_pool(pool, **fields), default_queue_id="id-of-default")

    def advance(self, ms: int) -> None:
        """Move the virtual clock."""
        assert self.store.now_ms is not None
        self.store.now_ms += ms

    def create_queue(self, name: str, priority: int | None = None, **fields: Any) -> None:
        """Create a queue of the pool."""
        self.store.create_queue(a_queue(name, self.pool, **fields), priority=priority)

    def submit(self, *run_ids: str, **fields: Any) -> list[Receipt]:
        """Submit runs one after the other, all with the same fields."""
        return [self.store.submit(self.pool, a_submission(i, **fields)) for i in run_ids]

    def dispatch(self, *queues: str, **bounds: int) -> Dispatched:
        """Dispatch these queues once, all of the pool if none is named."""
        stored = self.client.zrange(self.keys["queues"], 0, -1)
        names = queues or [decode(_text(name)) for name in stored]
        return self.store.dispatch(self.pool, names, **bounds)

    def put(self, *run_ids: str, **fields: Any) -> None:
        """Submit runs and dispatch them, so that they wait in their stream."""
        self.submit(*run_ids, **fields)
        self.dispatch(str(fields.get("queue", "default")))

    def register(self, worker: str = "w", incarnation: str = "1", **fields: Any) -> str:
        """Register a worker's incarnation and return its holder id."""
        registration = Registration(worker, incarnation, **{"slots": 10} | fields)
        return self.store.register(self.pool, registration).holder

    def answer(self, holder: str, slots: int = 10, **fields: Any) -> ClaimAnswer:
        """Claim and return the whole answer."""
        number = self.numbers[holder] = fields.pop("number", self.numbers[holder] + 1)
        return self.store.claim(self.pool, holder, number=number, slots=slots, **fields)

    def claim(self, holder: str, slots: int = 10, **fields: Any) -> list[Claim]:
        """Claim and return what came, after a look at the word."""
        answer = self.answer(holder, slots, **fields)
        assert answer.word is Word.CLAIMED
        return answer.claims

    def claim_one(self, holder: str) -> Claim:
        """Claim exactly one run."""
        (claim,) = self.claim(holder, 1)
        return claim

    def take(self, run_id: str, incarnation: str = "1") -> Taken:
        """Take a run by its id; its holder is w~<incarnation>.<incarnation>."""
        return self.store.take(self.pool, run_id, worker="w", incarnation=incarnation)

    def take_one(self, run_id: str, incarnation: str = "1") -> Claim:
        """Take a run that can be taken; return the claim, which counts its start."""
        claim = self.take(run_id, incarnation).claim
        assert claim is not None
        return claim

    def start(self, claim: Claim) -> Word:
        """Start a claimed run, one start more than it had when it was claimed."""
        start = Start(claim.run_id, claim.token, claim.run_count + 1)
        return self.store.report(self.pool, start)

    def finish(self, claim: Claim, state: str = "COMPLETED", **fields: Any) -> Word:
        """Finish a claimed run with one of OUTCOMES; with its `run_count` as a worker does."""
        finish = Finish(claim.run_id, claim.token, OUTCOMES[state], **fields)
        return self.store.report(self.pool, finish)

    def release(self, claim: Claim, reason: str = "test", **fields: Any) -> Word:
        """Give a claimed run back."""
        release = Release(claim.run_id, claim.token, reason, **fields)
        return self.store.report(self.pool, release)

    def renew(self, holder: str, held: int) -> Word:
        """Renew a lease with the number of runs that the holder believes to hold."""
        number = self.numbers[holder]
        return self.store.renew(self.pool, holder, held=held, number=number).word

    def take_away(self, claim: Claim, by: str = "operator") -> Word:
        """Give a claimed run back as an operator does, not its holder."""
        release = Release(claim.run_id, claim.token, "taken away", by=by)
        return self.store.report(self.pool, release)

    def set_pool(self, **fields: object) -> None:
        """Change settings of the pool, named as they are stored; None takes one away."""
        self.store.set_pool(self.pool, fields)

    def set_queue(
        self, name: str = "default", priority: int | None = None, **fields: object
    ) -> None:
        """Change settings of a queue, named as they are stored; None takes one away."""
        self.store.set_queue(self.pool, name, fields, priority=priority)

    def set_deployment(self, deployment: str, limit: int | None, strategy: str = "ENQUEUE") -> None:
        """Set or take away the limit of a deployment."""
        self.store.set_deployment(self.pool, deployment, limit, strategy=strategy)

    def pause(self, queue: str | None = None, **fields: Any) -> None:
        """Pause a queue, or the pool."""
        self.store.pause(self.pool, queue, **fields)

    def resume(self, queue: str | None = None, **fields: Any) -> bool:
        """Resume a queue, or the pool."""
        return self.store.resume(self.pool, queue, **fields)

    def withdraw(self, *queues: str, **bounds: int) -> None:
        """Take back what nobody has claimed of paused queues, of `default` if none is named."""
        for queue in queues or ["default"]:
            self.store.withdraw(self.pool, queue, **bounds)

    def cancel(self, run_id: str, **fields: Any) -> Told:
        """Cancel a run."""
        return self.store.cancel(self.pool, run_id, **fields)

    def retime(self, run_id: str, due_ms: int | None = None, **fields: Any) -> Told:
        """Give a run another due time, or make it due now."""
        return self.store.retime(self.pool, run_id, due_ms, **fields)

    def requeue(self, run_id: str, due_ms: int | None = None, **fields: Any) -> int:
        """Take a run out of the dead letters."""
        return self.store.requeue(self.pool, run_id, due_ms, **fields)

    def purge(self, *run_ids: str, **fields: Any) -> int:
        """Forget dead-lettered runs."""
        return self.store.purge(self.pool, run_ids, **fields)

    def watch(self, **bounds: int) -> Watched:
        """Announce what is late and which queues nobody serves."""
        return self.store.watch(self.pool, **bounds)

    def lose(self, holder: str) -> None:
        """Let a holder's lease end and take back what it had."""
        lease_end_ms = self.client.zscore(self.keys["holders"], holder)
        self.store.now_ms = max(self.store.now_ms or 0, int(lease_end_ms))
        self.store.recover_all(self.pool, holder)

    def run(self, run_id: str) -> dict[str, str]:
        """Return the fields of a run's record."""
        return _hash(self.client, self.keys["run"] + run_id)

    def members(self, name: str, of: str = "") -> list[str]:
        """Return the run ids in a set or zset of the pool, in their order."""
        kind = self.client.type(self.keys[name] + of)
        key = self.keys[name] + of
        rows = self.client.smembers(key) if kind == b"set" else self.client.zrange(key, 0, -1)
        return [_text(row) for row in rows]

    def dump(self) -> dict[str, Any]:
        """Return the whole state of the pool."""
        return dump_pool(self.client, self.keys)


def set_limit(fleet: Fleet, kind: str, limit: int | None) -> None:
    """Set the limit of the "pool", or of the default "queue"."""
    fleet.set_pool(limit=limit) if kind == "pool" else fleet.set_queue(limit=limit)


def sleep_on(fleet: Fleet, *queues: str) -> None:
    """Take the wakes away, as workers that look, find nothing and block again do."""
    for queue in queues or ["default"]:
        fleet.client.delete(fleet.keys["wake"] + queue)


def woken(fleet: Fleet) -> list[str]:
    """Return the queues whose workers are woken."""
    return [name.removeprefix("wake:") for name in fleet.dump() if name.startswith("wake:")]


class Listener:
    """Hears a channel; `heard` needs no waiting, as it reads up to a message of its own."""

    def __init__(self, client: Any, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._pubsub = client.pubsub()

    def __enter__(self) -> Self:
        self._pubsub.subscribe(self._channel)
        self._next("subscribe")
        return self

    def __exit__(self, *_: object) -> None:
        self._pubsub.close()

    def heard(self) -> list[str]:
        """Return the messages since the last call."""
        self._client.publish(self._channel, "end")
        return list(iter(lambda: self._next("message"), "end"))

    def _next(self, kind: str) -> str:
        message = self._pubsub.get_message(timeout=10)
        assert message is not None
        assert message["type"] == kind
        return _text(message["data"]) if kind == "message" else ""


def dump_pool(client: Any, keys: PoolKeys) -> dict[str, Any]:
    """Return the whole state of a pool: values by key without its tag, events included.

    Hashes and zsets are dicts, a stream is `{"entries": …, "groups": …}`, the events a list of
    their fields; a key with a TTL is in the list "expiring".
    """
    tag = keys["pool"].removesuffix("pool")
    found = sorted(_text(key) for key in client.scan_iter(f"{tag.split('{')[0]}*", count=1000))
    names = [key.removeprefix(tag) for key in found if key.startswith(tag)]
    state: dict[str, Any] = {name: _value(client, tag + name) for name in names}
    state["events"] = list(state.get("events", {"entries": {}})["entries"].values())
    state["expiring"] = [name for name in names if client.pttl(tag + name) > 0]
    return state


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what is new or different in `after`; None stands for what is gone.

    Fields of hashes and members of zsets are compared one by one; of the events the new ones count.
    """
    events = after["events"][len(before["events"]) :]
    assert after["events"] == [*before["events"], *events]
    return _difference(before | {"events": []}, after | {"events": events})


def shown(name: str, *, at_ms: object = T0, **fields: str) -> dict[str, str]:
    """Return an event as `dump` shows it."""
    return {"event": name, "at_ms": str(at_ms), **fields}


def moved(answer: Dispatched) -> list[str]:
    """Return the ids of the runs that a dispatch moved into their streams, in order."""
    return [run.run_id for run in answer.moved]


def ids(claims: list[Claim]) -> list[str]:
    """Return the ids of claimed runs, in order."""
    return [claim.run_id for claim in claims]


def refused(run_id: str, reason: str, *, at_ms: int = T0, queue: str = "default") -> dict[str, Any]:
    """Return all that a refused call about a known run changes: it leaves an event."""
    event = {"event": "refused", "at_ms": str(at_ms), "run": run_id, "queue": queue}
    return {"events": [event | {"reason": reason}]}


def _difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            if inner := _difference(was, now):
                found[name] = inner
        elif was != now:
            found[name] = now
    return found


def _value(client: Any, key: str) -> Any:
    kind = _text(client.type(key))
    if kind == "hash":
        return _hash(client, key)
    if kind == "string":
        return _text(client.get(key))
    if kind == "zset":
        return {_text(m): int(score) for m, score in client.zrange(key, 0, -1, withscores=True)}
    if kind == "set":
        return sorted(_text(member) for member in client.smembers(key))
    if kind == "list":
        return [_text(element) for element in client.lrange(key, 0, -1)]
    if kind == "stream":
        return {"entries": _entries(client, key), "groups": _groups(client, key)}
    raise AssertionError(f"{key} is a {kind}")


def _entries(client: Any, key: str) -> dict[str, dict[str, str]]:
    return {_text(i): _texts(fields) for i, fields in client.xrange(key)}


def _groups(client: Any, key: str) -> dict[str, Any]:
    """Return for each group its consumers, and who has which entry."""
    groups = {}
    for group in client.xinfo_groups(key):
        name = _text(group["name"])
        rows = client.xpending_range(key, name, "-", "+", 10_000)
        consumers = [_text(row["name"]) for row in client.xinfo_consumers(key, name)]
        pending = {_text(row["message_id"]): _text(row["consumer"]) for row in rows}
        groups[name] = {"consumers": sorted(consumers), "pending": pending}
    return groups


def _hash(client: Any, key: str) -> dict[str, str]:
    return _texts(client.hgetall(key))


def _texts(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in fields.items()}


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
