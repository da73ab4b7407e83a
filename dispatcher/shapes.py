"""Records as the JSON objects that `--json` and HTTP write: Prefect's field names, times in UTC."""

from typing import Any

from dispatcher.clock import utc
from dispatcher.decoding import state_name_at
from dispatcher.errors import DispatcherError, InvalidRun
from dispatcher.job_templates import template_fields
from dispatcher.keys import decode
from dispatcher.records import Receipt
from dispatcher.stored import (
    LATE_AFTER_MS,
    Delivery,
    Deployment,
    Event,
    Holder,
    Pause,
    Pool,
    Queue,
    RunRecord,
)

_EVENT_NAMES = {"run": "flow_run_id", "deployment": "deployment_id"}
_EVENT_TIMES = {"due_ms": "expected_start_time", "until_ms": "until"}


def run_fields(run: RunRecord, now_ms: int, late_after_ms: int = LATE_AFTER_MS) -> dict[str, Any]:
    """Return a run as it is listed; `late_after_ms` is its pool's."""
    state_name = state_name_at(run, now_ms, late_after_ms)
    is_scheduled = run.state_type == "SCHEDULED"
    return {
        "id": run.id,
        "name": run.name,
        "state_type": run.state_type,
        "state_name": state_name,
        "state": {"type": run.state_type, "name": state_name, "message": run.message or None},
        "work_pool_name": run.pool,
        "work_queue_name": run.queue,
        "deployment_id": run.deployment or None,
        "run_count": run.run_count,
        "created": utc(run.submitted_ms),
        "expected_start_time": utc(run.due_ms),
        "next_scheduled_start_time": utc(run.due_ms) if is_scheduled else None,
        "start_time": utc(first_start_ms(run)),
        "end_time": utc(run.ended_ms),
        "estimated_start_time_delta": start_delta_ms(run, now_ms) / 1000,
        "total_run_time": run.ran_ms / 1000,
        "estimated_run_time": running_ms(run, now_ms) / 1000,
    }


def first_start_ms(run: RunRecord) -> int | None:
    """Return when a run started for the first time since it was submitted."""
    return run.started_ms if run.first_started_ms is None else run.first_started_ms


def start_delta_ms(run: RunRecord, now_ms: int) -> int:
    """Return how late a run started, or is by now; 0 while it is not late."""
    started_ms = first_start_ms(run)
    return max(0, (now_ms if started_ms is None else started_ms) - run.due_ms)


def running_ms(run: RunRecord, now_ms: int) -> int:
    """Return for how long a run has been running, all its starts together."""
    is_running = run.state_type == "RUNNING" and run.started_ms is not None
    return run.ran_ms + (max(0, now_ms - (run.started_ms or 0)) if is_running else 0)


def delivery_fields(delivery: Delivery) -> dict[str, Any]:
    """Return one claim of a run."""
    return {
        "delivery": delivery.number,
        "worker": delivery.holder,
        "claim_time": utc(delivery.claimed_ms),
        "start_time": utc(delivery.started_ms),
        "end_time": utc(delivery.ended_ms),
        "outcome": delivery.outcome or None,
    }


def event_fields(event: Event) -> dict[str, Any]:
    """Return an event: what every event has, null where it is not said, then what is its own."""
    told = dict(event.fields)
    fields: dict[str, Any] = {
        "occurred": utc(int(told.pop("at_ms", 0))),
        "event": told.pop("event", ""),
        "work_pool_name": event.pool,
        "work_queue_name": decode(told.pop("queue", "")) or None,
        "flow_run_id": None,
        **{name: told.pop(name, None) for name in ("from", "to", "worker", "reason", "by")},
    }
    for name, value in told.items():
        if name in _EVENT_TIMES:
            fields[_EVENT_TIMES[name]] = utc(int(float(value)))
        else:
            fields[_EVENT_NAMES.get(name, name)] = value
    return fields


def pool_fields(pool: Pool) -> dict[str, Any]:
    """Return a pool."""
    return {
        "id": pool.id,
        "name": pool.name,
        "type": pool.type,
        "handout": pool.handout,
        "created": utc(pool.created_ms),
        "command": pool.command or None,
        "base_job_template": template_fields(pool.base_job_template),
        "concurrency_limit": pool.limit,
        "claimed": pool.claimed,
        **pause_fields(pool),
        "lease_seconds": pool.lease_ms / 1000,
        "heartbeat_interval_seconds": pool.renew_ms / 1000,
        "retention_seconds": pool.retention_ms / 1000,
        "keep_payload": pool.keep_payload,
        "late_after_seconds": pool.late_after_ms / 1000,
        "idempotency_ttl_seconds": pool.idempotency_ttl_ms / 1000,
        "dead_retention_seconds": pool.dead_retention_ms / 1000,
    }


