"""Raw answers of Redis turned into the records of `stored.py`; nothing here asks the server."""

from collections.abc import Mapping, Sequence
from typing import Any

from dispatcher.keys import GROUP, decode
from dispatcher.stored import (
    CANCEL_GRACE_MS,
    DEAD_RETENTION_MS,
    IDEMPOTENCY_TTL_MS,
    LATE_AFTER_MS,
    Delivery,
    Deployment,
    Event,
    Holder,
    Pause,
    Place,
    Pool,
    Queue,
    RunRecord,
)

# Named one by one: a list of runs must not carry their payloads.
RUN_FIELDS = (
    *("queue", "name", "place", "state_type", "state_name", "message", "due_ms", "submitted_ms"),
    *("run_count", "delivery", "losses", "holder", "token", "dispatched_ms", "claimed_ms"),
    *("started_ms", "ended_ms", "deployment", "unstarted", "first_started_ms", "ran_ms"),
    *("retries", "outcome", "member", "handed_ms", "executor", "renewed_ms"),
)
DELIVERY_FIELDS = ("holder", "claimed_ms", "started_ms", "ended_ms", "outcome")


def pool_record(name: str, fields: Mapping[str, str], claimed: int, now_ms: int) -> Pool:
    """Return a pool from its hash; a pause whose end has come is none."""
    return Pool(
        name=name,
        id=fields["id"],
        type=fields.get("type", "process"),
        handout=fields.get("handout", "stream"),
        command=fields.get("command", ""),
        base_job_template=fields.get("base_job_template", ""),
        job_version=int(fields.get("job_version", 0)),
        limit=moment(fields, "limit"),
        lease_ms=int(fields["lease_ms"]),
        renew_ms=int(fields["renew_ms"]),
        retention_ms=int(fields["retention_ms"]),
        keep_payload=fields.get("keep_payload") == "1",
        late_after_ms=int(fields.get("late_after_ms", LATE_AFTER_MS)),
        idempotency_ttl_ms=int(fields.get("idempotency_ttl_ms", IDEMPOTENCY_TTL_MS)),
        dead_retention_ms=int(fields.get("dead_retention_ms", DEAD_RETENTION_MS)),
        created_ms=int(fields["created_ms"]),
        claimed=claimed,
        paused=pause_record(fields, "paused", now_ms),
        intake_paused=pause_record(fields, "intake_paused", now_ms),
    )


def queue_record(
    pool: str, encoded: str, score: float, counts: Sequence[Any], now_ms: int
) -> Queue:
    """Return a queue from its hash, and from its counts.

    ZCARD of its schedule, ZCARDs of its waiting sets, XLEN and groups of its stream, its slots.
    """
    raw, scheduled, waiting, length, groups, claimed = counts
    fields = texts(raw)
    # An error stands in for the groups while nothing was ever dispatched: no stream yet.
    rows = [] if isinstance(groups, Exception) else groups
    pairs = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    pending = sum(int(p[b"pending"]) for p in pairs if p[b"name"] == GROUP.encode())
    return Queue(
        name=decode(encoded),
        pool=pool,
        id=fields["id"],
        priority=int(score),
        limit=moment(fields, "limit"),
        max_unclaimed=int(fields.get("max_unclaimed", 1_000)),
        max_deliveries=int(fields.get("max_deliveries", 3)),
        on_worker_lost=fields.get("on_worker_lost", "requeue"),
        timeout_ms=moment(fields, "timeout_ms"),
        cancel_grace_ms=int(fields.get("cancel_grace_ms", CANCEL_GRACE_MS)),
        late_policy=fields.get("late_policy", "all"),
        late_drop_ms=moment(fields, "late_drop_ms"),
        created_ms=int(fields["created_ms"]),
        scheduled=int(scheduled),
        waiting=waiting,
        unclaimed=int(length) - pending,
        claimed=int(claimed),
        skipped=int(fields.get("skipped", 0)),
        paused=pause_record(fields, "paused", now_ms),
        intake_paused=pause_record(fields, "intake_paused", now_ms),
    )


def deployment_record(
    deployment: str, pool: str, fields: Mapping[str, str], *, held: int, waiting: int
) -> Deployment:
    """Return a deployment from its hash and counts."""
    return Deployment(
        id=deployment,
        pool=pool,
        limit=moment(fields, "limit"),
        collision_strategy=fields.get("collision_strategy", "ENQUEUE"),
        held=held,
        waiting=waiting,
    )


