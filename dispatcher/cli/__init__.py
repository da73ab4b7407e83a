"""The `dispatcher` command: one group; a command's module is loaded when it is asked for."""

import sys

import click

from dispatcher import __version__
from dispatcher.cli.group import LazyGroup

COMMANDS = {
    "run": "dispatcher.cli.run:run",
    "dev": "dispatcher.cli.dev:dev",
    "submit": "dispatcher.cli.submit:submit",
    "pool": "dispatcher.cli.pools:pool",
    "queue": "dispatcher.cli.queues:queue",
    "flow-run": "dispatcher.cli.flow_runs:flow_run",
    "worker": "dispatcher.cli.workers:worker",
    "settings": "dispatcher.cli.settings:settings",
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
    cli(prog_name="dispatcher")
