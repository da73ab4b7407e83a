"""dispatcher: due flow runs are pushed into Redis streams, workers claim them."""

from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.embedded import find_running
from dispatcher.errors import (
    AlreadyExists,
    ClaimLost,
    DispatcherError,
    HolderLost,
    InvalidInput,
    InvalidName,
    InvalidRun,
    InvalidSettings,
    NotFound,
    RedisFull,
    RedisRefused,
    RedisUnavailable,
    Refused,
)
from dispatcher.guardian import Guardian
from dispatcher.hand_overs import shared_holder
from dispatcher.inspector import Inspector
from dispatcher.job_configuration import (
    HandlerJob,
    ProcessJob,
    payload_handler_job,
    payload_process_job,
    process_job,
)
from dispatcher.logs import configure_logs, logger
from dispatcher.models import FlowRun, ScheduledFlowRun, State, StateType
from dispatcher.producer import Producer, connect, find_url
from dispatcher.records import (
    Claim,
    ClaimAnswer,
    Finish,
    Outcome,
    Receipt,
    Registered,
    Registration,
    Release,
    Renewed,
    Report,
    Start,
    Taken,
    Word,
)
from dispatcher.settings import Settings, read_settings
from dispatcher.store import Store
from dispatcher.stored import (
    Place,
    Pool,
    Queue,
    RunRecord,
    ScheduledPage,
    ScheduledRun,
)

__version__ = "0.1.0"

__all__ = [
    # for programs that submit runs
    "connect",
    "Producer",
    "Receipt",
    "RunRecord",
    "FlowRun",
    "ScheduledFlowRun",
    "State",
    "StateType",
    # what can go wrong
    "DispatcherError",
    "InvalidInput",
    "InvalidName",
    "InvalidRun",
    "InvalidSettings",
    "Refused",
    "NotFound",
    "AlreadyExists",
    "ClaimLost",
    "HolderLost",
    "RedisUnavailable",
    "RedisRefused",
    "RedisFull",
    # for workers and tools
    "Connection",
    "Store",
    "Inspector",
    "Settings",
    "read_settings",
    "find_url",
    "find_running",
    "Clock",
    "Guardian",
    "configure_logs",
    "logger",
    "ProcessJob",
    "process_job",
    "payload_process_job",
    "HandlerJob",
    "payload_handler_job",
    "Claim",
    "ClaimAnswer",
    "Start",
    "Finish",
    "Release",
    "Report",
    "Outcome",
    "Place",
    "Pool",
    "Queue",
    "Registration",
    "Registered",
    "Renewed",
    "Taken",
    "ScheduledPage",
    "ScheduledRun",
    "Word",
    "shared_holder",
    "__version__",
]
