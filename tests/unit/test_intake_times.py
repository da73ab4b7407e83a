"""One run: the offer made of what was given, what options describe, and when it is due."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.clock import from_ms, to_ms
from dispatcher.errors import InvalidInput, InvalidRun
from dispatcher.intake import compose_run, parse_offer, parse_when, read_elements

SHARED = Path(__file__).resolve().parents[3] / "shared"
SEED = SHARED / "seed" / "load_scheduled_runs.response.json"
MANY = SHARED / "fixtures" / "prefect" / "scheduled.many.body.json"
RUN_ID = "b368ac55-d906-44c0-b2b8-289fe84fc6d6"
FLOW_ID = "41cb79e5-03c6-4e96-b376-a10cb852f0d9"
POOL_ID = UUID("57789097-a1ba-45da-819b-5a238accc0d6")
QUEUE_ID = UUID("8be8187c-ba50-45f0-b8ae-4c1833afb7a4")
ENVELOPE = {"work_pool_id": str(POOL_ID), "work_queue_id": str(QUEUE_ID)}
RFC_3339 = "must be an RFC 3339 time such as 2026-01-31T08:00:00Z"
ONLY = "only SCHEDULED runs can be submitted"
NOW_MS = 1_769_846_400_123
EIGHT_MS = to_ms(datetime(2026, 1, 31, 8, tzinfo=UTC))


def bare(**fields):
    return {"id": RUN_ID, "flow_id": FLOW_ID, **fields}


def refusal(run, envelope=None):
    raw = json.dumps(run if envelope is None else {**envelope, "flow_run": run})
    with pytest.raises(InvalidRun) as refused:
        parse_offer(raw.encode())
    return refused.value


def test_an_envelope_is_offered_as_it_came():
    raw = json.dumps(json.loads(SEED.read_bytes())[0], indent=3).encode()

    offer = parse_offer(raw)

    assert offer.raw is raw
    assert offer.bare is False
    assert str(offer.run.id) == "3c90c3cc-0d44-4b50-8888-8dd25736052a"
    assert str(offer.work_pool_id) == str(offer.work_queue_id) == str(offer.run.id)
    assert offer.payload(POOL_ID, QUEUE_ID) is raw


def test_every_recorded_run_is_offered():
    with MANY.open("rb") as source:
        elements = read_elements(source, max_payload_bytes=1_048_576)
        offers = [parse_offer(element.raw) for element in elements]

    assert len(offers) == 25
    assert {offer.work_pool_id for offer in offers} == {POOL_ID}


def test_the_payload_of_a_bare_run_is_its_own_bytes_in_an_envelope():
    raw = b'{ "flow_id" :"%b",\n"id":"%b", "shade":1.50 }' % (FLOW_ID.encode(), RUN_ID.encode())

    offer = parse_offer(raw)

    head = b'{"work_pool_id":"%b","work_queue_id":"%b","flow_run":'
    assert offer.payload(POOL_ID, QUEUE_ID) == (
        head % (str(POOL_ID).encode(), str(QUEUE_ID).encode()) + raw + b"}"
    )


def test_a_bare_run_brings_its_own_queue_and_no_pool():
    offer = parse_offer(json.dumps(bare(work_queue_id=str(QUEUE_ID))).encode())

    assert (offer.bare, offer.work_pool_id, offer.work_queue_id) == (True, None, QUEUE_ID)


def nested(depth, opening="[", closing="]"):
    deep = opening * depth + "1" + closing * depth
    return f'{{"id":"{RUN_ID}","flow_id":"{FLOW_ID}","parameters":{{"a":{deep}}}}}'.encode()


def is_offered(raw):
    try:
        return bool(parse_offer(raw))
    except InvalidRun:
        return False


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_a_bare_run_that_is_offered_can_be_read_again_in_its_envelope(brackets):
    raws = [raw for depth in range(90, 205) if is_offered(raw := nested(depth, *brackets))]

    assert len(raws) in range(5, 114)
    assert all(is_offered(parse_offer(raw).payload(POOL_ID, QUEUE_ID)) for raw in raws)


def test_an_offer_nested_too_deep_is_refused():
    with pytest.raises(InvalidRun, match="is nested more than 200 levels deep"):
        parse_offer(nested(5_000))


@pytest.mark.parametrize("raw", [b"[]", b"7", b"null", b'"x"', b"{}", b'{"name":"x"}'])
def test_what_is_no_run_at_all_is_refused_with_what_was_given(raw):
    with pytest.raises(InvalidRun) as refused:
        parse_offer(raw)

    assert (refused.value.path, str(refused.value)) == (
        "",
        "must be a flow run (id, flow_id, …) or one in an envelope (flow_run, work_pool_id, …); "
        f"got {raw.decode()}",
    )


@pytest.mark.parametrize("raw", [b"", b"{", b'{"id":NaN}', b'{"id":"\xff"}', b'{"id":1} x'])
def test_an_offer_of_malformed_json_is_refused(raw):
    with pytest.raises(InvalidRun, match="malformed JSON"):
        parse_offer(raw)


def test_a_naive_time_is_refused_by_its_path_with_what_is_missing():
    refused = refusal(bare(next_scheduled_start_time="2026-01-31T08:00:00"), ENVELOPE)

    assert refused.path == "flow_run.next_scheduled_start_time"
    assert refused.problem == (
        'the time zone offset is missing, such as Z or +02:00; got "2026-01-31T08:00:00"'
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": []}, "parameters: must be an object; got []"),
        ({"tags": ["a", 7]}, "tags.1: must be a valid string; got 7"),
        ({"tags": "a"}, 'tags: must be a valid array; got "a"'),
        ({"run_count": "3"}, 'run_count: must be a valid integer; got "3"'),
        ({"run_count": -1}, "run_count: must be greater than or equal to 0; got -1"),
        ({"flow_id": None}, "flow_id: must be a UUID; got null"),
        ({"labels": {"a\nb": []}}, r"labels.a\nb: must be a string, a number or a boolean; got []"),
        ({"start_time": 5}, f"start_time: {RFC_3339}; got 5"),
        ({"state_type": "RUNNING"}, f"state_type: is RUNNING; {ONLY}"),
        ({"state": {"type": "PAUSED"}}, f"state.type: is PAUSED; {ONLY}"),
        ({"name": ["x" * 100]}, 'name: must be a valid string; got ["' + "x" * 77 + "…"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_as_it_is_in_what_was_given(fields, message):
    assert str(refusal(bare(**fields))) == message
    assert str(refusal(bare(**fields), ENVELOPE)) == f"flow_run.{message}"


def test_a_missing_field_is_refused_without_repeating_the_run():
    assert str(refusal({"id": RUN_ID})) == "flow_id: is required"
    assert str(refusal(bare(), {"work_pool_id": str(POOL_ID)})) == "work_queue_id: is required"


@pytest.mark.parametrize("state", [{}, {"state_type": None}, {"state_type": "SCHEDULED"}])
def test_runs_that_are_scheduled_or_say_nothing_are_offered(state):
    assert parse_offer(json.dumps(bare(**state)).encode()).run.id == UUID(RUN_ID)


@pytest.mark.parametrize("text", ["now", "NOW", " now "])
def test_now_is_now(text):
    assert parse_when(text, NOW_MS) == NOW_MS


@pytest.mark.parametrize(
    ("text", "delay_ms"),
    [
        ("+10m", 600_000),
        ("+90s", 90_000),
        ("+1h30m", 5_400_000),
        ("+500ms", 500),
        ("+2d", 172_800_000),
        ("+1d2h3m4s5ms", 93_784_005),
        ("+0s", 0),
        ("+1H30M", 5_400_000),
    ],
)
def test_a_delay_counts_from_now(text, delay_ms):
    assert parse_when(text, NOW_MS) == NOW_MS + delay_ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T08:00:00Z",
        "2026-01-31t08:00:00z",
        "2026-01-31 08:00:00Z",
        "2026-01-31T08:00Z",
        "2026-01-31T10:00:00+02:00",
        "2026-01-31T08:00:00.000Z",
        "2026-01-30T23:30:00-08:30",
    ],
)
def test_a_time_is_taken_with_its_offset(text):
    assert parse_when(text, NOW_MS) == EIGHT_MS


@pytest.mark.parametrize(
    ("fraction", "ms"), [(".5", 500), (".0001", 1), (".123000", 123), (".123001", 124)]
)
def test_a_time_is_rounded_up_to_the_millisecond(fraction, ms):
    assert parse_when(f"2026-01-31T08:00:00{fraction}Z", NOW_MS) == EIGHT_MS + ms


@settings(deadline=None)
@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_that_is_written_is_read_back(at):
    assert parse_when(at.isoformat(), NOW_MS) == to_ms(at)


@pytest.mark.parametrize(
    "text", ["2026-01-31T08:00:00", "2026-01-31 08:00", "2026-01-31T08:00:00.5"]
)
def test_a_naive_time_is_refused_with_what_to_do(text):
    with pytest.raises(InvalidInput) as refused:
        parse_when(text, NOW_MS)

    assert str(refused.value) == (
        f"time {text!r} has no time zone offset; end it with Z for UTC, or with one such as +02:00"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "10m",
        "-10m",
        "+10",
        "+10x",
        "+1.5h",
        "+1h 30m",
        "+h",
        "tomorrow",
        "2026-01-31",
        "2026-02-31T08:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T08:00:00+25:00",
        "20260131T080000Z",
        "1769846400",
        "+" + "9" * 5_000 + "d",
        "2026-01-31T08:00:00Z\n+1h",
    ],
)
def test_what_is_no_time_is_refused_with_what_to_do(text):
    with pytest.raises(InvalidInput) as refused:
        parse_when(text, NOW_MS)

    assert str(refused.value) == (
        f"time {text[:80]!r} is not understood; give now, a delay such as +10m or +1h30m, "
        "or a time such as 2026-01-31T08:00:00Z"
    )


@pytest.mark.parametrize("text", ["+999999999999d", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_no_calendar_holds_is_refused(text):
    with pytest.raises(InvalidInput, match="after the year 9999"):
        parse_when(text, NOW_MS)


def test_the_last_moment_of_the_calendar_is_accepted():
    assert from_ms(parse_when("9999-12-31T23:59:59Z", NOW_MS)).year == 9999


def test_a_composed_run_is_what_the_options_say():
    raw = compose_run(
        name="nightly",
        parameters={"day": "2026-01-31", "größe": 1.5},
        command="python -m nightly",
        tags=["prod"],
        idempotency_key="nightly:1",
        due_ms=EIGHT_MS,
    )

    run = json.loads(raw)
    assert UUID(run.pop("id")).version == 4
    assert UUID(run.pop("flow_id")).version == 5
    assert run == {
        "name": "nightly",
        "parameters": {"day": "2026-01-31", "größe": 1.5},
        "idempotency_key": "nightly:1",
        "tags": ["prod"],
        "state_type": "SCHEDULED",
        "state_name": "Scheduled",
        "expected_start_time": "2026-01-31T08:00:00.000+00:00",
        "next_scheduled_start_time": "2026-01-31T08:00:00.000+00:00",
        "job_variables": {"command": "python -m nightly"},
    }


def test_a_composed_run_is_compact_json():
    raw = compose_run(name="nightly", parameters={"größe": [1, 2]})

    assert raw == json.dumps(json.loads(raw), ensure_ascii=False, separators=(",", ":")).encode()


def test_a_composed_run_can_be_submitted():
    offer = parse_offer(compose_run(command="true", due_ms=NOW_MS))

    assert offer.bare is True
    assert offer.run.job_variables == {"command": "true"}
    assert to_ms(offer.run.scheduled_time()) == NOW_MS


def test_a_composed_run_without_a_time_names_none():
    assert parse_offer(compose_run()).run.scheduled_time() is None


def test_runs_of_one_name_belong_to_one_flow():
    first, second = (json.loads(compose_run(name="nightly")) for _ in range(2))

    assert first["flow_id"] == second["flow_id"]
    assert first["id"] != second["id"]


def test_runs_of_other_names_belong_to_other_flows():
    first, second = (json.loads(compose_run(name=name)) for name in ("nightly", "hourly"))

    assert first["flow_id"] != second["flow_id"]


def test_a_run_without_a_name_gets_two_words():
    words = json.loads(compose_run())["name"].split("-")

    assert len(words) == 2
    assert all(word.isalpha() for word in words)


@pytest.mark.parametrize(
    "options",
    [
        {"parameters": {"a": float("nan")}},
        {"parameters": {"a": object()}},
        {"parameters": {"a": "\udcff"}},
        {"name": "\udcff"},
        {"command": "\udcff"},
    ],
)
def test_what_json_cannot_say_is_refused(options):
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        compose_run(**options)
