"""A worker in shell that speaks HTTP with curl: runs end, whatever is killed, and when."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.probes import ROOT, process_state, wait_until
from tests.scenarios.fleet import PATIENCE_S, POOL, Process, Scene, wait_gone
from tests.servers import RealServer

WORKER = ROOT / "examples" / "http_worker.sh"
# Tells its pid, works until the scene lets it go, and shows what it was given.
WORK = """
echo $$ > "$0/pid.$DISPATCHER_RUN_DELIVERY.new"
mv "$0/pid.$DISPATCHER_RUN_DELIVERY.new" "$0/pid.$DISPATCHER_RUN_DELIVERY"
until [ -e "$0/go" ] || [ -e "$0/go.$DISPATCHER_RUN_DELIVERY" ]; do sleep 0.05; done
cat > "$0/run"
printf 'a "b" \\\\ c\\tg\\303\\266\\nlast line'
exit "$(cat "$0/code" 2>/dev/null || echo 0)"
"""
# Stands before curl: notes that a step is about to be sent, and waits until it may.
GATE = """#!/bin/sh
for last; do :; done
case $last in */{step}) touch "{at}"; until [ -e "{pass_}" ]; do sleep 0.05; done ;; esac
exec {curl} "$@"
"""


def curl_binary() -> str:
    return shutil.which("curl") or pytest.fail("there is no curl: apt-get install curl")


class Shop(Scene):
    """A scene whose dispatchers serve HTTP, and workers in shell."""

    def __init__(self, server: RealServer, prefix: str, directory: Path) -> None:
        super().__init__(server, prefix, directory)
        self.curl_path = curl_binary()
        self.create_pool()
        self.shells: list[subprocess.Popen[bytes]] = []

    def serve(self, **settings: str) -> str:
        """Start a dispatcher with HTTP, and return its address."""
        self.server_process = self.ready_dispatcher("--http", "127.0.0.1:0", **settings)
        return str(self.server_process.wait_said("http-started")[0]["address"])

    def shell(
        self, url: str, *, gate: str = "", sh: str = "sh", **settings: str
    ) -> "subprocess.Popen[bytes]":
        """Start a worker in shell; `gate` is the step before which it is made to wait."""
        path = os.environ["PATH"]
        if gate:
            bin_ = self.directory / "bin"
            bin_.mkdir()
            at, pass_ = self.directory / "at-gate", self.directory / "pass-gate"
            gate = GATE.format(step=gate, at=at, pass_=pass_, curl=self.curl_path)
            (bin_ / "curl").write_text(gate)
            (bin_ / "curl").chmod(0o755)
            path = f"{bin_}:{path}"
        work = ["sh", "-c", WORK, str(self.directory)]
        with (self.directory / f"shell-{len(self.shells)}.log").open("wb") as log:
            shell = subprocess.Popen(
                [*sh.split(), str(WORKER), POOL, *work],
                env=os.environ | {"PATH": path, "DISPATCHER_API_URL": url} | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.shells.append(shell)
        return shell

    def close_shells(self) -> None:
        for shell in self.shells:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()

    def wait_gate(self) -> None:
        wait_until((self.directory / "at-gate").exists, "it is at the gate", timeout_s=PATIENCE_S)

    def open_gate(self) -> None:
        (self.directory / "pass-gate").touch()

    def work(self, delivery: int = 1) -> int:
        """Wait for the process that works, and return its id."""
        told = self.directory / f"pid.{delivery}"
        wait_until(told.exists, f"delivery {delivery} is worked on", timeout_s=PATIENCE_S)
        return int(told.read_text())

    def wait_claimer(self, known: set[str] = frozenset()) -> str:
        """Wait until somebody has claimed over HTTP, and return that holder."""
        found = wait_until(
            lambda: [h.id for h in self.inspector.holders(POOL) if h.held and h.id not in known],
            "a run is claimed",
            timeout_s=PATIENCE_S,
        )
        return str(found[0])

    def curl(self, url: str, body: object, *options: str) -> dict[str, Any] | list[Any]:
        """Post with curl, as people do by hand."""
        command = [self.curl_path, "--silent", "--show-error", "--fail-with-body", *options]
        command += ["--json", json.dumps(body), url]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
        assert done.returncode == 0, (done.stdout, done.stderr)
        answer: dict[str, Any] | list[Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def shop(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Shop]:
    with Shop(real_server, prefix, tmp_path) as it:
        try:
            yield it
        finally:
            it.close_shells()


def kill(process: "subprocess.Popen[bytes] | Process") -> None:
    """End one process as kill -9 does; what it has started goes on."""
    process.kill()
    if isinstance(process, subprocess.Popen):
        process.wait()


@pytest.mark.parametrize("sh", ["sh", "bash --posix"])
def test_a_run_goes_its_way_through_a_worker_in_shell(shop, sh):
    shop.shell(shop.serve(), sh=sh)
    run_id = shop.submit("ignored", name="by shell")
    shop.work()
    token = shop.run(run_id).token
    shop.let_go()
    run = shop.wait_end(run_id)
    assert (run.state_type, run.run_count, run.delivery) == ("COMPLETED", 1, 1)
    assert shop.inspector.output(run) == b'a "b" \\ cg\nlast line\n'
    (given,) = json.loads((shop.directory / "run").read_text())
    assert given["flow_run"]["id"] == run_id
    assert given["claim"]["token"] == token


def test_a_command_that_fails_fails_its_run(shop):
    (shop.directory / "code").write_text("3")
    shop.let_go()
    shop.shell(shop.serve())
    run = shop.wait_end(shop.submit("ignored"))
    assert (run.state_type, run.message) == ("FAILED", "exit code 3")


@pytest.mark.parametrize(
    "login",
    [{"DISPATCHER_API_AUTH_STRING": "me:it's \\ a \"secret"}, {"DISPATCHER_API_TOKEN": "a-secret"}],
)
def test_it_logs_in_without_a_word_in_the_process_list(shop, login):
    shop.shell(shop.serve(**login), **login)
    wait_until(lambda: shop.inspector.holders(POOL), "its claim is held", timeout_s=PATIENCE_S)
    shown = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True).stdout
    assert f"/api/work_pools/{POOL}/claim" in shown
    assert "secret" not in shown
    run_id = shop.submit("ignored")
    shop.work()
    shop.let_go()
    assert shop.wait_end(run_id).state_type == "COMPLETED"


def test_it_renews_for_as_long_as_its_work_takes(shop):
    shop.shell(shop.serve())
    run_id = shop.submit("ignored")
    shop.work()
    shop.wait_renewed(times=5)
    shop.let_go()
    run = shop.wait_end(run_id)
    assert (run.state_type, run.delivery) == ("COMPLETED", 1)


def test_a_cancel_stops_its_work(shop):
    shop.shell(shop.serve())
    run_id = shop.submit("ignored")
    pid = shop.work()
    shop.store.cancel(POOL, run_id)
    assert shop.wait_end(run_id).state_type == "CANCELLED"
    wait_gone(pid, "its work")


def test_a_run_that_is_cancelled_before_its_start_never_begins(shop):
    shop.shell(shop.serve(), gate="start")
    run_id = shop.submit("ignored")
    shop.wait_gate()
    shop.store.cancel(POOL, run_id)
    shop.open_gate()
    run = shop.wait_end(run_id)
    assert (run.state_type, run.run_count) == ("CANCELLED", 0)
    assert not (shop.directory / "pid.1").exists()


def test_a_worker_that_is_told_to_end_gives_its_run_back(shop):
    url = shop.serve()
    first = shop.shell(url)
    run_id = shop.submit("ignored")
    shop.work()
    first.terminate()
    assert first.wait(PATIENCE_S) == 143
    shop.let_go()
    shop.shell(url)
    run = shop.wait_end(run_id)
    assert (run.state_type, run.delivery, run.losses) == ("COMPLETED", 2, 0)


@pytest.mark.parametrize(("step", "losses"), [("start", 0), ("finish", 1)])
def test_a_worker_killed_before_a_step_leaves_its_run_to_another(shop, step, losses):
    url = shop.serve()
    killed = shop.shell(url, gate=step)
    run_id = shop.submit("ignored")
    (shop.directory / "go.1").touch()
    shop.wait_gate()
    kill(killed)
    shop.shell(url)
    shop.work(2)
    late = shop.run(run_id)
    shop.open_gate()  # what the dead worker has sent comes late, and is refused
    wait_until(lambda: shop.events("refused", run=run_id), "it is refused", timeout_s=PATIENCE_S)
    assert shop.run(run_id).token == late.token
    shop.let_go()
    run = shop.wait_end(run_id)
    assert (run.state_type, run.delivery, run.losses) == ("COMPLETED", 2, losses)


def test_a_worker_killed_while_it_works_leaves_its_run_to_another(shop):
    url = shop.serve()
    killed = shop.shell(url)
    run_id = shop.submit("ignored")
    pid = shop.work()
    kill(killed)
    wait_gone(pid, "the work of the dead worker")
    shop.let_go()
    shop.shell(url)
    run = shop.wait_end(run_id)
    assert (run.state_type, run.delivery, run.losses) == ("COMPLETED", 2, 1)


def test_a_worker_killed_while_its_claim_is_held_gets_nothing(shop):
    url = shop.serve()
    killed = shop.shell(url)
    wait_until(lambda: shop.inspector.holders(POOL), "its claim is held", timeout_s=PATIENCE_S)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    shop.let_go()
    shop.shell(url)
    run = shop.wait_end(shop.submit("ignored"))
    assert (run.state_type, run.losses, run.unstarted) == ("COMPLETED", 0, 0)


def test_a_dispatcher_killed_in_the_middle_of_everything_is_waited_for(shop):
    url = shop.serve()
    port = url.rpartition(":")[2]
    worker = shop.shell(url)
    first = shop.submit("ignored")
    shop.work()
    kill(shop.server_process)
    shop.ready_dispatcher("--http", f"127.0.0.1:{port}")
    shop.let_go()
    assert shop.wait_end(first).state_type == "COMPLETED"
    assert shop.wait_end(shop.submit("ignored")).state_type == "COMPLETED"
    assert process_state(worker.pid)


def test_a_run_claimed_at_a_dispatcher_that_is_killed_is_claimed_again_uncounted(shop):
    first = shop.serve()
    process = shop.server_process
    second = shop.serve()
    claim = f"/api/work_pools/{POOL}/claim"
    run_id = shop.submit("ignored")
    shop.wait_dispatched(run_id)
    (one,) = shop.curl(first + claim, {"worker": "by hand"}, "--header", "Prefer: wait=20")
    held = subprocess.Popen(
        [shop.curl_path, "-s", "-H", "Prefer: wait=60", "--json", "{}", first + claim],
        stdout=subprocess.PIPE,
    )
    wait_until(
        lambda: [h for h in shop.inspector.holders(POOL) if not h.held],
        "another claim is held",
        timeout_s=PATIENCE_S,
    )
    kill(process)
    assert held.communicate(timeout=PATIENCE_S)[0] == b""
    assert held.returncode != 0
    (again,) = shop.curl(second + claim, {}, "--header", "Prefer: wait=60")
    assert again["flow_run"]["id"] == one["flow_run"]["id"] == run_id
    run = shop.run(run_id)
    assert (run.delivery, run.losses, run.run_count) == (2, 0, 0)
    steps = f"{second}/api/flow_runs/{run_id}"
    token = {"token": again["claim"]["token"]}
    assert shop.curl(f"{steps}/start", token)["answer"] == "started"
    assert shop.curl(f"{steps}/renew", token)["cancel"] is False
    done = shop.curl(f"{steps}/finish", token | {"state": {"type": "COMPLETED"}})
    assert done["answer"] == "finished"


def test_doctor_and_explain_know_claims_over_http(shop):
    shop.store.set_pool(POOL, {"lease_ms": 60_000})
    url = shop.serve()
    claim = f"{url}/api/work_pools/{POOL}/claim"
    run_id = shop.submit("ignored")
    shop.curl(claim, {"worker": "hand"}, "--header", "Prefer: wait=20")
    shop.shell(url)
    wait_until(lambda: len(shop.inspector.holders(POOL)) == 2, "a claim is held")
    doctor = shop.command("dispatcher", "doctor", "--json").stdout
    found = [json.loads(line) for line in doctor.splitlines()]
    assert [each["finding"] for each in found] == ["persistence"], doctor  # of the server
    assert "hand~" in shop.command("dispatcher", "explain", run_id).stdout
    listed = shop.command("dispatcher", "worker", "ls", "--json").stdout
    statuses = {json.loads(line)["status"] for line in listed.splitlines()}
    assert len(statuses) == 2, listed


def test_a_dispatcher_that_is_told_to_end_answers_what_it_holds(shop):
    claim = f"{shop.serve()}/api/work_pools/{POOL}/claim"
    command = [shop.curl_path, "-sS", "-H", "Prefer: wait=60", "--json", "{}", claim]
    held = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(5)]
    wait_until(lambda: shop.inspector.holders(POOL), "claims are held", timeout_s=PATIENCE_S)
    shop.let_pass(0.5)
    shop.server_process.signal(signal.SIGTERM)
    assert [each.communicate(timeout=PATIENCE_S)[0] for each in held] == [b"[]"] * 5
    assert shop.server_process.exit_code() == 0
    assert shop.inspector.holders(POOL) == []


def test_the_pool_may_be_one_that_nobody_knows(shop):
    url = shop.serve()
    command = ["sh", str(WORKER), f"no-{uuid4()}", "true"]
    env = os.environ | {"DISPATCHER_API_URL": url}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "does not exist" in done.stderr
