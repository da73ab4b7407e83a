"""What operators do, and what happens to servers and data, as rules of the property test.

The rules of submitters, dispatchers and workers are in `tests/redis/test_properties.py`. Hypothesis
takes one rule as often as another, so what is rare in life shares a rule with others of its kind.
"""

from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispatcher.keys import encode
from dispatcher.records import Outcome, Submission
from tests.claims import Incarnation
from tests.fleet import Fleet, Save
from tests.machine import DEPLOYMENTS, PLENTY, QUEUES
from tests.model import Accepted, Grant

WORKERS = ("w1", "w 2")
DELAYS_MS = st.sampled_from([None, 0, 0, 500, 500, 500, -1000, 2000, 30_000])
queues = st.sampled_from(QUEUES)
SAMPLE = b'{"a": "\xc3\x84\r"}'
everywhere = st.sampled_from([None, *QUEUES])  # None is the pool
few = st.integers(1, 3)
limits = st.sampled_from([1, 1, 1, 2, 0, None, None])
picks = st.integers(0, 40)  # which one of a list, counted from its newest
# A deployment, and what a run brings for its retries: how often, after how long, in which way.
BROUGHT = st.sampled_from(
    [
        ("", 0, 0, "reschedule"),
        ("", 1, 500, "in_process"),
        (DEPLOYMENTS[0], 0, 0, "reschedule"),
        (DEPLOYMENTS[0], 1, 500, "in_process"),
        (DEPLOYMENTS[0], 1, 500, "reschedule"),
        (DEPLOYMENTS[1], 1, 0, "in_process"),
    ]
)
LIMITED = BROUGHT.filter(lambda brought: brought[0] == DEPLOYMENTS[0])
COMPLETED = Outcome("COMPLETED", "Completed", "", b"\x00\xff done")
SETTINGS = {
    "latest": {"late_policy": "latest"},
    "drop": {"late_drop_ms": 900},
    "all": {"late_policy": None, "late_drop_ms": None},
    "crash": {"on_worker_lost": "crash"},
    "requeue": {"on_worker_lost": None},
    "priority": {},
}


