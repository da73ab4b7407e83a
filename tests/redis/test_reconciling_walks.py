"""Reconciling, continued: no state that the steps lead to is a finding."""

import random
from typing import Any

import pytest

from dispatcher.connection import Connection
from dispatcher.errors import DispatcherError
from dispatcher.inspector import Inspector
from dispatcher.reconciling import Reconciler
from dispatcher.records import Claim, Finish, Start, Submission, Word
from tests.builders import OUTCOMES, POOL, Fleet, a_submission

QUEUES = ("default", "low", "high")
DEPLOYMENTS = ("one", "two")
STEPS = {"fakeredis": 60}
MOST_STEPS = 250


class Walk:
    """Random steps of everybody, on one pool with three queues; `done` is what has happened."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.pick = self.random.choice
        self.done: list[str] = []
        self.runs: list[str] = []
        self.holders: list[str] = []
        self.claims: list[tuple[Claim, int]] = []
        fleet.create_queue("low")
        fleet.create_queue("high", priority=1)

    def step(self) -> None:
        """Do one thing; what is refused is fine."""
        names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
        name = self.pick(names)
        self.done.append(name)
        try:
            getattr(self, name)()
        except DispatcherError as error:
            self.done[-1] += f" ({error})"

    def _at(self, *offsets_ms: int) -> int:
        return (self.fleet.store.now_ms or 0) + self.pick(offsets_ms)

    def submit(self) -> None:
        self.runs.append(f"run-{len(self.runs)}")
        self._offer(self.runs[-1], due_ms=self._at(-20_000, -500, 0, 0, 1000, 5000), state_id="1")

    def offer_again(self) -> None:
        if self.runs:
            due_ms, state_id = self._at(-100, 0, 3000), self.pick("123")
            self._offer(self.pick(self.runs), due_ms=due_ms, state_id=state_id)

    def _offer(self, run_id: str, **fields: Any) -> None:
        run: Submission = a_submission(
            run_id,
            request=f"request-{len(self.done)}",
            queue=self.pick(QUEUES),
            deployment=self.pick(("", *DEPLOYMENTS)),
            payload=b"p" * self.pick((1, 50)),
            retries=self.pick((0, 0, 2)),
            retry_type=self.pick(("in_process", "reschedule")),
            retry_delay_ms=self.pick((0, 2000)),
            idempotency=self.pick(("", "", "key")),
            **fields,
        )
        self.fleet.store.submit(POOL, run)

    def dispatch(self) -> None:
        queues = self.random.sample(QUEUES, self.pick((1, 2, 3)))
        bounds = {"limit": self.pick((1, 2, 100)), "max_bytes": self.pick((1, 10_000))}
        self.fleet.dispatch(*queues, **bounds)

    def register(self) -> None:
        if len(self.holders) < 4:
            queues = self.pick(((), ("low",), ("default", "high")))
            worker, incarnation = self.pick("vw"), str(len(self.done))
            self.holders.append(self.fleet.register(worker, incarnation, queues=queues))

    def claim(self) -> None:
        if self.holders:
            answer = self.fleet.answer(self.pick(self.holders), self.pick((1, 2, 5)))
            self.claims += [(claim, claim.run_count) for claim in answer.claims]

    def take(self) -> None:
        if self.runs:
            taken = self.fleet.take(self.pick(self.runs), str(len(self.done)))
            if taken.claim:
                self.holders.append(taken.holder)
                self.claims.append((taken.claim, taken.claim.run_count))

    def hand_out(self) -> None:
        self.fleet.set_pool(handout=self.pick(("stream", "poll", "poll")))

    def start(self) -> None:
        if self.claims:
            claim, count = self.claims.pop(self.random.randrange(len(self.claims)))
            word = self.fleet.store.report(POOL, Start(claim.run_id, claim.token, count + 1))
            self.claims.append((claim, count + (word is Word.STARTED)))

    def finish(self) -> None:
        if self.claims:
            claim, count = self.claims.pop(self.random.randrange(len(self.claims)))
            outcome = OUTCOMES[self.pick(("COMPLETED", "FAILED", "CRASHED"))]
            finish = Finish(claim.run_id, claim.token, outcome, run_count=count)
            if self.fleet.store.report(POOL, finish) is Word.RETRYING:
                self.claims.append((claim, count))

    def release(self) -> None:
        if self.claims:
            give_back = self.pick((self.fleet.release, self.fleet.take_away))
            give_back(self.claims.pop(self.random.randrange(len(self.claims)))[0])

    def cancel(self) -> None:
        if self.runs:
            self.fleet.cancel(self.pick(self.runs))

    def retime(self) -> None:
        if self.runs:
            self.fleet.retime(self.pick(self.runs), self._at(-1, 0, 4000))

    def pause(self) -> None:
        until_ms, queue = self.pick((None, self._at(3000))), self.pick((None, *QUEUES))
        self.fleet.pause(queue, until_ms=until_ms, intake=self.pick((False, False, True)))

    def resume(self) -> None:
        for queue in (None, *QUEUES):
            for intake in (False, True):
                if self.pick((False, True)):
                    self.fleet.resume(queue, intake=intake)

    def withdraw(self) -> None:
        self.fleet.withdraw(self.pick(QUEUES))

    def set_limits(self) -> None:
        limit = self.pick((None, 0, 1, 2, 3))
        strategy = self.pick(("ENQUEUE", "ENQUEUE", "CANCEL_NEW"))
        self.fleet.set_deployment(self.pick(DEPLOYMENTS), limit, strategy)
        self.fleet.set_pool(limit=self.pick((None, None, 0, 3)))

    def set_queue(self) -> None:
        self.fleet.set_queue(
            self.pick(QUEUES),
            self.pick((None, 1, 2)),
            limit=self.pick((None, 0, 1, 2)),
            max_unclaimed=self.pick((None, 1, 2, 5)),
            late_policy=self.pick(("all", "latest")),
            late_drop_ms=self.pick((None, None, 4000)),
            max_deliveries=self.pick((1, 3)),
        )

    def lose(self) -> None:
        if self.holders:
            holder = self.holders.pop(self.random.randrange(len(self.holders)))
            if holder in self.fleet.members("holders"):
                self.fleet.lose(holder)

    def drain(self) -> None:
        if self.holders:
            self.fleet.store.drain(POOL, self.pick(self.holders), reason="stop")

    def renew(self) -> None:
        for holder in self.holders:
            self.fleet.renew(holder, self.pick((0, 1)))

    def take_wakes(self) -> None:
        for queue in QUEUES:
            self.fleet.client.delete(self.fleet.keys["wake"] + queue)

    def decide_dead(self) -> None:
        for run_id in self.fleet.members("dead"):
            self.pick((self.fleet.requeue, self.fleet.purge))(run_id)

    def watch(self) -> None:
        self.fleet.watch()

    def advance(self) -> None:
        self.fleet.advance(self.pick((1, 500, 2000, 6000)))


WEIGHTS = {
    **{"submit": 14, "offer_again": 3, "dispatch": 14, "register": 4, "claim": 12, "start": 8},
    **{"finish": 8, "release": 3, "cancel": 4, "retime": 3, "pause": 2, "resume": 5},
    **{"withdraw": 2, "set_limits": 3, "set_queue": 3, "lose": 1, "drain": 1, "renew": 4},
    **{"take_wakes": 2, "decide_dead": 2, "watch": 2, "advance": 6, "take": 8, "hand_out": 2},
}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_state_that_the_steps_lead_to_is_a_finding(fleet, backend, seed):
    walk = Walk(fleet, seed)
    inspector = Inspector(Connection(fleet.client), fleet.store.prefix)

    for _ in range(STEPS.get(backend, MOST_STEPS)):
        walk.step()
        pages = Reconciler(fleet.store, inspector, fix=False).walk([POOL], names=True)
        findings = [finding for page in pages for finding in page]
        assert findings == [], f"after {walk.done[-5:]}, {len(walk.done)} steps in all"


def test_a_queue_that_is_resumed_is_offered_at_once(fleet):
    fleet.put("a")
    fleet.pause("default")
    fleet.resume("default")

    assert (fleet.members("ready"), fleet.dump()["wake:default"]) == (["default"], ["1"])


def test_a_queue_whose_pause_ends_while_its_pool_is_paused_is_offered_with_the_pool(fleet):
    fleet.put("a")
    fleet.pause("default", until_ms=(fleet.store.now_ms or 0) + 1)
    fleet.pause()
    fleet.advance(2)
    fleet.dispatch()

    assert fleet.members("ready") == ["default"]
    assert fleet.claim(fleet.register()) == []


def test_the_first_claim_of_a_queue_notes_that_it_has_a_group(fleet):
    fleet.put("a")
    assert "grouped_ms" not in fleet.dump()["queue:default"]

    fleet.claim_one(fleet.register())

    assert fleet.dump()["queue:default"]["grouped_ms"] == str(fleet.store.now_ms)
