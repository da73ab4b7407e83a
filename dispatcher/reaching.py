"""How a Redis is reached: the URL, one policy for every socket, TLS, Sentinel, Cluster.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]      rediss:// with TLS, unix://[…@]/PATH for a socket
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST…/SERVICE[/DB]     rediss+sentinel://
    redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST…                   rediss+cluster://

redis-py would repeat a command up to ten times by itself, which counts twice or strands entries
when a reply was lost (reference: redis-py 8 `Retry`). Here nothing is repeated below the level of
an atomic step.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from dispatcher.cluster import Address, Cluster
from dispatcher.errors import InvalidSettings

READ_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
ASK_TIMEOUT_S = 2.0  # where a master is: everything waits for that, and another one may be asked
_SCHEMES = ("redis", "rediss", "unix")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")
_KNOWN = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
# What a URL may say about TLS, and about the login of the sentinels; all else is our policy.
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_UNREADABLE = (
    "the URL has no host and port that can be read; percent-encode what is special in user "
    "and password"
)


_ADVICE = {
    r"CERTIFICATE_VERIFY_FAILED": "name the authority of its certificate with ssl_ca_certs, and "
    "the server as its certificate does",
    r"ALERT\w*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE|DENIED)": "name a certificate that it accepts with "
    "ssl_certfile and ssl_keyfile",
    r"WRONG_VERSION|RECORD_LAYER|UNKNOWN_PROTOCOL": "it speaks no TLS at this port; use redis://, "
    "or its TLS port",
}
# With TLS 1.3 a server looks at our certificate when we think that we are through.
_ENDED = "EOF occurred in violation of protocol"


class Place(NamedTuple):
    """What a sentinel or cluster URL says, taken apart."""

    hosts: list[Address]
    path: list[str]
    options: dict[str, Any]
    query: dict[str, str]


def shown(url: str) -> str:
    """Return the URL without its login and query, malformed ones too, for messages."""
    scheme, mark, rest = url.partition("://")
    place = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}{mark}{place}"


def tls_advice(problem: str) -> str:
    """Return what to do about a TLS problem that waiting does not heal; empty for all others."""
    found = re.search(r"\[SSL: (\w+)\]", problem)
    advice = (text for code, text in _ADVICE.items() if found and re.search(code, found[1]))
    return next(advice, "")


def tls_hint(problem: str) -> str:
    """Return what may be the reason for a problem with TLS that may also pass."""
    if _ENDED not in problem:
        return ""
    return "; if it wants a client certificate, name one with ssl_certfile and ssl_keyfile"


def check_url(url: str, name: str) -> None:
    """Raise InvalidSettings for a URL that cannot be taken apart; `name` says where it is from."""
    try:
        _split(url)
    except ValueError as error:
        raise InvalidSettings(f"{name}: {error}") from None


def open_client(
    url: str,
    *,
    read_timeout_s: float | None = READ_TIMEOUT_S,
    on_connect: Callable[[], None] = lambda: None,
) -> "redis.Redis":
    """Return a client that repeats nothing by itself and always answers in RESP2 shapes.

    `on_connect` is called for each new socket; redis-py opens them without a word.
    Raises InvalidSettings when the URL cannot be used.
    """
    policy = _policy(read_timeout_s, on_connect)
    try:
        parts = _split(url)
        if parts.scheme in _SENTINEL:
            return _open_sentinel(parts, policy)
        if parts.scheme not in _SCHEMES:
            begins = parts.scheme or "no scheme"
            raise InvalidSettings(f"Redis URL begins with {begins}; use {_KNOWN}")
        if parts.scheme == "unix":
            del policy["socket_keepalive"]
        asked = dict(parse_qsl(parts.query))
        if ours := sorted(policy.keys() & asked.keys()):
            raise ValueError(f"{', '.join(ours)} cannot be chosen in the URL")
        _check_tls(asked)
        client = redis.Redis.from_url(url, **policy)
        client.connection_pool.make_connection()  # opens nothing, but an unknown option shows
    except (ValueError, TypeError) as error:
        raise InvalidSettings(f"Redis URL {shown(url)} cannot be used: {error}") from None
    return client


def open_cluster(url: str, *, read_timeout_s: float | None = READ_TIMEOUT_S) -> Cluster | None:
    """Return the cluster that the URL names; None when it names no cluster.

    Raises InvalidSettings when the URL cannot be used.
    """
    try:
        parts = _split(url)
        if parts.scheme not in _CLUSTER:
            return None
        place = _taken_apart(parts)
        if place.path:
            raise ValueError("a cluster has no databases: end the URL behind the hosts")
    except ValueError as error:
        raise InvalidSettings(f"Redis URL {shown(url)} cannot be used: {error}") from None

    def open_node(node: Address, on_connect: Callable[[], None]) -> "redis.Redis":
        policy = _policy(read_timeout_s, on_connect) | place.options
        return redis.Redis(host=node[0], port=node[1], **policy)

    def ask(node: Address) -> Any:
        options = _asking(_policy(ASK_TIMEOUT_S)) | place.options
        with redis.Redis(host=node[0], port=node[1], **options) as client:
            return client.execute_command("CLUSTER", "SLOTS")

    return Cluster(place.hosts, open_node, ask)


def _open_sentinel(parts: SplitResult, policy: dict[str, Any]) -> "redis.Redis":
    place = _taken_apart(parts)
    service, *rest = place.path or [""]
    if not service or len(rest) > 1 or not all(each.isdigit() for each in rest):
        raise ValueError("name the service, and a database if it is not 0: …/SERVICE[/DB]")
    login = {
        name.removeprefix("sentinel_"): place.query[name]
        for name in _SENTINEL_LOGIN
        if name in place.query
    }
    tls = {name: value for name, value in place.options.items() if name.startswith("ssl")}
    asking = _asking(policy) | tls | login
    sentinel: Any = Sentinel(place.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    database = int(rest[0]) if rest else 0
    client: redis.Redis = sentinel.master_for(service, db=database, **policy, **place.options)
    return client


def _split(url: str) -> SplitResult:
    """Return the URL's parts; ValueError without a piece of a password says that it has none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in _SENTINEL + _CLUSTER:
            _hosts(parts)
        else:
            _ = parts.port
    except ValueError:  # its message may hold a piece of the password
        raise ValueError(_UNREADABLE) from None
    # What is behind a slash, question mark or hash in a password would pass for the place.
    torn = parts.fragment or "@" in parts.path or "@" in parts.query.partition("=")[0]
    torn = torn or (parts.scheme == "unix" and parts.netloc.rpartition("@")[2])
    if torn:
        raise ValueError(_UNREADABLE)
    return parts


