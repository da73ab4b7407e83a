"""The steps of holders, what happens to the data from outside, and the way to rest."""

from copy import deepcopy
from dataclasses import dataclass

from dispatcher.errors import Refused
from dispatcher.keys import GROUP, decode, encode
from dispatcher.records import Outcome, Recovered, Registered, Registration, Word
from tests.claims import Incarnation
from tests.machine import DEPLOYMENTS, LEASE_MS, PLENTY, POOL, QUEUES, SLOTS
from tests.model import Ledger, Stored
from tests.operators import Operators

MOST_DELIVERIES = {QUEUES[0]: 1, QUEUES[1]: 2}


@dataclass(frozen=True)
class Save:
    """Everything at one moment, so that later writes can be lost."""

    dumps: list[tuple[bytes, bytes, int]]
    ledger: Ledger
    stored: Stored


class Fleet(Operators):
    """The pool with workers that come, renew, drain, die, and are recovered."""

    def register(self, worker: str, incarnation: str, queues: tuple[str, ...]) -> None:
        """Begin a new incarnation of a worker; the older one of the name is displaced."""
        registration = Registration(worker, incarnation, 3, queues)
        before, answer = self._do(lambda: self.store.register(POOL, registration))
        self.workers.append(Incarnation(answer.holder, worker, queues, answer.displaced))
        older = before["workers"].get("", {}).get(encode(worker), "")
        self._only(before, [])
        self._registered(answer.holder)
        assert answer.displaced == (older if older in before["holder"] else "")
        if answer.displaced:
            assert "dead" in self.stored["holder"][older], f"{older} was displaced and lives"
            assert (older, 0) in self.stored["holders"][""]
            assert older in self.stored["inbox"], f"{older} does not hear that it was displaced"

    def register_again(self, worker: Incarnation) -> None:
        """Send a registration again, unless its holder was forgotten: then it is too late."""
        holder = self.stored["holder"].get(worker.holder)
        if holder is None:
            return None
        incarnation = worker.holder.rpartition(".")[2]
        registration = Registration(worker.worker, incarnation, 3, worker.queues)

        def register() -> Registered | None:
            try:
                return self.store.register(POOL, registration)
            except Refused:
                return None

        before, answer = self._do(register)
        assert (answer is None) == ("dead" in holder)
        if answer is None:
            return self._nothing(before)
        assert answer.displaced == worker.displaced
        self._registered(worker.holder)
        return self._nothing(before, beside=frozenset({"holders"}))

    def _registered(self, holder: str) -> None:
        present = self.stored["holder"][holder]["worker"]
        assert self.stored["workers"][""][present] == holder
        assert (holder, self.ledger.now_ms + LEASE_MS) in self.stored["holders"][""]

    def renew(self, worker: Incarnation, *, held: int, number: int) -> None:
        """Renew a lease, with true or false counts."""
        holder = self.stored["holder"].get(worker.holder)
        before, answer = self._do(
            lambda: self.store.renew(POOL, worker.holder, held=held, number=number)
        )
        if holder is None or "dead" in holder:
            expected = Word.DISPLACED if self._succeeded(before, worker) else Word.LOST
            assert answer.word is expected, f"the renewal is {answer.word}, not {expected}"
            return self._nothing(before)
        real = len(before["claims"].get(worker.holder, []))
        differs = (held, number) != (real, int(holder["claim_number"]))
        compare = differs and "differs" in holder
        expected = Word.COMPARE if compare else Word.RENEWED
        assert answer.word is expected, f"the renewal is {answer.word}, not {expected}"
        assert answer.draining == ("draining" in holder)
        assert sorted(answer.orders) == before["orders"].get(worker.holder, [])
        assert ("differs" in self.stored["holder"][worker.holder]) == differs
        end_ms = dict(self.stored["holders"][""])[worker.holder]
        assert end_ms == self.ledger.now_ms + LEASE_MS, f"the lease ends at {end_ms}"
        if not answer.draining:  # a wake that got lost costs one renewal
            self._passed_on(holder["queues"])
        return self._nothing(before, beside=frozenset({"holders", "holder"}))

    def _succeeded(self, stored: Stored, worker: Incarnation) -> bool:
        """Whether a later incarnation has the name, and lives."""
        present = stored["workers"].get("", {}).get(encode(worker.worker), worker.holder)
        lease_ms = dict(stored["holders"].get("", [])).get(present, 0)
        return present != worker.holder and lease_ms > self.ledger.now_ms

    def drain(self, worker: Incarnation) -> None:
        """Tell a worker to claim nothing more."""
        holder = self.stored["holder"].get(worker.holder)
        before, word = self._do(lambda: self.store.drain(POOL, worker.holder, reason="stop"))
        self._passed_on((holder or {}).get("queues", ""))
        if holder is None or "dead" in holder:
            assert word is Word.LOST
            return self._nothing(before)
        holds = bool(before["claims"].get(worker.holder))
        assert word is (Word.DRAINING if holds else Word.DRAINED)
        assert "draining" in self.stored["holder"][worker.holder], "it does not drain"
        if "draining" in holder:
            return self._nothing(before)
        assert worker.holder in self.stored["inbox"], "it does not hear that it is to drain"
        return self._only(before, [])

    def recover(self, holder: str, *, limit: int) -> Word:
        """Take back what a dead holder had; a live one keeps it."""
        may = self._may_recover(holder)
        before, answer = self._do(lambda: self.store.recover(POOL, holder, limit=limit))
        if holder not in before["holder"] or not may:
            expected = Word.ALIVE if holder in before["holder"] else Word.UNKNOWN
            assert answer.word is expected, f"{holder} is {answer.word}, not {expected}"
            self._nothing(before)
            return answer.word
        named = answer.requeued + answer.dead + answer.ended
        self._only(before, named)
        for run in named:
            assert before.runs[run]["holder"] == holder
        self._lost(before, answer)
        if answer.word is Word.RECOVERED:
            assert holder not in self.stored["holder"]
            assert holder not in self.stored["workers"].get("", {}).values()
        else:
            assert answer.word is Word.MORE
            assert "dead" in self.stored["holder"][holder], f"{holder} is not marked as dead"
            assert len(named) <= limit, f"{len(named)} were recovered, the limit was {limit}"
            assert self.stored.differences(before, beside=set()), "recover goes nowhere"
        return answer.word

    def _may_recover(self, holder: str) -> bool:
        record = self.stored["holder"].get(holder, {})
        lease_ms = dict(self.stored["holders"].get("", [])).get(holder, 0)
        left = "draining" in record and not self.stored["claims"].get(holder)
        return "dead" in record or left or lease_ms <= self.ledger.now_ms

    def _lost(self, before: Stored, answer: Recovered) -> None:
        """A loss while running counts against the run, one before its start hardly."""
        for run in answer.requeued + answer.dead + answer.ended:
            record, now = before.runs[run], self.stored.runs[run]
            assert now[f"delivery.{now['delivery']}.outcome"] == "lost"
            running = record["state_type"] == "RUNNING"
            name, other = ("losses", "unstarted") if running else ("unstarted", "losses")
            cancelled = record["state_type"] == "CANCELLING"
            times = int(record.get(name, 0)) + (not cancelled)
            assert int(now.get(name, 0)) == times, f"{name} of {run}: {now.get(name)}, not {times}"
            assert now.get(other) == record.get(other)
            queue = self.stored["queue"][record["queue"]]
            most = MOST_DELIVERIES[decode(record["queue"])] if running else 10
            crashes = running and queue.get("on_worker_lost") == "crash"
            fate = "CANCELLED" if cancelled else "CRASHED" if crashes else "SCHEDULED"
            assert (run in answer.ended) == (cancelled or crashes)
            assert (run in answer.dead) == (fate == "SCHEDULED" and times >= most), f"{run}, {name}"
            assert now["state_type"] == ("CRASHED" if run in answer.dead else fate)
            assert not cancelled or now.get("message") == record.get("message")

    def take_wakes(self, worker: Incarnation) -> None:
        """Let a worker that was blocked see its wakes; it claims later, or never."""
        for queue in worker.queues or QUEUES:
            if self.client.lpop(self.keys["wake"] + encode(queue)):
                self.ledger.awake.add((worker.holder, encode(queue)))
        self.look()

    # --- What happens to the data from outside

    def has_pending(self, queue: str) -> bool:
        """Return whether entries of a queue are pending for workers."""
        stream = self.stored["stream"].get(encode(queue))
        return bool(stream) and bool(stream.pending)

    def break_group(self, queue: str, *, create: bool) -> None:
        """Destroy a queue's group, as after an accident; perhaps create it again from 0."""
        stream = self.stored["stream"].get(encode(queue))
        if stream is None or not stream.grouped:
            return
        key = self.keys["stream"] + encode(queue)
        self.client.xgroup_destroy(key, GROUP)
        if create:
            self.client.xgroup_create(key, GROUP, "0")
        self.ledger.unmarked |= {(encode(queue), entry) for entry in stream.pending}
        self.look()

    def stray_entry(self, run: str) -> None:
        """Put an entry into a stream that the run's record does not name."""
        record = self.stored.runs[run]
        fields = {"run": run, "payload": b"{stray}", "due_ms": 0, "run_count": 0, "delivery": 1}
        entry = self.client.xadd(self.keys["stream"] + record["queue"], fields)
        self.ledger.strays.add((record["queue"], entry.decode()))
        self.look()

    def save(self) -> Save:
        """Remember everything as it is now."""
        keys = self.client.keys(self.store.prefix + ":*")
        dumps = [(key, self.client.dump(key), self.client.pexpiretime(key)) for key in keys]
        return Save(dumps, deepcopy(self.ledger), self.stored)

    def lose_writes(self, save: Save) -> None:
        """Put the data back to an earlier moment; what callers know and the clock stay."""
        for key in self.client.keys(self.store.prefix + ":*"):
            self.client.delete(key)
        for key, dump, expires_ms in save.dumps:
            self.client.restore(key, 0, dump)
            if expires_ms != -1:
                self.client.pexpireat(key, expires_ms)
        now_ms, awake = self.ledger.now_ms, self.ledger.awake
        self.ledger = deepcopy(save.ledger)
        self.ledger.awake |= awake
        self.ledger.now_ms = now_ms
        self.look_at_ms = dict.fromkeys(QUEUES, 0)  # a dispatcher that connects looks
        self.stored = save.stored
        self.look()
        assert self.stored == save.stored

    # --- Rest

    def come_to_rest(self) -> None:
        """Let all workers be dead and a fresh one come: every accepted run ends. Invariant 11."""
        latest_ms = max([a.due_ms for a in self.ledger.accepted.values()], default=0)
        self.move_clock(max(0, latest_ms - self.ledger.now_ms) + 3 * LEASE_MS)
        self._lift_all()
        for holder in list(self.stored["holder"]):
            for _ in range(10 + 2 * len(self.stored["claims"].get(holder, []))):
                if self.recover(holder, limit=1) is Word.RECOVERED:
                    break
            self.check()
            assert holder not in self.stored["holder"], f"{holder} is never recovered"
        self.register("fresh", "fresh", ())
        for _ in range(4 * len(self.ledger.accepted) + 4):
            self._work_once(self.workers[-1])
        waiting = {r for r, record in self.stored.runs.items() if record["place"] != "ended"}
        dead = set(self.stored.members("dead"))
        assert waiting == dead, f"{sorted(waiting - dead)} never end"
        for name in ("scheduled", "waiting", "waits", "freed", "ready", "claims", "orders", *SLOTS):
            assert not self.stored[name], f"{name} holds {self.stored[name]} when all runs ended"
        left = {q: stream.entries for q, stream in self.stored["stream"].items()}
        assert not any(left.values()), f"streams hold {left} when all runs ended"
        for grant in list(self.grants.values()):  # invariants 3 and 9: none is valid any more
            self.finish(grant, Outcome("FAILED", "Failed"), nudge=True)

    def _lift_all(self) -> None:
        """Take away what keeps runs from starting: pauses, limits, late policies."""
        for queue in (None, *QUEUES):
            self.resume(queue, intake=False)
            self.check()
        self.set_pool({"limit": None, "handout": "stream"})
        for queue in QUEUES:
            self.set_queue(queue, {"limit": None, "late_policy": None, "late_drop_ms": None})
        for deployment in DEPLOYMENTS:
            self.set_deployment(deployment, None, "ENQUEUE")
        self.check()

    def _work_once(self, worker: Incarnation) -> None:
        self.dispatch(QUEUES, limit=3, max_bytes=PLENTY)
        self.claim(worker, worker.number + 1, slots=2, max_bytes=PLENTY)
        for grant in [g for g in self.grants.values() if g.holds(self.stored)]:
            self.start(grant, int(self.stored.runs[grant.run]["run_count"]) + 1)
            self.finish(grant, Outcome("COMPLETED", "Completed"), nudge=True)
        self.check()
