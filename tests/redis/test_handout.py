"""How a pool hands out: its runs are pushed into streams and claimed, or listed and taken."""

import pytest

from dispatcher.errors import InvalidInput
from dispatcher.inspector import Inspector
from dispatcher.records import Word
from tests.builders import POOL, T0, Fleet, a_pool, changed, ids, moved, shown, sleep_on, woken

HOLDER = "w~1.1"


@pytest.fixture
def polled(client, prefix):
    """A pool that is handed out by polling from its beginning."""
    return Fleet(client, prefix, handout="poll")


def handout(fleet: Fleet) -> str:
    return Inspector(fleet.store.connection, fleet.store.prefix).pool(POOL).handout


def places(fleet: Fleet, runs: str) -> list[str]:
    return [fleet.run(run_id)["place"] for run_id in runs]


# --- The setting


def test_a_pool_hands_out_by_stream_unless_it_is_told_otherwise(fleet):
    assert (handout(fleet), "handout" in fleet.dump()["pool"]) == ("stream", False)


def test_a_pool_may_be_polled_from_its_beginning(polled):
    assert (handout(polled), polled.dump()["pool"]["handout"]) == ("poll", "poll")


@pytest.mark.parametrize(("value", "found"), [("poll", "poll"), ("stream", "stream")])
def test_it_may_be_changed_at_any_time(fleet, value, found):
    fleet.set_pool(handout="poll")
    fleet.set_pool(handout=value)
    assert handout(fleet) == found


@pytest.mark.parametrize(
    "make",
    [
        lambda store: store.set_pool(POOL, {"handout": "push"}),
        lambda store: store.create_pool(a_pool("x", handout="push"), default_queue_id="q"),
    ],
)
def test_another_way_than_these_two_is_refused(fleet, make):
    before = fleet.dump()
    with pytest.raises(InvalidInput, match="hand-out 'push' is neither stream nor poll"):
        make(fleet.store)
    assert changed(before, fleet.dump()) == {}


def test_workers_and_dispatchers_hear_of_the_change_at_once(fleet, listener):
    fleet.register()
    before = fleet.dump()
    fleet.set_pool(handout="poll")
    assert changed(before, fleet.dump()) == {
        "events": [shown("pool-set", reason="handout=poll")],
        "inbox:w.1": ["1"],
        "pool": {"handout": "poll", "queues_version": "2"},
    }
    assert listener.heard() == [" 0"]


# --- Nothing enters a stream, nothing is claimed


def test_due_runs_stay_in_the_schedule_of_a_pool_that_is_polled(polled):
    polled.submit(*"ab")
    polled.submit("c", due_ms=T0 + 1_000)
    before = polled.dump()
    answer = polled.dispatch()
    assert (answer.moved, answer.more, answer.withdraw) == ([], [], [])
    assert answer.next_due_ms == {"default": None}
    assert changed(before, polled.dump()) == {}


def test_a_claim_is_told_that_others_poll_and_uses_up_no_number(polled):
    polled.submit("a")
    holder = polled.register()
    polled.dispatch()
    before = polled.dump()
    answer = polled.answer(holder)
    assert (answer.word, answer.claims, answer.more) == (Word.POLLED, [], False)
    assert changed(before, polled.dump()) == {}


def test_what_is_in_a_stream_is_not_claimed_from_the_moment_of_the_change(fleet):
    fleet.put("a")
    holder = fleet.register()
    fleet.set_pool(handout="poll")
    sleep_on(fleet)
    assert fleet.answer(holder).word is Word.POLLED
    assert fleet.store.renew(POOL, holder, held=0, number=0).word is Word.RENEWED
    assert woken(fleet) == []


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda fleet, h: fleet.store.drain(POOL, h, reason="stop"), Word.DRAINING),
        (lambda fleet, _: fleet.advance(15_000), Word.LOST),
    ],
)
def test_a_holder_that_may_not_claim_hears_that_first(polled, make, word):
    holder = polled.register()
    make(polled, holder)
    assert polled.answer(holder).word is word


def test_a_repeated_claim_gets_its_runs_although_the_pool_is_polled_by_now(fleet):
    fleet.put("a")
    holder = fleet.register()
    (claim,) = fleet.claim(holder)
    fleet.set_pool(handout="poll")
    assert fleet.claim(holder, number=1) == [claim]


