"""Recovery: take back what dead workers had, and nothing from living ones.

A lease that has ended is evidence only if its holder could have renewed it. After a server was
away, or its clock stepped, every lease may look ended: recovery then waits one whole lease, as if
all had been renewed at that moment. An ended lease is looked at twice before it counts.
"""

from collections.abc import Callable, Sequence

from dispatcher.clock import Clock
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.logs import logger
from dispatcher.store import Store
from dispatcher.stored import Leases

SECOND_LOOK_S = 0.5  # longer than a worker waits before it renews again after an outage
SLOW_ANSWER_S = 1.0
CLOCK_TOLERANCE_MS = 500
MAX_WAIT_S = 60.0
LOOK_AGAIN_S = 5.0  # at a pool that is not there, or over a time without trust


class Recovery:
    """Recovers the dead workers of the pools that `pools()` names."""

    def __init__(
        self,
        store: Store,
        inspector: Inspector,
        *,
        pools: Callable[[], Sequence[str]],
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._pools = pools
        self._clock = clock or Clock()
        self._trust_from_s: dict[str, float] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        # By pool: whose lease had ended, at which lease end, and when we saw that first.
        self._suspects: dict[str, dict[str, tuple[int, float]]] = {}
        self._connects: dict[str, int] = {}
        self._log = logger()

    def run_once(self) -> float:
        """Recover who is dead and return for how many seconds there is nothing to do."""
        waits_s = [MAX_WAIT_S]
        for pool in self._pools():
            try:
                waits_s.append(self._look(pool))
            except RedisUnavailable as error:
                if isinstance(error, RedisRefused) or not self._store.connection.cluster:
                    self.distrust()
                    raise
                # A node of a cluster is away; dead workers on the others are recovered.
                self._log.debug("redis-away", pool=pool, reason=str(error))
                self.distrust(pool)
                waits_s.append(LOOK_AGAIN_S)
        return min(waits_s)

    def distrust(self, pool: str | None = None) -> None:
        """Forget what was seen: a server was away, so no ended lease is evidence there."""
        for seen in (self._trust_from_s, self._seen, self._suspects):
            if pool is None:
                seen.clear()
            else:
                seen.pop(pool, None)

    def _look(self, pool: str) -> float:
        asked_s = self._clock.monotonic_s()
        leases = self._inspector.leases(pool)
        connects = self._inspector.at(pool).connects
        if self._connects.get(pool) != connects:
            self._connects[pool] = connects
            self.distrust(pool)  # its server was away, or is another one, while nothing was asked
        if not leases.lease_ms:  # the pool is not there, or not yet
            self._seen.pop(pool, None)
            return LOOK_AGAIN_S
        trusted_in_s = self._trusted_in_s(pool, leases, asked_s)
        before, self._suspects[pool] = self._suspects.get(pool, {}), {}
        waits_s = [max(0.05, leases.lease_ms / 1000)]
        for holder, end_ms in leases.ends:
            if end_ms > leases.now_ms:
                waits_s.append((end_ms - leases.now_ms) / 1000 + 0.01)
                break  # they come by lease end
            if end_ms == 0:  # displaced, or recovery of it was interrupted
                waits_s.append(self._recover(pool, holder))
            elif trusted_in_s > 0:
                waits_s.append(min(trusted_in_s, LOOK_AGAIN_S))
            else:
                waits_s.append(self._suspect(pool, holder, end_ms, before.get(holder)))
        return min(waits_s)

    def _suspect(
        self, pool: str, holder: str, end_ms: int, before: tuple[int, float] | None
    ) -> float:
        """Recover a holder whose lease had ended a while ago already; return when to look again."""
        now_s = self._clock.monotonic_s()
        if before is None or before[0] != end_ms:
            # A server that takes no writes, such as a demoted one, took no renewals either.
            # The key has no TTL, so nothing changes.
            key = self._store.keys(pool)["pool"]
            self._store.at(pool).read(lambda client: client.persist(key))
            before = (end_ms, now_s)
        self._suspects[pool][holder] = before
        left_s = before[1] + SECOND_LOOK_S - now_s
        return left_s if left_s > 0 else self._recover(pool, holder)

    def _trusted_in_s(self, pool: str, leases: Leases, asked_s: float) -> float:
        now_s = self._clock.monotonic_s()
        before = self._seen.get(pool)
        self._seen[pool] = (leases.now_ms, now_s)
        strange = None
        if before is None:
            strange = "connected"
        elif now_s - asked_s > SLOW_ANSWER_S:
            strange = "slow answer"
        elif abs(leases.now_ms - before[0] - (now_s - before[1]) * 1000) > CLOCK_TOLERANCE_MS:
            strange = "clock stepped"
        if strange:
            self._trust_from_s[pool] = now_s + leases.lease_ms / 1000
            self._log.debug("leases-renewed", pool=pool, reason=strange)
        return self._trust_from_s[pool] - now_s

    def _recover(self, pool: str, holder: str) -> float:
        """Take back what a holder had; return 0, as there may be more holders than were shown."""
        self._suspects[pool].pop(holder, None)
        answer = self._store.recover_all(pool, holder)
        if answer.requeued or answer.dead or answer.word == "recovered":
            self._log.warning(
                "worker-recovered",
                pool=pool,
                worker=holder,
                requeued=answer.requeued,
                dead_lettered=answer.dead,
            )
        return 0.0
