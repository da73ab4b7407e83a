"""Several real servers together: a master with a replica and sentinels, and a Redis Cluster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from dispatcher.keys import PoolKeys
from tests.servers import AOF, RealServer, free_port

SERVICE = "mymaster"
DOWN_AFTER_MS = 1_000
SLOTS = 16_384
HOST = "127.0.0.1"
_TRIES = 6000  # of 10 ms each


def until(check: Callable[[], Any], what: str) -> Any:
    """Wait until a check returns something and return it; errors of Redis count as not yet."""
    pause, problem = threading.Event(), ""
    for _ in range(_TRIES):
        try:
            if found := check():
                return found
        except redis.RedisError as error:
            problem = f": {error}"
        pause.wait(0.01)
    raise AssertionError(f"this did not happen: {what}{problem}")


class SentinelServer(RealServer):
    """A sentinel that watches a master."""

    _arguments = ("--sentinel",)

    def __init__(self, binary: Path, directory: Path, *, master: RealServer, quorum: int) -> None:
        watch = {
            f"sentinel monitor {SERVICE}": f"{HOST} {master.port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE}": str(DOWN_AFTER_MS),
            f"sentinel failover-timeout {SERVICE}": "5000",
        }
        super().__init__(binary, directory, config=watch, tcp=True)

    def _base_config(self) -> dict[str, str]:
        common = super()._base_config()
        return {name: common[name] for name in ("bind", "port", "dir")}


class Watched:
    """A master with one replica, watched by three sentinels."""

    def __init__(self, binary: Path, directory: Path, opened: ExitStack, **config: str) -> None:
        def start(name: str, **more: str) -> RealServer:
            server = RealServer(binary, directory / name, config=AOF | config | more, tcp=True)
            opened.callback(server.close)
            server.start()
            return server

        # Else it waits 5 s for more replicas before it sends the first one its data.
        at_once = {"repl-diskless-sync-delay": "0"}
        self.master = start("master", **at_once)
        self.replica = start("replica", replicaof=f"{HOST} {self.master.port}", **at_once)
        self.sentinels: list[SentinelServer] = []
        for index in range(3):
            sentinel = SentinelServer(
                binary, directory / f"sentinel-{index}", master=self.master, quorum=2
            )
            opened.callback(sentinel.close)
            sentinel.start()
            self.sentinels.append(sentinel)
        for each in self.sentinels:
            until(lambda each=each: _knows_all(each), "the sentinels know each other")
        self.wait_replicated()

    @property
    def url(self) -> str:
        """How the master is reached, whichever it is."""
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of the present master."""
        master = self.replica if self._has_failed_over() else self.master
        return master.client(**options)

    def fail_over(self) -> None:
        """Let the sentinels make the replica the master, while the master lives."""
        with self.sentinels[0].client() as client:
            until(lambda: client.execute_command("SENTINEL", "FAILOVER", SERVICE), "it fails over")
        self.wait_failed_over()

    def wait_replicated(self) -> None:
        """Wait until the replica has all that the master has written so far."""
        with self.master.client() as client:
            wanted = client.info("replication")["master_repl_offset"]
        with self.replica.client() as client:
            until(lambda: _offset(client) >= wanted, "the replica has all")

    def wait_failed_over(self) -> None:
        """Wait until the replica is the master, and the sentinels say so."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                until(lambda c=client: _master_port(c) == self.replica.port, "a failover")

    def _has_failed_over(self) -> bool:
        with self.sentinels[0].client() as client:
            return _master_port(client) == self.replica.port


def _knows_all(sentinel: RealServer) -> bool:
    with sentinel.client() as client:
        # 10 s and 2 s otherwise: what sentinels learn of each other, and of replicas.
        client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "200")
        state = client.sentinel_master(SERVICE)
    return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2)


def _offset(client: redis.Redis) -> int:
    found = client.info("replication")
    return int(found["slave_repl_offset"]) if found.get("master_link_status") == "up" else -1


def _master_port(client: redis.Redis) -> int:
    address = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    return int(address[1])


class Nodes:
    """A Redis Cluster of masters with an equal share of the slots each."""

    def __init__(self, servers: Sequence[RealServer], bus_ports: Sequence[int]) -> None:
        self.servers = list(servers)
        self._clients = [server.client() for server in servers]
        share = SLOTS // len(servers)
        for index, client in enumerate(self._clients):
            last = SLOTS if index == len(servers) - 1 else (index + 1) * share
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", index * share, last - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for server, bus_port in zip(servers[1:], bus_ports[1:], strict=True):
            self._clients[0].execute_command("CLUSTER", "MEET", HOST, server.port, bus_port)
        for client in self._clients:
            until(lambda c=client: self._is_whole(c), "the cluster is whole")

    @property
    def url(self) -> str:
        """How the cluster is reached."""
        return "redis+cluster://" + ",".join(f"{HOST}:{each.port}" for each in self.servers)

    def at(self, index: int) -> redis.Redis:
        """Return a client of one node."""
        return self._clients[index]

    def owner(self, key: str) -> int:
        """Return which node serves a key."""
        slot = key_slot(key.encode())
        ports = {
            int(row[2][1]): (int(row[0]), int(row[1]))
            for row in self._any().execute_command("CLUSTER", "SLOTS")
            if int(row[0]) <= slot <= int(row[1])
        }
        (port,) = ports
        return next(i for i, server in enumerate(self.servers) if server.port == port)

    def pool_on(self, index: int, label: str) -> str:
        """Return the name of a pool that one node serves; each label has names of its own."""
        names = (f"{label}-{n}" for n in range(1_000_000))
        return next(n for n in names if self.owner(PoolKeys("any", n)["pool"]) == index)

    def client_of(self, key: str) -> redis.Redis:
        """Return a client of the node that serves a key."""
        return self._clients[self.owner(key)]

    def begin_move(self, key: str, to: int) -> int:
        """Begin to move the slot of a key, as `redis-cli --cluster reshard` does; return it."""
        slot, source, target = key_slot(key.encode()), self.client_of(key), self._clients[to]
        target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))
        return slot

    def move_keys(self, key: str, to: int, *, most: int | None = None) -> int:
        """Move keys of a key's slot, all or some; return how many."""
        slot, source, moved = key_slot(key.encode()), self.client_of(key), 0
        while most is None or moved < most:
            count = 100 if most is None else most - moved
            keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
            if not keys:
                break
            port = self.servers[to].port
            source.execute_command("MIGRATE", HOST, port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, key: str, to: int) -> None:
        """Hand the slot of a key over."""
        slot, source, target = key_slot(key.encode()), self.client_of(key), self._clients[to]
        new_owner = _id(target)
        for client in (target, source):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new_owner)
        until(lambda: self.owner(key) == to, "the slot has moved")

    def move_at_once(self, key: str, to: int) -> None:
        """Move the slot of a key as Valkey 9 does it."""
        slot, target = key_slot(key.encode()), _id(self._clients[to])
        command = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target)
        self.client_of(key).execute_command(*command)
        until(lambda: self.owner(key) == to, "the slot has moved")

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            client.close()

    def _any(self) -> redis.Redis:
        for client in self._clients:
            try:
                client.ping()
            except redis.RedisError:
                continue
            return client
        raise AssertionError("no node answers")

    def _is_whole(self, client: redis.Redis) -> bool:
        info = client.execute_command("CLUSTER", "INFO").decode()
        nodes = f"cluster_known_nodes:{len(self.servers)}"
        return "cluster_state:ok" in info and nodes in info.split()


def _id(client: redis.Redis) -> str:
    answer = client.execute_command("CLUSTER", "MYID")
    return str(answer.decode())


@contextmanager
def watched(binary: Path, directory: Path, **config: str) -> Iterator[Watched]:
    """A master and a replica with `config`, and three sentinels."""
    with ExitStack() as opened:
        yield Watched(binary, directory, opened, **config)


@contextmanager
def cluster(binary: Path, directory: Path, *, nodes: int, **config: str) -> Iterator[Nodes]:
    """A Redis Cluster of so many masters with `config`."""
    with ExitStack() as opened:
        servers, bus_ports = [], []
        for index in range(nodes):
            bus_ports.append(free_port())
            own = {"cluster-enabled": "yes", "cluster-port": str(bus_ports[-1])}
            server = RealServer(
                binary, directory / f"node-{index}", config=AOF | config | own, tcp=True
            )
            opened.callback(server.close)
            server.start()
            servers.append(server)
        joined = Nodes(servers, bus_ports)
        opened.callback(joined.close)
        yield joined
