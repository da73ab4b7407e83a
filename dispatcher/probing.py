"""Bounded reads around one run, for `explaining`: counts and first pages, never whole lists."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from dispatcher.connection import Connection
from dispatcher.decoding import (
    answered,
    holder_record,
    moment,
    named,
    pause_record,
    pool_record,
    queue_record,
    texts,
)
from dispatcher.errors import PoolNotFound, QueueNotFound
from dispatcher.hand_overs import rq_queue_of
from dispatcher.keys import GROUP, PoolKeys, decode, encode
from dispatcher.stored import Holder, Place, Pool, Queue, RunRecord

FIRST_RUNS = 5  # of those that hold slots
MOST_WORKERS = 1_000
MOST_QUEUES = 1_000
MOST_ENTRIES = 1_000
PAGE_ENTRIES = 100
PAGE_BYTES = 1_048_576  # an entry carries its payload
MOST_EVENTS = 200
MOST_UNCLAIMED_BYTES = 67_108_864
_OF_DISPATCHERS = frozenset((b"dispatched", b"waiting", b"admitted", b"skipped", b"withdrawn"))
_HOLDER_FIELDS = ("worker", "host", "pid", "type", "queues", "slots", "draining")


@dataclass(frozen=True, slots=True)
class Occupant:
    """A run that holds a slot; one of its deployment is held before the claim, too."""

    id: str
    state_name: str
    is_claimed: bool


@dataclass(frozen=True, slots=True)
class Slots:
    """How many runs hold the slots of a limit, and the `FIRST_RUNS` that took one first."""

    held: int
    first: tuple[Occupant, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Some runs of a queue."""

    queue: str
    runs: int


@dataclass(frozen=True, slots=True)
class Holding:
    """Who has a claim: no `worker` when nobody knows, no `lease_end_ms` while it is taken back."""

    holder: str
    worker: str = ""
    host: str = ""
    pid: int = 0
    lease_end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class InRq(Holding):
    """A claim that was handed over to an RQ queue; no `rq_worker` while it waits for one."""

    rq_queue: str = ""
    rq_worker: str = ""


@dataclass(frozen=True, slots=True)
class Around:
    """A run's pool and queue as they are.

    `blocked` says that its stream was full and is not half empty yet, `last_claimed` is the entry
    behind which nobody has claimed.
    """

    pool: Pool
    queue: Queue
    unclaimed_bytes: int = 0
    largest_bytes: int = 0
    max_unclaimed_bytes: int = MOST_UNCLAIMED_BYTES
    blocked: bool = False
    last_claimed: str = "0-0"


