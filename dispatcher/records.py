"""What the atomic steps take and answer: plain frozen records; what is stored is in `stored.py`."""

from dataclasses import dataclass, field
from enum import StrEnum

from dispatcher.stored import CANCEL_GRACE_MS


class Word(StrEnum):
    """What an atomic step answers; the same string in Lua, Redis and Python."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    RETIMED = "retimed"
    CHANGED = "changed"
    PAUSED = "paused"
    RESUMED = "resumed"
    NOT_PAUSED = "not_paused"
    SET = "set"
    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    RESCHEDULED = "rescheduled"
    RETRYING = "retrying"
    WITHDRAWN = "withdrawn"
    REQUEUED = "requeued"
    NOT_DEAD = "not_dead"
    DELETED = "deleted"
    NOT_EMPTY = "not_empty"
    WATCHED = "watched"
    ENDED = "ended"
    NO_POOL = "no_pool"
    NO_QUEUE = "no_queue"
    NEWER = "newer"
    CREATED = "created"
    EXISTS = "exists"
    DISPATCHED = "dispatched"
    REGISTERED = "registered"
    CLAIMED = "claimed"
    DRAINING = "draining"
    DRAINED = "drained"
    STALE = "stale"
    POLLED = "polled"
    TAKEN = "taken"
    STREAMED = "streamed"
    NOT_DUE = "not_due"
    FULL = "full"
    WAITING = "waiting"
    SKIPPED = "skipped"
    HANDED_OVER = "handed_over"
    DEAD = "dead"
    LOST = "lost"
    STARTED = "started"
    FINISHED = "finished"
    RELEASED = "released"
    RENEWED = "renewed"
    COMPARE = "compare"
    RECONCILED = "reconciled"
    DISPLACED = "displaced"
    MORE = "more"
    RECOVERED = "recovered"
    ALIVE = "alive"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked run on its way into a queue; `due_ms` None means now, by the server's clock.

    `idempotency` is a digest of flow id and idempotency key, empty for none; see `producer`.
    `job_version` is that of the pool it was checked against; None is accepted under any.
    """

    run_id: str
    queue: str
    payload: bytes
    name: str
    request: str
    due_ms: int | None = None
    run_count: int = 0
    state_name: str = "Scheduled"
    deployment: str = ""
    state_id: str = ""
    idempotency: str = ""
    retries: int = 0
    retry_delay_ms: int = 0
    retry_type: str = "reschedule"
    job_version: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one submission: accepted, retimed or duplicate; `due_ms` is when it will run.

    `run_id` is the first run's under a repeated idempotency key; `state` is that of a duplicate.
    """

    run_id: str
    word: Word
    pool: str
    queue: str
    due_ms: int | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A run that a dispatch moved into its stream."""

    run_id: str
    queue: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A run that was cancelled because a rule says so: the late policy, or `CANCEL_NEW`."""

    run_id: str
    queue: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What one dispatch did: queues with more, and `next_due_ms` by queue, None for nothing.

    `waiting` has (run id, queue) of runs whose deployment is full, `withdraw` the paused queues
    that still have entries, `late_at_ms` when `watch` has something to announce.
    """

    now_us: int
    moved: list[Moved] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    next_due_ms: dict[str, int | None] = field(default_factory=dict)
    waiting: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    withdraw: list[str] = field(default_factory=list)
    late_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """What one watch announced: `late` has (run id, queue); then queues that nobody serves."""

    late: list[tuple[str, str]]
    unserved: list[str]
    more: bool
    late_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker's incarnation that wants to hold claims; no `queues` means all of the pool."""

    worker: str
    incarnation: str
    slots: int
    queues: tuple[str, ...] = ()
    host: str = ""
    pid: int = 0
    type: str = "process"


@dataclass(frozen=True, slots=True)
class Registered:
    """A holder's id, its lease, and the older holder of the name that must be recovered."""

    holder: str
    lease_ms: int
    renew_ms: int
    displaced: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claimed run: everything its worker needs to run it and to prove that it may.

    `timeout_ms` None means no end. `retry_delay_ms` is for retries under this claim. `job_version`
    changes with what the pool makes jobs of; see `Pool`.
    """

    run_id: str
    pool: str
    queue: str
    token: str
    payload: bytes
    due_ms: int
    run_count: int
    delivery: int
    name: str
    timeout_ms: int | None = None
    cancel_grace_ms: int = CANCEL_GRACE_MS
    retry_delay_ms: int = 0
    job_version: int = 0


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """What a claim gave: `more` says that a served queue still has something."""

    word: Word
    claims: list[Claim] = field(default_factory=list)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of taking a run by its id: `claim`, its holder and lease when it is TAKEN.

    Its `run_count` counts this start. Else `detail` says more: the holder (CLAIMED), the state
    (ENDED), the due time in ms (NOT_DUE), "pool" or "queue" (PAUSED, FULL), the deployment
    (WAITING), the reason (SKIPPED: it is CANCELLED now); nothing for STREAMED and LOST.
    """

    word: Word
    detail: str = ""
    holder: str = ""
    claim: Claim | None = None
    lease_ms: int = 0
    renew_ms: int = 0


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal answered; times are the pool's present settings, `orders` runs to cancel."""

    word: Word
    lease_ms: int = 0
    renew_ms: int = 0
    queues_version: int = 0
    draining: bool = False
    orders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one recover step did: runs put back, set aside, or ended, by id."""

    word: Word
    requeued: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `output` is the tail of what it wrote."""

    state_type: str
    state_name: str
    message: str = ""
    output: bytes = b""


@dataclass(frozen=True, slots=True)
class Start:
    """Report that a claimed run starts now; `run_count` is what it is with this start."""

    run_id: str
    token: str
    run_count: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Report that a claimed run has ended.

    `run_count` is that of the start that ends; None from a caller that never retries in process.
    """

    run_id: str
    token: str
    outcome: Outcome
    nudge: bool = False
    run_count: int | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Give a claimed run back unfinished; `by` is the operator who took the claim away.

    `delay_ms` None leaves it due when it was; else it is due so long from now, as AwaitingRetry.
    """

    run_id: str
    token: str
    reason: str
    nudge: bool = False
    by: str = ""
    delay_ms: int | None = None


Report = Start | Finish | Release


@dataclass(frozen=True, slots=True)
class Hint:
    """Something in a queue is due earlier than dispatchers know; 0 = look now, "" = all queues."""

    pool: str
    queue: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not agree: `problem` is what, `repair` what is done about it.

    An empty `repair` is up to people. `queue` and `run` are empty where the finding has none.
    """

    code: str
    pool: str
    queue: str
    run: str
    problem: str
    repair: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class QueueLook:
    """What one look at a queue found; `after` goes on behind it, empty at the end of its stream."""

    findings: list[Finding]
    after: str
