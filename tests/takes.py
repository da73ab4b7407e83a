"""The step of those that poll: a run is taken by its id, by exactly one of them."""

import math
from typing import Any

from dispatcher.errors import NotFound
from dispatcher.keys import encode
from dispatcher.records import Taken, Word
from tests.claims import Claims, Incarnation
from tests.machine import LATE_AFTER_MS, POOL
from tests.model import OVER, Grant, Stored

POLLER = "p 1"


class Takes(Claims):
    """The pool with those that poll."""

    def take(self, run: str, incarnation: str) -> None:
        """Take a run, for the first time or again, by a holder of its own."""
        name = f"{POLLER}~{incarnation}"
        holder, past = f"{encode(name)}.{incarnation}", self.past()
        again = self._has(run, holder)
        before, answer = self._do(lambda: self._taken(run, incarnation))
        expected = self._take_word(before, run, holder, past)
        assert (answer.word, answer.detail) == expected, f"{answer} instead of {expected}"
        if again:
            assert answer.claim is not None
            assert answer.claim.token == self.grants[run, holder, 1].token
            return self._nothing(before)
        known = run in self.stored.runs
        if answer.word not in (Word.TAKEN, Word.SKIPPED):
            # Looking for the latest run is noted also when the deployment is full then.
            noted = answer.word is Word.WAITING
            beside = frozenset({"newest", "queue"} if noted else ())
            return self._nothing(before, beside=beside, refused=known)
        self._only(before, [run])
        self._latest_known(before, run)
        if answer.word is Word.SKIPPED:
            assert self.stored.runs[run]["message"] == answer.detail
            return self._told_of("skipped")
        self._told_of("registered", "claimed", "started")
        self.workers.append(Incarnation(holder, name, (), "", number=1))
        return self._runs(before, run, holder, answer)

    def _taken(self, run: str, incarnation: str) -> Taken:
        try:
            return self.store.take(POOL, run, worker=POLLER, incarnation=incarnation)
        except NotFound:
            return Taken(Word.UNKNOWN)

    def _has(self, run: str, holder: str) -> bool:
        record = self.stored.runs.get(run, {})
        live = "dead" not in self.stored["holder"].get(holder, {"dead": "1"})
        return live and (record.get("place"), record.get("holder")) == ("claimed", holder)

    def _runs(self, before: Stored, run: str, holder: str, answer: Taken) -> None:
        """What is taken runs at once, and is told as a claim is."""
        claim, record, was = answer.claim, self.stored.runs[run], before.runs[run]
        accepted = self.ledger.accepted[run]
        assert claim is not None
        assert (claim.payload, claim.due_ms) == (accepted.payload, accepted.due_ms)
        assert (encode(claim.queue), answer.holder) == (accepted.queue, holder)
        assert claim.run_count == int(record["run_count"]) == int(was["run_count"]) + 1
        assert claim.delivery == int(record["delivery"]) == int(was["delivery"]) + 1
        name = "Retrying" if "retrying" in was else "Running"
        assert (record["state_name"], "retrying" in record) == (name, False)
        assert record.get("dispatched_ms") == str(self.ledger.now_ms)
        assert int(was["due_ms"]) <= self.ledger.now_ms, "it was taken before it was due"
        ends_ms = self.ledger.now_ms + answer.lease_ms
        assert (holder, ends_ms) in self.stored["holders"].get("", []), f"{holder} has no lease"
        assert "draining" in self.stored["holder"][holder], "it seems to serve its queue"
        grant = Grant(run, holder, 1, claim.token)
        assert grant.holds(self.stored)
        giver = self.givers.setdefault((run, claim.token), (holder, 1))
        assert giver == (holder, 1), f"{claim.token} was given twice, first to {giver}"
        self.grants[run, holder, 1] = grant

    def _take_word(
        self, stored: Stored, run: str, holder: str, past: dict[str, set[str]]
    ) -> tuple[Word, str]:
        """What the answer is, by what stood before."""
        record = stored.runs.get(run)
        if record is None:
            return Word.UNKNOWN, ""
        place = record["place"]
        him = stored["holder"].get(holder)
        if him and "dead" not in him and (place, record.get("holder")) == ("claimed", holder):
            return Word.TAKEN, ""
        named = stored["workers"].get("", {}).get(holder.rpartition(".")[0], holder)
        if him or (named != holder and named in stored["holder"]):
            return Word.LOST, ""
        if place in OVER:
            return Word.ENDED, record["state_type"]
        if place == "claimed":
            return Word.CLAIMED, record["holder"]
        if not stored.is_polled:
            return Word.STREAMED, ""
        return self._obstacle(stored, record) or self._fate_of(stored, run, record, past)

    def _obstacle(self, stored: Stored, record: dict[str, Any]) -> tuple[Word, str] | None:
        now_ms, queue = self.ledger.now_ms, record["queue"]
        if int(record["due_ms"]) > now_ms:
            return Word.NOT_DUE, record["due_ms"]
        for what, key in (("pool", None), ("queue", queue)):
            if stored.paused_until_ms(key, now_ms) > 0:
                return Word.PAUSED, what
        if record["place"] == "waiting":
            return Word.WAITING, record["deployment"]
        for what, room in (
            ("pool", stored.room("pool_slots")),
            ("queue", stored.room("queue_slots", queue)),
        ):
            if room <= 0:
                return Word.FULL, what
        return None

    def _fate_of(
        self, stored: Stored, run: str, record: dict[str, Any], past: dict[str, set[str]]
    ) -> tuple[Word, str]:
        deployment, queue = record["deployment"], record["queue"]
        skipped = Word.SKIPPED, self.stored.runs[run].get("message", "")
        if self._is_too_late(queue, run, past[run]):
            return skipped
        if not deployment or record["place"] == "stream":
            return Word.TAKEN, ""
        most = float(stored["deployment"].get(deployment, {}).get("limit", math.inf))
        room = most - len(stored.members("deployment_slots", deployment))
        if room <= 0:
            strategy = stored["deployment"][deployment]["collision_strategy"]
            first = not {"waiting", "dispatched", "claimed"} & past[run]
            return skipped if strategy == "CANCEL_NEW" and first else (Word.WAITING, deployment)
        head = stored.members("waiting", f"{deployment}:{queue}")[:1]
        behind = head and self._place_key(head[0][16:]) < self._place_key(run)
        return (Word.WAITING, deployment) if behind and most < math.inf else (Word.TAKEN, "")

    def _latest_known(self, before: Stored, run: str) -> None:
        """Under `latest`, a late run goes only when the newest one is known."""
        accepted, queue = self.ledger.accepted[run], before.runs[run]["queue"]
        due = [
            r
            for r in self._in_order(before, queue)
            if self.ledger.accepted[r].due_ms <= self.ledger.now_ms
        ]
        late = self.ledger.now_ms - accepted.due_ms >= LATE_AFTER_MS
        taken = self.stored.runs[run]["place"] == "claimed"
        self._newest_known(queue, due if late and due else [run], {run: "moved"} if taken else {})
