"""`dispatcher worker drain`: tell workers to claim nothing more, and wait until they have left."""

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import click

from dispatcher.cli.answers import Answers, confirm
from dispatcher.cli.group import Command, Failure, pass_session
from dispatcher.cli.options import as_json, duration, pool_name, yes
from dispatcher.cli.output import clean, counted, echo_json, echo_table, shown_span
from dispatcher.cli.progress import Count
from dispatcher.cli.session import Session
from dispatcher.clock import Clock
from dispatcher.errors import NotFound, PoolNotFound, Refused
from dispatcher.hand_overs import rq_queue_of
from dispatcher.inspector import Inspector
from dispatcher.shapes import lease_left_ms
from dispatcher.stored import Holder, Place

LOOK_S = 0.2
_MOST_HOLDERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a worker that was told to drain: draining, drained or lost.

    `ended`, `released` and `lost` count the runs that it had: those that it ended, those that it
    gave back, and those that were taken back from it.
    """

    holder: Holder
    state: str
    held: int
    took_ms: int
    ended: int = 0
    released: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Told:
    """A worker that is draining, with the runs that it had when it was told: it gets no more."""

    holder: Holder
    runs: list[str]
    lease_ms: int
    held: int


@click.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--host", metavar="HOST", help="Instead of NAME: all workers of this host.")
@click.option("--all", "all_of_them", is_flag=True, help="Instead of NAME: all workers.")
@click.option("--pool", type=pool_name, help="Only workers of this pool.")
@click.option(
    "--timeout",
    "timeout_ms",
    type=duration(0),
    metavar="DURATION",
    help="How long to wait for them; without it until all have left.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why; told in the event.")
@yes
@as_json
@pass_session
def drain(
    session: Session,
    /,
    *,
    names: tuple[str, ...],
    host: str | None,
    all_of_them: bool,
    pool: str | None,
    timeout_ms: int | None,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Let workers end: they claim nothing more, and leave when their runs have ended.

    What still runs after the --grace of its worker is given back. Exit code 0: all have drained;
    1: some are lost or still busy, and go on draining. The same command waits on.
    """
    if bool(names) + (host is not None) + all_of_them != 1:
        raise click.UsageError("give NAME…, or --host, or --all")
    answers = Answers(as_json=as_json)
    if names:
        chosen = _named(session.inspector, names, pool, answers=answers)
    else:
        chosen = _filtered(session.inspector, host, pool)
        held = counted(sum(each.held for each in chosen), "run")
        if chosen:
            confirm(f"{counted(len(chosen), 'worker')} with {held} will drain", yes=yes)
    if not chosen:
        if not names:
            click.echo("none", err=True)
        sys.exit(answers.exit_code)
    timeout_s = None if timeout_ms is None else timeout_ms / 1000
    try:
        draining = _Draining(session, chosen, reason=reason)
        fates = _wait(draining, timeout_s, as_json=as_json)
    except KeyboardInterrupt:
        click.echo("who was told goes on draining; the same command waits on", err=True)
        raise
    _tell(fates, timeout_s, as_json=as_json)
    sys.exit(answers.exit_code)


