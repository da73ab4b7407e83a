"""What answers look like, for the OpenAPI document; `shapes` makes them, a test compares."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from dispatcher.models import StateType

RUN = "0199f0a2-6d2c-4f0e-9f6e-2b9f0d6a1c11"
POOL, QUEUE, DEPLOYMENT = (
    "57789097-a1ba-45da-819b-5a238accc0d6",
    "8be8187c-ba50-45f0-b8ae-4c1833afb7a4",
    "40848b67-c7ea-4e80-b792-e8339d2e6ba2",
)
AT = "2026-11-25T08:00:00.000Z"


class Answer(BaseModel):
    """What all answers share."""


class StateAnswer(Answer):
    """The state of a run in Prefect's words."""

    type: StateType
    name: str = Field(examples=["Late"])
    message: str | None


class RunAnswer(Answer):
    """A run as it is listed."""

    id: UUID = Field(examples=[RUN])
    name: str = Field(examples=["nightly"])
    state_type: StateType
    state_name: str = Field(examples=["Scheduled"])
    state: StateAnswer
    work_pool_name: str = Field(examples=["etl"])
    work_queue_name: str = Field(examples=["default"])
    deployment_id: str | None
    run_count: int
    created: datetime = Field(examples=[AT])
    expected_start_time: datetime = Field(examples=[AT])
    next_scheduled_start_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    estimated_start_time_delta: float = Field(description="How late it started or is, in seconds.")
    total_run_time: float = Field(description="Of the starts that have ended, in seconds.")
    estimated_run_time: float = Field(description="With the start under way, in seconds.")


class DeliveryAnswer(Answer):
    """One claim of a run."""

    delivery: int
    worker: str = Field(examples=["host-1.0f3b"])
    claim_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    outcome: str | None


class WholeRunAnswer(RunAnswer):
    """A run with everyone who had it."""

    losses: int = Field(description="Claims whose worker died while running it.")
    deliveries: list[DeliveryAnswer]


class DeadLetterAnswer(RunAnswer):
    """A run that was set aside."""

    losses: int


class WholeDeadLetterAnswer(WholeRunAnswer):
    """A run that was set aside, with everyone who had it and what was accepted."""

    payload: Any = Field(description="The accepted object; text if it is no JSON.")


class RunPage(Answer):
    """One page of runs; it may have few, or none, and still a `next_cursor`."""

    results: list[RunAnswer]
    next_cursor: str | None = Field(description="Give it as `cursor`; null at the end.")


class DeadLetterPage(Answer):
    """One page of dead letters."""

    results: list[DeadLetterAnswer]
    next_cursor: str | None


class ReceiptAnswer(Answer):
    """What became of a submitted run."""

    result: Literal["accepted", "retimed", "duplicate"]
    id: UUID = Field(examples=[RUN])
    work_pool_name: str = Field(examples=["etl"])
    work_queue_name: str = Field(examples=["default"])
    expected_start_time: datetime | None = Field(examples=[AT])
    offered_id: UUID | None = Field(
        default=None, description="The id that came, where the idempotency key is another run's."
    )


class RefusalAnswer(Answer):
    """Why one of several runs was refused."""

    result: Literal["refused"]
    where: str = Field(examples=["index 3"])
    field: str | None = Field(examples=["flow_run.flow_id"])
    reason: str = Field(examples=["is required"])


class ChangeAnswer(Answer):
    """What was done to one run."""

    result: str = Field(examples=["cancelled"])
    id: UUID = Field(examples=[RUN])
    work_pool_name: str | None = Field(default=None, examples=["etl"])
    worker: str | None = Field(default=None, description="Who has it and was told.")
    state_type: str | None = None
    expected_start_time: datetime | None = None
    reason: str | None = None


class ChangesAnswer(Answer):
    """What was done to several runs."""

    dry_run: bool
    found: int = Field(description="How many there were.")
    more: bool = Field(description="There are more of them: call again.")
    results: list[ChangeAnswer]


