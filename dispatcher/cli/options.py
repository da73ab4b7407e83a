"""Options that several commands have, and how names and durations are read."""

import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import click

from dispatcher.errors import InvalidInput
from dispatcher.intake import parse_when
from dispatcher.job_templates import MOST_FILE_BYTES, read_template
from dispatcher.keys import check_name

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)?", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOST_MS = 36_500 * 86_400_000
_MOST_COUNT = 1_000_000
NONE = -1  # what `none` is read as: a setting that is taken away, unlike one that is not given

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
yes = click.option("--yes", is_flag=True, help="Do not ask.")


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


run_pool = click.option("--pool", type=pool_name, help="Look in this pool only.")


def or_none(read: Callable[[str], int]) -> Callable[[str], int]:
    """Return what reads `none` as NONE, and anything else as `read` does."""
    return lambda text: NONE if text.lower() == "none" else read(text)


def job_template(path: str) -> str | int:
    """Return the template in a file as it is stored, NONE for `none` and for an empty one.

    Raises InvalidInput when there is none.
    """
    if path.lower() == "none":
        return NONE
    with open_file(path) as source:
        return read_template(source.read(MOST_FILE_BYTES + 1)) or NONE


def open_file(path: str) -> BinaryIO:
    """Open a file for reading; raises InvalidInput."""
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"{path} cannot be read: {reason}") from None


def count(text: str) -> int:
    """Return a whole number from 0 on."""
    if not (text.isascii() and text.isdigit() and int(text[:8]) <= _MOST_COUNT):
        raise click.BadParameter(f"{text[:80]!r} is not a whole number from 0 to 1,000,000")
    return int(text)


def given_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that were given, with None for those that are to be taken away."""
    given = {name: value for name, value in options.items() if value is not None}
    return {name: None if value == NONE else value for name, value in given.items()}


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that gives a command all of these options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def parse_end(text: str, now_ms: int) -> int:
    """Return the time that an `--until` names; raises InvalidInput for one that has passed."""
    at_ms = parse_when(text, now_ms)
    if at_ms <= now_ms:
        raise InvalidInput(f"time {text[:80]!r} has passed already; give a later one")
    return at_ms