class Deeds(RuleBasedStateMachine):
    """Does steps in random order; each is checked in `Fleet`, and all promises after each."""

    fleet: Fleet
    saved: Save | None = None
    count = 0

    def fresh(self) -> str:
        self.count += 1
        return str(self.count)

    def pick(self, items: list, index: int) -> object:
        return items[-1 - index % len(items)]

    def able(self) -> list[Incarnation]:
        """The workers whose next claim is let through; if there are none, one comes."""
        if not any(map(self.fleet.may_claim, self.fleet.workers)):
            self.fleet.register(WORKERS[0], self.fresh(), ())
        return list(filter(self.fleet.may_claim, self.fleet.workers))

    def worker(self, index: int) -> Incarnation:
        """Three in four are workers that may claim."""
        return self.pick(self.able() if index % 4 else self.fleet.workers, index // 4)

    def grant(self, index: int) -> Grant | None:
        """Half of them are claims that hold; of the others half are on runs that somebody has."""
        every = list(self.fleet.grants.values())
        held = [grant for grant in every if grant.holds(self.fleet.stored)]
        over = [grant for grant in every if grant not in held]
        taken = [grant for grant in over if self.fleet.run_of(grant).get("place") == "claimed"]
        found = [held, held, taken or over, over][index % 4] or every
        return self.pick(found, index // 4) if found else None

    def some_run(self, index: int, *, places: tuple[str, ...] = ()) -> tuple[str, Accepted]:
        """Return a run, in one of these places if there is one."""
        ledger, stored = self.fleet.ledger, self.fleet.stored
        there = [run for run, record in stored.runs.items() if record["place"] in places]
        run = self.pick(there or list(ledger.accepted), index)
        return run, ledger.accepted[run]

    def offer(self, run, queue, payload, request, due_ms, brought, state_id, key) -> None:
        names = ("deployment", "retries", "retry_delay_ms", "retry_type")
        fields = dict(zip(names, brought, strict=True)) | {"state_id": state_id}
        self.fleet.submit(
            Submission(run, queue, payload, "name", request, due_ms, idempotency=key, **fields)
        )

    def new_run(
        self, queue: str, delay_ms: int | None, brought: tuple, payload: bytes = SAMPLE, key="own"
    ) -> None:
        run, now_ms = str(UUID(int=int(self.fresh()) * 7919)), self.fleet.ledger.now_ms
        due_ms = None if delay_ms is None else now_ms // 500 * 500 + delay_ms
        key = f"key of {run}" if key == "own" else key
        self.offer(run, queue, payload, f"request-{run}", due_ms, brought, "state 1", key)

    def watch_later(self) -> None:
        self.fleet.check()
        self.fleet.move_clock(2000)
        self.fleet.watch(limit=3)

    def hand_out(self, worker: Incarnation, slots: int) -> None:
        self.fleet.check()
        self.fleet.dispatch(QUEUES, limit=3, max_bytes=PLENTY)
        self.fleet.check()
        self.fleet.claim(worker, worker.number + 1, slots=slots, max_bytes=PLENTY)

    @invariant()
    def every_promise_is_kept(self) -> None:
        self.fleet.check()

    # --- Operators

    @rule(index=picks, limit=limits, what=st.sampled_from([*["limit"] * 6, *SETTINGS]))
    def set_something(self, index: int, limit: int | None, what: str) -> None:
        """Limit the pool, a queue, or a deployment; or set something else of a queue."""
        if what != "limit":
            priority = 1 + index % 2 if what == "priority" else None
            self.fleet.set_queue(self.pick(QUEUES, index), SETTINGS[what], priority=priority)
        elif index % 4 > 1:
            strategy = "CANCEL_NEW" if index % 8 > 5 else "ENQUEUE"
            self.fleet.set_deployment(self.pick(DEPLOYMENTS, index // 8), limit, strategy)
        elif index % 4 == 1:
            self.fleet.set_pool({"limit": limit})
        else:
            self.fleet.set_queue(self.pick(QUEUES, index // 4), {"limit": limit})

    @rule(where=everywhere, index=picks, for_ms=st.sampled_from([None, 500, 3000, 0]))
    def pause(self, where: str | None, index: int, for_ms: int | None) -> None:
        """Pause, and most often let a dispatcher see that; of intake, see a submit refused."""
        if index % 4 > 1:
            self.fleet.dispatch(QUEUES, limit=3, max_bytes=PLENTY)
            self.fleet.check()
        until_ms = None if for_ms is None else self.fleet.ledger.now_ms + for_ms
        self.fleet.pause(where, intake=index % 4 == 0, until_ms=until_ms)
        if index % 4 == 0:
            self.fleet.check()
            self.new_run(where or self.pick(QUEUES, index // 4), 0, ("", 0, 0, "reschedule"))
        for queue in QUEUES if index % 4 > 1 else ():
            self.fleet.check()
            self.fleet.withdraw(queue, limit=1 + index % 3)

    @rule(index=picks, what=st.sampled_from(["resume", "resume", "withdraw", "go on"]))
    def resume(self, index: int, what: str) -> None:
        """Resume what is paused, or let a dispatcher see that it is."""
        stored, kind = self.fleet.stored, "intake_paused" if index % 4 == 1 else "paused"
        paused = [q for q in QUEUES if kind in stored["queue"][encode(q)]]
        paused += [None] if kind in stored["pool"][""] else []
        where = self.pick(paused if index % 4 and paused else [None, *QUEUES], index // 4)
        if what == "resume":
            self.fleet.resume(where, intake=index % 4 == 1)
        elif what == "withdraw":
            self.fleet.withdraw(where or QUEUES[1], limit=1 + index % 3)
        else:
            self.hand_out(self.worker(index), 2)

    @precondition(lambda self: self.fleet.ledger.accepted)
    @rule(index=picks, what=st.sampled_from(["claimed", "waiting", "stream", "scheduled", "any"]))
    def cancel(self, index: int, what: str) -> None:
        run, _ = self.some_run(index // 4, places=(what,))
        for _ in range(2 if index % 4 == 1 else 1):
            self.fleet.cancel(run)
        self.fleet.check()
        grants = [g for g in self.fleet.grants.values() if g.run == run]
        grants = [g for g in grants if g.holds(self.fleet.stored)]
        for grant in grants if index % 2 else []:
            count = int(self.fleet.run_of(grant)["run_count"])
            if index % 8 == 1:
                self.fleet.release(grant, nudge=False)
            elif index % 8 == 3:
                self.fleet.start(grant, count + 1)
            else:
                self.fleet.finish(grant, COMPLETED, nudge=True, run_count=count)
        if index % 4 > 1:
            self.hand_out(self.pick(self.able(), index // 4), 2)

    @precondition(lambda self: self.fleet.ledger.accepted)
    @rule(index=picks, delay_ms=DELAYS_MS, what=st.sampled_from(["waiting", "stream", "any"]))
    def retime(self, index: int, delay_ms: int | None, what: str) -> None:
        run, known = self.some_run(index, places=(what,))
        self.fleet.retime(run, None if delay_ms is None else known.due_ms + delay_ms)
        if index % 3 == 0:
            self.watch_later()

    @precondition(lambda self: self.fleet.ledger.accepted)
    @rule(index=picks, delay_ms=DELAYS_MS, does=st.sampled_from(["requeue", "requeue", "purge"]))
    def dead_letter(self, index: int, delay_ms: int | None, does: str) -> None:
        """Requeue a dead-lettered run, or purge it with one that is not; else let a worker die."""
        run, known = self.some_run(index // 4, places=("dead",) if index % 4 else ())
        if not self.fleet.stored.members("dead") and index % 4:
            self.lose_running(index)
        elif does == "purge":
            self.fleet.purge(list({run, self.some_run(index // 8)[0]}))
            self.fleet.check()
            request = f"request {self.fresh()}"  # once more, perhaps under the key of a purged one
            key, queue = known.idempotency, self.pick(QUEUES, index)
            self.offer(run, queue, b"again", request, None, ("", 0, 0, "reschedule"), "", key)
        else:
            self.fleet.requeue(run, None if delay_ms is None else known.due_ms + delay_ms)

    def lose_running(self, index: int) -> None:
        """A worker dies while it runs something."""
        held = [grant for grant in self.fleet.grants.values() if grant.holds(self.fleet.stored)]
        if not held:
            return
        grant = self.pick(held, index)
        self.fleet.start(grant, int(self.fleet.run_of(grant)["run_count"]) + 1)
        self.fleet.check()
        worker = next(w for w in self.fleet.workers if w.holder == grant.holder)
        if worker.holder in self.fleet.stored["workers"][""].values():
            self.fleet.register(worker.worker, self.fresh(), ())
            self.fleet.check()
            self.fleet.recover(worker.holder, limit=2)

    # --- What happens now and then

    @rule(index=picks, what=st.sampled_from(["drain", "again", "again", "come", "all leave"]))
    def staff(self, index: int, what: str) -> None:
        """Most often one that is being recovered registers again."""
        if what == "drain":
            return self.fleet.drain(self.worker(index))
        if what == "all leave":
            return self.leave_alone()
        if what == "come":
            served = [(), QUEUES[:1], QUEUES[1:]][index % 3]
            return self.fleet.register(self.pick(WORKERS, index // 4), self.fresh(), served)
        known = [w for w in self.fleet.workers if w.holder in self.fleet.stored["holder"]]
        dying = [w for w in known if not self.fleet.may_claim(w)]
        workers = (dying if index % 4 else known) or self.able()
        return self.fleet.register_again(self.pick(workers, index // 4))

    def leave_alone(self) -> None:
        """For a while nobody serves the queues; then somebody comes."""
        for worker in filter(self.fleet.may_claim, self.fleet.workers):
            self.fleet.drain(worker)
            self.fleet.check()
        self.fleet.dispatch(QUEUES, limit=3, max_bytes=PLENTY)
        self.watch_later()
        self.hand_out(self.pick(self.able(), 0), 2)

    @rule(index=picks, does=st.sampled_from(["save", "save", "lose", "lose a claim"]))
    def lose_writes(self, index: int, does: str) -> None:
        """The server goes back to what it had when it was saved last, once, or before a claim."""
        if does == "save":
            self.saved = self.fleet.save()
        elif does == "lose" and self.saved:
            self.fleet.lose_writes(self.saved)
            self.saved = None
        elif does == "lose a claim":
            saved, worker = self.fleet.save(), self.worker(index)
            self.fleet.claim(worker, worker.number + 1, slots=1 + index % 3, max_bytes=PLENTY)
            self.fleet.check()
            self.fleet.lose_writes(saved)

    @rule(queue=queues, create=st.booleans(), index=picks, stray=st.booleans())
    def damage_a_stream(self, queue: str, create: bool, index: int, stray: bool) -> None:
        runs = list(self.fleet.ledger.accepted)
        held = [name for name in QUEUES if self.fleet.has_pending(name)]
        if runs and stray:
            self.fleet.stray_entry(self.pick(runs, index))
        else:
            self.fleet.break_group(self.pick(held, index) if held else queue, create=create)
