"""Why a run has not started: each answer up to its stream, as whole text."""

import pytest

from dispatcher import probing
from dispatcher.cli.output import shown_span
from dispatcher.clock import utc
from dispatcher.records import Finish
from tests.builders import OUTCOMES, T0, Fleet
from tests.explanations import codes, explained, told

START = "2023-11-14T22:13:20.000Z"  # T0
UNSERVED = "No live worker serves queue default: start `consumers run --pool pool --queue default`."

# --- Not due


def test_a_run_that_is_not_due_says_when_it_is(fleet):
    fleet.submit("a", due_ms=T0 + 60_000)
    assert told(fleet) == [
        "It is not due: that is in 60 s, at 2023-11-14T22:14:20.000Z; "
        "`dispatcher flow-run retime a --at now` makes it due at once."
    ]


def test_a_run_that_waits_for_its_retry_says_which_one_it_is_and_when_it_is_due(fleet):
    fleet.put("a", retries=2, retry_delay_ms=30_000)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")
    assert told(fleet) == [
        "It did not succeed (exit code 1); retry 1 of 2 is due in 30 s, "
        "at 2023-11-14T22:13:50.000Z."
    ]


def test_a_retry_that_is_due_says_what_stands_in_its_way(fleet):
    fleet.put("a", retries=2)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.finish(claim, "FAILED")
    fleet.advance(1)
    assert told(fleet) == [
        f"It did not succeed (exit code 1); retry 1 of 2 was due at {START}.",
        f"It has been due for 1 ms, since {START}, and is being dispatched; it is the next one.",
    ]


def test_a_retry_that_only_its_source_counts_says_no_number_of_retries(fleet):
    fleet.submit("a", due_ms=T0 + 1_000, state_name="AwaitingRetry", run_count=3)
    assert told(fleet) == [
        "It did not succeed; retry 3 is due in 1 s, at 2023-11-14T22:13:21.000Z."
    ]


def test_a_retry_in_process_says_who_keeps_the_run(fleet):
    fleet.put("a", retries=1, retry_delay_ms=5_000, retry_type="in_process")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    finish = Finish("a", claim.token, OUTCOMES["FAILED"], run_count=1)
    fleet.store.report(fleet.pool, finish)
    assert told(fleet) == [
        "It did not succeed (exit code 1); retry 1 of 1 is due in 5 s, "
        "at 2023-11-14T22:13:25.000Z, under the claim of worker w; "
        "its lease holds for another 15 s."
    ]


# --- Paused


PAUSED = f"has been paused by ops for 2 s, since {START} (database moves)"


@pytest.mark.parametrize(
    ("queue", "until_ms", "sentence"),
    [
        (None, None, f"Pool pool {PAUSED}; `dispatcher pool resume pool` ends that."),
        (
            "default",
            T0 + 60_000,
            f"Queue default {PAUSED}; that ends in 58 s, at 2023-11-14T22:14:20.000Z, "
            "or with `dispatcher queue resume default --pool pool`.",
        ),
    ],
    ids=["pool", "queue"],
)
@pytest.mark.parametrize("is_dispatched", [False, True], ids=["scheduled", "unclaimed"])
def test_a_paused_run_says_by_whom_why_and_until_when(
    fleet, queue, until_ms, sentence, is_dispatched
):
    fleet.submit("a")
    if is_dispatched:
        fleet.dispatch()
    fleet.pause(queue, until_ms=until_ms, reason="database moves", by="ops")
    fleet.advance(2_000)
    assert told(fleet) == [sentence]


def test_a_pause_without_a_name_or_a_reason_says_since_when(fleet):
    fleet.submit("a")
    fleet.pause()
    assert told(fleet) == [
        f"Pool pool has been paused for 0 ms, since {START}; `dispatcher pool resume pool` "
        "ends that."
    ]


@pytest.mark.parametrize(("until_ms", "last"), [(T0 + 5_001, ["paused"]), (T0 + 5_000, [])])
def test_a_pause_counts_for_a_run_that_is_due_before_its_end(fleet, until_ms, last):
    fleet.submit("a", due_ms=T0 + 5_000)
    fleet.pause("default", until_ms=until_ms)
    assert codes(fleet) == ["not_due", *last]


def test_a_pause_whose_end_has_come_is_none(fleet):
    fleet.submit("a")
    fleet.pause(until_ms=T0 + 500)
    fleet.advance(500)
    assert codes(fleet) == ["due"]


def test_names_are_written_as_the_shell_takes_them(client, prefix):
    fleet = Fleet(client, prefix, "a b")
    fleet.create_queue("it's")
    fleet.submit("a", queue="it's")
    fleet.pause("it's")
    (_, sentence) = explained(fleet).lines(time=utc, span=shown_span)
    assert sentence.endswith("""; `dispatcher queue resume 'it'"'"'s' --pool 'a b'` ends that.""")


# --- Waiting for the deployment


SET_DEPLOYMENT = "`dispatcher deployment set d --pool pool --limit N` changes the limit."


