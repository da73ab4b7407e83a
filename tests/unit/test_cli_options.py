"""How the command line reads durations and writes times, spans and tables."""

import click
import pytest

from dispatcher.cli import output
from dispatcher.cli.options import NONE, count, duration, given_settings, or_none, parse_end
from dispatcher.errors import InvalidInput
from dispatcher.producer import with_new_id
from dispatcher.reading import _before
from dispatcher.settings import masked


@pytest.mark.parametrize(
    ("text", "span_ms"),
    [
        ("15", 15_000),
        ("15s", 15_000),
        ("1.5", 1_500),
        ("2m", 120_000),
        ("500ms", 500),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
    ],
)
def test_a_duration_is_seconds_unless_it_says_else(text, span_ms):
    assert duration(500)(text) == span_ms


@pytest.mark.parametrize("text", ["", "s", "-1", "1 s", "1,5", "1e3", "٣", "499ms", "40000d"])
def test_anything_else_is_no_duration(text):
    with pytest.raises(click.BadParameter):
        duration(500)(text)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("1000000", 1_000_000)])
def test_a_count_is_a_whole_number(text, number):
    assert or_none(count)(text) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", "٣", "1000001", "1" * 5_000, "nil"])
def test_anything_else_is_no_count(text):
    with pytest.raises(click.BadParameter):
        or_none(count)(text)


@pytest.mark.parametrize("text", ["none", "None", "NONE"])
def test_none_is_unlike_a_setting_that_is_not_given(text):
    given = {"limit": or_none(count)(text), "timeout_ms": None, "keep_payload": False, "zero": 0}
    assert given["limit"] == NONE
    assert given_settings(given) == {"limit": None, "keep_payload": False, "zero": 0}


def test_the_end_of_a_pause_is_to_come():
    assert parse_end("+1s", 1_000) == 2_000
    with pytest.raises(InvalidInput, match="has passed already"):
        parse_end("now", 1_000)


@pytest.mark.parametrize(
    ("event", "before"), [("7-1", "7-0"), ("7-0", "6-18446744073709551615"), ("7-10", "7-9")]
)
def test_the_place_before_an_event_is_the_highest_id_below_its_own(event, before):
    assert _before(event) == before


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1_234, "1,234 runs")]
)
def test_a_number_of_things_is_written_with_their_noun(number, shown):
    assert output.counted(number, "run") == shown


@pytest.mark.parametrize(
    ("span_ms", "shown"),
    [
        (None, ""),
        (0, "0 ms"),
        (7, "7 ms"),
        (5_000, "5 s"),
        (9_999, "9,999 ms"),
        (12_345, "12.3 s"),
        (86_400_000, "86,400 s"),
    ],
)
def test_a_span_is_shown_as_precisely_as_it_matters(span_ms, shown):
    assert output.shown_span(span_ms) == shown


def test_a_time_is_local_with_its_offset_on_a_terminal_and_utc_elsewhere(monkeypatch):
    assert output.shown_time(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = output.shown_time(1_700_000_000_123)
    assert shown[-6] in "+-"
    assert shown[10] == " "


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("rediss://user:p@w@host:1", "rediss://user:***@host:1"),
        ("redis://:p/w@host", "redis://:***@host"),
        ("redis://:p#w@host", "redis://:***@host"),
        ("redis://:p?w@host", "redis://:***@host"),
        ("redis://host/0?password=pw", "redis://host/0?***"),
        ("redis://host?password=p@w", "redis://host:***@w"),
        ("unix://:pw@/run/redis.sock", "unix://:***@/run/redis.sock"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_password_never_shows(url, shown):
    assert masked("redis_url", url) == shown


def test_a_new_id_changes_nothing_else():
    raw = '{"flow_run": {"id": "a", "flow_id": "a", "name": "größe", "x": [1.5, null]}, "y": 2}'
    changed = with_new_id(raw.encode()).decode()
    head, tail = '{"flow_run":{"id":"', '","flow_id":"a","name":"größe","x":[1.5,null]},"y":2}'
    assert changed.startswith(head)
    assert changed.endswith(tail)
    assert len(changed) == len(head) + 36 + len(tail)
