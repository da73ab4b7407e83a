"""Bad input and faults on the command line: one line says what and where, nothing is half done."""

import io
import json

import pytest

from tests.commands import Commands, Done, Hands, a_run, an_envelope, ndjson, run_id

HUNDRED = range(1, 101)


@pytest.fixture
def cli(real_server, prefix):
    return Commands(real_server.url, prefix)


@pytest.fixture
def etl(cli):
    assert cli("pool", "create", "etl").code == 0
    return cli


@pytest.fixture
def client(real_server):
    with real_server.client() as opened:
        yield opened


def error_of(done: Done) -> str:
    """The only line of a command that failed as a whole."""
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (1, "")
    return line


def everything(client, prefix):
    """All that is stored, but for what the clock changes."""
    return {key: client.dump(key) for key in client.scan_iter(f"{prefix}:*")}


def ids(cli):
    return sorted(run["id"] for run in cli("flow-run", "ls", "--limit", "1000", "--json").objects)


def numbered(*numbers):
    return sorted(map(run_id, numbers))


# --- Bad input


def test_malformed_json_ends_an_array_and_what_came_before_stands(etl):
    given = json.dumps([a_run(1), a_run(2)]).encode()[:-1] + b", {nonsense}, " + ndjson(a_run(3))
    at = given.index(b"nonsense")

    done = etl("submit", "-", "--pool", "etl", given=given)

    assert (done.code, done.err) == (1, "2 accepted, 0 duplicate, 1 refused\n")
    assert done.lines[2].startswith(f"refused index 2 malformed JSON at byte {at}: ")
    assert ids(etl) == numbered(1, 2)


def test_malformed_json_ends_only_its_own_line(etl):
    given = ndjson(a_run(1), '{"id": nonsense}', a_run(3))
    done = etl("submit", "-", "--pool", "etl", given=given)
    assert (done.code, done.err) == (1, "2 accepted, 0 duplicate, 1 refused\n")
    at = given.index(b"onsense")
    assert done.lines[1].startswith(f"refused line 2 malformed JSON at byte {at}: ")
    assert ids(etl) == numbered(1, 3)


