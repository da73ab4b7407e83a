"""Certificates, and TLS in front of servers that have none: what ends TLS for them."""

import select
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.servers import RealServer


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of a server at 127.0.0.1, and of a client, with their keys."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @property
    def query(self) -> str:
        """What a URL says to use them."""
        login = f"ssl_certfile={self.client}&ssl_keyfile={self.client_key}"
        return f"ssl_ca_certs={self.ca}&{login}"


def issued(directory: Path) -> Certificates:
    """Return certificates of a new authority."""
    directory.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name, identity in (("server", "127.0.0.1"), ("client", "worker@example.org")):
        certificate = authority.issue_cert(identity)
        certificate.private_key_pem.write_to_path(directory / f"{name}.key")
        for part in certificate.cert_chain_pems:
            part.write_to_path(directory / f"{name}.pem", append=True)
    files = [f"{name}.{kind}" for name in ("server", "client") for kind in ("pem", "key")]
    return Certificates(directory / "ca.pem", *(directory / file for file in files))


class TlsFront:
    """Ends TLS in front of a server's Unix socket, for clients with a certificate."""

    def __init__(self, server: RealServer, certificates: Certificates) -> None:
        self._server = server.url.removeprefix("unix://")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.server, certificates.server_key)
        self._context.load_verify_locations(certificates.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(here,), daemon=True).start()

    def _pass_on(self, here: socket.socket) -> None:
        there = socket.socket(socket.AF_UNIX)
        with suppress(OSError), here, there:
            there.connect(self._server)
            with self._context.wrap_socket(here, server_side=True) as talk:
                while _moved(talk, there):
                    pass


def _moved(talk: ssl.SSLSocket, there: socket.socket) -> bool:
    """Pass on what one of two sockets has; False at the end of either."""
    ready = [talk] if talk.pending() else select.select([talk, there], [], [])[0]
    for source, target in ((talk, there), (there, talk)):
        if source in ready:
            chunk = source.recv(65_536)
            if not chunk:
                return False
            target.sendall(chunk)
    return True
