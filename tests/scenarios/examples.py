"""Examples as their users run them: the commands of a README, in its directory, one by one."""

import json
import re
import shlex
from pathlib import Path

from dispatcher.stored import RunRecord
from tests.scenarios.fleet import Scene


def commands(example: Path) -> list[list[str]]:
    """The words of each command of the README; the last one is & for what goes on behind it."""
    (block,) = re.findall(r"```sh\n(.*?)```", (example / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def follow(scene: Scene, example: Path) -> dict[str, str]:
    """Run the commands, and return what each that ends has written, by the word after its first."""
    scene.working_dir = example
    settings = {"PWD": str(example), "PYTHONDONTWRITEBYTECODE": "1"}
    done = {}
    for *words, last in commands(example):
        if last == "&":
            scene.start(*words, **settings)
            continue
        answer = scene.command(*words, last, **settings)
        assert answer.returncode == 0, answer.stderr
        done[words[1]] = answer.stdout
    return done


def records(scene: Scene, example: Path, pool: str) -> dict[str, RunRecord]:
    """Return what became of the runs of the example's `runs.json`, by name."""
    runs = json.loads((example / "runs.json").read_text())
    return {run["name"]: scene.inspector.run(run["id"], pool) for run in runs}
