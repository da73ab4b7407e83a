"""What those that poll a pool are shown: its scheduled runs in order, within pauses and limits.

Reading claims nothing: who wants a run takes it by its id (see `taking`). What is listed is what
could be taken at that moment; `take` decides.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dispatcher.connection import Connection
from dispatcher.decoding import RUN_FIELDS, moment, named, pause_record, run_record
from dispatcher.errors import PoolNotFound, QueueNotFound, Refused
from dispatcher.events import Events
from dispatcher.keys import PoolKeys, decode, encode
from dispatcher.stored import LATE_AFTER_MS, Place, RunRecord, ScheduledPage, ScheduledRun

MOST_RUNS = 200
MOST_BYTES = 16_777_216  # of payloads in one page, beyond its first run
QUEUES_AT_ONCE = 50
LOOK_RUNS = 250  # at a time, where runs of full deployments may be among them; as `dispatch` does
MOST_LOOKS = 1_000  # of one queue
_POOL_FIELDS = ("id", "handout", "limit", "paused", "paused_until_ms", "late_after_ms")
_QUEUE_FIELDS = ("id", "limit", "paused", "paused_until_ms")


class Pages(Events):
    """Reads pages of scheduled runs; part of `Inspector`."""

    def scheduled_page(
        self,
        pool: str,
        queues: Sequence[str] | None = None,
        *,
        limit: int = MOST_RUNS,
        before_ms: float | None = None,
        after_ms: float | None = None,
    ) -> ScheduledPage:
        """Return what Prefect's endpoint lists: by priority of the queue, due time and place.

        No `queues` means all. The bounds hold for the due time and are inclusive; without them runs
        that are not due are listed, too. Raises NotFound for the pool and for the first unknown
        queue, Refused when the pool hands out by stream.
        """
        look = _Look(self.at(pool), self._keys(pool), _Bounds(after_ms, before_ms))
        chosen = look.choose(pool, queues or (), min(limit, MOST_RUNS))
        rows = [] if not chosen else look.rows(pool, chosen)
        return ScheduledPage(look.pool_id, look.now_ms, look.late_after_ms, tuple(rows))


@dataclass(frozen=True, slots=True)
class _Bounds:
    after_ms: float | None
    before_ms: float | None

    def as_range(self) -> tuple[float | str, float | str]:
        """Return the least and the greatest score."""
        first = "-inf" if self.after_ms is None else self.after_ms
        return first, "+inf" if self.before_ms is None else self.before_ms


@dataclass(frozen=True, slots=True)
class _Shown:
    """A queue that may show runs: up to `free` of them, the first of which are `members`."""

    name: str
    id: str
    free: float
    members: Sequence[str]


@dataclass(slots=True)
class _Look:
    """One look at a pool: round after round, each one pipeline."""

    server: Connection
    keys: PoolKeys
    bounds: _Bounds
    pool_id: str = ""
    now_ms: int = 0
    late_after_ms: int = LATE_AFTER_MS
    are_limited: bool = False  # whether any deployment has a limit
    full: dict[str, bool] = field(default_factory=dict)  # by deployment

    def choose(self, pool: str, wanted: Sequence[str], limit: int) -> list[tuple[str, str]]:
        """Return the runs to list, each with the id of its queue."""
        names, left = self._begin(pool, wanted)
        left = min(left, limit)
        chosen: list[tuple[str, str]] = []
        while names and len(chosen) < left:
            some, names = names[:QUEUES_AT_ONCE], names[QUEUES_AT_ONCE:]
            for shown in self._shown(some, int(left)):
                most = min(left - len(chosen), shown.free)
                chosen += [(run_id, shown.id) for run_id in self._listed(shown, int(most))]
        return chosen

    def rows(self, pool: str, chosen: list[tuple[str, str]]) -> Iterator[ScheduledRun]:
        """Yield what there is to say of the chosen runs, as many as fit into a page."""

        def ask(pipeline: Any) -> None:
            for run_id, _ in chosen:
                pipeline.hmget(self.keys["run"] + run_id, RUN_FIELDS)
                pipeline.hstrlen(self.keys["run"] + run_id, "payload")

        answers, found, left = self._many(ask), list[tuple[RunRecord, str]](), MOST_BYTES
        for (run_id, queue_id), values, size in zip(
            chosen, answers[::2], answers[1::2], strict=True
        ):
            fields = named(RUN_FIELDS, values)
            if fields.get("place") == Place.SCHEDULED and (left >= size or not found):
                found.append((run_record(run_id, pool, fields), queue_id))
            left -= size
        payloads = self._many(
            lambda p: [p.hget(self.keys["run"] + run.id, "payload") for run, _ in found]
        )
        for (run, queue_id), payload in zip(found, payloads, strict=True):
            if payload is not None:  # else it has ended meanwhile
                yield ScheduledRun(run, payload, queue_id)

    def _begin(self, pool: str, wanted: Sequence[str]) -> tuple[list[str], float]:
        """Return the encoded names of the queues to look at, and how many runs may be listed."""

        def ask(pipeline: Any) -> None:
            pipeline.time()
            pipeline.hmget(self.keys["pool"], _POOL_FIELDS)
            pipeline.zcard(self.keys["pool_slots"])
            pipeline.zrange(self.keys["queues"], 0, -1)
            pipeline.scard(self.keys["deployments"])

        time, values, held, rows, limited = self._many(ask)
        settings = named(_POOL_FIELDS, values)
        if "id" not in settings:
            raise PoolNotFound(pool)
        if settings.get("handout") != "poll":
            raise Refused(f"pool {pool!r} hands out by stream: its runs are claimed, not polled")
        self.now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        self.pool_id, self.are_limited = settings["id"], bool(limited)
        self.late_after_ms = moment(settings, "late_after_ms") or LATE_AFTER_MS
        names, asked = [row.decode() for row in rows], dict.fromkeys(map(encode, wanted))
        known = frozenset(names)
        for name in asked:
            if name not in known:
                raise QueueNotFound(pool, decode(name))
        names = [name for name in names if not asked or name in asked]
        is_paused = pause_record(settings, "paused", self.now_ms) is not None
        return names, 0 if is_paused else _free(settings, held)

    def _shown(self, names: Sequence[str], limit: int) -> list[_Shown]:
        """Return those of these queues that may show something."""

        def ask(pipeline: Any) -> None:
            for name in names:
                pipeline.hmget(self.keys["queue"] + name, _QUEUE_FIELDS)
                pipeline.zcard(self.keys["queue_slots"] + name)
                self._members(pipeline, name, 0, LOOK_RUNS if self.are_limited else limit)

        answers, found = self._many(ask), []
        for i, name in enumerate(names):
            values, held, members = answers[3 * i : 3 * i + 3]
            settings = named(_QUEUE_FIELDS, values)
            free = _free(settings, held)
            is_paused = pause_record(settings, "paused", self.now_ms) is not None
            if "id" in settings and not is_paused and free > 0:
                listed = [member.decode() for member in members]
                found.append(_Shown(name, settings["id"], free, listed))
        return found

    def _listed(self, shown: _Shown, most: int) -> list[str]:
        """Return the first runs of a queue, without those that are due and wait for a slot."""
        if not self.are_limited or most <= 0:
            return [member[16:] for member in shown.members[: max(0, most)]]
        found, members, seen = list[str](), list(shown.members), 0
        while members:
            found += self._admitted([member[16:] for member in members])
            seen += len(members)
            if len(found) >= most or len(members) < LOOK_RUNS or seen >= MOST_LOOKS:
                break
            (rows,) = self._many(partial(self._members, queue=shown.name, first=seen))
            members = [row.decode() for row in rows]
        return found[:most]

    def _admitted(self, run_ids: list[str]) -> list[str]:
        """Return those of these runs whose deployment has room, or that are not due."""
        asked = ("deployment", "due_ms")
        runs = self._many(lambda p: [p.hmget(self.keys["run"] + i, asked) for i in run_ids])
        records = [named(asked, values) for values in runs]
        self._look_at({record.get("deployment", "") for record in records} - self.full.keys())
        return [
            run_id
            for run_id, record in zip(run_ids, records, strict=True)
            if not self.full.get(record.get("deployment", ""))
            or int(record.get("due_ms", 0)) > self.now_ms
        ]

    def _look_at(self, deployments: set[str]) -> None:
        """Learn which deployments are full."""
        ids = sorted(deployments - {""})

        def ask(pipeline: Any) -> None:
            for each in ids:
                pipeline.hmget(self.keys["deployment"] + each, ("limit",))
                pipeline.zcard(self.keys["deployment_slots"] + each)

        answers = self._many(ask) if ids else []
        for each, values, held in zip(ids, answers[::2], answers[1::2], strict=True):
            self.full[each] = _free(named(("limit",), values), held) <= 0

    def _members(self, pipeline: Any, queue: str, first: int, most: int = LOOK_RUNS) -> None:
        least, greatest = self.bounds.as_range()
        key = self.keys["scheduled"] + queue
        pipeline.zrangebyscore(key, least, greatest, first, max(0, most))

    def _many(self, ask: Callable[[Any], object]) -> list[Any]:
        """Return the answers of one round trip."""

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            ask(pipeline)
            return list(pipeline.execute())

        answers: list[Any] = self.server.read(read)
        return answers


def _free(settings: dict[str, str], held: int) -> float:
    """Return how many more runs a limit lets through."""
    most = moment(settings, "limit")
    return math.inf if most is None else max(0, most - held)
