"""After lost writes a source may offer everything again: no run is lost, none is doubled."""

from collections import Counter
from collections.abc import Iterator
from itertools import count

import pytest

from dispatcher.records import Receipt, Submission, Word
from tests.builders import POOL, T0, Fleet, a_submission
from tests.servers import RealServer

KNOWN = ["ended", "claimed", "running", "retrying", "unclaimed", "waiting", "scheduled"]
NEW = ["submitted since", "claimed since", "ended since"]


class Source:
    """Knows all runs for good, and offers each with what it was first offered with."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._requests = count()
        self._runs: dict[str, Submission] = {}

    def offer(self, run_id: str, **fields: object) -> Receipt:
        """Offer a run for the first time."""
        digest = f"digest of {run_id}"
        self._runs[run_id] = a_submission(run_id, idempotency=digest, **{"due_ms": T0} | fields)
        return self._offer(run_id)

    def offer_all(self) -> dict[str, Word]:
        """Offer all runs again; return what was answered."""
        return {run_id: self._offer(run_id).word for run_id in self._runs}

    def _offer(self, run_id: str) -> Receipt:
        request = f"request {next(self._requests)}"
        fields = {name: getattr(self._runs[run_id], name) for name in Submission.__slots__}
        return self._fleet.store.submit(POOL, Submission(**fields | {"request": request}))


@pytest.fixture
def fleet(server: RealServer) -> Iterator[Fleet]:
    """A pool on a server of the test's own."""
    with server.client() as client:
        yield Fleet(client, "t")


def fill(fleet: Fleet, source: Source) -> None:
    """Bring a run to each place that there is."""
    fleet.set_deployment("dep", 0)
    holder = fleet.register()
    for run_id in ("ended", "claimed", "running", "retrying"):
        source.offer(run_id, retries=1, retry_type="in_process")
        fleet.dispatch()
        claim = fleet.claim_one(holder)
        if run_id in ("ended", "running", "retrying"):
            fleet.start(claim)
        if run_id in ("ended", "retrying"):
            fleet.finish(claim, "COMPLETED" if run_id == "ended" else "FAILED")
    source.offer("waiting", deployment="dep")
    source.offer("unclaimed")
    fleet.dispatch()
    source.offer("scheduled", due_ms=T0 + 1000)


def lose_writes(server: RealServer, fleet: Fleet, source: Source) -> None:
    """Offer and run some more, and put the server back to where it was before that."""
    snapshot = server.snapshot()
    for run_id in NEW:
        source.offer(run_id)
    fleet.dispatch()
    for claim in fleet.claim("w.1"):
        if claim.run_id in ("unclaimed", "ended since"):
            fleet.start(claim)
            fleet.finish(claim)
    server.restore(snapshot)
    fleet.client.connection_pool.disconnect()


def ends(fleet: Fleet) -> Counter[str]:
    """How often each run has ended since the first event that is left."""
    return Counter(e["run"] for e in fleet.dump()["events"] if e["event"] == "finished")


def run_everything(fleet: Fleet) -> None:
    """Let the old worker be lost and a new one do all there is."""
    fleet.set_deployment("dep", None)
    fleet.lose("w.1")
    holder = fleet.register("new")
    for _ in range(20):
        fleet.dispatch()
        for claim in fleet.claim(holder):
            assert fleet.start(claim) is Word.STARTED
            assert fleet.finish(claim) is Word.FINISHED


def test_after_lost_writes_each_run_is_known_or_accepted_and_ends_once(server, fleet):
    source = Source(fleet)
    fill(fleet, source)
    lose_writes(server, fleet, source)

    answers = source.offer_all()
    again = source.offer_all()
    run_everything(fleet)
    at_last = source.offer_all()

    everything = [*KNOWN, *NEW]
    assert answers == dict.fromkeys(KNOWN, Word.DUPLICATE) | dict.fromkeys(NEW, Word.ACCEPTED)
    assert again == at_last == dict.fromkeys(everything, Word.DUPLICATE)
    assert {run: fleet.run(run)["state_type"] for run in everything} == dict.fromkeys(
        everything, "COMPLETED"
    )
    assert ends(fleet) == dict.fromkeys(everything, 1)


def test_after_all_data_was_lost_each_run_is_accepted_and_ends_once(server, fleet):
    source = Source(fleet)
    fill(fleet, source)
    fleet.client.flushall()
    fresh = Fleet(fleet.client, "t")

    answers = source.offer_all()
    fresh.register()
    run_everything(fresh)

    assert answers == dict.fromkeys(KNOWN, Word.ACCEPTED)
    assert source.offer_all() == dict.fromkeys(KNOWN, Word.DUPLICATE)
    assert ends(fresh) == dict.fromkeys(KNOWN, 1)


def test_a_round_that_was_lost_is_begun_again_by_the_same_offer(server, fleet):
    source = Source(fleet)
    source.offer("a", state_id="1")
    fleet.dispatch()
    fleet.finish(fleet.claim_one(fleet.register()))
    snapshot = server.snapshot()
    assert source.offer("a", state_id="2", due_ms=T0 + 5).word is Word.ACCEPTED
    server.restore(snapshot)
    fleet.client.connection_pool.disconnect()

    assert source.offer_all() == {"a": Word.ACCEPTED}
    assert source.offer_all() == {"a": Word.DUPLICATE}
