"""What a claim over HTTP and the steps after it bring, as JSON; and what answers look like."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from dispatcher.http.answers import POOL, QUEUE, RUN, Answer
from dispatcher.http.bodies import Body, PoolName, QueueName, Reason, WorkerName
from dispatcher.http.holders import DEFAULT_WORKER

MOST_SLOTS = 100
_MOST_MS = 31_536_000_000  # a year
TOKEN = "1764057600000-0.0f3a9c51b7e2.1"


class ClaimBody(Body):
    """What a worker claims: the endpoint's fields, its name, and how many runs it can take."""

    work_queue_names: list[QueueName] | None = Field(
        default=None, description="Only of these queues; null or empty means all of the pool."
    )
    limit: Annotated[int, Field(ge=0, le=200)] | None = Field(
        default=None, description="Most runs; 0 answers an empty list at once."
    )
    scheduled_before: None = Field(
        default=None, description="Null only: a claim gives what is due, and nothing else."
    )
    scheduled_after: None = Field(default=None, description="Null only, as `scheduled_before`.")
    worker: WorkerName = Field(
        default=DEFAULT_WORKER, description="The worker's name, for people.", examples=["host-7"]
    )
    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS)] = Field(
        default=1, description="How many runs the worker can take now."
    )


Token = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Field(description="The fencing token of the claim.", examples=[TOKEN]),
]
RunCount = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RunBody(Body):
    """Which run is meant."""

    work_pool_name: PoolName | None = Field(
        default=None, description="The run's pool; without it all pools are looked through."
    )


class TokenBody(RunBody):
    """Which claim speaks."""

    token: Token


class StartBody(RunBody):
    """The work of a run begins; without a token, a run of a polled pool is taken first."""

    token: Token | None = None
    worker: WorkerName = Field(
        default=DEFAULT_WORKER, description="Who takes a run of a polled pool, for people."
    )
    incarnation: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")] | None = Field(
        default=None,
        description="12 random hexadecimal digits: the same again repeats the taking of a run, "
        "when the answer was lost.",
        examples=["0f3a9c51b7e2"],
    )
    run_count: RunCount | None = Field(
        default=None,
        description="How often it has started with this one. Without it, the start of a run that "
        "runs already is a repeat.",
    )


class FinalState(Body):
    """How the work ended."""

    type: Literal["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = Field(
        default=None, description="What people see, by default the type's own name."
    )
    message: Annotated[str, StringConstraints(max_length=4_000)] = Field(
        default="", description="Why, for people."
    )


class FinishBody(TokenBody):
    """The work of a run has ended."""

    state: FinalState
    output: str = Field(
        default="", description="What the run wrote; the last 64 KiB of it are kept."
    )
    run_count: RunCount | None = Field(
        default=None,
        description="That of the start that ends; needed to be retried under the same claim.",
    )


class ReleaseBody(TokenBody):
    """A run is given back unfinished."""

    reason: Reason = Field(default="released over HTTP", description="Why, for people.")
    delay_ms: Annotated[int, Field(ge=0, le=_MOST_MS)] | None = Field(
        default=None, description="How long from now it is due again; null: at once."
    )


class ClaimAnswer(Answer):
    """A claim: what its run's work needs to prove that it may, and for how long it may."""

    token: str = Field(description="Proves the claim in every step.", examples=[TOKEN])
    holder: str = Field(examples=["host-7~0f3a9c51b7e2.0f3a9c51b7e2"])
    work_pool_name: str = Field(examples=["etl"])
    work_queue_name: str = Field(examples=["default"])
    delivery: int = Field(description="How often the run was claimed, with this one.")
    run_count: int = Field(description="How often it was started.")
    due_ms: int
    lease_ms: int = Field(description="How long it holds without a renewal.", examples=[15_000])
    renew_ms: int = Field(description="How often it is to be renewed.", examples=[5_000])
    timeout_ms: int | None = Field(description="How long the work may take; null: without end.")
    cancel_grace_ms: int = Field(description="From a cancel to the kill.", examples=[30_000])
    retry_delay_ms: int = Field(description="How long to wait after `retrying`.")


class ClaimedRun(Answer):
    """The endpoint's object as it was accepted, with its claim."""

    work_pool_id: UUID = Field(examples=[POOL])
    work_queue_id: UUID = Field(examples=[QUEUE])
    flow_run: dict[str, Any]
    claim: ClaimAnswer


class StepAnswer(Answer):
    """What a step came to, in a word that the header `Dispatcher-Answer` has as well."""

    answer: str
    work_pool_name: str = Field(examples=["etl"])


class StartAnswer(StepAnswer):
    """Whether to begin; with the run and its claim if it was taken."""

    answer: Literal["started", "cancelling"]
    run_count: int


class RenewAnswer(StepAnswer):
    """The lease as it is now, and whether to stop."""

    answer: Literal["renewed", "cancelling"]
    cancel: bool = Field(description="Stop the work, and finish the run as CANCELLED.")
    lease_ms: int = Field(examples=[15_000])
    renew_ms: int = Field(examples=[5_000])
    flow_run_ids: list[str] = Field(description="What the claim still holds.", examples=[[RUN]])


class FinishAnswer(StepAnswer):
    """Whether the run is over."""

    answer: Literal["finished", "rescheduled", "retrying"]


class ReleaseAnswer(StepAnswer):
    """What became of the run."""

    answer: Literal["released", "rescheduled", "finished"]
