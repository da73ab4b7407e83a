"""The steps of claims that are handed over to a holder that several share; part of `Store`.

A run in an RQ queue is nobody's own: any RQ consumer of its pool watches over it, and what works on
it is a process that neither of them has started.
"""

from collections.abc import Callable
from typing import Any

from dispatcher.errors import Refused
from dispatcher.keys import DATA_VERSION, decode, encode
from dispatcher.records import Claim, Registered, Renewed, Word
from dispatcher.steps import Steps, check_target, word_of
from dispatcher.stored import CANCEL_GRACE_MS

SHARED = "rq."  # how the ids of shared holders begin; no worker has such a name
INBOX_MS = 60_000
_TOLD = ("place", "token", "holder", "state_type")
_RUN = (
    *("token", "queue", "payload", "due_ms", "run_count", "delivery", "name", "retry_delay_ms"),
    "place",
)


def shared_holder(rq_queue: str) -> str:
    """Return the holder of the runs that are handed over to this RQ queue."""
    return SHARED + encode(rq_queue)


def rq_queue_of(holder: str) -> str:
    """Return the RQ queue of a shared holder, empty for a holder of its own."""
    return decode(holder.removeprefix(SHARED)) if holder.startswith(SHARED) else ""


class HandOvers(Steps):
    """What becomes of a claim between its worker, RQ, and the process that works on it."""

    def register_shared(
        self, pool: str, rq_queue: str, *, slots: int, host: str = "", pid: int = 0
    ) -> Registered:
        """Make the runs of an RQ queue a holder, or adopt it: who does so prolongs its lease.

        Raises NotFound for the pool, Refused while its lease has ended and its runs are taken back.
        """
        holder = shared_holder(rq_queue)
        word, lease_ms, renew_ms, displaced = self._step(
            "register",
            pool,
            version=DATA_VERSION,
            holder=holder,
            worker=holder,
            queues="",
            slots=slots,
            host=host,
            pid=pid,
            type="rq",
        )
        check_target(word, pool, detail=lease_ms)
        if word_of(word) is Word.LOST:
            raise Refused(f"what {holder} had is being taken back; try again when that is done")
        return Registered(holder, int(lease_ms), int(renew_ms), displaced.decode())

    def hand_over(
        self, pool: str, claim: Claim, holder: str, *, enqueue: Callable[[Any], object]
    ) -> Word:
        """Move a claim that has not started to a shared holder, and enqueue it, both or none.

        `enqueue` gets a pipeline of the same server, in MULTI, and must add to it only. The answer
        is HANDED_OVER, also when it was before; CANCELLING, LOST, or UNKNOWN without that holder.
        """
        run = self.keys(pool)["run"] + claim.run_id
        him = self.keys(pool)["holder"] + holder
        step = self._call("hand_over", pool, run_id=claim.run_id, token=claim.token, holder=holder)

        def transact(pipe: Any) -> Word:
            told = pipe.hmget(run, _TOLD)
            word = _before(told, pipe.hmget(him, ("worker", "dead")), claim.token, holder)
            if word:
                return word
            pipe.script_load(step.script.source)  # a step that is not there would not undo the rest
            pipe.multi()
            pipe.execute_command("EVALSHA", step.script.sha, len(step.keys), *step.keys, *step.args)
            enqueue(pipe)
            return Word.HANDED_OVER

        # What is watched has not changed when it executes, so the step answers as was foreseen.
        word: Word = self.at(pool).read(
            lambda c: c.transaction(transact, run, him, value_from_callable=True)
        )
        return word

    def claim_of(self, pool: str, run_id: str, token: str) -> Claim | None:
        """Return the claim that this token stands for; None when the run has moved on."""
        keys = self.keys(pool)
        run = self.at(pool).read(lambda c: c.hmget(keys["run"] + run_id, _RUN))
        fields = dict(zip(_RUN, run, strict=True))
        if fields["place"] != b"claimed" or fields["token"] != token.encode():
            return None
        queue, asked = fields["queue"].decode(), ("timeout_ms", "cancel_grace_ms")

        def read(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(keys["queue"] + queue, asked)
            pipeline.hget(keys["pool"], "job_version")
            return list(pipeline.execute())

        (timeout_ms, grace_ms), job_version = self.at(pool).read(read)
        return Claim(
            run_id=run_id,
            pool=pool,
            queue=decode(queue),
            token=token,
            payload=fields["payload"],
            due_ms=int(float(fields["due_ms"])),
            run_count=int(fields["run_count"]),
            delivery=int(fields["delivery"]),
            name=fields["name"].decode(),
            timeout_ms=int(timeout_ms) if timeout_ms else None,
            cancel_grace_ms=int(grace_ms) if grace_ms else CANCEL_GRACE_MS,
            retry_delay_ms=int(fields["retry_delay_ms"] or 0),
            job_version=int(job_version or 0),
        )

    def renew_run(
        self, pool: str, run_id: str, token: str, *, holder: str, executor: str
    ) -> Renewed:
        """Say that a handed-over run is being worked on, by `executor`, which is <name>.<unique>.

        The first one has the run: RENEWED or CANCELLING; all others, and all later: LOST.
        """
        word, lease_ms, renew_ms = self._step(
            "renew_run", pool, run_id=run_id, token=token, holder=holder, executor=executor
        )
        return Renewed(word_of(word), lease_ms, renew_ms)

    def wait_run(self, pool: str, run_id: str, *, holder: str, timeout_s: float) -> bool:
        """Block until `nudge_run` says "renew now" to what works on a run; False when time is over.

        The store's connection must have a longer read timeout.
        """
        key = self._inbox(pool, run_id, holder)
        return bool(self.at(pool).read(lambda c: c.blpop([key], timeout=timeout_s)))

    def nudge_run(self, pool: str, run_id: str, *, holder: str) -> None:
        """Let what works on a handed-over run renew now, and so hear what is to become of it."""
        key = self._inbox(pool, run_id, holder)

        def push(client: Any) -> None:
            if not client.llen(key):
                client.lpush(key, 1)
            client.pexpire(key, INBOX_MS)  # nobody may be there any more

        self.at(pool).read(push)

    def _inbox(self, pool: str, run_id: str, holder: str) -> str:
        return f"{self.keys(pool)['inbox']}{holder}.{run_id}"

    def abandon(self, pool: str, run_id: str, token: str, *, reason: str = "") -> Word:
        """Take one run back as from a dead worker: REQUEUED, DEAD or ENDED; LOST for an old token.

        Repeated it is LOST as well: the run has no such claim any more.
        """
        return word_of(self._step("abandon", pool, run_id=run_id, token=token, reason=reason))


def _before(
    run: list[bytes | None], holder: list[bytes | None], token: str, wanted: str
) -> Word | None:
    """Return what keeps a run from being handed over, None when nothing does."""
    place, its_token, has, state_type = run
    worker, dead = holder
    if place != b"claimed" or its_token != token.encode():
        return Word.LOST
    if has == wanted.encode():
        return Word.HANDED_OVER
    if state_type != b"PENDING":
        return Word.CANCELLING if state_type == b"CANCELLING" else Word.LOST
    return Word.UNKNOWN if worker is None or dead is not None else None
