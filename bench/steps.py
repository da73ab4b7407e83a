"""Server time of each atomic step: INFO commandstats around many calls of that step alone."""

from collections.abc import Callable
from uuid import uuid4

from bench.fixture import POOL, fresh_pool, submission
from dispatcher import Finish, Outcome, Registration, Release, Report, Start, Store
from dispatcher.records import Claim

RUNS, BATCH = 2_000, 100
DONE = Outcome("COMPLETED", "Completed")


def server_time_us(url: str) -> dict[str, float]:
    """Return microseconds of server time by step, for one run in each (renew: for one call)."""
    store = fresh_pool(url)
    times: dict[str, float] = {}

    def timed(step: str, work: Callable[[], object], runs: int = RUNS) -> None:
        store.connection.read(lambda c: c.config_resetstat())
        work()
        stats = store.connection.read(lambda c: c.info("commandstats"))["cmdstat_evalsha"]
        times[step] = stats["usec"] / runs

    runs = [submission() for _ in range(RUNS)]
    timed("submit", lambda: _in_batches(lambda b: store.submit_many(POOL, b), runs))
    timed("dispatch", lambda: _dispatch(store))
    me = store.register(POOL, Registration("bench", uuid4().hex[:12], RUNS)).holder
    claims: list[Claim] = []
    timed("claim", lambda: _claim(store, me, claims))
    starts: list[Report] = [Start(c.run_id, c.token, 1) for c in claims]
    timed("start", lambda: _in_batches(lambda b: store.report_many(POOL, b), starts))
    half = len(claims) // 2
    ends: list[Report] = [Finish(c.run_id, c.token, DONE) for c in claims[:half]]
    timed("finish", lambda: _in_batches(lambda b: store.report_many(POOL, b), ends), half)
    releases: list[Report] = [Release(c.run_id, c.token, "bench") for c in claims[half:]]
    timed("release", lambda: _in_batches(lambda b: store.report_many(POOL, b), releases), half)
    timed("renew", lambda: [store.renew(POOL, me, held=0, number=0) for _ in range(500)], 500)
    return times


def _in_batches(step: Callable[[list], object], items: list) -> None:  # type: ignore[type-arg]
    for i in range(0, len(items), BATCH):
        step(items[i : i + BATCH])


def _dispatch(store: Store) -> None:
    while store.dispatch(POOL, ["default"]).more:
        pass


def _claim(store: Store, holder: str, claims: list[Claim]) -> None:
    for number in range(1, RUNS // BATCH + 1):
        claims += store.claim(POOL, holder, number=number, slots=BATCH).claims