class Probe:
    """Reads what concerns one run; `now_ms` is the moment for which everything is told."""

    def __init__(self, connection: Connection, keys: PoolKeys, run: RunRecord, now_ms: int) -> None:
        self._server = connection.at(keys["pool"])
        self._keys = keys
        self._run = run
        self._queue = encode(run.queue)
        self._now_ms = now_ms

    def around(self) -> Around:
        """Return the run's pool and queue; raises NotFound when one was deleted."""
        keys, queue = self._keys, self._queue

        def ask(pipeline: Any) -> None:
            pipeline.hgetall(keys["pool"])
            pipeline.zcard(keys["pool_slots"])
            pipeline.hgetall(keys["queue"] + queue)
            pipeline.zscore(keys["queues"], queue)
            pipeline.zcard(keys["scheduled"] + queue)
            pipeline.xlen(keys["stream"] + queue)
            pipeline.execute_command("XINFO", "GROUPS", keys["stream"] + queue)
            pipeline.zcard(keys["queue_slots"] + queue)

        answers = self._many(ask)
        raw_pool, claimed, raw, priority, scheduled, length, groups, held = answers
        if not raw_pool:
            raise PoolNotFound(self._run.pool)
        pool = pool_record(self._run.pool, texts(raw_pool), claimed, self._now_ms)
        if priority is None or not raw:
            raise QueueNotFound(self._run.pool, self._run.queue)
        counts = (raw, scheduled, 0, length, groups, held)
        fields = texts(raw)
        most_bytes = moment(fields, "max_unclaimed_bytes")
        return Around(
            pool,
            queue_record(self._run.pool, queue, priority, counts, self._now_ms),
            unclaimed_bytes=moment(fields, "unclaimed_bytes") or 0,
            largest_bytes=moment(fields, "largest_bytes") or 0,
            max_unclaimed_bytes=MOST_UNCLAIMED_BYTES if most_bytes is None else most_bytes,
            blocked=fields.get("blocked") == "unclaimed",
            last_claimed=_last_claimed(groups),
        )

    def pool_slots(self) -> Slots:
        """Return who holds the slots of the run's pool."""
        return self._slots(self._keys["pool_slots"])

    def queue_slots(self) -> Slots:
        """Return who holds the slots of the run's queue."""
        return self._slots(self._keys["queue_slots"] + self._queue)

    def deployment_slots(self) -> Slots:
        """Return who holds the slots of the run's deployment."""
        return self._slots(self._keys["deployment_slots"] + self._run.deployment)

    def deployment_limit(self) -> int | None:
        """Return the limit of the run's deployment, None when it has none."""
        key = self._keys["deployment"] + self._run.deployment
        raw = self._server.read(lambda c: c.hget(key, "limit"))
        return None if raw is None else int(raw)

    def scheduled_before(self) -> int:
        """Return how many runs of its queue are dispatched before this one."""
        key = self._keys["scheduled"] + self._queue
        return self._rank(key)

    def waiting_before(self) -> int:
        """Return how many runs of its queue wait for the same deployment and go first."""
        return self._rank(self._waiting_key(self._queue))

    def waiting_elsewhere(self, priority: int) -> tuple[QueueCount, ...]:
        """Return the runs of queues with higher priority that wait for the same deployment.

        Paused queues and those with a full stream let the others go first.
        """
        first, last = f"[{self._run.deployment} ", f"({self._run.deployment}!"
        rows = self._server.read(
            lambda c: c.zrangebylex(self._keys["waits"], first, last, 0, MOST_QUEUES)
        )
        names = [row.decode().removeprefix(first[1:]) for row in rows]
        asked = ("paused", "paused_until_ms", "blocked")

        def ask(pipeline: Any) -> None:
            for name in names:
                pipeline.zscore(self._keys["queues"], name)
                pipeline.zcard(self._waiting_key(name))
                pipeline.hmget(self._keys["queue"] + name, asked)

        answers = self._many(ask) if names else []
        found = []
        for name, score, runs, values in zip(
            names, answers[::3], answers[1::3], answers[2::3], strict=True
        ):
            fields = named(asked, values)
            is_held_up = "blocked" in fields or pause_record(fields, "paused", self._now_ms)
            if score is not None and score < priority and not is_held_up:
                found.append((score, QueueCount(decode(name), runs)))
        return _by_priority(found)

    def unclaimed_before(self, around: Around) -> tuple[int, bool]:
        """Return how many unclaimed entries of its stream are ahead of it, and if that is all."""
        if not (entry := self._entry()):
            return 0, True
        last, after, seen = f"({entry}", around.last_claimed, 0
        most = max(1, min(PAGE_ENTRIES, PAGE_BYTES // max(1, around.largest_bytes)))
        while seen < MOST_ENTRIES:
            page = self._entries(f"({after}", last, most)
            seen += len(page)
            if len(page) < most:
                return seen, True
            after = page[-1][0].decode()
        return seen, False

    def ready_elsewhere(
        self, priority: int, takes: Callable[[str], bool]
    ) -> tuple[QueueCount, ...]:
        """Return what is unclaimed in queues with higher priority, those that it `takes`."""
        rows = self._server.read(
            lambda c: c.zrangebyscore(
                self._keys["ready"], "-inf", f"({priority}", 0, MOST_QUEUES, withscores=True
            )
        )
        queues = [(row.decode(), score) for row, score in rows if takes(decode(row.decode()))]

        def ask(pipeline: Any) -> None:
            for name, _ in queues:
                pipeline.xlen(self._keys["stream"] + name)
                pipeline.execute_command("XINFO", "GROUPS", self._keys["stream"] + name)

        answers = self._many(ask) if queues else []
        found = []
        for (name, score), length, groups in zip(queues, answers[::2], answers[1::2], strict=True):
            runs = int(length) - int(_group(groups).get(b"pending", 0))
            if runs > 0:
                found.append((score, QueueCount(decode(name), runs)))
        return _by_priority(found)

    def workers(self) -> list[Holder]:
        """Return the pool's workers whose lease holds, draining ones too.

        An RQ consumer holds what is in RQ.
        """
        rows = self._server.read(
            lambda c: c.zrangebyscore(
                *(self._keys["holders"], f"({self._now_ms}", "+inf", 0, MOST_WORKERS),
                withscores=True,
            )
        )

        def ask(pipeline: Any) -> None:
            for holder, _ in rows:
                pipeline.hmget(self._keys["holder"] + holder.decode(), _HOLDER_FIELDS)
                pipeline.scard(self._keys["claims"] + holder.decode())

        answers = self._many(ask) if rows else []
        found = []
        for (holder, end_ms), values, held in zip(rows, answers[::2], answers[1::2], strict=True):
            fields = named(_HOLDER_FIELDS, values)
            if "worker" in fields:
                name, pool = holder.decode(), self._run.pool
                found.append(holder_record(name, pool, fields, held=held, lease_end_ms=int(end_ms)))
        in_rq = sum(each.held for each in found if rq_queue_of(each.id))
        return [
            replace(each, held=each.held + in_rq) if each.type == "rq" else each
            for each in found
            if not rq_queue_of(each.id)
        ]

    def holding(self) -> Holding:
        """Return who has the run's claim."""
        holder = self._run.holder

        def ask(pipeline: Any) -> None:
            pipeline.hmget(self._keys["holder"] + holder, ("worker", "host", "pid"))
            pipeline.zscore(self._keys["holders"], holder)

        (worker, host, pid), lease_end_ms = self._many(ask)
        end_ms = int(lease_end_ms) if lease_end_ms and worker else None
        known = (holder, decode(_text(worker)), _text(host), int(pid or 0), end_ms)
        if self._run.handed_ms is None:
            return Holding(*known)
        return InRq(*known, rq_queue_of(holder), self._run.executor.rpartition(".")[0])

    def is_ordered(self) -> bool:
        """Say whether an order to cancel the run lies with its holder."""
        key = self._keys["orders"] + self._run.holder
        return bool(self._server.read(lambda c: c.sismember(key, self._run.id)))

    def is_dispatching(self, since_ms: int) -> bool:
        """Say whether the events show a dispatcher at work since then, or too little to tell."""
        key = self._keys["events"]
        rows = self._server.read(lambda c: c.xrevrange(key, count=MOST_EVENTS))
        for _, fields in rows:
            if int(fields[b"at_ms"]) < since_ms:
                return False
            if fields[b"event"] in _OF_DISPATCHERS:
                return True
        return len(rows) == MOST_EVENTS

    def _slots(self, key: str) -> Slots:
        def count(pipeline: Any) -> None:
            pipeline.zcard(key)
            pipeline.zrange(key, 0, FIRST_RUNS - 1)

        held, rows = self._many(count)
        ids = [row.decode() for row in rows]
        asked = ("place", "state_name")

        def ask(pipeline: Any) -> None:
            for run_id in ids:
                pipeline.hmget(self._keys["run"] + run_id, asked)

        answers = self._many(ask) if ids else []
        first = []
        for run_id, values in zip(ids, answers, strict=True):
            fields = named(asked, values)
            is_claimed = fields.get("place") == Place.CLAIMED
            first.append(Occupant(run_id, fields.get("state_name", ""), is_claimed))
        return Slots(int(held), tuple(first))

    def _entries(self, first: str, last: str, most: int) -> list[Any]:
        key = self._keys["stream"] + self._queue
        page: list[Any] = self._server.read(lambda c: c.xrange(key, first, last, most))
        return page

    def _entry(self) -> str:
        key = self._keys["run"] + self._run.id
        return _text(self._server.read(lambda c: c.hget(key, "entry")))

    def _rank(self, key: str) -> int:
        return int(self._server.read(lambda c: c.zrank(key, self._run.member)) or 0)

    def _waiting_key(self, queue: str) -> str:
        return f"{self._keys['waiting']}{self._run.deployment}:{queue}"

    def _many(self, ask: Callable[[Any], None]) -> list[Any]:
        """Return the answers of one round trip."""

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            ask(pipeline)
            return answered(pipeline.execute(raise_on_error=False))

        answers: list[Any] = self._server.read(read)
        return answers


def _group(groups: Any) -> dict[bytes, Any]:
    """Return the group `workers` of an XINFO; empty when there is no stream or no group yet."""
    rows = [] if isinstance(groups, Exception) else groups
    pairs = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    return next((p for p in pairs if p[b"name"] == GROUP.encode()), {})


def _last_claimed(groups: Any) -> str:
    return _text(_group(groups).get(b"last-delivered-id", b"0-0"))


def _by_priority(found: Iterable[tuple[float, QueueCount]]) -> tuple[QueueCount, ...]:
    return tuple(each for _, each in sorted(found, key=lambda pair: pair[0]))


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode(errors="replace")
