"""What has happened in pools: their streams of events, read for people and for those that wait."""

from collections.abc import Mapping
from typing import Any

from dispatcher.connection import Connection
from dispatcher.decoding import event_record
from dispatcher.keys import PoolKeys
from dispatcher.stored import Event

_PAGE = 500


class Events:
    """Reads events on one server or cluster under one key prefix; part of `Inspector`."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self.connection = connection
        self.prefix = prefix

    def at(self, pool: str) -> Connection:
        """Return the connection to the server that has a pool."""
        return self.connection.at(self._keys(pool)["pool"])

    def last_event(self, pool: str) -> str:
        """Return the id of a pool's latest event, for `events_of`; "0" when there is none."""
        key = self._keys(pool)["events"]
        rows = self.connection.at(key).read(lambda c: c.xrevrange(key, count=1))
        return rows[0][0].decode() if rows else "0"

    def events_of(self, after: Mapping[str, str], *, timeout_s: float = 0.0) -> list[Event]:
        """Return a page of each pool's events behind the id given for it, in order of time.

        Waits for one when there is none, if `timeout_s` says so, which must be below the
        connection's read timeout.
        """
        pools = {self._keys(pool)["events"]: pool for pool in after}
        servers: dict[Connection, dict[str, str]] = {}
        for key, pool in pools.items():
            servers.setdefault(self.connection.at(key), {})[key] = after[pool]
        found: list[Event] = []
        for server, ids in servers.items():
            # Pools of a cluster are on several servers, so each is waited for in its turn.
            block_ms = None if found or not timeout_s else round(timeout_s * 1000 / len(servers))
            for key, page in self._behind(server, ids, block_ms):
                found += [event_record(pools[key.decode()], each) for each in page]
        return sorted(found, key=lambda event: [int(part) for part in event.id.split("-")])

    def past_events(self, pool: str, *, run_id: str = "", limit: int | None = None) -> list[Event]:
        """Return a pool's last events, oldest first; only those of a run if it is named."""
        key, last = self._keys(pool)["events"], "+"
        found: list[Event] = []
        while limit is None or len(found) < limit:
            page = self._entries_back(key, last)
            if not page:
                break
            last = f"({page[-1][0].decode()}"
            events = [event_record(pool, each) for each in page]
            found += [event for event in events if run_id in ("", event.fields.get("run"))]
        return found[:limit][::-1]

    def _behind(self, server: Connection, ids: dict[str, str], block_ms: int | None) -> Any:
        most_ms = None if block_ms is None else max(1, block_ms)  # 0 would be for ever
        return server.read(lambda c: c.xread(ids, count=_PAGE, block=most_ms)) or []

    def _entries_back(self, key: str, last: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        server = self.connection.at(key)
        page: list[Any] = server.read(lambda c: c.xrevrange(key, last, "-", _PAGE))
        return page

    def _keys(self, pool: str) -> PoolKeys:
        return PoolKeys(self.prefix, pool)
