"""Stories of a pool that is polled for a while: what chance alone would seldom find."""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from dispatcher.keys import decode
from tests.deeds import COMPLETED, SETTINGS, picks
from tests.machine import DEPLOYMENTS, LEASE_MS, PLENTY, QUEUES
from tests.model import Grant
from tests.stories import PLAIN, SHARED, Stories, has_room

AFTERWARDS = ("again", "race", "lose", "end", "give back", "die", "displaced", "named", "stay")
BEFORE = ("pause the pool", "pause the queue", "limit the pool", "limit the queue")


class Polls(Stories):
    """Runs are taken by their ids, by those that poll; most often workers claim again then."""

    def poll_now(self, index: int) -> None:
        """Let the pool be polled; most often a dispatcher sees that before anybody polls."""
        self.fleet.check()
        if not self.fleet.stored.is_polled:
            self.fleet.set_pool({"handout": "poll"})
        if index % 3:
            self.checked_dispatch(limit=1 + index % 5)
            self.fleet.withdraw(self.pick(QUEUES, index), limit=2)
        self.fleet.check()

    def take_some(self, index: int, *places: str) -> tuple[str, str]:
        """Take a run that is in one of these places, if there is one; return it with the taker."""
        self.fleet.check()
        run, _ = self.some_run(index, places=places)
        incarnation = self.fresh()
        self.fleet.take(run, incarnation)
        self.fleet.check()
        return run, incarnation

    def has(self) -> Grant | None:
        """Return the last claim, if it still holds."""
        grant = self.grant(0)
        return grant if grant and grant.holds(self.fleet.stored) else None

    def stream_again(self, index: int, **settings: object) -> None:
        self.fleet.check()
        if index % 5:
            settings["handout"] = [None, "stream"][index % 2]
        self.fleet.set_pool(settings)

    @has_room
    @rule(index=picks, then=st.sampled_from(AFTERWARDS))
    def poll(self, index: int, then: str) -> None:
        """A run is taken; then it is asked for again, or ends, or its holder goes."""
        self.new_run(self.pick(QUEUES, index), 0, PLAIN if index % 2 else SHARED)
        self.poll_now(index)
        saved = self.fleet.save()
        run, incarnation = self.take_some(index, "scheduled", *["stream"] * (index % 2))
        taken, grant = self.fleet.workers[-1], self.has()
        if then == "lose":
            self.fleet.lose_writes(saved)
            self.fleet.check()
            incarnation = self.fresh()
        elif then == "race":
            incarnation = self.fresh()
        elif then == "end" and grant:
            self.fleet.finish(grant, COMPLETED, nudge=False, run_count=None)
        elif then == "give back" and grant:
            self.fleet.release(grant, nudge=False)
        elif then in ("displaced", "named"):
            if then == "named":
                self.fleet.move_clock(LEASE_MS + 500)
                self.fleet.recover(taken.holder, limit=1)
                self.fleet.check()
            self.fleet.register(taken.worker, self.fresh(), ())
        elif then == "die":
            self.fleet.move_clock(LEASE_MS + 500)
            self.fleet.recover(taken.holder, limit=1)
            incarnation = self.fresh()
        self.fleet.check()
        self.fleet.take(run, incarnation)
        if then != "stay":
            self.stream_again(index)

    @has_room
    @rule(index=picks, first=st.sampled_from(BEFORE))
    def poll_in_vain(self, index: int, first: str) -> None:
        """A pause, or a limit that is reached, and somebody takes a run all the same."""
        queue = self.pick(QUEUES, index)
        self.fill(queue, 2)
        self.poll_now(index // 2)
        where = queue if "queue" in first else None
        if "pause" in first:
            self.fleet.pause(where, intake=False, until_ms=None)
        elif where:
            self.fleet.set_queue(queue, {"limit": 1})
        else:
            self.fleet.set_pool({"limit": 1})
        for _ in range(2):
            self.take_some(0, "scheduled", "stream")
        worker = self.pick(self.able(), index)
        self.fleet.check()
        self.fleet.take_wakes(worker)
        self.fleet.check()
        self.fleet.claim(worker, worker.number + 1, slots=1, max_bytes=PLENTY)
        self.fleet.check()
        if "pause" in first:
            self.fleet.resume(where, intake=False)
        elif where:
            self.fleet.set_queue(queue, {"limit": None})
        self.stream_again(index, limit=None)

    @has_room
    @rule(index=picks, most=st.integers(0, 2), then=st.sampled_from(["end", "raise", "newcomer"]))
    def poll_for_a_slot(self, index: int, most: int, then: str) -> None:
        """Those that poll contend for the slots of one deployment."""
        first, last = (decode(queue) for queue in self.fleet.stored.queues)
        self.poll_now(0)
        strategy = "CANCEL_NEW" if index % 4 == 3 else "ENQUEUE"
        self.fleet.set_deployment(DEPLOYMENTS[0], most, strategy)
        for queue in (first, last):
            self.fleet.check()
            self.new_run(queue, -1000 if index % 5 == 1 else 0, SHARED)
        if index % 2:
            self.checked_dispatch(limit=1 + index % 3)
        self.take_some(index, "scheduled")
        grant = self.has()
        self.checked_dispatch(*[(last,), (first,), (first, last)][index % 3])
        self.take_some(index // 2, "waiting", "scheduled")
        if then == "raise":
            self.fleet.set_deployment(DEPLOYMENTS[0], [2, None][index % 2], strategy)
        elif grant and index % 3:
            self.fleet.release(grant, nudge=False)
        elif grant:
            self.fleet.finish(grant, COMPLETED, nudge=False, run_count=None)
        if then == "newcomer":
            self.fleet.check()
            self.new_run(self.pick((first, last), index), 0, SHARED)
            self.take_some(0)
        else:
            self.checked_dispatch(limit=2)
        if then == "raise" and index % 2:  # what came in again is no new run
            self.fleet.check()
            self.fleet.set_deployment(DEPLOYMENTS[0], 0, "CANCEL_NEW")
        for number in range(2):
            self.take_some(number + index // 3, "scheduled")
        self.stream_again(index)

    @has_room
    @rule(
        index=picks,
        policy=st.sampled_from(["latest", "drop"]),
        most=st.sampled_from([1, 1, 2, None]),
        streamed=st.booleans(),
        then=st.sampled_from(["dispatch", "take", "take", "on time"]),
    )
    def poll_late(
        self, index: int, policy: str, most: int | None, streamed: bool, then: str
    ) -> None:
        """Runs of one deployment are late; some of them wait for it."""
        queue, seldom = QUEUES[0], (DEPLOYMENTS[1], 0, 0, "reschedule")  # nobody else has its room
        self.fleet.set_queue(queue, SETTINGS[policy])
        self.fleet.check()
        self.fleet.set_deployment(DEPLOYMENTS[1], most, "ENQUEUE")
        for _ in range(3):
            self.fleet.check()
            self.new_run(queue, 0, seldom)
        if streamed:
            self.checked_dispatch(limit=5)
        self.poll_now(0 if streamed else 2)
        if then != "on time":
            self.fleet.move_clock(1500)
        if then == "dispatch":
            self.checked_dispatch(limit=5)
        for number in range(2):
            self.take_some(number + index, "stream" if streamed else "scheduled")
        self.checked_dispatch(limit=3)
        self.take_some(0, "scheduled")
        self.fleet.set_queue(queue, SETTINGS["all"])
        self.stream_again(index)

    @has_room
    @rule(index=picks)
    def poll_behind(self, index: int) -> None:
        """A run comes into the schedule behind what has been seen of it, and is the latest one."""
        queue, seldom = QUEUES[0], (DEPLOYMENTS[1], 0, 0, "reschedule")
        self.fleet.set_queue(queue, SETTINGS["latest"])
        self.fleet.check()
        self.new_run(queue, 0, seldom)
        first = list(self.fleet.ledger.accepted)[-1]
        self.poll_now(0)
        self.fleet.move_clock(1500)
        self.new_run(queue, 0, PLAIN)
        self.checked_dispatch(limit=5)
        self.new_run(queue, -1000, seldom)
        self.fleet.check()
        self.fleet.take(first, self.fresh())
        self.fleet.check()
        self.fleet.set_queue(queue, SETTINGS["all"])
        self.stream_again(index)

    @has_room
    @rule(index=picks)
    def poll_where_nobody_serves(self, index: int) -> None:
        """A queue was said to have no worker; then its run is taken."""
        queue = self.pick(QUEUES, index)
        for worker in filter(self.fleet.may_claim, self.fleet.workers):
            self.fleet.check()
            self.fleet.drain(worker)
        self.fill(queue, 1)
        self.watch_later()
        self.poll_now(0)
        self.take_some(0, "stream")
        self.stream_again(index)
