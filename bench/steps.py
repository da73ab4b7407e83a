"""Server time of each atomic step: INFO commandstats around many calls of that step alone."""

from collections.abc import Callable, Sequence
from uuid import uuid4

from bench.fixture import BATCH, POOL, dispatch, fresh_pool, submission, submit
from dispatcher import Finish, Outcome, Registration, Release, Report, Start, Store
from dispatcher.records import Claim

RUNS, HOUR_MS = 2_000, 3_600_000
DONE = Outcome("COMPLETED", "Completed")
LONG_AGO_MS = 1


class Stopwatch:
    """Microseconds of server time by step, for one run in each (renew: for one call)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.times: dict[str, float] = {}

    def time(self, step: str, work: Callable[[], object], runs: int = RUNS) -> None:
        """Do some work that is nothing but this step for so many runs."""
        self._store.connection.read(lambda c: c.config_resetstat())
        work()
        stats = self._store.connection.read(lambda c: c.info("commandstats"))["cmdstat_evalsha"]
        self.times[step] = stats["usec"] / runs


def server_time_us(url: str) -> dict[str, float]:
    """Return microseconds of server time by step."""
    return _life(url) | _controls(url) | _limited(url)


def _life(url: str) -> dict[str, float]:
    """Time what happens to a run from its submit to its end."""
    store = fresh_pool(url)
    watch = Stopwatch(store)
    runs = [submission() for _ in range(RUNS)]
    watch.time("submit", lambda: submit(store, runs))
    watch.time("dispatch", lambda: dispatch(store))
    me = store.register(POOL, Registration("bench", uuid4().hex[:12], RUNS)).holder
    claims: list[Claim] = []
    watch.time("claim", lambda: _claim(store, me, claims))
    watch.time("start", lambda: _report(store, [Start(c.run_id, c.token, 1) for c in claims]))
    half = len(claims) // 2
    ends = [Finish(c.run_id, c.token, DONE) for c in claims[:half]]
    watch.time("finish", lambda: _report(store, ends), half)
    releases = [Release(c.run_id, c.token, "bench") for c in claims[half:]]
    watch.time("release", lambda: _report(store, releases), half)
    watch.time("renew", lambda: [store.renew(POOL, me, held=0, number=0) for _ in range(500)], 500)
    return watch.times


def _controls(url: str) -> dict[str, float]:
    """Time what operators and the watch do to runs that nobody has claimed."""
    store = fresh_pool(url)
    watch = Stopwatch(store)
    ids = _scheduled(store, in_ms=HOUR_MS)
    watch.time("retime", lambda: [store.retime(POOL, i, LONG_AGO_MS + 1) for i in ids])
    watch.time("cancel, scheduled", lambda: [store.cancel(POOL, i) for i in ids])
    ids = _scheduled(store)
    watch.time("watch", lambda: _watch(store))
    dispatch(store)
    watch.time("cancel, unclaimed", lambda: [store.cancel(POOL, i) for i in ids])
    return watch.times


def _limited(url: str) -> dict[str, float]:
    """Time dispatch of runs whose deployment is full, and then has room for all of them."""
    store, deployment = fresh_pool(url), str(uuid4())
    watch = Stopwatch(store)
    store.set_deployment(POOL, deployment, 0)
    submit(store, [submission(LONG_AGO_MS, deployment=deployment) for _ in range(RUNS)])
    watch.time("dispatch, full", lambda: dispatch(store))
    store.set_deployment(POOL, deployment, RUNS)
    watch.time("dispatch, let in", lambda: dispatch(store))
    return watch.times


def _scheduled(store: Store, in_ms: int = 0) -> list[str]:
    """Submit runs that are due long since, or so many ms later; return their ids."""
    runs = [submission(LONG_AGO_MS + in_ms) for _ in range(RUNS)]
    submit(store, runs)
    return [run.run_id for run in runs]


def _claim(store: Store, holder: str, claims: list[Claim]) -> None:
    for number in range(1, RUNS // BATCH + 1):
        claims += store.claim(POOL, holder, number=number, slots=BATCH).claims


def _report(store: Store, reports: Sequence[Report]) -> None:
    for i in range(0, len(reports), BATCH):
        store.report_many(POOL, reports[i : i + BATCH])


def _watch(store: Store) -> None:
    while store.watch(POOL).more:
        pass