def test_what_is_unclaimed_goes_back_to_its_place_and_what_is_claimed_goes_on(fleet):
    fleet.put(*"abc", deployment="dep")
    claim = fleet.claim_one(fleet.register())
    fleet.set_pool(handout="poll")

    assert fleet.dispatch().withdraw == ["default"]
    fleet.withdraw()

    assert places(fleet, "abc") == ["claimed", "scheduled", "scheduled"]
    state = fleet.dump()
    assert len(state["stream:default"]["entries"]) == 1
    assert state["slots:deployment:dep"] == {"a": T0}
    assert "ready" not in state
    assert fleet.dispatch().withdraw == []
    assert fleet.start(claim) is Word.STARTED
    assert fleet.finish(claim) is Word.FINISHED
    assert fleet.dispatch().moved == []


def test_a_claim_given_back_is_taken_by_those_that_poll(fleet):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.set_pool(handout="poll")
    fleet.release(claim)
    assert fleet.take_one("a").delivery == 2


def test_what_is_due_is_dispatched_at_once_when_the_pool_streams_again(polled, listener):
    polled.submit(*"ab")
    polled.take("a")
    holder = polled.register("s")
    polled.set_pool(handout="stream")
    assert " 0" in listener.heard()
    assert moved(polled.dispatch()) == ["b"]
    assert ids(polled.claim(holder)) == ["b"]


def test_what_was_not_withdrawn_in_time_is_claimed_when_the_pool_streams_again(fleet):
    fleet.put("a")
    sleep_on(fleet)
    fleet.set_pool(handout="poll")
    fleet.set_pool(handout="stream")
    assert woken(fleet) == ["default"]
    assert ids(fleet.claim(fleet.register())) == ["a"]


def test_a_withdrawal_leaves_a_pool_of_streams_alone(fleet):
    fleet.put("a")
    fleet.withdraw()
    assert places(fleet, "a") == ["stream"]


def test_a_full_stream_is_full_no_more(fleet):
    fleet.set_queue(max_unclaimed=1)
    fleet.put(*"ab")
    assert fleet.dump()["queue:default"]["blocked"] == "unclaimed"
    fleet.set_pool(handout="poll")
    fleet.dispatch()
    assert "blocked" not in fleet.dump()["queue:default"]


@pytest.mark.parametrize("queue", [None, "default"])
def test_a_paused_pool_that_is_polled_looks_at_the_end_of_the_pause(polled, queue):
    polled.submit("a")
    polled.pause(queue, until_ms=T0 + 100)
    assert polled.dispatch().next_due_ms == {"default": T0 + 100}
    polled.advance(100)
    polled.dispatch()
    assert not {"paused", "paused_until_ms"} & polled.dump()["queue:default"].keys()
    assert polled.take("a").word is Word.TAKEN


# --- Limits of deployments


def test_due_runs_of_a_full_deployment_wait_apart_and_the_others_stay(polled):
    polled.set_deployment("dep", 1)
    polled.submit(*"abc", deployment="dep")
    polled.submit("d")
    before = polled.dump()

    answer = polled.dispatch()

    assert answer.waiting == [("b", "default"), ("c", "default")]  # there is room for one
    assert (answer.moved, answer.more) == ([], ["default"])
    after = polled.dump()
    assert list(after["scheduled:default"]) == [
        m for m in before["scheduled:default"] if m[-1] in "ad"
    ]
    assert [member[-1] for member in after["waiting:dep:default"]] == ["b", "c"]
    assert "slots:deployment:dep" not in after
    assert polled.dispatch().more == []


def test_as_many_come_back_as_there_is_room_for_beside_those_that_stay(polled):
    polled.set_deployment("dep", 1)
    polled.submit(*"abcd", deployment="dep")
    polled.dispatch()
    polled.set_deployment("dep", 3)
    polled.dispatch()
    assert places(polled, "abcd") == ["scheduled", "scheduled", "scheduled", "waiting"]
    polled.dispatch()
    assert places(polled, "abcd") == ["scheduled", "scheduled", "scheduled", "waiting"]


def test_the_room_of_a_deployment_counts_over_all_queues_of_a_call(polled):
    polled.create_queue("low")
    polled.set_deployment("dep", 0)
    polled.submit(*"ab", deployment="dep")
    polled.submit(*"cd", deployment="dep", queue="low")
    polled.dispatch()
    assert places(polled, "abcd") == ["waiting"] * 4
    polled.set_deployment("dep", 3)
    for _ in range(3):
        polled.dispatch()
    assert places(polled, "abcd") == ["scheduled", "scheduled", "scheduled", "waiting"]


