"""The one door for writing: one method per atomic step, typed in and out.

Every step may be repeated as it was (same request, number or token) and then answers as before.
All raise RedisUnavailable, RedisRefused or RedisFull when the server cannot do it.
"""

import json
from collections.abc import Sequence
from typing import Any

from dispatcher.connection import Call, Connection
from dispatcher.errors import (
    AlreadyExists,
    DispatcherError,
    InvalidInput,
    PoolNotFound,
    QueueNotFound,
    RedisRefused,
    Refused,
)
from dispatcher.keys import DATA_VERSION, PoolKeys, check_name, decode, encode, pools_key
from dispatcher.records import (
    Claim,
    ClaimAnswer,
    Dispatched,
    Finish,
    Moved,
    Pool,
    Queue,
    Receipt,
    Recovered,
    Registered,
    Registration,
    Renewed,
    Report,
    Start,
    Submission,
    Word,
)
from dispatcher.scripts import Value, load, names

DISPATCH_RUNS = 100
DISPATCH_BYTES = 4_194_304
CLAIM_BYTES = 4_194_304
RECOVER_RUNS = 100


class Store:
    """The atomic steps on one server under one key prefix.

    `now_ms` None lets the server's own clock decide, the one clock of the fleet; tests set theirs.
    """

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix
        self.now_ms: int | None = None
        self._keys: dict[str, PoolKeys] = {}

    def create_pool(self, pool: Pool, *, default_queue_id: str) -> bool:
        """Create a pool with its `default` queue; False when this very pool was there already.

        Raises InvalidName, and AlreadyExists when another pool has the name.
        """
        check_name("pool", pool.name)
        existed = self.connection.read(lambda c: c.exists(self.keys(pool.name)["pool"]))
        fields: list[Value] = ["type", pool.type, "lease_ms", pool.lease_ms]
        fields += ["renew_ms", pool.renew_ms, "retention_ms", pool.retention_ms]
        fields += ["keep_payload", int(pool.keep_payload), "command", pool.command]
        word = self._step(
            "create_pool",
            pool.name,
            version=DATA_VERSION,
            id=pool.id,
            queue_id=default_queue_id,
            fields=_flat(fields),
        )
        # The set of names has a slot of its own, so it is written apart; adding is repeatable.
        self.connection.read(lambda c: c.sadd(pools_key(self.prefix), pool.name))
        if Word(word.decode()) is Word.EXISTS:
            raise AlreadyExists(f"pool {pool.name!r} exists already")
        return not existed

    def create_queue(self, queue: Queue, *, priority: int | None = None) -> None:
        """Create a queue; `priority` None puts it after all others.

        Raises InvalidName, InvalidInput for a priority below 1, NotFound for the pool,
        AlreadyExists for the queue.
        """
        check_name("queue", queue.name)
        if priority is not None and priority < 1:
            raise InvalidInput(f"priority {priority} is below 1, the highest")
        fields: list[Value] = ["max_unclaimed", queue.max_unclaimed]
        fields += ["max_deliveries", queue.max_deliveries]
        word = Word(
            self._step(
                "create_queue",
                queue.pool,
                name=encode(queue.name),
                id=queue.id,
                priority="" if priority is None else priority,
                fields=_flat(fields),
            ).decode()
        )
        if word is Word.NO_POOL:
            raise PoolNotFound(queue.pool)
        if word is Word.EXISTS:
            raise AlreadyExists(f"queue {queue.name!r} exists already in pool {queue.pool!r}")

    def submit(self, pool: str, submission: Submission) -> Receipt:
        """Accept one run; raises Refused with the reason, NotFound for pool or queue."""
        (answer,) = self.submit_many(pool, [submission])
        if isinstance(answer, DispatcherError):
            raise answer
        return answer

    def submit_many(
        self, pool: str, submissions: Sequence[Submission]
    ) -> list[Receipt | DispatcherError]:
        """Accept runs in one round trip; a refused one has its error in its place."""
        calls = [
            self._call(
                "submit",
                pool,
                request=s.request,
                run_id=s.run_id,
                queue=encode(s.queue),
                due_ms="" if s.due_ms is None else s.due_ms,
                payload=s.payload,
                name=s.name,
                run_count=s.run_count,
                state_name=s.state_name,
                deployment=s.deployment,
                version=DATA_VERSION,
            )
            for s in submissions
        ]
        answers = self.connection.call_many(calls)
        return [_receipt(pool, s, a) for s, a in zip(submissions, answers, strict=True)]

    def dispatch(
        self,
        pool: str,
        queues: Sequence[str],
        *,
        limit: int = DISPATCH_RUNS,
        max_bytes: int = DISPATCH_BYTES,
    ) -> Dispatched:
        """Move due runs of these queues into their streams; raises NotFound for the pool."""
        tail = [encode(queue) for queue in queues]
        args = {"version": DATA_VERSION, "limit": limit, "max_bytes": max_bytes}
        word, now_us, *rows = self.connection.call(self._call("dispatch", pool, tail, **args))
        _check_pool(word, pool, now_us)
        answer = Dispatched(now_us=int(now_us))
        for encoded, more, next_due_ms, moved in rows:
            queue = decode(encoded.decode())
            pairs = zip(moved[::2], moved[1::2], strict=True)
            answer.moved.extend(Moved(i.decode(), queue, int(float(due))) for i, due in pairs)
            answer.next_due_ms[queue] = int(float(next_due_ms)) if next_due_ms else None
            if more:
                answer.more.append(queue)
        return answer

    def register(self, pool: str, registration: Registration) -> Registered:
        """Make a worker's incarnation a holder of claims.

        Raises InvalidName, NotFound for the pool, Refused when this incarnation was recovered.
        """
        worker = encode(check_name("worker", registration.worker))
        holder = f"{worker}.{registration.incarnation}"
        word, lease_ms, renew_ms, displaced = self._step(
            "register",
            pool,
            version=DATA_VERSION,
            holder=holder,
            worker=worker,
            queues=" ".join(encode(queue) for queue in registration.queues),
            slots=registration.slots,
            host=registration.host,
            pid=registration.pid,
            type=registration.type,
        )
        _check_pool(word, pool, lease_ms)
        if Word(word.decode()) is Word.LOST:
            raise Refused(f"worker {holder} was recovered; register a new incarnation")
        return Registered(holder, int(lease_ms), int(renew_ms), displaced.decode())

    def claim(
        self, pool: str, holder: str, *, number: int, slots: int, max_bytes: int = CLAIM_BYTES
    ) -> ClaimAnswer:
        """Take the next runs for a holder; the same `number` again gives the same runs again."""
        word, more, *rows = self._step(
            "claim", pool, holder=holder, number=number, slots=slots, max_bytes=max_bytes
        )
        claims = [
            Claim(
                run_id=run_id.decode(),
                pool=pool,
                queue=decode(queue.decode()),
                token=token.decode(),
                payload=payload,
                due_ms=int(float(due_ms)),
                run_count=int(run_count),
                delivery=int(delivery),
                name=name.decode(),
            )
            for run_id, queue, token, payload, due_ms, run_count, delivery, name in rows
        ]
        return ClaimAnswer(Word(word.decode()), claims, bool(more))

    def report(self, pool: str, report: Report) -> Word:
        """Do one start, finish or release; LOST means that the run is somebody else's now."""
        (answer,) = self.report_many(pool, [report])
        if isinstance(answer, DispatcherError):
            raise answer
        return answer

    def report_many(self, pool: str, reports: Sequence[Report]) -> list[Word | DispatcherError]:
        """Do starts, finishes and releases in one round trip, in order."""
        answers = self.connection.call_many([self._report_call(pool, r) for r in reports])
        return [a if isinstance(a, DispatcherError) else Word(a.decode()) for a in answers]

    def renew(self, pool: str, holder: str, *, held: int, number: int) -> Renewed:
        """Prolong a holder's lease; `held` and `number` are what the holder thinks it has."""
        word, lease_ms, renew_ms, version, draining = self._step(
            "renew",
            pool,
            holder=holder,
            worker=holder.rpartition(".")[0],
            held=held,
            number=number,
        )
        return Renewed(Word(word.decode()), lease_ms, renew_ms, version, bool(draining))

    def drain(self, pool: str, holder: str, *, reason: str) -> Word:
        """Tell a holder to claim nothing more: DRAINING, DRAINED when it holds nothing, LOST."""
        return Word(self._step("drain", pool, holder=holder, reason=reason).decode())

    def recover(self, pool: str, holder: str, *, limit: int = RECOVER_RUNS) -> Recovered:
        """Take back some of what a dead holder had; MORE asks for another call."""
        word, *rows = self._step("recover", pool, holder=holder, limit=limit)
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        return Recovered(
            Word(word.decode()),
            requeued=[run.decode() for run, what in pairs if what == b"requeued"],
            dead=[run.decode() for run, what in pairs if what == b"dead"],
        )

    def recover_all(self, pool: str, holder: str) -> Recovered:
        """Repeat `recover` until nothing of the holder is left."""
        requeued: list[str] = []
        dead: list[str] = []
        while True:
            step = self.recover(pool, holder)
            requeued += step.requeued
            dead += step.dead
            if step.word is not Word.MORE:
                return Recovered(step.word, requeued, dead)

    def wait(
        self, pool: str, holder: str, queues: Sequence[str], *, timeout_s: float
    ) -> str | None:
        """Block until the holder's inbox or a queue's wake list says "look".

        Return the queue's name, "" for the inbox, None when nothing came. The store's connection
        must have a longer read timeout.
        """
        keys = self.keys(pool)
        lists = [keys["inbox"] + holder, *(keys["wake"] + encode(queue) for queue in queues)]
        popped = self.connection.read(lambda c: c.blpop(lists, timeout=timeout_s))
        if popped is None:
            return None
        name = popped[0].decode()
        return "" if name == lists[0] else decode(name.removeprefix(keys["wake"]))

    def warm_up(self) -> None:
        """Load all scripts, so that the first run does not wait for that; not needed, only fast."""

        def load_all(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for name in names():
                pipeline.script_load(load(name).source)
            pipeline.execute()

        self.connection.read(load_all)

    def nudge(self, pool: str, holder: str) -> None:
        """Make a worker that is blocked look at its slots; nothing when it is not registered."""
        keys = self.keys(pool)
        inbox, known = keys["inbox"] + holder, keys["holder"] + holder
        self.connection.read(lambda c: c.exists(known) and not c.llen(inbox) and c.lpush(inbox, 1))

    def keys(self, pool: str) -> PoolKeys:
        """Return the keys of a pool."""
        if pool not in self._keys:
            self._keys[pool] = PoolKeys(self.prefix, pool)
        return self._keys[pool]

    def _report_call(self, pool: str, report: Report) -> Call:
        ids = {"run_id": report.run_id, "token": report.token}
        if isinstance(report, Start):
            return self._call("start", pool, run_count=report.run_count, **ids)
        if isinstance(report, Finish):
            outcome = report.outcome
            return self._call(
                "finish",
                pool,
                state_type=outcome.state_type,
                state_name=outcome.state_name,
                message=outcome.message,
                output=outcome.output,
                nudge=int(report.nudge),
                **ids,
            )
        return self._call("release", pool, reason=report.reason, nudge=int(report.nudge), **ids)

    def _step(self, step: str, pool: str, **args: Value) -> Any:
        return self.connection.call(self._call(step, pool, **args))

    def _call(self, step: str, pool: str, tail: Sequence[str] = (), /, **args: Value) -> Call:
        script = load(step)
        args["now_ms"] = "" if self.now_ms is None else self.now_ms
        return Call(script, *script.bind(self.keys(pool), args, tail))


def _check_pool(word: bytes, pool: str, detail: object) -> None:
    if word == Word.NO_POOL.encode():
        raise PoolNotFound(pool)
    if word == Word.NEWER.encode():
        raise _newer(pool, detail)


def _newer(pool: str, version: object) -> RedisRefused:
    text = version.decode() if isinstance(version, bytes) else version
    return RedisRefused(
        f"pool {pool!r} has data version {text}, this release knows {DATA_VERSION}; "
        "use the newer release"
    )


def _receipt(pool: str, submission: Submission, answer: Any) -> Receipt | DispatcherError:
    if isinstance(answer, DispatcherError):
        return answer
    word, detail = Word(answer[0].decode()), answer[1].decode()
    if word is Word.NO_POOL:
        return PoolNotFound(pool)
    if word is Word.NO_QUEUE:
        return QueueNotFound(pool, submission.queue)
    if word is Word.NEWER:
        return _newer(pool, detail)
    if word is Word.ENDED:
        return Refused(f"run {submission.run_id} has ended already: {detail}")
    due_ms = int(float(detail)) if word is Word.ACCEPTED else None
    return Receipt(submission.run_id, word, pool, submission.queue, due_ms)


def _flat(fields: Sequence[Value]) -> str:
    return json.dumps([str(field) for field in fields])
