"""The wheel as a user gets it: built, and installed without extras into an empty environment."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dispatcher

ROOT = Path(__file__).parent.parent

# Built and installed once, in one test process; what is installed comes over the network.
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("wheel")]


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a command prints; the checkout is not on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    """The paths of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that holds the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    commands = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", commands / "python")
    run(*pip, "install", "--quiet", wheel, cwd=folder)
    return commands


def test_the_wheel_holds_every_lua_file(contents):
    ours = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("dispatcher/lua/*.lua")}
    assert ours
    assert ours - contents == set()


def test_the_wheel_says_that_both_packages_are_typed(contents):
    marks = {"dispatcher/py.typed", "consumers/py.typed"}
    assert marks - contents == set()


def test_the_wheel_holds_nothing_but_the_two_packages(contents):
    tops = {name.split("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dispatcher", "consumers"}


def test_the_installed_dispatcher_prints_its_version(installed):
    printed = run(installed / "dispatcher", "--version", cwd=installed)
    assert dispatcher.__version__ in printed.split()


def test_the_installed_consumers_explains_itself(installed):
    assert "Usage: consumers" in run(installed / "consumers", "--help", cwd=installed)
