"""Templates on the command line: given as files, shown as Prefect shows them, held against runs."""

import json

import pytest

from tests.commands import SHARED, Commands, a_run, ndjson, run_id
from tests.templates import PROCESS, a_template

RECORDED_POOL = SHARED / "fixtures/prefect/work_pool.body.json"


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def write(tmp_path):
    def put(whole: object, name: str = "template.json") -> str:
        path = tmp_path / name
        path.write_text(whole if isinstance(whole, str) else json.dumps(whole, indent=2))
        return str(path)

    return put


def one(done):
    assert done.code == 0, done.err
    (found,) = done.objects
    return found


def template_of(cli, pool="etl"):
    return one(cli("pool", "show", pool, "--json"))["base_job_template"]


@pytest.mark.parametrize("whole", [PROCESS, {"name": "p", "base_job_template": PROCESS}])
def test_a_pool_is_created_with_a_template_or_that_of_a_recorded_pool(cli, write, whole):
    created = cli("pool", "create", "etl", "--base-job-template", write(whole), "--json")
    assert one(created)["base_job_template"] == PROCESS
    assert template_of(cli) == PROCESS


def test_a_template_is_set_replaced_and_taken_away(cli, write):
    cli("pool", "create", "etl", "--command", "true")
    assert template_of(cli) == {}

    for whole in (PROCESS, json.loads(a_template({"command": "fixed"}))):
        done = cli("pool", "set", "etl", "--base-job-template", write(whole))
        assert (done.code, done.lines) == (0, ["changed etl"])
        assert template_of(cli) == whole

    assert cli("pool", "set", "etl", "--base-job-template", "none").code == 0
    assert template_of(cli) == {}


def test_the_recorded_pool_has_an_empty_template_and_so_leaves_all_to_its_runs(cli, write):
    assert json.loads(RECORDED_POOL.read_text())["base_job_template"] == {}
    created = cli("pool", "create", "etl", "--base-job-template", RECORDED_POOL)
    assert created.code == 0
    assert template_of(cli) == {}

    cli("pool", "set", "etl", "--base-job-template", write(PROCESS))
    assert cli("pool", "set", "etl", "--base-job-template", RECORDED_POOL).code == 0
    assert template_of(cli) == {}


@pytest.mark.parametrize(
    ("configuration", "properties", "line"),
    [
        ({"command": "{{ command }}", "env": "{{ env }}"}, {}, "variables: command, env"),
        ({"command": "x {{ n }}"}, {}, "variables: n; nobody can override the command"),
        ({"a": 1}, {}, "variables: none; nobody can override the command"),
    ],
)
def test_a_pool_tells_what_its_template_takes(cli, write, configuration, properties, line):
    template = a_template(configuration, command={}, env={}, n={})
    cli("pool", "create", "etl", "--base-job-template", write(template))
    assert f"job template   {line}" in cli("pool", "show", "etl").lines


def test_a_pool_without_a_template_tells_of_none(cli):
    cli("pool", "create", "etl")
    assert "template" not in cli("pool", "show", "etl").out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "base_job_template: is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"name": "p"}', "base_job_template: is neither a template (job_configuration, variab"),
        ('{"job_configuration": {}}', "base_job_template.variables: is missing"),
        (a_template({"a": "{{ b }}"}), "base_job_template.job_configuration: {{ b }} is not amo"),
        (a_template({"stream_output": 5}), "base_job_template.job_configuration.stream_output: "),
        (a_template({"a": "x" * 262_144}), "base_job_template: is larger than 256 KiB"),
    ],
    ids=lambda text: text[:40],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(cli, write, text, message):
    cli("pool", "create", "etl")
    for command in ("create", "set"):
        name = {"create": "new", "set": "etl"}[command]
        done = cli("pool", command, name, "--base-job-template", write(text))
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith(f"error: {message}")
        assert done.err.count("\n") == 1
    assert template_of(cli) == {}
    assert [pool["name"] for pool in cli("pool", "ls", "--json").objects] == ["etl"]


def test_a_file_that_is_not_there_is_refused(cli, tmp_path):
    done = cli("pool", "create", "etl", "--base-job-template", tmp_path / "none.json")
    assert done.code == 1
    assert done.err == f"error: {tmp_path}/none.json cannot be read: No such file or directory\n"


def test_a_template_that_makes_no_process_suits_a_pool_of_another_type(cli, write):
    template = write(a_template({"stream_output": 5}))
    assert cli("pool", "create", "jobs", "--type", "rq", "--base-job-template", template).code == 0
    assert cli("pool", "set", "jobs", "--base-job-template", template).code == 0


def test_submit_refuses_runs_that_the_template_makes_no_job_of(cli, write):
    template = a_template(
        {"command": "work {{ n }}", "env": {"A": "{{ a }}"}},
        n={"type": "integer", "maximum": 5},
        a={"type": "string"},
        required=["n"],
    )
    cli("pool", "create", "etl", "--base-job-template", write(template))
    runs = [
        a_run(1, job_variables={"n": 5}),
        a_run(2, job_variables={}),
        a_run(3, job_variables={"n": 6}),
        a_run(4, job_variables={"n": 1, "a": 7}),
        a_run(5, job_variables={"n": 1, "command": "rm"}),
        a_run(6, job_variables={"n": 1, "a": "{{ prefect.blocks.secret.key }}"}),
        a_run(7, job_variables={"n": 1, "a": "{{ $SECRET }}"}),
        a_run(8, job_variables={"n": 1, "timeout_s": 0}),
    ]

    done = cli("submit", "-", "--pool", "etl", given=ndjson(*runs))

    assert done.code == 1
    refusals = [line.partition("flow_run.job_variables.")[2] for line in done.lines]
    assert [text[:44] for text in refusals if text] == [
        "n: is required by the pool's base job templa",
        "n: 6 is greater than the maximum of 5",
        "a: 7 is not of type 'string', 'null'",
        "command: cannot be given: the pool's base jo",
        "a: {{ prefect.blocks.secret.key }} is kept b",
        "timeout_s: must be a number of seconds above",
    ]
    accepted = [line.split()[1] for line in done.lines if line.startswith("accepted")]
    assert accepted == [run_id(1), run_id(7)]
