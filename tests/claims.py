"""The steps of workers that have runs: claim, start, finish, release."""

from dataclasses import dataclass
from typing import Any

from dispatcher.keys import encode
from dispatcher.records import ClaimAnswer, Finish, Outcome, Release, Report, Start, Word
from tests.dispatches import Dispatches
from tests.machine import FIXED, PLENTY, POOL
from tests.model import Answer, Grant, Stored

REASON = "no longer wanted"  # of every cancel
WITHOUT_DUE = tuple(name for name in FIXED if name != "due_ms")


@dataclass
class Incarnation:
    """What a worker process knows of itself; it does not go back when the server does."""

    holder: str
    worker: str
    queues: tuple[str, ...]
    displaced: str
    number: int = 0


class Claims(Dispatches):
    """The pool with claims, told apart by who asked."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.workers: list[Incarnation] = []
        self.grants: dict[tuple[str, str, int], Grant] = {}
        self.givers: dict[tuple[str, str], tuple[str, int]] = {}  # (run, token): who got it

    def claim(self, worker: Incarnation, number: int, *, slots: int, max_bytes: int) -> None:
        """Claim as this incarnation, with the next number, the last one again, or an old one."""
        expected, past = self._claim_word(worker.holder, number), self.past()
        before, answer = self._do(
            lambda: self.store.claim(
                POOL, worker.holder, number=number, slots=slots, max_bytes=max_bytes
            )
        )
        self._passed_on(before["holder"].get(worker.holder, {}).get("queues", ""))
        if answer.word is not Word.POLLED:
            worker.number = max(worker.number, number)
        assert answer.word is expected, f"{answer.word} instead of {expected}"
        if answer.word is Word.POLLED:
            woken = self.stored["wake"].keys() - before["wake"].keys()
            assert not woken, f"workers of {woken} are woken, and the pool is polled"
        if answer.word is not Word.CLAIMED:
            return self._nothing(before)
        if number == int(before["holder"][worker.holder]["claim_number"]):
            mine = [g for key, g in self.grants.items() if key[1:] == (worker.holder, number)]
            still = {grant.run: grant.token for grant in mine if grant.holds(before)}
            again = {c.run_id: c.token for c in answer.claims}
            assert again == still, f"the claim gave {still}, and repeated {again}"
            return self._nothing(before)
        wanted, late = self._claimable(before, worker, slots, past)
        runs = [c.run_id for c in answer.claims]
        # What stands for no run may use up the bytes of a claim; the next one goes on behind it.
        gone = sum(before.unread(q) - self.stored.unread(q) for q in before.queues)
        assert runs or not wanted or gone > 0, f"{wanted} can be claimed and nothing comes"
        self._carried(answer, wanted, max_bytes)
        skipped = [run for run in late if self.stored.runs[run]["place"] == "ended"]
        assert skipped == late[: len(skipped)], f"{late} are too late, {skipped} were skipped"
        assert skipped == late or max_bytes < PLENTY, f"{late} are too late, but not {skipped}"
        self._only(before, runs + skipped)
        served = [q for q in self.stored.queues if self._serves(worker, q)]
        left = [queue for queue in served if self._has_claimable(self.stored, queue)]
        assert answer.more or not left, f"{left} have more, and the answer says none"
        entries = [queue for queue in served if self.stored.unread(queue)]
        paused = self.stored.paused_until_ms(None, self.ledger.now_ms) > 0
        is_open = not paused and self.stored.room("pool_slots") > 0
        # After damage a queue may be found ready once that has nothing.
        sure = not self.ledger.unmarked and not self.ledger.strays
        there = is_open and (entries or not sure)
        assert there or not answer.more, "the answer says that there is more"
        return self._granted(before, worker.holder, number, answer)

    def _carried(self, answer: ClaimAnswer, wanted: list[str], max_bytes: int) -> None:
        runs = [c.run_id for c in answer.claims]
        carried = sum(len(c.payload) for c in answer.claims)
        assert runs == wanted[: len(runs)], f"{wanted} can be claimed, {runs} went first"
        assert len(runs) == len(wanted) or max_bytes < PLENTY
        assert len(runs) <= 1 or carried <= max_bytes

    def may_claim(self, worker: Incarnation) -> bool:
        """Return whether the next claim of this incarnation is let through."""
        word = self._claim_word(worker.holder, worker.number + 1)
        return word in (Word.CLAIMED, Word.POLLED)

    def granted(self, worker: Incarnation, *, still: bool = True) -> list[Grant]:
        """Return what the last claim of this incarnation gave: what it has of it, or all."""
        last = [g for key, g in self.grants.items() if key[1:] == (worker.holder, worker.number)]
        return [grant for grant in last if not still or grant.holds(self.stored)]

    def run_of(self, grant: Grant) -> dict[str, Any]:
        """Return the record of a claim's run; empty when the server has lost it."""
        return self.stored.runs.get(grant.run, {})

    def _claim_word(self, holder: str, number: int) -> Word:
        record = self.stored["holder"].get(holder)
        lease_ms = dict(self.stored["holders"].get("", [])).get(holder, 0)
        if record is None or "dead" in record or lease_ms <= self.ledger.now_ms:
            return Word.LOST
        if "draining" in record:
            return Word.DRAINING
        if number <= (last := int(record["claim_number"])):
            return Word.STALE if number < last else Word.CLAIMED
        return Word.POLLED if self.stored.is_polled else Word.CLAIMED

    def _serves(self, worker: Incarnation, queue: str) -> bool:
        return not worker.queues or queue in map(encode, worker.queues)

    def _has_claimable(self, stored: Stored, queue: str) -> bool:
        """Whether a claim may take something; a pause that has just ended may last a bit longer."""
        closed = stored.is_paused(queue, self.ledger.now_ms)
        limited = min(stored.room("pool_slots"), stored.room("queue_slots", queue)) <= 0
        unaware = "paused" in stored["queue"][queue] and queue not in stored.members("ready")
        return bool(stored.unclaimed(queue)) and not (closed or limited or unaware)

    def _claimable(
        self, stored: Stored, worker: Incarnation, slots: int, past: dict[str, set[str]]
    ) -> tuple[list[str], list[str]]:
        """Highest priority first, as invariant 7 wants it, and within a queue as dispatched.

        The second list are those that are skipped on the way, by the queue's late policy.
        """
        most = min(slots, stored.room("pool_slots"))
        runs: list[str] = []
        late: list[str] = []
        for queue in filter(lambda q: self._serves(worker, q), stored.queues):
            if not self._has_claimable(stored, queue):
                continue
            free = stored.room("queue_slots", queue)
            for run in stored.unclaimed(queue):
                if len(runs) >= most or free <= 0:
                    break
                if self._is_too_late(queue, run, past[run]):
                    late.append(run)
                else:
                    runs.append(run)
                    free -= 1
        return runs, late

    def _granted(self, before: Stored, holder: str, number: int, answer: ClaimAnswer) -> None:
        for claim in answer.claims:
            record, accepted = self.stored.runs[claim.run_id], self.ledger.accepted[claim.run_id]
            assert claim.payload == accepted.payload
            assert (encode(claim.queue), claim.due_ms) == (accepted.queue, accepted.due_ms)
            assert claim.run_count == int(record["run_count"])
            assert claim.retry_delay_ms == accepted.retry_delay_ms
            earlier = int(before.runs[claim.run_id]["delivery"])
            assert claim.delivery == earlier + 1, f"delivery {claim.delivery} follows {earlier}"
            grant = Grant(claim.run_id, holder, number, claim.token)
            assert grant.holds(self.stored)
            giver = self.givers.setdefault((claim.run_id, claim.token), (holder, number))
            assert giver == (holder, number), f"{claim.token} was given twice, first to {giver}"
            self.grants[claim.run_id, holder, number] = grant

    # --- Reports

    def start(self, grant: Grant, run_count: int) -> None:
        """Report a start."""
        record = self.run_of(grant)
        state, now = record.get("state_type", ""), int(record.get("run_count", 0))
        word = Word.LOST
        if grant.holds(self.stored) and state == "CANCELLING":
            word = Word.CANCELLING
        elif grant.holds(self.stored):
            again = run_count == now and state == "RUNNING"
            word = Word.STARTED if again or run_count == now + 1 else Word.LOST
        fresh = word is Word.STARTED and run_count == now + 1
        retried = "retrying" in self.ledger.past.get(grant.run, ())
        before, answer = self._report(Start(grant.run, grant.token, run_count), word)
        if not fresh:
            return self._nothing(before, refused=answer is Word.LOST and bool(record))
        self._only(before, [grant.run])
        after = self.run_of(grant)
        assert int(after["run_count"]) == run_count
        expected = "Retrying" if retried else "Running"
        assert (after["state_name"], "retrying" in after) == (expected, False)
        return None

    def finish(
        self, grant: Grant, outcome: Outcome, *, nudge: bool, run_count: int | None = None
    ) -> None:
        """Report an end; a run that failed may be retried, one to be cancelled is cancelled."""
        record = self.run_of(grant)
        word = self._end_word(grant, outcome, run_count)
        self.ledger.counted = run_count is not None
        report = Finish(grant.run, grant.token, outcome, nudge, run_count)
        named = "" if run_count is None else str(run_count)
        before = self._end(grant, report, word, named)
        if before is None:
            return None
        after = self.run_of(grant)
        assert after["output"] == outcome.output
        assert word is Word.RETRYING or self._is_nudged(grant, nudge=nudge)
        cancelled = record["state_type"] == "CANCELLING"
        if word is Word.FINISHED:
            said = (outcome.state_name, outcome.message)
            expected = ("Cancelled", REASON) if cancelled else said
            assert (after["state_name"], after.get("message")) == expected
            assert after.get("outcome") == (outcome.state_type if cancelled else None)
            return self._only(before, [grant.run])
        due_ms = self.ledger.now_ms + self.ledger.accepted[grant.run].retry_delay_ms
        assert (after["state_name"], after["due_ms"]) == ("AwaitingRetry", str(due_ms))
        assert after["run_count"] == record["run_count"]
        return self._only(before, [grant.run], fixed=WITHOUT_DUE)

    def _end_word(self, grant: Grant, outcome: Outcome, run_count: int | None) -> Word:
        accepted, record = self.ledger.accepted.get(grant.run), self.run_of(grant)
        failed = record.get("state_type") == "RUNNING" and outcome.state_type == "FAILED"
        if not failed or accepted is None or int(record["run_count"]) > accepted.retries:
            return Word.FINISHED
        stays = accepted.retry_type == "in_process" and run_count is not None
        return Word.RETRYING if stays else Word.RESCHEDULED

    def release(
        self, grant: Grant, *, nudge: bool, by: str = "", delay_ms: int | None = None
    ) -> None:
        """Give back unfinished, perhaps for later, or as an operator take a claim away."""
        record = self.run_of(grant)
        cancelled = record.get("state_type") == "CANCELLING"
        given_back = Word.RELEASED if delay_ms is None else Word.RESCHEDULED
        self.ledger.counted = False
        report = Release(grant.run, grant.token, "no room", nudge, by, delay_ms)
        before = self._end(grant, report, Word.FINISHED if cancelled else given_back)
        if before is None:
            return
        assert self._is_nudged(grant, nudge=nudge or bool(by))
        if by:
            assert self.stored["holder"][grant.holder].get("differs") == "1"
        after = self.run_of(grant)
        assert after["state_type"] == ("CANCELLED" if cancelled else "SCHEDULED")
        later = delay_ms is not None and not cancelled
        self._only(before, [grant.run], fixed=WITHOUT_DUE if later else FIXED)
        if later:
            due_ms = str(self.ledger.now_ms + delay_ms)
            said = (
                after["state_name"],
                after["due_ms"],
                after.get("retrying"),
                after.get("message"),
            )
            assert said == ("AwaitingRetry", due_ms, "1", "no room")

    def _is_nudged(self, grant: Grant, *, nudge: bool) -> bool:
        return not nudge or grant.holder in self.stored["inbox"]

    def _end(
        self, grant: Grant, report: Finish | Release, word: Word, run_count: str = ""
    ) -> Stored | None:
        """Do a finish or release; what stood before when it did something, not just answered."""
        record, holds = self.run_of(grant), grant.holds(self.stored)
        now = record.get("run_count", "")
        # Nothing runs in the pause before a retry: a cancel is over with the next end, counted or
        # not. A retry ends again under the same claim: told by the count, never by a release.
        over = holds and record["state_type"] == "CANCELLING" and int(run_count or now) >= int(now)
        over = over and isinstance(report, Finish)
        first = self.ledger.answers.get(grant.run)
        if first and (first.grant != grant or over):
            first = None
        elif first and first.word is Word.RETRYING:
            same = isinstance(report, Finish) and run_count == first.run_count
            first = first if same else None
        does = not first and holds and (over or run_count in ("", now))
        expected = first.word if first else word if does else Word.LOST
        known = bool(self.run_of(grant))
        before, _ = self._report(report, expected)
        if not does:
            self._nothing(before, refused=not first and known)
            return None
        self.ledger.answers[grant.run] = Answer(grant, run_count, word)
        delivery = self.run_of(grant)["delivery"]
        is_over = f"delivery.{delivery}.outcome" in self.run_of(grant)
        assert is_over == (word is not Word.RETRYING)
        return before

    def _report(self, report: Report, expected: Word) -> tuple[Stored, Word]:
        before, word = self._do(lambda: self.store.report(POOL, report))
        assert word is expected, f"{report} is {word} instead of {expected}"
        return before, word
