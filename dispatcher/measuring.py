"""How much is where, in all pools at once: what a monitor asks for, in a few round trips."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dispatcher.connection import Call, Connection
from dispatcher.decoding import moment, named, pause_record
from dispatcher.errors import DispatcherError, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.keys import PoolKeys, decode
from dispatcher.scripts import load

MOST_POOLS = 200
MOST_QUEUES = 1_000  # of a pool, those of the highest priority
MOST_HOLDERS = 5_000  # of a pool, those whose leases end first
MOST_WAITS = 2_000
QUEUES_PER_CALL = 50  # half a millisecond of the server, for which everybody else waits
_POOL_FIELDS = ("id", "limit", "handout", "paused", "paused_until_ms")
_HOLDER_FIELDS = ("type", "queues", "slots", "draining", "dead")


@dataclass(frozen=True, slots=True)
class QueueMeasure:
    """A queue's runs by where they are: `scheduled` are not due yet, `due` are in no stream.

    `oldest_due_ms` is when the first of those that nobody has claimed was due, None for none.
    """

    name: str
    scheduled: int
    due: int
    waiting: int
    unclaimed: int
    claimed: int
    oldest_due_ms: int | None
    limit: int | None
    is_paused: bool
    is_served: bool


@dataclass(frozen=True, slots=True)
class PoolMeasure:
    """A pool at `now_ms`, the server's time; `workers` counts by type and state.

    `queue_count` may be more than the `queues` that were looked at.
    """

    name: str
    now_ms: int
    limit: int | None
    claimed: int
    dead: int
    is_paused: bool
    workers: Counter[tuple[str, str]]
    worker_slots: int
    queue_count: int
    queues: tuple[QueueMeasure, ...]


@dataclass(slots=True)
class _Pool:
    """What was found about a pool so far."""

    keys: PoolKeys
    now_ms: int
    fields: dict[str, str]
    claimed: int
    dead: int
    queues: list[str]
    queue_count: int
    holders: list[tuple[str, int]]
    waits: list[tuple[str, str]]
    waiting: Counter[str] = field(default_factory=Counter)
    workers: Counter[tuple[str, str]] = field(default_factory=Counter)
    worker_slots: int = 0
    served: set[str] = field(default_factory=set)  # "" for all queues
    rows: list[Any] = field(default_factory=list)


def measure(inspector: Inspector) -> list[PoolMeasure]:
    """Return what is where in every pool; one whose node of a cluster is away is left out.

    Raises RedisUnavailable when all is away.
    """
    by_server: dict[Connection, list[str]] = {}
    for name in inspector.pool_names()[:MOST_POOLS]:
        by_server.setdefault(inspector.at(name), []).append(name)
    found: list[PoolMeasure] = []
    for server, names in by_server.items():
        try:
            found += _measured(server, [PoolKeys(inspector.prefix, name) for name in names])
        except RedisUnavailable:
            if inspector.connection.cluster is None:
                raise
    return found


def _measured(server: Connection, keys: Sequence[PoolKeys]) -> list[PoolMeasure]:
    pools = _pools(server, keys)
    _add_holders_and_waits(server, pools)
    _add_queues(server, pools)
    return [_record(pool) for pool in pools]


def _pools(server: Connection, keys: Sequence[PoolKeys]) -> list[_Pool]:
    def ask(pipeline: Any) -> None:
        pipeline.time()
        for each in keys:
            pipeline.hmget(each["pool"], _POOL_FIELDS)
            pipeline.zcard(each["pool_slots"])
            pipeline.zcard(each["dead"])
            pipeline.zcard(each["queues"])
            pipeline.zrange(each["queues"], 0, MOST_QUEUES - 1)
            pipeline.zrange(each["holders"], 0, MOST_HOLDERS - 1, withscores=True)
            pipeline.zrange(each["waits"], 0, MOST_WAITS - 1)

    (seconds, micros), *answers = _many(server, ask)
    found = []
    for i, each in enumerate(keys):
        values, claimed, dead, count, queues, holders, waits = answers[7 * i : 7 * i + 7]
        fields = named(_POOL_FIELDS, values)
        if "id" in fields:  # else it was deleted meanwhile
            pool = _Pool(
                keys=each,
                now_ms=int(seconds) * 1000 + int(micros) // 1000,
                fields=fields,
                claimed=claimed,
                dead=dead,
                queues=[queue.decode() for queue in queues],
                queue_count=count,
                holders=[(holder.decode(), int(end_ms)) for holder, end_ms in holders],
                waits=[_pair(row.decode()) for row in waits],
            )
            found.append(pool)
    return found


def _add_holders_and_waits(server: Connection, pools: Sequence[_Pool]) -> None:
    def ask(pipeline: Any) -> None:
        for pool in pools:
            for holder, _ in pool.holders:
                pipeline.hmget(pool.keys["holder"] + holder, _HOLDER_FIELDS)
            for deployment, queue in pool.waits:
                pipeline.zcard(f"{pool.keys['waiting']}{deployment}:{queue}")

    answers = iter(_many(server, ask))
    for pool in pools:
        for _, end_ms in pool.holders:
            _count_holder(pool, named(_HOLDER_FIELDS, next(answers)), end_ms)
        for _, queue in pool.waits:
            pool.waiting[queue] += next(answers)


def _count_holder(pool: _Pool, fields: dict[str, str], end_ms: int) -> None:
    if "slots" not in fields:  # it left meanwhile
        return
    kind = fields.get("type", "")
    if "dead" in fields or end_ms <= pool.now_ms:
        state = "lost"
    elif "draining" in fields:
        # A claim over HTTP is a holder of its own, which claims nothing more from the start.
        state = "holding" if kind == "http" else "draining"
    else:
        state = "ready"
        pool.worker_slots += int(fields["slots"])
        pool.served |= set(fields.get("queues", "").split(" "))
    pool.workers[kind, state] += 1


def _add_queues(server: Connection, pools: Sequence[_Pool]) -> None:
    script, calls, owners = load("measure"), [], []
    for pool in pools:
        for first in range(0, len(pool.queues), QUEUES_PER_CALL):
            tail = pool.queues[first : first + QUEUES_PER_CALL]
            calls.append(Call(script, *script.bind(pool.keys, {"now_ms": pool.now_ms}, tail)))
            owners.append(pool)
    for pool, answer in zip(owners, server.call_many(calls) if calls else [], strict=True):
        if isinstance(answer, DispatcherError):
            raise answer
        pool.rows += answer[1:]


def _record(pool: _Pool) -> PoolMeasure:
    return PoolMeasure(
        name=pool.keys.pool,
        now_ms=pool.now_ms,
        limit=moment(pool.fields, "limit"),
        claimed=pool.claimed,
        dead=pool.dead,
        is_paused=pause_record(pool.fields, "paused", pool.now_ms) is not None,
        workers=pool.workers,
        worker_slots=pool.worker_slots,
        queue_count=pool.queue_count,
        queues=tuple(_queue_record(pool, row) for row in pool.rows),
    )


def _queue_record(pool: _Pool, row: Any) -> QueueMeasure:
    encoded, scheduled, due, unclaimed, claimed, oldest_due_ms, limit, is_paused = row
    name = encoded.decode()
    is_polled = pool.fields.get("handout") == "poll"  # who polls is known to nobody
    return QueueMeasure(
        name=decode(name),
        scheduled=scheduled,
        due=due,
        waiting=pool.waiting[name],
        unclaimed=unclaimed,
        claimed=claimed,
        oldest_due_ms=int(float(oldest_due_ms)) if oldest_due_ms else None,
        limit=int(limit) if limit else None,
        is_paused=bool(is_paused),
        is_served=is_polled or "" in pool.served or name in pool.served,
    )


def _pair(row: str) -> tuple[str, str]:
    deployment, _, queue = row.partition(" ")
    return deployment, queue


def _many(server: Connection, ask: Callable[[Any], None]) -> list[Any]:
    """Return the answers of one round trip."""

    def read(client: Any) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        ask(pipeline)
        return list(pipeline.execute())

    return server.read(read)