def _taken_apart(parts: SplitResult) -> Place:
    """Return hosts, path and options of a URL with several hosts; ValueError says what is wrong."""
    login = parts.netloc.rpartition("@")[0]
    user, has_password, password = login.partition(":")
    options: dict[str, Any] = {}
    if user:
        options["username"] = unquote(user)
    if has_password:
        options["password"] = unquote(password)
    query = dict(parse_qsl(parts.query))
    has_tls = parts.scheme.startswith("rediss")
    known = {*(_TLS if has_tls else ()), *(_SENTINEL_LOGIN if parts.scheme in _SENTINEL else ())}
    if unknown := sorted(query.keys() - known):
        raise ValueError(f"{', '.join(unknown)} cannot be chosen in the URL")
    _check_tls(query)
    if has_tls:
        options |= {"ssl": True} | {name: query[name] for name in _TLS if name in query}
        if "ssl_check_hostname" in options:
            options["ssl_check_hostname"] = _is_yes(query["ssl_check_hostname"])
    path = [unquote(each) for each in parts.path.split("/") if each]
    return Place(_hosts(parts), path, options, query)


def _hosts(parts: SplitResult) -> list[Address]:
    default_port = 26_379 if parts.scheme in _SENTINEL else 6_379
    return [_host(each, default_port) for each in parts.netloc.rpartition("@")[2].split(",")]


def _host(text: str, default_port: int) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    if not host or not port.isdigit():
        raise ValueError(_UNREADABLE)
    return host.strip("[]"), int(port)


def _is_yes(text: str) -> bool:
    return text.lower() in ("1", "true", "yes")


def _check_tls(query: Mapping[str, str]) -> None:
    """Raise ValueError for a certificate or key that cannot be used, which no waiting heals."""
    loads: dict[str, Callable[[str], None]] = {
        "ssl_ca_certs": lambda path: _context().load_verify_locations(path),
        "ssl_keyfile": _read,
        "ssl_certfile": lambda path: _context().load_cert_chain(path, query.get("ssl_keyfile")),
    }
    for name in [name for name in loads if name in query]:
        try:
            loads[name](query[name])
        except ssl.SSLError as error:
            reason = error.reason or "no PEM"
            raise ValueError(f"{name} {query[name]} cannot be used: {reason}") from None
        except OSError as error:
            raise ValueError(f"{name} {query[name]} cannot be read: {error.strerror}") from None


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _policy(
    read_timeout_s: float | None, on_connect: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    def connected(socket: Any) -> None:
        socket.on_connect()
        on_connect()

    return {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": read_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "redis_connect_func": connected,
    }


def _asking(policy: dict[str, Any]) -> dict[str, Any]:
    """Return the policy for asking where a master is; such a socket does not count."""
    timeouts = {"socket_timeout": ASK_TIMEOUT_S, "socket_connect_timeout": ASK_TIMEOUT_S}
    return {**policy, **timeouts, "redis_connect_func": None}
