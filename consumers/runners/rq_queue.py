"""One RQ queue as our runs need it: put jobs in, look what became of them, stop them.

Jobs are JSON, never pickle. RQ keeps nowhere which serializer a worker was started with; what can
be known is told by `refusal`.
"""

import json
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from rq import Callback, Queue, Worker
from rq.command import PUBSUB_CHANNEL_TEMPLATE, send_stop_job_command
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.registry import FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker_registration import get_keys

from dispatcher import Claim, Connection, InvalidSettings

PATH = "consumers.runners.rq"  # what RQ workers import
MARK = "dispatcher_serializer"  # a field of ours among those of an RQ worker
NOT_JSON = "not json"
STOPPED = "dispatcher_stopped"  # a field of ours among those of an RQ job
NO_TIMEOUT = -1  # a run has its own time limit
RESULT_TTL_S = 500
FAILURE_TTL_S = 86_400  # as long as the run's own record by default; RQ's default is a year
SAMPLE = 5  # jobs of others that are looked at in each list
GONE = "gone"
KILLED = "Work-horse terminated unexpectedly"
_FIELDS = ("status", "worker_name", "origin")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """What RQ says of a job: its `status` or GONE, whether it waits in the queue, who has it.

    `is_alive` is whether that RQ worker is there, `is_killed` that it saw its horse die.
    """

    status: str
    is_queued: bool = False
    worker: str = ""
    is_alive: bool = False
    is_killed: bool = False


