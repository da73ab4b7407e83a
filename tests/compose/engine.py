"""A Docker engine of the smoke test's own, with everything that it would else have to pull."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.probes import wait_until

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dispatcher-compose"
NEEDED = ("dockerd", "docker", "debootstrap", "iptables")
PYTHON = "3.13"  # of the image
# What a user of the compose file has in a folder: the checkout, without what was made in it.
MADE = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "dist", "build", "wheels", "secrets"
)
DOTTED = (".dockerignore", ".env.example")


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return what a command prints; fail with the end of what it says when it fails."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        shown = " ".join(map(str, command))
        raise AssertionError(f"{shown}\nexited with {done.returncode}:\n{said}")
    return done.stdout


def check_machine() -> None:
    """Exit with one line when this machine cannot start an engine."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        sys.exit(
            f"error: compose-smoke starts an engine of its own: be root, with {', '.join(NEEDED)}"
            " (apt-get install docker.io docker-compose debootstrap iptables)"
        )


def composes(env: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the version and command of each Docker Compose that is installed here."""
    found = {}
    for command in (("docker-compose",), ("docker", "compose")):
        with suppress(OSError, AssertionError):
            version = run(*command, "version", "--short", env=env).strip()
            found[version] = command
    return found


@contextmanager
def engine() -> Iterator[dict[str, str]]:
    """Start an engine without networks of the host; yield the environment that leads to it."""
    place = Path(tempfile.mkdtemp(prefix="dispatcher-engine-", dir="/var/tmp"))
    host = f"unix://{place}/docker.sock"
    folders = [f"--{name}={place}/{name}" for name in ("data-root", "exec-root", "pidfile")]
    # Its containers reach each other over the bridge of their project, and nothing beyond.
    closed = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", f"--host={host}", *folders, *closed], stdout=log, stderr=log
        )
    env = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}
    try:
        wait_until(lambda: _answers(daemon, place / "log", env), "the engine answers", timeout_s=60)
        yield env
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


def _answers(daemon: "subprocess.Popen[bytes]", log: Path, env: Mapping[str, str]) -> bool:
    if daemon.poll() is not None:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise AssertionError(f"dockerd ended with exit code {daemon.returncode}:\n{said}")
    return subprocess.run(["docker", "version"], env=env, capture_output=True).returncode == 0


def make_stand_ins(env: Mapping[str, str]) -> None:
    """Give the engine what the Dockerfile and the compose file would pull."""
    CACHE.mkdir(parents=True, exist_ok=True)
    run(HERE / "stand_ins.sh", CACHE, env=env)


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a copy of the checkout, with the wheels that the image's build would download."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as place:
        copy = Path(place) / "fleet"
        shutil.copytree(ROOT, copy, ignore=MADE)
        for name in DOTTED:
            shutil.copy(ROOT / name, copy / name)
        download = (
            *(sys.executable, "-m", "pip", "download", "--quiet"),
            "--python-version",
            PYTHON,
        )
        only = ("--only-binary=:all:", "--dest", copy / "wheels")
        run(*download, *only, str(copy), "hatchling>=1.27", cwd=copy)
        yield copy
