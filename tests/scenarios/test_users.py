"""Real processes as the users of docs/operations.md: a member, a dispatcher, an observer."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.fleet import POOL, Scene
from tests.servers import RealServer

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SECRET = "s3cret"
USERS = {"member": f"{POOL}-member", "dispatcher": "dispatcher", "observer": "observer"}


@pytest.fixture
def scene(own_server: Callable[..., RealServer], tmp_path: Path) -> Iterator[Scene]:
    """A pool on a server that has these users."""
    server = own_server()
    with Scene(server, "dispatcher", tmp_path) as opened, server.client() as client:
        opened.create_pool()
        for words in re.findall(r"```acl\nuser (.*?)```", PAGE.read_text(), re.DOTALL):
            client.execute_command("ACL", "SETUSER", *words.replace("SECRET", SECRET).split())
        yield opened


def as_user(scene: Scene, name: str) -> dict[str, str]:
    """Return the setting with which a process is this user."""
    url = scene.server.url.replace("://", f"://{USERS[name]}:{SECRET}@")
    return {"DISPATCHER_REDIS_URL": url}


def told(scene: Scene, name: str, *arguments: str) -> tuple[int, str]:
    """Run a command as a user to its end and return its exit code and what it wrote."""
    done = scene.command(*arguments, **as_user(scene, name))
    return done.returncode, done.stdout + done.stderr


def test_a_fleet_of_such_users_runs_what_a_member_submits_and_an_observer_sees_it(scene):
    dispatcher = scene.ready_dispatcher(**as_user(scene, "dispatcher"))
    worker = scene.ready_worker("w", **as_user(scene, "member"))
    options = ("--pool", POOL, "--command", "echo hello", "--wait", "--json")

    code, text = told(scene, "member", "dispatcher", "submit", *options)
    assert code == 0, text
    run_id = json.loads(text.splitlines()[0])["id"]

    assert told(scene, "member", "consumers", "check", "--pool", POOL)[0] == 0
    for command in (["flow-run", "ls"], ["explain", run_id], ["worker", "ls"], ["queue", "ls"]):
        pool = ["--pool", POOL] if command[0] == "queue" else []
        code, text = told(scene, "observer", "dispatcher", *command, *pool)
        assert code == 0, text
        assert run_id in text or command[0] in ("worker", "queue"), text
    code, text = told(scene, "observer", "dispatcher", "pool", "pause", POOL)
    assert (code, len(text.splitlines())) == (1, 1)
    assert "no permission" in text or "can't" in text
    for process in (dispatcher, worker):
        assert not process.said("redis-away")
