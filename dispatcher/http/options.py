"""How the HTTP edge is asked for: the address, who may use it, and what one request may cost."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from dispatcher.errors import InvalidSettings
from dispatcher.settings import Settings, read_secret, variable

MEBIBYTE = 1_048_576
OFF = "off"
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>\d{1,5})")


class Address(NamedTuple):
    """Where to listen; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Options:
    """What holds for one HTTP edge; secrets are in no representation of it."""

    address: Address
    auth_string: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    without_auth: bool = False
    max_body_bytes: int = 16 * MEBIBYTE
    max_json_depth: int = 100
    header_timeout_s: float = 10.0
    chunk_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    request_timeout_s: float = 30.0
    keep_alive_s: int = 15
    most_connections: int = 10_000

    @property
    def needs_auth(self) -> bool:
        """Whether a request has to prove who it is from."""
        return self.auth_string is not None or self.token is not None


def parse_address(text: str, source: str = "--http") -> Address:
    """Return what HOST:PORT says, such as 127.0.0.1:4200 or [::1]:8080; raises InvalidSettings."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > 65_535:
        raise InvalidSettings(
            f"{source}: {text[:80]!r} is not HOST:PORT, such as 127.0.0.1:4200 or [::1]:4200"
        )
    return Address(found["v6"] or found["host"], int(found["port"]))


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or number, is reached from this machine alone."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def read_options(settings: Settings, address: str) -> Options:
    """Return the options that hold with these settings; raises InvalidSettings."""
    auth_string = _secret(settings, "api_auth_string")
    if auth_string is not None and not all(auth_string.partition(":")):
        raise InvalidSettings(f"{variable('api_auth_string')}: is not USER:PASSWORD")
    return Options(
        address=parse_address(address),
        auth_string=auth_string,
        token=_secret(settings, "api_token"),
        without_auth=settings.http_without_auth,
        max_body_bytes=settings.http_max_body_bytes,
    )


def check_reach(options: Options, host: str) -> None:
    """Refuse to serve other machines without authentication; `host` is the number bound to.

    Raises InvalidSettings, which says what to set.
    """
    if options.needs_auth or options.without_auth or is_loopback(host):
        return
    raise InvalidSettings(
        f"--http {options.address} would let any machine that reaches it submit and claim runs: "
        f"set {variable('api_auth_string')}=USER:PASSWORD or {variable('api_token')}, "
        "or say --http-without-auth"
    )


def _secret(settings: Settings, name: str) -> str | None:
    """Return a secret given as a value or by a file; None when it is not given."""
    value: str | None = getattr(settings, name)
    path: str | None = getattr(settings, f"{name}_file")
    if value:
        return value
    if not path:
        return None
    source = variable(f"{name}_file")
    secret = read_secret(path, source)
    if not secret:
        raise InvalidSettings(f"{source}: {path} is empty")
    return secret
