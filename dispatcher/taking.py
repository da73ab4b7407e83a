"""Taking: how those that poll a pool get a run, by its id; of all who try exactly one gets it.

It is claim and start in one, and each run that is taken has a holder of its own. From then on it is
a claim like any other: `renew`, `report` and `recover` know no difference.
"""

from typing import Any

from dispatcher.errors import NotFound
from dispatcher.keys import DATA_VERSION, check_name, decode, encode
from dispatcher.records import Claim, Taken, Word
from dispatcher.steps import Steps, check_target, word_of
from dispatcher.stored import CANCEL_GRACE_MS


class Taking(Steps):
    """The step of those that poll; part of `Store`."""

    def take(
        self,
        pool: str,
        run_id: str,
        *,
        worker: str,
        incarnation: str,
        host: str = "",
        pid: int = 0,
        type: str = "http",
    ) -> Taken:
        """Take one due run of a pool that is handed out by polling, and start it.

        `incarnation` is new for each run, 12 random hexadecimal digits; the same one again gets the
        same answer again. The holder is named after both, so that it stands in nobody's way.
        Raises InvalidName, NotFound for the pool and the run.
        """
        name = encode(check_name("worker", f"{worker}~{incarnation}"))
        holder, answer = f"{name}.{incarnation}", [Word.MORE.encode(), b""]
        while word_of(answer[0]) is Word.MORE:
            answer = self._step(
                "take",
                pool,
                version=DATA_VERSION,
                run_id=run_id,
                holder=holder,
                worker=name,
                host=host,
                pid=pid,
                type=type,
            )
        word, detail, *rest = answer
        check_target(word, pool, detail=detail)
        if word_of(word) is Word.UNKNOWN:
            raise NotFound(f"run {run_id} is not known in pool {pool!r}")
        if word_of(word) is not Word.TAKEN:
            return Taken(word_of(word), detail.decode())
        lease_ms, renew_ms, row = rest
        claim = claim_record(pool, row)
        return Taken(Word.TAKEN, "", holder, claim, int(lease_ms), int(renew_ms))


def claim_record(pool: str, row: Any) -> Claim:
    """Return a claim from the row that `claim` and `take` answer for it."""
    run_id, queue, token, payload, due_ms, run_count, delivery, name, timeout_ms, *rest = row
    grace_ms, retry_delay_ms, job_version = map(moment, rest)
    return Claim(
        run_id=run_id.decode(),
        pool=pool,
        queue=decode(queue.decode()),
        token=token.decode(),
        payload=payload,
        due_ms=int(float(due_ms)),
        run_count=int(run_count),
        delivery=int(delivery),
        name=name.decode(),
        timeout_ms=moment(timeout_ms),
        cancel_grace_ms=CANCEL_GRACE_MS if grace_ms is None else grace_ms,
        retry_delay_ms=retry_delay_ms or 0,
        job_version=job_version or 0,
    )


def moment(raw: bytes) -> int | None:
    """Return a number of an answer that may be empty."""
    return int(float(raw)) if raw else None
