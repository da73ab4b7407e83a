"""`dispatcher flow-run`: ls, show, logs; what changes runs is in `flow_run_changes`."""

from collections.abc import Iterator
from itertools import islice
from uuid import UUID

import click

from dispatcher.cli.flow_run_changes import cancel, release, retime
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.histories import history_fields, show_history
from dispatcher.cli.options import as_json, queue_name, run_pool
from dispatcher.cli.output import echo_json, echo_table, shown_time
from dispatcher.cli.session import Session
from dispatcher.decoding import state_name_at
from dispatcher.errors import NotFound
from dispatcher.inspector import Inspector
from dispatcher.listings import places_of
from dispatcher.models import StateType
from dispatcher.shapes import first_start_ms, run_fields
from dispatcher.stored import RunRecord


@click.group(cls=Group)
def flow_run() -> None:
    """Flow runs: what was submitted, and what became of it."""


for _command in (cancel, retime, release):
    flow_run.add_command(_command)


@flow_run.command()
@run_pool
@click.option("--queue", type=queue_name, help="Only this queue's.")
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in StateType], case_sensitive=False),
    multiple=True,
    help="Only runs in this type of state; may be repeated.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most runs.")
@as_json
@pass_session
def ls(
    session: Session,
    /,
    *,
    pool: str | None,
    queue: str | None,
    states: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """List runs: scheduled ones by due time, waiting ones, those with workers, ended ones."""
    inspector = session.inspector
    if pool:
        _check(inspector, pool, queue)
    now_ms = inspector.server_time_ms(pool)
    found = _runs(inspector, pool, queue, {StateType(state) for state in states})
    listed = list(islice(found, limit))
    late = {name: inspector.pool(name).late_after_ms for name in {run.pool for run in listed}}
    if as_json:
        for run in listed:
            echo_json(run_fields(run, now_ms, late[run.pool]))
    else:
        columns = ("ID", "NAME", "STATE", "POOL", "QUEUE", "DUE", "STARTED", "ENDED")
        echo_table(columns, (_row(run, now_ms, late[run.pool]) for run in listed))
    if next(found, None):
        click.echo(f"there are more than {limit}: --limit shows more", err=True)


@flow_run.command()
@click.argument("run_id", metavar="RUN", type=click.UUID)
@run_pool
@click.option("--payload", is_flag=True, help="Write what was accepted, byte for byte.")
@as_json
@pass_session
def show(session: Session, *, run_id: UUID, pool: str | None, payload: bool, as_json: bool) -> None:
    """Show a run: its state, its times, everyone who had it, and all that happened to it."""
    inspector = session.inspector
    run = inspector.run(str(run_id), pool)
    if payload:
        _write_payload(inspector, run)
    elif as_json:
        echo_json(history_fields(inspector, run))
    else:
        show_history(inspector, run)


@flow_run.command()
@click.argument("run_id", metavar="RUN", type=click.UUID)
@run_pool
@pass_session
def logs(session: Session, *, run_id: UUID, pool: str | None) -> None:
    """Write the last 64 KiB that a run wrote, as it wrote them."""
    run = session.inspector.run(str(run_id), pool)
    output = session.inspector.output(run)
    click.echo(output, nl=False)
    if not output and run.ended_ms is None:
        click.echo(f"run {run.id} is {run.state_type}: its output is kept at its end", err=True)


def _check(inspector: Inspector, pool: str, queue: str | None) -> None:
    if queue:
        inspector.queue(pool, queue)
    else:
        inspector.pool(pool)


def _runs(
    inspector: Inspector, pool: str | None, queue: str | None, states: set[StateType]
) -> Iterator[RunRecord]:
    """Yield runs once each: one that moves while we read may be met again."""
    places = places_of(states)
    seen: set[str] = set()
    for name in [pool] if pool else inspector.pool_names():
        for run in inspector.runs(name, queues=[queue] if queue else [], places=places):
            if run.id not in seen and (not states or run.state_type in states):
                seen.add(run.id)
                yield run


def _row(run: RunRecord, now_ms: int, late_after_ms: int) -> tuple[object, ...]:
    return (
        run.id,
        run.name,
        state_name_at(run, now_ms, late_after_ms),
        run.pool,
        run.queue,
        *map(shown_time, (run.due_ms, first_start_ms(run), run.ended_ms)),
    )


def _write_payload(inspector: Inspector, run: RunRecord) -> None:
    accepted = inspector.payload(run)
    if accepted is None:
        raise NotFound(
            f"run {run.id} has ended and its payload was dropped; "
            "pools made with --keep-payload keep it"
        )
    click.echo(accepted, nl=False)
