"""Short stories for the property test: orders of steps that chance alone would seldom find.

Each takes the moment as it is, so its steps meet whatever came before.
"""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dispatcher.keys import decode, encode
from tests.deeds import COMPLETED, Deeds, few, picks, queues
from tests.machine import DEPLOYMENTS, LEASE_MS, PLENTY, QUEUES

MOST_RUNS = 12
PLAIN = ("", 0, 0, "reschedule")
SHARED = (DEPLOYMENTS[0], 0, 0, "reschedule")
has_room = precondition(lambda self: len(self.fleet.ledger.accepted) < MOST_RUNS)


class Stories(Deeds):
    """Contention for slots, pauses, wakes, and retries, step by step."""

    def checked_dispatch(self, *names: str, limit: int = 3) -> None:
        self.fleet.check()
        self.fleet.dispatch(names or QUEUES, limit=limit, max_bytes=PLENTY)
        self.fleet.check()

    def fill(self, queue: str, count: int) -> None:
        for _ in range(count):
            self.fleet.check()
            self.new_run(queue, 0, PLAIN)
        self.checked_dispatch(queue)

    @has_room
    @rule(
        index=picks, then=st.sampled_from(["raise", "pause", "fill", "earlier", "cancel", "let in"])
    )
    def contend(self, index: int, then: str) -> None:
        """Runs of both queues wait for one deployment, and then it has room."""
        first, last = (decode(queue) for queue in self.fleet.stored.queues)
        self.fleet.set_deployment(DEPLOYMENTS[0], 0, "ENQUEUE")
        for queue in (first, last):
            self.fleet.check()
            self.new_run(queue, 0, SHARED)
        for _ in range(2):
            self.checked_dispatch(limit=5)
        if then == "fill":
            self.fill(first, 2)
        strategy = "CANCEL_NEW" if then == "earlier" else "ENQUEUE"
        self.fleet.set_deployment(DEPLOYMENTS[0], [1, 2, None][index % 3], strategy)
        self.fleet.check()
        if then == "pause":
            if index % 2:
                self.checked_dispatch(last)
            self.fleet.pause(first, intake=False, until_ms=None)
        elif then == "earlier":
            self.new_run(first, -1000, SHARED)
        elif then == "cancel":
            run, _ = self.some_run(index, places=("waiting",))
            self.fleet.cancel(run)
        elif then == "let in":  # and an earlier one is dispatched before it
            self.new_run(first, -1000, PLAIN)
            self.checked_dispatch(first, limit=1)
            run, _ = self.some_run(index, places=("scheduled",))
            self.fleet.cancel(run)
        self.checked_dispatch(*[(last,), (first,), (first, last)][index % 3])
        self.checked_dispatch(first)

    @has_room
    @rule(queue=queues, index=picks, stray=st.booleans())
    def pause_and_resume(self, queue: str, index: int, stray: bool) -> None:
        """What is in the stream of a paused queue stays there, or is withdrawn."""
        self.fill(queue, 1)
        where = queue if index % 3 else None
        self.fleet.pause(where, intake=False, until_ms=None)
        if stray:
            self.fleet.check()
            self.fleet.stray_entry(self.some_run(index, places=("stream",))[0])
        if index % 2:
            self.fleet.check()
            self.fleet.withdraw(queue, limit=1)
        self.fleet.check()
        self.fleet.resume(where, intake=False)

    @has_room
    @rule(index=picks, then=st.sampled_from(["it claims", "it drains", "it renews", "it is old"]))
    def wake_one(self, index: int, then: str) -> None:
        """A worker takes the wakes, and there is more than it takes along."""
        queue, worker = self.pick(QUEUES, index), self.pick(self.able(), index // 2)
        self.fill(queue, 2)
        self.fleet.take_wakes(worker)
        self.fleet.check()
        if index % 4 == 0:
            priority = dict(self.fleet.stored["queues"][""])[encode(queue)]
            other = next(name for name in QUEUES if name != queue)
            self.fleet.set_queue(other, {}, priority=priority)  # its own goes down by one
            self.fleet.check()
        if then == "it claims":
            self.fleet.claim(worker, worker.number + 1, slots=1, max_bytes=PLENTY)
        elif then == "it drains":
            self.fleet.drain(worker)
        elif then == "it renews":
            held = len(self.fleet.stored["claims"].get(worker.holder, []))
            self.fleet.renew(worker, held=held, number=worker.number)
        else:
            self.fleet.claim(worker, max(0, worker.number - 1), slots=1, max_bytes=PLENTY)

    @has_room
    @rule(index=picks)
    def repeat(self, index: int) -> None:
        """A claim is repeated when somebody else has its run by now."""
        worker = self.pick(self.able(), index)
        self.fill(self.pick(QUEUES, index), 1)
        self.hand_out(worker, 1)
        for grant in self.fleet.granted(worker)[:1]:
            self.fleet.check()
            self.fleet.release(grant, nudge=False)
            self.fleet.check()
            self.fleet.register(worker.worker + "2", self.fresh(), ())
            self.hand_out(self.fleet.workers[-1], 3)
            self.fleet.check()
            self.fleet.claim(worker, worker.number, slots=1, max_bytes=PLENTY)

    @rule(index=picks)
    def succeed(self, index: int) -> None:
        """A worker gives way to a successor that lives, and not to one that died as well."""
        worker = self.pick(self.able(), index)
        self.fleet.register(worker.worker, self.fresh(), ())
        self.fleet.check()
        if index % 2:
            self.fleet.move_clock(LEASE_MS + 500)
        self.fleet.renew(worker, held=0, number=worker.number)

    @has_room
    @rule(index=picks, slots=few)
    def limit_while_running(self, index: int, slots: int) -> None:
        """A limit is set below, at or above what runs; then something ends."""
        queue = self.pick(QUEUES, index)
        self.fill(queue, 2)
        self.hand_out(self.pick(self.able(), index // 2), slots)
        self.fleet.check()
        if index % 4 > 1:
            self.fleet.set_pool({"limit": index % 3})
        else:
            self.fleet.set_queue(queue, {"limit": index % 3})
        self.hand_out(self.pick(self.able(), index // 4), slots)
        if (grant := self.grant(0)) and grant.holds(self.fleet.stored):
            self.fleet.check()
            self.fleet.finish(grant, COMPLETED, nudge=True)
            self.hand_out(self.pick(self.able(), index // 4), 1)
