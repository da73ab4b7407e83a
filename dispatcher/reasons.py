"""What stands in a run's way, or has become of it: a record and a sentence for each answer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote
from typing import ClassVar

from dispatcher.phrases import Say, ahead, at_limit, because, count, held_by, verb
from dispatcher.probing import Holding, QueueCount, Slots
from dispatcher.stored import Pause


class Code(StrEnum):
    """What an answer is called in `--json`."""

    NOT_DUE = "not_due"
    RETRYING = "retrying"
    PAUSED = "paused"
    WAITING = "waiting"
    DUE = "due"
    NO_DISPATCHER = "no_dispatcher"
    STREAM_FULL = "stream_full"
    POOL_FULL = "pool_full"
    QUEUE_FULL = "queue_full"
    UNSERVED = "unserved"
    WORKERS_FULL = "workers_full"
    BEHIND = "behind"
    UNCLAIMED = "unclaimed"
    POLLED = "polled"
    CLAIMED = "claimed"
    HANDED_OVER = "handed_over"
    RUNNING = "running"
    CANCELLING = "cancelling"
    LOST = "lost"
    DEAD = "dead"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Reason(ABC):
    """One answer; its fields are the facts, those in ms are times or spans."""

    code: ClassVar[Code]

    def sentence(self, say: Say) -> str:
        """Return the answer for a person: what it is, and what to do."""
        return self._tell(say)

    @abstractmethod
    def _tell(self, say: Say) -> str: ...


@dataclass(frozen=True, slots=True)
class NotDue(Reason):
    """The run's time has not come."""

    code: ClassVar[Code] = Code.NOT_DUE
    due_ms: int

    def _tell(self, say: Say) -> str:
        return (
            f"It is not due: that is {say.until(self.due_ms)}; "
            f"`dispatcher flow-run retime {say.run} --at now` makes it due at once."
        )


@dataclass(frozen=True, slots=True)
class Retrying(Reason):
    """The run failed and is run again; `holding` keeps it for a retry in process.

    `retries` is smaller than `number` where only the source knows how many there are.
    """

    code: ClassVar[Code] = Code.RETRYING
    number: int
    retries: int
    due_ms: int
    message: str
    holding: Holding | None

    def _tell(self, say: Say) -> str:
        of = f" of {self.retries}" if self.retries >= self.number else ""
        come = self.due_ms <= say.now_ms
        when = f"was due at {say.time(self.due_ms)}" if come else f"is due {say.until(self.due_ms)}"
        told = f"It did not succeed{because(self.message)}; retry {self.number}{of} {when}"
        if self.holding is None:
            return f"{told}."
        return f"{told}, under the claim of {held_by(self.holding)}; {say.lease(self.holding)}."


@dataclass(frozen=True, slots=True)
class Paused(Reason):
    """The pool hands out nothing, or the queue of this name."""

    code: ClassVar[Code] = Code.PAUSED
    queue: str
    pause: Pause

    def _tell(self, say: Say) -> str:
        what = f"Queue {self.queue}" if self.queue else f"Pool {say.pool}"
        by = f" by {self.pause.by}" if self.pause.by else ""
        told = f"{what} has been paused{by} {say.since(self.pause.since_ms)}"
        command = say.of_queue("resume") if self.queue else say.of_pool("resume")
        until_ms = self.pause.until_ms
        end = f"{command} ends that"
        if until_ms is not None:
            end = f"that ends {say.until(until_ms)}, or with {command}"
        return f"{told}{because(self.pause.reason)}; {end}."


@dataclass(frozen=True, slots=True)
class Waiting(Reason):
    """The run's deployment has no slot for it; `limit` None when that was taken away since.

    `same_queue` runs go before it, and those of `other_queues`, which have higher priority.
    """

    code: ClassVar[Code] = Code.WAITING
    deployment: str
    limit: int | None
    slots: Slots
    same_queue: int
    other_queues: tuple[QueueCount, ...]

    def _tell(self, say: Say) -> str:
        name, order = f"deployment {self.deployment}", ahead(self.same_queue, self.other_queues)
        if self.limit is None or self.slots.held < self.limit:
            return (
                f"It waits for {name}, which has room by now; {order}; "
                "if it stays so, no dispatcher runs: start `dispatcher run`."
            )
        command = f"dispatcher deployment set {quote(self.deployment)} --pool {quote(say.pool)}"
        return (
            f"It waits for {name}, which {at_limit(self.limit, self.slots)}; {order}; "
            f"`{command} --limit N` changes the limit."
        )


