"""`dispatcher dead-letter`: ls, show, requeue, purge."""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from uuid import UUID

import click

from dispatcher.cli.answers import Answers, confirm
from dispatcher.cli.group import Group, pass_session
from dispatcher.cli.histories import history_fields, show_history
from dispatcher.cli.options import as_json, duration, run_pool, with_options, yes
from dispatcher.cli.output import clean, counted, echo_json, echo_table, shown_time
from dispatcher.cli.session import Session
from dispatcher.clock import utc
from dispatcher.errors import Refused
from dispatcher.inspector import Inspector
from dispatcher.intake import parse_when
from dispatcher.shapes import run_fields
from dispatcher.stored import Place, RunRecord

_older_than = click.option(
    "--older-than",
    "older_than_ms",
    type=duration(0),
    metavar="DURATION",
    help="Only those that were set aside so long ago.",
)
_chosen = with_options(
    click.argument("run_ids", metavar="[RUN]...", type=click.UUID, nargs=-1),
    run_pool,
    click.option("--all", "all_of_them", is_flag=True, help="Instead of RUN: all of them."),
    _older_than,
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    yes,
)
Act = Callable[[RunRecord], dict[str, Any]]


@click.group(cls=Group)
def dead_letter() -> None:
    """Dead letters: runs that were set aside, after their workers were lost too often."""


@dead_letter.command()
@run_pool
@_older_than
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most runs.")
@as_json
@pass_session
def ls(
    session: Session, *, pool: str | None, older_than_ms: int | None, limit: int, as_json: bool
) -> None:
    """List dead letters, the last one first."""
    found = _dead(session.inspector, pool, older_than_ms)
    listed = list(islice(found, limit))
    if as_json:
        for run in listed:
            echo_json({**run_fields(run, run.ended_ms or 0), "losses": run.losses})
    else:
        columns = ("ID", "NAME", "POOL", "QUEUE", "SINCE", "DELIVERIES", "REASON")
        echo_table(columns, map(_row, listed))
    if next(found, None):
        click.echo(f"there are more than {limit}: --limit shows more", err=True)


@dead_letter.command()
@click.argument("run_id", metavar="RUN", type=click.UUID)
@run_pool
@as_json
@pass_session
def show(session: Session, *, run_id: UUID, pool: str | None, as_json: bool) -> None:
    """Show a dead letter: why, every delivery with its worker and times, and the payload."""
    inspector = session.inspector
    run = _checked(inspector, str(run_id), pool)
    payload = (inspector.payload(run) or b"").decode(errors="replace")
    if as_json:
        echo_json({**history_fields(inspector, run), "payload": _parsed(payload)})
        return
    show_history(inspector, run)
    click.echo(f"\npayload\n{clean(payload)}")


@dead_letter.command()
@_chosen
@click.option("--at", metavar="WHEN", help="When they are due: now (as if not given), +10m, …")
@as_json
@pass_session
def requeue(session: Session, /, *, at: str | None, as_json: bool, **chosen: Any) -> None:
    """Schedule dead letters again; their losses are forgotten."""
    due_ms = None if at is None else parse_when(at, session.inspector.server_time_ms())

    def act(run: RunRecord) -> dict[str, Any]:
        told_ms = session.store.requeue(run.pool, run.id, due_ms, by=session.by)
        return {"told": f"due {shown_time(told_ms)}", "expected_start_time": utc(told_ms)}

    _do(session, "requeued", act, as_json=as_json, **chosen)


@dead_letter.command()
@_chosen
@as_json
@pass_session
def purge(session: Session, /, *, as_json: bool, **chosen: Any) -> None:
    """Forget dead letters for good."""

    def act(run: RunRecord) -> dict[str, Any]:
        if not session.store.purge(run.pool, [run.id], by=session.by):
            raise Refused(f"run {run.id} is not dead-lettered any more")
        return {}

    _do(session, "purged", act, as_json=as_json, **chosen)


def _do(
    session: Session,
    result: str,
    act: Act,
    *,
    run_ids: tuple[UUID, ...],
    pool: str | None,
    all_of_them: bool,
    older_than_ms: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Do the same to each of the chosen runs, or say what would be done."""
    if all_of_them == bool(run_ids):
        raise click.UsageError("give RUN…, or --all")
    if older_than_ms is not None and not all_of_them:
        raise click.UsageError("--older-than is for --all")
    answers = Answers(as_json=as_json)
    inspector = session.inspector
    found = list(_dead(inspector, pool, older_than_ms)) if all_of_them else []
    for run_id in dict.fromkeys(map(str, run_ids)):
        try:
            found.append(_checked(inspector, run_id, pool))
        except Refused as error:
            answers.refused(run_id, error)
    if all_of_them and found and not dry_run:
        confirm(f"{counted(len(found), 'dead letter')} will be {result}", yes=yes)
    for run in found:
        _do_one(
            answers, f"would be {result}" if dry_run else result, run, act=None if dry_run else act
        )
    if all_of_them:
        click.echo(answers.summary(), err=True)
    sys.exit(answers.exit_code)


def _do_one(answers: Answers, result: str, run: RunRecord, *, act: Act | None) -> None:
    try:
        did = act(run) if act else {}
    except Refused as error:
        answers.refused(run.id, error)
    else:
        answers.done(result, run.id, work_pool_name=run.pool, **did)


def _dead(inspector: Inspector, pool: str | None, older_than_ms: int | None) -> Iterator[RunRecord]:
    """Yield the dead letters of one pool or of all, the last one first."""
    if pool:
        inspector.pool(pool)
    before_ms = inspector.server_time_ms() - (older_than_ms or 0)
    for name in [pool] if pool else inspector.pool_names():
        for run in inspector.runs(name, places=[Place.DEAD]):
            if older_than_ms is None or (run.ended_ms or 0) <= before_ms:
                yield run


def _checked(inspector: Inspector, run_id: str, pool: str | None) -> RunRecord:
    run = inspector.run(run_id, pool)
    if run.place is not Place.DEAD:
        raise Refused(f"run {run.id} is not dead-lettered: it is {run.state_type}")
    return run


def _row(run: RunRecord) -> tuple[object, ...]:
    since = shown_time(run.ended_ms)
    return (run.id, run.name, run.pool, run.queue, since, run.delivery, run.message)


def _parsed(payload: str) -> object:
    try:
        return json.loads(payload)
    except ValueError:
        return payload
