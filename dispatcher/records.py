"""What the atomic steps take and answer, and what the read side returns: plain frozen records."""

from dataclasses import dataclass, field
from enum import StrEnum


class Word(StrEnum):
    """What an atomic step answers; the same string in Lua, Redis and Python."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
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
    LOST = "lost"
    STARTED = "started"
    FINISHED = "finished"
    RELEASED = "released"
    RENEWED = "renewed"
    COMPARE = "compare"
    DISPLACED = "displaced"
    MORE = "more"
    RECOVERED = "recovered"
    ALIVE = "alive"
    UNKNOWN = "unknown"


class Place(StrEnum):
    """Where a run is; scripts decide by it, people see its state instead."""

    SCHEDULED = "scheduled"
    STREAM = "stream"
    CLAIMED = "claimed"
    DEAD = "dead"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked run on its way into a queue; `due_ms` None means now, by the server's clock."""

    run_id: str
    queue: str
    payload: bytes
    name: str
    request: str
    due_ms: int | None = None
    run_count: int = 0
    state_name: str = "Scheduled"
    deployment: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one submission: `word` is accepted or duplicate, `due_ms` when it will run."""

    run_id: str
    word: Word
    pool: str
    queue: str
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A run that a dispatch moved into its stream."""

    run_id: str
    queue: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What one dispatch did: queues with more, and `next_due_ms` by queue, None for nothing."""

    now_us: int
    moved: list[Moved] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    next_due_ms: dict[str, int | None] = field(default_factory=dict)


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
    """One claimed run: everything its worker needs to run it and to prove that it may."""

    run_id: str
    pool: str
    queue: str
    token: str
    payload: bytes
    due_ms: int
    run_count: int
    delivery: int
    name: str


@dataclass(frozen=True, slots=True)
class ClaimAnswer:
    """What a claim gave: `more` says that a served queue still has something."""

    word: Word
    claims: list[Claim] = field(default_factory=list)
    more: bool = False


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal answered; times are the pool's present settings."""

    word: Word
    lease_ms: int = 0
    renew_ms: int = 0
    queues_version: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one recover step did: runs put back or set aside, by id."""

    word: Word
    requeued: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)


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
    """Report that a claimed run has ended."""

    run_id: str
    token: str
    outcome: Outcome
    nudge: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Give a claimed run back unfinished."""

    run_id: str
    token: str
    reason: str
    nudge: bool = False


Report = Start | Finish | Release


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as stored; times in ms, `command` for runs of a process pool that bring none."""

    name: str
    id: str
    type: str
    command: str = ""
    lease_ms: int = 15_000
    renew_ms: int = 5_000
    retention_ms: int = 86_400_000
    keep_payload: bool = False
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as stored, with how many runs are where."""

    name: str
    pool: str
    id: str
    priority: int
    max_unclaimed: int = 1_000
    max_deliveries: int = 3
    created_ms: int = 0
    scheduled: int = 0
    unclaimed: int = 0
    claimed: int = 0


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker's incarnation as stored; `lease_end_ms` 0 means it is being recovered."""

    id: str
    pool: str
    worker: str
    host: str
    pid: int
    type: str
    queues: tuple[str, ...]
    slots: int
    held: int
    lease_end_ms: int
    registered_ms: int
    draining: bool
    dead: bool


@dataclass(frozen=True, slots=True)
class Leases:
    """Whose leases end first: `ends` has (holder, lease end in ms), 0 = being recovered."""

    now_ms: int
    lease_ms: int
    ends: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Hint:
    """Something in a queue is due earlier than dispatchers know; 0 = look now."""

    pool: str
    queue: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One claim of a run: who had it, when, and how it ended."""

    number: int
    holder: str
    claimed_ms: int
    started_ms: int | None
    ended_ms: int | None
    outcome: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as stored: its state in Prefect's words, its times, and every delivery."""

    id: str
    pool: str
    queue: str
    name: str
    place: Place
    state_type: str
    state_name: str
    message: str
    due_ms: int
    submitted_ms: int
    run_count: int
    delivery: int
    losses: int
    holder: str
    token: str
    dispatched_ms: int | None
    claimed_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    deployment: str
    deliveries: tuple[Delivery, ...]
