"""`make bench`: rounds of ours and the bare thing, one after the other, on one server."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from bench import idle, latency, steps, throughput
from bench.fixture import best_and_median, server

ROUNDS = 5
LATENCY = ("p50", "p99", "max", "earliest")


def main() -> None:
    """Measure everything and print the tables; the goals are judged on medians."""
    console = Console(width=110)
    with server() as url:
        _latency(console, url)
        _throughput(console, url)
        _idle(console, url)
        _steps(console, url)


def _latency(console: Console, url: str) -> None:
    bare, ours = [], []
    for number in range(ROUNDS):
        console.print(f"due to start, round {number + 1} of {ROUNDS}", style="dim")
        bare.append(latency.summary(latency.bare(url)))
        ours.append(latency.summary(latency.ours(url)))
    table = _table(f"Due to start, ms ({latency.RUNS} runs, one every {latency.EVERY_MS} ms)")
    for name in LATENCY:
        least = best_and_median([row[name] for row in bare], most=False)
        own = best_and_median([row[name] for row in ours], most=False)
        goal = {"p50": "≤ 3 x", "p99": "≤ 3 x", "earliest": "≥ 0"}.get(name, "")
        _row(table, name, least, own, goal, digits=2)
    console.print(table)


def _throughput(console: Console, url: str) -> None:
    runs = throughput.make_runs()
    measures: dict[str, tuple[Callable[[], float] | None, Callable[[], float], str]] = {
        "submit": (
            lambda: throughput.submit_bare(url, runs),
            lambda: throughput.submit_ours(url, runs),
            "",
        ),
        "dispatch": (None, lambda: throughput.dispatch(url, runs), ""),
        "drain": (
            lambda: throughput.drain(url, runs, who="bare_loop"),
            lambda: throughput.drain(url, runs, who="worker"),
            "≥ 0.5 x, ≥ 4,000",
        ),
    }
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in measures}
    for number in range(ROUNDS):
        console.print(f"throughput, round {number + 1} of {ROUNDS}", style="dim")
        for name, (bare, ours, _) in measures.items():
            if bare:
                found[name][0].append(bare())
            found[name][1].append(ours())
    table = _table(f"Throughput, runs/s ({throughput.RUNS:,} no-op runs, batches of 100)")
    for name, (bare_rows, own_rows) in found.items():
        least = best_and_median(bare_rows, most=True) if bare_rows else None
        _row(table, name, least, best_and_median(own_rows, most=True), measures[name][2])
    console.print(table)


def _idle(console: Console, url: str) -> None:
    table = Table("idle process", "client commands/s", "goal", title="Idle cost (MONITOR, 20 s)")
    for who, arguments, goal in (("dispatcher", (), ""), ("worker", ("1",), "≤ 0.5")):
        console.print(f"idle {who}", style="dim")
        table.add_row(who, f"{idle.commands_per_second(url, who, *arguments):.2f}", goal)
    console.print(table)


def _steps(console: Console, url: str) -> None:
    table = Table("step", "µs", title="Server time per run and step (INFO commandstats, batches)")
    for step, microseconds in steps.server_time_us(url).items():
        table.add_row(step, f"{microseconds:.1f}")
    console.print(table)


def _table(title: str) -> Table:
    heads = ("", "bare best", "bare median", "ours best", "ours median", "ratio", "goal")
    table = Table(title=title)
    for head in heads:
        table.add_column(head, justify="left" if head in ("", "goal") else "right")
    return table


def _row(
    table: Table,
    name: str,
    bare: tuple[float, float] | None,
    ours: tuple[float, float],
    goal: str,
    digits: int = 0,
) -> None:
    def show(value: float) -> str:
        return f"{value:,.{digits}f}"

    bare_cells = [show(value) for value in bare] if bare else ["", ""]
    ratio = f"{ours[1] / bare[1]:.2f}" if bare else ""
    table.add_row(name, *bare_cells, *(show(value) for value in ours), ratio, goal)


main()
