"""The example of a handler worker does what its README says, command by command."""

import json
import re
import shlex
from pathlib import Path

from tests.probes import ROOT
from tests.scenarios.fleet import Scene
from tests.servers import RealServer

EXAMPLE = ROOT / "examples" / "handler"


def commands() -> list[list[str]]:
    """The words of each command of the README; the last one is & for what goes on behind it."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_commands_of_the_readme_run_the_example(
    real_server: RealServer, prefix: str, tmp_path: Path
):
    done = {}
    with Scene(real_server, prefix, tmp_path) as scene:
        scene.working_dir = EXAMPLE
        for *words, last in commands():
            if last == "&":
                scene.start(*words, PYTHONDONTWRITEBYTECODE="1")
                continue
            answer = scene.command(*words, last)
            assert answer.returncode == 0, answer.stderr
            done[words[1]] = answer.stdout
        results = {
            name: json.loads(scene.inspector.output(scene.inspector.run(run["id"], "shop")))
            for run in json.loads((EXAMPLE / "runs.json").read_text())
            for name in [run["name"]]
        }

    assert results == {
        "prices": {"total": 7.5},
        "reminders": {"sent": 20},
        "rates": "rates after 3 visits",
    }
    assert done["flow-run"] == '{"total": 7.5}'


def test_the_python_of_the_page_on_workers_is_that_of_the_example():
    text, program = (ROOT / "docs" / "workers.md").read_text(), (EXAMPLE / "app.py").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    pieces = [piece for snippet in snippets for piece in snippet.strip().split("\n\n\n")]

    assert len(pieces) >= 2
    assert [piece for piece in pieces if piece not in program] == []
