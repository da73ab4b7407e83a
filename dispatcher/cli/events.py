"""`dispatcher event`: what has happened, and what happens from now on."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from urllib.parse import quote, unquote
from uuid import UUID

import click

from dispatcher.cli.fields import event_fields
from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.histories import event_line
from dispatcher.cli.options import as_json, pool_name
from dispatcher.cli.output import echo_json
from dispatcher.cli.session import Session
from dispatcher.errors import InvalidInput, RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
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
    reader = Reader(inspector, pools, run_id=str(run_id or ""), is_one=bool(pool))
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


class Reader:
    """Reads the events of some pools, and knows the place in each up to which it has yielded."""

    def __init__(
        self, inspector: Inspector, pools: Iterable[str], *, run_id: str, is_one: bool
    ) -> None:
        self._inspector = inspector
        self._run_id = run_id
        self._is_one = is_one
        self._places = dict.fromkeys(pools, "0-0")

    def cursor(self) -> str:
        """Return what makes a later reader go on behind the last event that was yielded."""
        if self._is_one:
            return next(iter(self._places.values()))
        return ",".join(f"{quote(pool, safe='')}={at}" for pool, at in self._places.items())

    def begin_after(self, cursor: str) -> None:
        """Begin where a reader left off; a pool that the cursor does not know begins anew."""
        self._places |= {
            pool: at for pool, at in self._parsed(cursor).items() if pool in self._places
        }

    def begin_now(self) -> None:
        """Begin behind what has happened already."""
        self._places = {pool: self._inspector.last_event(pool) for pool in self._places}

    def past(self, limit: int | None) -> Iterator[Event]:
        """Yield the last events, oldest first."""
        pages = {
            pool: self._inspector.past_events(pool, run_id=self._run_id, limit=limit)
            for pool in self._places
        }
        found = sorted((e for page in pages.values() for e in page), key=_moment)
        shown = found[-limit:] if limit else found
        first = {each.pool: each for each in reversed(shown)}
        for pool, page in pages.items():
            if pool in first:
                self._places[pool] = _before(first[pool].id)
            elif page:
                self._places[pool] = page[-1].id
        return self._yielded(shown)

    def present(self) -> Iterator[Event]:
        """Yield what is there behind the place of each pool."""
        while self._places and (page := self._inspector.events_of(self._places)):
            yield from self._yielded(page)

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

    def _yielded(self, events: Iterable[Event]) -> Iterator[Event]:
        for each in events:
            self._places[each.pool] = each.id
            if self._run_id in ("", each.fields.get("run")):
                yield each

    def _add(self, pools: Iterable[str]) -> None:
        """Take in pools that are new; without any there is nothing to block on."""
        self._places = {**dict.fromkeys(pools, "0-0"), **self._places}
        if not self._places:
            threading.Event().wait(1.0)

    def _parsed(self, cursor: str) -> Mapping[str, str]:
        with suppress(ValueError):
            if self._is_one and "=" not in cursor:
                return dict.fromkeys(self._places, _checked(cursor))
            pairs = [part.split("=") for part in cursor.split(",")]
            parsed = {unquote(pool): _checked(at) for pool, at in pairs}
            if "" not in parsed:
                return parsed
        raise InvalidInput(
            f"cursor {cursor[:80]!r} is not understood; give one that --json has shown"
        )


def _chained(first: Iterable[Event], then: Iterable[Event]) -> Iterator[Event]:
    yield from first
    yield from then


def _moment(event: Event) -> tuple[int, ...]:
    return tuple(int(part) for part in event.id.split("-"))


def _before(event_id: str) -> str:
    """Return the highest id that is below this one."""
    at_ms, number = (int(part) for part in event_id.split("-"))
    return f"{at_ms}-{number - 1}" if number else f"{at_ms - 1}-{2**64 - 1}"


def _checked(event_id: str) -> str:
    """Return an id as Redis writes it; raises ValueError."""
    at_ms, number = event_id.split("-")
    if not (at_ms.isdigit() and number.isdigit()):
        raise ValueError(event_id)
    return f"{int(at_ms)}-{int(number)}"