class ReasonAnswer(Answer):
    """One thing that stands in a run's way; it has the facts as further fields."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(examples=["not_due"])
    text: str


class ExplanationAnswer(Answer):
    """Why a run has not started, or what became of it; what stands in its way comes first."""

    id: UUID
    name: str
    work_pool_name: str
    work_queue_name: str
    deployment_id: str | None
    state_type: StateType
    state_name: str
    time: datetime
    reasons: list[ReasonAnswer]


class PauseAnswer(Answer):
    """A pause that holds."""

    since: datetime
    by: str | None
    until: datetime | None
    reason: str | None


class PausedAnswer(Answer):
    """The pauses of a pool or queue."""

    is_paused: bool = Field(description="Nothing is handed out.")
    pause: PauseAnswer | None
    intake_paused: bool = Field(description="Nothing is accepted.")
    intake_pause: PauseAnswer | None


class PoolAnswer(PausedAnswer):
    """A work pool."""

    id: UUID = Field(examples=[POOL])
    name: str = Field(examples=["etl"])
    type: str = Field(examples=["process"])
    handout: Literal["stream", "poll"]
    created: datetime
    command: str | None
    base_job_template: dict[str, Any]
    concurrency_limit: int | None
    claimed: int
    lease_seconds: float
    heartbeat_interval_seconds: float
    retention_seconds: float
    keep_payload: bool
    late_after_seconds: float
    idempotency_ttl_seconds: float
    dead_retention_seconds: float


class QueueAnswer(PausedAnswer):
    """A work queue with how many runs are where."""

    id: UUID = Field(examples=[QUEUE])
    name: str = Field(examples=["default"])
    work_pool_name: str = Field(examples=["etl"])
    priority: int = Field(description="1 is first.")
    created: datetime
    concurrency_limit: int | None
    max_unclaimed: int
    max_deliveries: int
    on_worker_lost: Literal["requeue", "crash"]
    timeout_seconds: float | None
    cancel_grace_seconds: float
    late_policy: Literal["all", "latest"]
    late_drop_seconds: float | None
    scheduled: int
    waiting: int
    unclaimed: int
    claimed: int
    skipped: int


class WholePoolAnswer(PoolAnswer):
    """A work pool with its queues."""

    default_queue_id: UUID | None
    work_queues: list[QueueAnswer]


class DeletionAnswer(Answer):
    """What a deletion took away."""

    result: Literal["deleted"]
    work_pool_name: str
    work_queue_name: str | None = None
    cancelled: int = Field(description="Runs that this call cancelled.")
    purged: int = Field(description="Dead letters that this call purged.")


class CollisionAnswer(Answer):
    """What becomes of a run that finds its deployment full."""

    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class DeploymentAnswer(Answer):
    """A deployment's limit and slots within one pool."""

    id: str = Field(examples=[DEPLOYMENT])
    work_pool_name: str = Field(examples=["etl"])
    concurrency_limit: int | None
    concurrency_options: CollisionAnswer
    held: int
    waiting: int


class WorkerAnswer(Answer):
    """A worker's incarnation, or another holder of claims."""

    id: str = Field(examples=["host-1.0f3b"])
    name: str = Field(examples=["host-1"])
    work_pool_name: str
    status: Literal["ready", "draining", "drained", "holding", "lost"]
    type: str
    host: str
    pid: int
    work_queue_names: list[str]
    slots: int
    held: int
    created: datetime
    lease_left_seconds: float


class EventAnswer(Answer):
    """One change; what is its own comes as further fields."""

    model_config = ConfigDict(extra="allow")

    cursor: str = Field(description="Give it as `after` to go on behind this event.")
    occurred: datetime
    event: str = Field(examples=["submitted"])
    work_pool_name: str
    work_queue_name: str | None
    flow_run_id: str | None


class EventPage(Answer):
    """Some events, oldest first, and the cursor behind them."""

    results: list[EventAnswer]
    cursor: str | None = Field(description="Give it as `after`; null when nothing is known.")
