"""Every Redis key: what it is called, what type it has, what it holds and when it ends.

All keys of a pool share the hash tag `{pool}`, so one pool is one Cluster slot and a script can
touch any of them. Scripts get keys and key prefixes from here; no key is spelled anywhere else.
"""

import re
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
        "data version, id, type, hand-out, command, base job template and their version, limit, "
        "pauses, lease and retention settings, submission counter",
        "with the pool",
    ),
    Key("queues", "{p}:queues", "zset", "queue name, score = priority (1 first)", "with the pool"),
    Key(
        "queue",
        "{p}:queue:<q>",
        "hash",
        "id, limit, pauses, late policy, delivery settings, bytes not yet claimed and the largest "
        "of them, what blocked the last dispatch",
        "with the queue",
    ),
    Key("deployments", "{p}:deployments", "set", "ids that have a limit", "with the limits"),
    Key("deployment", "{p}:deployment:<d>", "hash", "limit, collision strategy", "with the limit"),
    Key(
        "scheduled",
        "{p}:scheduled:<q>",
        "zset",
        "place number + run id, score = due in ms",
        "empties itself",
    ),
    Key(
        "waiting",
        "{p}:waiting:<d>:<q>",
        "zset",
        "due runs whose deployment is full, same members and scores",
        "when there is room",
    ),
    Key(
        "waits",
        "{p}:waits",
        "zset",
        "`<d> <q>` of each waiting set that is not empty, score = 0",
        "empties itself",
    ),
    Key(
        "freed",
        "{p}:freed:<q>",
        "set",
        "deployments that may have room again for runs that wait in this queue",
        "when dispatch has looked",
    ),
    Key(
        "newest",
        "{p}:newest:<q>",
        "hash",
        "under `late_policy` latest: deployment, due time and place of its newest due run",
        "with the policy",
    ),
    Key(
        "unstarted",
        "{p}:unstarted",
        "zset",
        "runs that have not started and were not announced as late, score = due in ms",
        "started, announced, ended",
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
        "queues that have unclaimed entries, are not paused and not full, score = priority",
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
        "idempotency",
        "{p}:idempotency:<sha256>",
        "string",
        "run id; the digest is of flow id and idempotency key",
        "TTL set when its run ends",
    ),
    Key(
        "pool_slots",
        "{p}:slots:pool",
        "zset",
        "claimed runs of the pool, score = since when in ms",
        "when the claim ends",
    ),
    Key(
        "queue_slots",
        "{p}:slots:queue:<q>",
        "zset",
        "claimed runs of a queue, score = since when in ms",
        "when the claim ends",
    ),
    Key(
        "deployment_slots",
        "{p}:slots:deployment:<d>",
        "zset",
        "runs of a deployment from dispatch, or from being taken, to the end of their claim, "
        "score = since when in ms",
        "when the claim ends",
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
    Key("orders", "{p}:orders:<h>", "set", "ids of runs to cancel", "when those runs end"),
    Key(
        "inbox",
        "{p}:inbox:<h>",
        "list",
        'at most one element: "renew now"; `<h>.<id>` is for what works on a run in RQ',
        "popped; with a run in RQ after a minute, too",
    ),
    Key("workers", "{p}:workers", "hash", "worker name, its present holder", "with the holder"),
    Key(
        "dead",
        "{p}:dead",
        "zset",
        "dead-lettered runs by time; they keep their record without TTL",
        "requeue, purge",
    ),
    Key("finished", "{p}:finished", "zset", "ended runs by time", "with their records"),
    Key(
        "events",
        "{p}:events",
        "stream",
        "every change",
        "MAXLEN ~ 10,000; TTL when its pool is deleted",
    ),
    Key(
        "changes",
        "{p}:changes",
        "channel",
        "hint to dispatchers: `<queue> <due_ms>`, something is due earlier than they know; "
        "no queue: look at all of them",
        "not stored",
    ),
)

# What a key of a pool begins with behind its tag, and whether a part that varies follows.
_SHAPES = [
    (key.name, key.pattern.removeprefix("{p}:").split("<")[0], "<" in key.pattern)
    for key in TABLE
    if key.pattern.startswith("{p}:")
]


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
        self._several: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __getitem__(self, name: str) -> str:
        return self._keys[name]

    def of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return these keys in this order; looked up once, every step needs a score of them."""
        if names not in self._several:
            self._several[names] = tuple(self._keys[name] for name in names)
        return self._several[names]


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


def all_keys_pattern(prefix: str, pool: str | None = None) -> str:
    """Return the pattern that matches every key of a pool, or of all pools."""
    tag = f"{encode(pool)}}}:" if pool is not None else ""
    return re.sub(r"([*?[\]^\\])", r"\\\1", f"{prefix}:{{{tag}") + "*"


def taken_apart(prefix: str, key: str) -> tuple[str, str, str] | None:
    """Return the pool, the name and the part that varies of a key; None when it is not ours."""
    tag, mark, rest = key.removeprefix(f"{prefix}:{{").partition("}:")
    if not mark or not key.startswith(f"{prefix}:{{"):
        return None
    for name, start, varies in _SHAPES:
        if rest == start or (varies and rest.startswith(start)):
            return decode(tag), name, rest.removeprefix(start)
    return None


def markdown_table() -> str:
    """Return the data model as the Markdown table of docs/data-model.md."""
    rows = ["| key | type | holds | ends |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{DEFAULT_PREFIX}:{key.pattern}` | {key.type} | {key.holds} | {key.ends} |"
        for key in TABLE
    ]
    return "\n".join(rows)