class _Draining:
    """Tells workers to drain, then sees which of them have left.

    A holder that is gone has drained, unless runs were taken back from it. One whose lease ended a
    whole lease ago is lost, also while nobody recovers it.
    """

    def __init__(self, session: Session, chosen: Sequence[Holder], *, reason: str) -> None:
        self._clock = Clock()
        self._began_s = self._clock.monotonic_s()
        self._inspector = session.patient_inspector()
        lease_ms = {pool: self._inspector.pool(pool).lease_ms for pool in _pools(chosen)}
        self.busy: dict[tuple[str, str], _Told] = {}
        for each in chosen:
            # Before and after: what it claims up to then counts, and what it loses from now on.
            claims = self._inspector.claims(each.pool, each.id)
            session.store.drain(each.pool, each.id, reason=reason, by=session.by)
            claims |= self._inspector.claims(each.pool, each.id)
            told = _Told(each, list(claims), lease_ms[each.pool], len(claims))
            self.busy[each.pool, each.id] = told

    def passed_s(self) -> float:
        """Return how long it has been going on."""
        return self._clock.monotonic_s() - self._began_s

    def gone(self) -> Iterator[Fate]:
        """Yield the workers that are gone since the last look, and count what the others have."""
        for pool in _pools(told.holder for told in self.busy.values()):
            here = {key: told for key, told in self.busy.items() if told.holder.pool == pool}
            leases = self._inspector.leases(pool, limit=_MOST_HOLDERS)
            ends = dict(leases.ends)
            self._count(pool, here.values())
            for key, told in here.items():
                if state := _state(ends.get(told.holder.id), leases.now_ms - told.lease_ms):
                    del self.busy[key]
                    yield self._fate(told, state)

    def left(self) -> list[Fate]:
        """Return those that still drain."""
        return [self._fate(told, "draining") for told in self.busy.values()]

    def _count(self, pool: str, here: Iterable[_Told]) -> None:
        by_run: dict[str, _Told] = {}
        for told in here:
            told.held = 0
            by_run.update(dict.fromkeys(told.runs, told))
        for run in self._inspector.records(pool, by_run):
            told = by_run[run.id]
            told.held += run.place is Place.CLAIMED and run.holder == told.holder.id

    def _fate(self, told: _Told, state: str) -> Fate:
        took_ms = round(self.passed_s() * 1000)
        fate = Fate(told.holder, state, 0 if state == "drained" else told.held, took_ms)
        for run_id in told.runs:
            fate = self._counted(fate, run_id)
        return replace(fate, state="lost") if fate.lost and state == "drained" else fate

    def _counted(self, fate: Fate, run_id: str) -> Fate:
        """Count how a run ended that the worker had."""
        try:
            deliveries = self._inspector.run(run_id, fate.holder.pool).deliveries
        except NotFound:
            return replace(fate, ended=fate.ended + 1)  # its record was not kept for long
        outcomes = [each.outcome for each in deliveries if each.holder == fate.holder.id]
        match outcomes[-1] if outcomes else "released":
            case "":
                return fate
            case "lost":
                return replace(fate, lost=fate.lost + 1)
            case "released":
                return replace(fate, released=fate.released + 1)
            case _:
                return replace(fate, ended=fate.ended + 1)


def _named(
    inspector: Inspector, names: Sequence[str], pool: str | None, *, answers: Answers
) -> list[Holder]:
    """Return the live workers of these names; a name that has none is refused."""
    found = _holders(inspector, pool)
    chosen: list[Holder] = []
    for name in dict.fromkeys(names):
        mine = [(holder, live) for holder, live in found if name in (holder.worker, holder.id)]
        good = [holder for holder, live in mine if live and _is_process(holder)]
        chosen += good
        if not good:
            answers.refused(name, _refusal(name, [holder for holder, _ in mine]))
    return chosen


def _refusal(name: str, mine: Sequence[Holder]) -> Refused:
    if not mine:
        return NotFound(f"worker {name} is not known; `dispatcher worker ls` shows who is there")
    holder = mine[0]
    if rq_queue_of(holder.id):
        return Refused(
            f"{name} is a queue of RQ: drain the workers that hand over to it, and stop each "
            "`rq worker` with SIGTERM, after which its job ends"
        )
    if not _is_process(holder):
        return Refused(
            f"{name} is a claim over HTTP, which takes nothing more by itself: pause the pool "
            "to hand out nothing, cancel or release what it has"
        )
    return Refused(f"worker {name} has no lease any more: a dispatcher takes its runs back")


def _filtered(inspector: Inspector, host: str | None, pool: str | None) -> list[Holder]:
    """Return the live workers of a host, or all; what is no process is left alone."""
    found = [holder for holder, live in _holders(inspector, pool) if live and _is_process(holder)]
    if host is None:
        return found
    chosen = [holder for holder in found if holder.host == host]
    if not chosen:
        raise NotFound(f"host {host} has no live worker; `dispatcher worker ls` shows all")
    return chosen


