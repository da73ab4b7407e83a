"""The object that the endpoint hands out: a scheduled flow run with its pool and queue.

Field names, types and defaults are Prefect's. Unknown fields are kept, wrong types are refused
with their path. What a worker is handed is the accepted bytes, never a dump of these models.
"""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

_DATE_AND_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")


def _refuse_numbers(value: object) -> object:
    # Pydantic reads 1700000000 and "1700000000" as Unix times; nobody means that here.
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE_AND_TIME.match(value)):
        return value
    raise ValueError("must be an RFC 3339 time such as 2026-01-31T08:00:00Z")


def _refuse_containers(value: object) -> object:
    # One error at the label itself; a plain union reports one per member, each with its own path.
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError("must be a string, a number or a boolean")


def _read_whole(value: object) -> object:
    # 3.0 is a whole number in JSON, and some languages write every number so.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Time = Annotated[AwareDatetime, BeforeValidator(_refuse_numbers)]
_MOST = 2**31 - 1  # Prefect's columns hold no more, and Lua counts exactly only up to 2**53
Count = Annotated[StrictInt, Field(ge=0, le=_MOST), BeforeValidator(_read_whole)]
Seconds = StrictFloat
Label = Annotated[
    StrictBool | StrictInt | StrictFloat | StrictStr, BeforeValidator(_refuse_containers)
]
# One wrong member is enough: a megabyte of them must not become a hundred thousand errors.
Texts = Annotated[list[StrictStr], Field(fail_fast=True)]
TextSet = Annotated[frozenset[StrictStr], Field(fail_fast=True)]


class StateType(StrEnum):
    """The type of a state, which decides what may happen to the run."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"

    @property
    def is_terminal(self) -> bool:
        """Say whether a run in this state has ended."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}
)


class RetryType(StrEnum):
    """Where a retry happens: within the process that failed, or scheduled anew."""

    IN_PROCESS = "in_process"
    RESCHEDULE = "reschedule"


