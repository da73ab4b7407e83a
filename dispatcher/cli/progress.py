"""Progress bars, only on a terminal: that of `submit`, and one that counts."""

import os
import stat
import sys
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress


class _Shown:
    """Shows its bar, if it has one, for as long as it is entered."""

    _bar: "Progress | None" = None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


class Screen(_Shown):
    """Writes result lines to standard output, and a bar where a terminal can show one.

    With both on a terminal the bar is drawn below the lines, else it has standard error alone.
    """

    def __init__(self, source: BinaryIO | None = None) -> None:
        self._source = source
        self._draws_below_lines = sys.stdout.isatty()
        if source is not None and sys.stderr.isatty():
            self._bar = _bar(on_stderr=not self._draws_below_lines)
            self._task = self._bar.add_task("", total=_size(source))

    def write(self, lines: list[str], *, counts: str) -> None:
        """Write result lines and advance the bar."""
        if self._bar and self._source:
            done = self._source.tell() if self._source.seekable() else None
            self._bar.update(self._task, description=counts, completed=done)
            if self._draws_below_lines and lines:
                self._bar.console.out("\n".join(lines), highlight=False)
                return
        if lines:
            click.echo("\n".join(lines))


class Count(_Shown):
    """A bar on standard error that tells how many of so many are done."""

    def __init__(self, total: int) -> None:
        if sys.stderr.isatty():
            self._bar = _bar(on_stderr=True)
            self._task = self._bar.add_task("", total=total)

    def update(self, done: int, told: str) -> None:
        """Show that so many are done, with some words."""
        if self._bar:
            self._bar.update(self._task, completed=done, description=told)


def _bar(*, on_stderr: bool) -> "Progress":
    from rich.console import Console  # slow to load, and not needed without a terminal
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=on_stderr),
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )


def _size(source: BinaryIO) -> int | None:
    try:
        found = os.fstat(source.fileno())
    except OSError:  # not a file: a test's, or one in memory
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
