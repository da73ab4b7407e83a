"""Submitting: find the pool and queue a run belongs to, check that it can run there, accept it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
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
    PoolChanged,
    QueueNotFound,
)
from dispatcher.inspector import Inspector
from dispatcher.intake import Offer, parse_offer
from dispatcher.job_configuration import check_job
from dispatcher.models import FlowRun, RetryType
from dispatcher.reaching import check_url
from dispatcher.records import Receipt, Submission
from dispatcher.settings import Settings, read_secret, read_settings
from dispatcher.store import Store
from dispatcher.stored import Pool, Queue, RunRecord

BATCH_RUNS = 100
BATCH_BYTES = 1_048_576
PATIENCE_S = 10.0
MOST_CHANGES = 5  # of a pool, while one batch is on its way
Run = Mapping[str, Any] | str | bytes | FlowRun


@dataclass(frozen=True, slots=True)
class Target:
    """Where runs are to go: names win over what a run says; `create` makes what is missing."""

    pool: str | None = None
    queue: str | None = None
    create: bool = False


@dataclass(frozen=True, slots=True)
class _Checked:
    """An offer that may be sent, checked against the command and template of its pool."""

    offer: Offer
    pool: str
    submission: Submission


class Producer:
    """A connection for programs that submit runs; a context manager. Not shared between threads.

    Pools that were read stay known. After the command or template of one has changed, nothing is
    accepted or refused by the old one: the pool is read again, and the runs are checked anew.
    """

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
        batch: list[_Checked | DispatcherError] = []
        size_bytes = 0
        for offer in offers:
            item = (
                offer
                if isinstance(offer, DispatcherError)
                else self._checked(offer, target, due_ms)
            )
            batch.append(item)
            size_bytes += 0 if isinstance(item, DispatcherError) else len(item.submission.payload)
            if len(batch) >= BATCH_RUNS or size_bytes >= BATCH_BYTES:
                yield from self._send_patiently(batch, target, due_ms)
                batch, size_bytes = [], 0
        yield from self._send_patiently(batch, target, due_ms)

    def run(self, run_id: str, *, pool: str | None = None) -> RunRecord:
        """Return what is known of a run; raises NotFound."""
        return self._inspector.run(run_id, pool)

    def _send_patiently(
        self, batch: list[_Checked | DispatcherError], target: Target, due_ms: int | None
    ) -> list[Receipt | DispatcherError]:
        """Send a batch; what was checked against a pool that has changed is checked and sent again.

        They keep their order: all behind the first such run of a pool are among them.
        """
        answers = self._send(batch)
        for _ in range(MOST_CHANGES):
            stale = [i for i, answer in enumerate(answers) if isinstance(answer, PoolChanged)]
            if not stale:
                break
            self._forget()
            again: list[_Checked | DispatcherError] = []
            for item in (batch[i] for i in stale):
                assert isinstance(item, _Checked)
                again.append(self._checked(item.offer, target, due_ms))
            for i, item, answer in zip(stale, again, self._send(again), strict=True):
                batch[i], answers[i] = item, answer
        return answers

    def _send(self, batch: list[_Checked | DispatcherError]) -> list[Receipt | DispatcherError]:
        by_pool: dict[str, list[Submission]] = {}
        for item in batch:
            if isinstance(item, _Checked):
                by_pool.setdefault(item.pool, []).append(item.submission)
        answers = {
            pool: iter(self._store.submit_many(pool, submissions))
            for pool, submissions in by_pool.items()
        }
        found = [next(answers[x.pool]) if isinstance(x, _Checked) else x for x in batch]
        if any(isinstance(answer, NotFound) for answer in found):  # deleted since we looked
            self._forget()
        return found

    def _checked(
        self, offer: Offer, target: Target, due_ms: int | None
    ) -> _Checked | DispatcherError:
        try:
            pool = self._suitable_pool(offer, target)
            queue = self._queue_of(offer, pool, target)
            payload = offer.payload(UUID(pool.id), UUID(self._queues[pool.name][queue]))
            if len(payload) > self._max_payload_bytes:
                raise InvalidRun("", too_large(len(payload), self._max_payload_bytes))
        except (InvalidInput, NotFound) as error:
            return error
        run = offer.run
        scheduled, policy = run.scheduled_time(), run.empirical_policy
        submission = Submission(
            run_id=str(run.id),
            queue=queue,
            payload=payload,
            name=run.name or str(run.id),
            request=uuid4().hex,
            due_ms=due_ms if due_ms is not None else to_ms(scheduled) if scheduled else None,
            run_count=run.run_count,
            state_name=run.state_name or "Scheduled",
            deployment=str(run.deployment_id or ""),
            state_id=str(run.state_id or ""),
            idempotency=_digest(run),
            retries=policy.effective_retries,
            retry_delay_ms=round(policy.effective_retry_delay_s * 1000),
            retry_type=policy.retry_type or RetryType.RESCHEDULE,
            job_version=pool.job_version,
        )
        return _Checked(offer, pool.name, submission)

    def _suitable_pool(self, offer: Offer, target: Target) -> Pool:
        """Return the pool of a run, which can make a job of it; else raise InvalidRun."""
        pool = self._pool_of(offer, target)
        try:
            check_job(offer.run.job_variables, pool)
        except InvalidRun:
            if self._inspector.job_version(pool.name) == pool.job_version:
                raise
            self._forget()  # it has changed since we looked
            pool = self._pool_of(offer, target)
            check_job(offer.run.job_variables, pool)
        return pool

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
        with suppress(AlreadyExists):  # somebody else was first
            self._store.create_pool(pool, default_queue_id=str(uuid4()))
        return self._inspector.pool(name)

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
        check_url(settings.redis_url, "DISPATCHER_REDIS_URL")
        return settings.redis_url
    if settings.redis_url_file:
        name = "DISPATCHER_REDIS_URL_FILE"
        url = read_secret(settings.redis_url_file, name)
        check_url(url, name)
        return url
    if running := find_running():
        return running
    raise InvalidSettings(
        "no Redis: set DISPATCHER_REDIS_URL=redis://HOST:PORT, or start `dispatcher dev`"
    )


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


def _digest(run: FlowRun) -> str:
    """Return what an idempotency key is stored under: it is unique per flow, as Prefect's."""
    if run.idempotency_key is None:
        return ""
    return hashlib.sha256(f"{run.flow_id}\0{run.idempotency_key}".encode()).hexdigest()


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
