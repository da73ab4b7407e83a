"""What a poll is answered: the accepted payload with the run's present state put over it."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from pydantic import TypeAdapter

from dispatcher.clock import to_ms, utc
from dispatcher.decoding import state_name_at
from dispatcher.models import FlowRun, FlowRunPolicy, State, StateDetails
from dispatcher.stored import RunRecord, ScheduledPage, ScheduledRun

_STATES = UUID("5d1d9a5e-7f0c-4b7b-9a57-0f0a5b7a9a11")  # where ids of states that we made come from


def _defaults(model: Any) -> dict[str, Any]:
    """Return the fields of a model that may be missing, as JSON says them."""
    fields = {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)
_RUN, _POLICY = _defaults(FlowRun), _defaults(FlowRunPolicy)
_STATE, _DETAILS = _defaults(State), _defaults(StateDetails)


def due_exactly(run: RunRecord, payload: Mapping[str, Any]) -> str:
    """Return when a run is due: as the payload says it, to the microsecond, while that holds."""
    told = _scheduled(payload)
    return told if told and to_ms(moment(told)) == run.due_ms else utc(run.due_ms) or ""


def polled(found: ScheduledRun, page: ScheduledPage) -> dict[str, Any]:
    """Return one element of the answer, with every field of Prefect's, null where nothing is known.

    By the page's time a run is late, and by how much.
    """
    run, whole = found.run, json.loads(found.payload)
    given = whole.get("flow_run", whole)
    due = due_exactly(run, given)
    name = state_name_at(run, page.now_ms, page.late_after_ms)
    state = _state(run, given, name=name, due=due, late_after_ms=page.late_after_ms)
    expected = given.get("expected_start_time") or due
    started = given.get("start_time") or utc(_first_start_ms(run))
    ran_s = (given.get("total_run_time") or 0.0) + run.ran_ms / 1000
    present = {
        "name": given.get("name") or run.name,
        "created": given.get("created") or utc(run.submitted_ms),
        "updated": given.get("updated") or utc(run.submitted_ms),
        "state_id": state["id"],
        "state_type": run.state_type,
        "state_name": name,
        "state": state,
        "run_count": run.run_count,
        "work_queue_id": found.queue_id,
        "work_queue_name": given.get("work_queue_name", run.queue),
        "empirical_policy": {**_POLICY, **(given.get("empirical_policy") or {})},
        "expected_start_time": expected,
        "next_scheduled_start_time": due,
        "start_time": started,
        "end_time": given.get("end_time"),
        "total_run_time": ran_s,
        "estimated_run_time": ran_s,
        "estimated_start_time_delta": _delta_s(expected, started, page.now_ms),
        "labels": given.get("labels") or {},
        "job_variables": given.get("job_variables") or {},
    }
    flow_run = {**_RUN, **given, **present}
    return {
        "work_pool_id": page.pool_id,
        "work_queue_id": found.queue_id,
        "flow_run": flow_run,
    }


def _state(
    run: RunRecord, given: Mapping[str, Any], *, name: str, due: str, late_after_ms: int
) -> dict[str, Any]:
    """Return the state that a run is in: the one that came, while it is still in that one."""
    came = given.get("state") or {}
    if came.get("type") == run.state_type and came.get("name") == name:
        details = {**_DETAILS, **(came.get("state_details") or {})}
        details["scheduled_time"] = details["scheduled_time"] or due
        state_id = came.get("id") or given.get("state_id") or _made_id(run, name)
        since = came.get("timestamp") or utc(run.submitted_ms)
        return {**_STATE, **came, "id": state_id, "timestamp": since, "state_details": details}
    since_ms = run.due_ms + late_after_ms if name == "Late" else run.submitted_ms
    is_same = given.get("state_name") == name
    return {
        **_STATE,
        "id": (given.get("state_id") if is_same else None) or _made_id(run, name),
        "type": run.state_type,
        "name": name,
        "timestamp": utc(since_ms),
        "message": run.message or None,
        "state_details": {**_DETAILS, "flow_run_id": run.id, "scheduled_time": due},
    }


def _made_id(run: RunRecord, name: str) -> str:
    """Return the id of a state that we made: the same one as long as the run is in it."""
    return str(uuid5(_STATES, f"{run.pool} {run.id} {name} {run.due_ms} {run.run_count}"))


def _scheduled(given: Mapping[str, Any]) -> str | None:
    """Return the time that a payload names, as `FlowRun.scheduled_time` finds it."""
    details = (given.get("state") or {}).get("state_details") or {}
    told: str | None = given.get("next_scheduled_start_time") or details.get("scheduled_time")
    return told or given.get("expected_start_time")


def _first_start_ms(run: RunRecord) -> int | None:
    return run.started_ms if run.first_started_ms is None else run.first_started_ms


def _delta_s(expected: str, started: str | None, now_ms: int) -> float:
    """Return how late a run started, or is by now, in seconds; 0 while it is not late."""
    expected_at = moment(expected)
    if started:
        return max(0.0, (moment(started) - expected_at).total_seconds())
    return max(0.0, now_ms / 1000 - expected_at.timestamp())


def moment(text: str) -> datetime:
    """Return a payload's time, read as it was when the payload was accepted."""
    return _TIME.validate_python(text)
