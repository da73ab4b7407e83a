"""What operators do: pools, queues and deployments, pauses, cancels, re-timing, dead letters.

`by` is who does it, for the events. All raise RedisUnavailable, RedisRefused or RedisFull when the
server cannot do it, and NotFound where a pool, queue or run is not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dispatcher.errors import (
    AlreadyExists,
    DispatcherError,
    InvalidInput,
    NotEmpty,
    NotFound,
    PoolNotFound,
    QueueNotFound,
    Refused,
)
from dispatcher.job_configuration import check_template
from dispatcher.keys import DATA_VERSION, check_name, decode, encode, pools_key
from dispatcher.records import Word
from dispatcher.scripts import Value
from dispatcher.steps import Steps, check_target, flat, optional, word_of
from dispatcher.stored import HANDOUTS, Pool, Queue

WITHDRAW_ENTRIES = 100
WITHDRAW_BYTES = 4_194_304
PURGE_RUNS = 100
CANCEL_RUNS = 100
DELETE_KEYS = 100
DEFAULT_QUEUE = "default"
Fields = Mapping[str, object]


class Told(NamedTuple):
    """What a step did to a run: its word, with the holder, the state or the due time."""

    word: Word
    detail: str = ""


class Controls(Steps):
    """The steps of operators; part of `Store`."""

    def create_pool(self, pool: Pool, *, default_queue_id: str) -> bool:
        """Create a pool with its `default` queue; False when this very pool was there already.

        Raises InvalidName, InvalidSettings for its template, InvalidInput for its hand-out, and
        AlreadyExists when another pool has the name.
        """
        check_name("pool", pool.name)
        _check_handout(pool.handout)
        check_template(pool.base_job_template, pool.type)
        existed = self.at(pool.name).read(lambda c: c.exists(self.keys(pool.name)["pool"]))
        fields: list[object] = ["type", pool.type, "lease_ms", pool.lease_ms]
        fields += ["renew_ms", pool.renew_ms, "retention_ms", pool.retention_ms]
        fields += ["keep_payload", int(pool.keep_payload), "command", pool.command]
        if pool.limit is not None:
            fields += ["limit", pool.limit]
        fields += _changed(pool, "late_after_ms", "idempotency_ttl_ms", "dead_retention_ms")
        fields += _changed(pool, "base_job_template", "handout")
        word = self._step(
            "create_pool",
            pool.name,
            version=DATA_VERSION,
            id=pool.id,
            queue_id=default_queue_id,
            fields=flat(fields),
        )
        # The set of names has a slot of its own, so it is written apart; adding is repeatable.
        names = pools_key(self.prefix)
        self.connection.at(names).read(lambda c: c.sadd(names, pool.name))
        if word_of(word) is Word.EXISTS:
            raise AlreadyExists(f"pool {pool.name!r} exists already")
        return not existed

    def create_queue(self, queue: Queue, *, priority: int | None = None) -> None:
        """Create a queue; `priority` None gives it the first one that no queue has.

        Raises InvalidName, InvalidInput for a priority below 1, AlreadyExists for the queue.
        """
        check_name("queue", queue.name)
        _check_priority(priority)
        fields: list[object] = ["max_unclaimed", queue.max_unclaimed]
        fields += ["max_deliveries", queue.max_deliveries]
        for name in ("limit", "timeout_ms", "late_drop_ms"):
            if (value := getattr(queue, name)) is not None:
                fields += [name, value]
        fields += _changed(queue, "late_policy", "on_worker_lost", "cancel_grace_ms")
        word = self._step(
            "create_queue",
            queue.pool,
            name=encode(queue.name),
            id=queue.id,
            priority=optional(priority),
            fields=flat(fields),
        )
        if word_of(word) is Word.NO_POOL:
            raise PoolNotFound(queue.pool)
        if word_of(word) is Word.EXISTS:
            raise AlreadyExists(f"queue {queue.name!r} exists already in pool {queue.pool!r}")

    def set_pool(self, pool: str, fields: Fields, *, by: str = "") -> None:
        """Change settings of a pool, named as they are stored; None takes one away.

        Raises InvalidSettings for a template that cannot be used, InvalidInput for a hand-out.
        """
        _check_handout(fields.get("handout"))
        check_template(str(fields.get("base_job_template") or ""))
        check_target(self._step("set_pool", pool, fields=_flat(fields), by=by), pool)

    def set_queue(
        self, pool: str, name: str, fields: Fields, *, priority: int | None = None, by: str = ""
    ) -> None:
        """Change settings of a queue; a taken priority moves the others down.

        Raises InvalidInput for a priority below 1.
        """
        _check_priority(priority)
        args = {"name": encode(name), "priority": optional(priority), "fields": _flat(fields)}
        check_target(self._step("set_queue", pool, by=by, **args), pool, queue=name)

    def set_deployment(
        self,
        pool: str,
        deployment: str,
        limit: int | None,
        *,
        strategy: str = "ENQUEUE",
        by: str = "",
    ) -> None:
        """Set a deployment's concurrency limit; None takes it away, its waiting runs go on."""
        args = {"deployment": deployment, "limit": optional(limit), "strategy": strategy, "by": by}
        check_target(self._step("set_deployment", pool, **args), pool)

    def pause(
        self,
        pool: str,
        queue: str | None = None,
        *,
        intake: bool = False,
        until_ms: int | None = None,
        reason: str = "",
        by: str = "",
    ) -> None:
        """Stop hand-out of a pool or queue, or with `intake` refuse its submits.

        It holds when this returns; what was in the streams then goes back to its place.
        """
        word = self._step(
            "pause",
            pool,
            name=encode(queue or ""),
            intake=int(intake),
            until_ms=optional(until_ms),
            reason=reason,
            by=by,
        )
        check_target(word, pool, queue=queue or "")

    def resume(
        self, pool: str, queue: str | None = None, *, intake: bool = False, by: str = ""
    ) -> bool:
        """End a pause; False when there was none."""
        word = self._step("resume", pool, name=encode(queue or ""), intake=int(intake), by=by)
        check_target(word, pool, queue=queue or "")
        return word_of(word) is Word.RESUMED

    def withdraw(
        self,
        pool: str,
        queue: str,
        *,
        limit: int = WITHDRAW_ENTRIES,
        max_bytes: int = WITHDRAW_BYTES,
    ) -> None:
        """Take what nobody has claimed out of the stream of a paused queue; repeats the step."""
        word, after = Word.MORE, b""
        while word is Word.MORE:
            args: dict[str, Value] = {"limit": limit, "max_bytes": max_bytes, "after": after}
            answer, after = self._step("withdraw", pool, name=encode(queue), **args)
            word = word_of(answer)

    def cancel(self, pool: str, run_id: str, *, reason: str = "cancelled", by: str = "") -> Told:
        """Cancel a run: CANCELLED, CANCELLING with its holder, or ENDED with its state."""
        return self._told("cancel", pool, run_id, reason=reason, by=by)

    def cancel_many(
        self, pool: str, run_ids: Sequence[str], *, reason: str = "cancelled", by: str = ""
    ) -> Iterator[tuple[str, Told | DispatcherError]]:
        """Cancel runs, some per round trip; yield each with what `cancel` would say or raise."""
        for first in range(0, len(run_ids), CANCEL_RUNS):
            page = run_ids[first : first + CANCEL_RUNS]
            calls = [
                self._call("cancel", pool, run_id=run_id, reason=reason, by=by) for run_id in page
            ]
            for run_id, answer in zip(page, self.at(pool).call_many(calls), strict=True):
                failed = isinstance(answer, DispatcherError)
                yield run_id, answer if failed else _judge(pool, run_id, answer)

    def retime(self, pool: str, run_id: str, due_ms: int | None, *, by: str = "") -> Told:
        """Give a run another due time (None: now): RETIMED, CLAIMED or ENDED."""
        return self._told("retime", pool, run_id, due_ms=optional(due_ms), by=by)

    def requeue(self, pool: str, run_id: str, due_ms: int | None = None, *, by: str = "") -> int:
        """Take a run out of the dead letters; return when it is due, in ms.

        Raises Refused when it is not there, NotFound when its queue was deleted.
        """
        told = self._told("requeue", pool, run_id, due_ms=optional(due_ms), by=by)
        if told.word is Word.NO_QUEUE:
            raise QueueNotFound(pool, decode(told.detail))
        if told.word is Word.NOT_DEAD:
            raise Refused(f"run {run_id} is not dead-lettered: it is {told.detail}")
        return int(told.detail)

    def purge(self, pool: str, run_ids: Sequence[str], *, by: str = "") -> int:
        """Forget dead-lettered runs for good; return how many there were."""
        pages = [run_ids[i : i + PURGE_RUNS] for i in range(0, len(run_ids), PURGE_RUNS)]
        return sum(int(self._step("purge", pool, page, by=by)) for page in pages)

    def delete_queue(self, pool: str, name: str, *, by: str = "") -> None:
        """Delete a queue that is paused with intake and has no runs left; repeats the step.

        Raises Refused when it is not, and for the queue `default`.
        """
        if name == DEFAULT_QUEUE:
            raise Refused(f"queue {name!r} goes with its pool; it cannot be deleted by itself")
        word, detail = Word.MORE, ""
        while word is Word.MORE:
            word, detail = self._delete(
                "delete_queue",
                pool,
                name,
                name=encode(name),
                limit=DELETE_KEYS,
                after=detail,
                by=by,
            )
        if word is Word.NOT_EMPTY:
            raise NotEmpty(f"queue {name!r} of pool {pool!r} still has runs: {detail}")

    def delete_pool(self, pool: str, *, by: str = "") -> None:
        """Delete a pool that is paused with intake and has nothing left; repeats the step.

        Its other queues are deleted before. Raises Refused when it is not so.
        """
        word, detail = Word.MORE, ""
        try:
            while word is Word.MORE:
                word, detail = self._delete("delete_pool", pool, limit=DELETE_KEYS, by=by)
        except PoolNotFound:
            self._forget_name(pool)
            raise
        if word is Word.NOT_EMPTY:
            raise NotEmpty(f"pool {pool!r} still has {detail}")
        self._forget_name(pool)

    def _forget_name(self, pool: str) -> None:
        # In a slot of its own, so it is written apart, after the pool: a name too many is harmless.
        names = pools_key(self.prefix)
        self.connection.at(names).read(lambda c: c.srem(names, pool))

    def _delete(
        self, step: str, pool: str, queue: str = "", /, **args: str | int
    ) -> tuple[Word, str]:
        word, detail = self._step(step, pool, **args)
        check_target(word, pool, queue=queue)
        if word_of(word) is Word.NOT_PAUSED:
            what = f"queue {queue!r} of pool {pool!r}" if queue else f"pool {pool!r}"
            raise Refused(f"{what} must be paused with its intake to be deleted")
        return word_of(word), detail.decode() if isinstance(detail, bytes) else str(detail)

    def _told(self, step: str, pool: str, run_id: str, **args: str | bytes | int) -> Told:
        told = _judge(pool, run_id, self._step(step, pool, run_id=run_id, **args))
        if isinstance(told, DispatcherError):
            raise told
        return told


def _judge(pool: str, run_id: str, answer: Sequence[bytes]) -> Told | NotFound:
    word, detail = answer
    if word_of(word) is Word.UNKNOWN:
        return NotFound(f"run {run_id} is not known in pool {pool!r}")
    return Told(word_of(word), detail.decode())


def _changed(record: Pool | Queue, *names: str) -> list[object]:
    """Return the settings, by their names, that are not as they are by default."""
    values = [(name, getattr(record, name)) for name in names]
    fields = record.__dataclass_fields__
    return [part for pair in values if pair[1] != fields[pair[0]].default for part in pair]


def _flat(fields: Fields) -> str:
    return flat([item for name, value in fields.items() for item in (name, optional(value))])


def _check_handout(handout: object) -> None:
    if handout not in (None, *HANDOUTS):
        raise InvalidInput(f"hand-out {handout!r} is neither {' nor '.join(HANDOUTS)}")


def _check_priority(priority: int | None) -> None:
    if priority is not None and priority < 1:
        raise InvalidInput(f"priority {priority} is below 1, the highest")
