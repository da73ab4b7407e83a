"""A connection to one server: steps and reads, patience for outages, errors in our own words.

Nothing is repeated below the level of an atomic step (see `reaching.py`); steps are repeatable as
they are, and `Connection.call` repeats them whole.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import redis
from redis.sentinel import MasterNotFoundError

from dispatcher.clock import Clock
from dispatcher.cluster import Cluster, Node, slot_of
from dispatcher.errors import (
    DispatcherError,
    RedisFull,
    RedisRefused,
    RedisUnavailable,
)
from dispatcher.reaching import (
    READ_TIMEOUT_S,
    open_client,
    open_cluster,
    shown,
    tls_advice,
    tls_hint,
)
from dispatcher.scripts import Script, Value

# What a server says while it cannot serve: it may be another one by the next attempt.
_PASSING = (
    *("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF"),
    *("NOREPLICAS", "UNBLOCKED"),
)
# redis-py takes the word off the text of those that it knows.
_PASSING_ERRORS = (
    redis.ReadOnlyError,
    redis.BusyLoadingError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.AskError,  # and MOVED: this slot is on another node, or will be
)
_REFUSING = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "ERR AUTH", "ERR invalid password")
T = TypeVar("T")


class Call(NamedTuple):
    """One atomic step with its KEYS and ARGV."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Value]


def translated(error: Exception, where: str) -> DispatcherError:
    """Return our error for one of redis-py; `where` is the server as `shown`."""
    text = str(error).split(" script: ")[0].split(", on @user_script")[0].strip()
    if isinstance(error, redis.OutOfMemoryError) or "OOM " in text:
        return RedisFull(
            f"Redis at {where} is out of memory (maxmemory): nothing was written; "
            "let runs end or give it more"
        )
    refused = isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError)
    if refused or text.startswith(_REFUSING):
        return RedisRefused(f"Redis at {where} refused us: {text}; check user, password and ACL")
    if text.startswith(_PASSING) or isinstance(error, _PASSING_ERRORS):
        return RedisUnavailable(f"Redis at {where} cannot serve now: {text}")
    if isinstance(error, MasterNotFoundError):  # its text holds all that we said to sentinels
        problem = "no sentinel names a master; check hosts, service and login if it lasts"
        return RedisUnavailable(f"Redis at {where} cannot be reached: {problem}")
    if advice := tls_advice(text):
        return RedisRefused(f"Redis at {where}: no TLS connection: {text}; {advice}")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        problem = f"{text or 'no answer'}{tls_hint(text)}"
        return RedisUnavailable(f"Redis at {where} cannot be reached: {problem}")
    return RedisRefused(f"Redis at {where} answered: {text}")


