"""The only place that reads the time; everything else is handed a `Clock`."""

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


class Clock:
    """Wall time for what is shown, monotonic time for how long something took."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds that only ever grow, for durations and deadlines."""
        return time.monotonic()


def from_ms(at_ms: int) -> datetime:
    """Return the aware UTC datetime of milliseconds since the epoch."""
    return EPOCH + at_ms * MILLISECOND


def to_ms(at: datetime) -> int:
    """Return milliseconds since the epoch, rounded up, so that nothing runs before its time."""
    return -((EPOCH - at) // MILLISECOND)
