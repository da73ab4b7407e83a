"""Pausing and resuming pools and queues."""

from pydantic import Field

from dispatcher.errors import Refused
from dispatcher.http.bodies import Body, Reason, When, due
from dispatcher.http.doors import Doors


class PauseBody(Body):
    """What to pause, until when, and why."""

    intake: bool = Field(default=False, description="The accepting of runs, not the hand-out.")
    until: When | None = Field(default=None, description="When it ends by itself.")
    reason: Reason = Field(default="", description="Shown with the pause.")


class ResumeBody(Body):
    """What to resume."""

    intake: bool = Field(default=False, description="The accepting of runs, not the hand-out.")


def pause(doors: Doors, pool: str, queue: str | None = None, *, body: PauseBody, by: str) -> None:
    """Pause a pool or queue, and put back what nobody has claimed; raises Problem, Refused."""
    until_ms = None
    if body.until is not None:
        now_ms = doors.inspector.server_time_ms(pool)
        until_ms = due(body.until, now_ms, "body.until")
        if until_ms <= now_ms:
            raise Refused(f"until {body.until} has passed already; give a later time")
    store, intake = doors.store, body.intake
    store.pause(pool, queue, intake=intake, until_ms=until_ms, reason=body.reason, by=by)
    if not intake:
        for name in [queue] if queue else doors.inspector.queue_names(pool):
            store.withdraw(pool, name)


def resume(doors: Doors, pool: str, queue: str | None = None, *, body: ResumeBody, by: str) -> None:
    """End a pause; nothing when there is none. Raises NotFound."""
    doors.store.resume(pool, queue, intake=body.intake, by=by)
