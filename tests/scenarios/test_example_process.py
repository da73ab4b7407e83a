"""The example of a process worker does what its README says, command by command."""

import json
from pathlib import Path

import pytest

from dispatcher.errors import InvalidRun
from tests.probes import ROOT
from tests.scenarios.examples import follow, records
from tests.scenarios.fleet import Scene
from tests.servers import RealServer

EXAMPLE = ROOT / "examples" / "process"


def test_the_commands_of_the_readme_run_the_example_and_its_template_holds(
    real_server: RealServer, prefix: str, tmp_path: Path
):
    with Scene(real_server, prefix, tmp_path) as scene:
        done = follow(scene, EXAMPLE)
        ended = records(scene, EXAMPLE, "office")
        written = {name: scene.inspector.output(run).decode() for name, run in ended.items()}
        (run, *_) = json.loads((EXAMPLE / "runs.json").read_text())
        other = run | {"id": run["flow_id"], "job_variables": {"script": "rm"}}
        with pytest.raises(InvalidRun, match=r"^flow_run\.job_variables\.script: 'rm' is not one"):
            scene.producer.submit(other, pool="office")

    assert written == {
        "sales-eu": "eu: 7.5 of 2 sales\n",
        "sales-us": "us: 0 of 0 sales\n",
        "backup-us": "saved us at delivery 2\n",
    }
    assert [delivery.outcome for delivery in ended["backup-us"].deliveries] == [
        "FAILED",
        "COMPLETED",
    ]
    assert done["flow-run"].strip() == "eu: 7.5 of 2 sales"
