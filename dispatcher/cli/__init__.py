"""The `dispatcher` command: one group; a command's module is loaded when it is asked for."""

import sys
from io import TextIOWrapper

import click

from dispatcher import __version__
from dispatcher.cli.group import LazyGroup

COMMANDS = {
    "run": "dispatcher.cli.run",
    "dev": "dispatcher.cli.dev",
    "check": "dispatcher.cli.check",
    "submit": "dispatcher.cli.submit",
    "pool": "dispatcher.cli.pools",
    "queue": "dispatcher.cli.queues",
    "deployment": "dispatcher.cli.deployments",
    "flow-run": "dispatcher.cli.flow_runs",
    "dead-letter": "dispatcher.cli.dead_letters",
    "explain": "dispatcher.cli.explain",
    "worker": "dispatcher.cli.workers",
    "event": "dispatcher.cli.events",
    "doctor": "dispatcher.cli.doctor",
    "settings": "dispatcher.cli.settings",
}

cli = LazyGroup(
    "dispatcher",
    COMMANDS,
    help="Push due flow runs into Redis streams, from which workers claim them.",
)
click.version_option(__version__, prog_name="dispatcher")(cli)


def main() -> None:
    """Run the command line; errors are one line, their exit code is 1, or 2 for wrong usage."""
    if sys.platform == "win32":
        sys.exit("error: dispatcher runs on Linux and macOS; on Windows use WSL 2")
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal may not know every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    cli(prog_name="dispatcher")
