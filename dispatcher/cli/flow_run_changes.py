"""`dispatcher flow-run`: cancel, retime, release."""

import sys
from collections.abc import Iterable, Sequence
from uuid import UUID

import click

from dispatcher.cli.answers import Answers, confirm
from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import as_json, pool_name, queue_name, run_pool, yes
from dispatcher.cli.output import counted, shown_time
from dispatcher.cli.session import Session
from dispatcher.clock import utc
from dispatcher.controls import Told
from dispatcher.errors import DispatcherError, Refused
from dispatcher.intake import parse_when
from dispatcher.listings import cancellable
from dispatcher.records import Release, Word
from dispatcher.stored import Place


@click.command(cls=Command)
@click.argument("run_ids", metavar="[RUN]...", type=click.UUID, nargs=-1)
@click.option("--pool", type=pool_name, help="Look in this pool only; the pool of a filter.")
@click.option("--queue", type=queue_name, help="Instead of RUN: all runs of this queue.")
@click.option("--deployment", type=click.UUID, help="Instead of RUN: all of this deployment.")
@click.option(
    "--all-scheduled", is_flag=True, help="Instead of RUN: only, and all, that nobody has claimed."
)
@click.option("--reason", default="cancelled", metavar="TEXT", help="Why; kept with the run.")
@yes
@as_json
@pass_session
def cancel(
    session: Session,
    /,
    *,
    run_ids: tuple[UUID, ...],
    pool: str | None,
    queue: str | None,
    deployment: UUID | None,
    all_scheduled: bool,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Cancel runs: at once what nobody has claimed, else by an order to its worker.

    By id, or all runs of a pool that a filter finds: then their number is told, and asked about.
    """
    by_filter = bool(queue or deployment or all_scheduled)
    if by_filter == bool(run_ids):
        raise click.UsageError("give RUN…, or --queue, --deployment or --all-scheduled")
    if by_filter and not pool:
        raise click.UsageError("a filter is for one --pool")
    answers = Answers(as_json=as_json)
    if pool and by_filter:
        runs = cancellable(
            session.inspector,
            pool,
            queue=queue or "",
            deployment=str(deployment or ""),
            only_unclaimed=all_scheduled,
        )
        found = list(runs)
        if found:
            confirm(f"{counted(len(found), 'run')} of pool {pool} will be cancelled", yes=yes)
        _cancel(session, pool, found, answers=answers, reason=reason, by_filter=True)
        click.echo(answers.summary(), err=True)
    else:
        for name, ids in _by_pool(session, run_ids, pool, answers=answers).items():
            _cancel(session, name, ids, answers=answers, reason=reason, by_filter=False)
    sys.exit(answers.exit_code)


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=click.UUID)
@run_pool
@click.option("--at", required=True, metavar="WHEN", help="now, +10m, or 2026-01-31T08:00:00Z.")
@as_json
@pass_session
def retime(session: Session, *, run_id: UUID, pool: str | None, at: str, as_json: bool) -> None:
    """Give a run that nobody has claimed another due time."""
    run = session.inspector.run(str(run_id), pool)
    due_ms = parse_when(at, session.inspector.server_time_ms(run.pool))
    told = session.store.retime(run.pool, run.id, due_ms, by=session.by)
    if told.word is Word.CLAIMED:
        raise Refused(f"worker {told.detail} has run {run.id}: its time cannot be changed any more")
    if told.word is Word.ENDED:
        raise Refused(f"run {run.id} has ended already: {told.detail}")
    due_ms = int(told.detail)
    fields = {"work_pool_name": run.pool, "expected_start_time": utc(due_ms)}
    answers = Answers(as_json=as_json)
    answers.done("retimed", run.id, told=f"due {shown_time(due_ms)}", **fields)


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=click.UUID)
@run_pool
@click.option("--reason", default="released", metavar="TEXT", help="Why; told in the event.")
@as_json
@pass_session
def release(
    session: Session, *, run_id: UUID, pool: str | None, reason: str, as_json: bool
) -> None:
    """Take a run from its worker: it is scheduled again, and the worker stops its work."""
    run = session.inspector.run(str(run_id), pool)
    if run.place is not Place.CLAIMED:
        raise Refused(f"run {run.id} is {run.state_type}: no worker has it")
    word = session.store.report(run.pool, Release(run.id, run.token, reason, by=session.by))
    if word is Word.LOST:
        raise Refused(f"run {run.id} changed hands just now; look at it with `flow-run show`")
    result = "released" if word is Word.RELEASED else "cancelled"
    answers = Answers(as_json=as_json)
    fields = {"work_pool_name": run.pool, "worker": run.holder}
    answers.done(result, run.id, told=f"worker {run.holder} has it no more", **fields)


def _by_pool(
    session: Session, run_ids: Iterable[UUID], pool: str | None, *, answers: Answers
) -> dict[str, list[str]]:
    """Return the runs by their pools; one that is not known is refused."""
    found: dict[str, list[str]] = {}
    for run_id in dict.fromkeys(map(str, run_ids)):
        try:
            run = session.inspector.run(run_id, pool)
        except Refused as error:
            answers.refused(run_id, error)
        else:
            found.setdefault(run.pool, []).append(run_id)
    return found


def _cancel(
    session: Session,
    pool: str,
    run_ids: Sequence[str],
    *,
    answers: Answers,
    reason: str,
    by_filter: bool,
) -> None:
    """Cancel runs of a pool; one that a filter found and that ended meanwhile is no refusal."""
    for run_id, told in session.store.cancel_many(pool, run_ids, reason=reason, by=session.by):
        if isinstance(told, DispatcherError):
            answers.refused(run_id, told)
        elif told.word is Word.ENDED and told.detail != "CANCELLED" and not by_filter:
            answers.refused(run_id, Refused(f"run {run_id} has ended already: {told.detail}"))
        else:
            _tell(answers, run_id, told, pool=pool)


def _tell(answers: Answers, run_id: str, told: Told, *, pool: str) -> None:
    if told.word is Word.CANCELLING:
        what = {"work_pool_name": pool, "worker": told.detail}
        answers.done("cancelling", run_id, told=f"worker {told.detail} is told", **what)
    elif told.word is Word.ENDED and told.detail != "CANCELLED":
        answers.done("ended", run_id, told=told.detail, work_pool_name=pool)
    else:
        answers.done("cancelled", run_id, work_pool_name=pool)