def test_those_that_wait_come_in_when_the_limit_is_taken_away(polled):
    polled.set_deployment("dep", 0)
    polled.submit(*"ab", deployment="dep")
    polled.dispatch()
    polled.set_deployment("dep", None)
    polled.dispatch()
    assert places(polled, "ab") == ["scheduled"] * 2


def test_a_new_run_of_a_full_deployment_is_cancelled_when_that_is_its_strategy(polled):
    polled.set_deployment("dep", 1, "CANCEL_NEW")
    polled.submit(*"ab", deployment="dep")
    polled.take("a")
    (gone,) = polled.dispatch().skipped
    assert (gone.run_id, gone.reason) == ("b", "Deployment concurrency limit reached.")


def test_many_runs_of_a_full_deployment_are_put_apart_in_bounded_steps(polled):
    polled.set_deployment("dep", 0)
    many = 400
    polled.submit(*(f"r{number:05}" for number in range(many)), deployment="dep")
    polled.submit("other")
    steps = 0
    while (answer := polled.dispatch(limit=100)).more:
        assert len(answer.waiting) <= 100
        steps += 1
    assert steps == many // 100
    assert [m[16:] for m in polled.members("scheduled", "default")] == ["other"]


def test_no_more_than_a_page_can_list_is_looked_at(polled):
    polled.set_deployment("dep", 0)
    polled.submit(*(f"r{number:03}" for number in range(250)))
    polled.submit("behind", deployment="dep")
    assert (polled.dispatch().waiting, polled.run("behind")["place"]) == ([], "scheduled")


@pytest.mark.parametrize(("due_ms", "look_ms"), [(T0 + 100, T0 + 500), (T0 + 900, T0 + 900)])
def test_a_dispatcher_looks_again_when_something_is_due_but_not_too_often(polled, due_ms, look_ms):
    polled.set_deployment("dep", 1)
    polled.submit("a", due_ms=due_ms)
    assert polled.dispatch().next_due_ms == {"default": look_ms}


def test_waiting_runs_are_dispatched_in_their_order_when_the_pool_streams_again(polled):
    polled.set_deployment("dep", 1)
    polled.submit(*"abc", deployment="dep")
    polled.dispatch()
    polled.set_pool(handout="stream")
    assert moved(polled.dispatch()) == ["a"]
    holder = polled.register("s")
    for run_id in "abc":
        claim = polled.claim_one(holder)
        assert claim.run_id == run_id
        polled.start(claim)
        polled.finish(claim)
        polled.dispatch()


def test_a_slot_that_was_left_to_a_run_of_a_full_stream_is_another_ones_afterwards(polled):
    polled.create_queue("hi", 1, max_unclaimed=1)
    polled.submit("other", queue="hi")
    polled.set_deployment("dep", 1)
    polled.submit("a", queue="hi", deployment="dep")
    polled.submit("b", deployment="dep")
    assert polled.dispatch().waiting == [("b", "default")]
    polled.set_pool(handout="stream")
    polled.dispatch()
    assert moved(polled.dispatch()) == []
    assert places(polled, "ab") == ["scheduled", "stream"]


def test_only_the_latest_of_late_runs_stays_when_there_are_limits(polled):
    polled.set_queue(late_policy="latest")
    polled.set_deployment("dep", 5)
    polled.submit(*"abc", deployment="dep")
    polled.advance(20_000)
    assert [gone.run_id for gone in polled.dispatch().skipped] == ["a", "b"]


# --- The watch


def test_a_run_that_nobody_takes_is_announced_as_late_and_its_queue_not_as_unserved(polled):
    polled.submit("a")
    assert polled.dispatch().late_at_ms == T0 + 15_000
    polled.advance(15_000)
    answer = polled.watch()
    assert (answer.late, answer.unserved) == ([("a", "default")], [])


def test_a_run_that_was_taken_is_not_late(polled):
    polled.submit("a")
    polled.take("a")
    polled.advance(15_000)
    assert polled.watch().late == []


def test_who_has_taken_a_run_serves_no_queue(polled):
    polled.submit("a")
    polled.take("a")
    polled.set_pool(handout="stream")
    polled.put("b")
    polled.store.set_pool(POOL, {"late_after_ms": 0})
    assert polled.watch().unserved == ["default"]


def test_a_queue_whose_run_is_taken_is_said_to_be_unserved_no_more(fleet):
    fleet.put("a")
    fleet.advance(15_000)
    assert fleet.watch().unserved == ["default"]
    fleet.set_pool(handout="poll")
    fleet.take("a")
    assert "unserved_ms" not in fleet.dump()["queue:default"]
