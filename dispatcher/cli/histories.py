"""What has become of a run: its fields, every delivery, its events; and an event as one line."""

from collections.abc import Sequence
from typing import Any

import click

from dispatcher.cli.output import clean, echo_fields, echo_table, shown_span, shown_time
from dispatcher.decoding import state_name_at
from dispatcher.inspector import Inspector
from dispatcher.keys import decode
from dispatcher.shapes import (
    delivery_fields,
    event_fields,
    first_start_ms,
    run_fields,
    running_ms,
    start_delta_ms,
)
from dispatcher.stored import Event, RunRecord

_SAID = ("event", "at_ms", "run", "queue", "from", "to", "worker", "reason", "by")


def history_fields(inspector: Inspector, run: RunRecord) -> dict[str, Any]:
    """Return a run for programs, with its deliveries and its events."""
    late_after_ms = inspector.pool(run.pool).late_after_ms
    return {
        **run_fields(run, inspector.server_time_ms(run.pool), late_after_ms),
        "losses": run.losses,
        "deliveries": [delivery_fields(delivery) for delivery in run.deliveries],
        "events": [event_fields(event) for event in _events(inspector, run)],
    }


def show_history(inspector: Inspector, run: RunRecord) -> None:
    """Write a run for people, with its deliveries and its events below it."""
    late_after_ms = inspector.pool(run.pool).late_after_ms
    _show_fields(run, inspector.server_time_ms(run.pool), late_after_ms)
    if run.deliveries:
        click.echo()
        columns = ("DELIVERY", "WORKER", "CLAIMED", "STARTED", "ENDED", "OUTCOME")
        rows = [
            (
                d.number,
                d.holder,
                *map(shown_time, (d.claimed_ms, d.started_ms, d.ended_ms)),
                d.outcome,
            )
            for d in run.deliveries
        ]
        echo_table(columns, rows)
    if events := _events(inspector, run):
        click.echo()
        echo_table(("TIME", "EVENT", "FROM", "TO", "WORKER", "BY", "REASON"), map(_row, events))


def event_line(event: Event) -> str:
    """Return an event as one line: when, where, what, which run, from and to, who and why."""
    told = event.fields
    to = f"{told.get('from', '')}→{told['to']}" if "to" in told else told.get("from", "")
    named = [("queue", decode(told.get("queue", ""))), ("worker", told.get("worker", ""))]
    named += [(name, _shown(name, told[name])) for name in told if name not in _SAID]
    named.append(("by", told.get("by", "")))
    parts = [shown_time(_at_ms(event)), event.pool, told.get("event", ""), told.get("run", ""), to]
    parts += [f"{name.removesuffix('_ms')} {value}" for name, value in named if value]
    line = " ".join(part for part in parts if part)
    return clean(f"{line}: {told['reason']}" if told.get("reason") else line)


def _events(inspector: Inspector, run: RunRecord) -> Sequence[Event]:
    return inspector.past_events(run.pool, run_id=run.id)


def _row(event: Event) -> tuple[object, ...]:
    told = event.fields
    names = ("event", "from", "to", "worker", "by", "reason")
    return (shown_time(_at_ms(event)), *(told.get(name, "") for name in names))


def _at_ms(event: Event) -> int:
    return int(event.fields.get("at_ms", 0))


def _shown(name: str, value: str) -> str:
    return shown_time(int(float(value))) if name.endswith("_ms") else value


def _show_fields(run: RunRecord, now_ms: int, late_after_ms: int) -> None:
    delta = shown_span(start_delta_ms(run, now_ms))
    has_started = first_start_ms(run) is not None
    echo_fields(
        (
            ("id", run.id),
            ("name", run.name),
            ("state", f"{run.state_type} ({state_name_at(run, now_ms, late_after_ms)})"),
            ("message", run.message),
            ("reported", run.outcome),
            ("pool", run.pool),
            ("queue", run.queue),
            ("deployment", run.deployment),
            ("submitted", shown_time(run.submitted_ms)),
            ("due", shown_time(run.due_ms)),
            ("dispatched", shown_time(run.dispatched_ms)),
            ("claimed", shown_time(run.claimed_ms)),
            ("started", shown_time(first_start_ms(run))),
            ("due to start", delta if has_started else ""),
            ("ended", shown_time(run.ended_ms)),
            ("ran for", shown_span(running_ms(run, now_ms)) if has_started else ""),
            ("run count", run.run_count),
            ("retries", run.retries or ""),
            ("deliveries", run.delivery),
            ("losses", run.losses or ""),
        )
    )