def test_input_that_is_no_json_at_all_is_one_refusal(etl):
    done = etl("submit", "-", "--pool", "etl", given=b"\x80\x00 hello\n\n")
    assert done.lines == [
        "refused input malformed JSON at byte 0: expected an array, an object, or one object per "
        "line, found the byte 0x80"
    ]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (a_run(2, name=5), "name: must be a valid string; got 5"),
        (a_run(2, tags="x"), 'tags: must be a valid array; got "x"'),
        (a_run(2, id=None), "id: is required"),
        (an_envelope(2, run_count="1"), 'flow_run.run_count: must be a valid integer; got "1"'),
        (
            a_run(2, next_scheduled_start_time="2026-01-31T08:00:00"),
            "next_scheduled_start_time: the time zone offset is missing, such as Z or +02:00; "
            'got "2026-01-31T08:00:00"',
        ),
        (a_run(2, state_type="COMPLETED"), "state_type: is COMPLETED; only SCHEDULED runs can be"),
        (a_run(2, job_variables={"command": 5}), "flow_run.job_variables.command: must be a"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_wrong_run_is_refused_with_its_line_and_field_and_the_others_stand(etl, run, reason):
    run = {name: value for name, value in run.items() if value is not None}

    done = etl("submit", "-", "--pool", "etl", given=ndjson(a_run(1), run, a_run(3)))

    assert (done.code, done.err) == (1, "2 accepted, 0 duplicate, 1 refused\n")
    assert done.lines[1].startswith(f"refused line 2 {reason}")
    assert ids(etl) == numbered(1, 3)


@pytest.mark.parametrize("bare", [True, False])
def test_a_payload_over_the_limit_is_refused_with_its_size(real_server, prefix, bare):
    cli = Commands(real_server.url, prefix, DISPATCHER_MAX_PAYLOAD_BYTES="2048")
    cli("pool", "create", "etl")
    large = a_run(2, parameters={"x": "y" * 2048}) if bare else an_envelope(2, name="n" * 2048)
    size = len(json.dumps(large))

    done = cli("submit", "-", "--pool", "etl", given=json.dumps([a_run(1), large, a_run(3)]))

    limit = f"payload of {size:,} bytes is over the limit of 2,048 bytes"
    assert done.lines[1] == f"refused index 1 {limit}"
    assert ids(cli) == numbered(1, 3)


@pytest.mark.parametrize("at", ["2026-01-31T08:00:00", "tomorrow", "+5x", "", "2026-02-31T00:00Z"])
def test_a_time_without_zone_or_sense_is_one_line(etl, client, prefix, at):
    before = everything(client, prefix)
    done = etl("submit", "-", "--pool", "etl", "--at", at, given=json.dumps(a_run(1)))
    assert error_of(done).startswith("error: time '")
    assert everything(client, prefix) == before


@pytest.mark.parametrize(
    "args",
    [
        ("submit", "-", "--pool", "nope"),
        ("submit", "-", "--pool", "etl", "--queue", "nope"),
        ("pool", "show", "nope"),
        ("queue", "create", "q", "--pool", "nope"),
        ("queue", "ls", "--pool", "nope"),
        ("queue", "show", "nope", "--pool", "etl"),
        ("flow-run", "ls", "--pool", "nope"),
        ("flow-run", "ls", "--pool", "etl", "--queue", "nope"),
        ("worker", "ls", "--pool", "nope"),
    ],
    ids=" ".join,
)
def test_an_unknown_pool_or_queue_is_one_line_that_names_it(etl, client, prefix, args):
    before = everything(client, prefix)
    error = error_of(etl(*args, given=ndjson(*map(a_run, HUNDRED))))
    assert error.startswith(("error: pool 'nope' does not exist", "error: queue 'nope' does not"))
    assert everything(client, prefix) == before


@pytest.mark.parametrize("name", ["a/b", "100%", "a&b", "<a>", " ", "x" * 256])
@pytest.mark.parametrize(
    "args", [("pool", "create"), ("queue", "create", "--pool", "etl"), ("submit", "-", "--pool")]
)
def test_a_name_with_forbidden_characters_is_one_line(etl, client, prefix, args, name):
    before = everything(client, prefix)
    error = error_of(etl(*args, name, given=json.dumps(a_run(1))))
    assert error.startswith(("error: pool name ", "error: queue name "))
    assert everything(client, prefix) == before


def test_a_run_that_has_ended_is_not_accepted_for_another_time(etl, client, prefix):
    etl("submit", "-", "--pool", "etl", given=json.dumps(a_run(1)))
    Hands(client, prefix).work()

    done = etl("submit", "-", "--pool", "etl", "--at", "+1h", given=json.dumps(a_run(1)))

    assert done.code == 1
    assert done.lines == [
        f"refused line 1 run {run_id(1)} has ended already: COMPLETED; another round takes "
        "another state_id and a later scheduled time"
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.json", "No such file or directory"),
        ("", "Is a directory"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(etl, tmp_path, name, reason):
    path = f"{tmp_path}/{name}"
    assert error_of(etl("submit", path, "--pool", "etl")) == (
        f"error: {path} cannot be read: {reason}"
    )


class Torn(io.BytesIO):
    """An input whose second read fails, as a file on a network may."""

    def read1(self, size=-1):
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read1(size)


def test_an_input_that_breaks_off_is_one_refusal_and_what_came_before_stands(etl):
    done = etl("submit", "-", "--pool", "etl", given=Torn(ndjson(a_run(1)) + b'{"id":'))
    assert done.lines[-1] == "refused input cannot be read on: Input/output error"
    assert ids(etl) == numbered(1)


def test_two_submits_of_one_id_at_once_are_one_accepted_and_one_duplicate(etl):
    both = [etl.start("submit", "-", "--pool", "etl") for _ in range(2)]
    for one in both:
        one.stdin.write(ndjson(*map(a_run, HUNDRED)))
        one.stdin.flush()

    answers = [one.communicate(timeout=30) for one in both]

    counted = [out.decode().split().count("accepted") for out, _ in answers]
    doubled = [out.decode().split().count("duplicate") for out, _ in answers]
    assert [one.returncode for one in both] == [0, 0]
    assert (sum(counted), sum(doubled)) == (100, 100)
    assert ids(etl) == numbered(*HUNDRED)
