"""`make bench`: measurements side by side, on one server; `python -m bench scale` does some only.

The parts: latency, throughput, idle, fleet, http, steps, scale. Goals are judged on medians.
"""

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from bench import burst, crowd, fleet, held, idle, latency, steps, throughput
from bench.figures import ATTEMPTS, Figure, table
from bench.fixture import server
from bench.teams import TEAMS

ROUNDS = 5


def main(chosen: Sequence[str]) -> int:
    """Measure the chosen parts, all when none is, and print their tables."""
    parts = {
        "latency": _latency,
        "throughput": _throughput,
        "idle": _idle,
        "fleet": _fleet,
        "http": _http,
        "steps": _steps,
        "scale": _scale,
    }
    if unknown := set(chosen) - set(parts):
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
        return 2
    console = Console(width=120)
    with server() as url:
        for name in chosen or parts:
            parts[name](console, url)
    return 0


def _latency(console: Console, url: str) -> None:
    bare, ours = [], []
    for number in range(ROUNDS):
        console.print(f"due to start, round {number + 1} of {ROUNDS}", style="dim")
        bare.append(latency.summary(latency.bare(url)))
        ours.append(latency.summary(latency.ours(url)))
    goals = {"p50": (3.0, None), "p99": (3.0, None), "max": (None, None), "earliest": (None, 0.0)}
    figures = [
        Figure(
            name,
            [row[name] for row in ours],
            [row[name] for row in bare],
            ratio_at_most=ratio,
            at_least=least,
            digits=2,
        )
        for name, (ratio, least) in goals.items()
    ]
    every = f"{latency.RUNS} runs, one every {latency.EVERY_MS} ms"
    console.print(table(f"Due to start, ms ({every})", figures))


def _throughput(console: Console, url: str) -> None:
    runs = throughput.make_runs()
    ours: dict[str, Callable[[], float]] = {
        "submit": lambda: throughput.submit_ours(url, runs),
        "dispatch": lambda: throughput.dispatch_ours(url, runs),
        "drain": lambda: throughput.drain(url, runs, who="worker"),
    }
    bare: dict[str, Callable[[], float]] = {
        "submit": lambda: throughput.submit_bare(url, runs),
        "drain": lambda: throughput.drain(url, runs, who="bare_loop"),
    }
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ours}
    for number in range(ROUNDS):
        console.print(f"throughput, round {number + 1} of {ROUNDS}", style="dim")
        for name, (own_rows, bare_rows) in found.items():
            if name in bare:
                bare_rows.append(bare[name]())
            own_rows.append(ours[name]())
    figures = [
        Figure(
            name,
            *rows,
            most=True,
            ratio_at_least=0.5 if name == "drain" else None,
            at_least=4_000 if name == "drain" else None,
        )
        for name, rows in found.items()
    ]
    what = f"{throughput.RUNS:,} no-op runs, batches of 100"
    console.print(table(f"Throughput, runs/s ({what})", figures))


def _idle(console: Console, url: str) -> None:
    shown = Table("idle process", "client commands/s", "goal", title="Idle cost (MONITOR, 20 s)")
    for who, arguments, goal in (("dispatcher", (), ""), ("worker", ("1",), "≤ 0.5")):
        console.print(f"idle {who}", style="dim")
        shown.add_row(who, f"{idle.commands_per_second(url, who, *arguments):.2f}", goal)
    console.print(shown)


def _fleet(console: Console, url: str) -> None:
    measured = {}
    for kind in TEAMS:
        console.print(f"workers of type {kind}", style="dim")
        measured[kind] = fleet.measure(url, kind)
    console.print(fleet.by_type(measured))


def _http(console: Console, url: str) -> None:
    console.print("claims held over HTTP", style="dim")
    console.print(table(held.TITLE, held.measure(url), beside="stream", ours="HTTP"))


def _steps(console: Console, url: str) -> None:
    title = "Server time per run and step (INFO commandstats, batches)"
    shown = Table("step", "best µs", "median µs", title=title)
    rounds = [steps.server_time_us(url) for _ in range(ROUNDS)]
    for step in rounds[0]:
        _, *_, best, median, _, _, _ = Figure(step, [row[step] for row in rounds], digits=1).cells()
        shown.add_row(step, best, median)
    console.print(shown)


def _scale(console: Console, url: str) -> None:
    figures = _attempt(console, "a crowded pool", lambda: crowd.measure(url))
    console.print(table(crowd.TITLE, figures, beside="beside", ours="here"))
    figures = _attempt(console, "a burst", lambda: burst.measure(url))
    console.print(table(burst.TITLE, figures, beside="before", ours="burst"))


def _attempt(
    console: Console, what: str, measure: Callable[[], Sequence[Figure]]
) -> Sequence[Figure]:
    """Measure until all goals are met, a few times at most; return the figures of the last time."""
    figures: Sequence[Figure] = ()
    for number in range(ATTEMPTS):
        console.print(f"{what}, attempt {number + 1} of at most {ATTEMPTS}", style="dim")
        figures = measure()
        missed = [figure.name for figure in figures if not figure.is_met()]
        if not missed:
            break
        console.print(f"missed: {', '.join(missed)}", style="dim")
    return figures


sys.exit(main(sys.argv[1:]))
