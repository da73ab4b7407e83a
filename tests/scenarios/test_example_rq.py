"""The example of RQ workers does what its README says, command by command."""

import json
from pathlib import Path

from tests.probes import ROOT
from tests.scenarios.examples import follow, records
from tests.scenarios.fleet import Scene
from tests.servers import RealServer

EXAMPLE = ROOT / "examples" / "rq"


def test_the_commands_of_the_readme_run_the_example(
    real_server: RealServer, prefix: str, tmp_path: Path
):
    with Scene(real_server, prefix, tmp_path) as scene:
        done = follow(scene, EXAMPLE)
        ended = records(scene, EXAMPLE, "reports")
        written = {name: scene.inspector.output(run).decode() for name, run in ended.items()}

    assert {run.state_type for run in ended.values()} == {"COMPLETED"}
    assert json.loads(written["report"]) == {"rows": 2, "total": 7.5}
    assert json.loads(json.loads(written["fetch"])) == {"source": "eu"}
    assert written["program"] == "a child process of an RQ job\n"
    assert [delivery.outcome for delivery in ended["fetch"].deliveries] == ["released", "COMPLETED"]
    assert json.loads(done["flow-run"]) == {"rows": 2, "total": 7.5}
