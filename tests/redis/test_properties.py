"""The invariants of docs/data-model.md hold after every step, whatever the order of the steps.

DISPATCHER_TEST_STEPS is how many steps are done in all, over all servers.
"""

import logging
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from dispatcher.records import Outcome
from tests.conftest import BACKENDS
from tests.deeds import (
    BROUGHT,
    COMPLETED,
    DELAYS_MS,
    LIMITED,
    SAMPLE,
    SETTINGS,
    WORKERS,
    few,
    limits,
    picks,
    queues,
)
from tests.fleet import Fleet
from tests.machine import DEPLOYMENTS, PLENTY, QUEUES
from tests.mutants import MUTANTS, occurrences
from tests.polls import Polls
from tests.stories import has_room

STEPS = int(os.environ.get("DISPATCHER_TEST_STEPS", "2000"))
MUTANT = os.environ.get("DISPATCHER_TEST_MUTANT")
STEPS_PER_EXAMPLE = 40
# Five of six examples would repeat the one before but for one place: fewer mutations are noticed.
REPEATS = "hypothesis.internal.conjecture.engine.ConjectureRunner.generate_mutations_from"
OUTCOMES = (
    COMPLETED,
    Outcome("FAILED", "Failed", "exit code 1", b""),
    Outcome("FAILED", "TimedOut", "after 1 s", b""),
    Outcome("CRASHED", "Crashed", "killed by signal 9", b"\r\n"),
    Outcome("CANCELLED", "Cancelled", "", b""),
)
PAYLOADS = st.binary(min_size=2, max_size=12) | st.just(SAMPLE)
budgets = st.sampled_from([PLENTY, PLENTY, 20, 1])  # 1 is used up by any run
PLACES = st.sampled_from(["claimed", "ended", "ended", "dead", "stream", "waiting", "any"])
KEYS = st.sampled_from(["", "own", "own", "key 1", "key 2"])


