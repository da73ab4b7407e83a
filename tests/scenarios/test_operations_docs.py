"""The commands in docs/ exist as they are written; those of a rolling restart do what it says."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from consumers.cli import cli as consumers
from dispatcher.cli import cli as dispatcher
from dispatcher.keys import DATA_VERSION
from tests.probes import ROOT
from tests.scenarios.fleet import BIN, POOL, Scene
from tests.scenarios.pages import block, do
from tests.servers import RealServer

PROGRAMS = {"dispatcher": dispatcher, "consumers": consumers}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """Each command line of a page: in its blocks of code, or between backticks."""
    blocks = re.findall(r"```(?:sh|console)?\n(.*?)```", text, re.DOTALL)
    lines = [line for each in blocks for line in each.replace("\\\n", " ").splitlines()]
    found = [re.sub(r"^\s*(?:\$ )?", "", line) for line in lines]
    found += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    one = r"(?:dispatcher|consumers)(?:\s+[^\s;|&<>()]+)+"
    return [" ".join(match.split()) for line in found for match in re.findall(f"^{one}", line)]


def unknown(line: str) -> str:
    """Return the first word of a command line that no command or option of ours is, else empty."""
    program, *words = line.split(" #")[0].split()
    command: click.Command = PROGRAMS[program]
    for word in words:
        name = word.split("=")[0].strip("[]…")
        if name.startswith("--"):
            options = {each for param in command.params for each in param.opts} | {"--help"}
            if name not in options and not any(name in param.opts for param in command.params):
                return word
        elif isinstance(command, click.Group):
            inner = [command.get_command(click.Context(command), each) for each in name.split("|")]
            if None in inner:
                return word
            command = inner[0]
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_that_a_page_shows_exists_with_its_options(page):
    found = {line: unknown(line) for line in commands(page.read_text())}
    assert {line: word for line, word in found.items() if word} == {}


def test_commands_are_found_in_blocks_and_in_text():
    text = "`dispatcher worker  drain A…`:\n```sh\n$ consumers run --poll x  # no\n```\n`consumers`"
    assert commands(text) == ["consumers run --poll x # no", "dispatcher worker drain A…"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("dispatcher worker drian a", "drian"),
        ("dispatcher pool pause etl --untill +1h", "--untill"),
        ("consumers run --poll x", "--poll"),
        ("dispatcher pool|queues ls", "pool|queues"),
    ],
)
def test_a_command_or_option_that_does_not_exist_is_seen(line, word):
    assert unknown(line) == word


# --- A rolling restart by the page


@pytest.fixture
def scene(real_server: RealServer, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene(real_server, prefix, tmp_path) as opened:
        opened.create_pool(lease_ms=15_000, renew_ms=5_000)
        yield opened


def by_the_page(scene: Scene, lines: str) -> str:
    lines = lines.replace("--host engine-1 ", f"--host {socket.gethostname()} ")
    settings = {"DISPATCHER_REDIS_URL": scene.server.url, "DISPATCHER_KEY_PREFIX": scene.prefix}
    return do(lines, **settings)


@pytest.mark.parametrize("number", range(3))
def test_each_line_of_the_page_drains_the_workers_that_it_names(scene, number):
    line = block("operations.md", "drain").splitlines()[number]
    workers = [scene.worker(name) for name in ("engine-1-1", "engine-1-2")]
    for worker in workers:
        worker.wait_said("registered")

    shown = by_the_page(scene, line)

    assert shown.count(" drained ") == 2
    assert [worker.exit_code() for worker in workers] == [0, 0]
    assert "engine" not in by_the_page(scene, block("operations.md", "drain").splitlines()[3])


def test_the_loop_of_the_page_drains_one_worker_after_the_other(scene):
    workers = [scene.worker(name) for name in ("a", "b", "c")]
    for worker in workers:
        worker.wait_said("registered")

    by_the_page(scene, block("operations.md", "roll"))

    assert [worker.exit_code() for worker in workers] == [0, 0, 0]
    events = [(e["event"], e["worker"][0]) for e in scene.events("draining", "drained")]
    assert events == [(event, name) for name in "abc" for event in ("draining", "drained")]


def test_a_drained_worker_that_is_supervised_comes_back_under_its_name(scene):
    twice = (
        "import subprocess, sys; sys.exit([subprocess.call(sys.argv[1:]) for _ in '12'] != [0, 0])"
    )
    worker = ["consumers", "run", "--pool", POOL, "--name", "a"]
    supervisor = scene.start("python", "-c", twice, str(BIN / worker[0]), *worker[1:])
    supervisor.wait_said("registered")
    first = scene.inspector.holders(POOL)

    by_the_page(scene, block("operations.md", "roll"))
    supervisor.wait_said("registered", times=2)
    second = scene.inspector.holders(POOL)
    by_the_page(scene, block("operations.md", "roll"))

    assert supervisor.exit_code() == 0
    assert [holder.worker for holder in first + second] == ["a", "a"]
    assert first[0].id != second[0].id


# --- Upgrading


@pytest.mark.parametrize(
    "command",
    [
        ["dispatcher", "run"],
        ["consumers", "run", "--pool", POOL],
        ["dispatcher", "submit", "--pool", POOL, "--command", "true"],
        ["dispatcher", "doctor"],
    ],
    ids=" ".join,
)
def test_data_of_a_newer_release_is_refused_in_one_line(scene, command):
    with scene.server.client() as client:
        client.hset(scene.store.keys(POOL)["pool"], "version", DATA_VERSION + 1)

    done = scene.command(*command)

    refusal = (
        f"pool '{POOL}' has data version {DATA_VERSION + 1}, this release knows {DATA_VERSION}; "
        "use the newer release"
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if refusal in line]
    assert done.returncode == 1
    assert lines
    assert scene.inspector.holders(POOL) == []