class RqQueue:
    """An RQ queue on the server of a connection; raises RedisUnavailable as that does.

    Raises InvalidSettings on a cluster.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        if connection.cluster:
            raise InvalidSettings(
                "RQ workers cannot be used on a Redis Cluster: a run and its RQ job must be on one "
                "server; use a process or handler worker there"
            )
        self.name = name
        self._connection = connection
        self._queue = Queue(name, connection=connection.client, serializer=JSONSerializer)

    def prepare(self) -> None:
        """Let RQ ask what it wants to know of the server before it may only add to a pipeline."""
        self._do(lambda _: self._queue.get_redis_server_version())

    def enqueue(self, pipeline: Any, claim: Claim, *, prefix: str) -> None:
        """Add the job of a claimed run to a pipeline; the same claim again is the same job."""
        self._queue.enqueue_call(
            f"{PATH}.execute",
            kwargs={
                "pool": claim.pool,
                "run_id": claim.run_id,
                "token": claim.token,
                "rq_queue": self.name,
                "prefix": prefix,
            },
            timeout=NO_TIMEOUT,
            result_ttl=RESULT_TTL_S,
            failure_ttl=FAILURE_TTL_S,
            description=f"flow run {claim.name or claim.run_id}",
            job_id=job_id(claim.run_id, claim.token),
            on_failure=Callback(f"{PATH}.on_failure"),
            on_stopped=Callback(f"{PATH}.on_stopped"),
            pipeline=pipeline,
        )

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return what RQ says of these jobs."""
        if not ids:
            return {}

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for each in ids:
                pipeline.hmget(Job.key_for(each), _FIELDS)
                pipeline.lpos(self._queue.key, each)
            return list(pipeline.execute())

        answers = self._do(read)
        found = {}
        for each, (status, worker, _), place in zip(ids, answers[::2], answers[1::2], strict=True):
            found[each] = self._seen(each, status, worker, is_queued=place is not None)
        return found

    def problem(self, id_: str) -> str:
        """Return why a job failed, in one line; empty when RQ does not say."""
        try:
            job = self._do(lambda client: Job.fetch(id_, client, JSONSerializer))
            result = self._do(lambda _: job.latest_result())
        except NoSuchJobError:
            return ""
        lines = ((result and result.exc_string) or "").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def cancel(self, id_: str) -> None:
        """Take a job out of RQ, wherever it is there."""

        def delete(client: Any) -> None:
            with suppress(NoSuchJobError):
                Job.fetch(id_, client, JSONSerializer).delete()

        self._do(delete)

    def stop(self, id_: str) -> bool:
        """Let the RQ worker that has a job kill it, once; return whether this was the time.

        RQ's worker kills itself when a second command comes while it deals with the first: by then
        its horse has the process id 0.
        """

        def stop(client: Any) -> bool:
            with suppress(NoSuchJobError, InvalidJobOperation):
                Job.fetch(id_, client, JSONSerializer)
                if client.hsetnx(Job.key_for(id_), STOPPED, 1):
                    send_stop_job_command(client, id_, serializer=JSONSerializer)
                    return True
            return False

        return self._do(stop)

    def refusal(self, *, thorough: bool = True) -> str | None:
        """Return the sentence why nothing can be handed over, None when nothing is against it.

        An RQ worker that has failed to read one of our jobs is marked. A thorough look is at jobs
        of others, too: a worker that has finished one which is not JSON cannot read ours, nor can
        those for whom one is waiting.
        """
        return self._do(lambda client: self._refusal(client, thorough=thorough))

    def _refusal(self, client: Any, *, thorough: bool) -> str | None:
        marks = self._marks(client)
        for name, mark in marks.items():
            if mark == NOT_JSON.encode():
                return (
                    f"RQ worker {name} of RQ queue {self.name} does not understand JSON: start it "
                    f"as `rq worker --serializer json {self.name}`"
                )
        others = self._others() if thorough else []
        found = (self._judge(client, each, set(marks)) for each in others)
        return next(filter(None, found), None)

    def _marks(self, client: Any) -> dict[str, bytes | None]:
        """Return the marks of the RQ workers that are registered for the queue."""
        keys = sorted(get_keys(queue=self._queue))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, MARK, "death")
        answers = zip(keys, pipeline.execute(), strict=True)
        prefix = Worker.redis_worker_namespace_prefix
        return {key.removeprefix(prefix): mark for key, (mark, death) in answers if death is None}

    def _others(self) -> list[str]:
        """Return some jobs of the queue: those that go next, those at work, those that ended."""
        started = StartedJobRegistry(queue=self._queue)
        finished = FinishedJobRegistry(queue=self._queue)
        return [
            *self._queue.get_job_ids(0, SAMPLE),
            *started.get_job_ids(0, SAMPLE - 1, cleanup=False),
            *finished.get_job_ids(-SAMPLE, -1, cleanup=False),
        ]

    def _judge(self, client: Any, id_: str, live: set[str]) -> str | None:
        status, worker, data = client.hmget(Job.key_for(id_), "status", "worker_name", "data")
        if not data or is_json(data):
            return None
        name = worker.decode() if worker else ""
        if status == b"queued" or name in live:
            return (
                f"RQ queue {self.name} has jobs that are not JSON ({id_}), so its workers do not "
                "understand ours: give the runs an RQ queue of their own, served by "
                "`rq worker --serializer json`"
            )
        return None

    def _seen(self, id_: str, status: Any, worker: Any, *, is_queued: bool) -> Seen:
        if status is None:
            return Seen(GONE)
        word = status.decode()
        if word == "failed" and self.problem(id_).startswith(KILLED):
            return Seen(word, is_killed=True)
        if is_queued or word not in ("queued", "started"):
            return Seen(word, is_queued=is_queued)
        name = worker.decode() if worker else self._executing(id_)
        return Seen(word, worker=name, is_alive=bool(name) and self.is_alive(name))

    def _executing(self, id_: str) -> str:
        """Return the RQ worker that has taken a job out of the queue and not begun it."""

        def ask(client: Any) -> str:
            job = Job(id_, connection=client, serializer=JSONSerializer)
            with suppress(ValueError, KeyError):  # it goes away meanwhile
                for execution in job.get_executions():
                    return str(getattr(execution, "worker_name", ""))
            return ""

        return self._do(ask)

    def is_alive(self, worker: str) -> bool:
        """Return whether an RQ worker is there: it is registered and listens for commands."""

        def ask(client: Any) -> bool:
            pipeline = client.pipeline(transaction=False)
            pipeline.exists(Worker.redis_worker_namespace_prefix + worker)
            pipeline.pubsub_numsub(PUBSUB_CHANNEL_TEMPLATE % worker)
            registered, ((_, listening),) = pipeline.execute()
            return bool(registered and listening)

        return self._do(ask)

    def _do(self, command: Callable[[Any], T]) -> T:
        return self._connection.read(command)


def job_id(run_id: str, token: str) -> str:
    """Return the id of the RQ job of a claim; RQ allows letters, digits, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{run_id}_{token}")


def is_json(data: bytes) -> bool:
    """Return whether the data of a job is JSON, as RQ stores it."""
    with suppress(zlib.error):
        data = zlib.decompress(data)
    return data[:1] in (b"[", b"{")


def arguments(job: Any) -> dict[str, str]:
    """Return the keyword arguments of one of our jobs, whatever serializer its worker has."""
    try:
        return dict(job.kwargs)
    except DeserializationError:
        return dict(json.loads(job.data)[3])


def mark_not_json(client: Any, worker: str) -> None:
    """Note of an RQ worker that it cannot read our jobs; that ends with its registration."""
    client.hset(Worker.redis_worker_namespace_prefix + worker, MARK, NOT_JSON)
