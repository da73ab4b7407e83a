"""Why a run has not started, or what has become of it: the answers of `dispatcher explain`."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from dispatcher.decoding import state_name_at
from dispatcher.inspector import Inspector
from dispatcher.keys import PoolKeys
from dispatcher.phrases import Say
from dispatcher.polled import Polled
from dispatcher.probing import InRq, Probe
from dispatcher.reasons import (
    Behind,
    Cancelling,
    Claimed,
    Dead,
    Due,
    Ended,
    Lost,
    NoDispatcher,
    NotDue,
    Paused,
    PoolFull,
    QueueFull,
    Reason,
    Retrying,
    Running,
    StreamFull,
    Unclaimed,
    Unserved,
    Waiting,
    WorkersFull,
)
from dispatcher.reasons_rq import HandedOver
from dispatcher.stored import Holder, Place, Pool, RunRecord

PATIENCE_MS = 1_000  # a dispatcher moves what is due at once; after this long there is none
MOST_UNSTARTED = 10  # claims that never started, then a run is dead-lettered
_SPANS = ("grace_ms", "ran_ms")
Time = Callable[[int], str | None]
Span = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answers about one run at the moment `now_ms`, first what stands first in its way."""

    run: RunRecord
    state_name: str
    now_ms: int
    reasons: tuple[Reason, ...]

    def lines(self, *, time: Time, span: Span) -> list[str]:
        """Return which run it is, then each reason as a sentence; `time` and `span` write them."""
        run = self.run
        title = f"Run {run.id} ({run.name}), queue {run.pool}/{run.queue}"
        state = f"{run.state_type} ({self.state_name})"
        return [f"{title}: {state}", *self._sentences(time, span)]

    def as_json(self, *, time: Time, span: Span) -> dict[str, Any]:
        """Return it as a JSON object; `time` writes the times among the facts, spans are in s."""
        run = self.run
        told = zip(self.reasons, self._sentences(time, span), strict=True)
        return {
            "id": run.id,
            "name": run.name,
            "work_pool_name": run.pool,
            "work_queue_name": run.queue,
            "deployment_id": run.deployment or None,
            "state_type": run.state_type,
            "state_name": self.state_name,
            "time": time(self.now_ms),
            "reasons": [
                {"code": reason.code.value, "text": text, **_facts(reason, time)}
                for reason, text in told
            ],
        }

    def _sentences(self, time: Time, span: Span) -> list[str]:
        run = self.run
        say = Say(run.id, run.pool, run.queue, self.now_ms, lambda ms: time(ms) or "", span)
        return [reason.sentence(say) for reason in self.reasons]


def explain(
    inspector: Inspector, run_id: str, *, pool: str | None = None, now_ms: int | None = None
) -> Explanation:
    """Say why a run has not started, or what has become of it, as it is by the server's clock.

    Raises NotFound when nobody knows the run, in `pool` or anywhere, or when its queue is gone.
    """
    pool = pool or inspector.run(run_id).pool
    now_ms = inspector.server_time_ms(pool) if now_ms is None else now_ms
    run = inspector.run(run_id, pool)
    if run.place is Place.ENDED:
        return Explanation(run, run.state_name, now_ms, (_ended(run),))
    keys = PoolKeys(inspector.prefix, run.pool)
    found = _Case(run, Probe(inspector.connection, keys, run, now_ms), now_ms)
    state_name = state_name_at(run, now_ms, found.around.pool.late_after_ms)
    return Explanation(run, state_name, now_ms, tuple(found.reasons()))


