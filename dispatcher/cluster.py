"""Which node of a Redis Cluster serves which keys; the node is then spoken to like any server.

A pool is one slot, so one node; a step never needs two. Nothing is redirected below a step: a node
that answers MOVED or ASK makes the step fail, the map is asked for anew, and the step is repeated
whole (Redis Cluster specification, redirection and resharding; decision 6).
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import redis
from redis.crc import key_slot

Address = tuple[str, int]
OpenNode = Callable[[Address, Callable[[], None]], "redis.Redis"]
_SLOTS = 16_384
_UNKNOWN_HOST = "?"  # what a node says for a host name that it does not know


@dataclass(eq=False, slots=True)
class Node:
    """A node and its client; `connects` is the number of its newest socket, unlike all others'."""

    address: Address
    client: Any = None
    connects: int = 0


class Cluster:
    """The map of a cluster, told by whichever of its known nodes answers first.

    `open_node` takes an address and what to call for each new socket; `ask` returns the answer of
    CLUSTER SLOTS and gives up soon, as everything waits for it. Threads may share a cluster.
    """

    def __init__(
        self, seeds: Sequence[Address], open_node: OpenNode, ask: Callable[[Address], Any]
    ) -> None:
        self._seeds = list(seeds)
        self._open_node = open_node
        self._ask = ask
        self._lock = threading.Lock()
        self._nodes: dict[Address, Node] = {}
        self._order = list(seeds)  # of asking
        self._away: set[Address] = set()  # did not answer lately: asked last
        self._owners: list[tuple[int, int, Address]] = []
        self._told: Address | None = None
        self._numbers = count(1)

    def owner(self, slot: int) -> Node:
        """Return the node that serves a slot.

        Raises redis.RedisError: no node can be asked, or none serves the slot.
        """
        with self._lock:
            self._learn()
            for first, last, address in self._owners:
                if first <= slot <= last:
                    return self._node(address)
        self.forget()
        raise redis.exceptions.ClusterDownError(f"no node serves slot {slot} of {_SLOTS:,}")

    def any_node(self) -> Node:
        """Return a node that answers, for what every node knows: messages of channels."""
        with self._lock:
            self._learn()
            assert self._told
            return self._node(self._told)

    def node(self, address: Address) -> Node:
        """Return the node at an address."""
        with self._lock:
            return self._node(address)

    def masters(self) -> list[Address]:
        """Return the nodes that serve slots."""
        with self._lock:
            self._learn()
            return sorted({address for _, _, address in self._owners})

    def forget(self, away: Node | None = None) -> None:
        """Ask for the map again before the next step; `away` did not answer, so ask it last."""
        with self._lock:
            self._owners = []
            if away:
                self._away.add(away.address)

    def ask_first(self, address: Address) -> None:
        """Ask this node for the next map: another one has said that a slot is there now.

        The others may not have heard of that yet.
        """
        with self._lock:
            self._owners = []
            self._away.discard(address)
            self._order = [address, *(each for each in self._order if each != address)]

    def clients(self) -> list[Any]:
        """Return the clients of all nodes that were needed so far."""
        with self._lock:
            return [node.client for node in self._nodes.values()]

    def close(self) -> None:
        """Close the clients of all nodes."""
        with self._lock:
            for node in self._nodes.values():
                node.client.close()

    def _learn(self) -> None:
        """Read the map unless it is known; an answer says more than silence about what is wrong."""
        problem: Exception | None = None
        for address in [] if self._owners else sorted(self._order, key=self._away.__contains__):
            try:
                found = _owners(self._ask(address), address)
            except (redis.RedisError, OSError) as error:
                if not isinstance(problem, redis.ResponseError):
                    problem = error
                self._away.add(address)
                continue
            self._away.discard(address)
            self._take(found, address)
            return
        if problem:
            raise problem

    def _take(self, owners: list[tuple[int, int, Address]], told: Address) -> None:
        self._owners, self._told = owners, told
        serving = [address for _, _, address in owners]
        # The others first next time: a node that is cut off goes on telling its old map.
        known = dict.fromkeys([*self._order, *serving, *self._seeds])
        kept = {told, *serving, *self._seeds}
        self._order = [a for a in known if a in kept and a != told] + [told]
        self._away &= kept
        self._nodes = {a: node for a, node in self._nodes.items() if a in kept}

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            node = Node(address)

            def number() -> None:
                node.connects = next(self._numbers)

            node.client = self._open_node(address, number)
            self._nodes[address] = node
        return self._nodes[address]


def slot_of(key: str) -> int:
    """Return the slot of a key."""
    return int(key_slot(key.encode()))


def _owners(rows: Iterable[Sequence[Any]], asked: Address) -> list[tuple[int, int, Address]]:
    """Return first slot, last slot and master of each row of CLUSTER SLOTS."""
    found = [(int(row[0]), int(row[1]), _address(row[2], asked)) for row in rows]
    if not found:
        raise redis.exceptions.ClusterDownError("no slot is assigned to a node yet")
    return found


def _address(node: Sequence[Any], asked: Address) -> Address:
    """Return a node's address; no host means the one that was asked (CLUSTER SLOTS)."""
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return (asked[0] if host in (None, "", _UNKNOWN_HOST) else host, int(node[1]))
