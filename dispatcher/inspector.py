"""The read side, for the command line and for deciding where a run belongs; writes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from dispatcher.connection import Subscription
from dispatcher.decoding import (
    DELIVERY_FIELDS,
    RUN_FIELDS,
    answered,
    delivery_record,
    deployment_record,
    holder_record,
    named,
    pool_record,
    queue_record,
    run_record,
    texts,
)
from dispatcher.errors import NotFound, PoolNotFound, QueueNotFound
from dispatcher.keys import (
    PoolKeys,
    changes_pattern,
    decode,
    encode,
    pool_of_channel,
    pools_key,
)
from dispatcher.pages import Pages
from dispatcher.records import Hint
from dispatcher.stored import (
    Delivery,
    Deployment,
    Holder,
    Leases,
    Offering,
    Place,
    Pool,
    Queue,
    RunRecord,
)

_PAGE = 500
_DELIVERIES_KEPT = 20


class Inspector(Pages):
    """Reads what is stored on one server or cluster under one key prefix."""

    def server_time_ms(self, pool: str | None = None) -> int:
        """Return the server's clock in ms, the one clock of the fleet.

        In a cluster each node has its own; the one of a pool's node counts for all of the pool.
        """
        server = self.at(pool) if pool else self.connection
        return _ms(server.read(lambda c: c.time()))

    def pool_names(self) -> list[str]:
        """Return the names of all pools, sorted."""
        key = pools_key(self.prefix)
        names = self.connection.at(key).read(lambda c: c.smembers(key))
        return sorted(name.decode() for name in names)

    def pool(self, name: str) -> Pool:
        """Return a pool; raises NotFound."""
        keys = self._keys(name)

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hgetall(keys["pool"])
            pipeline.zcard(keys["pool_slots"])
            pipeline.time()
            return list(pipeline.execute())

        raw, claimed, time = self.connection.at(keys["pool"]).read(read)
        if not raw:
            raise PoolNotFound(name)
        return pool_record(name, texts(raw), claimed, _ms(time))

    def offering(self, pool: str) -> Offering:
        """Return what there is to claim, in one round trip; raises NotFound for the pool."""
        keys = self._keys(pool)

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(keys["pool"], "id", "handout")
            pipeline.zrange(keys["queues"], 0, -1)
            pipeline.zrange(keys["ready"], 0, -1)
            return list(pipeline.execute())

        (id_, handout), *lists = self.connection.at(keys["pool"]).read(read)
        if id_ is None:
            raise PoolNotFound(pool)
        queues, ready = (tuple(decode(name.decode()) for name in names) for names in lists)
        return Offering((handout or b"stream").decode(), queues, ready)

    def job_version(self, pool: str) -> int:
        """Return the version of a pool's command and template; 0 when there is no pool."""
        key = self._keys(pool)["pool"]
        return int(self.connection.at(key).read(lambda c: c.hget(key, "job_version")) or 0)

    def pools(self) -> list[Pool]:
        """Return all pools, sorted by name; one that is deleted meanwhile is left out."""
        found = []
        for name in self.pool_names():
            with suppress(PoolNotFound):
                found.append(self.pool(name))
        return found

    def queue_names(self, pool: str) -> list[str]:
        """Return the names of a pool's queues, highest priority first."""
        key = self._keys(pool)["queues"]
        names = self.connection.at(key).read(lambda c: c.zrange(key, 0, -1))
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
        server = self.connection.at(keys["pool"])
        rows = server.read(lambda c: c.zrange(keys["queues"], 0, -1, withscores=True))
        waiting: dict[str, int] = {}
        for _, queue, count in self._waiting(pool):
            waiting[queue] = waiting.get(queue, 0) + count

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.time()
            for encoded, _ in rows:
                name = encoded.decode()
                pipeline.hgetall(keys["queue"] + name)
                pipeline.zcard(keys["scheduled"] + name)
                pipeline.xlen(keys["stream"] + name)
                pipeline.execute_command("XINFO", "GROUPS", keys["stream"] + name)
                pipeline.zcard(keys["queue_slots"] + name)
            return answered(pipeline.execute(raise_on_error=False))

        time, *rest = server.read(read)
        answers = iter(rest)
        found = []
        for encoded, score in rows:
            name = encoded.decode()
            raw, scheduled = next(answers), next(answers)
            stream = (next(answers), next(answers))
            counts = (raw, scheduled, waiting.get(name, 0), *stream, next(answers))
            if raw:  # else it was deleted meanwhile
                found.append(queue_record(pool, name, score, counts, _ms(time)))
        return found

    def deployments(self, pool: str) -> list[Deployment]:
        """Return the deployments that have a limit, by id; raises NotFound for the pool."""
        self.pool(pool)
        key = self._keys(pool)["deployments"]
        ids = self.connection.at(key).read(lambda c: c.smembers(key))
        return [self.deployment(pool, each.decode()) for each in sorted(ids)]

    def deployment(self, pool: str, deployment: str) -> Deployment:
        """Return a deployment, with a limit or without."""
        keys = self._keys(pool)
        slots = keys["deployment_slots"] + deployment
        held = self.connection.at(slots).read(lambda c: c.zcard(slots))
        fields = self._hash(keys["deployment"] + deployment)
        waiting = sum(n for d, _, n in self._waiting(pool) if d == deployment)
        return deployment_record(deployment, pool, fields, held=held, waiting=waiting)

    def dead(self, pool: str, *, before_ms: int | None = None, limit: int = _PAGE) -> list[str]:
        """Return the ids of dead-lettered runs, oldest first, those from before `before_ms`."""
        key, most = self._keys(pool)["dead"], "+inf" if before_ms is None else before_ms
        rows = self.connection.at(key).read(lambda c: c.zrangebyscore(key, "-inf", most, 0, limit))
        return [row.decode() for row in rows]

    def run(self, run_id: str, pool: str | None = None) -> RunRecord:
        """Return what is known of a run, in `pool` or wherever it is; raises NotFound."""
        for name in [pool] if pool else self.pool_names():
            fields = self._fields(self._keys(name)["run"] + run_id, RUN_FIELDS)
            if fields.get("place"):
                deliveries = self._deliveries(name, run_id, int(fields["delivery"]))
                return run_record(run_id, name, fields, deliveries)
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
            if record.place in wanted and (not queues or record.queue in names):
                yield record

    def holders(self, pool: str) -> list[Holder]:
        """Return who holds leases in a pool, by name; raises NotFound."""
        self.pool(pool)
        keys = self._keys(pool)
        server = self.connection.at(keys["pool"])
        rows = server.read(lambda c: c.zrange(keys["holders"], 0, -1, withscores=True))
        found = []
        for encoded, lease_end_ms in rows:
            name = encoded.decode()
            fields = self._hash(keys["holder"] + name)
            if fields:
                held = self._card(keys["claims"] + name)
                found.append(
                    holder_record(name, pool, fields, held=held, lease_end_ms=int(lease_end_ms))
                )
        return sorted(found, key=lambda holder: holder.id)

    def claims(self, pool: str, holder: str) -> dict[str, str]:
        """Return what a holder has claimed: run id to fencing token."""
        keys = self._keys(pool)
        server = self.connection.at(keys["pool"])
        ids = [i.decode() for i in server.read(lambda c: c.smembers(keys["claims"] + holder))]

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for run_id in ids:
                pipeline.hget(keys["run"] + run_id, "token")
            return list(pipeline.execute())

        tokens = server.read(read) if ids else []
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

        time, lease_ms, rows = self.connection.at(keys["pool"]).read(read)
        ends = tuple((holder.decode(), int(end_ms)) for holder, end_ms in rows)
        return Leases(_ms(time), int(lease_ms or 0), ends)

    def subscribe(self, pools: Sequence[str] = ()) -> Subscription:
        """Return a subscription to the `changes` of these pools, or of all.

        One is enough for a cluster: what is published on one node is heard on all.
        """
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
        if Place.WAITING in wanted:
            for deployment, queue, _ in self._waiting(pool):
                if queue in encoded:
                    waiting = f"{keys['waiting']}{deployment}:{queue}"
                    yield from (member[16:] for member in self._members(waiting))
        for queue in encoded if wanted & {Place.STREAM, Place.CLAIMED} else ():
            yield from self._handed_out(keys, queue)
        if Place.DEAD in wanted:
            yield from self._members(keys["dead"], newest_first=True)
        if Place.ENDED in wanted:
            yield from self._members(keys["finished"], newest_first=True)

    def _waiting(self, pool: str) -> list[tuple[str, str, int]]:
        """Return deployment, encoded queue and number of the runs that wait for a slot."""
        keys = self._keys(pool)
        server = self.connection.at(keys["pool"])
        rows = server.read(lambda c: c.zrange(keys["waits"], 0, -1))
        pairs = [row.decode().split(" ", 1) for row in rows]

        def read(client: Any) -> list[int]:
            pipeline = client.pipeline(transaction=False)
            for deployment, queue in pairs:
                pipeline.zcard(f"{keys['waiting']}{deployment}:{queue}")
            return list(pipeline.execute())

        counts = server.read(read) if pairs else []
        return [(d, q, count) for (d, q), count in zip(pairs, counts, strict=True)]

    def _handed_out(self, keys: PoolKeys, queue: str) -> Iterator[str]:
        """Yield what is in a stream, claimed or not, and then what was taken without an entry."""
        seen = set[str]()
        for run_id in self._in_stream(keys["stream"] + queue):
            seen.add(run_id)
            yield run_id
        for run_id in self._members(keys["queue_slots"] + queue):
            if run_id not in seen:
                yield run_id

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
        server = self.connection.at(key)
        page: list[Any] = server.read(lambda c: c.xrange(key, first, "+", _PAGE))
        return page

    def _card(self, key: str) -> int:
        return int(self.connection.at(key).read(lambda c: c.scard(key)))

    def _range(self, key: str, start: int, *, newest_first: bool) -> list[bytes]:
        page: list[bytes] = self.connection.at(key).read(
            lambda c: c.zrange(key, start, start + _PAGE - 1, desc=newest_first)
        )
        return page

    def _records(self, pool: str, ids: Iterator[str]) -> Iterator[RunRecord]:
        prefix = self._keys(pool)["run"]
        server = self.connection.at(prefix)
        while page := list(islice(ids, _PAGE)):

            def read(client: Any, page: list[str] = page) -> list[Any]:
                pipeline = client.pipeline(transaction=False)
                for run_id in page:
                    pipeline.hmget(prefix + run_id, RUN_FIELDS)
                return list(pipeline.execute())

            for run_id, values in zip(page, server.read(read), strict=True):
                fields = named(RUN_FIELDS, values)
                if fields.get("place"):
                    yield run_record(run_id, pool, fields)

    def _deliveries(self, pool: str, run_id: str, last: int) -> tuple[Delivery, ...]:
        numbers = range(max(1, last - _DELIVERIES_KEPT + 1), last + 1)
        names = [f"delivery.{n}.{field}" for n in numbers for field in DELIVERY_FIELDS]
        fields = self._fields(self._keys(pool)["run"] + run_id, names) if names else {}
        return tuple(
            delivery_record(n, fields) for n in numbers if f"delivery.{n}.holder" in fields
        )

    def _fields(self, key: str, names: Sequence[str]) -> dict[str, str]:
        return named(names, self.connection.at(key).read(lambda c: c.hmget(key, names)))

    def _hash(self, key: str) -> dict[str, str]:
        return texts(self.connection.at(key).read(lambda c: c.hgetall(key)))

    def _field(self, run: RunRecord, name: str) -> bytes | None:
        key = self._keys(run.pool)["run"] + run.id
        value: bytes | None = self.connection.at(key).read(lambda c: c.hget(key, name))
        return value


def _ms(time: tuple[int, int]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000
