"""The step of dispatchers: which due runs move, wait or are skipped, and when to look again."""

import math
from collections.abc import Iterable

from dispatcher.keys import encode
from dispatcher.records import Dispatched
from tests.machine import DEPLOYMENTS, LATE_AFTER_MS, POOL, Steps
from tests.model import Stored


class Turn:
    """One dispatch on its way through the queues: what its answer says, and what holds by then."""

    def __init__(
        self,
        before: Stored,
        fates: dict[str, str],
        admitted: set[str],
        past: dict[str, set[str]],
    ) -> None:
        self.before, self.fates, self.admitted, self.past = before, fates, admitted, past
        self.put_apart = 0  # in a pool that is polled
        self.held = {d: set(before.members("deployment_slots", d)) for d in DEPLOYMENTS}
        self.waiting = {
            (deployment, queue): [
                m[16:] for m in before.members("waiting", f"{deployment}:{queue}")
            ]
            for deployment, queue in before.waiting()
        }


class Dispatches(Steps):
    """The pool of `Steps` with dispatchers."""

    def dispatch(self, queues: Iterable[str], *, limit: int, max_bytes: int) -> None:
        """Move what is due; invariants 2, 5, 6 and 8, and the bounds."""
        names, past = list(queues), self.past()
        before, answer = self._do(
            lambda: self.store.dispatch(POOL, names, limit=limit, max_bytes=max_bytes)
        )
        self._passed_on(" ".join(map(encode, names)))
        fates = {m.run_id: "moved" for m in answer.moved}
        fates |= {run: "waiting" for run, _ in answer.waiting}
        fates |= {gone.run_id: "skipped" for gone in answer.skipped}
        admitted = {e["run"] for e in self.news if e["event"] == "admitted"}
        back = {run for run in admitted if fates.get(run) == "waiting"}  # an earlier one came first
        changed = (fates.keys() | admitted) - back
        if self.stored.is_polled:  # what waits anew may come in at once, and be as it was
            runs = fates.keys() | admitted
            changed = {run for run in runs if before.runs[run] != self.stored.runs[run]}
        self._only(before, changed)
        assert len(fates) <= limit, f"{len(fates)} were moved, the limit was {limit}"
        assert len(admitted) <= limit, f"{len(admitted)} were let in, the limit was {limit}"
        sizes = [len(self.ledger.accepted[m.run_id].payload) for m in answer.moved]
        assert sum(sizes[:-1]) < max_bytes
        spent = len(fates) == limit or sum(sizes) >= max_bytes
        self._lifted(before, names)
        due_ms = [at_ms + LATE_AFTER_MS for _, at_ms in before["unstarted"].get("", [])]
        assert answer.late_at_ms == min(due_ms, default=None)
        turn = Turn(before, fates, admitted, past)
        for name in sorted(names, key=lambda name: before.queues.index(encode(name))):
            key, now_ms = encode(name), self.ledger.now_ms
            end_ms = max(before.paused_until_ms(k, now_ms) for k in (None, key))
            if end_ms > 0:
                self._kept_back(name, answer, end_ms)
                continue
            if self.stored.is_polled:
                self._kept_in_order(turn, name, answer, limit)
                continue
            assert name not in answer.withdraw
            self._let_in(turn, key)
            self._ordered(turn, key)
            self._entered(name, [m.run_id for m in answer.moved if m.queue == name])
            self._sleeps(name, answer, spent=spent)

    def _kept_in_order(self, turn: Turn, name: str, answer: Dispatched, limit: int) -> None:
        """Where runs are taken, those that are due stay unless their deployment is full."""
        accepted, now_ms, queue = self.ledger.accepted, self.ledger.now_ms, encode(name)
        due = [r for r in self._in_order(turn.before, queue) if accepted[r].due_ms <= now_ms]
        limited = bool(turn.before["deployments"])
        assert (name in answer.withdraw) == (self.stored.unread(queue) > 0)
        went, left = {}, limit - turn.put_apart
        for run in due if limited else []:
            if left <= 0:
                break
            went[run] = self._fate(turn, queue, run)
            self._went(turn, queue, run, went[run])
            left -= went[run] != "moved"
        self._newest_known(queue, due, went)
        apart = {run: fate for run, fate in went.items() if fate != "moved"}
        found = {run: turn.fates[run] for run in due if run in turn.fates}
        assert found == apart, f"{found} instead of {apart}; due are {due}"
        turn.put_apart += len(apart)
        self._let_in(turn, queue)
        for run in turn.admitted:
            self._went(turn, queue, run, "moved" if accepted[run].queue == queue else "")
        assert name in answer.more or not (apart or (limited and len(went) < len(due)))
        later = [accepted[r].due_ms for r in self._in_order(self.stored, queue)]
        later = [due_ms for due_ms in later if due_ms > now_ms] if limited else []
        next_due_ms = max(later[0], now_ms + 500) if later else None
        assert answer.next_due_ms[name] == next_due_ms
        self._look_next(name, next_due_ms, at_once=name in answer.more)

    def _went(self, turn: Turn, queue: str, run: str, fate: str) -> None:
        """Note what a due run takes, or for what it waits."""
        deployment = self.ledger.accepted[run].deployment
        if fate == "moved" and deployment:
            turn.held[deployment].add(run)
        elif fate == "waiting":
            turn.waiting.setdefault((deployment, queue), []).append(run)
            turn.waiting[deployment, queue].sort(key=self._place_key)

    def _lifted(self, before: Stored, names: list[str]) -> None:
        """A pause whose end has come is taken away and told of."""
        told = []
        for table, key in [("pool", ""), *(("queue", encode(name)) for name in names)]:
            for kind, event in (("paused", "resumed"), ("intake_paused", "intake-resumed")):
                end_ms = float(before[table][key].get(f"{kind}_until_ms", math.inf))
                if kind in before[table][key] and end_ms <= self.ledger.now_ms:
                    told.append(event)
                    assert kind not in self.stored[table][key], f"{table} {key} stays {kind}"
        found = sorted(e["event"] for e in self.news if e["event"] in ("resumed", "intake-resumed"))
        assert found == sorted(told), f"pauses end as {told}, told is {found}"

    def _kept_back(self, name: str, answer: Dispatched, end_ms: float) -> None:
        """Invariant 8: a paused queue is left alone until its pause ends."""
        moved = [m.queue for m in answer.moved] + [queue for _, queue in answer.waiting]
        assert name not in moved + [s.queue for s in answer.skipped], f"{name} is paused"
        assert name not in answer.more
        assert (name in answer.withdraw) == (self.stored.unread(encode(name)) > 0)
        next_due_ms = answer.next_due_ms[name]
        assert next_due_ms == (None if end_ms == math.inf else int(end_ms))
        self._look_next(name, next_due_ms, at_once=False)

    def _let_in(self, turn: Turn, queue: str) -> None:
        """Those that wait come back oldest first, as many as fit, the first queue's first."""
        for deployment in DEPLOYMENTS:
            waited = turn.waiting.get((deployment, queue), [])
            came = [run for run in waited if run in turn.admitted]
            free = self._most_of(deployment) - len(turn.held[deployment])
            assert came == waited[: len(came)], f"of {waited}, {came} were let in"
            assert not came or len(came) <= free, f"{came} were let in, {free} fit"
            first = self._goes_before(turn, deployment, queue)
            assert not came or not first, f"{came} came before those of {first}"
            turn.waiting[deployment, queue] = waited[len(came) :]

    def _goes_before(self, turn: Turn, deployment: str, queue: str) -> list[str]:
        """The queues of a higher priority in which runs wait for the deployment and can come."""
        return [
            other
            for other in turn.before.queues[: turn.before.queues.index(queue)]
            if turn.waiting.get((deployment, other))
            and "blocked" not in self.stored["queue"][other]
            and not self.stored.paused_until_ms(other, self.ledger.now_ms)
        ]

    def _ordered(self, turn: Turn, queue: str) -> None:
        """Invariant 6, and that each due run goes where limits and policies send it."""
        accepted, now_ms = self.ledger.accepted, self.ledger.now_ms
        runs = self._in_order(turn.before, queue, also=turn.admitted)
        due = [run for run in runs if accepted[run].due_ms <= now_ms]
        count = len([run for run in turn.fates if accepted[run].queue == queue])
        went = {run: turn.fates.get(run, "nowhere") for run in due[:count]}
        self._newest_known(queue, due, went)
        for run, fate in went.items():
            expected = self._fate(turn, queue, run)
            assert fate == expected, f"{run} is {fate} instead of {expected}; due are {due}"
            self._went(turn, queue, run, fate)

    def _fate(self, turn: Turn, queue: str, run: str) -> str:
        """What a dispatch does with a due run, by limits and policies."""
        deployment, past = self.ledger.accepted[run].deployment, turn.past[run]
        if self._is_too_late(queue, run, past):
            return "skipped"
        most = self._most_of(deployment)
        if most - len(turn.held.get(deployment, ())) <= 0:
            settings = self.stored["deployment"].get(deployment, {})
            first = not {"waiting", "dispatched", "claimed"} & past
            drops = first and settings["collision_strategy"] == "CANCEL_NEW"
            return "skipped" if drops else "waiting"
        earlier = turn.waiting.get((deployment, queue), [])[:1]
        behind = earlier and self._place_key(earlier[0]) < self._place_key(run)
        first = self._goes_before(turn, deployment, queue)
        return "waiting" if most < math.inf and (behind or first) else "moved"

    def _most_of(self, deployment: str) -> float:
        return float(self.stored["deployment"].get(deployment, {}).get("limit", math.inf))

    def _newest_known(self, queue: str, due: list[str], went: dict[str, str]) -> None:
        """Under `latest`, the newest due run of a deployment is known before a late one goes."""
        if self.stored["queue"][queue].get("late_policy") != "latest" or not went:
            return
        late = self.ledger.now_ms - self.ledger.accepted[due[0]].due_ms >= LATE_AFTER_MS
        newest = self.stored["newest"].get(queue, {})
        for run in due if late else [run for run, fate in went.items() if fate == "moved"]:
            deployment = self.ledger.accepted[run].deployment
            place = self._place_key(run)
            assert not deployment or newest.get(deployment, "") >= place, f"{run} is newer"

    def _place_key(self, run: str) -> str:
        accepted = self.ledger.accepted[run]
        return f"{accepted.due_ms:015d}{accepted.sequence:016x}{run}"

    def _is_too_late(self, queue: str, run: str, past: set[str]) -> bool:
        """Whether the queue's late policy says that this run is not to run any more."""
        accepted, settings = self.ledger.accepted[run], self.stored["queue"][queue]
        late_ms = self.ledger.now_ms - accepted.due_ms
        if {"waiting", "claimed"} & past or late_ms <= 0:
            return False
        if late_ms > float(settings.get("late_drop_ms", math.inf)):
            return True
        if settings.get("late_policy") != "latest" or late_ms < LATE_AFTER_MS:
            return False
        newest = self.stored["newest"].get(queue, {}).get(accepted.deployment, "")
        return newest > self._place_key(run)

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

    def _sleeps(self, name: str, answer: Dispatched, *, spent: bool) -> None:
        """What the answer says of a queue is when there is something to do in it again."""
        accepted, key = self.ledger.accepted, encode(name)
        left = [accepted[run].due_ms for run in self._in_order(self.stored, key)]
        stuck = bool(left) and left[0] <= self.ledger.now_ms
        full = self.stored.unread(key) >= self._most(key)
        assert not stuck or full or spent, f"runs are due in {name} and stay"
        said, marks = name in answer.more, self.stored["freed"].get(key)
        blocked = "blocked" in self.stored["queue"][key]
        assert blocked <= full, f"{name} is blocked by nothing"
        unaware = full and not blocked and (stuck or marks) and name not in self.hinted
        assert not unaware, f"{name} is full, and is not blocked"
        assert said or not stuck or full, f"{left} are due in {name}, and there is no more"
        assert not said or (not full and (stuck or marks)), f"{name} has nothing more"
        next_due_ms = None if not left or (full and stuck) else left[0]
        assert answer.next_due_ms[name] == next_due_ms
        self._look_next(name, next_due_ms, at_once=said)

    def _look_next(self, name: str, next_due_ms: float | None, *, at_once: bool) -> None:
        """Note when a dispatcher looks at a queue again; what it hears meanwhile counts as well."""
        self.look_at_ms[name] = math.inf if next_due_ms is None else next_due_ms
        if at_once or name in self.hinted:
            self.look_at_ms[name] = 0
