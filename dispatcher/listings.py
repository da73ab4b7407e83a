"""Runs of pools, page by page: a cursor says where the next page begins; writes nothing.

A run that moves while somebody reads on may be met twice, or be passed; those that stay are met
once. Within a page nothing is met twice.
"""

import base64
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dispatcher.connection import Connection
from dispatcher.errors import InvalidInput
from dispatcher.inspector import Inspector
from dispatcher.keys import PoolKeys, encode
from dispatcher.models import StateType
from dispatcher.stored import Place, RunRecord

MOST_LOOKED_AT = 5_000  # records that one page reads, however few of them are wanted
_STEP = 250
_UNCLAIMED = {Place.SCHEDULED, Place.WAITING, Place.STREAM}
_PLACES = {
    StateType.SCHEDULED: {Place.SCHEDULED, Place.WAITING, Place.STREAM, Place.CLAIMED},
    StateType.PENDING: {Place.CLAIMED},
    StateType.RUNNING: {Place.CLAIMED},
    StateType.CANCELLING: {Place.CLAIMED},
    StateType.CRASHED: {Place.ENDED, Place.DEAD},
}


class _Spot(NamedTuple):
    """The last member that was read of a source: what it is called, its score or entry id."""

    pool: str
    source: str
    member: str
    score: str

    @property
    def run_id(self) -> str:
        """The run; where a zset orders equal scores, its place number stands before it."""
        return self.member[16:] if self.source[0] in "12" else self.member


