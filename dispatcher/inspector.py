"""The read side, for the command line and for deciding where a run belongs; writes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from dispatcher.connection import Connection, Subscription
from dispatcher.errors import NotFound, PoolNotFound, QueueNotFound
from dispatcher.keys import (
    GROUP,
    PoolKeys,
    changes_pattern,
    decode,
    encode,
    pool_of_channel,
    pools_key,
)
from dispatcher.records import Delivery, Hint, Holder, Leases, Place, Pool, Queue, RunRecord

LATE_AFTER_MS = 15_000
_PAGE = 500
# Named one by one: a list of runs must not carry their payloads.
_RUN_FIELDS = (
    *("queue", "name", "place", "state_type", "state_name", "message", "due_ms", "submitted_ms"),
    *("run_count", "delivery", "losses", "holder", "token", "dispatched_ms", "claimed_ms"),
    *("started_ms", "ended_ms", "deployment"),
)
_DELIVERY_FIELDS = ("holder", "claimed_ms", "started_ms", "ended_ms", "outcome")
_DELIVERIES_KEPT = 20


class Inspector:
    """Reads what is stored on one server under one key prefix."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix

    def server_time_ms(self) -> int:
        """Return the server's clock in ms, the one clock of the fleet."""
        seconds, microseconds = self.connection.read(lambda c: c.time())
        return int(seconds) * 1000 + int(microseconds) // 1000

    def pool_names(self) -> list[str]:
        """Return the names of all pools, sorted."""
        names = self.connection.read(lambda c: c.smembers(pools_key(self.prefix)))
        return sorted(name.decode() for name in names)

    def pool(self, name: str) -> Pool:
        """Return a pool; raises NotFound."""
        fields = self._hash(self._keys(name)["pool"])
        if not fields:
            raise PoolNotFound(name)
        return Pool(
            name=name,
            id=fields["id"],
            type=fields.get("type", "process"),
            command=fields.get("command", ""),
            lease_ms=int(fields["lease_ms"]),
            renew_ms=int(fields["renew_ms"]),
            retention_ms=int(fields["retention_ms"]),
            keep_payload=fields.get("keep_payload") == "1",
            created_ms=int(fields["created_ms"]),
        )

    def pools(self) -> list[Pool]:
        """Return all pools, sorted by name."""
        return [self.pool(name) for name in self.pool_names()]

    def queue_names(self, pool: str) -> list[str]:
        """Return the names of a pool's queues, highest priority first."""
        names = self.connection.read(lambda c: c.zrange(self._keys(pool)["queues"], 0, -1))
        return [decode(name.decode()) for name in names]

    def queue(self, pool: str, name: str) -> Queue:
        """Return a queue with how many runs are where; raises NotFound for pool or queue."""
        for queue in self.queues(pool):
            if queue.name == name:
                return queue
        raise QueueNotFound(pool, name)

    def queues(self, pool: str) -> list[Queue]:
        """Return a pool's queues with how many runs are where; raises NotFound."""
        self.pool(pool)
        keys = self._keys(pool)
        rows = self.connection.read(lambda c: c.zrange(keys["queues"], 0, -1, withscores=True))

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for encoded, _ in rows:
                name = encoded.decode()
                pipeline.hgetall(keys["queue"] + name)
                pipeline.zcard(keys["scheduled"] + name)
                pipeline.xlen(keys["stream"] + name)
                pipeline.execute_command("XINFO", "GROUPS", keys["stream"] + name)
            return list(pipeline.execute(raise_on_error=False))

        answers = iter(self.connection.read(read))
        return [
            _queue(pool, encoded, score, next(answers), next(answers), next(answers), next(answers))
            for encoded, score in rows
        ]

    def run(self, run_id: str, pool: str | None = None) -> RunRecord:
        """Return what is known of a run, in `pool` or wherever it is; raises NotFound."""
        for name in [pool] if pool else self.pool_names():
            fields = self._fields(self._keys(name)["run"] + run_id, _RUN_FIELDS)
            if fields.get("place"):
                deliveries = self._deliveries(name, run_id, int(fields["delivery"]))
                return _run_record(run_id, name, fields, deliveries)
        raise NotFound(f"run {run_id} is not known{f' in pool {pool!r}' if pool else ''}")

    def records(self, pool: str, run_ids: Iterable[str]) -> Iterator[RunRecord]:
        """Yield what is known of these runs of a pool, without their deliveries."""
        return self._records(pool, iter(run_ids))

    def payload(self, run: RunRecord) -> bytes | None:
        """Return the bytes that were accepted; None when the run has ended and dropped them."""
        return self._field(run, "payload")

    def output(self, run: RunRecord) -> bytes:
        """Return the tail of what the run wrote, empty until it has ended."""
        return self._field(run, "output") or b""

    def runs(
        self, pool: str, *, queues: Sequence[str] = (), places: Iterable[Place] = ()
    ) -> Iterator[RunRecord]:
        """Yield runs: scheduled by due time, in streams and claimed, then those that ended last."""
        wanted = set(places) or set(Place)
        names = list(queues) or self.queue_names(pool)
        for record in self._records(pool, self._ids(pool, names, wanted)):
            if record.place in wanted and record.queue in names:
                yield record

    def holders(self, pool: str) -> list[Holder]:
        """Return who holds leases in a pool, by name; raises NotFound."""
        self.pool(pool)
        keys = self._keys(pool)
        rows = self.connection.read(lambda c: c.zrange(keys["holders"], 0, -1, withscores=True))
        found = []
        for encoded, lease_end_ms in rows:
            name = encoded.decode()
            fields = self._hash(keys["holder"] + name)
            if fields:
                held = self._card(keys["claims"] + name)
                found.append(_holder(name, pool, fields, held, int(lease_end_ms)))
        return sorted(found, key=lambda holder: holder.id)

    def claims(self, pool: str, holder: str) -> dict[str, str]:
        """Return what a holder has claimed: run id to fencing token."""
        keys = self._keys(pool)
        ids = [
            i.decode() for i in self.connection.read(lambda c: c.smembers(keys["claims"] + holder))
        ]

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for run_id in ids:
                pipeline.hget(keys["run"] + run_id, "token")
            return list(pipeline.execute())

        tokens = self.connection.read(read) if ids else []
        return {i: token.decode() for i, token in zip(ids, tokens, strict=True) if token}

    def leases(self, pool: str, *, limit: int = 100) -> Leases:
        """Return the holders whose leases end first, with the server's time, in one round trip."""
        keys = self._keys(pool)

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hget(keys["pool"], "lease_ms")
            pipeline.zrange(keys["holders"], 0, limit - 1, withscores=True)
            return list(pipeline.execute())

        (seconds, microseconds), lease_ms, rows = self.connection.read(read)
        ends = tuple((holder.decode(), int(end_ms)) for holder, end_ms in rows)
        return Leases(seconds * 1000 + microseconds // 1000, int(lease_ms or 0), ends)

    def last_event(self, pool: str) -> str:
        """Return the id of a pool's latest event, for `events`."""
        key = self._keys(pool)["events"]
        rows = self.connection.read(lambda c: c.xrevrange(key, count=1))
        return rows[0][0].decode() if rows else "0"

    def events(
        self, pool: str, after: str, *, timeout_s: float
    ) -> list[tuple[str, dict[str, str]]]:
        """Return a page of a pool's events behind the id `after`; wait for one, none on timeout.

        The connection must have a longer read timeout.
        """
        key, block_ms = self._keys(pool)["events"], max(1, round(timeout_s * 1000))
        read = self.connection.read(lambda c: c.xread({key: after}, count=_PAGE, block=block_ms))
        rows = read[0][1] if read else []
        return [
            (entry.decode(), {n.decode(): v.decode(errors="replace") for n, v in fields.items()})
            for entry, fields in rows
        ]

    def subscribe(self, pools: Sequence[str] = ()) -> Subscription:
        """Return a subscription to the `changes` of these pools, or of all."""
        channels = [self._keys(pool)["changes"] for pool in pools]
        patterns = [] if channels else [changes_pattern(self.prefix)]
        return Subscription(self.connection, channels, patterns)

    def hint(self, channel: str, text: str) -> Hint | None:
        """Return what a message of a `changes` channel says; None when it is not ours."""
        pool = pool_of_channel(self.prefix, channel)
        queue, _, due_ms = text.rpartition(" ")
        return Hint(pool, decode(queue), int(due_ms)) if pool and due_ms.isdigit() else None

    def _ids(self, pool: str, queues: Sequence[str], wanted: set[Place]) -> Iterator[str]:
        keys = self._keys(pool)
        encoded = [encode(queue) for queue in queues]
        if Place.SCHEDULED in wanted:
            for queue in encoded:
                yield from (member[16:] for member in self._members(keys["scheduled"] + queue))
        if wanted & {Place.STREAM, Place.CLAIMED}:
            for queue in encoded:
                yield from self._in_stream(keys["stream"] + queue)
        if Place.DEAD in wanted:
            yield from self._members(keys["dead"], newest_first=True)
        if Place.ENDED in wanted:
            yield from self._members(keys["finished"], newest_first=True)

    def _in_stream(self, key: str) -> Iterator[str]:
        first = "-"
        while page := self._entries(key, first):
            yield from (fields[b"run"].decode() for _, fields in page)
            first = f"({page[-1][0].decode()}"

    def _members(self, key: str, *, newest_first: bool = False) -> Iterator[str]:
        start = 0
        while page := self._range(key, start, newest_first=newest_first):
            yield from (member.decode() for member in page)
            start += _PAGE

    def _entries(self, key: str, first: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        page: list[Any] = self.connection.read(lambda c: c.xrange(key, first, "+", _PAGE))
        return page

    def _card(self, key: str) -> int:
        return int(self.connection.read(lambda c: c.scard(key)))

    def _range(self, key: str, start: int, *, newest_first: bool) -> list[bytes]:
        page: list[bytes] = self.connection.read(
            lambda c: c.zrange(key, start, start + _PAGE - 1, desc=newest_first)
        )
        return page

    def _records(self, pool: str, ids: Iterator[str]) -> Iterator[RunRecord]:
        prefix = self._keys(pool)["run"]
        while page := list(islice(ids, _PAGE)):

            def read(client: Any, page: list[str] = page) -> list[Any]:
                pipeline = client.pipeline(transaction=False)
                for run_id in page:
                    pipeline.hmget(prefix + run_id, _RUN_FIELDS)
                return list(pipeline.execute())

            for run_id, values in zip(page, self.connection.read(read), strict=True):
                fields = _named(_RUN_FIELDS, values)
                if fields.get("place"):
                    yield _run_record(run_id, pool, fields)

    def _deliveries(self, pool: str, run_id: str, last: int) -> tuple[Delivery, ...]:
        numbers = range(max(1, last - _DELIVERIES_KEPT + 1), last + 1)
        names = [f"delivery.{n}.{field}" for n in numbers for field in _DELIVERY_FIELDS]
        fields = self._fields(self._keys(pool)["run"] + run_id, names) if names else {}
        return tuple(_delivery(n, fields) for n in numbers if f"delivery.{n}.holder" in fields)

    def _fields(self, key: str, names: Sequence[str]) -> dict[str, str]:
        return _named(names, self.connection.read(lambda c: c.hmget(key, names)))

    def _hash(self, key: str) -> dict[str, str]:
        fields = self.connection.read(lambda c: c.hgetall(key))
        return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}

    def _field(self, run: RunRecord, name: str) -> bytes | None:
        key = self._keys(run.pool)["run"] + run.id
        value: bytes | None = self.connection.read(lambda c: c.hget(key, name))
        return value

    def _keys(self, pool: str) -> PoolKeys:
        return PoolKeys(self.prefix, pool)


def state_name_at(run: RunRecord, now_ms: int) -> str:
    """Return a run's state name for people: `Late` is not stored, it depends on the time."""
    if run.state_type != "SCHEDULED" or run.state_name not in ("Scheduled", "Late"):
        return run.state_name
    late = run.started_ms is None and now_ms - run.due_ms > LATE_AFTER_MS
    return "Late" if late else "Scheduled"


def _queue(
    pool: str, encoded: bytes, score: float, raw: Any, scheduled: int, length: int, groups: Any
) -> Queue:
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    # An error stands in for the groups while nothing was ever dispatched: no stream yet.
    rows = [] if isinstance(groups, Exception) else groups
    pairs = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    claimed = sum(int(p[b"pending"]) for p in pairs if p[b"name"] == GROUP.encode())
    return Queue(
        name=decode(encoded.decode()),
        pool=pool,
        id=fields["id"],
        priority=int(score),
        max_unclaimed=int(fields.get("max_unclaimed", 1_000)),
        max_deliveries=int(fields.get("max_deliveries", 3)),
        created_ms=int(fields["created_ms"]),
        scheduled=int(scheduled),
        unclaimed=int(length) - claimed,
        claimed=claimed,
    )


def _holder(holder: str, pool: str, fields: dict[str, str], held: int, lease_end_ms: int) -> Holder:
    return Holder(
        id=holder,
        pool=pool,
        worker=decode(fields["worker"]),
        host=fields.get("host", ""),
        pid=int(fields.get("pid", 0)),
        type=fields.get("type", ""),
        queues=tuple(decode(queue) for queue in fields.get("queues", "").split(" ") if queue),
        slots=int(fields.get("slots", 0)),
        held=held,
        lease_end_ms=lease_end_ms,
        registered_ms=int(fields.get("registered_ms", 0)),
        draining="draining" in fields,
        dead="dead" in fields,
    )


def _named(names: Sequence[str], values: Sequence[bytes | None]) -> dict[str, str]:
    pairs = zip(names, values, strict=True)
    return {name: value.decode(errors="replace") for name, value in pairs if value is not None}


def _moment(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if fields.get(name) else None


def _delivery(number: int, fields: dict[str, str]) -> Delivery:
    prefix = f"delivery.{number}."
    return Delivery(
        number=number,
        holder=fields[prefix + "holder"],
        claimed_ms=int(fields[prefix + "claimed_ms"]),
        started_ms=_moment(fields, prefix + "started_ms"),
        ended_ms=_moment(fields, prefix + "ended_ms"),
        outcome=fields.get(prefix + "outcome", ""),
    )


def _run_record(
    run_id: str, pool: str, fields: dict[str, str], deliveries: tuple[Delivery, ...] = ()
) -> RunRecord:
    return RunRecord(
        id=run_id,
        pool=pool,
        queue=decode(fields["queue"]),
        name=fields["name"],
        place=Place(fields["place"]),
        state_type=fields["state_type"],
        state_name=fields["state_name"],
        message=fields.get("message", ""),
        due_ms=int(fields["due_ms"]),
        submitted_ms=int(fields["submitted_ms"]),
        run_count=int(fields["run_count"]),
        delivery=int(fields["delivery"]),
        losses=int(fields.get("losses", 0)),
        holder=fields.get("holder", ""),
        token=fields.get("token", ""),
        dispatched_ms=_moment(fields, "dispatched_ms"),
        claimed_ms=_moment(fields, "claimed_ms"),
        started_ms=_moment(fields, "started_ms"),
        ended_ms=_moment(fields, "ended_ms"),
        deployment=fields.get("deployment", ""),
        deliveries=deliveries,
    )
