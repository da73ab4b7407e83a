"""Reading events on from where somebody left off: a cursor is a place in each pool's events."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote, unquote

from dispatcher.errors import InvalidInput
from dispatcher.inspector import Inspector
from dispatcher.stored import Event


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

    def _yielded(self, events: Iterable[Event]) -> Iterator[Event]:
        for each in events:
            self._places[each.pool] = each.id
            if self._run_id in ("", each.fields.get("run")):
                yield each

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


def _moment(event: Event) -> tuple[int, ...]:
    return tuple(int(part) for part in event.id.split("-"))


def _before(event_id: str) -> str:
    """Return the highest id that is below this one."""
    at_ms, number = (int(part) for part in event_id.split("-"))
    return f"{at_ms}-{number - 1}" if number else f"{at_ms - 1}-{2**64 - 1}"


def _checked(event_id: str) -> str:
    """Return an id as Redis writes it; raises ValueError."""
    at_ms, number = event_id.split("-")
    if not (at_ms.isdigit() and number.isdigit() and max(int(at_ms), int(number)) < 2**64):
        raise ValueError(event_id)
    return f"{int(at_ms)}-{int(number)}"
