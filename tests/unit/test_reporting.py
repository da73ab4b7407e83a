"""The reporter: ends reach Redis in order, in batches, again and again until they are answered."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from consumers.reporting import BATCH, Reporter
from consumers.runners import Again, Why
from consumers.slots import Active, Slots
from dispatcher import (
    Claim,
    DispatcherError,
    Finish,
    Outcome,
    RedisRefused,
    RedisUnavailable,
    Release,
    Report,
    Start,
    Word,
)
from tests.probes import wait_until

COMPLETED = Outcome("COMPLETED", "Completed")
FAILED = Outcome("FAILED", "Failed", "exit code 1")


class Server:
    """Stands for the store: answers each batch as it was told to, and remembers it."""

    def __init__(self) -> None:
        self.batches: list[list[Report]] = []
        self.answers: list[Any] = []  # an error to raise, or the answers of a batch
        self.may_answer = threading.Event()
        self.may_answer.set()

    def report_many(self, pool: str, reports: list[Report]) -> list[Word | DispatcherError]:
        assert pool == "pool"
        self.batches.append(list(reports))
        assert self.may_answer.wait(10)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, DispatcherError):
            raise answer
        return answer or [_word(report) for report in reports]


def _word(report: Report) -> Word:
    return {Start: Word.STARTED, Finish: Word.FINISHED, Release: Word.RELEASED}[type(report)]


class Log:
    """Keeps what is logged."""

    def __init__(self, lines: list[tuple[str, dict[str, Any]]] | None = None, **always: Any):
        self.lines = [] if lines is None else lines
        self.always = always

    def bind(self, **fields: Any) -> "Log":
        return Log(self.lines, **self.always | fields)

    def _say(self, event: str, **fields: Any) -> None:
        self.lines.append((event, self.always | fields))

    debug = info = warning = error = _say

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


class Desk:
    """A reporter with everything around it."""

    def __init__(self) -> None:
        self.server, self.log, self.slots = Server(), Log(), Slots(1_000)
        self.woken = 0
        self.went_on: list[tuple[str, Word]] = []
        self.reporter = Reporter(
            self.server,
            "pool",
            self.slots,
            wake=self.wake,
            go_on=lambda active, word: self.went_on.append((active.claim.run_id, word)),
            log=self.log,  # type: ignore[arg-type]
        )

    def wake(self) -> None:
        self.woken += 1

    def active(self, run_id: str) -> Active:
        claim = Claim(run_id, "pool", "default", f"1-0.x.{run_id}", b"{}", 0, 4, 1, "name")
        active = self.slots.add(replace(claim, retry_delay_ms=1_500))
        assert active is not None
        return active

    def wait_empty(self) -> None:
        assert self.slots.wait_empty(10)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.reporter.start()
    yield desk
    desk.server.may_answer.set()
    desk.reporter.close(10)


def test_an_end_is_reported_with_its_token_and_then_its_slot_is_free(desk):
    desk.reporter.finish(desk.active("a"), FAILED)
    desk.wait_empty()

    assert desk.server.batches == [[Finish("a", "1-0.x.a", FAILED, False, run_count=4)]]
    (said,) = desk.log.said("finished")
    assert (said["run"], said["state"], said["why"]) == ("a", "Failed", "exit code 1")


def test_what_is_given_back_is_released(desk):
    desk.reporter.release(desk.active("a"), Why.RELEASED)
    desk.wait_empty()

    assert desk.server.batches == [[Release("a", "1-0.x.a", "the worker ends", False)]]
    assert desk.log.said("released")[0]["reason"] == "the worker ends"


@pytest.mark.parametrize(
    ("answer", "event", "state"),
    [(Word.RESCHEDULED, "rescheduled", None), (Word.FINISHED, "finished", "Cancelled")],
)
def test_what_asks_to_be_run_again_is_released_for_later(desk, answer, event, state):
    desk.server.answers = [[answer]]
    desk.reporter.finish(desk.active("a"), Again(2.5004, "no room yet"))
    desk.wait_empty()

    release = Release("a", "1-0.x.a", "no room yet", False, delay_ms=2_500)
    assert desk.server.batches == [[release]]
    (said,) = desk.log.said(event)
    assert (said["run"], said.get("state")) == ("a", state)


def test_a_start_again_is_reported_with_the_next_run_count(desk):
    desk.reporter.start_again(desk.active("a"))
    wait_until(lambda: desk.went_on, "it is answered")

    assert desk.server.batches == [[Start("a", "1-0.x.a", 5)]]
    assert desk.went_on == [("a", Word.STARTED)]
    assert desk.slots.held() == 1


def test_a_run_that_is_tried_again_under_its_claim_keeps_its_slot(desk):
    desk.server.answers = [[Word.RETRYING]]
    active = desk.active("a")
    active.took_ms = 7

    desk.reporter.finish(active, FAILED)
    wait_until(lambda: desk.went_on, "it is answered")

    assert desk.went_on == [("a", Word.RETRYING)]
    assert desk.slots.held() == 1
    (said,) = desk.log.said("retrying")
    fields = ("run", "state", "why", "took_ms", "after_s")
    assert [said[name] for name in fields] == ["a", "Failed", "exit code 1", 7, 1.5]


def test_a_run_that_is_scheduled_anew_gives_its_slot_back(desk):
    desk.server.answers = [[Word.RESCHEDULED]]

    desk.reporter.finish(desk.active("a"), FAILED)
    desk.wait_empty()

    assert desk.log.said("rescheduled")[0]["state"] == "Failed"
    assert not desk.log.said("finished")
    assert desk.went_on == []


@pytest.mark.parametrize(("word", "how"), [(Word.LOST, "recovered"), (Word.RELEASED, "released")])
def test_an_end_that_came_after_the_claim_was_taken_away_is_told_as_lost(desk, word, how):
    desk.server.answers = [[word]]

    desk.reporter.finish(desk.active("a"), COMPLETED)
    desk.wait_empty()

    assert desk.log.said("claim-lost")[0]["reason"] == f"it was {how}; its end was refused"
    assert not desk.log.said("finished")


def test_a_start_again_that_is_refused_gives_the_slot_back(desk):
    desk.server.answers = [[Word.LOST]]

    desk.reporter.start_again(desk.active("a"))
    desk.wait_empty()

    assert desk.log.said("claim-lost")[0]["reason"] == "before its start"
    assert desk.went_on == []


def test_what_was_given_back_while_it_was_being_cancelled_is_told_as_cancelled(desk):
    desk.server.answers = [[Word.FINISHED]]

    desk.reporter.release(desk.active("a"), Why.RELEASED)
    desk.wait_empty()

    assert desk.log.said("finished")[0]["state"] == "Cancelled"


def test_an_end_that_came_by_itself_while_it_was_being_cancelled_is_told_as_cancelled(desk):
    active = desk.active("a")
    active.stop.over()
    active.stop.request(Why.CANCELLED, grace_s=30)

    desk.reporter.finish(active, COMPLETED)
    desk.wait_empty()

    assert desk.log.said("finished")[0]["state"] == "Cancelled"


def test_while_a_report_is_under_way_its_slot_is_taken(desk):
    desk.server.may_answer.clear()
    active = desk.active("a")

    desk.reporter.finish(active, COMPLETED)
    wait_until(lambda: desk.server.batches, "it is reported")
    assert (desk.slots.held(), active.reporting) == (1, True)

    desk.server.may_answer.set()
    desk.wait_empty()


def test_what_waits_goes_together_in_its_order(desk):
    desk.server.may_answer.clear()
    desk.reporter.finish(desk.active("first"), COMPLETED)
    wait_until(lambda: desk.server.batches, "the first is under way")
    for i in range(BATCH + 5):
        desk.reporter.finish(desk.active(str(i)), COMPLETED)
    desk.server.may_answer.set()
    desk.wait_empty()

    runs = [[report.run_id for report in batch] for batch in desk.server.batches]
    assert [len(batch) for batch in runs] == [1, BATCH, 5]
    assert [*runs[1], *runs[2]] == [str(i) for i in range(BATCH + 5)]


def test_an_outage_is_waited_out_and_the_report_repeated_as_it_was(desk):
    desk.server.answers = [RedisUnavailable("away"), RedisUnavailable("away")]

    desk.reporter.finish(desk.active("a"), COMPLETED)
    desk.wait_empty()

    assert desk.server.batches == [desk.server.batches[0]] * 3
    assert len(desk.log.said("report-delayed")) == 2


def test_of_a_batch_only_what_was_refused_is_repeated(desk):
    desk.server.may_answer.clear()
    desk.reporter.finish(desk.active("first"), COMPLETED)
    wait_until(lambda: desk.server.batches, "the first is under way")
    desk.server.answers = [[Word.FINISHED], [RedisRefused("no"), Word.FINISHED]]
    desk.reporter.finish(desk.active("a"), COMPLETED)
    desk.reporter.finish(desk.active("b"), COMPLETED)

    desk.server.may_answer.set()
    desk.wait_empty()

    runs = [[report.run_id for report in batch] for batch in desk.server.batches]
    assert runs == [["first"], ["a", "b"], ["a"]]
    assert [said["run"] for said in desk.log.said("report-refused")] == ["a"]


def test_a_full_worker_is_nudged_by_the_last_report_of_a_batch(desk):
    desk.slots.limit = 1
    active = desk.active("a")
    assert desk.slots.begin_wait()

    desk.reporter.finish(active, COMPLETED)
    desk.wait_empty()

    assert [report.nudge for report in desk.server.batches[0]] == [True]
    assert desk.woken == 0


def test_a_worker_that_began_to_wait_while_reports_were_under_way_is_woken(desk):
    desk.slots.limit = 1
    desk.server.may_answer.clear()
    desk.reporter.finish(desk.active("a"), COMPLETED)
    wait_until(lambda: desk.server.batches, "it is under way")

    assert desk.slots.begin_wait()
    desk.server.may_answer.set()

    wait_until(lambda: desk.woken, "the claim loop is woken")
    assert [report.nudge for report in desk.server.batches[0]] == [False]


@pytest.mark.parametrize("word", [Word.RETRYING, Word.LOST])
def test_a_full_worker_whose_last_report_gave_no_nudge_is_woken_for_the_others(desk, word):
    desk.slots.limit = 3
    first, freed, last = (desk.active(run) for run in ("first", "a", "b"))
    assert desk.slots.begin_wait()
    desk.server.may_answer.clear()
    desk.reporter.finish(first, COMPLETED)
    wait_until(lambda: desk.server.batches, "the first is under way")
    desk.server.answers = [[Word.FINISHED], [Word.FINISHED, word]]
    desk.reporter.finish(freed, COMPLETED)
    desk.reporter.finish(last, FAILED)

    desk.server.may_answer.set()

    wait_until(lambda: desk.woken, "the claim loop is woken")
    assert [report.nudge for batch in desk.server.batches for report in batch] == [
        *(True, False, True)
    ]


def test_after_a_lost_answer_a_full_worker_is_woken_again_as_its_nudge_may_be_used_up(desk):
    desk.slots.limit = 1
    desk.server.answers = [RedisUnavailable("the reply was lost")]
    active = desk.active("a")
    assert desk.slots.begin_wait()

    desk.reporter.finish(active, COMPLETED)

    wait_until(lambda: desk.woken, "the claim loop is woken")
    assert [batch[0].nudge for batch in desk.server.batches] == [True, True]


def test_closing_reports_what_still_waits(desk):
    desk.server.may_answer.clear()
    for run in "abc":
        desk.reporter.finish(desk.active(run), COMPLETED)
    desk.server.may_answer.set()

    desk.reporter.close(10)

    assert sorted(r.run_id for batch in desk.server.batches for r in batch) == ["a", "b", "c"]
    assert desk.slots.held() == 0


def test_closing_gives_up_in_time_when_redis_stays_away(desk):
    desk.server.answers = [RedisUnavailable("away")] * 1_000
    desk.reporter.finish(desk.active("a"), COMPLETED)

    desk.reporter.close(0.1)

    wait_until(lambda: not desk.reporter._thread.is_alive(), "its thread has ended")
    assert desk.slots.held() == 1
