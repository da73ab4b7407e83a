"""How results are written: JSON for programs, tables and local time for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from dispatcher.clock import from_ms, utc

_UNLIMITED = 100_000  # columns: what is piped on is never cut


def shown_time(at_ms: int | None) -> str:
    """Return a time for people: local with its offset on a terminal, else UTC."""
    if at_ms is None:
        return ""
    if not sys.stdout.isatty():
        return utc(at_ms) or ""
    return from_ms(at_ms).astimezone().isoformat(sep=" ", timespec="milliseconds")


def shown_span(span_ms: int | None) -> str:
    """Return a time span for people."""
    if span_ms is None:
        return ""
    if span_ms and span_ms % 1_000 == 0:
        return f"{span_ms // 1_000:,} s"
    if abs(span_ms) < 10_000:
        return f"{span_ms:,} ms"
    return f"{span_ms / 1000:,.1f} s"


def counted(number: int, noun: str) -> str:
    """Return how many there are of something: `1 run`, `1,000 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def clean(text: str) -> str:
    """Return text that cannot move the cursor or begin a line: controls are replaced."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def echo_json(fields: dict[str, Any]) -> None:
    """Write one object on one line."""
    click.echo(json.dumps(fields))


def echo_fields(rows: Iterable[tuple[str, object]]) -> None:
    """Write named values below each other, empty ones left out."""
    for name, value in rows:
        if value not in (None, ""):
            click.echo(f"{name:<14} {clean(str(value))}")


def echo_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; on a terminal it wraps, anywhere else a row is one line, without colours."""
    from rich.console import Console  # slow to load, and most commands do without
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean("" if value is None else str(value))) for value in row))
    console = Console(width=None if sys.stdout.isatty() else _UNLIMITED, highlight=False)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
