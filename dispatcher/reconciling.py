"""Reconciling: one pass over pools that compares what must agree, a page at a time.

The walk only finds what there is to look at; each comparison, and its repair, is inside one step
and looks at that moment (see `repairs.py`). So a pass may run beside all other work, any number of
them side by side, and may end anywhere.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from dispatcher.connection import Connection
from dispatcher.decoding import answered
from dispatcher.errors import PoolNotFound, QueueNotFound, RedisRefused
from dispatcher.inspector import Inspector
from dispatcher.keys import DATA_VERSION, GROUP, all_keys_pattern, encode, pools_key, taken_apart
from dispatcher.records import Finding
from dispatcher.repairs import PAGE
from dispatcher.steps import newer
from dispatcher.store import Store

SCAN_KEYS = 1_000  # looked at by one SCAN; keys of other programs count, too
NEW_POOL_MS = 10_000  # how long after its hash the name of a pool may be written
# How the members of a structure are read; each gives all that are there the whole time.
_READERS = {
    **dict.fromkeys(("scheduled", "waiting", "waits", "unstarted", "holders"), "zscan"),
    **dict.fromkeys(("pool_slots", "queue_slots", "deployment_slots", "dead", "finished"), "zscan"),
    **dict.fromkeys(("claims", "orders"), "sscan"),
    "workers": "hscan",
}
Page = list[Finding]


class Reconciler:
    """Looks at pools once; with `fix` it repairs what it finds.

    `looked` counts the pools, queues and runs that were looked at so far.
    """

    def __init__(self, store: Store, inspector: Inspector, *, fix: bool) -> None:
        self._store = store
        self._inspector = inspector
        self._fix = fix
        self._left: set[str] = set()  # pools that refuse, or are not there
        self._absent: set[str] = set()
        self._seen: set[str] = set()
        self.looked: Counter[str] = Counter(pools=0, queues=0, runs=0)

    def walk(self, pools: Sequence[str], *, names: bool = False) -> Iterator[Page]:
        """Yield the findings of page after page, most of them empty; nothing is held in between.

        With `names` the list of all pools is compared with the pools that there are.
        Raises RedisUnavailable; what one pool refuses is a finding, and the others are looked at.
        """
        for pool in pools:
            self.looked["pools"] += 1
            yield from self._guarded(pool, self._version(pool))
        # Groups first: what a run's entry is pending for can be compared when there is one.
        for pool in pools:
            yield from self._guarded(pool, self._queues(pool))
        # In a cluster one pool is on one node.
        only = pools[0] if len(pools) == 1 and not names else None
        servers = self._store.connection.everywhere() if only is None else [self._store.at(only)]
        for server in servers:
            yield from self._keys(server, pools, all_keys_pattern(self._store.prefix, only))
        if names:
            yield self._names(pools)

    def _guarded(self, pool: str, pages: Iterator[Page]) -> Iterator[Page]:
        if pool in self._left:
            return
        try:
            yield from pages
        except RedisRefused as error:
            self._left.add(pool)
            yield [Finding("refused", pool, "", "", str(error), "")]
        except QueueNotFound:
            return  # it was deleted meanwhile
        except PoolNotFound:
            self._left.add(pool)
            self._absent.add(pool)

    def _version(self, pool: str) -> Iterator[Page]:
        key = self._store.keys(pool)["pool"]
        version = self._store.at(pool).read(lambda c: c.hget(key, "version"))
        if version is None:
            raise PoolNotFound(pool)
        if int(version) > DATA_VERSION:
            raise newer(pool, version)
        yield []

    def _queues(self, pool: str) -> Iterator[Page]:
        for queue in self._inspector.queue_names(pool):
            self.looked["queues"] += 1
            yield from self._guarded(pool, self._queue(pool, queue))

    def _queue(self, pool: str, queue: str) -> Iterator[Page]:
        first = "-"
        while entries := self._pending(pool, queue, first):
            yield self._compared(pool, "pending", encode(queue), entries)
            first = f"({entries[-1]}"
        # Then what depends on how many entries are pending.
        look = self._store.reconcile_queue(pool, queue, fix=self._fix)
        yield look.findings
        while look.after:
            look = self._store.reconcile_queue(pool, queue, after=look.after, fix=self._fix)
            yield look.findings

    def _pending(self, pool: str, queue: str, first: str) -> list[str]:
        """Return a page of the entries that the group has given out; none without a group."""
        stream = self._store.keys(pool)["stream"] + encode(queue)

        def read(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            pipeline.xpending_range(stream, GROUP, first, "+", PAGE)
            return answered(pipeline.execute(raise_on_error=False))[0]

        rows = self._store.at(pool).read(read)
        return [] if isinstance(rows, Exception) else [r["message_id"].decode() for r in rows]

    def _keys(self, server: Connection, pools: Sequence[str], pattern: str) -> Iterator[Page]:
        gathered: dict[tuple[str, str], list[str]] = {
            (pool, name): [] for pool in pools for name in ("run", "holder")
        }
        cursor = 0
        while True:
            cursor, found = server.read(partial(_scan, cursor=cursor, pattern=pattern))
            yield []
            for key in found:
                yield from self._key(key.decode(errors="replace"), gathered)
            if not cursor:
                break
        for (pool, name), parts in gathered.items():
            if parts:
                yield from self._guarded(pool, self._gathered(pool, name, parts))

    def _key(self, key: str, gathered: dict[tuple[str, str], list[str]]) -> Iterator[Page]:
        pool, name, part = taken_apart(self._store.prefix, key) or ("", "", "")
        if name == "pool":
            self._seen.add(pool)
        if (parts := gathered.get((pool, name))) is not None:
            parts.append(part)
            if len(parts) >= PAGE:
                gathered[pool, name] = []
                yield from self._guarded(pool, self._gathered(pool, name, parts))
        elif name in _READERS and (pool, "run") in gathered:
            yield from self._guarded(pool, self._listing(pool, name, part))

    def _gathered(self, pool: str, name: str, parts: Sequence[str]) -> Iterator[Page]:
        if name == "run":
            self.looked["runs"] += len(parts)
            yield self._store.reconcile_runs(pool, parts, fix=self._fix)
        else:
            yield self._compared(pool, name, "", parts)

    def _listing(self, pool: str, name: str, part: str) -> Iterator[Page]:
        if name == "waiting":
            deployment, _, queue = part.rpartition(":")
            yield self._compared(pool, "waiting_sets", "", [f"{deployment} {queue}"])
        key, cursor = self._store.keys(pool)[name] + part, 0
        while True:
            read = partial(_members, reader=_READERS[name], key=key, cursor=cursor)
            cursor, members = self._store.at(pool).read(read)
            yield self._compared(pool, name, part, members)
            if not cursor:
                return

    def _compared(self, pool: str, structure: str, part: str, members: Sequence[str]) -> Page:
        return self._store.reconcile_listings(pool, structure, part, members, fix=self._fix)

    def _names(self, pools: Sequence[str]) -> Page:
        """Compare the list of pools with the pools; both at a second look, as they are apart."""
        key = pools_key(self._store.prefix)
        named, page = set(self._inspector.pool_names()), []
        for pool in sorted(self._absent & named):
            if self._created_ms(pool) is None:
                why = "is in the list of pools, and there is no such pool"
                page.append(Finding("no-pool", pool, "", "", why, "taken out", self._fix))
                self._repair(key, lambda c, pool=pool: c.srem(key, pool))
        for pool in sorted(self._seen - named - set(pools)):
            created_ms = self._created_ms(pool)
            old_ms = self._inspector.server_time_ms(pool) - NEW_POOL_MS
            if created_ms is not None and created_ms < old_ms:
                why = "is not in the list of pools"
                page.append(Finding("unnamed-pool", pool, "", "", why, "put there", self._fix))
                self._repair(key, lambda c, pool=pool: c.sadd(key, pool))
        return page

    def _created_ms(self, pool: str) -> int | None:
        key = self._store.keys(pool)["pool"]
        created_ms, exists = self._store.at(pool).read(
            lambda c: (c.hget(key, "created_ms"), c.exists(key))
        )
        return int(created_ms or 0) if exists else None

    def _repair(self, key: str, write: Any) -> None:
        if self._fix:
            self._store.connection.at(key).read(write)


def _scan(client: Any, *, cursor: int, pattern: str) -> tuple[int, list[bytes]]:
    cursor, found = client.scan(cursor, match=pattern, count=SCAN_KEYS)
    return int(cursor), found


def _members(client: Any, *, reader: str, key: str, cursor: int) -> tuple[int, list[str]]:
    cursor, rows = getattr(client, reader)(key, cursor, count=PAGE)
    # A set gives members, a hash a dictionary by field, a zset pairs with the score.
    members = [row[0] if isinstance(row, tuple) else row for row in rows]
    return int(cursor), [member.decode(errors="replace") for member in members]
