"""Stable worker names: the host and the first index that no other worker on it uses."""

import hashlib
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

from dispatcher import InvalidSettings

MOST_WORKERS = 10_000


class WorkerName:
    """A name held by a file lock for the life of this process, so that a restart gets it again."""

    def __init__(self, pool: str, *, scope: str) -> None:
        self._lock: IO[str] | None = None
        digest = hashlib.sha256(f"{scope}\0{pool}".encode()).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"dispatcher-workers-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid != os.getuid():
            raise InvalidSettings(f"{directory} belongs to another user; give the worker a --name")
        self.name = self._take(directory, digest)

    def _take(self, directory: Path, digest: str) -> str:
        import fcntl  # not at the top: Windows has none, and is told so in one line

        for index in range(1, MOST_WORKERS):
            lock = (directory / f"{digest}-{index}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self._lock = lock
            return f"{socket.gethostname()}-{index}"
        raise InvalidSettings(f"more than {MOST_WORKERS} workers on this host; give it a --name")
