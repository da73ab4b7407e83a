"""`dispatcher doctor`: compare what must agree, and the server's settings; repair with `--fix`."""

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import click

from dispatcher.cli.group import Command, pass_session
from dispatcher.cli.options import as_json, pool_name
from dispatcher.cli.output import echo_json, echo_table
from dispatcher.cli.session import Session
from dispatcher.preflight import Server, look_at_servers
from dispatcher.reconciling import Reconciler
from dispatcher.records import Finding

MOST_ROWS = 1_000
COLUMNS = ("FOUND", "POOL", "QUEUE", "RUN", "WHAT IS WRONG", "REPAIR")


@click.command(cls=Command)
@click.option("--fix", is_flag=True, help="Repair what can be repaired.")
@click.option("--pool", type=pool_name, help="Only this pool.")
@as_json
@pass_session
def doctor(session: Session, *, fix: bool, pool: str | None, as_json: bool) -> None:
    """Look once at everything that must agree, and at the server's settings.

    Exit code 0: nothing was found. 1: something was, repaired or not. It may run at any time.
    """
    inspector = session.inspector
    pools = [inspector.pool(pool).name] if pool else inspector.pool_names()
    server = look_at_servers(inspector.connection)
    reconciler = Reconciler(session.store, inspector, fix=fix)
    findings: list[Finding] = []
    for page in chain([server.findings], reconciler.walk(pools, names=pool is None)):
        findings += page
        for finding in page if as_json else ():
            echo_json(_fields(finding))
    if findings and not as_json:
        echo_table(COLUMNS, map(_row, findings[:MOST_ROWS]))
    summary = _summary(findings, server, reconciler.looked, fix=fix)
    click.echo(summary, err=as_json)  # standard output has only objects then
    sys.exit(1 if findings else 0)


def _summary(
    findings: Sequence[Finding], server: Server, looked: Mapping[str, int], *, fix: bool
) -> str:
    counts = (f"{n:,} {what if n != 1 else what[:-1]}" for what, n in looked.items())
    place = f"{', '.join(counts)}, and {server.shown}"
    if not findings:
        return f"nothing found: looked at {place}"
    done = sum(finding.repaired if fix else bool(finding.repair) for finding in findings)
    how = "repaired" if fix else "that --fix repairs"
    cut = f", the first {MOST_ROWS:,} shown" if len(findings) > MOST_ROWS else ""
    left = f"{done:,} {how}, {len(findings) - done:,} left to you"
    return f"{len(findings):,} found{cut}: {left}; looked at {place}"


def _row(finding: Finding) -> tuple[str, ...]:
    where = (finding.pool, finding.queue, finding.run)
    return (finding.code, *where, finding.problem, _repair(finding))


def _repair(finding: Finding) -> str:
    if not finding.repair:
        return "none"
    return finding.repair if finding.repaired else f"with --fix: {finding.repair}"


def _fields(finding: Finding) -> dict[str, Any]:
    return {
        "finding": finding.code,
        "work_pool_name": finding.pool or None,
        "work_queue_name": finding.queue or None,
        "flow_run_id": finding.run or None,
        "problem": finding.problem,
        "repair": finding.repair or None,
        "repaired": finding.repaired,
    }
