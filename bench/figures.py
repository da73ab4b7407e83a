"""What is printed: figures beside what they are compared with, and the goals they are to meet."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

ATTEMPTS = 3  # on a machine that does something else as well


@dataclass(frozen=True)
class Figure:
    """Values of some rounds, `beside` those of what they are compared with; most is for both.

    The goal is for medians: a most or least ratio to the other, a most or least value.
    """

    name: str
    values: Sequence[float]
    beside: Sequence[float] = ()
    most: bool = False
    ratio_at_most: float | None = None
    ratio_at_least: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    digits: int = 0

    @property
    def ratio(self) -> float | None:
        """The median as a multiple of the other's."""
        if not self.beside:
            return None
        return statistics.median(self.values) / statistics.median(self.beside)

    def _bounds(self) -> list[tuple[float | None, str, float | None, str]]:
        median = statistics.median(self.values)
        return [
            (self.ratio, "≤", self.ratio_at_most, " x"),
            (self.ratio, "≥", self.ratio_at_least, " x"),
            (median, "≤", self.at_most, ""),
            (median, "≥", self.at_least, ""),
        ]

    def goal(self) -> str:
        """Return the goal as text."""
        given = [
            (sign, bound, unit) for _, sign, bound, unit in self._bounds() if bound is not None
        ]
        return ", ".join(f"{sign} {bound:,g}{unit}" for sign, bound, unit in given)

    def is_met(self) -> bool:
        """Return whether the goal is met; without one it is."""
        return all(
            value is not None and (value <= bound if sign == "≤" else value >= bound)
            for value, sign, bound, _ in self._bounds()
            if bound is not None
        )

    def cells(self) -> list[str]:
        """Return the row of a table."""
        pick = max if self.most else min
        cells = [self.name]
        for values in (self.beside, self.values):
            shown = (pick(values), statistics.median(values)) if values else ()
            cells += [f"{value:,.{self.digits}f}" for value in shown] or ["", ""]
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return [*cells, ratio, self.goal(), "" if self.is_met() else "missed"]


def table(
    title: str, figures: Sequence[Figure], *, beside: str = "bare", ours: str = "ours"
) -> Table:
    """Return the table of some figures."""
    shown = Table(title=title)
    numbers = (f"{beside} best", f"{beside} median", f"{ours} best", f"{ours} median", "ratio")
    for head in ("", *numbers, "goal", ""):
        shown.add_column(head, justify="right" if head in numbers else "left")
    for figure in figures:
        shown.add_row(*figure.cells())
    return shown