@dataclass(frozen=True, slots=True)
class Due(Reason):
    """The run is due, and goes into its stream after `same_queue` others."""

    code: ClassVar[Code] = Code.DUE
    due_ms: int
    same_queue: int

    def _tell(self, say: Say) -> str:
        order = ahead(self.same_queue)
        return f"It has been due {say.since(self.due_ms)}, and is being dispatched; {order}."


@dataclass(frozen=True, slots=True)
class NoDispatcher(Reason):
    """The run is due and its stream has room, but nobody dispatches."""

    code: ClassVar[Code] = Code.NO_DISPATCHER
    due_ms: int

    def _tell(self, say: Say) -> str:
        return (
            f"It has been due {say.since(self.due_ms)}, and its stream has room, but no dispatcher "
            f"serves the pool: start `dispatcher run --pool {quote(say.pool)}`."
        )


@dataclass(frozen=True, slots=True)
class StreamFull(Reason):
    """The run's stream was full, and takes more when half of what is unclaimed has been claimed."""

    code: ClassVar[Code] = Code.STREAM_FULL
    unclaimed: int
    max_unclaimed: int
    unclaimed_bytes: int
    max_unclaimed_bytes: int
    same_queue: int

    def _tell(self, say: Say) -> str:
        return (
            f"Its stream was full and takes more when half of that is claimed: "
            f"{count(self.unclaimed, 'unclaimed run')} of at most {self.max_unclaimed:,}, with "
            f"{self.unclaimed_bytes:,} bytes of at most {self.max_unclaimed_bytes:,}; "
            f"{ahead(self.same_queue)}; "
            f"{say.of_queue('set', ' --max-unclaimed N')} makes room."
        )


@dataclass(frozen=True, slots=True)
class PoolFull(Reason):
    """The pool's limit lets nothing more be claimed."""

    code: ClassVar[Code] = Code.POOL_FULL
    limit: int
    slots: Slots

    def _tell(self, say: Say) -> str:
        command = say.of_pool("set", " --limit N")
        return f"Pool {say.pool} {at_limit(self.limit, self.slots)}; {command} changes the limit."


@dataclass(frozen=True, slots=True)
class QueueFull(Reason):
    """The queue's limit lets nothing more be claimed."""

    code: ClassVar[Code] = Code.QUEUE_FULL
    limit: int
    slots: Slots

    def _tell(self, say: Say) -> str:
        command = say.of_queue("set", " --limit N")
        return f"Queue {say.queue} {at_limit(self.limit, self.slots)}; {command} changes the limit."


@dataclass(frozen=True, slots=True)
class Unserved(Reason):
    """No live worker takes runs of the queue; some drain, some serve other queues only."""

    code: ClassVar[Code] = Code.UNSERVED
    draining: int
    elsewhere: int

    def _tell(self, say: Say) -> str:
        told = [f"{self.elsewhere:,} {verb(self.elsewhere, 'serve')} other queues"]
        told = told * bool(self.elsewhere)
        told += [f"{self.draining:,} {verb(self.draining, 'drain')}"] * bool(self.draining)
        rest = because(", ".join(told))
        return (
            f"No live worker serves queue {say.queue}{rest}: "
            f"start `consumers run --pool {quote(say.pool)} --queue {quote(say.queue)}`."
        )


@dataclass(frozen=True, slots=True)
class WorkersFull(Reason):
    """Every live worker that serves the queue has as many runs as it has slots."""

    code: ClassVar[Code] = Code.WORKERS_FULL
    workers: int
    slots: int
    held: int

    def _tell(self, say: Say) -> str:
        return (
            f"No slot is free: {count(self.workers, 'live worker')} "
            f"{verb(self.workers, 'serve')} queue {say.queue} and {verb(self.workers, 'hold')} "
            f"{count(self.held, 'run')} in {count(self.slots, 'slot')}; one more worker, or a "
            "higher `consumers run --limit`, makes room."
        )


@dataclass(frozen=True, slots=True)
class Behind(Reason):
    """Runs that are claimed before this one; `is_least` when not all of its queue were counted."""

    code: ClassVar[Code] = Code.BEHIND
    since_ms: int
    same_queue: int
    is_least: bool
    other_queues: tuple[QueueCount, ...]

    def _tell(self, say: Say) -> str:
        order = ahead(self.same_queue, self.other_queues, is_least=self.is_least)
        return f"It has been unclaimed {say.since(self.since_ms)}; {order}."


