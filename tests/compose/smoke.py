"""`make compose-smoke`: the compose file on a real engine, from build to `down -v`.

It starts an engine of its own, which can pull nothing, and takes three to eight minutes, the first
time up to three more. COMPOSE="docker compose" takes Compose v2 where both are installed.
"""

import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dispatcher.clock import Clock
from tests.compose.engine import check_machine, composes, engine, folder, make_stand_ins, run
from tests.compose.fleet import CHILD, OFFLINE, POOL, Fleet, Load, new_run
from tests.probes import wait_until

LEASE_S = 6
LONG_RUNS = 6
# Longer than the 10 s that Docker waits by default, shorter than the grace of the file.
LONG = 'sh -c "sleep 14; echo ran"'
# Its first worker has it until that one is killed.
HELD = 'sh -c "test $DISPATCHER_RUN_DELIVERY != 1 || sleep 300; echo ran"'


def main() -> None:
    check_machine()
    clock = Clock()
    began_s = clock.monotonic_s()

    def step(what: str, *doing: Callable[[], object]) -> None:
        print(f"{clock.monotonic_s() - began_s:6.1f} s  {what}", flush=True)
        for each in doing:
            each()

    with folder() as place, engine() as env:
        step("stand-ins for the base images", lambda: make_stand_ins(env))
        command, password = choose_compose(env), make_secrets(place)
        fleet = Fleet(place, command, env)
        try:
            scenario(fleet, password, step)
        except BaseException:
            print(fleet.compose("logs", "--no-color", "--tail=20"), file=sys.stderr)
            raise
        finally:
            step("down -v")
            fleet.compose("--profile", "rq", "--profile", "cli", "down", "-v", "-t", "5")
        left = fleet.docker("ps", "-aq") + fleet.docker("volume", "ls", "-q")
        assert not left, f"`down -v` left {left}"
    step("done: nothing lost, nothing repeated, nothing left")


def choose_compose(env: dict[str, str]) -> tuple[str, ...]:
    """Have every Compose here read the file; return the command of the one to use."""
    found = composes(env)
    assert found, "no docker-compose: apt-get install docker-compose"
    wanted = tuple(os.environ.get("COMPOSE", "").split())
    command = wanted or next(iter(found.values()))
    print(f"          found {', '.join(found)}; using {' '.join(command)}")
    return command


def make_secrets(place: Path) -> str:
    """Make the files of secrets as docs/operations.md says; return the password of Redis."""
    password = secrets.token_hex(32)
    (place / "secrets").mkdir(mode=0o700)
    texts = {
        "redis_url": f"redis://:{password}@redis:6379/0",
        "http_token": secrets.token_hex(32),
    }
    for name, text in texts.items():
        file = place / "secrets" / name
        file.write_text(text + "\n")
        file.chmod(0o644)
    return password


def scenario(fleet: Fleet, password: str, step: Callable[..., None]) -> None:
    step("every Compose here reads the file", lambda: read_by_all(fleet))
    step("build", lambda: fleet.compose("build", "--build-arg", OFFLINE))
    step("redis and two dispatchers come up, a pool is created", lambda: begin(fleet))
    step("up: one worker; 20 runs complete", lambda: work(fleet))
    step("not root, nothing to write to, the password is nowhere", lambda: harden(fleet, password))
    step("three workers", lambda: scale(fleet, 3))
    step("a killed container: its run goes on elsewhere", lambda: kill_container(fleet))
    step("a worker dies: Docker restarts it, its run completes", lambda: crash(fleet))
    step("rolling restart and replacement under load", lambda: roll(fleet))
    step("redis restarts under load", lambda: restart_redis(fleet))
    step("the rq profile: RQ workers run what is handed over", lambda: use_rq(fleet))
    step("the doctor finds nothing", lambda: fleet.dispatcher("doctor"))
    step("all are healthy", lambda: check_health(fleet))


def read_by_all(fleet: Fleet) -> None:
    for version, command in composes(fleet.env).items():
        profiles = ("--profile", "rq", "--profile", "cli")
        run(*command, *profiles, "config", "--quiet", env=fleet.env, cwd=fleet.folder)
        print(f"          read by {version}")


def begin(fleet: Fleet) -> None:
    fleet.compose("up", "-d", "redis", "dispatcher")
    settings = ("--command", CHILD, "--lease", f"{LEASE_S}s")
    fleet.compose("run", "--rm", "-T", "cli", "pool", "create", POOL, *settings)
    assert len(fleet.containers("dispatcher")) == 2


def work(fleet: Fleet) -> None:
    fleet.compose("up", "-d")
    fleet.wait_ready(1)
    runs = [new_run() for _ in range(20)]
    fleet.submit(runs).wait_done()
    assert fleet.lines("ran") == {asked["id"]: 1 for asked in runs}
    fleet.wait_healthy("worker", 1)
    fleet.wait_healthy("dispatcher", 2)
    # A check that cannot fail proves nothing: no worker is in the dispatcher's container.
    assert "no worker" in fleet.fails(fleet.containers("dispatcher")[0], "consumers", "check")


