"""Every Redis key: what it is called, what type it has, what it holds and when it ends.

All keys of a pool share the hash tag `{pool}`, so one pool is one Cluster slot and a script can
touch any of them. Scripts get keys and key prefixes from here; no key is spelled anywhere else.
"""

from typing import NamedTuple
from urllib.parse import quote, unquote

from dispatcher.errors import InvalidName

DEFAULT_PREFIX = "dispatcher"
DATA_VERSION = 1
GROUP = "workers"
MAX_NAME_BYTES = 255
_FORBIDDEN = "/%&><"  # Prefect's rule for names of pools and queues


class Key(NamedTuple):
    """One row of the data model; `<…>` in `pattern` is a part that varies within a pool."""

    name: str
    pattern: str
    type: str
    holds: str
    ends: str


TABLE = (
    Key("pools", "pools", "set", "pool names (own slot, written apart)", "permanent"),
    Key(
        "pool",
        "{p}:pool",
        "hash",
        "data version, id, type, command, lease and retention settings, submission counter",
        "with the pool",
    ),
    Key("queues", "{p}:queues", "zset", "queue name, score = priority (1 first)", "with the pool"),
    Key(
        "queue",
        "{p}:queue:<q>",
        "hash",
        "id, delivery settings, bytes not yet claimed and the largest of them, "
        "what blocked the last dispatch",
        "with the queue",
    ),
    Key(
        "scheduled",
        "{p}:scheduled:<q>",
        "zset",
        "place number + run id, score = due in ms",
        "empties itself",
    ),
    Key(
        "stream",
        "{p}:stream:<q>",
        "stream",
        "one entry per dispatched run; group `workers`; never trimmed",
        "entry deleted when its claim ends",
    ),
    Key(
        "ready",
        "{p}:ready",
        "zset",
        "queues that have unclaimed entries, score = priority",
        "empties itself",
    ),
    Key("wake", "{p}:wake:<q>", "list", 'at most one element: "look"', "popped"),
    Key(
        "run",
        "{p}:run:<id>",
        "hash",
        "the payload as accepted, and what has happened since: place, state, entry, token, "
        "holder, counts, times, deliveries, the last answers",
        "TTL after the end",
    ),
    Key(
        "holders",
        "{p}:holders",
        "zset",
        "who holds leases, score = lease end in ms (0 = being recovered)",
        "on drain, recover",
    ),
    Key(
        "holder",
        "{p}:holder:<h>",
        "hash",
        "worker, host, type, queues, slots, draining, last claim number and the runs it got",
        "with the holder",
    ),
    Key("claims", "{p}:claims:<h>", "set", "ids of the runs the holder has claimed", "with them"),
    Key("inbox", "{p}:inbox:<h>", "list", 'at most one element: "renew now"', "popped"),
    Key("workers", "{p}:workers", "hash", "worker name, its present holder", "with the holder"),
    Key(
        "dead",
        "{p}:dead",
        "zset",
        "dead-lettered runs by time; they keep their record without TTL",
        "requeue, purge",
    ),
    Key("finished", "{p}:finished", "zset", "ended runs by time", "with their records"),
    Key("events", "{p}:events", "stream", "every change", "MAXLEN ~ 10,000"),
    Key(
        "changes",
        "{p}:changes",
        "channel",
        "hint to dispatchers: `<queue> <due_ms>`, something is due earlier than they know",
        "not stored",
    ),
)


def encode(name: str) -> str:
    """Percent-encode what would break a key or a list of names: `% { } : #` and controls."""
    unsafe = "%{}:#"
    return "".join(
        quote(c, safe="") if c in unsafe or ord(c) <= 32 or ord(c) == 127 else c for c in name
    )


def decode(encoded: str) -> str:
    """Return the name that `encode` was given."""
    return unquote(encoded)


def check_name(kind: str, name: str) -> str:
    """Return `name` if it follows Prefect's rule; `kind` is the word for the message.

    Raises InvalidName: empty, one of `/ % & > <`, or over 255 bytes in UTF-8.
    """
    if not name.strip():
        raise InvalidName(kind, name, "is empty")
    found = [c for c in _FORBIDDEN if c in name]
    if found:
        raise InvalidName(
            kind, name, f"contains {' '.join(found)}; these are not allowed: / % & > <"
        )
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName(kind, name, "is not valid Unicode") from None
    if size_bytes > MAX_NAME_BYTES:
        raise InvalidName(kind, name, f"has {size_bytes} bytes; at most {MAX_NAME_BYTES}")
    return name


class PoolKeys:
    """The keys of one pool: `keys["events"]`, and `keys["run"] + run_id` where one varies."""

    def __init__(self, prefix: str, pool: str) -> None:
        self.pool = pool
        tag = f"{prefix}:{{{encode(pool)}}}:"
        self._keys = {
            key.name: tag + key.pattern.removeprefix("{p}:").split("<")[0]
            for key in TABLE
            if key.pattern.startswith("{p}:")
        }

    def __getitem__(self, name: str) -> str:
        return self._keys[name]


def pools_key(prefix: str) -> str:
    """Return the key of the set of all pool names."""
    return f"{prefix}:pools"


def changes_pattern(prefix: str) -> str:
    """Return the pattern that matches the `changes` channel of every pool."""
    return f"{prefix}:*:changes"


def pool_of_channel(prefix: str, channel: str) -> str | None:
    """Return the pool whose `changes` channel this is, None for any other channel."""
    body = channel.removeprefix(f"{prefix}:{{").removesuffix("}:changes")
    return decode(body) if channel == PoolKeys(prefix, decode(body))["changes"] else None


def markdown_table() -> str:
    """Return the data model as the Markdown table of docs/data-model.md."""
    rows = ["| key | type | holds | ends |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{DEFAULT_PREFIX}:{key.pattern}` | {key.type} | {key.holds} | {key.ends} |"
        for key in TABLE
    ]
    return "\n".join(rows)