@dataclass(frozen=True, slots=True)
class Unclaimed(Reason):
    """Nothing stands in the way: a worker with a free slot is about to claim the run."""

    code: ClassVar[Code] = Code.UNCLAIMED
    since_ms: int
    workers: int

    def _tell(self, say: Say) -> str:
        return (
            f"It has been unclaimed {say.since(self.since_ms)}, and is the next one for "
            f"{count(self.workers, 'live worker')} with free slots; "
            "if it stays so, ask `dispatcher doctor`."
        )


@dataclass(frozen=True, slots=True)
class Claimed(Reason):
    """A worker has the run and has not started it."""

    code: ClassVar[Code] = Code.CLAIMED
    claimed_ms: int
    delivery: int
    holding: Holding

    def _tell(self, say: Say) -> str:
        return (
            f"It has been claimed by {held_by(self.holding)} {say.since(self.claimed_ms)}, in "
            f"delivery {self.delivery:,}, and has not started; {say.lease(self.holding)}; "
            f"`dispatcher flow-run release {say.run}` takes it away from there."
        )


@dataclass(frozen=True, slots=True)
class Running(Reason):
    """A worker runs it; `run_count` is its number of starts."""

    code: ClassVar[Code] = Code.RUNNING
    started_ms: int
    run_count: int
    delivery: int
    holding: Holding

    def _tell(self, say: Say) -> str:
        return (
            f"It has been running on {held_by(self.holding)} {say.since(self.started_ms)}, in "
            f"start {self.run_count:,} and delivery {self.delivery:,}; {say.lease(self.holding)}."
        )


@dataclass(frozen=True, slots=True)
class Cancelling(Reason):
    """Its worker is to end it; `is_ordered` unless the order got lost."""

    code: ClassVar[Code] = Code.CANCELLING
    message: str
    is_ordered: bool
    grace_ms: int
    holding: Holding

    def _tell(self, say: Say) -> str:
        order = f"has the order, and kills what goes on for {say.span(self.grace_ms)}"
        if not self.is_ordered:
            order = f"has no order for it: `dispatcher flow-run release {say.run}` ends the run"
        order = f"{held_by(self.holding)} {order}"
        return f"It is being cancelled{because(self.message)}; {order}; {say.lease(self.holding)}."


@dataclass(frozen=True, slots=True)
class Lost(Reason):
    """Workers died with the run; `…_left` is how many more times until it is dead-lettered."""

    code: ClassVar[Code] = Code.LOST
    losses: int
    losses_left: int
    unstarted: int
    unstarted_left: int
    on_worker_lost: str
    holder: str
    lost_ms: int | None

    def _tell(self, say: Say) -> str:
        last = self.lost_ms and f", last {self.holder} at {say.time(self.lost_ms)}"
        told = []
        if self.losses:
            fate = f"{self.losses_left:,} more {verb(self.losses_left, 'dead-letter')} it"
            fate = "1 more ends it as CRASHED" if self.on_worker_lost == "crash" else fate
            told.append(f"{count(self.losses, 'time')} while running ({fate})")
        if self.unstarted:
            fate = f"{self.unstarted_left:,} more {verb(self.unstarted_left, 'dead-letter')} it"
            told.append(f"{count(self.unstarted, 'time')} before its start ({fate})")
        return f"It lost its worker {' and '.join(told)}{last or ''}."


@dataclass(frozen=True, slots=True)
class Dead(Reason):
    """The run was set aside after too many losses; it is kept until `purge_ms`."""

    code: ClassVar[Code] = Code.DEAD
    dead_ms: int
    message: str
    delivery: int
    purge_ms: int

    def _tell(self, say: Say) -> str:
        return (
            f"It was dead-lettered at {say.time(self.dead_ms)}, after "
            f"{count(self.delivery, 'delivery', 'deliveries')}{because(self.message)}; "
            f"`dispatcher dead-letter requeue {say.run}` schedules it again, and it is kept until "
            f"{say.time(self.purge_ms)}."
        )


@dataclass(frozen=True, slots=True)
class Ended(Reason):
    """The run has ended; `outcome` is what its worker reported of a cancelled one."""

    code: ClassVar[Code] = Code.ENDED
    state_type: str
    ended_ms: int
    message: str
    outcome: str
    started_ms: int | None
    ran_ms: int
    run_count: int

    def _tell(self, say: Say) -> str:
        starts = f" in {count(self.run_count, 'start')}" if self.run_count > 1 else ""
        ran = f"after {say.span(self.ran_ms)} of running{starts}"
        reported = f"; its worker reported {self.outcome}" if self.outcome else ""
        return (
            f"It ended as {self.state_type} at {say.time(self.ended_ms)}, "
            f"{'without a start' if self.started_ms is None else ran}"
            f"{because(self.message)}{reported}."
        )
