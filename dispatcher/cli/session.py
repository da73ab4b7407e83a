"""What one command line works with: its settings, and the doors to the server they name."""

import getpass
import os
import socket
from functools import cached_property
from typing import Any

import click

from dispatcher.connection import Connection
from dispatcher.inspector import Inspector
from dispatcher.logs import configure_logs
from dispatcher.producer import PATIENCE_S, Producer, find_url
from dispatcher.settings import Effective, Settings, read_settings
from dispatcher.store import Store


class Session:
    """Reads settings when they are first needed and opens doors; `flags` beat the environment."""

    def __init__(self) -> None:
        self.flags: dict[str, Any] = {}
        self._opened: list[Connection] = []

    @property
    def settings(self) -> Settings:
        """The settings that hold; warnings about unknown variables are written once."""
        return self._read[0]

    @property
    def effective(self) -> list[Effective]:
        """Each setting with its source."""
        return self._read[1]

    @cached_property
    def url(self) -> str:
        """Where Redis is; raises InvalidSettings when nothing says so."""
        return find_url(self.settings)

    @cached_property
    def inspector(self) -> Inspector:
        """The read side; gives up at once when the server cannot serve."""
        return Inspector(self._open(), self.settings.key_prefix)

    @cached_property
    def store(self) -> Store:
        """The door for writing; gives up at once when the server cannot serve."""
        return Store(self.inspector.connection, self.settings.key_prefix)

    @cached_property
    def by(self) -> str:
        """Who gives the command, for events: user@host."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container may have no name for its user
            user = str(os.getuid())
        return f"{user}@{socket.gethostname()}"

    def patient_inspector(self) -> Inspector:
        """Return a read side that waits a while for a server that cannot serve."""
        return Inspector(self._open(PATIENCE_S), self.settings.key_prefix)

    def producer(self) -> Producer:
        """Return a producer that waits a while for a server that cannot serve."""
        inspector = self.patient_inspector()
        store = Store(inspector.connection, self.settings.key_prefix)
        most_bytes = self.settings.max_payload_bytes
        return Producer(store, inspector, max_payload_bytes=most_bytes)

    def configure_logs(self) -> None:
        """Set up logging for a command that goes on running."""
        configure_logs(self.settings.log_level, self.settings.log_format)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._opened:
            connection.close()

    def _open(self, patience_s: float = 0.0) -> Connection:
        connection = Connection.open(self.url, patience_s=patience_s)
        self._opened.append(connection)
        return connection

    @cached_property
    def _read(self) -> tuple[Settings, list[Effective]]:
        settings, effective, warnings = read_settings(**self.flags)
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        return settings, effective
