"""Options that several commands have, and how names and durations are read."""

import re
from collections.abc import Callable

import click

from dispatcher.keys import check_name

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOST_MS = 36_500 * 86_400_000

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


def pool_name(text: str) -> str:
    """Return the name of a pool; raises InvalidName."""
    return check_name("pool", text)


def queue_name(text: str) -> str:
    """Return the name of a queue; raises InvalidName."""
    return check_name("queue", text)


def duration(least_ms: int) -> Callable[[str], int]:
    """Return what reads a time span such as 15, 15s, 2m or 500ms, in milliseconds."""

    def span(text: str) -> int:
        found = _DURATION.fullmatch(text)
        if found is None:
            raise click.BadParameter(f"{text!r} is not a duration such as 15, 15s, 2m or 500ms")
        span_ms = round(float(found[1]) * _UNITS_MS[found[2] or "s"])
        if not least_ms <= span_ms <= _MOST_MS:
            raise click.BadParameter(f"{text!r} is not between {least_ms} ms and 36,500 days")
        return span_ms

    return span