class _Case:
    """One run that has not ended, with what is around it."""

    def __init__(self, run: RunRecord, probe: Probe, now_ms: int) -> None:
        self.around = probe.around()
        self._run = run
        self._probe = probe
        self._now_ms = now_ms

    def reasons(self) -> list[Reason]:
        """Return the answers in the order in which they stand in the way, what was last."""
        if self._run.place is Place.DEAD:
            return [_dead(self._run, self.around.pool)]
        claimed = self._run.place is Place.CLAIMED
        return [*([self._with_worker()] if claimed else self._before_claim()), *self._lost()]

    def _with_worker(self) -> Reason:
        run, holding = self._run, self._probe.holding()
        if run.state_type == "CANCELLING":
            is_ordered, grace_ms = self._probe.is_ordered(), self.around.queue.cancel_grace_ms
            return Cancelling(run.message, is_ordered, grace_ms, holding)
        if run.state_type == "SCHEDULED":
            return Retrying(run.run_count, run.retries, run.due_ms, run.message, holding)
        if run.state_type == "RUNNING" and run.started_ms is not None:
            return Running(run.started_ms, run.run_count, run.delivery, holding)
        if isinstance(holding, InRq):
            return HandedOver(run.handed_ms or self._now_ms, run.delivery, holding)
        return Claimed(run.claimed_ms or self._now_ms, run.delivery, holding)

    def _before_claim(self) -> list[Reason]:
        run, found = self._run, list[Reason]()
        is_due = run.due_ms <= self._now_ms
        if run.state_name == "AwaitingRetry":
            found.append(Retrying(run.run_count, run.retries, run.due_ms, run.message, None))
        elif not is_due:
            found.append(NotDue(run.due_ms))
        pauses = self._pauses()
        found += pauses
        if run.place is Place.WAITING:
            found.append(self._waiting())
        if pauses or not is_due:
            return found
        if self.around.pool.handout == "poll":
            return found if run.place is Place.WAITING else found + self._untaken()
        if run.place is Place.STREAM:
            return found + self._in_stream()
        if self._is_stream_full():
            obstacles, _ = self._obstacles()
            return [*found, self._stream_full(), *obstacles]
        return found if run.place is Place.WAITING else [*found, self._due()]

    def _untaken(self) -> list[Reason]:
        """Return why nobody has taken it, of a pool that is handed out by polling."""
        found, run = self._limits(), self._run
        if run.deployment and run.place is Place.SCHEDULED:
            limit = self._probe.deployment_limit()
            if limit is not None and self._probe.deployment_slots().held >= limit:
                found.append(self._waiting())
        return found or [Polled(run.due_ms, self._probe.scheduled_before())]

    def _pauses(self) -> list[Reason]:
        """Return the pauses that hold when the run is due, or now."""
        held = (("", self.around.pool.paused), (self._run.queue, self.around.queue.paused))
        return [
            Paused(queue, pause)
            for queue, pause in held
            if pause and (pause.until_ms is None or pause.until_ms > self._run.due_ms)
        ]

    def _waiting(self) -> Reason:
        probe = self._probe
        return Waiting(
            self._run.deployment,
            limit=probe.deployment_limit(),
            slots=probe.deployment_slots(),
            same_queue=probe.waiting_before(),
            other_queues=probe.waiting_elsewhere(self.around.queue.priority),
        )

    def _due(self) -> Reason:
        since_ms = self._now_ms - PATIENCE_MS
        if self._run.due_ms < since_ms and not self._probe.is_dispatching(since_ms):
            return NoDispatcher(self._run.due_ms)
        return Due(self._run.due_ms, self._probe.scheduled_before())

    def _is_stream_full(self) -> bool:
        around, queue = self.around, self.around.queue
        is_heavy = around.unclaimed_bytes >= around.max_unclaimed_bytes
        return is_heavy or queue.unclaimed >= queue.max_unclaimed or around.blocked

    def _stream_full(self) -> Reason:
        around = self.around
        return StreamFull(
            unclaimed=around.queue.unclaimed,
            max_unclaimed=around.queue.max_unclaimed,
            unclaimed_bytes=around.unclaimed_bytes,
            max_unclaimed_bytes=around.max_unclaimed_bytes,
            same_queue=self._probe.scheduled_before(),
        )

    def _in_stream(self) -> list[Reason]:
        found, serving = self._obstacles()
        since_ms = self._run.dispatched_ms or self._run.due_ms
        same_queue, is_all = self._probe.unclaimed_before(self.around)
        others = self._probe.ready_elsewhere(
            self.around.queue.priority, lambda name: all(_serves(each, name) for each in serving)
        )
        if same_queue or others:
            return [*found, Behind(since_ms, same_queue, not is_all, others)]
        free = [each for each in serving if each.held < each.slots]
        return found or [Unclaimed(since_ms, len(free))]

    def _limits(self) -> list[Reason]:
        """Return the limits of pool and queue that let nothing more be handed out."""
        pool, queue, found = self.around.pool, self.around.queue, list[Reason]()
        if pool.limit is not None and pool.claimed >= pool.limit:
            found.append(PoolFull(pool.limit, self._probe.pool_slots()))
        if queue.limit is not None and (slots := self._probe.queue_slots()).held >= queue.limit:
            found.append(QueueFull(queue.limit, slots))
        return found

    def _obstacles(self) -> tuple[list[Reason], list[Holder]]:
        """Return what keeps workers from claiming from the queue, and those that serve it."""
        found, queue, workers = self._limits(), self.around.queue, self._probe.workers()
        willing = [each for each in workers if _serves(each, queue.name)]
        serving = [each for each in willing if not each.draining]
        if not serving:
            elsewhere = sum(1 for each in workers if each not in willing and not each.draining)
            found.append(Unserved(draining=len(willing), elsewhere=elsewhere))
        elif all(each.held >= each.slots for each in serving):
            there, held = sum(each.slots for each in serving), sum(each.held for each in serving)
            found.append(WorkersFull(len(serving), there, held))
        return found, serving

    def _lost(self) -> list[Reason]:
        run, queue = self._run, self.around.queue
        if not run.losses and not run.unstarted:
            return []
        last = next((each for each in reversed(run.deliveries) if each.outcome == "lost"), None)
        return [
            Lost(
                losses=run.losses,
                losses_left=max(1, queue.max_deliveries - run.losses),
                unstarted=run.unstarted,
                unstarted_left=max(1, MOST_UNSTARTED - run.unstarted),
                on_worker_lost=queue.on_worker_lost,
                holder=last.holder if last else "",
                lost_ms=last.ended_ms if last else None,
            )
        ]


def _serves(worker: Holder, queue: str) -> bool:
    return not worker.queues or queue in worker.queues


def _dead(run: RunRecord, pool: Pool) -> Reason:
    dead_ms = run.ended_ms or 0
    return Dead(dead_ms, run.message, run.delivery, purge_ms=dead_ms + pool.dead_retention_ms)


def _ended(run: RunRecord) -> Reason:
    return Ended(
        run.state_type,
        ended_ms=run.ended_ms or 0,
        message=run.message,
        outcome=run.outcome,
        started_ms=run.first_started_ms,
        ran_ms=run.ran_ms,
        run_count=run.run_count,
    )


def _facts(record: Any, time: Time) -> dict[str, Any]:
    """Return the fields of a record and of those within it, times and spans written out."""
    found: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        name = field.name.removesuffix("_ms")
        if name == field.name:
            found[name] = _plain(value, time)
        elif field.name in _SPANS:
            found[f"{name}_seconds"] = value / 1000
        else:
            found[f"{name}_time"] = None if value is None else time(value)
    return found


def _plain(value: Any, time: Time) -> Any:
    if is_dataclass(value):
        return _facts(value, time)
    if isinstance(value, tuple):
        return [_plain(each, time) for each in value]
    return None if value == "" else value
