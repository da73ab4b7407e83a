"""Taking away pools and queues: pause, cancel what is left, purge, delete; each may be repeated."""

from collections.abc import Iterator, Mapping, Sequence

from dispatcher.controls import DEFAULT_QUEUE, Told
from dispatcher.errors import DispatcherError, Refused
from dispatcher.inspector import Inspector
from dispatcher.store import Store
from dispatcher.stored import Place, Queue

_LEFT = {Place.SCHEDULED, Place.WAITING, Place.STREAM, Place.CLAIMED}
_PURGE_RUNS = 500


class Removal:
    """Takes away one queue, or a whole pool when `queue` is empty; `by` is told in the events."""

    def __init__(
        self, store: Store, inspector: Inspector, *, pool: str, queue: str = "", by: str = ""
    ) -> None:
        self.pool = pool
        self.queue = queue
        self.what = f"queue {pool}/{queue}" if queue else f"pool {pool}"
        self.purged = 0
        self._store = store
        self._inspector = inspector
        self._by = by

    def contents(self) -> list[str]:
        """Return what it still has, in words; raises NotFound, Refused for the default queue."""
        if self.queue == DEFAULT_QUEUE:
            raise Refused(
                f"queue {self.queue!r} goes with its pool; it cannot be deleted by itself"
            )
        if self.queue:
            return _counts([self._inspector.queue(self.pool, self.queue)])
        left = _counts(self._inspector.queues(self.pool))
        return left + (["dead letters"] if self._inspector.dead(self.pool, limit=1) else [])

    def pause(self) -> None:
        """Let nothing more in, and hand nothing more out."""
        for intake in (True, False):
            reason = "it is being deleted"
            queue = self.queue or None
            self._store.pause(self.pool, queue, intake=intake, reason=reason, by=self._by)

    def left(self) -> dict[str, bool]:
        """Return the runs that have not ended; True for those that are cancelled already."""
        queues = [self.queue] if self.queue else []
        runs = self._inspector.runs(self.pool, queues=queues, places=_LEFT)
        return {run.id: run.state_type == "CANCELLING" for run in runs}

    def cancel(self, found: Mapping[str, bool]) -> Iterator[tuple[str, Told | DispatcherError]]:
        """Cancel those of `left` that are not yet; yield what became of each."""
        wanted = [run_id for run_id, is_told in found.items() if not is_told]
        reason = f"its {'queue' if self.queue else 'pool'} was deleted"
        return self._store.cancel_many(self.pool, wanted, reason=reason, by=self._by)

    def remove(self, *, purge: bool) -> None:
        """Delete what is empty now, dead letters first if `purge`; raises NotEmpty."""
        if self.queue:
            self._store.delete_queue(self.pool, self.queue, by=self._by)
            return
        for name in self._inspector.queue_names(self.pool):
            if name != DEFAULT_QUEUE:
                self._store.delete_queue(self.pool, name, by=self._by)
        purged = _PURGE_RUNS
        while purge and purged == _PURGE_RUNS:
            ids = self._inspector.dead(self.pool, limit=purged)
            purged = self._store.purge(self.pool, ids, by=self._by)
            self.purged += purged
        self._store.delete_pool(self.pool, by=self._by)


def _counts(queues: Sequence[Queue]) -> list[str]:
    places = ("scheduled", "waiting", "unclaimed", "claimed")
    counts = [(sum(getattr(queue, place) for queue in queues), place) for place in places]
    return [f"{count:,} {place}" for count, place in counts if count]
