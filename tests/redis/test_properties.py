"""The invariants of docs/data-model.md hold after every step, whatever the order of the steps.

DISPATCHER_TEST_STEPS is how many steps are done in all, over all servers. `make mutants` sets
DISPATCHER_TEST_MUTANT, the number of a mutation that the scripts then have.
"""

import logging
import os
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dispatcher import scripts
from dispatcher.records import Outcome, Submission
from tests.conftest import BACKENDS
from tests.fleet import Fleet, Save
from tests.machine import PLENTY, QUEUES, Incarnation
from tests.model import Grant
from tests.mutants import MUTANTS, occurrences

STEPS = int(os.environ.get("DISPATCHER_TEST_STEPS", "2000"))
MUTANT = os.environ.get("DISPATCHER_TEST_MUTANT")
STEPS_PER_EXAMPLE = 40
# Five of six examples would repeat the one before but for one place: fewer mutations are noticed.
REPEATS = "hypothesis.internal.conjecture.engine.ConjectureRunner.generate_mutations_from"
MOST_RUNS = 12
WORKERS = ("w1", "w 2")
OUTCOMES = (
    Outcome("COMPLETED", "Completed", "", b"\x00\xff done"),
    Outcome("FAILED", "Failed", "exit code 1", b""),
    Outcome("CRASHED", "Crashed", "killed by signal 9", b"\r\n"),
    Outcome("CANCELLED", "Cancelled", "", b""),
)
DELAYS_MS = st.sampled_from([None, 0, 0, 500, 500, 500, -1000, 2000, 30_000])
SAMPLE = b'{"a": "\xc3\x84\r"}'
PAYLOADS = st.binary(min_size=2, max_size=12) | st.just(SAMPLE)
queues = st.sampled_from(QUEUES)
budgets = st.sampled_from([PLENTY, PLENTY, 20, 1])  # 1 is used up by any run
few = st.integers(1, 3)
picks = st.integers(0, 40)  # which one of a list, counted from its newest


