"""The command line on a Redis Cluster: pools on several nodes, one command for all of them."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.commands import Commands, a_run, ndjson, run_id
from tests.conftest import embedded
from tests.topologies import cluster

POOLS = [f"pool-{number}" for number in range(6)]  # on several nodes, whatever their slots


@pytest.fixture
def cli(tmp_path) -> Iterator[Commands]:
    with cluster(embedded(), tmp_path, nodes=3) as nodes:
        commands = Commands(nodes.url, "t")
        for pool in POOLS:
            assert commands("pool", "create", pool).code == 0
        yield commands


def test_pools_of_several_nodes_are_listed_followed_and_deleted(cli):
    assert [pool["name"] for pool in cli("pool", "ls", "--json").objects] == POOLS
    for number, pool in enumerate(POOLS):
        given = ndjson(a_run(number))
        assert cli("submit", "-", "--pool", pool, "--at", "+1h", given=given).code == 0
    found = cli("event", "--json").objects
    assert sorted(e["event"] for e in found) == ["pool-created"] * 6 + ["submitted"] * 6
    process = cli.start("event", "--follow", "--json", "--after", found[-1]["cursor"])

    for pool in POOLS:
        assert cli("pool", "pause", pool).code == 0
    heard = [json.loads(process.stdout.readline()) for _ in POOLS]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert sorted((e["event"], e["work_pool_name"]) for e in heard) == [
        ("paused", p) for p in POOLS
    ]
    assert process.returncode == 130
    assert cli("flow-run", "cancel", *map(run_id, range(6))).code == 0
    for pool in POOLS:
        assert cli("pool", "delete", pool).lines == [f"deleted pool {pool}"]
    assert cli("pool", "ls", "--json").objects == []
