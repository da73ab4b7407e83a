"""Records as the JSON objects that `--json` writes: Prefect's field names, times in UTC."""

from typing import Any

from dispatcher.cli.output import utc
from dispatcher.inspector import state_name_at
from dispatcher.records import Delivery, Holder, Pool, Queue, RunRecord


def run_fields(run: RunRecord, now_ms: int) -> dict[str, Any]:
    """Return a run as it is listed."""
    state_name = state_name_at(run, now_ms)
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
        "start_time": utc(run.started_ms),
        "end_time": utc(run.ended_ms),
        "estimated_start_time_delta": start_delta_ms(run, now_ms) / 1000,
    }


def start_delta_ms(run: RunRecord, now_ms: int) -> int:
    """Return how late a run started, or is by now; 0 while it is not late."""
    return max(0, (now_ms if run.started_ms is None else run.started_ms) - run.due_ms)


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


def pool_fields(pool: Pool) -> dict[str, Any]:
    """Return a pool."""
    return {
        "id": pool.id,
        "name": pool.name,
        "type": pool.type,
        "created": utc(pool.created_ms),
        "command": pool.command or None,
        "lease_seconds": pool.lease_ms / 1000,
        "heartbeat_interval_seconds": pool.renew_ms / 1000,
        "retention_seconds": pool.retention_ms / 1000,
        "keep_payload": pool.keep_payload,
    }


def queue_fields(queue: Queue) -> dict[str, Any]:
    """Return a queue with how many runs are where."""
    return {
        "id": queue.id,
        "name": queue.name,
        "work_pool_name": queue.pool,
        "priority": queue.priority,
        "created": utc(queue.created_ms),
        "max_unclaimed": queue.max_unclaimed,
        "max_deliveries": queue.max_deliveries,
        "scheduled": queue.scheduled,
        "unclaimed": queue.unclaimed,
        "claimed": queue.claimed,
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
    """Return ready, draining, or lost for one whose lease has ended."""
    if holder.dead or not lease_left_ms(holder, now_ms):
        return "lost"
    return "draining" if holder.draining else "ready"


def lease_left_ms(holder: Holder, now_ms: int) -> int:
    """Return how long the lease still holds."""
    return max(0, holder.lease_end_ms - now_ms)
