"""The page on job configuration: its example makes what it says, its limits are the code's."""

import re

from dispatcher.job_configuration import ProcessJob, check_template, payload_process_job
from dispatcher.job_templates import MOST_BYTES, MOST_LEVELS, MOST_RESULT_BYTES
from tests.probes import ROOT

TEXT = (ROOT / "docs" / "job-configuration.md").read_text()


def test_the_example_makes_the_job_that_the_page_describes():
    template, variables = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    payload = f'{{"flow_run": {{"job_variables": {variables}}}}}'.encode()
    check_template(template, "process")

    job = payload_process_job(payload, base_job_template=template, environ={"ETL_TOKEN": "t"})

    assert job == ProcessJob(
        ("python", "load.py", "--day", "5"), {"REGION": "eu", "MODE": "fast", "TOKEN": "t"}
    )
    assert "`python load.py --day 5`" in TEXT


def test_the_limits_are_those_in_the_code():
    assert f"more than {MOST_BYTES // 1024} KiB or {MOST_LEVELS} levels" in TEXT
    assert f"bounded as well, at {MOST_RESULT_BYTES // 1_048_576} MiB" in TEXT
