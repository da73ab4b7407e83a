"""The atomic step `finish`: a claimed run ends once, and leaves nothing for ever."""

import pytest

from dispatcher.keys import TABLE
from dispatcher.records import Claim, Finish, Outcome, Word
from tests.builders import OUTCOMES, POOL, T0, Fleet, changed, refused

DAY_MS = 86_400_000
OLD_TOKEN = "a finish with an old token"


@pytest.fixture
def claim(fleet: Fleet) -> Claim:
    """The claim of the run "a" by w.1, started."""
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    fleet.start(claim)
    return claim


def test_a_finished_run_has_ended_and_its_claim_is_gone(fleet, claim):
    before = fleet.dump()
    fleet.advance(9)

    assert fleet.finish(claim, "FAILED") is Word.FINISHED

    entry = before["run:a"]["entry"]
    assert changed(before, fleet.dump()) == {
        "stream:default": {
            "entries": {entry: None},
            "groups": {"workers": {"pending": {entry: None}}},
        },
        "claims:w.1": None,
        "slots:pool": None,
        "slots:queue:default": None,
        "run:a": {
            "place": "ended",
            "state_type": "FAILED",
            "state_name": "Failed",
            "message": "exit code 1",
            "output": "no such file",
            "ended_ms": str(T0 + 9),
            "delivery.1.ended_ms": str(T0 + 9),
            "delivery.1.outcome": "FAILED",
            "ran_ms": "9",
            "answer_token": claim.token,
            "answer_count": "",
            "answer": "finished",
            "entry": None,
            "token": None,
            "holder": None,
            "claim": None,
        },
        "finished": {"a": T0 + 9},
        "expiring": ["finished", "run:a"],
        "events": [
            {
                "event": "finished",
                "at_ms": str(T0 + 9),
                "run": "a",
                "queue": "default",
                "from": "RUNNING",
                "to": "FAILED",
                "worker": "w.1",
                "reason": "exit code 1",
            }
        ],
    }


@pytest.mark.parametrize("state", OUTCOMES)
def test_each_outcome_is_the_state_of_the_run(fleet, claim, state):
    outcome = OUTCOMES[state]
    fleet.finish(claim, state)
    run = fleet.run("a")
    assert (run["state_type"], run["state_name"]) == (outcome.state_type, outcome.state_name)
    assert (run["message"], run["output"]) == (outcome.message, outcome.output.decode())


def test_an_event_leaves_out_what_is_empty(fleet, claim):
    fleet.finish(claim, "COMPLETED")
    assert "reason" not in fleet.dump()["events"][-1]


@pytest.mark.parametrize("first", OUTCOMES)
@pytest.mark.parametrize("second", OUTCOMES)
def test_the_first_outcome_counts_and_a_repetition_changes_nothing(fleet, claim, first, second):
    fleet.finish(claim, first)
    before = fleet.dump()
    fleet.advance(1)

    assert fleet.finish(claim, second) is Word.FINISHED
    assert fleet.dump() == before


def test_a_run_may_end_without_a_start(fleet):
    fleet.put("a")
    claim = fleet.claim_one(fleet.register())
    assert fleet.finish(claim, "CRASHED") is Word.FINISHED
    assert fleet.dump()["events"][-1]["from"] == "PENDING"


def test_a_finish_counts_after_the_lease_ended_if_nobody_recovered_it(fleet, claim):
    fleet.advance(60_000)
    assert fleet.finish(claim) is Word.FINISHED


def recovered(fleet: Fleet) -> None:
    fleet.lose("w.1")


def dispatched_again(fleet: Fleet) -> None:
    fleet.lose("w.1")
    fleet.dispatch()


def claimed_by_another(fleet: Fleet) -> None:
    dispatched_again(fleet)
    fleet.claim_one(fleet.register("another"))


def claimed_by_the_same_worker(fleet: Fleet) -> None:
    dispatched_again(fleet)
    fleet.claim_one(fleet.register(incarnation="2"))


def finished_by_another(fleet: Fleet) -> None:
    dispatched_again(fleet)
    fleet.finish(fleet.claim_one(fleet.register("another")), "FAILED")


SINCE = [
    recovered,
    dispatched_again,
    claimed_by_another,
    claimed_by_the_same_worker,
    finished_by_another,
]


@pytest.mark.parametrize("since", SINCE)
def test_a_finish_with_an_old_token_is_lost_and_leaves_an_event_alone(fleet, claim, since):
    since(fleet)
    before, at_ms = fleet.dump(), fleet.store.now_ms
    assert fleet.finish(claim) is Word.LOST
    assert changed(before, fleet.dump()) == refused("a", OLD_TOKEN, at_ms=at_ms)