class _Source(NamedTuple):
    """One structure that has runs: `kind` is asc or desc for a zset, or stream."""

    name: str
    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs to list: of which queue, deployment and types of state; empty means any."""

    queue: str = ""
    deployment: str = ""
    states: frozenset[StateType] = frozenset()
    places: frozenset[Place] = frozenset()

    def has(self, run: RunRecord) -> bool:
        """Say whether a run is wanted."""
        return (
            self.queue in ("", run.queue)
            and self.deployment in ("", run.deployment)
            and (not self.states or run.state_type in self.states)
            and (not self.places or run.place in self.places)
        )

    def possible(self) -> Collection[Place]:
        """Return where such runs can be."""
        if self.places:
            return self.places
        return places_of(self.states)


def places_of(states: Collection[StateType]) -> set[Place]:
    """Return where runs in these types of state can be; everywhere if none is named."""
    found = {place for state in states for place in _PLACES.get(state, {Place.ENDED})}
    return found or set(Place)


def page_of_runs(
    inspector: Inspector,
    pools: Sequence[str],
    wanted: Filter,
    *,
    cursor: str = "",
    limit: int = 50,
) -> tuple[list[RunRecord], str | None]:
    """Return some runs and the cursor behind them, None at the end.

    Scheduled ones by due time, waiting ones, those in streams and with workers, then dead and
    ended ones, the last first. A page may have few runs, or none, and still have a cursor.
    Raises InvalidInput for a cursor that no answer has had.
    """
    found: dict[str, RunRecord] = {}
    after = _parsed(cursor) if cursor else None
    looked_on = _look_on(inspector, sorted(pools), wanted=wanted, after=after)
    for looked_at, (spot, run) in enumerate(looked_on, 1):
        is_elsewhere = spot.source[0] == "3" and run and run.place is Place.CLAIMED
        if run and wanted.has(run) and not is_elsewhere:
            found.setdefault(f"{run.pool} {run.id}", run)
        if len(found) == limit or looked_at >= MOST_LOOKED_AT:
            return list(found.values()), _written(spot)
    return list(found.values()), None


def cancellable(
    inspector: Inspector,
    pool: str,
    *,
    queue: str = "",
    deployment: str = "",
    only_unclaimed: bool = False,
    run_ids: Collection[str] = (),
) -> Iterator[str]:
    """Yield the runs of a pool that could be cancelled: not ended, nor being cancelled already.

    Those of a queue, of a deployment, or among `run_ids`, where one is given; all of them must
    hold. Raises NotFound for pool or queue.
    """
    if queue:
        inspector.queue(pool, queue)
    else:
        inspector.pool(pool)
    places = _UNCLAIMED if only_unclaimed else _UNCLAIMED | {Place.CLAIMED}
    runs = inspector.runs(pool, queues=[queue] if queue else [], places=places)
    if run_ids:
        runs = inspector.records(pool, dict.fromkeys(run_ids))
    wanted = Filter(queue, deployment, places=frozenset(places))
    seen: set[str] = set()
    for run in runs:
        if wanted.has(run) and run.state_type != "CANCELLING" and run.id not in seen:
            seen.add(run.id)
            yield run.id


def pools_of(inspector: Inspector, run_id: str) -> list[str]:
    """Return the names of the pools that have a run of this id: ids are unique within a pool."""
    servers: dict[Connection, list[str]] = {}
    for pool in inspector.pool_names():
        servers.setdefault(inspector.at(pool), []).append(pool)
    found: list[str] = []
    for server, pools in servers.items():
        keys = [PoolKeys(inspector.prefix, pool)["run"] + run_id for pool in pools]

        def read(client: Any, keys: list[str] = keys) -> list[int]:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.exists(key)
            return list(pipeline.execute())

        there = server.read(read)
        found += [pool for pool, is_there in zip(pools, there, strict=True) if is_there]
    return sorted(found)


def _look_on(
    inspector: Inspector, pools: Sequence[str], *, wanted: Filter, after: _Spot | None
) -> Iterator[tuple[_Spot, RunRecord | None]]:
    """Yield what the pools have from behind a spot on, each with its record if it is there."""
    for pool in pools:
        if after and pool < after.pool:
            continue
        begin = after if after and after.pool == pool else None
        for spots in _walk(inspector, pool, wanted=wanted, after=begin):
            ids = dict.fromkeys(spot.run_id for spot in spots)
            records = {run.id: run for run in inspector.records(pool, ids)}
            yield from ((spot, records.get(spot.run_id)) for spot in spots)


def _walk(
    inspector: Inspector, pool: str, *, wanted: Filter, after: _Spot | None
) -> Iterator[list[_Spot]]:
    """Yield what the structures of a pool have, some at a time, from behind a spot on."""
    server, sources = inspector.at(pool), _sources(inspector, pool, wanted)
    if after:
        sources = _behind(sources, after.source)
    for source in sources:
        last = after if after and after.source == source.name else None
        read = _entries if source.kind == "stream" else _members
        while rows := read(server, source, after=last):
            spots = [_Spot(pool, source.name, member, score) for member, score in rows]
            yield spots
            last = spots[-1]


def _sources(inspector: Inspector, pool: str, wanted: Filter) -> list[_Source]:
    keys, places = PoolKeys(inspector.prefix, pool), wanted.possible()
    queues = [wanted.queue] if wanted.queue else inspector.queue_names(pool)
    names = [encode(queue) for queue in queues]
    found: list[_Source] = []
    if Place.SCHEDULED in places:
        found += [_Source(f"1 {name}", "asc", keys["scheduled"] + name) for name in names]
    if Place.WAITING in places:
        rows = inspector.at(pool).read(lambda c: c.zrange(keys["waits"], 0, -1))
        waits = [row.decode().split(" ", 1) for row in rows]
        found += [
            _Source(f"2 {deployment} {name}", "asc", f"{keys['waiting']}{deployment}:{name}")
            for deployment, name in waits
            if name in names
        ]
    if Place.STREAM in places:
        found += [_Source(f"3 {name}", "stream", keys["stream"] + name) for name in names]
    if Place.CLAIMED in places:  # a run that was taken has no entry, but all have a slot
        found += [_Source(f"4 {name}", "asc", keys["queue_slots"] + name) for name in names]
    if Place.DEAD in places:
        found.append(_Source("5", "desc", keys["dead"]))
    if Place.ENDED in places:
        found.append(_Source("6", "desc", keys["finished"]))
    return found


def _behind(sources: list[_Source], name: str) -> list[_Source]:
    """Return the sources from the named one on; if it is gone, those of the kinds behind it."""
    names = [source.name for source in sources]
    if name in names:
        return sources[names.index(name) :]
    return [source for source in sources if source.name[0] > name[0]]


def _members(server: Connection, source: _Source, *, after: _Spot | None) -> list[tuple[str, str]]:
    """Return members of a zset with their scores, from behind one on, wherever that is by now.

    If it has left, those of its score come again: nobody is passed for that.
    """
    key, descends, start = source.key, source.kind == "desc", 0
    if after:
        last = after
        rank = server.read(lambda c: c.zrank(key, last.member))
        if rank is None:
            ends = (last.score, "-inf") if descends else (last.score, "+inf")
            bounds = {"byscore": True, "offset": 0, "num": _STEP, "withscores": True}
            return _scored(server.read(lambda c: c.zrange(key, *ends, desc=descends, **bounds)))
        start = server.read(lambda c: c.zcard(key)) - rank if descends else rank + 1
    stop = start + _STEP - 1
    return _scored(
        server.read(lambda c: c.zrange(key, start, stop, desc=descends, withscores=True))
    )


def _scored(rows: Sequence[tuple[bytes, float]]) -> list[tuple[str, str]]:
    return [(member.decode(), repr(float(score))) for member, score in rows]


def _entries(server: Connection, source: _Source, *, after: _Spot | None) -> list[tuple[str, str]]:
    """Return the runs of a stream's entries with the entries' ids, from behind one on."""
    first = f"({after.score}" if after else "-"
    rows = server.read(lambda c: c.xrange(source.key, first, "+", _STEP))
    return [(fields[b"run"].decode(), entry.decode()) for entry, fields in rows]


def _written(spot: _Spot) -> str:
    return base64.urlsafe_b64encode(json.dumps(spot).encode()).decode().rstrip("=")


def _parsed(cursor: str) -> _Spot:
    try:
        raw = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        values = json.loads(raw)
        spot = _Spot(*values)
        if not all(isinstance(value, str) for value in spot) or not spot.source:
            raise ValueError(cursor)
        if spot.source[0] == "3":
            _check_entry(spot.score)
        elif not math.isfinite(float(spot.score)):
            raise ValueError(cursor)
    except (ValueError, TypeError, UnicodeEncodeError):
        raise InvalidInput(
            f"cursor {cursor[:80]!r} is not understood; give the next_cursor of an answer"
        ) from None
    return spot


def _check_entry(entry: str) -> None:
    at_ms, number = entry.split("-")
    if not (at_ms.isascii() and at_ms.isdigit() and number.isascii() and number.isdigit()):
        raise ValueError(entry)
