"""What a worker of each type costs while idle, and how long it takes to be missed and to end."""

import statistics
import time
from collections.abc import Mapping, Sequence

from rich.table import Table

from bench.figures import Figure
from bench.fixture import pause
from bench.idle import WINDOW_S, count_commands
from bench.teams import LEASE_MS, TEAMS, Team

KILLS, DRAINS = 5, 3
RUN_S = 1.0
SETTLE_S = 12.0  # until its first block is over, after which it looks at the queues once
MOST_LEASES = {"rq": 3}  # its jobs load their code anew; 2 for the others: a lease and a second
IDLE_LEASE_MS, IDLE_RENEW_MS = 15_000, 5_000  # the defaults of a pool
TITLE = f"Workers by type, medians; a lease is {LEASE_MS / 1000:g} s"


def measure(url: str, kind: str) -> list[Figure]:
    """Return the rows of one type."""
    team = TEAMS[kind]
    with team(url, IDLE_LEASE_MS, IDLE_RENEW_MS) as one:
        one.begin("a", alone=True)
        pause(SETTLE_S)
        idle = count_commands(url, WINDOW_S) / WINDOW_S
    with team(url) as one:
        one.dispatch()
        recovered = _recovered_leases(one)
    with team(url, IDLE_LEASE_MS, IDLE_RENEW_MS) as one:
        one.dispatch()
        without = [_drain_idle_s(one, f"idle-{i}") for i in range(DRAINS)]
        beyond = [_drain_beyond_s(one, f"busy-{i}") for i in range(DRAINS)]
    most = MOST_LEASES.get(kind, 2)
    return [
        Figure("idle, client commands/s", [idle], at_most=0.5, digits=2),
        Figure("kill -9 to next start, leases", recovered, at_most=most, digits=2),
        Figure("SIGTERM to exit without work, s", without, digits=2),
        Figure("end of its last run to exit, s", beyond, digits=2),
    ]


def by_type(measured: Mapping[str, Sequence[Figure]]) -> Table:
    """Return a table of medians with a column per type."""
    shown = Table("", *measured, title=TITLE)
    for row in zip(*measured.values(), strict=True):
        shown.add_row(row[0].name, *map(_cell, row))
    return shown


def _cell(figure: Figure) -> str:
    median = f"{statistics.median(figure.values):.{figure.digits}f}"
    goal = f"({figure.goal()})" if figure.goal() else ""
    return " ".join(filter(None, (median, goal, "" if figure.is_met() else "missed")))


def _recovered_leases(team: Team) -> list[float]:
    """Kill worker after worker; each time the next one is there and takes over the run."""
    found, worker = [], team.begin("w0")
    for number in range(1, KILLS + 1):
        run_id = team.put(600)
        team.wait_started(run_id)
        heir = team.begin(f"w{number}")
        killed_ms = time.time() * 1000
        worker.kill()
        started_ms = team.wait_started(run_id, delivery=2).started_ms
        assert started_ms is not None
        found.append((started_ms - killed_ms) / LEASE_MS)
        team.end(run_id)
        worker = heir
    return found


def _drain_idle_s(team: Team, name: str) -> float:
    worker = team.begin(name)
    began_s = time.monotonic()
    worker.drain()
    return time.monotonic() - began_s


def _drain_beyond_s(team: Team, name: str) -> float:
    """Return how long after the end of its run a worker ends that drains since its start."""
    worker, run_id = team.begin(name), team.put(RUN_S)
    team.wait_started(run_id)
    worker.drain()
    exited_s = time.time()
    ended_ms = team.inspector.run(run_id).ended_ms
    assert ended_ms is not None
    return exited_s - ended_ms / 1000
