"""What compares structures that must agree, and repairs them: the steps of `reconciling`.

Each look compares what stands at that moment, and repairs in the same step, so it never takes a
change under way for damage. Without `fix` nothing is written.
"""

from collections.abc import Sequence
from typing import Any

from dispatcher.keys import DATA_VERSION, decode, encode
from dispatcher.records import Finding, QueueLook
from dispatcher.steps import Steps, check_target

PAGE = 50  # a repair of each takes up to 10 ms
LOOK_BYTES = 4_194_304


class Repairs(Steps):
    """The steps that reconcile; part of `Store`.

    All raise NotFound for the pool, and RedisRefused for data of a newer release.
    """

    def reconcile_runs(self, pool: str, run_ids: Sequence[str], *, fix: bool) -> list[Finding]:
        """Compare the records of these runs with what must list them; repeats the step."""
        return self._all("reconcile_runs", pool, run_ids, fix=int(fix))

    def reconcile_listings(
        self, pool: str, structure: str, part: str, members: Sequence[str], *, fix: bool
    ) -> list[Finding]:
        """Compare members of a structure with what they stand for; repeats the step.

        `structure` is a name of the key table; `pending` are entries of the group, `waiting_sets`
        pairs of deployment and queue. `part` is what varies of the key.
        """
        what = {"structure": structure, "part": part}
        return self._all("reconcile_listings", pool, members, fix=int(fix), **what)

    def reconcile_queue(
        self, pool: str, queue: str, *, after: str = "", fix: bool, limit: int = PAGE
    ) -> QueueLook:
        """Compare a queue with who is to look at it, then its entries with their records.

        `after` is what the last look answered. Raises NotFound for the queue, too.
        """
        word, after_next, *rows = self._step(
            "reconcile_queue",
            pool,
            version=DATA_VERSION,
            queue=encode(queue),
            after=after,
            limit=limit,
            max_bytes=LOOK_BYTES,
            fix=int(fix),
        )
        check_target(word, pool, queue=queue, detail=after_next)
        return QueueLook([_finding(pool, row) for row in rows[0]], after_next.decode())

    def _all(
        self, step: str, pool: str, members: Sequence[str], **args: str | int
    ) -> list[Finding]:
        findings: list[Finding] = []
        args |= {"version": DATA_VERSION, "max_bytes": LOOK_BYTES}
        todo = list(members)
        while todo:
            word, done, *rest = self._step(step, pool, todo[:PAGE], **args)
            check_target(word, pool, detail=done)
            findings += [_finding(pool, row) for row in rest[0]]
            todo = todo[int(done) :]
        return findings


def _finding(pool: str, row: Sequence[Any]) -> Finding:
    code, queue, run, problem, repair = (part.decode(errors="replace") for part in row[:5])
    # Names in a sentence are as in keys.
    done = bool(row[5])
    return Finding(code, pool, decode(queue), run, decode(problem), repair, repaired=done)
