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
from dispatcher.controls import Told
from dispatcher.errors import DispatcherError, NotEmpty, Refused
from dispatcher.records import Word
from dispatcher.removing import Removal

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
    _Deletion(session, pool, name, as_json=as_json).run(force=force, timeout_s=timeout_s)


def delete_pool(
    session: Session, pool: str, *, force: bool, timeout_s: float, as_json: bool
) -> None:
    """Delete a pool with its queues; raises Refused for one that has runs left, unless forced."""
    _Deletion(session, pool, "", as_json=as_json).run(force=force, timeout_s=timeout_s)


class _Deletion:
    """Deletes one queue, or a whole pool when `queue` is empty, and tells of it."""

    def __init__(self, session: Session, pool: str, queue: str, *, as_json: bool) -> None:
        session.inspector.server_time_ms(pool)  # a server that is not there is not waited for
        self._inspector = session.patient_inspector()
        self._removal = Removal(
            session.store, self._inspector, pool=pool, queue=queue, by=session.by
        )
        self._answers = Answers(as_json=as_json)
        self._clock = Clock()

    def run(self, *, force: bool, timeout_s: float) -> None:
        """Do it; raises Refused when something is left, at first or in the end."""
        left = self._removal.contents()
        if left and not force:
            what = self._removal.what
            raise Refused(f"{what} is not empty: {', '.join(left)}; --force cancels its runs first")
        self._removal.pause()
        give_up_s = self._clock.monotonic_s() + timeout_s
        while not self._try(force=force, give_up_s=give_up_s):
            pass
        self._tell()

    def _try(self, *, force: bool, give_up_s: float) -> bool:
        """Cancel what is left if forced, and remove; False when it is worth another try."""
        found = self._removal.left() if force else {}
        self._wait(self._cancel(found), give_up_s)
        try:
            self._removal.remove(purge=force)
        except NotEmpty as error:
            if found and self._clock.monotonic_s() < give_up_s:
                return False
            then = "delete it with --force, or resume it"
            if force:
                then = "give the command again" if found else "`dispatcher doctor` tells why"
            raise Refused(f"{error}; it is paused now, with its intake: {then}") from None
        return True

    def _cancel(self, found: Mapping[str, bool]) -> list[str]:
        """Cancel these runs; return those that their workers are to end."""
        ordered = [run_id for run_id, is_told in found.items() if is_told]
        cancelled = self._removal.cancel(found)
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
        following = Following(self._inspector, self._removal.pool, run_ids, clock=self._clock)
        while following.waiting:
            left_s = give_up_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            for run_id, run in following.ended(min(LOOK_S, left_s)):
                self._answers.done("ended", run_id, told=run.state_type if run else "")

    def _tell(self) -> None:
        removal, counts = self._removal, self._answers.counts
        cancelled = counts.get("cancelled", 0) + counts.get("ended", 0)
        if self._answers.as_json:
            fields: dict[str, Any] = {"result": "deleted", "work_pool_name": removal.pool}
            if removal.queue:
                fields["work_queue_name"] = removal.queue
            echo_json({**fields, "cancelled": cancelled, "purged": removal.purged})
            return
        did = [f"{cancelled:,} cancelled"] if cancelled else []
        did += [f"{counted(removal.purged, 'dead letter')} purged"] if removal.purged else []
        click.echo(f"deleted {removal.what}{': ' if did else ''}{', '.join(did)}")
