"""The atomic steps of one pool, each checked against what stood before it and what stands after.

A step is done through the Store; its answer is predicted from the moment before, and no run may
change that the answer does not name. `tests/redis/test_properties.py` puts steps into random order.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from dispatcher.connection import Connection
from dispatcher.errors import Refused
from dispatcher.keys import decode, encode
from dispatcher.records import (
    ClaimAnswer,
    Finish,
    Outcome,
    Pool,
    Queue,
    Release,
    Start,
    Submission,
    Word,
)
from dispatcher.store import Store
from tests.model import Accepted, Grant, Ledger, Stored, broken_promises, follow, read

POOL = "pool {1}:#"
QUEUES = ("default", "late {q}:#")
LEASE_MS = 15_000
PLENTY = 4096  # bytes for all payloads together
FAR_AHEAD = "9999999999999-0"  # an entry id after which ids no longer follow the clock
# What a run keeps from its acceptance to its end.
FIXED = ("member", "queue", "due_ms", "request", "name", "submitted_ms", "deployment")
T = TypeVar("T")


@dataclass
class Incarnation:
    """What a worker process knows of itself; it does not go back when the server does."""

    holder: str
    worker: str
    queues: tuple[str, ...]
    displaced: str
    number: int = 0


class Steps:
    """One pool with two queues; `stored` is what the server has now, `ledger` what it promised."""

    def __init__(self, client: Any, prefix: str, *, clock_ahead: bool, max_unclaimed: int) -> None:
        self.client = client
        self.store = Store(Connection(client), prefix)
        self.keys = self.store.keys(POOL)
        self.ledger = Ledger(now_ms=1_000_000)
        self.workers: list[Incarnation] = []
        self.grants: dict[tuple[str, str, int], Grant] = {}
        self.givers: dict[tuple[str, str], tuple[str, int]] = {}  # (run, token): who got it
        self.look_at_ms: dict[str, float] = dict.fromkeys(QUEUES, 0)
        self.hints = client.pubsub()
        self.hints.subscribe(self.keys["changes"])
        self._create(max_unclaimed)
        if clock_ahead:  # entry ids repeat after lost writes
            for queue in QUEUES:
                stream = self.keys["stream"] + encode(queue)
                client.xadd(stream, {"run": "none"}, id=FAR_AHEAD)
                client.xdel(stream, FAR_AHEAD)
        self.stored = read(client, self.keys)
        self.sound = True  # False from the beginning of a step until all is checked

    def _create(self, max_unclaimed: int) -> None:
        self.move_clock(0)
        self.store.create_pool(Pool(POOL, "p1", "process", lease_ms=LEASE_MS), default_queue_id="1")
        bounds = {"max_unclaimed": max_unclaimed, "max_deliveries": 2}
        self.store.create_queue(Queue(QUEUES[1], POOL, "2", 0, **bounds), priority=1)

    def close(self) -> None:
        """Delete what this pool has stored."""
        self.hints.close()
        for key in self.client.keys(self.store.prefix + ":*"):
            self.client.delete(key)

    def move_clock(self, by_ms: int) -> None:
        """Let time pass, or go back."""
        self.ledger.now_ms += by_ms
        self.store.now_ms = self.ledger.now_ms

    def check(self) -> None:
        """Compare what is stored with what was promised."""
        broken = [*broken_promises(self.stored, self.ledger), *self._overslept()]
        assert not broken, "\n".join(broken)
        self.sound = True

    # --- Steps of submitters and dispatchers

    def submit(self, submission: Submission) -> None:
        """Submit a run: a new one, one that is known, or the same request again."""
        known = self.ledger.accepted.get(submission.run_id)
        due_ms = self.ledger.now_ms if submission.due_ms is None else submission.due_ms
        if known is None or known.request == submission.request:
            expected = (Word.ACCEPTED, known.due_ms if known else due_ms)
        else:
            ended = submission.run_id in self.ledger.ended
            expected = (Word.ENDED if ended else Word.DUPLICATE, None)
        before, answer = self._do(lambda: self._submitted(submission))
        assert answer == expected, f"the submission is {answer} instead of {expected}"
        if known:
            return self._nothing(before)
        self.ledger.accepted[submission.run_id] = Accepted(
            encode(submission.queue),
            due_ms,
            submission.payload,
            submission.request,
            len(self.ledger.accepted),
        )
        return self._only(before, [submission.run_id])

    def _submitted(self, submission: Submission) -> tuple[Word, int | None]:
        try:
            receipt = self.store.submit(POOL, submission)
        except Refused:
            return Word.ENDED, None
        return receipt.word, receipt.due_ms

    def dispatch(self, queues: Iterable[str], *, limit: int, max_bytes: int) -> None:
        """Move what is due; invariants 2 and 6, and the bounds."""
        names, now_ms = list(queues), self.ledger.now_ms
        before, answer = self._do(
            lambda: self.store.dispatch(POOL, names, limit=limit, max_bytes=max_bytes)
        )
        self._passed_on(" ".join(map(encode, names)))
        moved = [m.run_id for m in answer.moved]
        self._only(before, moved)
        assert len(moved) <= limit, f"{len(moved)} were moved, the limit was {limit}"
        sizes = [len(self.ledger.accepted[run].payload) for run in moved]
        assert sum(sizes[:-1]) < max_bytes
        spent = len(moved) == limit or sum(sizes) >= max_bytes
        for name in names:
            there = [m.run_id for m in answer.moved if m.queue == name]
            due = [r for r in self._in_order(before, name) if self._due_ms(r) <= now_ms]
            assert there == due[: len(there)], f"of the due runs {due}, {there} went first"
            self._entered(name, there)
            left = [self._due_ms(run) for run in self._in_order(self.stored, name)]
            stuck = bool(left) and left[0] <= now_ms
            full = stuck and self._full(name)
            assert not stuck or full or spent, f"{due} are due in {name} and stay"
            said, next_due_ms = name in answer.more, None if full or not left else left[0]
            assert said == (stuck and not full), f"more of {name}: {said}; due are {due}"
            assert answer.next_due_ms[name] == next_due_ms
            self.look_at_ms[name] = math.inf if next_due_ms is None else next_due_ms

    def _entered(self, name: str, runs: list[str]) -> None:
        stream = self.stored["stream"].get(encode(name))
        last = list(stream.entries.items())[-len(runs) :] if stream and runs else []
        assert [fields["run"] for _, fields in last] == runs
        for entry, fields in last:
            record = self.stored.runs[fields["run"]]
            assert record["entry"] == entry
            assert record["dispatched_ms"] == str(self.ledger.now_ms)
            assert fields["due_ms"] == record["due_ms"]
            assert fields["run_count"] == record["run_count"]
            assert int(fields["delivery"]) == int(record["delivery"]) + 1

    def _in_order(self, stored: Stored, queue: str) -> list[str]:
        members = stored["scheduled"].get(encode(queue), [])
        accepted = self.ledger.accepted
        return sorted(
            (member[16:] for member, _ in members),
            key=lambda run: (accepted[run].due_ms, accepted[run].sequence),
        )

    def _due_ms(self, run: str) -> int:
        return self.ledger.accepted[run].due_ms

    def _full(self, queue: str) -> bool:
        return self._unread(queue) >= self._most(queue)

    def _most(self, queue: str) -> int:
        return int(self.stored["queue"][encode(queue)].get("max_unclaimed", 1000))

    def _unread(self, queue: str) -> int:
        """Entries that nobody has, whatever they stand for: these count against the bound."""
        stream = self.stored["stream"].get(encode(queue))
        return len(stream.entries) - len(stream.pending) if stream else 0

    # --- Steps of workers

    def claim(self, worker: Incarnation, number: int, *, slots: int, max_bytes: int) -> None:
        """Claim as this incarnation, with the next number, the last one again, or an old one."""
        expected = self._claim_word(worker.holder, number)
        before, answer = self._do(
            lambda: self.store.claim(
                POOL, worker.holder, number=number, slots=slots, max_bytes=max_bytes
            )
        )
        self._passed_on(before["holder"].get(worker.holder, {}).get("queues", ""))
        worker.number = max(worker.number, number)
        assert answer.word is expected, f"{answer.word} instead of {expected}"
        if answer.word is not Word.CLAIMED:
            return self._nothing(before)
        if number == int(before["holder"][worker.holder]["claim_number"]):
            mine = [g for key, g in self.grants.items() if key[1:] == (worker.holder, number)]
            still = {grant.run: grant.token for grant in mine if grant.holds(before)}
            again = {c.run_id: c.token for c in answer.claims}
            assert again == still, f"the claim gave {still}, and repeated {again}"
            return self._nothing(before)
        runs = [c.run_id for c in answer.claims]
        wanted = self._claimable(before, worker)[:slots]
        carried = sum(len(c.payload) for c in answer.claims)
        assert runs == wanted[: len(runs)], f"{wanted} can be claimed, {runs} went first"
        assert runs or not wanted, f"{wanted} can be claimed and nothing comes"
        assert len(runs) == len(wanted) or max_bytes < PLENTY
        assert len(runs) <= 1 or carried <= max_bytes
        self._only(before, runs)
        served = [q for q in self.stored.queues if self._serves(worker, q)]
        left = [queue for queue in served if self.stored.unclaimed(queue)]
        assert answer.more or not left, f"{left} have more, and the answer says none"
        return self._granted(before, worker.holder, number, answer)

    def may_claim(self, worker: Incarnation) -> bool:
        """Return whether the next claim of this incarnation is let through."""
        return self._claim_word(worker.holder, worker.number + 1) is Word.CLAIMED

    def granted(self, worker: Incarnation, *, still: bool = True) -> list[Grant]:
        """Return what the last claim of this incarnation gave: what it has of it, or all."""
        last = [g for key, g in self.grants.items() if key[1:] == (worker.holder, worker.number)]
        return [grant for grant in last if not still or grant.holds(self.stored)]

    def run_of(self, grant: Grant) -> dict[str, Any]:
        """Return the record of a claim's run; empty when the server has lost it."""
        return self.stored.runs.get(grant.run, {})

    def _passed_on(self, served: str) -> None:
        """Forget who has taken wakes of these queues: the step wakes somebody again."""
        queues = served.split() or self.stored.queues
        self.ledger.awake = {(h, q) for h, q in self.ledger.awake if q not in queues}

    def _claim_word(self, holder: str, number: int) -> Word:
        record = self.stored["holder"].get(holder)
        lease_ms = dict(self.stored["holders"].get("", [])).get(holder, 0)
        if record is None or "dead" in record or lease_ms <= self.ledger.now_ms:
            return Word.LOST
        if "draining" in record:
            return Word.DRAINING
        return Word.STALE if number < int(record["claim_number"]) else Word.CLAIMED

    def _serves(self, worker: Incarnation, queue: str) -> bool:
        return not worker.queues or queue in map(encode, worker.queues)

    def _claimable(self, stored: Stored, worker: Incarnation) -> list[str]:
        """Highest priority first, as invariant 7 wants it, and within a queue as dispatched."""
        served = [queue for queue in stored.queues if self._serves(worker, queue)]
        return [run for queue in served for run in stored.unclaimed(queue)]

    def _granted(self, before: Stored, holder: str, number: int, answer: ClaimAnswer) -> None:
        for claim in answer.claims:
            record, accepted = self.stored.runs[claim.run_id], self.ledger.accepted[claim.run_id]
            assert claim.payload == accepted.payload
            assert (encode(claim.queue), claim.due_ms) == (accepted.queue, accepted.due_ms)
            assert claim.run_count == int(record["run_count"])
            earlier = int(before.runs[claim.run_id]["delivery"])
            assert claim.delivery == earlier + 1, f"delivery {claim.delivery} follows {earlier}"
            grant = Grant(claim.run_id, holder, number, claim.token)
            assert grant.holds(self.stored)
            giver = self.givers.setdefault((claim.run_id, claim.token), (holder, number))
            assert giver == (holder, number), f"{claim.token} was given twice, first to {giver}"
            self.grants[claim.run_id, holder, number] = grant

    def start(self, grant: Grant, run_count: int) -> None:
        """Report a start."""
        record = self.run_of(grant)
        now, running = int(record.get("run_count", 0)), record.get("state_type") == "RUNNING"
        fresh = grant.holds(self.stored) and run_count == now + 1
        again = grant.holds(self.stored) and run_count == now and running
        before, word = self._do(
            lambda: self.store.report(POOL, Start(grant.run, grant.token, run_count))
        )
        expected = Word.STARTED if fresh or again else Word.LOST
        assert word is expected, f"the start is {word} instead of {expected}"
        if not fresh:
            return self._nothing(before)
        self._only(before, [grant.run])
        assert int(self.stored.runs[grant.run]["run_count"]) == run_count
        return None

    def finish(self, grant: Grant, outcome: Outcome, *, nudge: bool) -> None:
        """Report an end."""
        report = Finish(grant.run, grant.token, outcome, nudge)
        if self._end(grant, report, Word.FINISHED, nudge=nudge):
            record = self.stored.runs[grant.run]
            assert record["state_name"] == outcome.state_name
            assert (record["message"], record["output"]) == (outcome.message, outcome.output)

    def release(self, grant: Grant, *, nudge: bool) -> None:
        """Give back unfinished."""
        report = Release(grant.run, grant.token, "no room", nudge)
        if self._end(grant, report, Word.RELEASED, nudge=nudge):
            assert self.stored.runs[grant.run]["state_type"] == "SCHEDULED"

    def _end(self, grant: Grant, report: Finish | Release, word: Word, *, nudge: bool) -> bool:
        """Do a finish or release; True when it did something, not just answered."""
        first, answered = self.ledger.answers.get(grant.run, (None, Word.LOST))
        does = first != grant and grant.holds(self.stored)
        before, answer = self._do(lambda: self.store.report(POOL, report))
        expected = word if does else answered if first == grant else Word.LOST
        assert answer is expected, f"{type(report).__name__} is {answer} instead of {expected}"
        if not does:
            self._nothing(before)
            return False
        self.ledger.answers[grant.run] = (grant, word)
        self._only(before, [grant.run])
        field = f"delivery.{self.stored.runs[grant.run]['delivery']}.outcome"
        assert field in self.stored.runs[grant.run]
        assert not nudge or grant.holder in self.stored["inbox"], "the worker hears of no room"
        return True

    # --- What is compared around every step

    def _do(self, call: Callable[[], T]) -> tuple[Stored, T]:
        """Do one step; return what stood before it and its answer."""
        before, self.sound = self.stored, False
        answer = call()
        self.look()
        return before, answer

    def look(self) -> None:
        """Read what is stored now, and follow the events and hints since the last look."""
        known = self.stored.events
        self.stored = read(self.client, self.keys)
        assert known.items() <= self.stored.events.items(), "an event has gone"
        follow(self.ledger, [e for i, e in self.stored.events.items() if i not in known])
        self.hints.ping()
        while (message := self.hints.get_message(timeout=5))["type"] != "pong":
            if message["type"] == "message":
                queue, due_ms = message["data"].decode().split(" ")
                name = decode(queue)
                self.look_at_ms[name] = min(self.look_at_ms[name], int(due_ms))

    def _only(self, before: Stored, runs: list[str]) -> None:
        """Expect that the step changed these runs and no others."""
        known, now = before.runs, self.stored.runs
        changed = {run for run in known | now if known.get(run) != now.get(run)}
        assert changed == set(runs), f"the answer is about {runs}; changed are {sorted(changed)}"
        for run in changed & known.keys():
            for name in FIXED:
                assert now[run].get(name) == known[run].get(name), f"{name} of {run} has changed"

    def _nothing(self, before: Stored, *, beside: frozenset[str] = frozenset()) -> None:
        """Expect that the step changed nothing; it may have woken somebody. Invariant 4."""
        changed = self.stored.differences(before, beside={"wake"} | beside)
        assert not changed, f"a refused or repeated call changed {changed}"

    def _overslept(self) -> Iterator[str]:
        """Yield what a dispatcher that trusts answers and hints would leave lying: invariant 11."""
        for name in QUEUES:
            due = [self._due_ms(run) for run in self._in_order(self.stored, name)]
            if due and self.look_at_ms[name] > due[0] and not self._waits_for_room(name):
                yield f"{name} has a run due at {due[0]}; it is looked at {self.look_at_ms[name]}"

    def _waits_for_room(self, queue: str) -> bool:
        """Whether a claim will make room and say so; only while workers find the queue."""
        key = encode(queue)
        ready = any(key == there for there, _ in self.stored["ready"].get("", []))
        # Without its group, entries count as unread that were claimed, and end unnoticed.
        uncertain = any(key == broken for broken, _ in self.ledger.unmarked)
        full = uncertain or self._unread(queue) > self._most(queue) / 2
        return "blocked" in self.stored["queue"][key] and ready and full
