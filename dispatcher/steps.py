"""How a step is sent: its keys, its script, the clock; `Controls` and `Store` build on it."""

import json
from collections.abc import Sequence
from typing import Any

from dispatcher.connection import Call, Connection
from dispatcher.errors import PoolNotFound, QueueNotFound, RedisRefused
from dispatcher.keys import DATA_VERSION, PoolKeys
from dispatcher.records import Word
from dispatcher.scripts import Value, load


class Steps:
    """One server or cluster under one key prefix.

    `now_ms` None lets the server's own clock decide, the one clock of the fleet; tests set theirs.
    """

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix
        self.now_ms: int | None = None
        self._keys: dict[str, PoolKeys] = {}

    def keys(self, pool: str) -> PoolKeys:
        """Return the keys of a pool."""
        if pool not in self._keys:
            self._keys[pool] = PoolKeys(self.prefix, pool)
        return self._keys[pool]

    def at(self, pool: str) -> Connection:
        """Return the connection to the server that has a pool."""
        return self.connection.at(self.keys(pool)["pool"])

    def _step(self, step: str, pool: str, tail: Sequence[str] = (), /, **args: Value) -> Any:
        return self.at(pool).call(self._call(step, pool, tail, **args))

    def _call(self, step: str, pool: str, tail: Sequence[str] = (), /, **args: Value) -> Call:
        script = load(step)
        args["now_ms"] = "" if self.now_ms is None else self.now_ms
        return Call(script, *script.bind(self.keys(pool), args, tail))


def word_of(answer: bytes) -> Word:
    """Return the word that a step answered."""
    return Word(answer.decode())


def check_target(word: bytes, pool: str, *, queue: str = "", detail: object = "") -> None:
    """Raise NotFound for a pool or queue that is not there, RedisRefused for newer data."""
    if word == Word.NO_POOL.encode():
        raise PoolNotFound(pool)
    if word == Word.NO_QUEUE.encode():
        raise QueueNotFound(pool, queue)
    if word == Word.NEWER.encode():
        raise newer(pool, detail)


def newer(pool: str, version: object) -> RedisRefused:
    """Return the error for data of a release that comes after this one."""
    text = version.decode() if isinstance(version, bytes) else version
    return RedisRefused(
        f"pool {pool!r} has data version {text}, this release knows {DATA_VERSION}; "
        "use the newer release"
    )


def optional(value: object) -> Value:
    """Return a value for ARGV, empty for None."""
    return "" if value is None else str(value)


def flat(fields: Sequence[object]) -> str:
    """Return names and values as a script takes them: a list of strings as JSON."""
    return json.dumps([str(field) for field in fields])
