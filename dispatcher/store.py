"""The one door for writing: one method per atomic step, typed in and out.

Every step may be repeated as it was (same request, number or token) and then answers as before.
All raise RedisUnavailable, RedisRefused or RedisFull when the server cannot do it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dispatcher.connection import Call
from dispatcher.controls import Controls
from dispatcher.errors import (
    DispatcherError,
    InvalidName,
    PoolChanged,
    RedisUnavailable,
    Refused,
)
from dispatcher.hand_overs import SHARED, HandOvers
from dispatcher.keys import DATA_VERSION, check_name, decode, encode
from dispatcher.records import (
    ClaimAnswer,
    Dispatched,
    Finish,
    Moved,
    Receipt,
    Recovered,
    Registered,
    Registration,
    Renewed,
    Report,
    Skipped,
    Start,
    Submission,
    Watched,
    Word,
)
from dispatcher.repairs import Repairs
from dispatcher.scripts import load, names
from dispatcher.steps import check_target, optional, word_of
from dispatcher.taking import Taking, claim_record, moment

DISPATCH_RUNS = 100
DISPATCH_BYTES = 4_194_304
CLAIM_BYTES = 4_194_304
RECOVER_RUNS = 100
WATCH_RUNS = 100


class Store(Controls, Repairs, HandOvers, Taking):
    """The atomic steps on one server under one key prefix; those of operators are in `Controls`."""

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
                due_ms=optional(s.due_ms),
                payload=s.payload,
                name=s.name,
                run_count=s.run_count,
                state_name=s.state_name,
                deployment=s.deployment,
                version=DATA_VERSION,
                state_id=s.state_id,
                idempotency=s.idempotency,
                retries=s.retries,
                retry_delay_ms=s.retry_delay_ms,
                retry_type=s.retry_type,
                job_version=optional(s.job_version),
            )
            for s in submissions
        ]
        answers = self.at(pool).call_many(calls)
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
        word, now_us, *rest = self._step("dispatch", pool, tail, **args)
        check_target(word, pool, detail=now_us)
        late_at_ms, *rows = rest
        answer = Dispatched(now_us=int(now_us), late_at_ms=moment(late_at_ms))
        for row in rows:
            _note_queue(answer, row)
        return answer

    def watch(self, pool: str, *, limit: int = WATCH_RUNS) -> Watched:
        """Announce what nobody has started in time, once; raises NotFound for the pool."""
        word, more, late_at_ms, late, unserved = self._step("watch", pool, limit=limit)
        check_target(word, pool)
        return Watched(
            late=[(run.decode(), decode(queue.decode())) for run, queue in _pairs(late)],
            unserved=[decode(queue.decode()) for queue in unserved],
            more=bool(more),
            late_at_ms=moment(late_at_ms),
        )

    def register(self, pool: str, registration: Registration) -> Registered:
        """Make a worker's incarnation a holder of claims.

        Raises InvalidName, NotFound for the pool, Refused when this incarnation was recovered.
        """
        if registration.worker.startswith(SHARED):
            raise InvalidName(
                "worker", registration.worker, f"begins with {SHARED}, as RQ queues do"
            )
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
        check_target(word, pool, detail=lease_ms)
        if word_of(word) is Word.LOST:
            raise Refused(f"worker {holder} was recovered; register a new incarnation")
        return Registered(holder, int(lease_ms), int(renew_ms), displaced.decode())

    def claim(
        self, pool: str, holder: str, *, number: int, slots: int, max_bytes: int = CLAIM_BYTES
    ) -> ClaimAnswer:
        """Take the next runs for a holder; the same `number` again gives the same runs again."""
        word, more, *rows = self._step(
            "claim", pool, holder=holder, number=number, slots=slots, max_bytes=max_bytes
        )
        claims = [claim_record(pool, row) for row in rows]
        return ClaimAnswer(word_of(word), claims, bool(more))

    def report(self, pool: str, report: Report) -> Word:
        """Do one start, finish or release; LOST means that the run is somebody else's now."""
        (answer,) = self.report_many(pool, [report])
        if isinstance(answer, DispatcherError):
            raise answer
        return answer

    def report_many(self, pool: str, reports: Sequence[Report]) -> list[Word | DispatcherError]:
        """Do starts, finishes and releases in one round trip, in order."""
        answers = self.at(pool).call_many([self._report_call(pool, r) for r in reports])
        return [a if isinstance(a, DispatcherError) else word_of(a) for a in answers]

    def renew(self, pool: str, holder: str, *, held: int, number: int) -> Renewed:
        """Prolong a holder's lease; `held` and `number` are what the holder thinks it has."""
        word, lease_ms, renew_ms, version, draining, *orders = self._step(
            "renew",
            pool,
            holder=holder,
            worker=holder.rpartition(".")[0],
            held=held,
            number=number,
        )
        runs = tuple(run.decode() for run in orders)
        return Renewed(word_of(word), lease_ms, renew_ms, version, bool(draining), runs)

    def drain(self, pool: str, holder: str, *, reason: str, by: str = "") -> Word:
        """Tell a holder to claim nothing more: DRAINING, DRAINED when it holds nothing, LOST.

        `by` is the operator who wants it.
        """
        return word_of(self._step("drain", pool, holder=holder, reason=reason, by=by))

    def recover(self, pool: str, holder: str, *, limit: int = RECOVER_RUNS) -> Recovered:
        """Take back some of what a dead holder had; MORE asks for another call."""
        word, *rows = self._step("recover", pool, holder=holder, limit=limit)
        by_fate: dict[bytes, list[str]] = {b"requeued": [], b"dead": [], b"ended": []}
        for run, fate in _pairs(rows):
            by_fate[fate].append(run.decode())
        return Recovered(word_of(word), by_fate[b"requeued"], by_fate[b"dead"], by_fate[b"ended"])

    def recover_all(self, pool: str, holder: str) -> Recovered:
        """Repeat `recover` until nothing of the holder is left."""
        total = Recovered(Word.MORE)
        while True:
            step = self.recover(pool, holder)
            for name in ("requeued", "dead", "ended"):
                getattr(total, name).extend(getattr(step, name))
            if step.word is not Word.MORE:
                return replace(total, word=step.word)

    def wait(
        self,
        pool: str,
        holder: str,
        queues: Sequence[str],
        *,
        timeout_s: float,
        shared: Sequence[str] = (),
    ) -> str | None:
        """Block until the holder's inbox or a queue's wake list says "look".

        Return the queue's name, "" for the inbox, also for that of a `shared` holder, None when
        nothing came. The store's connection must have a longer read timeout.
        """
        keys = self.keys(pool)
        inboxes = [keys["inbox"] + each for each in (holder, *shared)]
        lists = [*inboxes, *(keys["wake"] + encode(queue) for queue in queues)]
        popped = self.at(pool).read(lambda c: c.blpop(lists, timeout=timeout_s))
        if popped is None:
            return None
        name = popped[0].decode()
        return "" if name in inboxes else decode(name.removeprefix(keys["wake"]))

    def look(self, pool: str, holder: str) -> bool:
        """Take what is in the holder's inbox without waiting; return whether it says "look"."""
        inbox = self.keys(pool)["inbox"] + holder
        return bool(self.at(pool).read(lambda c: c.lpop(inbox)))

    def warm_up(self, pool: str | None = None) -> None:
        """Load all scripts, so that the first run does not wait for that; not needed, only fast.

        They go where a pool is, or everywhere; then a node of a cluster may be away.
        """

        def load_all(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for name in names():
                pipeline.script_load(load(name).source)
            pipeline.execute()

        servers = [self.at(pool)] if pool else self.connection.everywhere()
        for server in servers:
            try:
                server.read(load_all)
            except RedisUnavailable:
                if len(servers) == 1:
                    raise

    def nudge(self, pool: str, holder: str) -> None:
        """Make a worker that is blocked look at its slots; nothing when it is not registered."""
        keys = self.keys(pool)
        inbox, known = keys["inbox"] + holder, keys["holder"] + holder
        self.at(pool).read(lambda c: c.exists(known) and not c.llen(inbox) and c.lpush(inbox, 1))

    def _report_call(self, pool: str, report: Report) -> Call:
        ids = {"run_id": report.run_id, "token": report.token}
        if isinstance(report, Start):
            return self._call("start", pool, run_count=report.run_count, **ids)
        if isinstance(report, Finish):
            outcome = report.outcome
            return self._call(
                "finish",
                pool,
                run_count=optional(report.run_count),
                state_type=outcome.state_type,
                state_name=outcome.state_name,
                message=outcome.message,
                output=outcome.output,
                nudge=int(report.nudge),
                **ids,
            )
        ids |= {"reason": report.reason, "by": report.by}
        delay_ms, nudge = optional(report.delay_ms), int(report.nudge)
        return self._call("release", pool, delay_ms=delay_ms, nudge=nudge, **ids)


def _receipt(pool: str, submission: Submission, answer: Any) -> Receipt | DispatcherError:
    if isinstance(answer, DispatcherError):
        return answer
    word, detail, run_id = word_of(answer[0]), answer[1].decode(), answer[2].decode()
    try:
        check_target(answer[0], pool, queue=submission.queue, detail=detail)
    except DispatcherError as error:
        return error
    if word is Word.PAUSED:
        reason = f": {detail}" if detail else ""
        return Refused(f"run {run_id}: intake of {pool}/{submission.queue} is paused{reason}")
    if word is Word.CHANGED:
        return PoolChanged(pool)
    if word is Word.ENDED:
        return Refused(
            f"run {run_id} has ended already: {detail}; another round takes "
            "another state_id and a later scheduled time"
        )
    if word is Word.CLAIMED:
        return Refused(f"run {run_id} is {detail}: its time cannot be changed any more")
    if word is Word.DUPLICATE:
        return Receipt(run_id, word, pool, submission.queue, state=detail)
    return Receipt(run_id, word, pool, submission.queue, int(float(detail)))


def _note_queue(answer: Dispatched, row: Any) -> None:
    """Take one queue's row of a dispatch into the answer."""
    encoded, more, next_due_ms, withdraw, moved, waiting, skipped = row
    queue = decode(encoded.decode())
    answer.moved.extend(Moved(i.decode(), queue, int(float(due))) for i, due in _pairs(moved))
    answer.waiting.extend((i.decode(), queue) for i in waiting)
    answer.skipped.extend(Skipped(i.decode(), queue, why.decode()) for i, why in _pairs(skipped))
    answer.next_due_ms[queue] = moment(next_due_ms)
    if more:
        answer.more.append(queue)
    if withdraw:
        answer.withdraw.append(queue)


def _pairs(items: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(items[::2], items[1::2], strict=True)