class Connection:
    """A client with our errors, the script cache kept filled, and patience for outages.

    `patience_s` is how long a step is repeated while the server cannot serve; 0 gives up at once.
    In a cluster `at` has one connection for each pool; `locate` says before each attempt which
    node it is, as the owner of a pool moves. Threads may share a connection.
    """

    def __init__(
        self,
        client: "redis.Redis | None" = None,
        *,
        where: str = "redis",
        patience_s: float = 0.0,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
        cluster: Cluster | None = None,
        locate: Callable[[], Node] | None = None,
    ) -> None:
        self.client: Any = client
        self.where = where
        self._patience_s = patience_s
        self._clock = clock or Clock()
        self._stop = stop or threading.Event()
        self.cluster = cluster
        self._locate = locate or (cluster.any_node if cluster else None)
        self._last: Node | None = None
        self._owners: dict[int, Connection] = {}
        self._root = self
        self._resets = 0  # odd while sockets are being closed
        self._resetting = threading.Lock()
        self.connects = 0  # the number of the newest socket: another is another server, or a break

    @classmethod
    def open(
        cls,
        url: str,
        *,
        patience_s: float = 0.0,
        read_timeout_s: float | None = READ_TIMEOUT_S,
        stop: threading.Event | None = None,
    ) -> "Connection":
        """Return a connection to the server or cluster at `url`; nothing is sent yet.

        Raises InvalidSettings when the URL cannot be used.
        """

        def count() -> None:
            connection.connects += 1

        cluster, client = open_cluster(url, read_timeout_s=read_timeout_s), None
        if not cluster:
            client = open_client(url, read_timeout_s=read_timeout_s, on_connect=count)
        where = shown(url)
        connection = cls(client, where=where, patience_s=patience_s, stop=stop, cluster=cluster)
        return connection

    def at(self, key: str) -> "Connection":
        """Return the connection to the server that has this key: in a cluster its owner."""
        cluster = self.cluster
        if cluster is None:
            return self
        slot = slot_of(key)
        if slot not in self._owners:
            # Of two threads that come at once the first one's is taken by both.
            self._owners.setdefault(slot, self._located(partial(cluster.owner, slot)))
        return self._owners[slot]

    def everywhere(self) -> "list[Connection]":
        """Return a connection to each server: in a cluster one for each node that has slots."""
        cluster = self.cluster
        if cluster is None:
            return [self]
        addresses = self.read(lambda _: cluster.masters())
        return [
            self._located(partial(cluster.node, address), where="{}:{}".format(*address))
            for address in addresses
        ]

    def call(self, call: Call) -> Any:
        """Execute one atomic step; raises RedisUnavailable when patience has ended."""
        return self.read(lambda client: _evaluate(client, call))

    def call_many(self, calls: Sequence[Call]) -> list[Any]:
        """Execute steps in one round trip; a failed one has its DispatcherError in its place."""
        return self.read(lambda client: self._evaluate_many(client, calls))

    def read(self, command: Callable[[Any], T]) -> T:
        """Return what `command(client)` returns; only for reads and other repeatable commands.

        It is repeated while the server cannot serve, until patience has ended.
        """
        give_up_s = self._clock.monotonic_s() + self._patience_s
        pause_s, moved = 0.02, False
        while True:
            resets, node = self._root._resets, None
            try:
                node = self._last = self._locate() if self._locate else None
                answer = command(node.client if node else self.client)
                self.connects = node.connects if node else self.connects
                return answer
            except (redis.RedisError, OSError, AttributeError, TypeError, ValueError) as error:
                was_reset = bool(resets % 2) or resets != self._root._resets
                ours = self._judge(error, node, was_reset=was_reset)
                self._give_way(error, node)
                if isinstance(error, redis.exceptions.MovedError) and not moved:
                    moved = True  # it says who has it, so this is no outage yet
                    continue
            if self._clock.monotonic_s() + pause_s > give_up_s or self._stop.wait(pause_s):
                raise ours from None
            pause_s = min(0.5, pause_s * 2)

    def reset(self) -> None:
        """Drop every open socket, also one that another thread waits on: its step fails."""
        if self.cluster:
            self.cluster.forget()
            self._cut(*self.cluster.clients())
        elif self.client:
            self._cut(self.client)

    def turn_away(self) -> None:
        """In a cluster, ask another node next time: the last one is gone."""
        if self.cluster:
            self.cluster.forget(self._last)

    def close(self) -> None:
        """Close all sockets."""
        (self.cluster or self.client).close()

    def _located(self, locate: Callable[[], Node], *, where: str = "") -> "Connection":
        connection = Connection(
            where=where or self.where,
            patience_s=self._patience_s,
            clock=self._clock,
            stop=self._stop,
            cluster=self.cluster,
            locate=locate,
        )
        connection._root = self._root
        return connection

    def _judge(self, error: Exception, node: Node | None, *, was_reset: bool) -> RedisUnavailable:
        """Return our error for one that passes; raise all others."""
        where, at = self.where, "{}:{}".format(*node.address) if node else ""
        where = f"{at} of {where}" if at not in ("", where) else where
        if not isinstance(error, redis.RedisError | OSError):
            if not was_reset:
                raise error
            # Another thread closed the socket while redis-py was using it in this one.
            return RedisUnavailable(f"the connection to {where} was reset: {error}")
        ours = translated(error, where)
        if isinstance(error, redis.exceptions.AskError) and not self.cluster:
            ours = RedisRefused(f"Redis at {where} is a node of a cluster; use redis+cluster://")
        if type(ours) is not RedisUnavailable:
            raise ours from None
        return ours

    def _give_way(self, error: Exception, node: Node | None) -> None:
        """Drop what an attempt failed on; the sockets of other nodes and what they do go on."""
        if not self.cluster:
            self.reset()
        elif isinstance(error, redis.exceptions.MovedError) and node:
            self.cluster.ask_first((error.host or node.address[0], error.port))
        elif isinstance(error, redis.ResponseError) or not node:
            self.cluster.forget()
        else:
            self.cluster.forget(node)
            self._cut(node.client)

    def _cut(self, *clients: Any) -> None:
        root = self._root
        with root._resetting:
            root._resets += 1
            try:
                for client in clients:
                    cut(client.connection_pool)
            finally:
                root._resets += 1

    def _evaluate_many(self, client: Any, calls: Sequence[Call]) -> list[Any]:
        # A round trip for each kind of step in a row: if the server forgot only some scripts, a
        # mixed batch would do the others first, and so out of order.
        answers: list[Any] = []
        for _, same in groupby(calls, key=lambda call: call.script.name):
            answers += _evaluate_same(client, list(same))
        return [self._answered(answer) for answer in answers]

    def _answered(self, answer: Any) -> Any:
        if not isinstance(answer, Exception):
            return answer
        ours = translated(answer, self.where)
        if type(ours) is RedisUnavailable:
            raise answer  # the whole batch is repeated: every step may be
        return ours


