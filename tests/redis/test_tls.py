"""TLS with an authority and client certificates, and what is said when they do not fit."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread

import pytest

from dispatcher.connection import Connection
from dispatcher.errors import RedisRefused, RedisUnavailable
from dispatcher.inspector import Inspector
from dispatcher.records import Finish, Registration, Word
from dispatcher.store import Store
from tests.builders import COMPLETED, POOL, T0, a_pool, a_submission
from tests.servers import RealServer, free_port, system_binary
from tests.tls import Certificates, TlsFront, issued
from tests.topologies import until

SERVER = system_binary()
# The embedded server has no TLS, so it gets something in front that has; a real one, if there is.
KINDS = ["front", *(["server"] if SERVER and b"SSL_CTX_new" in SERVER.read_bytes() else [])]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What the server and its clients have."""
    return issued(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that the server does not know."""
    return issued(tmp_path_factory.mktemp("tls") / "others")


def with_tls(certificates: Certificates, port: int) -> dict[str, str]:
    return {
        "tls-port": str(port),
        "tls-cert-file": str(certificates.server),
        "tls-key-file": str(certificates.server_key),
        "tls-ca-cert-file": str(certificates.ca),
        "tls-auth-clients": "yes",
    }


@pytest.fixture(params=KINDS)
def port(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    real_server: RealServer,
    own_server: Callable[..., RealServer],
) -> Iterator[int]:
    """Where TLS is spoken."""
    if request.param == "front":
        with TlsFront(real_server, certificates) as front:
            yield front.port
    else:
        chosen = free_port()
        own_server(binary=SERVER, config=with_tls(certificates, chosen))
        yield chosen


@pytest.fixture
def opened() -> Iterator[Callable[..., Connection]]:
    """A function that opens a connection to a TLS port with a query of its URL."""
    connections: list[Connection] = []

    def open_one(port: int, query: str, host: str = "127.0.0.1") -> Connection:
        connections.append(Connection.open(f"rediss://{host}:{port}?{query}", patience_s=1))
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()


def refused(connection: Connection) -> str:
    with pytest.raises(RedisRefused) as caught:
        Inspector(connection, "t").pool_names()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_with_the_authority_and_a_client_certificate_all_works(port, certificates, opened, prefix):
    store = Store(opened(port, certificates.query), prefix)
    store.now_ms = T0
    store.create_pool(a_pool(), default_queue_id="id-of-default")
    store.submit(POOL, a_submission(payload=b"x" * 300_000))
    store.dispatch(POOL, ["default"])
    registered = store.register(POOL, Registration("w", "1", slots=1))
    (claim,) = store.claim(POOL, registered.holder, number=1, slots=1).claims

    assert len(claim.payload) == 300_000
    assert store.report(POOL, Finish("a", claim.token, COMPLETED)) is Word.FINISHED


def test_a_reset_ends_a_wait_that_goes_on_over_tls(port, certificates, opened, prefix):
    store = Store(opened(port, certificates.query), prefix)
    store.connection.read(lambda c: c.ping())
    ended: list[str] = []

    def wait() -> None:
        try:
            store.wait(POOL, "w.1", [], timeout_s=8)
        except RedisUnavailable as error:
            ended.append(str(error))

    store.connection._patience_s = 0
    waiting = Thread(target=wait)
    waiting.start()
    with closing(opened(port, certificates.query)) as other:
        until(lambda: other.read(lambda c: c.info("clients"))["blocked_clients"], "it waits")
    store.connection.reset()
    waiting.join(5)

    assert not waiting.is_alive()
    assert len(ended) == 1


@pytest.mark.parametrize("ca", ["other", "none"])
def test_a_server_of_an_unknown_authority_is_refused(port, certificates, strange, opened, ca):
    query = certificates.query.replace(str(certificates.ca), str(strange.ca))
    told = refused(opened(port, query if ca == "other" else ""))
    assert "certificate verify failed" in told
    assert "name the authority of its certificate with ssl_ca_certs" in told


def test_a_server_under_another_name_is_refused_unless_that_was_allowed(port, certificates, opened):
    told = refused(opened(port, certificates.query, "localhost"))
    assert "not valid for 'localhost'" in told
    query = f"{certificates.query}&ssl_check_hostname=no"
    assert opened(port, query, "localhost").read(lambda c: c.ping())


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_without_a_certificate_that_the_server_accepts_it_says_what_to_name(
    port, certificates, strange, opened, who
):
    query = f"ssl_ca_certs={certificates.ca}"
    if who == "a stranger":
        query = strange.query.replace(str(strange.ca), str(certificates.ca))
    with pytest.raises(RedisUnavailable) as caught:
        Inspector(opened(port, query), "t").pool_names()
    assert "ssl_certfile and ssl_keyfile" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif("server" not in KINDS, reason="no server of this machine speaks TLS")
def test_a_cluster_speaks_tls_at_every_node(certificates, own_server, prefix):
    tls_port = free_port()
    bus = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "tls-cluster": "yes"}
    server = own_server(binary=SERVER, config=with_tls(certificates, tls_port) | bus, tcp=True)
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "it is up")

    url = f"rediss+cluster://127.0.0.1:{tls_port}?{certificates.query}"
    with closing(Connection.open(url)) as connection:
        Store(connection, prefix).create_pool(a_pool(), default_queue_id="id-of-default")
        assert Inspector(connection, prefix).pool_names() == [POOL]
        assert connection.cluster
        assert connection.cluster.masters() == [("127.0.0.1", tls_port)]


def test_a_command_with_a_wrong_authority_ends_with_one_line(port, certificates, strange):
    query = certificates.query.replace(str(certificates.ca), str(strange.ca))
    url = f"rediss://127.0.0.1:{port}?{query}"
    done = subprocess.run(
        [sys.executable, "-m", "consumers", "run", "--pool", "p"],
        env=os.environ | {"DISPATCHER_REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: Redis at rediss://127.0.0.1:{port}: no TLS connection: ")
    assert str(certificates.client_key) not in line
