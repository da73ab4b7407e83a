"""Submitting very many runs takes little memory, from a pipe and from a file."""

import json
import os
import subprocess
import sys

import pytest

from tests.commands import Commands, a_run
from tests.probes import ROOT

FEW = 1_000
MOST_PER_RUN_BYTES = 500  # 50 MB for 100,000
# Runs the command in itself and tells on standard error what it needed at most.
MEASURED = """
import resource, sys
from dispatcher.cli import main
sys.argv[0] = "dispatcher"
try:
    main()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("peak", peak if sys.platform == "darwin" else peak * 1024, file=sys.stderr)
"""
# Writes runs to standard output: as an array or as lines.
RUNS = """
import sys
(head, tail), kind, count = sys.argv[1].split("ID"), sys.argv[2], int(sys.argv[3])
first, between, last = ("[", ",", "]") if kind == "array" else ("", "", "")
sys.stdout.write(first)
for number in range(count):
    print(f"{between if number else ''}{head}{number:08}-0000-0000-0000-000000000000{tail}")
sys.stdout.write(last)
"""


@pytest.fixture
def cli(own_server, prefix):
    cli = Commands(own_server().url, prefix)  # ends with its data: deleting that takes long
    cli("pool", "create", "etl")
    return cli


def submit(cli, kind, count):
    """Return the peak of a submit in bytes, and what it said."""
    run = json.dumps(a_run(id="ID", parameters={"x": "y" * 200}))
    env = os.environ | {"PYTHONPATH": str(ROOT)} | cli.environ
    given = [sys.executable, "-c", RUNS, run, kind, str(count)]
    options = ["submit", "-", "--pool", "etl", "--at", "+1h"]
    with subprocess.Popen(given, stdout=subprocess.PIPE) as source:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *options],
            stdin=source.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
        )
    counts, peak = done.stderr.splitlines()
    assert done.returncode == 0
    return int(peak.split()[1]), counts


@pytest.mark.parametrize(("kind", "many"), [("array", 100_000), ("lines", 15_000)])
def test_very_many_runs_need_at_most_500_bytes_each(cli, kind, many):
    few_bytes, said = submit(cli, kind, FEW)
    assert said == f"{FEW:,} accepted, 0 duplicate, 0 refused"

    many_bytes, said = submit(cli, kind, many)

    assert said == f"{many - FEW:,} accepted, {FEW:,} retimed, 0 duplicate, 0 refused"
    assert many_bytes - few_bytes <= many * MOST_PER_RUN_BYTES
