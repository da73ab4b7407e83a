"""The atomic steps at full memory: which are refused, whole, and which go on."""

from collections.abc import Callable

import pytest

from dispatcher.errors import RedisFull
from dispatcher.records import Claim, Word
from tests.builders import MIB, POOL, T0, Fleet, a_pool, a_submission, changed


@pytest.fixture
def fleet(own_fleet: Fleet) -> Fleet:
    """A pool on a server of the test's own."""
    return own_fleet


@pytest.fixture
def fill(fleet: Fleet) -> Callable[[], None]:
    """A function after which the server has no memory left, whatever is freed."""
    return lambda: fleet.client.config_set("maxmemory", 1)


GROWING = {
    "submit": lambda fleet: fleet.submit("a"),
    "a submit at another time": lambda fleet: fleet.submit("s", request="r", due_ms=T0 + 1),
    "dispatch": lambda fleet: fleet.dispatch(),
    "a dispatch to a full deployment": lambda fleet: fleet.dispatch("full"),
    "create_pool": lambda fleet: fleet.store.create_pool(a_pool("x"), default_queue_id="q"),
    "requeue": lambda fleet: fleet.requeue("dead"),
}


@pytest.mark.parametrize("step", GROWING)
def test_a_step_that_takes_memory_is_refused_when_it_is_full_and_writes_nothing(fleet, fill, step):
    fleet.set_queue(max_deliveries=1)
    fleet.put("dead")
    fleet.start(fleet.claim_one(fleet.register()))
    fleet.lose("w.1")
    fleet.create_queue("full")
    fleet.set_deployment("dep", 0)
    fleet.submit("s")
    fleet.submit("f", queue="full", deployment="dep")
    before = fleet.dump()
    fill()
    with pytest.raises(RedisFull, match="out of memory"):
        GROWING[step](fleet)
    assert fleet.dump() == before


def test_each_submit_of_a_batch_at_full_memory_is_refused(fleet, fill):
    fill()
    answers = fleet.store.submit_many(POOL, [a_submission("a"), a_submission("b")])
    assert [type(answer) for answer in answers] == [RedisFull, RedisFull]


def test_a_refused_submit_is_accepted_when_there_is_more_memory(fleet, fill):
    fill()
    with pytest.raises(RedisFull):
        fleet.submit("a")
    fleet.client.config_set("maxmemory", 0)
    assert fleet.submit("a")[0].word is Word.ACCEPTED


def test_a_refused_submit_is_accepted_after_runs_have_ended(fleet):
    fleet.submit(*"abcd", payload=b"x" * MIB)
    fleet.dispatch(max_bytes=64 * MIB)
    claims = fleet.claim(fleet.register())
    fleet.client.config_set("maxmemory", fleet.client.info("memory")["used_memory"])
    with pytest.raises(RedisFull):
        fleet.submit("e", payload=b"x" * MIB)

    assert [fleet.finish(claim) for claim in claims] == [Word.FINISHED] * 4

    assert fleet.submit("e", payload=b"x" * MIB)[0].word is Word.ACCEPTED


def test_a_run_goes_from_its_stream_to_its_end_at_full_memory(fleet, fill):
    fleet.put("a")
    fill()

    holder = fleet.register()
    claim = fleet.claim_one(holder)
    words = [fleet.start(claim), fleet.renew(holder, held=1), fleet.finish(claim, nudge=True)]

    assert words == [Word.STARTED, Word.RENEWED, Word.FINISHED]
    assert fleet.run("a")["state_type"] == "COMPLETED"


def test_a_run_is_released_at_full_memory(fleet, fill):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fill()
    assert fleet.release(claim, nudge=True) is Word.RELEASED
    assert fleet.run("a")["place"] == "scheduled"


def test_a_holder_is_recovered_at_full_memory(fleet, fill):
    fleet.put("a", "b")
    started, _ = fleet.claim(fleet.register())
    fleet.start(started)
    fill()
    fleet.lose("w.1")
    assert [fleet.run(run_id)["place"] for run_id in "ab"] == ["scheduled"] * 2
    assert "holder:w.1" not in fleet.dump()


def test_a_worker_is_displaced_at_full_memory(fleet, fill):
    fleet.register()
    fill()
    assert fleet.register(incarnation="2") == "w.2"


