"""The map of a cluster: whom it is asked from, what is kept of it, what is forgotten."""

import threading
from typing import Any

import pytest
import redis

from dispatcher.cluster import Address, Cluster, slot_of
from dispatcher.connection import Connection
from dispatcher.errors import RedisRefused, RedisUnavailable

A, B, C, D = (("host", port) for port in (1, 2, 3, 4))


class World:
    """Nodes with the map that each tells; a node that is away tells none."""

    def __init__(self, *nodes: Address) -> None:
        self.told: dict[Address, list[Any]] = {}
        self.away: dict[Address, Exception] = {}
        self.asked: list[Address] = []
        self.opened: list[Address] = []
        self.share(*nodes)

    def share(self, *nodes: Address) -> None:
        """Give these nodes an equal part of the slots."""
        size = 16_384 // len(nodes) + 1
        rows = [
            [i * size, min(16_383, (i + 1) * size - 1), [host.encode(), port, b"id"]]
            for i, (host, port) in enumerate(nodes)
        ]
        self.told = dict.fromkeys(nodes, rows)

    def ask(self, node: Address) -> Any:
        self.asked.append(node)
        if node in self.away or node not in self.told:
            raise self.away.get(node, redis.ConnectionError("refused"))
        return self.told[node]

    def open_node(self, node: Address, on_connect: Any) -> Any:
        self.opened.append(node)
        on_connect()
        return redis.Redis(host=node[0], port=node[1])

    def cluster(self, *seeds: Address) -> Cluster:
        return Cluster(seeds, self.open_node, self.ask)


def test_the_map_is_asked_once_and_each_node_is_opened_once():
    world = World(A, B)
    cluster = world.cluster(A)

    owners = [cluster.owner(slot).address for slot in (0, 16_383, 8_191, 1)]

    assert owners == [A, B, A, A]
    assert (world.asked, world.opened) == ([A], [A, B])


def test_a_map_that_was_forgotten_is_asked_from_another_node():
    # A node that is cut off from the others goes on telling its old map.
    world = World(A, B)
    cluster = world.cluster(A)
    cluster.owner(0)

    for _ in range(3):
        cluster.forget()
        cluster.owner(0)

    assert world.asked == [A, B, A, B]


def test_a_node_that_did_not_answer_is_asked_last():
    world = World(A, B, C)
    cluster = world.cluster(A, B)
    world.away[A] = redis.TimeoutError("no answer")

    for _ in range(4):
        cluster.owner(0)
        cluster.forget()

    assert world.asked == [A, B, C, B, C]


def test_the_node_that_a_step_failed_on_is_asked_last():
    world = World(A, B, C)
    cluster = world.cluster(A, B, C)
    failed = cluster.owner(6_000)

    cluster.forget(failed)
    cluster.owner(0)

    assert (failed.address, world.asked) == (B, [A, C])


def test_nodes_that_have_left_are_forgotten_and_seeds_are_kept():
    world = World(A, B)
    cluster = world.cluster(A)
    cluster.owner(16_383)
    world.share(C, D)

    world.told[A] = world.told[C]
    world.away[B] = redis.ConnectionError("refused")
    cluster.forget()
    cluster.owner(0)
    cluster.forget()
    world.asked.clear()
    for _ in range(3):
        cluster.owner(0)
        cluster.forget()

    assert sorted(set(world.asked)) == [A, C, D]
    assert cluster.masters() == [C, D]


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_that_does_not_know_its_own_address_is_where_it_was_asked(host):
    world = World(A)
    world.told[A] = [[0, 16_383, [host, 7, b"id"]]]
    assert world.cluster(A).owner(5).address == ("host", 7)


def test_a_slot_that_nobody_serves_is_an_outage_and_the_map_is_asked_again():
    world = World(A)
    world.told[A] = [[0, 10, [b"host", 1, b"id"]]]
    cluster = world.cluster(A)

    for _ in range(2):
        with pytest.raises(redis.exceptions.ClusterDownError, match="no node serves slot 11 "):
            cluster.owner(11)

    assert world.asked == [A, A]


def test_when_no_node_tells_the_map_an_answer_is_told_rather_than_silence():
    world = World(A, B)
    cluster = world.cluster(A, B)
    world.away[A] = redis.ResponseError("This instance has cluster support disabled")
    world.away[B] = redis.ConnectionError("refused")

    with pytest.raises(redis.ResponseError, match="cluster support disabled"):
        cluster.owner(0)


