"""How a Redis is reached: the URL, one policy per kind of connection, errors in our own words.

redis-py would repeat a command up to ten times by itself, which counts twice or strands entries
when a reply was lost (reference: redis-py 8 `Retry`). Here nothing is repeated below the level of
an atomic step; steps are repeatable as they are, and `Connection.call` repeats them whole.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.clock import Clock
from dispatcher.errors import (
    DispatcherError,
    InvalidSettings,
    RedisFull,
    RedisRefused,
    RedisUnavailable,
)
from dispatcher.scripts import Script, Value

READ_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
_SCHEMES = ("redis", "rediss", "unix")
# What a server says while it cannot serve: it may be another one by the next attempt.
_PASSING = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF")
# redis-py takes the word off the text of those that it knows.
_PASSING_ERRORS = (
    redis.ReadOnlyError,
    redis.BusyLoadingError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_REFUSING = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "ERR AUTH", "ERR invalid password")
T = TypeVar("T")


class Call(NamedTuple):
    """One atomic step with its KEYS and ARGV."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Value]


def shown(url: str) -> str:
    """Return the URL without its login and query, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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

    def connected(socket: Any) -> None:
        socket.on_connect()
        on_connect()

    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise InvalidSettings(
            f"Redis URL begins with {scheme or 'no scheme'}; use redis://, rediss:// or unix://"
        )
    policy: dict[str, Any] = {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": read_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "redis_connect_func": connected,
    }
    if scheme != "unix":
        policy["socket_keepalive"] = True
    try:
        asked = parse_qs(urlsplit(url).query)
        if ours := sorted(policy.keys() & asked.keys()):
            raise ValueError(f"{', '.join(ours)} cannot be chosen in the URL")
        client = redis.Redis.from_url(url, **policy)
        client.connection_pool.make_connection()  # opens nothing, but an unknown option shows
    except (ValueError, TypeError) as error:
        raise InvalidSettings(f"Redis URL {shown(url)} cannot be used: {error}") from None
    return client


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
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        return RedisUnavailable(f"Redis at {where} cannot be reached: {text or 'no answer'}")
    return RedisRefused(f"Redis at {where} answered: {text}")


class Connection:
    """A client with our errors, the script cache kept filled, and patience for outages.

    `patience_s` is how long a step is repeated while the server cannot serve; 0 gives up at once.
    """

    def __init__(
        self,
        client: "redis.Redis",
        *,
        where: str = "redis",
        patience_s: float = 0.0,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.client: Any = client
        self.where = where
        self._patience_s = patience_s
        self._clock = clock or Clock()
        self._stop = stop or threading.Event()
        self._resets = 0
        self.connects = 0  # how many sockets were opened: one more is another server, or a break

    @classmethod
    def open(
        cls,
        url: str,
        *,
        patience_s: float = 0.0,
        read_timeout_s: float | None = READ_TIMEOUT_S,
        stop: threading.Event | None = None,
    ) -> "Connection":
        """Return a connection to the server at `url`; nothing is sent yet."""

        def count() -> None:
            connection.connects += 1

        client = open_client(url, read_timeout_s=read_timeout_s, on_connect=count)
        connection = cls(client, where=shown(url), patience_s=patience_s, stop=stop)
        return connection

    def call(self, call: Call) -> Any:
        """Execute one atomic step; raises RedisUnavailable when patience has ended."""
        return self.patiently(lambda: self._evaluate(call))

    def call_many(self, calls: Sequence[Call]) -> list[Any]:
        """Execute steps in one round trip; a failed one has its DispatcherError in its place."""
        return self.patiently(lambda: self._evaluate_many(calls))

    def read(self, command: Callable[[Any], T]) -> T:
        """Return what `command(client)` returns; only for reads and other repeatable commands."""
        return self.patiently(lambda: command(self.client))

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Repeat `attempt` while the server cannot serve, until patience has ended."""
        give_up_s = self._clock.monotonic_s() + self._patience_s
        pause_s = 0.02
        while True:
            resets = self._resets
            try:
                return attempt()
            except (redis.RedisError, OSError) as error:
                ours = translated(error, self.where)
            except RedisUnavailable as error:
                ours = error
            except (AttributeError, TypeError, ValueError) as error:
                if resets == self._resets:
                    raise
                # Another thread closed the socket while redis-py was using it in this one.
                ours = RedisUnavailable(f"the connection to {self.where} was reset: {error}")
            if type(ours) is not RedisUnavailable:
                raise ours from None
            self.reset()
            if self._clock.monotonic_s() + pause_s > give_up_s or self._stop.wait(pause_s):
                raise ours from None
            pause_s = min(0.5, pause_s * 2)

    def reset(self) -> None:
        """Drop every open socket, also one that another thread waits on: its step fails."""
        self._resets += 1
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        """Close all sockets."""
        self.client.close()

    def _evaluate(self, call: Call) -> Any:
        command = ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args)
        try:
            return self.client.execute_command(*command)
        except redis.exceptions.NoScriptError:
            self.client.script_load(call.script.source)
            return self.client.execute_command(*command)

    def _evaluate_many(self, calls: Sequence[Call]) -> list[Any]:
        # A round trip for each kind of step in a row: if the server forgot only some scripts, a
        # mixed batch would do the others first, and so out of order.
        answers: list[Any] = []
        for _, same in groupby(calls, key=lambda call: call.script.name):
            answers += self._evaluate_same(list(same))
        return [self._judged(answer) for answer in answers]

    def _evaluate_same(self, calls: Sequence[Call]) -> list[Any]:
        if len(calls) == 1:  # without the price of a pipeline: this is what a run waits for
            try:
                return [self._evaluate(calls[0])]
            except redis.ResponseError as error:
                return [error]
        answers = self._send(calls)
        missing = [
            i for i, a in enumerate(answers) if isinstance(a, redis.exceptions.NoScriptError)
        ]
        if missing:
            self.client.script_load(calls[0].script.source)
            for i, answer in zip(missing, self._send([calls[i] for i in missing]), strict=True):
                answers[i] = answer
        return answers

    def _send(self, calls: Iterable[Call]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(
                "EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.args
            )
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def _judged(self, answer: Any) -> Any:
        if not isinstance(answer, Exception):
            return answer
        ours = translated(answer, self.where)
        if type(ours) is RedisUnavailable:
            raise ours  # the whole batch is repeated: every step may be
        return ours


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
        self._pubsub = self._connection.client.pubsub()
        try:
            if self._channels:
                self._pubsub.subscribe(*self._channels)
            if self._patterns:
                self._pubsub.psubscribe(*self._patterns)
            yield from self._heard(len(self._channels) + len(self._patterns))
        except (redis.RedisError, OSError, AttributeError, ValueError) as error:
            # The last two: another thread closed the socket while this one was reading.
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