def harden(fleet: Fleet, password: str) -> None:
    (redis,) = fleet.containers("redis")
    assert "NOAUTH" in fleet.docker("exec", redis, "redis-cli", "ping")
    for each in fleet.containers():
        assert fleet.docker("exec", each, "id", "-u").strip() != "0"
        assert "Read-only" in fleet.fails(each, "touch", "/etc/probe")
        status = fleet.docker("exec", each, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert password not in str(fleet.inspected(each))
        assert password not in fleet.docker("logs", each)
    shown = [
        text
        for at in Path("/proc").glob("[0-9]*")
        for text in (told(at / "cmdline"), told(at / "environ"))
    ]
    assert len(shown) > 20
    assert not [text for text in shown if password.encode() in text]


def told(path: Path) -> bytes:
    """Return what /proc tells of a process, nothing of one that has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def scale(fleet: Fleet, count: int) -> None:
    (fleet.folder / ".env").write_text(f"FLEET_WORKERS={count}\n")
    fleet.compose("up", "-d", "--no-recreate", "--scale", f"worker={count}", "worker")
    assert len(names_of(fleet.wait_ready(count))) == count


def names_of(workers: list[dict[str, Any]]) -> set[str]:
    return {each["name"] for each in workers}


def kill_container(fleet: Fleet) -> None:
    asked = new_run(HELD)
    following = fleet.submit([asked])
    worker, container = fleet.holder(asked["id"])
    fleet.docker("kill", container)
    following.wait_done()
    first, second = fleet.deliveries(asked["id"])
    assert first == worker != second
    scale(fleet, 3)


def crash(fleet: Fleet) -> None:
    asked = new_run(HELD)
    following = fleet.submit([asked])
    worker, container = fleet.holder(asked["id"])
    os.kill(fleet.inspected(container)["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: fleet.inspected(container)["RestartCount"] == 1, "Docker restarts it")
    following.wait_done()
    assert len(fleet.deliveries(asked["id"])) == 2
    assert worker in names_of(fleet.wait_ready(3))


def roll(fleet: Fleet) -> None:
    """Restart each worker, then put new ones in the place of all, while runs become due."""
    image = fleet.inspected(fleet.containers("worker")[0])["Image"]
    with (fleet.folder / "consumers" / "__init__.py").open("a") as module:
        module.write("# the next version\n")
    fleet.compose("build", "--build-arg", OFFLINE)
    with Load(fleet) as load:
        long = [new_run(LONG) for _ in range(LONG_RUNS)]
        following = fleet.submit(long)
        fleet.wait_running([each["id"] for each in long])
        old, names = fleet.containers("worker"), names_of(fleet.wait_ready(3))
        for each in old:
            fleet.docker("restart", each)
            assert names_of(fleet.wait_ready(3)) == names
        print("          each was restarted", flush=True)
        fleet.compose("up", "-d", "--no-recreate", "--scale", "worker=6", "worker")
        fleet.wait_ready(6)
        fleet.docker("stop", *old)
        fleet.keep_logs(old)
        fleet.docker("rm", *old)
        new = set(fleet.containers("worker"))
        assert len(new) == 3
        assert image not in {fleet.inspected(each)["Image"] for each in new}
        print("          all were replaced by such of a new image", flush=True)
        # A submit that a replaced dispatcher's container was to follow would end with it.
        following.wait_done()
    fleet.compose("up", "-d")
    assert set(fleet.containers("worker")) == new
    once(fleet, [*load.runs, *(each["id"] for each in long)])
    fleet.wait_ready(3)


def restart_redis(fleet: Fleet) -> None:
    """Restart it while runs run, wait for a worker and become due."""
    load = [new_run(LONG), *(new_run(in_ms=200 * number) for number in range(60))]
    following = fleet.submit(load)
    fleet.wait_running([load[0]["id"]])
    fleet.compose("restart", "redis")
    following.wait_done()
    once(fleet, [each["id"] for each in load])


def once(fleet: Fleet, ids: list[str]) -> None:
    """Check that each run was run once, by the records and by what its child wrote."""
    wait_until(lambda: not unended(fleet), "all runs have ended", timeout_s=60)
    listed = fleet.objects("flow-run", "ls", "--pool", POOL, "--limit", "10000")
    ended = {e["id"]: (e["state_type"], e["run_count"]) for e in listed if e["id"] in ids}
    wrote = fleet.lines("ran")
    found = {run_id: (*ended.get(run_id, ("", 0)), wrote[run_id]) for run_id in ids}
    wrong = {run_id: each for run_id, each in found.items() if each != ("COMPLETED", 1, 1)}
    assert not wrong, f"state, starts, ends of children: {wrong}"
    print(f"          {len(ids)} runs, each run once", flush=True)


def unended(fleet: Fleet) -> list[dict[str, Any]]:
    states = [f"--state={name}" for name in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING")]
    return fleet.objects("flow-run", "ls", "--pool", POOL, *states)


def check_health(fleet: Fleet) -> None:
    for service, count in {"redis": 1, "dispatcher": 2, "worker": 3}.items():
        fleet.wait_healthy(service, count)


def use_rq(fleet: Fleet) -> None:
    fleet.dispatcher("pool", "create", "rq", "--type", "rq", "--command", CHILD)
    fleet.compose("--profile", "rq", "up", "-d", "rq-consumer", "rq-worker")
    fleet.wait_healthy("rq-worker", 1)
    fleet.submit([new_run() for _ in range(10)], pool="rq").wait_done()
    fleet.wait_healthy("rq-consumer", 1)


if __name__ == "__main__":
    main()
