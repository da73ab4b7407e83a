"""Submitting: find the pool and queue a run belongs to, check that it can run there, accept it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from dispatcher.clock import to_ms
from dispatcher.connection import Connection
from dispatcher.embedded import find_running
from dispatcher.errors import (
    AlreadyExists,
    DispatcherError,
    InvalidInput,
    InvalidRun,
    InvalidSettings,
    NotFound,
    QueueNotFound,
)
from dispatcher.inspector import Inspector
from dispatcher.intake import Offer, parse_offer
from dispatcher.job_configuration import process_job
from dispatcher.models import FlowRun
from dispatcher.records import Pool, Queue, Receipt, RunRecord, Submission
from dispatcher.settings import Settings, read_secret, read_settings
from dispatcher.store import Store

BATCH_RUNS = 100
BATCH_BYTES = 1_048_576
PATIENCE_S = 10.0
Run = Mapping[str, Any] | str | bytes | FlowRun


@dataclass(frozen=True, slots=True)
class Target:
    """Where runs are to go: names win over what a run says; `create` makes what is missing."""

    pool: str | None = None
    queue: str | None = None
    create: bool = False


class Producer:
    """A connection for programs that submit runs; a context manager. Not shared between threads."""

    def __init__(
        self, store: Store, inspector: Inspector, *, max_payload_bytes: int = 1_048_576
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._max_payload_bytes = max_payload_bytes
        self._pools: dict[str, Pool] = {}
        self._queues: dict[str, dict[str, str]] = {}  # pool: queue name to id
        self._unknown_pools: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._store.connection.close()

    def submit(
        self,
        run: Run,
        *,
        pool: str | None = None,
        queue: str | None = None,
        at: datetime | None = None,
        create: bool = False,
    ) -> Receipt:
        """Accept one run: an object of the endpoint or a bare flow run, as JSON or as a mapping.

        `at` (aware) overrides the due time. Raises InvalidRun with the field path, NotFound for
        the pool or queue, Refused when the run has ended already, RedisUnavailable, RedisFull.
        """
        (answer,) = self.submit_many([run], pool=pool, queue=queue, at=at, create=create)
        if isinstance(answer, DispatcherError):
            raise answer
        return answer

    def submit_many(
        self,
        runs: Iterable[Run],
        *,
        pool: str | None = None,
        queue: str | None = None,
        at: datetime | None = None,
        create: bool = False,
    ) -> Iterator[Receipt | DispatcherError]:
        """Accept runs in batches; yield for each, in order, its receipt or why it was refused."""
        if at is not None and at.tzinfo is None:
            raise InvalidInput("at: has no time zone; use an aware datetime")
        due_ms = None if at is None else to_ms(at)
        target = Target(pool, queue, create)
        return self.offer_many((_offer(run) for run in runs), target=target, due_ms=due_ms)

    def offer_many(
        self,
        offers: Iterable[Offer | DispatcherError],
        *,
        target: Target,
        due_ms: int | None = None,
    ) -> Iterator[Receipt | DispatcherError]:
        """Accept parsed offers; an error among them is passed on in its place."""
        batch: list[tuple[str, Submission] | DispatcherError] = []
        size_bytes = 0
        for offer in offers:
            item = (
                offer
                if isinstance(offer, DispatcherError)
                else self._checked(offer, target, due_ms)
            )
            batch.append(item)
            size_bytes += 0 if isinstance(item, DispatcherError) else len(item[1].payload)
            if len(batch) >= BATCH_RUNS or size_bytes >= BATCH_BYTES:
                yield from self._send(batch)
                batch, size_bytes = [], 0
        yield from self._send(batch)

    def run(self, run_id: str, *, pool: str | None = None) -> RunRecord:
        """Return what is known of a run; raises NotFound."""
        return self._inspector.run(run_id, pool)

    def _send(
        self, batch: list[tuple[str, Submission] | DispatcherError]
    ) -> Iterator[Receipt | DispatcherError]:
        by_pool: dict[str, list[Submission]] = {}
        for item in batch:
            if not isinstance(item, DispatcherError):
                by_pool.setdefault(item[0], []).append(item[1])
        answers = {
            pool: iter(self._store.submit_many(pool, submissions))
            for pool, submissions in by_pool.items()
        }
        for item in batch:
            answer = item if isinstance(item, DispatcherError) else next(answers[item[0]])
            if isinstance(answer, NotFound):  # deleted since we looked
                self._forget()
            yield answer

    def _checked(
        self, offer: Offer, target: Target, due_ms: int | None
    ) -> tuple[str, Submission] | DispatcherError:
        try:
            pool = self._pool_of(offer, target)
            queue = self._queue_of(offer, pool, target)
            if pool.type == "process":
                process_job(offer.run.job_variables, pool.command)
            payload = offer.payload(UUID(pool.id), UUID(self._queues[pool.name][queue]))
            if len(payload) > self._max_payload_bytes:
                raise InvalidRun("", too_large(len(payload), self._max_payload_bytes))
        except (InvalidInput, NotFound) as error:
            return error
        run = offer.run
        scheduled = run.scheduled_time()
        return pool.name, Submission(
            run_id=str(run.id),
            queue=queue,
            payload=payload,
            name=run.name or str(run.id),
            request=uuid4().hex,
            due_ms=due_ms if due_ms is not None else to_ms(scheduled) if scheduled else None,
            run_count=run.run_count,
            state_name=run.state_name or "Scheduled",
            deployment=str(run.deployment_id or ""),
        )

    def _pool_of(self, offer: Offer, target: Target) -> Pool:
        if target.pool is not None:
            if target.pool not in self._pools:
                self._pools[target.pool] = self._find_pool(target.pool, offer, create=target.create)
            return self._pools[target.pool]
        if offer.work_pool_id is None:
            raise InvalidRun("work_pool_id", "is missing; name the pool (--pool)")
        return self._pool_by_id(str(offer.work_pool_id))

    def _pool_by_id(self, pool_id: str) -> Pool:
        by_id = {pool.id: pool for pool in self._pools.values()}
        if pool_id not in by_id and pool_id not in self._unknown_pools:
            self._pools.update((pool.name, pool) for pool in self._inspector.pools())
            by_id = {pool.id: pool for pool in self._pools.values()}
        if pool_id not in by_id:
            self._unknown_pools.add(pool_id)
            raise InvalidRun("work_pool_id", f"{pool_id} is no known pool; name the pool (--pool)")
        return by_id[pool_id]

    def _find_pool(self, name: str, offer: Offer, *, create: bool) -> Pool:
        try:
            return self._inspector.pool(name)
        except NotFound:
            if not create:
                raise
        pool = Pool(name=name, id=str(offer.work_pool_id or uuid4()), type="process")
        try:
            self._store.create_pool(pool, default_queue_id=str(uuid4()))
        except AlreadyExists:  # somebody else was first
            return self._inspector.pool(name)
        return pool

    def _queue_of(self, offer: Offer, pool: Pool, target: Target) -> str:
        if target.queue is not None:
            return self._named_queue(pool, target.queue, create=target.create)
        queues = self._known_queues(pool)
        for name, queue_id in queues.items():
            if queue_id == str(offer.work_queue_id):
                return name
        if offer.run.work_queue_name:
            name = offer.run.work_queue_name
            return self._named_queue(pool, name, create=target.create, queue_id=offer.work_queue_id)
        return "default"

    def _named_queue(
        self, pool: Pool, name: str, *, create: bool, queue_id: UUID | None = None
    ) -> str:
        known = pool.name in self._queues
        if name not in self._known_queues(pool) and known:
            self._queues.pop(pool.name)  # it may have been made since we looked
        if name in self._known_queues(pool):
            return name
        if not create:
            raise QueueNotFound(pool.name, name)
        queue = Queue(name=name, pool=pool.name, id=str(queue_id or uuid4()), priority=0)
        try:
            self._store.create_queue(queue)
        except AlreadyExists:
            self._queues.pop(pool.name)
            return self._named_queue(pool, name, create=False)
        self._queues[pool.name][name] = queue.id
        return name

    def _known_queues(self, pool: Pool) -> dict[str, str]:
        if pool.name not in self._queues:
            self._queues[pool.name] = {q.name: q.id for q in self._inspector.queues(pool.name)}
        return self._queues[pool.name]

    def _forget(self) -> None:
        self._pools.clear()
        self._queues.clear()
        self._unknown_pools.clear()


def connect(
    url: str | None = None,
    *,
    key_prefix: str | None = None,
    patience_s: float = PATIENCE_S,
) -> Producer:
    """Return a producer for the server at `url`, else DISPATCHER_REDIS_URL, else `dispatcher dev`.

    Steps are repeated for `patience_s` while the server cannot serve; all of them may be.
    Raises InvalidSettings when there is no usable URL; nothing is sent before the first submit.
    """
    settings, _, _ = read_settings(redis_url=url, key_prefix=key_prefix)
    connection = Connection.open(find_url(settings), patience_s=patience_s)
    return Producer(
        Store(connection, settings.key_prefix),
        Inspector(connection, settings.key_prefix),
        max_payload_bytes=settings.max_payload_bytes,
    )


def find_url(settings: Settings) -> str:
    """Return the URL that holds: the setting, the file it names, or a running `dispatcher dev`.

    Raises InvalidSettings when there is none, or none that can be taken apart.
    """
    if settings.redis_url:
        return _sound(settings.redis_url, "DISPATCHER_REDIS_URL")
    if settings.redis_url_file:
        name = "DISPATCHER_REDIS_URL_FILE"
        return _sound(read_secret(settings.redis_url_file, name), name)
    if running := find_running():
        return running
    raise InvalidSettings(
        "no Redis: set DISPATCHER_REDIS_URL=redis://HOST:PORT, or start `dispatcher dev`"
    )


def _sound(url: str, name: str) -> str:
    try:
        _ = urlsplit(url).port
    except ValueError:  # its message may hold a piece of the password
        problem = "has no host and port that can be read; percent-encode what is special"
        raise InvalidSettings(f"{name}: the URL {problem} in user and password") from None
    return url


def with_new_id(raw: bytes) -> bytes:
    """Return a run's JSON under an id that is new with every call, composed once, here."""
    whole = json.loads(raw)
    run = whole.get("flow_run", whole) if isinstance(whole, dict) else None
    if not isinstance(run, dict) or "id" not in run:
        return raw  # which says itself what is wrong with it
    old, run["id"] = run["id"], str(uuid4())
    state = run.get("state")
    details = state.get("state_details") if isinstance(state, dict) else None
    if isinstance(details, dict) and details.get("flow_run_id") == old:
        details["flow_run_id"] = run["id"]
    return _raw(whole)


def too_large(size_bytes: int, limit_bytes: int) -> str:
    """Return the sentence for a payload over the limit."""
    return f"payload of {size_bytes:,} bytes is over the limit of {limit_bytes:,} bytes"


def _offer(run: Run) -> Offer | DispatcherError:
    try:
        return parse_offer(_raw(run))
    except InvalidInput as error:
        return error


def _raw(run: Run) -> bytes:
    if isinstance(run, bytes):
        return run.strip()
    if isinstance(run, str):
        return run.strip().encode()
    if isinstance(run, FlowRun):
        return run.model_dump_json(exclude_unset=True).encode()
    try:
        return json.dumps(run, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRun("", f"is not JSON: {error}") from None