def test_a_token_of_another_run_is_lost_and_leaves_an_event_alone(fleet, claim):
    fleet.put("b")
    other = fleet.claim_one("w.1")
    before = fleet.dump()
    report = Finish("a", other.token, OUTCOMES["COMPLETED"])
    assert fleet.store.report(POOL, report) is Word.LOST
    assert changed(before, fleet.dump()) == refused("a", OLD_TOKEN)


def test_a_run_that_is_not_known_is_lost_and_changes_nothing(fleet, claim):
    before = fleet.dump()
    report = Finish("unknown", claim.token, OUTCOMES["COMPLETED"])
    assert fleet.store.report(POOL, report) is Word.LOST
    assert fleet.dump() == before


def test_output_may_be_any_bytes(fleet, claim):
    output = bytes(range(256))
    outcome = Outcome("FAILED", "Failed", "größe 池", output)
    fleet.store.report(POOL, Finish("a", claim.token, outcome))
    assert fleet.client.hget(fleet.keys["run"] + "a", "output") == output
    assert fleet.run("a")["message"] == "größe 池"


# --- A holder that waits for a free slot


def test_a_finish_that_asks_for_it_nudges_its_holder_once(fleet):
    fleet.put("a", "b")
    for claim in fleet.claim(fleet.register()):
        fleet.finish(claim, nudge=True)
    assert fleet.dump()["inbox:w.1"] == ["1"]


def test_a_finish_that_does_not_ask_nudges_nobody(fleet, claim):
    fleet.finish(claim)
    assert "inbox:w.1" not in fleet.dump()


def test_a_refused_finish_nudges_nobody(fleet, claim):
    claimed_by_another(fleet)
    fleet.finish(claim, nudge=True)
    assert [name for name in fleet.dump() if name.startswith("inbox:")] == []


# --- What an ended run leaves


@pytest.mark.parametrize(
    ("state", "kept"),
    [("COMPLETED", False), ("CANCELLED", False), ("FAILED", True), ("CRASHED", True)],
)
def test_the_payload_is_dropped_unless_somebody_may_need_it(fleet, claim, state, kept):
    fleet.finish(claim, state)
    assert fleet.run("a").get("payload") == ("payload of a" if kept else None)


@pytest.mark.parametrize("state", OUTCOMES)
def test_a_pool_may_keep_all_payloads(client, prefix, state):
    fleet = Fleet(client, prefix, keep_payload=True)
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()), state)
    assert fleet.run("a")["payload"] == "payload of a"


def permanent(fleet: Fleet) -> list[str]:
    """The keys that exist as long as a pool, its queue and its worker do."""
    names = ["pool", "queues", "events", "holders", "workers"]
    named = {"queue": "default", "stream": "default", "holder": "w.1"}
    keys = [fleet.keys[n] for n in names] + [fleet.keys[n] + part for n, part in named.items()]
    return sorted([*keys, f"{fleet.store.prefix}:pools"])


@pytest.mark.parametrize("state", OUTCOMES)
def test_all_that_an_ended_run_leaves_has_a_ttl(fleet, leaks, state):
    fleet.put("a", deployment="dep", idempotency="digest")
    claim = fleet.claim_one(fleet.register())
    fleet.client.lpop(fleet.keys["wake"] + "default")
    fleet.start(claim)

    fleet.finish(claim, state)

    assert leaks() == permanent(fleet)
    assert {row.name for row in TABLE if "TTL" in row.ends} == {"run", "idempotency", "events"}


def test_the_record_and_the_list_live_as_long_as_the_pool_says(client, prefix):
    fleet = Fleet(client, prefix, retention_ms=50_000)
    fleet.put("a")
    fleet.finish(fleet.claim_one(fleet.register()))
    for key in (fleet.keys["run"] + "a", fleet.keys["finished"]):
        assert 40_000 < client.pttl(key) <= 50_000


def test_two_old_ones_leave_the_list_for_each_that_comes(fleet):
    holder = fleet.register()
    for run_id in "abc":
        fleet.put(run_id)
        fleet.finish(fleet.claim_one(holder))
    fleet.advance(DAY_MS - 1)
    fleet.renew(holder, held=0)
    fleet.put("d", "e")
    d, e = fleet.claim(holder)

    fleet.finish(d)
    assert list(fleet.dump()["finished"]) == ["a", "b", "c", "d"]

    fleet.advance(1)
    fleet.finish(e)
    assert list(fleet.dump()["finished"]) == ["c", "d", "e"]


def test_an_ended_run_is_never_dispatched_or_claimed_again(fleet, claim):
    fleet.finish(claim)
    fleet.submit("a")
    assert fleet.dispatch().moved == []
    assert fleet.claim("w.1") == []
