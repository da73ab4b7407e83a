"""Deleting pools and queues: pause, cancel what is left, wait for workers, remove."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from dispatcher.cli.answers import Answers
from dispatcher.cli.options import duration, with_options
from dispatcher.cli.output import counted, echo_json
from dispatcher.cli.session import Session
from dispatcher.cli.waiting import LOOK_S, Following
from dispatcher.clock import Clock
from dispatcher.controls import DEFAULT_QUEUE, Told
from dispatcher.errors import DispatcherError, NotEmpty, Refused
from dispatcher.records import Word
from dispatcher.stored import Place, Queue

_LEFT = {Place.SCHEDULED, Place.WAITING, Place.STREAM, Place.CLAIMED}
_PURGE_RUNS = 500

delete_options = with_options(
    click.option("--force", is_flag=True, help="Cancel the runs that it has, and purge what died."),
    click.option(
        "--timeout",
        "timeout_ms",
        type=duration(0),
        default="60s",
        metavar="DURATION",
        show_default=True,
        help="How long to wait for runs that workers have.",
    ),
)


def delete_queue(
    session: Session, pool: str, name: str, *, force: bool, timeout_s: float, as_json: bool
) -> None:
    """Delete a queue; raises Refused for one that has runs left, unless forced."""
    if name == DEFAULT_QUEUE:
        raise Refused(f"queue {name!r} goes with its pool; it cannot be deleted by itself")
    left = _counts([session.inspector.queue(pool, name)])
    _Deletion(session, pool, name, as_json=as_json).run(left, force=force, timeout_s=timeout_s)


def delete_pool(
    session: Session, pool: str, *, force: bool, timeout_s: float, as_json: bool
) -> None:
    """Delete a pool with its queues; raises Refused for one that has runs left, unless forced."""
    left = _counts(session.inspector.queues(pool))
    if session.inspector.dead(pool, limit=1):
        left.append("dead letters")
    _Deletion(session, pool, "", as_json=as_json).run(left, force=force, timeout_s=timeout_s)


def _counts(queues: Sequence[Queue]) -> list[str]:
    places = ("scheduled", "waiting", "unclaimed", "claimed")
    counts = [(sum(getattr(queue, place) for queue in queues), place) for place in places]
    return [f"{count:,} {place}" for count, place in counts if count]


class _Deletion:
    """Deletes one queue, or a whole pool when `queue` is empty."""

    def __init__(self, session: Session, pool: str, queue: str, *, as_json: bool) -> None:
        self._session = session
        self._pool = pool
        self._queue = queue
        self._what = f"queue {pool}/{queue}" if queue else f"pool {pool}"
        self._answers = Answers(as_json=as_json)
        self._inspector = session.patient_inspector()
        self._clock = Clock()
        self._purged = 0

    def run(self, left: Sequence[str], *, force: bool, timeout_s: float) -> None:
        """Do it; raises Refused when something is left, at first or in the end."""
        if left and not force:
            raise Refused(
                f"{self._what} is not empty: {', '.join(left)}; --force cancels its runs first"
            )
        self._pause()
        give_up_s = self._clock.monotonic_s() + timeout_s
        while not self._try(force=force, give_up_s=give_up_s):
            pass
        self._tell()

    def _try(self, *, force: bool, give_up_s: float) -> bool:
        """Cancel what is left if forced, and remove; False when it is worth another try."""
        found = self._left() if force else {}
        self._wait(self._cancel(found), give_up_s)
        try:
            self._remove(force=force)
        except NotEmpty as error:
            if found and self._clock.monotonic_s() < give_up_s:
                return False
            then = "delete it with --force, or resume it"
            if force:
                then = "give the command again" if found else "`dispatcher doctor` tells why"
            raise Refused(f"{error}; it is paused now, with its intake: {then}") from None
        return True

    def _pause(self) -> None:
        store, queue = self._session.store, self._queue or None
        for intake in (True, False):
            reason, by = "it is being deleted", self._session.by
            store.pause(self._pool, queue, intake=intake, reason=reason, by=by)

    def _left(self) -> dict[str, bool]:
        """Return the runs that have not ended; True for those that are cancelled already."""
        queues = [self._queue] if self._queue else []
        runs = self._inspector.runs(self._pool, queues=queues, places=_LEFT)
        return {run.id: run.state_type == "CANCELLING" for run in runs}

    def _cancel(self, found: Mapping[str, bool]) -> list[str]:
        """Cancel these runs; return those that their workers are to end."""
        ordered = [run_id for run_id, is_told in found.items() if is_told]
        wanted = [run_id for run_id, is_told in found.items() if not is_told]
        reason = f"its {'queue' if self._queue else 'pool'} was deleted"
        store, by = self._session.store, self._session.by
        cancelled = store.cancel_many(self._pool, wanted, reason=reason, by=by)
        return ordered + [run_id for run_id, told in cancelled if self._is_ordered(run_id, told)]

    def _is_ordered(self, run_id: str, told: Told | DispatcherError) -> bool:
        """Write what a cancel did; return whether a worker is to end the run."""
        if isinstance(told, DispatcherError):
            self._answers.refused(run_id, told)
            return False
        if told.word is Word.CANCELLING:
            self._answers.done("cancelling", run_id, told=f"worker {told.detail} is told")
        elif told.word is Word.CANCELLED:
            self._answers.done("cancelled", run_id)
        return told.word is Word.CANCELLING

    def _wait(self, run_ids: Sequence[str], give_up_s: float) -> None:
        following = Following(self._inspector, self._pool, run_ids, clock=self._clock)
        while following.waiting:
            left_s = give_up_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            for run_id, run in following.ended(min(LOOK_S, left_s)):
                self._answers.done("ended", run_id, told=run.state_type if run else "")

    def _remove(self, *, force: bool) -> None:
        store, by = self._session.store, self._session.by
        if self._queue:
            store.delete_queue(self._pool, self._queue, by=by)
            return
        for name in self._inspector.queue_names(self._pool):
            if name != DEFAULT_QUEUE:
                store.delete_queue(self._pool, name, by=by)
        purged = _PURGE_RUNS
        while force and purged == _PURGE_RUNS:
            purged = store.purge(self._pool, self._inspector.dead(self._pool, limit=purged), by=by)
            self._purged += purged
        store.delete_pool(self._pool, by=by)

    def _tell(self) -> None:
        counts = self._answers.counts
        cancelled = counts.get("cancelled", 0) + counts.get("ended", 0)
        if self._answers.as_json:
            fields: dict[str, Any] = {"result": "deleted", "work_pool_name": self._pool}
            if self._queue:
                fields["work_queue_name"] = self._queue
            echo_json({**fields, "cancelled": cancelled, "purged": self._purged})
            return
        did = [f"{cancelled:,} cancelled"] if cancelled else []
        did += [f"{counted(self._purged, 'dead letter')} purged"] if self._purged else []
        click.echo(f"deleted {self._what}{': ' if did else ''}{', '.join(did)}")
