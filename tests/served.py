"""A pool on a real server with a real HTTP server beside it, and those who claim from it."""

import json
import socket
from typing import Any

import httpx

from dispatcher.http.doors import Doors
from dispatcher.http.options import Address, Options
from dispatcher.http.serving import HttpServer
from dispatcher.settings import read_settings
from tests.builders import POOL
from tests.held import Edge
from tests.probes import wait_until
from tests.servers import RealServer

CLAIM = f"/api/work_pools/{POOL}/claim"


class Served(Edge):
    """The pool with an HTTP server beside it."""

    def __init__(self, server: RealServer, prefix: str) -> None:
        super().__init__(server, prefix)
        settings, _, _ = read_settings({}, redis_url=server.url, key_prefix=prefix)
        doors = Doors.open(server.url, settings)
        self.http = HttpServer(doors, Options(address=Address("127.0.0.1", 0)))
        self.address = self.http.bind()
        self.http.start()
        self.client = httpx.Client(base_url=f"http://{self.address}", timeout=20)

    def close(self) -> None:
        self.client.close()
        self.http.stop()
        super().close()

    def put_json(self, *run_ids: str, **fields: Any) -> None:
        """Submit runs whose payload is JSON, and dispatch them."""
        for run_id in run_ids:
            payload = json.dumps({"work_pool_id": "p", "flow_run": {"id": run_id}}).encode()
            self.put(run_id, payload=payload, **fields)

    def post(self, path: str, content: object = None, **headers: str) -> httpx.Response:
        return self.client.post(path, json=content, headers=headers)

    def claim(self, wait_s: int | None = None, **body: Any) -> httpx.Response:
        headers = {} if wait_s is None else {"Prefer": f"wait={wait_s}"}
        return self.post(CLAIM, body, **headers)

    def claim_one(self, **body: Any) -> dict[str, Any]:
        """Claim exactly one run and return its object."""
        (one,) = self.claim(**body).json()
        return dict(one)

    def step(self, run_id: str, step: str, token: str, **body: Any) -> httpx.Response:
        return self.post(f"/api/flow_runs/{run_id}/{step}", {"token": token} | body)

    def hold(self, wait_s: int = 20, *, buffer_bytes: int = 0, **body: Any) -> socket.socket:
        """Send a claim that waits, and return its socket; it takes in so much before it is read."""
        raw = json.dumps(body).encode()
        head = (
            f"POST {CLAIM} HTTP/1.1\r\nHost: {self.address}\r\nPrefer: wait={wait_s}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        client = socket.socket()
        client.settimeout(20)
        if buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        client.connect(self.address)
        client.sendall(head.encode() + raw)
        return client

    def wait_held(self, number: int) -> None:
        """Wait until so many claims are held."""
        state = self.http.app.state
        wait_until(
            lambda: getattr(state, "holding", None) and state.holding.held() == {POOL: number},
            f"{number} claims are held",
        )


def read_answer(client: socket.socket) -> list[dict[str, Any]]:
    """Read one whole answer."""
    with client, client.makefile("rb") as file:
        assert file.readline().startswith(b"HTTP/1.1 200")
        length = 0
        while (line := file.readline().strip().lower()) != b"":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        answer: list[dict[str, Any]] = json.loads(file.read(length))
        return answer


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return dict(answer.json())
