"""The only place that reads the time; everything else is handed a `Clock`."""

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999, in UTC


class Clock:
    """Wall time for what is shown, monotonic time for how long something took."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds that only ever grow, for durations and deadlines."""
        return time.monotonic()


def from_ms(at_ms: int) -> datetime:
    """Return the aware UTC datetime of milliseconds since the epoch.

    A time of the year 1 or 9999 with an offset can be out of what UTC can say: then the nearest.
    """
    return EPOCH + min(max(at_ms, _FIRST_MS), _LAST_MS) * MILLISECOND


def to_ms(at: datetime) -> int:
    """Return milliseconds since the epoch, rounded up, so that nothing runs before its time."""
    return -((EPOCH - at) // MILLISECOND)


def utc(at_ms: int | None) -> str | None:
    """Return a time as RFC 3339 in UTC with milliseconds."""
    if at_ms is None:
        return None
    return from_ms(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