def _evaluate(client: Any, call: Call) -> Any:
    command = ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)
    try:
        return client.execute_command(*command)
    except redis.exceptions.NoScriptError:
        client.script_load(call.script.source)
        return client.execute_command(*command)


def _evaluate_same(client: Any, calls: Sequence[Call]) -> list[Any]:
    if len(calls) == 1:  # without the price of a pipeline: this is what a run waits for
        try:
            return [_evaluate(client, calls[0])]
        except redis.ResponseError as error:
            return [error]
    answers = _send(client, calls)
    missing = [i for i, a in enumerate(answers) if isinstance(a, redis.exceptions.NoScriptError)]
    if missing:
        client.script_load(calls[0].script.source)
        for i, answer in zip(missing, _send(client, [calls[i] for i in missing]), strict=True):
            answers[i] = answer
    return answers


def _send(client: Any, calls: Iterable[Call]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for call in calls:
        pipeline.execute_command("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    return answers


def cut(pool: Any) -> None:
    """Close the idle sockets of a pool and end those that threads use, who then close them.

    One that is closed under the thread that reads from it gives its number to the next one that
    is opened, and the thread waits there.
    """
    pool.disconnect(inuse_connections=False)
    for connection in list(pool._in_use_connections):
        used = connection._sock
        if isinstance(used, socket.socket):
            with suppress(OSError):
                socket.socket.shutdown(used, socket.SHUT_RDWR)  # below TLS, which is the reader's


class Subscription:
    """One subscription that says when it is (again) confirmed, and then what it hears."""

    def __init__(
        self, connection: Connection, channels: Sequence[str], patterns: Sequence[str]
    ) -> None:
        self._connection = connection
        self._channels = channels
        self._patterns = patterns
        self._pubsub: Any = None

    def messages(self) -> Iterator[tuple[str, str] | None]:
        """Yield None once everything is confirmed, then (channel, text) for ever.

        Raises RedisUnavailable when the connection ends; call again for a new one.
        """
        self.close()
        self._pubsub = self._connection.read(lambda client: client).pubsub()
        try:
            if self._channels:
                self._pubsub.subscribe(*self._channels)
            if self._patterns:
                self._pubsub.psubscribe(*self._patterns)
            yield from self._heard(len(self._channels) + len(self._patterns))
        except (redis.RedisError, OSError, AttributeError, ValueError, RuntimeError) as error:
            # The last three: another thread closed the socket while this one was reading.
            self._connection.turn_away()
            raise translated(error, self._connection.where) from None

    def _heard(self, unconfirmed: int) -> Iterator[tuple[str, str] | None]:
        while True:
            kind, *_, where, what = self._pubsub.parse_response(block=True)
            unconfirmed -= kind in (b"subscribe", b"psubscribe")
            if kind in (b"message", b"pmessage"):
                yield where.decode(), what.decode()
            elif unconfirmed == 0:
                yield None

    def close(self) -> None:
        """End the connection; a thread that reads from it gets RedisUnavailable."""
        if self._pubsub is not None:
            self._pubsub.close()