def test_each_socket_of_each_node_has_a_number_of_its_own():
    world = World(A, B)
    cluster = world.cluster(A)
    assert cluster.owner(0).connects != cluster.owner(16_383).connects


# --- A connection to it


def connection(world: World, **options: Any) -> Connection:
    return Connection(cluster=world.cluster(A), where="redis+cluster://host:1", **options)


def test_keys_of_one_pool_have_one_connection_and_others_another():
    root = connection(World(A, B))
    assert root.at("t:{a}:pool") is root.at("t:{a}:run:1")
    assert root.at("t:{a}:pool") is not root.at("t:{b}:pool")
    assert root.at("t:{a}:pool").at("t:{b}:pool") is not root.at("t:{a}:pool")


def test_an_answer_that_the_pool_has_moved_is_followed_at_once_by_one_that_has_no_patience():
    world = World(A, B)
    key = "t:{a}:pool"
    old, new = (A, B) if slot_of(key) < 8_193 else (B, A)
    server, seen = connection(world).at(key), []

    def command(client: Any) -> str:
        seen.append(client.connection_pool.connection_kwargs["port"])
        if seen == [old[1]]:
            world.share(new)
            raise redis.exceptions.MovedError(f"5 {new[0]}:{new[1]}")
        return "done"

    assert server.read(command) == "done"
    assert seen == [old[1], new[1]]


def test_a_pool_that_moves_to_and_fro_is_an_outage():
    server = connection(World(A, B)).at("t:{a}:pool")

    def command(_: Any) -> None:
        raise redis.exceptions.MovedError("5 host:2")

    with pytest.raises(RedisUnavailable, match="cannot serve now: 5 host:2"):
        server.read(command)


@pytest.mark.parametrize("kind", [redis.exceptions.MovedError, redis.exceptions.AskError])
def test_a_node_of_a_cluster_behind_an_url_for_one_server_says_what_to_do(kind):
    def command(_: Any) -> None:
        raise kind("5 host:2")

    with pytest.raises(RedisRefused, match=r"is a node of a cluster; use redis\+cluster://$"):
        Connection(redis.Redis(), patience_s=60).read(command)


def test_an_outage_names_the_node():
    server = connection(World(A)).at("t:{a}:pool")

    def command(_: Any) -> None:
        raise redis.TimeoutError("Timeout reading from socket")

    with pytest.raises(RedisUnavailable, match=r"host:1 of redis\+cluster://host:1 cannot be"):
        server.read(command)


def test_a_fault_of_ours_is_no_outage_unless_another_thread_reset_the_connection():
    root = connection(World(A, B))
    server = root.at("t:{a}:pool")

    def fail(_: Any) -> None:
        raise ValueError("ours")

    def be_reset(_: Any) -> None:
        root.reset()
        raise ValueError("I/O operation on closed file")

    with pytest.raises(ValueError, match="ours"):
        server.read(fail)
    with pytest.raises(RedisUnavailable, match="was reset"):
        server.read(be_reset)


def test_what_one_pool_failed_on_may_have_failed_another_that_is_on_the_same_node():
    root = connection(World(A))
    one, other = root.at("t:{a}:pool"), root.at("t:{b}:pool")

    def lose(_: Any) -> None:
        raise redis.ConnectionError("lost")

    def be_reset(_: Any) -> None:
        with pytest.raises(RedisUnavailable):
            one.read(lose)
        raise AttributeError("'NoneType' object has no attribute 'recv'")

    with pytest.raises(RedisUnavailable, match="was reset"):
        other.read(be_reset)


def test_threads_that_come_at_once_get_the_same_connection():
    root = connection(World(A, B))
    got: list[Connection] = []
    ready = threading.Barrier(8)

    def take() -> None:
        ready.wait()
        got.extend(root.at(f"t:{{{i}}}:pool") for i in range(200))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(got)) == len({slot_of(f"t:{{{i}}}:pool") for i in range(200)})


def test_at_the_end_of_a_subscription_another_node_is_asked():
    world = World(A, B)
    root = Connection(cluster=world.cluster(A, B))
    root.read(lambda _: None)

    root.turn_away()
    root.read(lambda _: None)

    assert world.asked == [A, B]
