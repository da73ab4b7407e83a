"""`dispatcher event`: what has happened, and what happens from now on."""

import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from uuid import UUID

import click

from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.histories import event_line
from dispatcher.cli.options import as_json, pool_name
from dispatcher.cli.output import echo_json
from dispatcher.cli.session import Session
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.reading import Reader
from dispatcher.shapes import event_fields
from dispatcher.stored import Event

_LAST = 50
_BLOCK_S = 5.0  # how long to wait for an event; then new pools are looked for


@click.command(cls=Command)
@click.option("--pool", type=pool_name, help="Only this pool's.")
@click.option(
    "--run", "run_id", metavar="RUN", type=click.UUID, help="Only this run's, all of them."
)
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "--after", metavar="CURSOR", help="What came after an event, by its cursor in --json."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Most events; else the last 50, or all of --run, --after and --follow.",
)
@as_json
@pass_session
def event(
    session: Session,
    /,
    *,
    pool: str | None,
    run_id: UUID | None,
    follow: bool,
    after: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Write what has happened, one event per line, oldest first.

    With --follow and nothing else it begins with what happens next.
    """
    inspector = session.inspector
    if pool and inspector.last_event(pool) == "0":  # those of a deleted pool stay for a while
        inspector.pool(pool)
    pools = [pool] if pool else inspector.pool_names()
    reader = Follower(inspector, pools, run_id=str(run_id or ""), is_one=bool(pool))
    if after:
        reader.begin_after(after)
        found: Iterable[Event] = () if follow else reader.present()
    elif follow and not run_id:
        reader.begin_now()
        found = ()
    else:
        found = reader.past(limit if limit or run_id else _LAST)
    if follow:
        found = _chained(found, reader.following(session.patient_inspector()))
    for each in islice(found, limit):
        if as_json:
            echo_json({"cursor": reader.cursor(), **event_fields(each)})
        else:
            click.echo(event_line(each))


class Follower(Reader):
    """A reader that goes on with what happens."""

    def following(self, patient: Inspector) -> Iterator[Event]:
        """Yield what happens, for ever; outages are told of and waited for."""
        is_away = False
        while True:
            try:
                page = patient.events_of(self._places, timeout_s=_BLOCK_S) if self._places else []
                if not page and not self._is_one:
                    self._add(patient.pool_names())
            except RedisRefused:
                raise
            except RedisUnavailable as error:
                if not is_away:
                    click.echo(f"warning: {error}; waiting for it", err=True)
                is_away = True
                continue
            is_away = False
            yield from self._yielded(page)

    def _add(self, pools: Iterable[str]) -> None:
        """Take in pools that are new; without any there is nothing to block on."""
        self._places = {**dict.fromkeys(pools, "0-0"), **self._places}
        if not self._places:
            threading.Event().wait(1.0)


def _chained(first: Iterable[Event], then: Iterable[Event]) -> Iterator[Event]:
    yield from first
    yield from then
