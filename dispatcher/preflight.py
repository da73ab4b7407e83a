"""What a server must be and have so that runs are safe on it; what it forbids to ask is said."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dispatcher.clock import Clock
from dispatcher.connection import Connection
from dispatcher.errors import RedisRefused
from dispatcher.records import Finding

NOT_CHECKED = "not-checked"
LEAST_REDIS, LEAST_VALKEY = (7, 0), (7, 2)
LEAST_HEADROOM = 0.1
MOST_CLOCK_MS = 500
_CLOCK_SAMPLES = 3


class Server(NamedTuple):
    """What a look at a server found; `shown` is what it is, for people."""

    shown: str
    findings: list[Finding]


def look_at_server(connection: Connection, *, clock: Clock | None = None) -> Server:
    """Ask a server for its version, persistence, memory and time; a handful of commands.

    Raises RedisUnavailable when it cannot serve. A command that it forbids is a finding.
    """
    findings: list[Finding] = []
    info: Mapping[str, Any] = _asked(connection, "INFO", lambda c: c.info(), findings) or {}
    if info:
        for code, problem in judged(info, lambda: _snapshots(connection, findings)):
            findings.append(_finding(code, problem))
    difference_ms = _clock_difference_ms(connection, clock or Clock())
    if abs(difference_ms) > MOST_CLOCK_MS:
        way = "ahead of" if difference_ms > 0 else "behind"
        problem = f"its clock is {abs(difference_ms):,.0f} ms {way} this machine's; set both by NTP"
        findings.append(_finding("clock", problem))
    return Server(_shown(info), findings)


def look_at_servers(connection: Connection) -> Server:
    """Look at each node of a cluster, or at the one server, as `look_at_server` does."""
    if connection.cluster is None:
        return look_at_server(connection)
    looks = [(each.where, look_at_server(each)) for each in connection.everywhere()]
    findings = [
        replace(finding, problem=f"{where}: {finding.problem}")
        for where, look in looks
        for finding in look.findings
    ]
    return Server(", ".join(f"{where} ({look.shown})" for where, look in looks), findings)


def judged(info: Mapping[str, Any], snapshots: Callable[[], str]) -> list[tuple[str, str]]:
    """Return what is wrong by INFO, as code and sentence; `snapshots` is CONFIG GET save."""
    found = []
    name, version = _version(info)
    if version < (LEAST_VALKEY if name == "Valkey" else LEAST_REDIS):
        least = "Redis 7.0 or Valkey 7.2"
        found.append(("version", f"{name} {_dotted(version)} is older than {least}; upgrade it"))
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        problem = f"maxmemory-policy is {policy}: runs may be dropped; set noeviction"
        found.append(("maxmemory-policy", problem))
    found += [("persistence", problem) for problem in _unkept(info, snapshots)]
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if most and (most - used) / most < LEAST_HEADROOM:
        problem = f"{_mib(used)} of {_mib(most)} are used: at full memory submits are refused"
        found.append(("memory", f"{problem}; let runs end or give it more"))
    if info.get("role") in ("slave", "replica"):
        found.append(("replica", "it is a replica and takes no writes; use its primary"))
    return found


def _unkept(info: Mapping[str, Any], snapshots: Callable[[], str]) -> list[str]:
    """Say what a crash or restart would lose."""
    if not info.get("aof_enabled", 1):
        save = snapshots()
        lost = (
            f"a crash loses all since its last snapshot (save {save})"
            if save
            else "a restart forgets every run"
        )
        return [f"appendonly is off: {lost}; set appendonly yes"]
    failed = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    return [f"{name} is {info[name]}: look at its log and disk" for name in failed]


def _snapshots(connection: Connection, findings: list[Finding]) -> str:
    answer = _asked(connection, "CONFIG GET", lambda c: c.config_get("save"), findings)
    if answer is None:
        return "is not known"
    value = {**answer}.get("save", answer.get(b"save", ""))
    return value.decode() if isinstance(value, bytes) else str(value)


def _asked(
    connection: Connection, what: str, ask: Callable[[Any], Any], findings: list[Finding]
) -> Any:
    try:
        return connection.read(ask)
    except RedisRefused as error:
        findings.append(_finding(NOT_CHECKED, f"{what} was refused: {error}"))
        return None


def _clock_difference_ms(connection: Connection, clock: Clock) -> float:
    """Return how far the server's clock is ahead at least; the way there and back is doubt."""
    least: tuple[float, float] = (float("inf"), 0.0)
    for _ in range(_CLOCK_SAMPLES):
        asked_ms, asked_s = clock.now_ms(), clock.monotonic_s()
        seconds, micros = connection.read(lambda c: c.time())
        doubt_ms = (clock.monotonic_s() - asked_s) * 500
        difference_ms = int(seconds) * 1000 + int(micros) / 1000 - asked_ms - doubt_ms
        least = min(least, (doubt_ms, difference_ms))
    doubt_ms, difference_ms = least
    sure_ms = max(0.0, abs(difference_ms) - doubt_ms)
    return sure_ms if difference_ms > 0 else -sure_ms


def _version(info: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    # A Valkey tells the version of the Redis that it is compatible with as its `redis_version`.
    valkey = info.get("valkey_version")
    text = str(valkey or info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
    return "Valkey" if valkey else "Redis", numbers


def _shown(info: Mapping[str, Any]) -> str:
    if not info:
        return "a server that tells nothing"
    name, version = _version(info)
    replicas = int(info.get("connected_slaves", 0))
    return f"{name} {_dotted(version)}" + (f" with {replicas} replicas" if replicas else "")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 1_048_576:,.1f} MiB"


def _finding(code: str, problem: str) -> Finding:
    return Finding(code, "", "", "", problem, "")