def _holders(inspector: Inspector, pool: str | None) -> list[tuple[Holder, bool]]:
    """Return the holders of a pool or of all, and whether each has a lease."""
    found = []
    for name in [pool] if pool else inspector.pool_names():
        try:
            holders, now_ms = inspector.holders(name), inspector.server_time_ms(name)
        except PoolNotFound:
            if pool:
                raise
            continue  # it was deleted meanwhile
        found += [(each, not each.dead and lease_left_ms(each, now_ms) > 0) for each in holders]
    return found


def _state(end_ms: int | None, long_ago_ms: int) -> str:
    """Return what has become of a holder by the end of its lease, empty while it is there.

    0 is the end of one whose runs are being taken back: it is gone soon.
    """
    if end_ms is None:
        return "drained"
    return "lost" if 0 < end_ms < long_ago_ms else ""


def _is_process(holder: Holder) -> bool:
    """Return whether a holder is one worker, which hears that it is to end, and ends."""
    return holder.type != "http" and not rq_queue_of(holder.id)


def _pools(holders: Iterable[Holder]) -> list[str]:
    return list(dict.fromkeys(holder.pool for holder in holders))


def _wait(draining: _Draining, timeout_s: float | None, *, as_json: bool) -> list[Fate]:
    """Wait until all are gone or the time is over, and tell of each as it goes."""
    total, fates = len(draining.busy), list[Fate]()
    with Count(total) as shown:
        while True:
            for fate in draining.gone():
                fates.append(fate)
                _tell_one(fate, f"{len(fates)} of {total}", as_json=as_json)
            held = sum(told.held for told in draining.busy.values())
            what = f"{len(fates):,} of {counted(total, 'worker')} gone"
            shown.update(len(fates), f"{what}, {counted(held, 'run')} left")
            left_s = LOOK_S if timeout_s is None else timeout_s - draining.passed_s()
            if not draining.busy or left_s <= 0:
                break
            threading.Event().wait(min(LOOK_S, left_s))
    return fates + draining.left()


def _tell_one(fate: Fate, place: str, *, as_json: bool) -> None:
    if as_json:
        echo_json(_fields(fate))
    elif not sys.stderr.isatty():  # on a terminal the bar shows it
        click.echo(clean(f"{fate.state} {fate.holder.worker} ({place})"), err=True)


def _tell(fates: Sequence[Fate], timeout_s: float | None, *, as_json: bool) -> None:
    """Write what became of all; raises Failure when one has not drained."""
    busy = [fate for fate in fates if fate.state == "draining"]
    if as_json:
        for fate in busy:
            echo_json(_fields(fate))
    elif fates:
        columns = ("NAME", "POOL", "HOST", "STATE", "ENDED", "GIVEN BACK", "LOST", "HELD", "TOOK")
        echo_table(columns, map(_row, fates))
    problems = []
    if busy:
        each = ", ".join(f"{f.holder.worker} ({counted(f.held, 'run')})" for f in busy)
        after = shown_span(round((timeout_s or 0) * 1000))
        problems.append(f"still draining after {after}: {each}; they go on")
    if lost := [fate.holder.worker for fate in fates if fate.state == "lost"]:
        problems.append(f"lost while they drained: {', '.join(lost)}; their runs go elsewhere")
    if problems:
        raise Failure(clean("; ".join(problems)))


def _row(fate: Fate) -> tuple[object, ...]:
    holder, took = fate.holder, shown_span(fate.took_ms)
    counts = (fate.ended, fate.released, fate.lost, fate.held)
    return (holder.worker, holder.pool, holder.host, fate.state, *counts, took)


def _fields(fate: Fate) -> dict[str, object]:
    return {
        "result": fate.state,
        "id": fate.holder.id,
        "name": fate.holder.worker,
        "work_pool_name": fate.holder.pool,
        "host": fate.holder.host,
        "ended": fate.ended,
        "released": fate.released,
        "lost": fate.lost,
        "held": fate.held,
        "took_seconds": fate.took_ms / 1000,
    }
