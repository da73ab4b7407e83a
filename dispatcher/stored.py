"""What the read side returns: pools, queues, deployments, holders and runs as they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

LATE_AFTER_MS = 15_000
CANCEL_GRACE_MS = 30_000
IDEMPOTENCY_TTL_MS = 30 * 86_400_000
DEAD_RETENTION_MS = 7 * 86_400_000
HANDOUTS = ("stream", "poll")


class Place(StrEnum):
    """Where a run is; scripts decide by it, people see its state instead."""

    SCHEDULED = "scheduled"
    WAITING = "waiting"
    STREAM = "stream"
    CLAIMED = "claimed"
    DEAD = "dead"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that holds: since when, by whom, why, and until when (None: until resumed)."""

    since_ms: int
    by: str = ""
    reason: str = ""
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as stored; times in ms, `command` for runs of a process pool that bring none.

    `base_job_template` is JSON, empty for none; `job_version` changes whenever one of them is set.
    `handout` is "stream": its runs are claimed, or "poll": they are listed, and taken by their id.
    """

    name: str
    id: str
    type: str
    handout: str = "stream"
    command: str = ""
    base_job_template: str = ""
    job_version: int = 0
    limit: int | None = None
    lease_ms: int = 15_000
    renew_ms: int = 5_000
    retention_ms: int = 86_400_000
    keep_payload: bool = False
    late_after_ms: int = LATE_AFTER_MS
    idempotency_ttl_ms: int = IDEMPOTENCY_TTL_MS
    dead_retention_ms: int = DEAD_RETENTION_MS
    created_ms: int = 0
    claimed: int = 0
    paused: Pause | None = None
    intake_paused: Pause | None = None


@dataclass(frozen=True, slots=True)
class Offering:
    """What a claim asks of a pool: its hand-out, its queues, and those with something to claim.

    Both are by priority; `ready` holds while the pool is neither paused nor full.
    """

    handout: str
    queues: tuple[str, ...]
    ready: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as stored, with how many runs are where."""

    name: str
    pool: str
    id: str
    priority: int
    limit: int | None = None
    max_unclaimed: int = 1_000
    max_deliveries: int = 3
    on_worker_lost: str = "requeue"
    timeout_ms: int | None = None
    cancel_grace_ms: int = CANCEL_GRACE_MS
    late_policy: str = "all"
    late_drop_ms: int | None = None
    created_ms: int = 0
    scheduled: int = 0
    waiting: int = 0
    unclaimed: int = 0
    claimed: int = 0
    skipped: int = 0
    paused: Pause | None = None
    intake_paused: Pause | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment that has a limit or uses slots: `held` slots, `waiting` runs."""

    id: str
    pool: str
    limit: int | None
    collision_strategy: str
    held: int = 0
    waiting: int = 0


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
class Delivery:
    """One claim of a run: who had it, when, and how it ended."""

    number: int
    holder: str
    claimed_ms: int
    started_ms: int | None
    ended_ms: int | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a pool, as it was told; `id` is its place among the pool's events."""

    pool: str
    id: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as stored: its state in Prefect's words, its times, and every delivery.

    A claim that was handed over has `handed_ms`, then an `executor` and when that renewed it last.
    """

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
    unstarted: int = 0
    first_started_ms: int | None = None
    ran_ms: int = 0
    retries: int = 0
    outcome: str = ""
    member: str = ""
    handed_ms: int | None = None
    executor: str = ""
    renewed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """A run as it is listed for those that poll; `payload` is what was accepted."""

    run: RunRecord
    payload: bytes
    queue_id: str


@dataclass(frozen=True, slots=True)
class ScheduledPage:
    """What a poll of a pool lists at the moment `now_ms`; `late_after_ms` is the pool's."""

    pool_id: str
    now_ms: int
    late_after_ms: int
    runs: tuple[ScheduledRun, ...] = ()