class Machine(RuleBasedStateMachine):
    """Does steps in random order; each is checked in `Fleet`, and all promises after each."""

    client_of: Callable[[], object]
    prefix: str
    fleet: Fleet | None = None
    failed = False

    @initialize(
        clock_ahead=st.booleans(), max_unclaimed=few, runs=st.lists(queues, min_size=3, max_size=6)
    )
    def begin(self, clock_ahead: bool, max_unclaimed: int, runs: list[str]) -> None:
        self.saved: Save | None = None
        self.count = 0
        self.fleet = Fleet(
            self.client_of(), self.prefix, clock_ahead=clock_ahead, max_unclaimed=max_unclaimed
        )
        self.fleet.register(WORKERS[0], self.fresh(), ())
        self.fleet.register(WORKERS[1], self.fresh(), (QUEUES[1],))
        for queue in runs:
            self.submit(queue, 0, SAMPLE)

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

    @invariant()
    def every_promise_is_kept(self) -> None:
        self.fleet.check()

    # --- Submitters, dispatchers, time

    @precondition(lambda self: len(self.fleet.ledger.accepted) < MOST_RUNS)
    @rule(queue=queues, delay_ms=DELAYS_MS, payload=PAYLOADS)
    def submit(self, queue: str, delay_ms: int | None, payload: bytes) -> None:
        run, now_ms = str(UUID(int=int(self.fresh()) * 7919)), self.fleet.ledger.now_ms
        due_ms = None if delay_ms is None else now_ms // 500 * 500 + delay_ms
        request = f"request-{run}"
        self.fleet.submit(Submission(run, queue, payload, "name", request, due_ms))

    @precondition(lambda self: self.fleet.ledger.accepted)
    @rule(index=picks, same=st.booleans(), queue=queues, delay_ms=DELAYS_MS)
    def submit_again(self, index: int, same: bool, queue: str, delay_ms: int | None) -> None:
        ledger = self.fleet.ledger
        run = self.pick(list((index % 2 and ledger.ended) or ledger.accepted), index // 2)
        known = self.fleet.ledger.accepted[run]
        request = known.request if same else "another request"
        due_ms = None if delay_ms is None else known.due_ms + delay_ms
        self.fleet.submit(Submission(run, queue, b"[other]", "other", request, due_ms))

    @rule(by_ms=st.sampled_from([500, 500, 500, 2000, 5000, 16_000, -300]))
    def time_passes(self, by_ms: int) -> None:
        self.fleet.move_clock(by_ms)

    @rule(names=st.permutations(QUEUES), only=st.booleans(), limit=few, max_bytes=budgets)
    def dispatch(self, names: list[str], only: bool, limit: int, max_bytes: int) -> None:
        self.fleet.dispatch(names[:1] if only else names, limit=limit, max_bytes=max_bytes)

    # --- Workers

    @rule(name=st.sampled_from(WORKERS), served=st.sampled_from([(), QUEUES[:1], QUEUES[1:]]))
    def come_back(self, name: str, served: tuple[str, ...]) -> None:
        self.fleet.register(name, self.fresh(), served)

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

    def hand_out(self, worker: Incarnation, slots: int) -> None:
        self.fleet.check()
        self.fleet.dispatch(QUEUES, limit=3, max_bytes=PLENTY)
        self.fleet.check()
        self.fleet.claim(worker, worker.number + 1, slots=slots, max_bytes=PLENTY)

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

    @rule(index=picks, outcome=st.sampled_from(OUTCOMES), nudge=st.booleans(), again=st.booleans())
    def finish(self, index: int, outcome: Outcome, nudge: bool, again: bool) -> None:
        if grant := self.grant(index):
            for _ in range(1 + again):
                self.fleet.finish(grant, outcome, nudge=nudge)

    @rule(index=picks, nudge=st.booleans(), again=st.booleans(), on=st.booleans())
    def release(self, index: int, nudge: bool, again: bool, on: bool) -> None:
        if grant := self.grant(index):
            for _ in range(1 + again):
                self.fleet.release(grant, nudge=nudge)
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

    # --- What happens now and then

    @rule(index=picks)
    def drain(self, index: int) -> None:
        self.fleet.drain(self.worker(index))

    @rule(index=picks)
    def register_again(self, index: int) -> None:
        """Most often as one that is being recovered."""
        known = [w for w in self.fleet.workers if w.holder in self.fleet.stored["holder"]]
        dying = [w for w in known if not self.fleet.may_claim(w)]
        workers = (dying if index % 4 else known) or self.able()
        self.fleet.register_again(self.pick(workers, index // 4))

    @rule(index=picks, limit=few, outcome=st.sampled_from(OUTCOMES))
    def crash(self, index: int, limit: int, outcome: Outcome) -> None:
        """A worker that has runs seems dead and comes back; the old one still acts."""
        has = [w for w in self.fleet.workers if w.holder in self.fleet.stored["claims"]]
        worker = self.pick(has or self.fleet.workers, index)
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

    @rule(does=st.sampled_from(["nothing", "save", "save", "lose"]))
    def save_or_lose_writes(self, does: str) -> None:
        """The server goes back to what it had when it was saved last, once."""
        if does == "save":
            self.saved = self.fleet.save()
        elif does == "lose" and self.saved:
            self.fleet.lose_writes(self.saved)
            self.saved = None

    @rule(index=picks, slots=few)
    def lose_a_claim(self, index: int, slots: int) -> None:
        """A worker has claimed, and the server does not know."""
        saved = self.fleet.save()
        self.claim(index, slots, PLENTY)
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
    steps = STEPS // len(BACKENDS)
    if MUTANT is not None:
        mutate(monkeypatch, int(MUTANT))
        steps = STEPS

    class Here(Machine):
        pass

    Here.client_of, Here.prefix = staticmethod(lambda: client), prefix
    run_state_machine_as_test(Here, settings=settings_for(steps))


def mutate(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the scripts be read with one mutation, in this process only."""
    mutants, read = MUTANTS[number : number + 1], scripts._read

    def mutated(name: str) -> str:
        text = read(name)
        for mutant in mutants:
            if name == mutant.script:
                text = text.replace(mutant.old, mutant.new)
        return text

    monkeypatch.setattr(scripts, "_read", mutated)
    scripts.load.cache_clear()


def test_each_mutation_changes_its_script_in_exactly_one_place():
    assert [m for m in MUTANTS if occurrences(m) != 1 or m.old == m.new] == []
    assert len(MUTANTS) >= 20
