"""Runs in RQ while Redis is away."""

from pathlib import Path

from dispatcher.records import Word
from tests.conftest import embedded
from tests.scenarios.gate import Gate
from tests.scenarios.rq_scene import POOL, RqScene
from tests.servers import AOF, RealServer


def test_runs_in_rq_outlive_a_restart_of_the_server(tmp_path: Path):
    with (
        RealServer(embedded(), tmp_path / "server", config=AOF) as server,
        Gate(server.url) as gate,
        RqScene(server, tmp_path, gate) as scene,
    ):
        scene.create_pool(type="rq", lease_ms=6_000, renew_ms=500)
        scene.ready_dispatcher()
        scene.consumer()
        scene.rq_worker()
        working, waiting = scene.hold(), scene.hold()
        scene.child(working)
        scene.wait_handed(waiting)

        server.stop()
        scene.let_pass(2.0)
        server.start()
        scene.wait_renewed(times=2)
        assert scene.store.cancel(POOL, waiting, reason="no", by="me").word is Word.CANCELLING
        assert scene.wait_end(waiting).state_type == "CANCELLED"
        scene.let_go()

        run = scene.wait_end(working)
        assert (run.state_type, run.delivery, run.run_count) == ("COMPLETED", 1, 1)
