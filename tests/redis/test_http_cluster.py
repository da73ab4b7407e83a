"""Held claims on a Redis Cluster: the listener blocks on the node that has the pool."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dispatcher.http.claim_steps import ClaimSteps
from dispatcher.records import Word
from tests.builders import COMPLETED, POOL
from tests.held import ALL, Caller, Edge
from tests.redis.conftest import BINARIES, FOUND
from tests.topologies import cluster


@pytest.fixture(params=FOUND)
def edge(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Edge]:
    binary = BINARIES[request.param]()
    with (
        cluster(binary, tmp_path_factory.mktemp("cluster"), nodes=3) as nodes,
        closing(Edge(nodes, "t")) as it,
    ):
        yield it


def test_a_held_claim_on_a_cluster_gets_the_run_that_comes_and_ends_it(edge):
    caller = Caller(edge, edge.holding(), ALL)
    edge.put("a")
    assert caller.wait() == ["a"]
    (claim,) = caller.given[0].claims
    steps = ClaimSteps(edge.store, edge.inspector)
    assert steps.start(POOL, "a", claim.token).word is Word.STARTED
    assert steps.renew(POOL, "a", claim.token).run_ids == ("a",)
    assert steps.finish(POOL, "a", claim.token, COMPLETED) is Word.FINISHED
    assert edge.claimers() == []