class Machine(Polls):
    """The rules of submitters, dispatchers and workers, beside the others."""

    client_of: Callable[[], object]
    prefix: str
    fleet: Fleet | None = None
    failed = False

    @initialize(
        clock_ahead=st.booleans(),
        max_unclaimed=few,
        limit=limits,
        policy=st.sampled_from(["all", "latest", "drop"]),
        strategy=st.sampled_from(["ENQUEUE", "ENQUEUE", "CANCEL_NEW"]),
        bound=st.sampled_from([None, None, None, "pool", *QUEUES]),
        runs=st.lists(st.tuples(queues, LIMITED), min_size=3, max_size=6),
    )
    def begin(
        self,
        clock_ahead: bool,
        max_unclaimed: int,
        limit: int | None,
        policy: str,
        strategy: str,
        bound: str | None,
        runs: list,
    ) -> None:
        self.fleet = Fleet(
            self.client_of(), self.prefix, clock_ahead=clock_ahead, max_unclaimed=max_unclaimed
        )
        self.fleet.set_deployment(DEPLOYMENTS[0], limit, strategy)
        if bound == "pool":
            self.fleet.set_pool({"limit": 2})
        elif bound:
            self.fleet.set_queue(bound, {"limit": 1})
        self.fleet.set_queue(QUEUES[0], SETTINGS[policy])
        self.fleet.register(WORKERS[0], self.fresh(), ())
        self.fleet.register(WORKERS[1], self.fresh(), (QUEUES[1],))
        for queue, brought in runs:
            self.new_run(queue, 0, brought)

    # --- Submitters, dispatchers, time

    @has_room
    @rule(queue=queues, delay_ms=DELAYS_MS, payload=PAYLOADS, brought=BROUGHT, key=KEYS)
    def submit(
        self, queue: str, delay_ms: int | None, payload: bytes, brought: tuple, key: str
    ) -> None:
        self.new_run(queue, delay_ms, brought, payload, key)

    @precondition(lambda self: self.fleet.ledger.accepted)
    @rule(index=picks, queue=queues, delay_ms=DELAYS_MS, brought=BROUGHT, where=PLACES)
    def submit_again(
        self, index: int, queue: str, delay_ms: int | None, brought: tuple, where: str
    ) -> None:
        """A quarter of them the same request; the others with another state or the same one."""
        run, known = self.some_run(index // 4, places=(where,))
        request = f"request {self.fresh()}" if index % 4 else known.request
        key = ["key 1", known.idempotency, ""][index % 3]
        due_ms = None if delay_ms is None else known.offered_ms + delay_ms
        state_id = [f"state {self.fresh()}", known.state_id, ""][max(0, index % 5 - 2)]
        self.offer(run, queue, b"[other]", request, due_ms, brought, state_id, key)
        if index % 4 == 3:
            self.watch_later()

    @rule(by_ms=st.sampled_from([500, 500, 500, 2000, 5000, 16_000, -300]), watch=st.booleans())
    def time_passes(self, by_ms: int, watch: bool) -> None:
        self.fleet.move_clock(by_ms)
        if watch:
            self.fleet.check()
            self.fleet.watch(limit=3)

    @rule(names=st.permutations(QUEUES), only=st.booleans(), limit=few, max_bytes=budgets)
    def dispatch(self, names: list[str], only: bool, limit: int, max_bytes: int) -> None:
        self.fleet.dispatch(names[:1] if only else names, limit=limit, max_bytes=max_bytes)

    @precondition(lambda self: self.fleet.ledger.accepted)
    @rule(index=picks, what=st.sampled_from(["scheduled", "waiting", "claimed", "any"]))
    def take(self, index: int, what: str) -> None:
        """Somebody polls, however the pool is handed out; a third of them once more."""
        run, _ = self.some_run(index // 3, places=(what,))
        old = [w.holder.rpartition(".")[2] for w in self.fleet.workers if "~" in w.holder]
        again = index % 3 == 0 and old
        self.fleet.take(run, self.pick(old, index) if again else self.fresh())

    # --- Workers

    @rule(index=picks, slots=few, max_bytes=budgets)
    def claim(self, index: int, slots: int, max_bytes: int) -> None:
        worker = self.worker(index)
        self.fleet.claim(worker, worker.number + 1, slots=slots, max_bytes=max_bytes)

    @rule(index=picks, back=st.sampled_from([0, 0, 1]), slots=few)
    def claim_again(self, index: int, back: int, slots: int) -> None:
        """Most often as one whose last claim has partly moved on."""
        moved = [
            w for w in self.able() if self.fleet.granted(w) != self.fleet.granted(w, still=False)
        ]
        worker = self.pick(moved, index // 4) if moved and index % 4 else self.worker(index)
        self.fleet.claim(worker, max(0, worker.number - back), slots=slots, max_bytes=PLENTY)

    @rule(index=picks)  # the first of the rules with the fewest arguments is done more often
    def carry_on(self, index: int) -> None:
        """What usually happens: dispatch, claim, and perhaps start."""
        worker = self.pick(self.able(), index // 4)
        self.hand_out(worker, 1 + index % 2)
        self.fleet.check()
        for grant in self.fleet.granted(worker) if index % 4 > 1 else []:
            self.fleet.start(grant, int(self.fleet.run_of(grant)["run_count"]) + 1)

    @rule(index=picks, outcome=st.sampled_from(OUTCOMES), slots=few)
    def work_off(self, index: int, outcome: Outcome, slots: int) -> None:
        """What a worker does when nothing goes wrong."""
        worker = self.pick(self.able(), index)
        self.hand_out(worker, slots)
        for grant in self.fleet.granted(worker):
            self.fleet.check()
            count = int(self.fleet.run_of(grant)["run_count"]) + 1
            self.fleet.start(grant, count)
            self.fleet.check()
            self.fleet.finish(grant, outcome, nudge=True, run_count=count)

    @rule(index=picks, then=st.sampled_from(["it dies", "it claims", "another renews"]))
    def take_wakes(self, index: int, then: str) -> None:
        """Wake a worker, that may claim or not."""
        worker = self.pick(self.fleet.workers, index)
        self.fleet.take_wakes(worker)
        self.fleet.check()
        if then == "it claims":
            self.fleet.claim(worker, worker.number + 1, slots=1, max_bytes=PLENTY)
        elif then == "another renews":
            self.renew(index | 1, 0, 0)

    @rule(index=picks, more=st.sampled_from([1, 1, 0, 2]), again=st.booleans())
    def start(self, index: int, more: int, again: bool) -> None:
        if grant := self.grant(index):
            run_count = int(self.fleet.run_of(grant).get("run_count", 0)) + more
            for _ in range(1 + again):
                self.fleet.start(grant, run_count)

    @rule(index=picks, outcome=st.sampled_from(OUTCOMES), nudge=st.booleans(), then=picks)
    def finish(self, index: int, outcome: Outcome, nudge: bool, then: int) -> None:
        """Finish, with the count of starts or without, perhaps twice, perhaps with an old count."""
        if grant := self.grant(index):
            count = int(self.fleet.run_of(grant).get("run_count", 0))
            named = None if then % 4 == 0 else max(0, count - (then % 8 == 5))
            for _ in range(1 + (then > 20)):
                self.fleet.finish(grant, outcome, nudge=nudge, run_count=named)

    @rule(index=picks, then=st.sampled_from(["start", "cancel", "release", "finish", "go on"]))
    def fail(self, index: int, then: str) -> None:
        """A run fails, and is perhaps retried: what happens next?"""
        self.hand_out(self.pick(self.able(), index), 1)
        grant = self.grant(0)
        if grant is None or not grant.holds(self.fleet.stored):
            return
        count = int(self.fleet.run_of(grant)["run_count"]) + 1
        for _ in range(1 + (index % 3 == 0)):
            self.fleet.check()
            self.fleet.start(grant, count)
        named = None if index % 5 == 0 else count
        for _ in range(1 + (index % 4 == 0)):
            self.fleet.check()
            self.fleet.finish(grant, OUTCOMES[1], nudge=True, run_count=named)
        self.fleet.check()
        if then == "start":
            self.fleet.start(grant, count + 1)
        elif then == "release":
            self.fleet.release(grant, nudge=False)
        elif then == "go on":
            self.fleet.move_clock(500)
            self.hand_out(self.pick(self.able(), index), 1)
        else:
            if then == "cancel":
                self.fleet.cancel(grant.run)
                self.fleet.check()
            self.fleet.finish(grant, COMPLETED, nudge=True, run_count=count if index % 2 else None)

    @rule(index=picks, nudge=st.booleans(), by=st.booleans(), on=st.booleans())
    def release(self, index: int, nudge: bool, by: bool, on: bool) -> None:
        if grant := self.grant(index):
            who, later = "somebody" if by else "", [None, 500, None, 16_000][index // 4 % 4]
            for _ in range(1 + nudge):
                self.fleet.release(grant, nudge=nudge, by=who, delay_ms=later)
            if later == 500:
                self.watch_later()
            others = [w for w in self.able() if w.holder != grant.holder]
            if on and others:
                self.hand_out(self.pick(others, index), 2)

    @rule(index=picks, held=st.sampled_from([0, 0, 1]), number=st.sampled_from([0, 0, 1]))
    def renew(self, index: int, held: int, number: int) -> None:
        worker = self.worker(index)
        held += len(self.fleet.stored["claims"].get(worker.holder, []))
        self.fleet.renew(worker, held=held, number=worker.number + number)

    @rule(index=picks, limit=few)
    def recover(self, index: int, limit: int) -> None:
        self.fleet.recover(self.worker(index).holder, limit=limit)

    @rule(index=picks, limit=few, outcome=st.sampled_from(OUTCOMES))
    def crash(self, index: int, limit: int, outcome: Outcome) -> None:
        """A worker that has runs seems dead and comes back; the old one still acts."""
        has = [w for w in self.fleet.workers if w.holder in self.fleet.stored["claims"]]
        worker = self.pick(has or self.fleet.workers, index // 8)
        for grant in self.fleet.granted(worker) if index % 8 > 3 else []:
            self.fleet.start(grant, int(self.fleet.run_of(grant)["run_count"]) + 1)
            self.fleet.check()
        self.fleet.register(worker.worker, self.fresh(), ())
        self.fleet.recover(worker.holder, limit=limit)
        if index % 4:
            self.hand_out(self.fleet.workers[-1], 3)
        for grant in self.fleet.granted(worker, still=False):
            self.fleet.check()
            if index % 4 == 1:
                self.fleet.start(grant, int(self.fleet.run_of(grant).get("run_count", 0)) + 1)
            elif index % 4 == 2:
                self.fleet.finish(grant, outcome, nudge=True)
            elif index % 4 == 3:
                self.fleet.release(grant, nudge=True)

    def teardown(self) -> None:
        if self.fleet is None:
            return
        try:
            if self.fleet.sound:
                self.fleet.come_to_rest()
        finally:
            if not self.fleet.sound and not self.failed:
                # SRANDMEMBER picks anew in each replay, which then may say nothing of this.
                logging.getLogger(__name__).error("the first failure", exc_info=True)
                type(self).failed = True
            self.fleet.close()


def settings_for(steps: int) -> settings:
    mutated = MUTANT is not None
    return settings(
        max_examples=max(1, steps // STEPS_PER_EXAMPLE),
        stateful_step_count=STEPS_PER_EXAMPLE,
        deadline=None,
        derandomize=mutated or bool(os.environ.get("CI")),
        database=None,
        print_blob=True,
        phases=[Phase.generate] if mutated else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


@pytest.mark.timeout(60 + STEPS // 4)
def test_all_invariants_hold_after_every_step_in_any_order(client, prefix, monkeypatch):
    monkeypatch.setattr(REPEATS, lambda *_: None, raising=False)
    steps = STEPS if MUTANT else STEPS // len(BACKENDS)

    class Here(Machine):
        pass

    Here.client_of, Here.prefix = staticmethod(lambda: client), prefix
    run_state_machine_as_test(Here, settings=settings_for(steps))


def test_each_mutation_changes_its_script_in_exactly_one_place():
    assert [m for m in MUTANTS if occurrences(m) != 1 or m.old == m.new] == []
    assert len(MUTANTS) >= 20
