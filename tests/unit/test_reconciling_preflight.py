"""What a server must be and have, judged by what INFO, CONFIG and TIME answer."""

from typing import Any

import fakeredis
import pytest
import redis

from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.preflight import judged, look_at_server

GOOD = {
    "redis_version": "7.2.4",
    "valkey_version": "8.0.1",
    "maxmemory_policy": "noeviction",
    "maxmemory": 0,
    "used_memory": 5_000_000,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "role": "master",
}
MIB = 1_048_576


class Server(fakeredis.FakeRedis):
    """A server that says of itself what a test wants, and forbids what it wants."""

    def __init__(self, forbids: tuple[str, ...] = (), **said: Any) -> None:
        super().__init__(version=(7,), protocol=2)
        self.forbids = forbids
        self.said = GOOD | said

    def info(self, *_: Any, **__: Any) -> Any:
        self._refuse("info")
        return self.said

    def config_get(self, *_: Any, **__: Any) -> Any:
        self._refuse("config")
        return {"save": self.said.get("save", "")}

    def time(self, **_: Any) -> Any:
        ms = self.said["time_ms"]
        return ms // 1000, ms % 1000 * 1000

    def _refuse(self, command: str) -> None:
        if command in self.forbids:
            raise redis.exceptions.NoPermissionError(f"no permissions to run {command!r}")


class Still(Clock):
    """A wall clock that stands still, and a monotonic one that each answer moves."""

    def __init__(self, round_trip_s: float = 0.0) -> None:
        self.round_trip_s = round_trip_s
        self.at_s = 0.0

    def now_ms(self) -> int:
        return 1_000_000

    def monotonic_s(self) -> float:
        self.at_s += self.round_trip_s
        return self.at_s


def found(forbids: tuple[str, ...] = (), round_trip_s: float = 0.0, **said: Any) -> list[str]:
    """The sentences for a server that is good but for what is said."""
    with Server(forbids, **{"time_ms": 1_000_000} | said) as client:
        server = look_at_server(Connection(client), clock=Still(round_trip_s))
    return [f"{finding.code}: {finding.problem}" for finding in server.findings]


def test_a_good_server_has_no_findings_and_says_what_it_is():
    with Server(time_ms=1_000_000, connected_slaves=2) as client:
        assert look_at_server(Connection(client), clock=Still()) == (
            "Valkey 8.0.1 with 2 replicas",
            [],
        )


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {"maxmemory_policy": "allkeys-lru"},
            "maxmemory-policy: maxmemory-policy is allkeys-lru: runs may be dropped; "
            "set noeviction",
        ),
        (
            {"aof_enabled": 0},
            "persistence: appendonly is off: a restart forgets every run; set appendonly yes",
        ),
        (
            {"aof_enabled": 0, "save": "3600 1 300 100"},
            "persistence: appendonly is off: a crash loses all since its last snapshot "
            "(save 3600 1 300 100); set appendonly yes",
        ),
        (
            {"aof_last_write_status": "err"},
            "persistence: aof_last_write_status is err: look at its log and disk",
        ),
        (
            {"maxmemory": 100 * MIB, "used_memory": 90 * MIB + 1},
            "memory: 90.0 MiB of 100.0 MiB are used: at full memory submits are refused; "
            "let runs end or give it more",
        ),
        (
            {"role": "slave"},
            "replica: it is a replica and takes no writes; use its primary",
        ),
        (
            {"valkey_version": "7.1.9"},
            "version: Valkey 7.1.9 is older than Redis 7.0 or Valkey 7.2; upgrade it",
        ),
        (
            {"valkey_version": None, "redis_version": "6.2.14"},
            "version: Redis 6.2.14 is older than Redis 7.0 or Valkey 7.2; upgrade it",
        ),
        (
            {"time_ms": 1_000_501},
            "clock: its clock is 501 ms ahead of this machine's; set both by NTP",
        ),
        (
            {"time_ms": 995_000},
            "clock: its clock is 5,000 ms behind this machine's; set both by NTP",
        ),
    ],
)
def test_what_is_wrong_with_a_server_is_said_in_a_sentence(said, sentence):
    assert found(**said) == [sentence]


@pytest.mark.parametrize(
    "said",
    [
        {"maxmemory": 100 * MIB, "used_memory": 90 * MIB},
        {"valkey_version": None, "redis_version": "7.0.0"},
        {"valkey_version": "7.2.0"},
        {"time_ms": 1_000_500},
        {"time_ms": 999_500},
    ],
)
def test_what_is_just_good_enough_is_no_finding(said):
    assert found(**said) == []


def test_what_the_way_to_the_server_may_have_cost_is_no_difference_of_clocks():
    # 2 s there and back: the answer is from between 1 s and 3 s after the question.
    assert found(time_ms=1_002_400, round_trip_s=2.0) == []
    assert found(time_ms=1_002_600, round_trip_s=2.0) == [
        "clock: its clock is 600 ms ahead of this machine's; set both by NTP"
    ]


def test_what_a_server_forbids_to_ask_is_said_and_the_rest_is_looked_at():
    refused = "Redis at redis refused us: no permissions to run"
    behind = "clock: its clock is 5,000 ms behind this machine's; set both by NTP"
    hint = "check user, password and ACL"

    assert found(("info",), time_ms=995_000) == [
        f"not-checked: INFO was refused: {refused} 'info'; {hint}",
        behind,
    ]
    assert found(("config",), aof_enabled=0) == [
        f"not-checked: CONFIG GET was refused: {refused} 'config'; {hint}",
        "persistence: appendonly is off: a crash loses all since its last snapshot "
        "(save is not known); set appendonly yes",
    ]


def test_settings_that_are_good_are_not_asked_for_twice():
    def ask() -> str:
        raise AssertionError("snapshots do not matter beside an append-only file")

    assert judged(GOOD, ask) == []
