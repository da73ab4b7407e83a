"""The atomic steps of one pool, each checked against what stood before it and what stands after.

A step is done through the Store; its answer is predicted from the moment before, and no run may
change that the answer does not name. `tests/redis/test_properties.py` puts steps into random order.
Here are the base of all steps and the step of submitters.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from dispatcher.connection import Connection
from dispatcher.errors import Refused
from dispatcher.keys import decode, encode
from dispatcher.records import Submission, Word
from dispatcher.store import Store
from dispatcher.stored import Pool, Queue
from tests.model import OVER, Accepted, Ledger, Stored, follow, read
from tests.promises import broken_promises

POOL = "pool {1}:#"
QUEUES = ("default", "late {q}:#")
DEPLOYMENTS = ("d1", "d11")  # one begins like the other
LEASE_MS = 15_000
LATE_AFTER_MS = 1_000
PLENTY = 4096  # bytes for all payloads together
FAR_AHEAD = "9999999999999-0"  # an entry id after which ids no longer follow the clock
# What a run keeps from its acceptance to its end.
FIXED = ("member", "queue", "due_ms", "request", "name", "submitted_ms", "deployment")
# What a new round of a run that has ended does not know.
OF_A_ROUND = {
    *("claimed_ms", "started_ms", "first_started_ms", "ended_ms", "dispatched_ms", "waited"),
    *("losses", "unstarted", "message", "output", "outcome", "retrying", "ran_ms", "late_ms"),
}
SLOTS = ("pool_slots", "queue_slots", "deployment_slots")
REFUSALS = {"ended already": Word.ENDED, "be changed": Word.CLAIMED, "paused": Word.PAUSED}
T = TypeVar("T")


class Steps:
    """One pool with two queues; `stored` is what the server has now, `ledger` what it promised."""

    def __init__(self, client: Any, prefix: str, *, clock_ahead: bool, max_unclaimed: int) -> None:
        self.client = client
        self.store = Store(Connection(client), prefix)
        self.keys = self.store.keys(POOL)
        self.ledger = Ledger(now_ms=1_000_000)
        self.look_at_ms: dict[str, float] = dict.fromkeys(QUEUES, 0)
        self.latest_ms = self.ledger.now_ms  # of all moments so far; the clock may go back
        self.was_polled = False
        self.news: list[dict[str, str]] = []  # the events of the last step
        self.hinted: set[str] = set()  # queues that dispatchers are to look at after the last step
        self.hints = client.pubsub()
        self.hints.subscribe(self.keys["changes"])
        self._create(max_unclaimed)
        if clock_ahead:  # entry ids repeat after lost writes
            for queue in QUEUES:
                stream = self.keys["stream"] + encode(queue)
                client.xadd(stream, {"run": "none"}, id=FAR_AHEAD)
                client.xdel(stream, FAR_AHEAD)
        self.stored = read(client, self.keys, {})
        self.sound = True  # False from the beginning of a step until all is checked

    def _create(self, max_unclaimed: int) -> None:
        self.move_clock(0)
        self.store.create_pool(Pool(POOL, "p1", "process", lease_ms=LEASE_MS), default_queue_id="1")
        self.store.set_pool(POOL, {"late_after_ms": LATE_AFTER_MS})
        self.store.set_queue(POOL, QUEUES[0], {"max_deliveries": 1})
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
        self.latest_ms = max(self.latest_ms, self.ledger.now_ms)

    def check(self) -> None:
        """Compare what is stored with what was promised."""
        broken = [*broken_promises(self.stored, self.ledger), *self._overslept()]
        assert not broken, "\n".join(broken)
        self.sound = True

    # --- Submitters

    def submit(self, submission: Submission) -> None:
        """Submit a run: a new one, one that is known, or the same request again."""
        run, known = submission.run_id, self.ledger.accepted.get(submission.run_id)
        word, due_ms, answered = self._verdict(submission, known)
        before, answer = self._do(lambda: self._submitted(submission))
        assert answer == (word, due_ms, answered), f"{answer}, not {word, due_ms, answered}"
        repeated = known is not None and known.request == submission.request
        if repeated or word not in (Word.ACCEPTED, Word.RETIMED):
            return self._nothing(before, refused=word in REFUSALS.values())
        if word is Word.ACCEPTED:
            self.ledger.submissions += 1
            sequence = self.ledger.submissions
        else:
            sequence = known.sequence
        self._told_of("submitted" if word is Word.ACCEPTED else "retimed")
        self.ledger.accepted[run] = Accepted(
            encode(submission.queue),
            due_ms,
            submission.payload,
            submission.request,
            sequence,
            due_ms,
            submission.deployment,
            submission.state_id,
            submission.idempotency,
            submission.retries,
            submission.retry_delay_ms,
            submission.retry_type,
            word,
        )
        if word is Word.ACCEPTED:
            old = sorted(OF_A_ROUND & self.stored.runs[run].keys())
            assert not old, f"a new round of {run} begins with {old}"
        if submission.idempotency:
            self.ledger.first[submission.idempotency] = run
        return self._only(before, [run], fixed=())

    def _verdict(self, new: Submission, known: Accepted | None) -> tuple[Word, int | None, str]:
        """The table of docs/semantics.md: what the answer to an offer is."""
        first = self.ledger.first.get(new.idempotency, new.run_id)
        if known and known.request == new.request:
            return known.word, known.offered_ms, new.run_id
        if first != new.run_id or (not known and new.idempotency in self.ledger.first):
            return Word.DUPLICATE, None, first
        place = self.stored.runs[new.run_id]["place"] if known else ""
        if known and new.due_ms in (None, known.offered_ms):
            return Word.DUPLICATE, None, new.run_id
        if place == "claimed":
            return Word.CLAIMED, None, ""
        if known and place in OVER:
            later = new.due_ms is not None and new.due_ms > known.offered_ms
            if not later or new.state_id in ("", known.state_id):
                return Word.ENDED, None, ""
        if self.stored.is_paused(encode(new.queue), self.ledger.now_ms, "intake_paused"):
            return Word.PAUSED, None, ""
        word = Word.RETIMED if known and place not in OVER else Word.ACCEPTED
        return word, self.ledger.now_ms if new.due_ms is None else new.due_ms, new.run_id

    def _submitted(self, submission: Submission) -> tuple[Word, int | None, str]:
        try:
            receipt = self.store.submit(POOL, submission)
        except Refused as refused:
            return next(w for text, w in REFUSALS.items() if text in str(refused)), None, ""
        return receipt.word, receipt.due_ms, receipt.run_id

    # --- What is compared around every step

    def _in_order(self, stored: Stored, queue: str, also: Iterable[str] = frozenset()) -> list[str]:
        """The scheduled runs of a queue by due time, then submission."""
        accepted = self.ledger.accepted
        runs = [member[16:] for member in stored.members("scheduled", queue)]
        runs += [run for run in also if accepted[run].queue == queue]
        return sorted(runs, key=lambda run: (accepted[run].due_ms, accepted[run].sequence))

    def _most(self, queue: str) -> int:
        return int(self.stored["queue"][queue].get("max_unclaimed", 1000))

    def past(self) -> dict[str, set[str]]:
        """Return what has happened to each run so far, since it was submitted."""
        return {run: set(names) for run, names in self.ledger.past.items()}

    def _passed_on(self, served: str) -> None:
        """Forget who has taken wakes of these queues: the step wakes somebody again."""
        queues = served.split() or self.stored.queues
        self.ledger.awake = {(h, q) for h, q in self.ledger.awake if q not in queues}

    def _do(self, call: Callable[[], T]) -> tuple[Stored, T]:
        """Do one step; return what stood before it and its answer. Invariant 5: the limits."""
        before, self.sound = self.stored, False
        answer = call()
        self.look()
        for name in SLOTS:
            for key in self.stored[name]:
                new = set(self.stored.members(name, key)) - set(before.members(name, key))
                over = -self.stored.room(name, key)
                assert not new or over <= 0, f"{new} took {name} {key}, {over} too many"
        return before, answer

    def look(self) -> None:
        """Read what is stored now, and follow the events and hints since the last look."""
        known = self.stored.events
        self.stored = read(self.client, self.keys, known)
        self.news = [event for i, event in self.stored.events.items() if i not in known]
        self.was_polled = self.was_polled or self.stored.is_polled
        follow(self.ledger, self.news)
        self.hinted = set()
        self.hints.ping()
        while (message := self.hints.get_message(timeout=5))["type"] != "pong":
            if message["type"] == "message":
                queue, due_ms = message["data"].decode().split(" ")
                for name in [decode(queue)] if queue else QUEUES:
                    self.look_at_ms[name] = min(self.look_at_ms[name], int(due_ms))
                    self.hinted |= {name} if int(due_ms) == 0 else set()

    def _only(self, before: Stored, runs: Iterable[str], *, fixed: tuple[str, ...] = FIXED) -> None:
        """Expect that the step changed these runs and no others."""
        known, now = before.runs, self.stored.runs
        changed = {run for run in known | now if known.get(run) != now.get(run)}
        assert changed == set(runs), f"the answer is about {runs}; changed are {sorted(changed)}"
        for run in changed & known.keys() & now.keys():
            for name in fixed:
                assert now[run].get(name) == known[run].get(name), f"{name} of {run} has changed"

    def _nothing(
        self, before: Stored, *, beside: frozenset[str] = frozenset(), refused: bool = False
    ) -> None:
        """Expect that the step changed nothing; it may have woken somebody. Invariant 4."""
        beside |= {"wake", *(["events"] if refused else [])}
        changed = self.stored.differences(before, beside=set(beside))
        assert not changed, f"a refused or repeated call changed {changed}"
        self._told_of(*["refused"] * refused)

    def _told_of(self, *names: str) -> None:
        """Expect that the step has left exactly these events."""
        found = sorted(event["event"] for event in self.news)
        assert found == sorted(names), f"the events are {found} instead of {names}"

    # --- What a dispatcher that trusts answers and hints would leave lying: invariant 11

    def _overslept(self) -> Iterator[str]:
        for name in QUEUES:
            yield from self._unseen(name)
            yield from self._unheard(name)
        now_ms = self.ledger.now_ms
        awaited = {q: self.look_at_ms[decode(q)] <= now_ms for q in self.stored.queues}
        for deployment, queue in self.stored.waiting():
            free = self.stored.room("deployment_slots", deployment)
            free -= len(self._let_in_for(deployment))
            held_up = self.stored.is_paused(queue, now_ms) or self._waits_for_room(queue)
            marked = [q for q, marks in self.stored["freed"].items() if deployment in marks]
            if free > 0 and not held_up and not any(awaited[q] for q in marked):
                yield f"{queue} has runs that wait for {deployment}, which has room for {free}"

    def _let_in_for(self, deployment: str) -> list[str]:
        """Runs that came back for a slot and have not taken it yet."""
        there = [r for r in self.stored.runs.items() if r[1]["place"] == "scheduled"]
        mine = [(run, record) for run, record in there if record["deployment"] == deployment]
        return [run for run, record in mine if self._is_next(run, record)]

    def _is_next(self, run: str, record: dict[str, Any]) -> bool:
        """Whether a scheduled run has the word to take a slot of its deployment.

        In a pool that is polled, each one that is due; dispatchers look at those first, later on.
        """
        due_ms = int(record["due_ms"])
        if self.was_polled and due_ms <= self.latest_ms:
            look_at_ms = self.look_at_ms[decode(record["queue"])]
            if self.stored.is_polled or look_at_ms <= max(due_ms, self.ledger.now_ms):
                return True
        return "admitted" in self.ledger.past[run] and not self.stored.is_polled

    def _unseen(self, name: str) -> Iterator[str]:
        """Due runs that no dispatcher will look at, or a pause whose end nobody awaits."""
        queue, now_ms, look_at_ms = encode(name), self.ledger.now_ms, self.look_at_ms[name]
        end_ms = max(self.stored.paused_until_ms(key, now_ms) for key in (None, queue))
        if end_ms > 0:
            if look_at_ms > end_ms:
                yield f"{name} is paused until {end_ms}, and looked at {look_at_ms}"
            return
        if self.stored.is_polled:
            return  # whoever polls finds it
        due = [self.ledger.accepted[run].due_ms for run in self._in_order(self.stored, queue)]
        if due and look_at_ms > max(due[0], now_ms) and not self._waits_for_room(queue):
            yield f"{name} has a run due at {due[0]}; it is looked at {look_at_ms}"

    def _unheard(self, name: str) -> Iterator[str]:
        """Where something can be claimed, workers find it and one of them is woken."""
        queue, now_ms = encode(name), self.ledger.now_ms
        waiting = self.stored.unclaimed(queue)
        closed = self.stored.is_paused(queue, now_ms) or self._is_limited(queue)
        closed = closed or self.stored.is_polled
        places = (self.stored["pool"][""], self.stored["queue"][queue])
        has_ended = any("paused" in settings for settings in places)  # its end came just now
        if not waiting or closed or (has_ended and self.look_at_ms[name] <= now_ms):
            return
        if queue not in self.stored.members("ready"):
            yield f"{queue} has {waiting} and is not ready"
        taken = any(queue == woken for _, woken in self.ledger.awake)
        if queue not in self.stored["wake"] and not taken and self.look_at_ms[name] > 0:
            yield f"{queue} has {waiting} and wakes nobody"

    def _is_limited(self, queue: str) -> bool:
        return min(self.stored.room("pool_slots"), self.stored.room("queue_slots", queue)) <= 0

    def _waits_for_room(self, queue: str) -> bool:
        """Whether a claim will make room and say so; only while workers find the queue."""
        ready = queue in self.stored.members("ready") or self._is_limited(queue)
        full = self.stored.unread(queue) > self._most(queue) / 2
        # Without its group, entries count as unread that were claimed, and end unnoticed: a sweep
        # of the dispatchers finds the room.
        uncertain = any(queue == broken for broken, _ in self.ledger.unmarked)
        return "blocked" in self.stored["queue"][queue] and (uncertain or (ready and full))
