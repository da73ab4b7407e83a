"""The example of a handler worker does what its README says, command by command."""

import json
import re
from pathlib import Path

from tests.probes import ROOT
from tests.scenarios.examples import follow, records
from tests.scenarios.fleet import Scene
from tests.servers import RealServer

EXAMPLE = ROOT / "examples" / "handler"


def test_the_commands_of_the_readme_run_the_example(
    real_server: RealServer, prefix: str, tmp_path: Path
):
    with Scene(real_server, prefix, tmp_path) as scene:
        done = follow(scene, EXAMPLE)
        results = {
            name: json.loads(scene.inspector.output(run))
            for name, run in records(scene, EXAMPLE, "shop").items()
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