def test_a_waiting_run_says_who_holds_the_slots_and_who_goes_first(fleet):
    for number, name in enumerate(["high", "blocked", "paused"], 1):
        fleet.create_queue(name, number, max_unclaimed=1 if name == "blocked" else 9)
    fleet.create_queue("low", 9)
    fleet.set_deployment("d", 2)
    fleet.put("b", "c", deployment="d")
    fleet.claim_one(fleet.register(queues=("default",)))
    for queue in ("high", "blocked", "paused", "default", "low"):
        fleet.put(f"{queue}-1", f"{queue}-2", deployment="d", queue=queue)
    fleet.pause("paused")
    fleet.put("x", "y", queue="blocked")
    fleet.put("a", deployment="d")
    assert told(fleet) == [
        "It waits for deployment d, which is full at its limit of 2: b (Pending) and c (unclaimed) "
        "hold its slots; ahead of it: 2 runs of queues with higher priority (high 2) and 2 runs "
        f"of its own queue; {SET_DEPLOYMENT}"
    ]
    assert told(fleet, "high-1") == [
        "It waits for deployment d, which is full at its limit of 2: b (Pending) and c (unclaimed) "
        f"hold its slots; it is the next one; {SET_DEPLOYMENT}"
    ]


def test_the_first_five_that_hold_slots_are_named(fleet):
    fleet.set_deployment("d", 7)
    fleet.put(*"bcdefgha", deployment="d")
    assert told(fleet) == [
        "It waits for deployment d, which is full at its limit of 7: b (unclaimed), c (unclaimed), "
        "d (unclaimed), e (unclaimed), f (unclaimed) and 2 more hold its slots; "
        f"it is the next one; {SET_DEPLOYMENT}"
    ]


def test_a_limit_of_zero_is_named_alone(fleet):
    fleet.set_deployment("d", 0)
    fleet.put("a", deployment="d")
    assert told(fleet) == [
        f"It waits for deployment d, which has a limit of 0; it is the next one; {SET_DEPLOYMENT}"
    ]


@pytest.mark.parametrize("limit", [2, None])
def test_a_run_waits_for_a_dispatcher_once_its_deployment_has_room(fleet, limit):
    fleet.set_deployment("d", 1)
    fleet.put("b", "a", deployment="d")
    fleet.set_deployment("d", limit)
    assert told(fleet) == [
        "It waits for deployment d, which has room by now; it is the next one; "
        "if it stays so, no dispatcher runs: start `dispatcher run`."
    ]


def test_a_waiting_run_of_a_paused_queue_says_both(fleet):
    fleet.set_deployment("d", 0)
    fleet.put("a", deployment="d")
    fleet.pause("default")
    assert codes(fleet) == ["paused", "waiting"]


def test_a_waiting_run_says_that_its_stream_is_full_too(fleet):
    fleet.set_queue(max_unclaimed=1)
    fleet.set_deployment("d", 0)
    fleet.put("a", deployment="d")
    fleet.put("b")
    assert codes(fleet) == ["waiting", "stream_full", "unserved"]


# --- Due, and not dispatched


def test_a_run_that_was_just_due_says_how_many_are_dispatched_first(fleet):
    fleet.submit("c", "b", "a")
    fleet.advance(1_000)
    assert told(fleet) == [
        f"It has been due for 1 s, since {START}, and is being dispatched; "
        "ahead of it: 2 runs of its own queue."
    ]


def test_a_run_that_nobody_dispatches_says_so(fleet):
    fleet.submit("a")
    fleet.advance(1_001)
    assert told(fleet) == [
        f"It has been due for 1,001 ms, since {START}, and its stream has room, but no dispatcher "
        "serves the pool: start `dispatcher run --pool pool`."
    ]


@pytest.mark.parametrize(("silent_ms", "code"), [(1_000, "due"), (1_001, "no_dispatcher")])
def test_a_dispatcher_that_is_busy_with_other_runs_is_one(fleet, silent_ms, code):
    fleet.submit("b", "c", "a")
    fleet.advance(5_000)
    fleet.dispatch(limit=1)
    fleet.advance(silent_ms)
    assert codes(fleet) == [code]


def test_events_that_hide_what_dispatchers_do_prove_nothing(fleet, monkeypatch):
    fleet.submit("a")
    fleet.advance(5_000)
    fleet.submit("b", "c")
    monkeypatch.setattr(probing, "MOST_EVENTS", 2)
    assert codes(fleet) == ["due"]


def test_a_run_before_a_full_stream_says_why_nothing_is_claimed_from_it(fleet):
    fleet.set_queue(max_unclaimed=2)
    fleet.put("b", "c", "d", "a")
    assert told(fleet) == [
        "Its stream was full and takes more when half of that is claimed: 2 unclaimed runs of at "
        "most 2, with 24 bytes of at most 67,108,864; ahead of it: 1 run of its own queue; "
        "`dispatcher queue set default --pool pool --max-unclaimed N` makes room.",
        UNSERVED,
    ]


def test_a_stream_is_full_of_bytes_too(fleet):
    fleet.set_queue(max_unclaimed_bytes=12)
    fleet.put("b")
    fleet.submit("a")
    assert codes(fleet) == ["stream_full", "unserved"]


def test_a_stream_that_was_full_stays_so_until_half_of_it_is_claimed(fleet):
    fleet.set_queue(max_unclaimed=4)
    fleet.put(*"bcdefa")
    holder = fleet.register()
    fleet.claim_one(holder)
    before = codes(fleet)
    fleet.claim_one(holder)
    assert (before, codes(fleet)) == (["stream_full"], ["due"])


def test_a_higher_bound_makes_room_in_a_full_stream(fleet):
    fleet.set_queue(max_unclaimed=1)
    fleet.put("b", "a")
    fleet.set_queue(max_unclaimed=2)
    assert "blocked" not in fleet.dump()["queue:default"]
    assert codes(fleet) == ["due"]
