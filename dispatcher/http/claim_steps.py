"""What follows a claim over HTTP: start, renew, finish, release, each with the fencing token.

The run's record names the holder; one of an HTTP claim leaves with its last run. A token of a
stream worker's claim is as good, but that worker renews for itself and stays.
"""

from contextlib import suppress
from dataclasses import dataclass

from dispatcher.clock import utc
from dispatcher.errors import ClaimLost, NotFound, RedisUnavailable, Refused
from dispatcher.http.holders import Claimed, check_worker, is_http_holder, leave
from dispatcher.inspector import Inspector
from dispatcher.records import Finish, Outcome, Release, Report, Start, Taken, Word
from dispatcher.store import Store
from dispatcher.stored import Place, RunRecord

OUTPUT_BYTES = 65_536
OVER = (Word.FINISHED, Word.RESCHEDULED, Word.RELEASED)
_CONTINUES = bytes(range(0x80, 0xC0))  # inside of a character in UTF-8


@dataclass(frozen=True, slots=True)
class Begun:
    """What a start came to: STARTED, or CANCELLING, after which the run must not begin."""

    word: Word
    run_count: int


@dataclass(frozen=True, slots=True)
class Prolonged:
    """What a renewal says: the lease in ms, whether to cancel the run, what the claim holds."""

    lease_ms: int
    renew_ms: int
    cancel: bool
    run_ids: tuple[str, ...]


class ClaimSteps:
    """The steps of holders that speak HTTP; all raise NotFound, ClaimLost, RedisUnavailable."""

    def __init__(self, store: Store, inspector: Inspector) -> None:
        self._store, self._inspector = store, inspector

    def start(self, pool: str, run_id: str, token: str, run_count: int | None = None) -> Begun:
        """Say that a run's work begins; `run_count` None repeats the start of one that runs."""
        run = self._run(pool, run_id)
        if run_count is None:
            is_running = run.state_type == "RUNNING" and run.token == token
            run_count = run.run_count + (not is_running)
        word = self._store.report(pool, Start(run_id, token, run_count))
        if word is Word.LOST:
            raise ClaimLost(run_id)
        return Begun(word, run_count if word is Word.STARTED else run_count - 1)

    def take(self, pool: str, run_id: str, *, worker: str, incarnation: str, host: str) -> Claimed:
        """Take a run of a pool that is polled, and start it; exactly one of all who try gets it.

        The same incarnation again gets the same answer again. Raises Refused for the others.
        """
        answer = self._store.take(
            pool, run_id, worker=check_worker(worker), incarnation=incarnation, host=host
        )
        if answer.claim is None:
            raise Refused(f"run {run_id} {_refusal(pool, answer)}")
        claims = (answer.claim,)
        return Claimed(pool, answer.holder, answer.lease_ms, answer.renew_ms, claims)

    def renew(self, pool: str, run_id: str, token: str) -> Prolonged:
        """Prolong the lease of the claim that has this run, for all of its runs.

        Raises Refused when a stream worker has it.
        """
        run = self._run(pool, run_id)
        if run.place is not Place.CLAIMED or run.token != token:
            raise ClaimLost(run_id)
        if not is_http_holder(run.holder):
            raise Refused(f"run {run_id}: its holder {run.holder} renews for itself")
        held = self._inspector.claims(pool, run.holder)
        if held.get(run_id) != token:
            raise ClaimLost(run_id)
        # It has one claim, and is told what it holds: there is nothing more to compare.
        answer = self._store.renew(pool, run.holder, held=len(held), number=1)
        if answer.word in (Word.LOST, Word.DISPLACED):
            raise ClaimLost(run_id)
        cancel = run_id in answer.orders
        return Prolonged(answer.lease_ms, answer.renew_ms, cancel, tuple(sorted(held)))

    def finish(
        self, pool: str, run_id: str, token: str, outcome: Outcome, run_count: int | None = None
    ) -> Word:
        """End a run: FINISHED, RESCHEDULED or RETRYING; without `run_count` never RETRYING."""
        word = self._end(pool, Finish(run_id, token, outcome, run_count=run_count))
        if word is Word.RELEASED:
            raise ClaimLost(run_id)
        return word

    def release(
        self, pool: str, run_id: str, token: str, *, reason: str, delay_ms: int | None = None
    ) -> Word:
        """Give a run back: RELEASED, RESCHEDULED after a delay, FINISHED when it was cancelled."""
        return self._end(pool, Release(run_id, token, reason, delay_ms=delay_ms))

    def _end(self, pool: str, report: Report) -> Word:
        run = self._run(pool, report.run_id)
        word = self._store.report(pool, report)
        if word is Word.LOST:
            raise ClaimLost(report.run_id)
        if word in OVER and is_http_holder(run.holder):
            with suppress(RedisUnavailable):  # recovery forgets it when its lease ends
                leave(self._store, pool, run.holder)
        return word

    def _run(self, pool: str, run_id: str) -> RunRecord:
        for run in self._inspector.records(pool, [run_id]):
            return run
        raise NotFound(f"run {run_id} is not known in pool {pool!r}")


def tail(output: str) -> bytes:
    """Return the last 64 KiB of a text, from the beginning of a character."""
    whole = output.encode(errors="backslashreplace")
    return whole if len(whole) <= OUTPUT_BYTES else whole[-OUTPUT_BYTES:].lstrip(_CONTINUES)


def _refusal(pool: str, answer: Taken) -> str:
    """Return why a run was not taken, to be read behind its id."""
    detail = answer.detail
    match answer.word:
        case Word.CLAIMED:
            return f"was taken already, by {detail}"
        case Word.ENDED | Word.LOST:
            return f"has ended{f': {detail}' if detail else ' for this caller'}"
        case Word.STREAMED:
            return f"is in pool {pool!r}, which hands out by stream: claim from it"
        case Word.NOT_DUE:
            return f"is not due before {utc(int(float(detail)))}"
        case Word.PAUSED | Word.FULL:
            what = "is paused" if answer.word is Word.PAUSED else "has no free slot"
            return f"cannot be taken: its {detail} {what}"
        case Word.WAITING:
            return f"waits for a slot of deployment {detail}"
        case _:
            return f"was skipped and is cancelled: {detail}"