class _Payload(BaseModel):
    """What all objects of the endpoint share: frozen, unknown fields kept, no infinities."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class StateDetails(_Payload):
    """What a state knows beside its type and name."""

    flow_run_id: UUID | None = Field(
        default=None, description="The flow run that is in this state."
    )
    task_run_id: UUID | None = Field(
        default=None, description="The task run that is in this state."
    )
    child_flow_run_id: UUID | None = Field(
        default=None, description="The subflow run that the task run in this state stands for."
    )
    scheduled_time: Time | None = Field(
        default=None, description="When a run in a SCHEDULED state is to start."
    )
    cache_key: StrictStr | None = Field(
        default=None, description="The key under which a task's result is cached."
    )
    cache_expiration: Time | None = Field(
        default=None, description="When the cached result stops being valid."
    )
    deferred: StrictBool | None = Field(
        default=False, description="Whether a task run was handed to a background task worker."
    )
    untrackable_result: StrictBool = Field(
        default=False,
        description="Whether the result cannot be linked to the task run that made it.",
    )
    pause_timeout: Time | None = Field(
        default=None, description="When a paused run fails unless it was resumed before."
    )
    pause_reschedule: StrictBool = Field(
        default=False,
        description="Whether resuming schedules the run anew, its process having ended.",
    )
    pause_key: StrictStr | None = Field(
        default=None, description="Names the pause, so that it is observed only once."
    )
    run_input_keyset: dict[str, StrictStr] | None = Field(
        default=None, description="The keys under which input for a paused run is stored."
    )
    refresh_cache: StrictBool | None = Field(
        default=None, description="Whether the task runs although a cached result exists."
    )
    retriable: StrictBool | None = Field(
        default=None, description="Whether a failed task run may be retried."
    )
    transition_id: UUID | None = Field(
        default=None,
        description="Identifies the attempt to enter this state, so that it can be repeated.",
    )
    task_parameters_id: UUID | None = Field(
        default=None, description="Where the parameters of a deferred task run are stored."
    )
    traceparent: StrictStr | None = Field(
        default=None, description="The W3C trace context that the run belongs to."
    )
    deployment_concurrency_lease_id: UUID | None = Field(
        default=None,
        description="The lease of the deployment's concurrency slot that the run holds.",
    )


class State(_Payload):
    """The state of a run, as Prefect stores it."""

    id: UUID | None = Field(default=None, description="The id of the state.")
    type: StateType = Field(description="The type of the state.")
    name: StrictStr | None = Field(
        default=None, description="The name of the state, finer than its type: Late, AwaitingRetry."
    )
    timestamp: Time | None = Field(default=None, description="When the run entered the state.")
    message: StrictStr | None = Field(
        default=None, description="What happened, in words.", examples=["Run started"]
    )
    data: Any = Field(
        default=None,
        description="Data associated with the state, e.g. a result. "
        "Content must be storable as JSON.",
    )
    state_details: StateDetails = Field(
        default_factory=StateDetails, description="What the state knows beside type and name."
    )


class FlowRunPolicy(_Payload):
    """How a flow run is retried."""

    max_retries: Count = Field(
        default=0,
        description="Deprecated: the number of retries, honoured where `retries` is null.",
    )
    retry_delay_seconds: Annotated[Seconds, Field(ge=0, le=_MOST)] = Field(
        default=0.0,
        description="Deprecated: the delay between retries, honoured where `retry_delay` is null.",
    )
    retries: Count | None = Field(default=None, description="The number of retries.")
    retry_delay: Count | None = Field(
        default=None, description="The delay time between retries, in seconds."
    )
    pause_keys: TextSet | None = Field(
        default_factory=frozenset, description="Tracks pauses this run has observed."
    )
    resuming: StrictBool | None = Field(
        default=False, description="Indicates if this run is resuming from a pause."
    )
    retry_type: RetryType | None = Field(
        default=None, description="The type of retry this run is undergoing."
    )

    @property
    def effective_retries(self) -> int:
        """Return how often the run may be retried, by `retries`, else by `max_retries`."""
        return self.max_retries if self.retries is None else self.retries

    @property
    def effective_retry_delay_s(self) -> float:
        """Return the delay before a retry, by `retry_delay`, else by `retry_delay_seconds`."""
        return self.retry_delay_seconds if self.retry_delay is None else float(self.retry_delay)


class CreatedBy(_Payload):
    """Who or what created a flow run."""

    id: UUID | None = Field(
        default=None,
        description="The id of the creator; for a scheduled run its deployment schedule.",
    )
    type: StrictStr | None = Field(
        default=None, description="The type of the creator: SCHEDULE, AUTOMATION, DEPLOYMENT."
    )
    display_value: StrictStr | None = Field(
        default=None, description="The display value for the creator."
    )


class FlowRun(_Payload):
    """One run of a flow: what to run, with which parameters, when, and what has happened."""

    id: UUID = Field(description="The id of the flow run.")
    created: Time | None = Field(default=None, description="When the flow run was created.")
    updated: Time | None = Field(default=None, description="When the flow run was last changed.")
    name: StrictStr | None = Field(
        default=None,
        description="The name of the flow run; null or missing where nobody has named it.",
        examples=["my-flow-run"],
    )
    flow_id: UUID = Field(description="The id of the flow being run.")
    state_id: UUID | None = Field(
        default=None, description="The id of the flow run's current state."
    )
    deployment_id: UUID | None = Field(
        default=None,
        description="The id of the deployment associated with this flow run, if available.",
    )
    deployment_version: StrictStr | None = Field(
        default=None,
        description="The version of the deployment associated with this flow run.",
        examples=["1.0"],
    )
    work_queue_id: UUID | None = Field(
        default=None, description="The id of the run's work pool queue."
    )
    work_queue_name: StrictStr | None = Field(
        default=None, description="The work queue that handled this flow run."
    )
    flow_version: StrictStr | None = Field(
        default=None,
        description="The version of the flow executed in this flow run.",
        examples=["1.0"],
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Parameters for the flow run."
    )
    idempotency_key: StrictStr | None = Field(
        default=None,
        description="An optional idempotency key for the flow run. "
        "Used to ensure the same flow run is not created multiple times.",
    )
    context: dict[str, Any] = Field(
        default_factory=dict,
        description="Additional context for the flow run.",
        examples=[{"my_var": "my_value"}],
    )
    empirical_policy: FlowRunPolicy = Field(
        default_factory=FlowRunPolicy, description="Defines how a flow run should retry."
    )
    tags: Texts = Field(
        default_factory=list,
        description="A list of tags on the flow run.",
        examples=[["tag-1", "tag-2"]],
    )
    labels: dict[str, Label] | None = Field(
        default_factory=dict,
        description="A dictionary of key-value labels. "
        "Values can be strings, numbers, or booleans.",
        examples=[{"key": "value1", "key2": 42}],
    )
    parent_task_run_id: UUID | None = Field(
        default=None,
        description="If the flow run is a subflow, the id of the 'dummy' task in the parent "
        "flow used to track subflow state.",
    )
    state_type: StateType | None = Field(
        default=None, description="The type of the current flow run state."
    )
    state_name: StrictStr | None = Field(
        default=None, description="The name of the current flow run state."
    )
    run_count: Count = Field(
        default=0, description="The number of times the flow run was executed."
    )
    expected_start_time: Time | None = Field(
        default=None, description="The flow run's expected start time."
    )
    next_scheduled_start_time: Time | None = Field(
        default=None, description="The next time the flow run is scheduled to start."
    )
    start_time: Time | None = Field(default=None, description="The actual start time.")
    end_time: Time | None = Field(default=None, description="The actual end time.")
    total_run_time: Seconds = Field(
        default=0.0,
        description="Total run time in seconds. If the flow run was executed multiple times, "
        "the time of each run will be summed.",
    )
    estimated_run_time: Seconds = Field(
        default=0.0, description="A real-time estimate of the total run time, in seconds."
    )
    estimated_start_time_delta: Seconds = Field(
        default=0.0,
        description="The difference between actual and expected start time, in seconds.",
    )
    auto_scheduled: StrictBool = Field(
        default=False, description="Whether or not the flow run was automatically scheduled."
    )
    infrastructure_document_id: UUID | None = Field(
        default=None, description="The block document defining infrastructure to use this flow run."
    )
    infrastructure_pid: StrictStr | None = Field(
        default=None, description="The id of the flow run as returned by an infrastructure block."
    )
    created_by: CreatedBy | None = Field(
        default=None, description="Optional information about the creator of this flow run."
    )
    state: State | None = Field(default=None, description="The current state of the flow run.")
    job_variables: dict[str, Any] | None = Field(
        default=None, description="Variables used as overrides in the base job template."
    )

    def scheduled_time(self) -> datetime | None:
        """Return when the run is to start; None where it names no time."""
        if self.next_scheduled_start_time is not None:
            return self.next_scheduled_start_time
        if self.state is not None and self.state.state_details.scheduled_time is not None:
            return self.state.state_details.scheduled_time
        return self.expected_start_time


class ScheduledFlowRun(_Payload):
    """One element of the endpoint's answer: a flow run and where it is to be run."""

    work_pool_id: UUID = Field(description="The id of the work pool that hands the run out.")
    work_queue_id: UUID = Field(description="The id of the queue of that pool.")
    flow_run: FlowRun = Field(description="The flow run itself.")
