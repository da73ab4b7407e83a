"""Asking before many runs are changed, and the line that each of them gets."""

import sys
from typing import Any

import click

from dispatcher.cli.output import clean, echo_json
from dispatcher.errors import DispatcherError, Refused


def confirm(what: str, *, yes: bool) -> None:
    """Say what is about to be done, and ask unless `yes`; raises Refused without a terminal."""
    click.echo(clean(what), err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("nothing was done: without a terminal to ask on give --yes")
    click.confirm("Go on?", abort=True, err=True)


class Answers:
    """Writes what became of each run, and remembers whether something was refused.

    A refusal is a line on standard error for people, and with the others for programs.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.counts: dict[str, int] = {}
        self.as_json = as_json

    def done(self, result: str, run_id: str, *, told: str = "", **fields: Any) -> None:
        """Write what was done to a run: `told` for people, `fields` for programs."""
        self._count(result)
        if self.as_json:
            echo_json({"result": result, "id": run_id, **fields})
        else:
            click.echo(clean(f"{result} {run_id} {told}".rstrip()))

    def refused(self, run_id: str, error: DispatcherError) -> None:
        """Write why nothing was done to a run."""
        self._count("refused")
        if self.as_json:
            echo_json({"result": "refused", "id": run_id, "reason": str(error)})
        else:
            click.echo(f"error: {clean(str(error))}", err=True)

    def summary(self) -> str:
        """Say how many there were of each."""
        return ", ".join(f"{count:,} {result}" for result, count in self.counts.items()) or "none"

    @property
    def exit_code(self) -> int:
        """1 when something was refused."""
        return 1 if self.counts.get("refused") else 0

    def _count(self, result: str) -> None:
        self.counts[result] = self.counts.get(result, 0) + 1