def claimed(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, started; the runs "b" in its stream and "c" scheduled."""
    fleet.put("a", "b", retries=1)
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    fleet.submit("c")
    return claim


# What ends runs, makes room or lets an operator help goes on.
HELPING = {
    "a cancel of a claimed run": lambda fleet, _: fleet.cancel("a").word is Word.CANCELLING,
    "a cancel of an entry": lambda fleet, _: fleet.cancel("b").word is Word.CANCELLED,
    "a cancel of a scheduled run": lambda fleet, _: fleet.cancel("c").word is Word.CANCELLED,
    "a retime": lambda fleet, _: fleet.retime("c", T0 + 1).word is Word.RETIMED,
    "a retry": lambda fleet, claim: fleet.finish(claim, "FAILED") is Word.RESCHEDULED,
    "taking a claim away": lambda fleet, claim: fleet.take_away(claim) is Word.RELEASED,
    "a late event": lambda fleet, _: fleet.watch().late == [("b", "default"), ("c", "default")],
    "a pause": lambda fleet, _: fleet.pause(until_ms=T0 + 1) is None,
    "a pause of intake": lambda fleet, _: fleet.pause("default", intake=True) is None,
    "a limit of the pool": lambda fleet, _: fleet.set_pool(limit=1) is None,
    "a limit of a queue": lambda fleet, _: fleet.set_queue(limit=1) is None,
    "a limit of a deployment": lambda fleet, _: fleet.set_deployment("dep", 1) is None,
}


@pytest.mark.parametrize("step", HELPING)
def test_a_step_that_helps_goes_on_at_full_memory(fleet, fill, step):
    fleet.set_pool(late_after_ms=0)
    claim = claimed(fleet)
    before = fleet.dump()
    fill()
    assert HELPING[step](fleet, claim)
    assert changed(before, fleet.dump())["events"]


def test_a_pause_ends_at_full_memory(fleet, fill):
    fleet.put("a")
    fleet.pause()
    fill()
    fleet.withdraw()
    assert fleet.run("a")["place"] == "scheduled"
    assert fleet.resume()


def test_dead_letters_are_purged_at_full_memory(fleet, fill):
    fleet.set_queue(max_deliveries=1)
    claimed(fleet)
    fleet.lose("w.1")
    fill()
    assert fleet.purge("a") == 1


def test_what_is_shut_is_deleted_at_full_memory(fleet, fill):
    fleet.create_queue("low")
    fleet.set_deployment("dep", 1)
    fleet.pause()
    fleet.pause(intake=True)
    fill()
    fleet.store.delete_queue(POOL, "low")
    fleet.store.delete_pool(POOL)
    assert fleet.client.keys() == [fleet.keys["events"].encode()]


STALE = {
    "start": lambda fleet, claim: fleet.start(claim),
    "finish": lambda fleet, claim: fleet.finish(claim),
    "release": lambda fleet, claim: fleet.release(claim),
}


@pytest.mark.parametrize("report", STALE)
def test_a_report_with_an_old_token_is_answered_at_full_memory(fleet, fill, report):
    claim = claimed(fleet)
    fleet.lose("w.1")
    fill()
    assert STALE[report](fleet, claim) is Word.LOST


# Steps that write no more than the wake that they pass on.
IDLE = {
    "a claim of nothing": lambda fleet: fleet.answer("w.1", slots=0).word,
    "a repeated claim": lambda fleet: fleet.answer("w.1", number=1).word,
    "a claim that is behind": lambda fleet: fleet.answer("w.1", number=0).word,
    "a claim of nobody": lambda fleet: fleet.answer("nobody.1").word,
    "a claim of a drained holder": lambda fleet: fleet.answer("drained.1").word,
    "a drain of nobody": lambda fleet: fleet.store.drain(POOL, "nobody.1", reason="test"),
    "a repeated drain": lambda fleet: fleet.store.drain(POOL, "drained.1", reason="test"),
    "a renewal": lambda fleet: fleet.renew("w.1", held=1),
}


@pytest.mark.parametrize("step", IDLE)
def test_a_step_that_passes_a_wake_on_does_so_at_full_memory(fleet, fill, step):
    fleet.put("a")
    fleet.claim_one(fleet.register())
    fleet.store.drain(POOL, fleet.register("drained"), reason="test")
    fleet.put("b")
    fleet.client.lpop(fleet.keys["wake"] + "default")
    fill()

    assert IDLE[step](fleet) in set(Word)
    assert fleet.dump()["wake:default"] == ["1"]


def test_a_claim_of_nothing_is_an_empty_answer_at_full_memory(fleet, fill):
    holder = fleet.register()
    fill()
    assert fleet.claim(holder) == []
