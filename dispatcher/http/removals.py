"""Deleting a pool or queue in one call that does not wait for workers."""

from typing import Any

from dispatcher.controls import Told
from dispatcher.errors import NotEmpty, Refused
from dispatcher.records import Word
from dispatcher.removing import Removal


def remove(removal: Removal, *, force: bool) -> dict[str, Any]:
    """Delete it; raises Refused while it has something, or while workers still have its runs."""
    left = removal.contents()
    if left and not force:
        raise Refused(
            f"{removal.what} is not empty: {', '.join(left)}; force=true cancels its runs first"
        )
    removal.pause()
    cancelled = 0
    if force:
        told = [each for _, each in removal.cancel(removal.left())]
        cancelled = sum(isinstance(each, Told) and each.word is Word.CANCELLED for each in told)
    try:
        removal.remove(purge=force)
    except NotEmpty as error:
        then = "its workers were told to end them: call again" if force else "use force=true"
        raise Refused(f"{error}; it is paused now, with its intake: {then}") from None
    fields: dict[str, Any] = {"result": "deleted", "work_pool_name": removal.pool}
    if removal.queue:
        fields["work_queue_name"] = removal.queue
    return {**fields, "cancelled": cancelled, "purged": removal.purged}