def queue_fields(queue: Queue) -> dict[str, Any]:
    """Return a queue with how many runs are where."""
    return {
        "id": queue.id,
        "name": queue.name,
        "work_pool_name": queue.pool,
        "priority": queue.priority,
        "created": utc(queue.created_ms),
        "concurrency_limit": queue.limit,
        **pause_fields(queue),
        "max_unclaimed": queue.max_unclaimed,
        "max_deliveries": queue.max_deliveries,
        "on_worker_lost": queue.on_worker_lost,
        "timeout_seconds": _seconds(queue.timeout_ms),
        "cancel_grace_seconds": queue.cancel_grace_ms / 1000,
        "late_policy": queue.late_policy,
        "late_drop_seconds": _seconds(queue.late_drop_ms),
        "scheduled": queue.scheduled,
        "waiting": queue.waiting,
        "unclaimed": queue.unclaimed,
        "claimed": queue.claimed,
        "skipped": queue.skipped,
    }


def pause_fields(paused: Pool | Queue) -> dict[str, Any]:
    """Return what `--json` says of the pauses of a pool or queue."""
    return {
        "is_paused": paused.paused is not None,
        "pause": _pause(paused.paused),
        "intake_paused": paused.intake_paused is not None,
        "intake_pause": _pause(paused.intake_paused),
    }


def receipt_fields(receipt: Receipt, offered: str = "") -> dict[str, Any]:
    """Return what became of a submitted run; `offered` is the id that it came with."""
    fields: dict[str, Any] = {"result": receipt.word.value, "id": receipt.run_id}
    fields |= {"work_pool_name": receipt.pool, "work_queue_name": receipt.queue}
    if offered not in ("", receipt.run_id):  # known by its idempotency key
        fields["offered_id"] = offered
    return fields | {"expected_start_time": utc(receipt.due_ms)}


def refusal_fields(where: str, error: DispatcherError) -> dict[str, Any]:
    """Return why a submitted run was refused; `where` it stood in what came."""
    field, reason = None, str(error)
    if isinstance(error, InvalidRun):
        field, reason = error.path or None, error.problem
    return {"result": "refused", "where": where, "field": field, "reason": reason}


def deployment_fields(deployment: Deployment) -> dict[str, Any]:
    """Return a deployment with the slots that are held and the runs that wait for one."""
    return {
        "id": deployment.id,
        "work_pool_name": deployment.pool,
        "concurrency_limit": deployment.limit,
        "concurrency_options": {"collision_strategy": deployment.collision_strategy},
        "held": deployment.held,
        "waiting": deployment.waiting,
    }


def worker_fields(holder: Holder, now_ms: int) -> dict[str, Any]:
    """Return a worker's incarnation."""
    return {
        "id": holder.id,
        "name": holder.worker,
        "work_pool_name": holder.pool,
        "status": worker_status(holder, now_ms),
        "type": holder.type,
        "host": holder.host,
        "pid": holder.pid,
        "work_queue_names": list(holder.queues),
        "slots": holder.slots,
        "held": holder.held,
        "created": utc(holder.registered_ms),
        "lease_left_seconds": lease_left_ms(holder, now_ms) / 1000,
    }


def worker_status(holder: Holder, now_ms: int) -> str:
    """Return ready, draining, drained for one that has no run left, lost without a lease.

    A claim over HTTP takes nothing more from its beginning on: it is holding.
    """
    if holder.dead or not lease_left_ms(holder, now_ms):
        return "lost"
    if not holder.draining:
        return "ready"
    if holder.type == "http":
        return "holding"
    return "draining" if holder.held else "drained"


def lease_left_ms(holder: Holder, now_ms: int) -> int:
    """Return how long the lease still holds."""
    return max(0, holder.lease_end_ms - now_ms)


def _seconds(span_ms: int | None) -> float | None:
    return None if span_ms is None else span_ms / 1000


def _pause(pause: Pause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {
        "since": utc(pause.since_ms),
        "by": pause.by or None,
        "until": utc(pause.until_ms),
        "reason": pause.reason or None,
    }
