"""`dispatcher run --http` as a process of its own, and clients that speak to it over sockets."""

import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.commands import COMMAND, Commands
from tests.probes import wait_until


class Serving:
    """A dispatcher with HTTP on a port that the system chose; its log is in a file."""

    def __init__(
        self,
        cli: Commands,
        log: Path,
        *arguments: str,
        address: str = "127.0.0.1:0",
        most_files: int | None = None,
    ) -> None:
        self._log = log
        command = [*COMMAND, "run", "--http", address, "--log-format", "json", *arguments]
        if most_files:
            command = ["sh", "-c", f'ulimit -n {most_files}; exec "$@"', "sh", *command]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                env=cli._whole(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        self.url = ""

    def until_served(self) -> "Serving":
        """Wait until requests are answered."""
        self.url = str(self.until("http-started")["address"])
        return self

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of an event so far."""
        return [found for found in self.lines if found.get("event") == event]

    def until(self, event: str) -> dict[str, Any]:
        """Wait for an event and return it."""
        return wait_until(lambda: self.said(event) or self._is_gone(), f"{event} in {self.text}")[0]

    def _is_gone(self) -> list[dict[str, Any]]:
        assert self.process.poll() is None, f"it ended: {self.text}"
        return []

    @property
    def text(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log lines."""
        found = []
        for line in self.text.splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    @property
    def host(self) -> str:
        """HOST:PORT that it serves."""
        return self.url.removeprefix("http://")

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask for a path."""
        return httpx.get(self.url + path, timeout=20, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Post to a path."""
        return httpx.post(self.url + path, timeout=60, **options)

    def status(self, path: str) -> int:
        """The status of a path; 0 while nobody answers."""
        with suppress(httpx.HTTPError):
            return self.get(path).status_code
        return 0

    def open(self) -> socket.socket:
        """A connection on which a test says what it likes."""
        name, _, port = self.host.rpartition(":")
        return socket.create_connection((name.strip("[]"), int(port)), timeout=30)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(30)

    def clean_up(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


def heard(client: socket.socket) -> bytes:
    """All that comes on a connection until its end."""
    found = b""
    with suppress(ConnectionError):
        while piece := client.recv(65_536):
            found += piece
    return found
