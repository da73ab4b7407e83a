"""Following submitted runs to their end, for `submit --wait`."""

from collections.abc import Iterable, Iterator
from itertools import islice

from dispatcher.clock import Clock
from dispatcher.inspector import Inspector
from dispatcher.models import StateType
from dispatcher.stored import Event, Place, RunRecord

LOOK_S = 5.0  # how often some runs are looked at without being told: events are trimmed
LOOK_RUNS = 500
TURN_S = 0.2  # with several pools each is listened to for so long
_ENDED = (Place.ENDED, Place.DEAD)


class Following:
    """The runs of one pool that have not ended yet; events say when to look at which."""

    def __init__(
        self, inspector: Inspector, pool: str, run_ids: Iterable[str], *, clock: Clock
    ) -> None:
        self.pool = pool
        self.waiting = dict.fromkeys(run_ids)  # a set that keeps its order
        self._inspector = inspector
        self._clock = clock
        self._look_at_s = clock.monotonic_s() + LOOK_S
        self._after: str | None = None

    def ended(self, timeout_s: float) -> Iterator[tuple[str, RunRecord | None]]:
        """Yield runs that have ended since, None for one whose record is gone."""
        if self._after is None:
            # The position first, then the records: whatever ends in between is in both.
            self._after = self._inspector.last_event(self.pool)
            yield from self._look(list(self.waiting))
            return
        events = self._inspector.events_of({self.pool: self._after}, timeout_s=timeout_s)
        if events:
            self._after = events[-1].id
        told = {event.fields.get("run", "") for event in events if _tells_an_end(event)}
        yield from self._look([run_id for run_id in told if run_id in self.waiting])
        if self._clock.monotonic_s() >= self._look_at_s:
            self._look_at_s = self._clock.monotonic_s() + LOOK_S
            yield from self._look(self._next_few())

    def _look(self, run_ids: list[str]) -> Iterator[tuple[str, RunRecord | None]]:
        missing = set(run_ids)
        for run in self._inspector.records(self.pool, run_ids):
            missing.discard(run.id)
            if run.place in _ENDED:
                del self.waiting[run.id]
                yield run.id, run
        for run_id in missing:
            del self.waiting[run_id]
            yield run_id, None

    def _next_few(self) -> list[str]:
        few = list(islice(self.waiting, LOOK_RUNS))
        for run_id in few:  # to the end of the line
            del self.waiting[run_id]
            self.waiting[run_id] = None
        return few


def follow(
    inspector: Inspector, runs: dict[str, list[str]]
) -> Iterator[tuple[str, RunRecord | None]]:
    """Yield runs, given by pool, each when it has ended; None when its record is gone."""
    clock = Clock()
    followings = [Following(inspector, pool, ids, clock=clock) for pool, ids in runs.items()]
    while followings := [following for following in followings if following.waiting]:
        timeout_s = LOOK_S if len(followings) == 1 else TURN_S
        for following in followings:
            yield from following.ended(timeout_s)


def _tells_an_end(event: Event) -> bool:
    state_type = event.fields.get("to", "")
    return state_type in StateType.__members__ and StateType(state_type).is_terminal