def holder_record(
    holder: str, pool: str, fields: Mapping[str, str], *, held: int, lease_end_ms: int
) -> Holder:
    """Return a worker's incarnation from its hash."""
    return Holder(
        id=holder,
        pool=pool,
        worker=decode(fields["worker"]),
        host=fields.get("host", ""),
        pid=int(fields.get("pid", 0)),
        type=fields.get("type", ""),
        queues=tuple(decode(queue) for queue in fields.get("queues", "").split(" ") if queue),
        slots=int(fields.get("slots", 0)),
        held=held,
        lease_end_ms=lease_end_ms,
        registered_ms=int(fields.get("registered_ms", 0)),
        draining="draining" in fields,
        dead="dead" in fields,
    )


def answered(answers: Sequence[Any]) -> list[Any]:
    """Return the answers of a pipeline; an error among them is raised.

    A stream that is not there yet has no groups, and says so by an error, which stays.
    """
    for answer in answers:
        if isinstance(answer, Exception) and "no such key" not in str(answer).lower():
            raise answer
    return list(answers)


def named(names: Sequence[str], values: Sequence[bytes | None]) -> dict[str, str]:
    """Return the fields that are there of an HMGET."""
    pairs = zip(names, values, strict=True)
    return {name: value.decode(errors="replace") for name, value in pairs if value is not None}


def texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the fields of an HGETALL as text."""
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}


def moment(fields: Mapping[str, str], name: str) -> int | None:
    """Return a number that may be missing."""
    return int(fields[name]) if fields.get(name) else None


def delivery_record(number: int, fields: Mapping[str, str]) -> Delivery:
    """Return one claim of a run from its record."""
    prefix = f"delivery.{number}."
    return Delivery(
        number=number,
        holder=fields[prefix + "holder"],
        claimed_ms=int(fields[prefix + "claimed_ms"]),
        started_ms=moment(fields, prefix + "started_ms"),
        ended_ms=moment(fields, prefix + "ended_ms"),
        outcome=fields.get(prefix + "outcome", ""),
    )


def event_record(pool: str, entry: tuple[bytes, Mapping[bytes, bytes]]) -> Event:
    """Return an event from its stream entry."""
    return Event(pool, entry[0].decode(), texts(entry[1]))


def run_record(
    run_id: str, pool: str, fields: Mapping[str, str], deliveries: tuple[Delivery, ...] = ()
) -> RunRecord:
    """Return a run from its record."""
    return RunRecord(
        id=run_id,
        pool=pool,
        queue=decode(fields["queue"]),
        name=fields["name"],
        place=Place(fields["place"]),
        state_type=fields["state_type"],
        state_name=fields["state_name"],
        message=fields.get("message", ""),
        due_ms=int(fields["due_ms"]),
        submitted_ms=int(fields["submitted_ms"]),
        run_count=int(fields["run_count"]),
        delivery=int(fields["delivery"]),
        losses=int(fields.get("losses", 0)),
        holder=fields.get("holder", ""),
        token=fields.get("token", ""),
        dispatched_ms=moment(fields, "dispatched_ms"),
        claimed_ms=moment(fields, "claimed_ms"),
        started_ms=moment(fields, "started_ms"),
        ended_ms=moment(fields, "ended_ms"),
        deployment=fields.get("deployment", ""),
        deliveries=deliveries,
        unstarted=int(fields.get("unstarted", 0)),
        first_started_ms=moment(fields, "first_started_ms"),
        ran_ms=int(fields.get("ran_ms", 0)),
        retries=int(fields.get("retries", 0)),
        outcome=fields.get("outcome", ""),
        member=fields.get("member", ""),
        handed_ms=moment(fields, "handed_ms"),
        executor=fields.get("executor", ""),
        renewed_ms=moment(fields, "renewed_ms"),
    )


def state_name_at(run: RunRecord, now_ms: int, late_after_ms: int = LATE_AFTER_MS) -> str:
    """Return a run's state name for people: `Late` is not stored, it depends on the time."""
    if run.state_type != "SCHEDULED" or run.state_name not in ("Scheduled", "Late"):
        return run.state_name
    late = run.started_ms is None and now_ms - run.due_ms >= late_after_ms
    return "Late" if late else "Scheduled"


def pause_record(fields: Mapping[str, str], kind: str, now_ms: int) -> Pause | None:
    """Return a pause from the hash of its pool or queue; `kind` is paused or intake_paused."""
    until_ms = moment(fields, f"{kind}_until_ms")
    if fields.get(kind) != "1" or (until_ms is not None and until_ms <= now_ms):
        return None
    return Pause(
        since_ms=int(fields.get(f"{kind}_ms", 0)),
        by=fields.get(f"{kind}_by", ""),
        reason=fields.get(f"{kind}_reason", ""),
        until_ms=until_ms,
    )
