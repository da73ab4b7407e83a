"""RQ consumers and RQ workers as the user of docs/workers.md."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.probes import ROOT
from tests.scenarios.gate import Gate
from tests.scenarios.rq_scene import RqScene
from tests.servers import RealServer

SECRET = "s3cret"
SETTINGS = """
from dispatcher import find_url, read_settings

REDIS_URL = find_url(read_settings()[0])
"""


def rule() -> list[str]:
    """The words of the rule, behind `user`."""
    page = (ROOT / "docs" / "workers.md").read_text()
    (words,) = re.findall(r"```acl-rq\nuser (.*?)```", page, re.DOTALL)
    return words.replace("SECRET", SECRET).split()


def test_such_a_user_hands_over_and_runs_and_its_password_is_in_no_command_line(
    own_server: Callable[..., RealServer], tmp_path: Path
):
    server = own_server()
    with (
        Gate(server.url) as gate,
        RqScene(server, tmp_path, gate, prefix="dispatcher") as scene,
    ):
        scene.create_pool(type="rq")
        scene._client.execute_command("ACL", "SETUSER", *rule())
        scene.ready_dispatcher()
        (tmp_path / "url").write_text(server.url.replace("://", f"://{rule()[0]}:{SECRET}@"))
        (tmp_path / "rq_settings.py").write_text(SETTINGS)
        scene.working_dir = tmp_path
        user = {"DISPATCHER_REDIS_URL": "", "DISPATCHER_REDIS_URL_FILE": str(tmp_path / "url")}

        consumer = scene.consumer("c", **user)
        options = ("--config", "rq_settings", "--serializer", "json")
        worker = scene.start("rq", "worker", *options, "flows", **user)
        runs = [scene.submit("echo hello"), scene.submit("false")]
        ended = [scene.wait_end(run_id).state_type for run_id in runs]

        cancelled = scene.hold()
        scene.child(cancelled)
        scene.store.cancel("etl", cancelled, reason="no", by="me")
        assert scene.wait_end(cancelled).state_type == "CANCELLED"

    assert ended == ["COMPLETED", "FAILED"]
    for process in (consumer, worker):
        assert SECRET not in process.text
        assert "NOPERM" not in process.text
        assert "no permissions" not in process.text
