"""What all commands share: the options on every level, loading on demand, errors as one line."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from dispatcher.cli.session import Session
from dispatcher.errors import DispatcherError

INTERRUPTED = 130


class Failure(click.ClickException):
    """What ends a command with exit code 1, in one line."""

    def show(self, file: Any = None) -> None:
        """Write the line to standard error."""
        click.echo(f"error: {' '.join(self.message.split())}", err=True, file=file)


class Command(click.Command):
    """A command that takes the shared options beside its own."""

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        self.params.extend(_shared_options())


class Group(click.Group):
    """A group that takes the shared options, as do its commands."""

    command_class = Command
    group_class = type

    def __init__(self, name: str | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.params.extend(_shared_options())


class LazyGroup(Group):
    """The outermost group: loads each command from its module, and says errors in one line."""

    def __init__(self, name: str, modules: Mapping[str, str], **options: Any) -> None:
        super().__init__(name, **options)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, as they were given."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the module of a command; None when there is no such command."""
        if cmd_name not in self._modules:
            return None
        module = import_module(self._modules[cmd_name])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes a `Failure`, Ctrl-C exit code 130."""
        try:
            return super().invoke(ctx)
        except DispatcherError as error:
            raise Failure(str(error)) from None
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def _shared_options() -> list[click.Option]:
    return [
        _shared(
            "--redis-url",
            help="Where Redis is; else DISPATCHER_REDIS_URL, which no process list shows.",
        ),
        _shared("--key-prefix", help="What every key begins with."),
        _shared(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            help="Least important log line that is written.",
        ),
        _shared(
            "--log-format",
            type=click.Choice(["auto", "console", "json"]),
            help="How log lines look; auto is console on a terminal, else json.",
        ),
    ]


def _shared(name: str, **options: Any) -> click.Option:
    # Every level has them; the one nearest to the command wins.
    return click.Option([name], expose_value=False, callback=_remember, **options)


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    session = ctx.find_object(Session)
    if session is None:
        session = ctx.find_root().obj = Session()
        ctx.find_root().call_on_close(session.close)
    if value is not None and param.name:
        session.flags[param.name] = value


pass_session = click.make_pass_decorator(Session)
