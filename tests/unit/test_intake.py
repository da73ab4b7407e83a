"""Submissions are cut into the source's own bytes, and what is wrong is said where it is."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dispatcher.intake import Element, read_elements

SHARED = Path(__file__).resolve().parents[3] / "shared"
MANY = SHARED / "fixtures" / "prefect" / "scheduled.many.body.json"
LIMIT = 1_048_576
EXPECTED = "expected an array, an object, or one object per line"


class Trickle(io.RawIOBase):
    """A source that gives the same few bytes at a time."""

    def __init__(self, data, size):
        self._data, self._size, self._at = data, size, 0

    def read(self, size=-1):
        self._at += self._size
        return self._data[self._at - self._size : self._at]


class Endless(io.RawIOBase):
    """A source of many equal chunks that are never all in memory, for what is too large."""

    def __init__(self, head, chunk, times, tail):
        self._chunks = iter([head, *([chunk] * times), tail])

    def read(self, size=-1):
        return next(self._chunks, b"")


def read(data, limit=LIMIT, size=None):
    source = io.BytesIO(data) if size is None else Trickle(data, size)
    return list(read_elements(source, max_payload_bytes=limit))


def raws(data, **options):
    elements = read(data, **options)
    assert [element.problem for element in elements] == [None] * len(elements)
    return [element.raw for element in elements]


# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
blanks = st.text(" \t\r\n", max_size=4).map(str.encode)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half a surrogate pair is no text, and JSON's parser refuses it.
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.text('{}[]",:\\ \n'),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\{é', max_size=3), inner)
    ),
    max_leaves=12,
)
written = st.builds(
    lambda value, ascii_only, indent: json.dumps(
        value, ensure_ascii=ascii_only, indent=indent
    ).encode(),
    values, st.booleans(), st.sampled_from([None, 0, 2]),
)  # fmt: skip
spaced = st.lists(st.tuples(blanks, written, blanks), max_size=6)


@unhurried
@given(elements=spaced, outside=st.tuples(blanks, blanks), size=st.integers(1, 40))
@example(elements=[(b"", b'"\\\\"', b""), (b"", b'"\\""', b" ")], outside=(b"", b"\n"), size=1)
def test_slices_of_an_array_are_the_bytes_of_its_elements(elements, outside, size):
    inner = b",".join(b"".join(element) for element in elements)
    data = outside[0] + b"[" + inner + b"]" + outside[1]

    assert raws(data, size=size) == [element for _, element, _ in elements]


@unhurried
@given(elements=spaced, data=st.data())
def test_a_chunk_may_end_at_any_byte(elements, data):
    inner = b",".join(b"".join(element) for element in elements)
    array = b"[" + inner + b"]"
    cut = data.draw(st.integers(1, len(array)))

    assert raws(array, size=cut) == [element for _, element, _ in elements]


objects = st.dictionaries(st.text('a"\\{é\n', max_size=3), values, max_size=3)


@unhurried
@given(
    rows=st.lists(st.tuples(st.text(" \t\r").map(str.encode), objects, blanks), min_size=1),
    size=st.integers(1, 40),
    ends=st.booleans(),
)
def test_slices_of_lines_are_the_bytes_of_their_objects(rows, size, ends):
    texts = [json.dumps(value, ensure_ascii=False).encode() for _, value, _ in rows]
    lines = [b"".join((row[0], text, row[2])) for row, text in zip(rows, texts, strict=True)]
    data = b"\n".join(lines) + (b"\n" if ends else b"")

    assert raws(data, size=size) == texts


@unhurried
@given(value=objects.filter(bool), size=st.integers(1, 40), outside=st.tuples(blanks, blanks))
def test_the_slice_of_one_object_over_many_lines_is_all_of_it(value, size, outside):
    text = json.dumps(value, indent=2).encode()

    elements = read(outside[0] + text + outside[1], size=size)

    assert elements == [Element("input", text)]


@unhurried
@given(data=st.binary(max_size=60) | st.text('[]{}",:\\1 \n', max_size=60).map(str.encode))
@example(data=b'[1"a"')
def test_what_is_read_does_not_depend_on_how_it_arrives(data):
    at_once = read(data, limit=20)

    assert all(read(data, limit=20, size=size) == at_once for size in (1, 2, 3, 7))


@unhurried
@given(data=st.binary(max_size=60) | st.text('[]{}",:\\1 \n', max_size=60).map(str.encode))
def test_whatever_is_given_every_element_is_json_or_has_a_problem_in_one_line(data):
    for element in read(data):
        if element.problem is None:
            json.loads(element.raw)
        else:
            assert element.problem.isprintable()


def test_every_recorded_run_keeps_its_bytes():
    data = MANY.read_bytes()

    slices = raws(data)

    assert b"[" + b",".join(slices) + b"]" == data


def test_elements_of_an_array_are_counted_from_zero():
    assert [element.where for element in read(b"[{}, {}, {}]")] == ["index 0", "index 1", "index 2"]


def test_lines_are_counted_from_one_and_blank_lines_count():
    assert [element.where for element in read(b'\n{"a":1}\n\r\n  \n{}\n')] == ["line 2", "line 5"]


def test_one_object_on_one_line_is_a_line():
    assert read(b'{"a":[1,\t2]}') == [Element("line 1", b'{"a":[1,\t2]}')]


def test_an_empty_array_has_no_elements():
    assert read(b" [ \n ] ") == []


@pytest.mark.parametrize("data", [b"{}", b'{"a":\n1}'])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_a_byte_order_mark_is_skipped(data, size):
    assert raws(b"\xef\xbb\xbf" + data, size=size) == [data]


def test_a_pretty_printed_object_may_hold_objects_in_lists():
    data = b'{"a": [{\n"b": 1},\n{"c": 2}],\n"d":\n{"e": 3}}'

    assert read(data) == [Element("input", data)]


def test_a_line_is_read_as_soon_as_it_is_there():
    def lines():
        yield b'{"a":1}\n'
        raise AssertionError("the second line was asked for before the first was handed out")

    source = io.RawIOBase()
    chunks = lines()
    source.read = lambda size: next(chunks)

    first = next(read_elements(source, max_payload_bytes=LIMIT))

    assert first == Element("line 1", b'{"a":1}')


@pytest.mark.parametrize(
    ("data", "where", "problem"),
    [
        (b"", "input", f"at byte 0: {EXPECTED}, found the end"),
        (b" \n ", "input", f"at byte 3: {EXPECTED}, found the end"),
        (b"null", "input", f"at byte 0: {EXPECTED}, found 'n'"),
        (b"\xff\xfe", "input", f"at byte 0: {EXPECTED}, found the byte 0xff"),
        (b"[", "index 0", "at byte 1: expected a value, found the end"),
        (b"[,1]", "index 0", "at byte 1: expected a value, found ','"),
        (b"[1,]", "index 1", "at byte 3: expected a value, found ']'"),
        (b"[1, ", "index 1", "at byte 4: expected a value, found the end"),
        (b"[{} {}]", "index 1", "at byte 4: expected ',' or ']', found '{'"),
        (b"[{}", "index 1", "at byte 3: expected ',' or ']', found the end"),
        (b'[1, {"a":', "index 1", ": the value from byte 4 on never ends"),
        (b'[1, "a', "index 1", ": the value from byte 4 on never ends"),
        (b"[1] x", "input", "at byte 4: expected nothing behind the array, found 'x'"),
        (b"[1][2]", "input", "at byte 3: expected nothing behind the array, found '['"),
        (b'[1,\n {"a":}]', "index 1", "at byte 10: expected value, found '}'"),
        (b'[1,\n {"a":\n\n]}]', "index 1", "at byte 12: expected value, found ']'"),
        (b"[1, trux]", "index 1", "at byte 7: expected ident, found 'x'"),
        (b"[NaN]", "index 0", "at byte 1: expected value, found 'N'"),
        (b"[-Infinity]", "index 0", "at byte 2: invalid number, found 'I'"),
        (b'["\xff"]', "index 0", "at byte 2: invalid unicode code point, found the byte 0xff"),
        (b'{"a":\n1} 2', "input", "at byte 9: expected nothing behind the object"
         " (several go into an array, or one per line), found '2'"),
        (b'{"a":\n1', "input", ": the value from byte 0 on never ends"),
        (b'{"a":\n]}', "input", "at byte 6: expected value, found ']'"),
    ],
)  # fmt: skip
def test_malformed_input_is_reported_with_its_place_and_what_was_found(data, where, problem):
    last = read(data)[-1]

    assert (last.where, last.problem.removeprefix("malformed JSON").strip()) == (where, problem)


def test_what_came_before_malformed_json_in_an_array_is_handed_out():
    elements = read(b'[{"a":1}, {"b":2}, {"c":}, {"d":4}]')

    assert [(e.where, e.raw) for e in elements if e.problem is None] == [
        ("index 0", b'{"a":1}'),
        ("index 1", b'{"b":2}'),
    ]
    assert [e.where for e in elements if e.problem is not None] == ["index 2"]


@pytest.mark.parametrize(
    "line",
    [b'{"b":}', b'{"b":1', b'{"b":"', b'{"b":1}}', b'{"b":1} {"c":2}', b'{"b":"\xff"}', b"x", b"]"],
)
def test_a_malformed_line_costs_only_itself(line):
    elements = read(b'{"a":1}\n' + line + b'\n{"z":3}')

    assert [element.where for element in elements] == ["line 1", "line 2", "line 3"]
    assert [element.problem is None for element in elements] == [True, False, True]
    assert elements[1].problem.startswith("malformed JSON")


@pytest.mark.parametrize(
    "line",
    [
        b'{"b":}',
        b'{"b":1',
        b'{"b":"x',
        b'{"b":1,',
        b"{",
        b'{"b":1} 2',
        b'{"b":{"c":1',
        b'{"b":NaN}',
    ],
)
def test_a_malformed_first_line_costs_only_itself_when_the_next_opens_an_object(line):
    elements = read(line + b'\n\n{"z":3}\n')

    assert [element.where for element in elements] == ["line 1", "line 3"]
    assert [element.problem is None for element in elements] == [False, True]


def test_a_malformed_line_is_reported_with_its_offset_in_the_source():
    problem = read(b'{"a":1}\n {"b":}')[1].problem

    assert problem == "malformed JSON at byte 14: expected value, found '}'"


BIG = b'{"a":"' + b"x" * 300_000 + b'"}'


@pytest.mark.parametrize(
    ("data", "wheres"),
    [
        (b"[1, " + BIG + b", 2]", ["index 0", "index 1", "index 2"]),
        (b'{"a":1}\n' + BIG + b'\n{"a":2}', ["line 1", "line 2", "line 3"]),
        (BIG + b"  \r\n\n" + b'{"a":2}', ["line 1", "line 3"]),
        (BIG.replace(b":", b":\n"), ["input"]),
    ],
)
@pytest.mark.parametrize("size", [None, 1_000, 65_536])
def test_an_element_over_the_limit_is_skipped_and_reading_goes_on(data, wheres, size):
    elements = read(data, limit=100_000, size=size)

    length = max(len(BIG), len(data) if wheres == ["input"] else 0)
    problem = f"payload of {length:,} bytes is over the limit of 100,000 bytes"
    assert [element.where for element in elements] == wheres
    assert [e for e in elements if e.problem] == [
        Element(wheres[0 if len(wheres) < 3 else 1], b"", problem)
    ]


@pytest.mark.parametrize("form", [b"[%b]", b"%b", b"%b\r\n", b" %b   "])
def test_a_payload_of_exactly_the_limit_is_within_it(form):
    text = b'{"a":"' + b"x" * 92 + b'"}'

    assert raws(form % text, limit=100, size=7) == [text]
    assert [e.raw for e in read(form % text, limit=99, size=7)] == [b""]


@pytest.mark.parametrize("data", [b"x", b'\\"', b"[", b"{},", b" ", b'"",'])
def test_an_element_of_any_size_is_never_held(data):
    chunk = data * (65_536 // len(data))
    source = Endless(b'[{"a":[' if data != b'\\"' else b'["', chunk, 40, b"")

    sizes = [len(element.raw) for element in read_elements(source, max_payload_bytes=1_000)]

    assert sum(sizes) <= 1_000


@pytest.mark.parametrize(
    "text", [b"[" * 5_000 + b"]" * 5_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000]
)
def test_very_deep_nesting_is_a_problem_of_that_run_alone(text):
    elements = read(b"[1, " + text + b", 2]")

    assert [e.problem for e in elements] == [None, "is nested more than 200 levels deep", None]


def test_a_number_too_long_for_the_parser_is_a_problem_of_that_run_alone():
    elements = read(b"[" + b"1" * 5_000 + b", 2]")

    assert [e.problem for e in elements] == ["has a number of more than 4,300 digits", None]
