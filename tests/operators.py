"""The steps of operators: settings, pauses, cancel, retime, dead letters, and the watch."""

import math
from collections.abc import Mapping
from typing import Any

from dispatcher.errors import NotFound, Refused
from dispatcher.keys import encode
from dispatcher.records import Word
from tests.claims import REASON, WITHOUT_DUE
from tests.machine import LATE_AFTER_MS, POOL
from tests.model import OVER, Stored
from tests.takes import Takes

BY = "somebody"


class Operators(Takes):
    """The pool with operators who may do anything at any moment."""

    # --- Settings

    def set_pool(self, fields: Mapping[str, object]) -> None:
        """Change settings of the pool."""
        before, _ = self._do(lambda: self.store.set_pool(POOL, fields, by=BY))
        self._is_set(before, "pool", "", fields)

    def set_queue(
        self, queue: str, fields: Mapping[str, object], *, priority: int | None = None
    ) -> None:
        """Change settings of a queue; a taken priority moves the others down."""
        before, _ = self._do(
            lambda: self.store.set_queue(POOL, queue, fields, priority=priority, by=BY)
        )
        self._passed_on(encode(queue))
        self._is_set(before, "queue", encode(queue), fields)
        priorities = dict(before["queues"][""])
        if priority is not None:
            name, place = encode(queue), priority
            priorities.pop(name)
            while name:
                there = next((q for q, p in priorities.items() if p == place), "")
                priorities[name] = place
                name, place = there, place + 1
        assert dict(self.stored["queues"][""]) == priorities

    def set_deployment(self, deployment: str, limit: int | None, strategy: str) -> None:
        """Set a deployment's limit, or take it away."""
        before, _ = self._do(
            lambda: self.store.set_deployment(POOL, deployment, limit, strategy=strategy, by=BY)
        )
        self._is_set(before, "deployment", deployment, {"limit": limit})
        said = self.stored["deployment"].get(deployment, {}).get("collision_strategy")
        assert said == (None if limit is None else strategy)

    def _is_set(self, before: Stored, kind: str, key: str, fields: Mapping[str, object]) -> None:
        self._only(before, [])
        self._told_of(f"{kind}-set")
        settings = self.stored[kind].get(key, {})
        found = {name: settings.get(name) for name in fields}
        assert found == {n: None if v is None else str(v) for n, v in fields.items()}

    # --- Pauses

    def pause(self, queue: str | None, *, intake: bool, until_ms: int | None) -> None:
        """Pause the pool (None) or a queue; from now on it hands out, or accepts, nothing."""
        kind, table = "intake_paused" if intake else "paused", "queue" if queue else "pool"
        settings = self.stored[table][encode(queue or "")]
        before, _ = self._do(
            lambda: self.store.pause(POOL, queue, intake=intake, until_ms=until_ms, by=BY)
        )
        if kind in settings and settings.get(f"{kind}_until_ms", "None") == str(until_ms):
            return self._nothing(before)
        self._only(before, [])
        end_ms = math.inf if until_ms is None else until_ms
        said_ms = self.stored.paused_until_ms(queue and encode(queue), self.ledger.now_ms, kind)
        assert said_ms == (end_ms if end_ms > self.ledger.now_ms else 0)
        self._told_of(kind.replace("_", "-"))
        return None

    def resume(self, queue: str | None, *, intake: bool) -> None:
        """End a pause, if there is one."""
        kind, table = "intake_paused" if intake else "paused", "queue" if queue else "pool"
        was = kind in self.stored[table][encode(queue or "")]
        before, resumed = self._do(lambda: self.store.resume(POOL, queue, intake=intake, by=BY))
        assert resumed == was
        if not was:
            return self._nothing(before)
        self._told_of("intake-resumed" if intake else "resumed")
        assert kind not in self.stored[table][encode(queue or "")]
        return self._only(before, [])

    def withdraw(self, queue: str, *, limit: int) -> None:
        """Take what nobody has claimed out of the stream of a paused queue."""
        paused = self.stored.is_paused(encode(queue), self.ledger.now_ms) or self.stored.is_polled
        expected = self.stored.unclaimed(encode(queue)) if paused else []
        before, _ = self._do(lambda: self.store.withdraw(POOL, queue, limit=limit))
        self._only(before, expected)
        for run in expected:
            assert self.stored.runs[run]["place"] == "scheduled"
        stream, runs = self.stored["stream"].get(encode(queue)), self.stored.runs
        for entry in stream.entries.keys() - stream.pending.keys() if stream and paused else ():
            holds = [run for run, r in runs.items() if r.get("entry") == entry]
            assert holds, f"{entry} stands for nothing and stays in {queue}"

    # --- Runs

    def cancel(self, run: str) -> None:
        """Cancel a run: at once, by an order to its worker, or too late."""
        record = self.stored.runs.get(run, {"place": "", "state_type": ""})
        place, state = record["place"], record["state_type"]
        word = {"": Word.UNKNOWN, "claimed": Word.CANCELLING}.get(place, Word.CANCELLED)
        word = Word.ENDED if place in OVER else word
        detail = {Word.CANCELLING: record.get("holder"), Word.ENDED: state}.get(word, "")
        before, told = self._told(lambda: self.store.cancel(POOL, run, reason=REASON, by=BY))
        assert told == (word, detail)
        if word in (Word.ENDED, Word.UNKNOWN) or state == "CANCELLING":
            return self._nothing(before)
        after = self.stored.runs[run]
        assert (after["state_type"], after.get("message")) == (word.value.upper(), REASON)
        assert word is not Word.CANCELLING or record["holder"] in self.stored["inbox"]
        assert word is Word.CANCELLING or self._is_called_off(record)
        return self._only(before, [run])

    def retime(self, run: str, due_ms: int | None) -> None:
        """Give a run another due time, if nobody has claimed it."""
        record = self.stored.runs.get(run, {"place": ""})
        now_ms = self.ledger.now_ms if due_ms is None else due_ms
        before, told = self._told(lambda: self.store.retime(POOL, run, due_ms, by=BY))
        place = record["place"]
        if not place or place in OVER:
            assert told == ((Word.ENDED, record["state_type"]) if place else (Word.UNKNOWN, ""))
            return self._nothing(before)
        if place == "claimed":
            assert told == (Word.CLAIMED, record["holder"])
            return self._nothing(before)
        assert told == (Word.RETIMED, str(now_ms))
        if record["due_ms"] == str(now_ms):
            return self._nothing(before)
        assert self.ledger.accepted[run].due_ms == now_ms
        assert self._is_called_off(record)
        self._told_of("retimed")
        return self._only(before, [run], fixed=WITHOUT_DUE)

    def _is_called_off(self, record: dict[str, str]) -> bool:
        """Whether a run that is not due then any more keeps no earlier one from running."""
        newest = self.stored["newest"].get(record["queue"], {}).get(record.get("deployment", ""))
        return newest != f"{int(record['due_ms']):015d}{record['member']}"

    def requeue(self, run: str, due_ms: int | None) -> None:
        """Take a run out of the dead letters."""
        was = self.stored.runs.get(run, {}).get("place")
        now_ms = self.ledger.now_ms if due_ms is None else due_ms
        before, answer = self._told(lambda: self.store.requeue(POOL, run, due_ms, by=BY))
        if was != "dead":
            assert answer == ((Word.NOT_DEAD, "") if was else (Word.UNKNOWN, ""))
            return self._nothing(before)
        assert answer == now_ms == self.ledger.accepted[run].due_ms
        self._told_of("requeued")
        assert not {"losses", "unstarted"} & self.stored.runs[run].keys()
        return self._only(before, [run], fixed=WITHOUT_DUE)

    def purge(self, runs: list[str]) -> None:
        """Forget those of these runs that are dead-lettered."""
        dead = [run for run in runs if self.stored.runs.get(run, {}).get("place") == "dead"]
        before, count = self._do(lambda: self.store.purge(POOL, runs, by=BY))
        assert count == len(dead)
        self._told_of(*["purged"] * len(dead))
        assert not set(dead) & self.stored.runs.keys()
        self._only(before, dead)

    def _told(self, call: Any) -> tuple[Stored, Any]:
        """Do a step on a run; the errors of the Store as the words that they stand for."""

        def told() -> Any:
            try:
                return call()
            except NotFound:
                return Word.UNKNOWN, ""
            except Refused:
                return Word.NOT_DEAD, ""

        return self._do(told)

    # --- The watch

    def watch(self, *, limit: int) -> None:
        """Announce who should have started by now, each once, and queues that nobody serves."""
        since_ms = self.ledger.now_ms - LATE_AFTER_MS
        rows = self.stored["unstarted"].get("", [])
        looked = [run for run, at_ms in rows if at_ms <= since_ms][:limit]
        late = [run for run in looked if self._is_late(run)]
        before, answer = self._do(lambda: self.store.watch(POOL, limit=limit))
        assert [run for run, _ in answer.late] == late
        for run in set(looked) - set(late):
            del self.ledger.unstarted[run]
        queues = {before.runs[r]["queue"] for r in looked if before.runs[r]["place"] == "stream"}
        unserved = {q for q in queues if not self._is_served(q)}
        unserved -= {q for q in queues if "unserved_ms" in before["queue"][q]}
        assert {encode(queue) for queue in answer.unserved} == unserved
        self._told_of(*["late"] * len(late), *["unserved"] * len(unserved))
        assert answer.more == (len(looked) == limit)
        left = self.stored["unstarted"].get("", [])
        assert answer.late_at_ms == (left[0][1] + LATE_AFTER_MS if left else None)
        self._only(before, late)

    def _is_late(self, run: str) -> bool:
        """Whether it should have started; not one that has, or that waits for a retry or slot."""
        record = self.stored.runs[run]
        done = run in self.ledger.late or "started" in self.ledger.past[run]
        expected = record["state_type"] == "PENDING" or record["state_name"] == "Scheduled"
        return expected and not done

    def _is_served(self, queue: str) -> bool:
        leases = dict(self.stored["holders"].get("", []))
        for holder, record in self.stored["holder"].items():
            served = record["queues"].split()
            live = leases[holder] > self.ledger.now_ms and not {"draining", "dead"} & record.keys()
            if live and (not served or queue in served):
                return True
        return False
