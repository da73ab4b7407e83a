"""Pausing and resuming pools and queues, and how a pause is shown."""

from collections.abc import Iterable

import click

from dispatcher.cli.options import parse_end, with_options
from dispatcher.cli.output import clean, shown_time
from dispatcher.cli.session import Session
from dispatcher.stored import Pause, Pool, Queue

intake_option = click.option("--intake", is_flag=True, help="Of submits, not of hand-out.")
pause_options = with_options(
    intake_option,
    click.option("--until", metavar="TIME", help="When it ends by itself: +10m, or a time."),
    click.option("--reason", default="", metavar="TEXT", help="Why; shown with the pause."),
)


def pause(
    session: Session,
    pool: str,
    queue: str | None = None,
    *,
    intake: bool,
    until: str | None,
    reason: str,
) -> None:
    """Pause a pool or queue, and put back what nobody has claimed."""
    until_ms = parse_end(until, session.inspector.server_time_ms(pool)) if until else None
    store = session.store
    store.pause(pool, queue, intake=intake, until_ms=until_ms, reason=reason, by=session.by)
    if not intake:
        for name in [queue] if queue else session.inspector.queue_names(pool):
            store.withdraw(pool, name)


def resume(session: Session, pool: str, queue: str | None = None, *, intake: bool) -> str:
    """End a pause; return the line that says what was done."""
    where = f"{pool}/{queue}" if queue else pool
    kind = "intake of " if intake else ""
    if session.store.resume(pool, queue, intake=intake, by=session.by):
        return f"resumed {kind}{where}"
    return f"unchanged: {kind}{where} is not paused"


def shown_pauses(paused: Pool | Queue) -> str:
    """Return what people read of the pauses of a pool or queue, empty for none."""
    kinds = (("paused", paused.paused), ("intake paused", paused.intake_paused))
    return "; ".join(_shown(kind, each) for kind, each in kinds if each)


def _shown(kind: str, pause: Pause) -> str:
    parts: Iterable[str] = (
        f"{kind} since {shown_time(pause.since_ms)}",
        f"by {pause.by}" if pause.by else "",
        f"until {shown_time(pause.until_ms)}" if pause.until_ms else "",
    )
    told = " ".join(part for part in parts if part)
    return clean(f"{told}: {pause.reason}" if pause.reason else told)
