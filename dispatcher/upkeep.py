"""Upkeep: the slow work of a dispatcher beside dispatching and recovery.

Now and then it makes one pass of `reconciling` over its pools, with repairs, and purges dead
letters that were kept for long enough. It takes one page at a time, with a rest behind each, so it
costs next to nothing; any number of dispatchers do it side by side.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from dispatcher.controls import PURGE_RUNS
from dispatcher.errors import NotFound, RedisFull, RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.reconciling import Reconciler
from dispatcher.records import Finding
from dispatcher.store import Store

PAGE_REST_S = 1.0
PAGES_AT_LEAST = 300  # a shorter interval than this many rests takes shorter rests


class Upkeep:
    """Repairs the pools that `pools()` names about every `every_s` seconds.

    `all_pools` says that these are all that there are, so the list of them is compared, too.
    """

    def __init__(
        self,
        store: Store,
        inspector: Inspector,
        *,
        pools: Callable[[], Sequence[str]],
        every_s: float,
        all_pools: bool = True,
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._pools = pools
        self._every_s = every_s
        self._all_pools = all_pools
        self._rest_s = min(PAGE_REST_S, every_s / PAGES_AT_LEAST)
        self._pages: Iterator[None] | None = None
        self._begun = False
        self._log = logger()

    def run_once(self) -> float:
        """Look at one page and return for how many seconds there is nothing to do.

        Raises RedisUnavailable when the server is away; the pass then begins anew.
        """
        if not self._begun:  # those that started together do not work together
            self._begun = True
            return random.uniform(0.1, 1.0) * self._every_s
        self._pages = self._pages or self._pass()
        try:
            next(self._pages)
        except StopIteration:
            return self._ended()
        except (RedisRefused, RedisFull) as error:
            # Dispatching goes on: a server that forbids this, or is full, is no reason to end.
            self._log.warning("upkeep-stopped", reason=str(error))
            return self._ended()
        except RedisUnavailable:
            self._pages = None
            raise
        return self._rest_s

    def _ended(self) -> float:
        self._pages = None
        return random.uniform(0.75, 1.25) * self._every_s

    def _pass(self) -> Iterator[None]:
        pools = list(self._pools())
        reconciler = Reconciler(self._store, self._inspector, fix=True)
        for findings in reconciler.walk(pools, names=self._all_pools):
            for finding in findings:
                self._tell(finding)
            yield
        for pool in pools:
            yield from self._purge(pool)
        self._log.debug("reconciled", **reconciler.looked)

    def _tell(self, finding: Finding) -> None:
        where = {"pool": finding.pool, "queue": finding.queue, "run": finding.run}
        self._log.warning(
            "repaired" if finding.repaired else "not-repaired",
            what=finding.code,
            **{name: value for name, value in where.items() if value},
            reason=finding.problem,
            repair=finding.repair or "none",
        )

    def _purge(self, pool: str) -> Iterator[None]:
        """Forget dead letters that are older than their pool keeps them."""
        try:
            kept_ms = self._inspector.pool(pool).dead_retention_ms
        except NotFound:
            return
        now_ms = self._store.now_ms or self._inspector.server_time_ms(pool)
        gone = asked = PURGE_RUNS
        total = 0
        while gone and asked == PURGE_RUNS:
            yield
            old = self._inspector.dead(pool, before_ms=now_ms - kept_ms, limit=PURGE_RUNS)
            asked, gone = len(old), self._store.purge(pool, old, by="retention") if old else 0
            total += gone
        if total:
            self._log.warning("purged", pool=pool, runs=total, reason="kept for long enough")
