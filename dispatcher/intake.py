"""Submissions: read as a stream, cut into runs, checked; the bytes stay as they came.

What was accepted reaches the worker byte for byte, so an element is its own slice of the source
and nothing here writes JSON, except for a run that is described by options on the command line.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final
from uuid import UUID, uuid4, uuid5

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from dispatcher.clock import from_ms, to_ms
from dispatcher.errors import InvalidInput, InvalidRun
from dispatcher.models import FlowRun, ScheduledFlowRun, StateType

_CHUNK_BYTES: Final = 64 * 1024
_SHOWN: Final = 80  # characters of an offending input that a message repeats
_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_SCALAR: Final = re.compile(rb'[^ \t\r\n,"{}\[\]]*')
_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
# Up to the next bracket outside of strings: one step of the regular expression engine instead of
# one in Python for each of the 150 strings of a run. Nothing follows, so nothing backtracks far.
_FLAT: Final = re.compile(rb'[^"{}\[\]]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"{}\[\]]*)*', re.DOTALL)
_TOO_MUCH: Final = {  # sound JSON that the parser refuses; reading can go on after it
    "recursion limit exceeded": "is nested more than 200 levels deep",
    "number out of range": "has a number of more than 4,300 digits",
}
_FLOWS: Final = UUID("6e95b912-d1f9-4ca1-ac97-07ea2ef13c8f")  # where flow ids of names come from
_MOODS: Final = "amber brave brisk calm clever eager gentle keen lively merry quiet swift"
_THINGS: Final = "anchor beacon brook cedar comet falcon harbor lantern maple otter reef"
_DELAY: Final = re.compile(r"\+(\d{1,12}(MS|[DHMS]))+", re.ASCII)
_DELAY_PART: Final = re.compile(r"(\d+)(MS|[DHMS])", re.ASCII)
_UNITS_MS: Final = {"D": 86_400_000, "H": 3_600_000, "M": 60_000, "S": 1_000, "MS": 1}
_LAST_MS: Final = 253_402_300_799_999  # the year 9999 ends
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True, slots=True)
class Element:
    """One value of a submission, or what is wrong where one should be."""

    where: str
    raw: bytes
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A flow run that may be submitted, with the bytes that it came in."""

    run: FlowRun
    work_pool_id: UUID | None
    work_queue_id: UUID | None
    bare: bool
    raw: bytes

    def payload(self, work_pool_id: UUID, work_queue_id: UUID) -> bytes:
        """Return the message to store: what came, or an envelope around a bare run's bytes."""
        if not self.bare:
            return self.raw
        head = f'{{"work_pool_id":"{work_pool_id}","work_queue_id":"{work_queue_id}","flow_run":'
        return b"".join((head.encode(), self.raw, b"}"))


class _Part:
    """One element as its bytes arrive: where it ends, and what it holds unless it is too long."""

    def __init__(self, start: int, limit: int) -> None:
        self.start, self.limit = start, limit
        self.done = self.in_string = self._escaped = False
        self._scalar: bool | None = None
        self.depth = self._taken = 0
        self.length = 0  # without the blanks behind it
        self.last = 0  # the last byte that is not blank
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        if self._taken <= self.limit:
            self._pieces.append(piece)
        if text := piece.rstrip(b" \t\r\n"):
            self.length = self._taken + len(text)
            self.last = text[-1]
        self._taken += len(piece)
        if self.length > self.limit:
            self._pieces.clear()

    def element(self, where: str) -> tuple[Element, bool]:
        """Return the element, and whether it is sound enough to read on behind it."""
        if self.length > self.limit:
            problem = f"payload of {self.length:,} bytes is over the limit of {self.limit:,} bytes"
            return Element(where, b"", problem), True
        raw = b"".join(self._pieces)[: self.length]
        try:
            from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            problem = _explain_syntax(error, raw, start=self.start)
            return Element(where, raw, problem), problem in _TOO_MUCH.values()
        return Element(where, raw), True

    def scan(self, data: bytes, at: int, stop: int) -> int:
        """Look on from `at` for the end of the value; return where it is, or `stop`."""
        if at < stop and self._scalar is None:
            self._scalar = data[at] not in b'"{['
        if self._scalar:
            at = _skip(_SCALAR, data, at, stop)
            self.done = at < stop
        while at < stop and not self.done:
            at = (self._inside if self.in_string else self._outside)(data, at, stop)
        return at

    def _outside(self, data: bytes, at: int, stop: int) -> int:
        if self.depth and (at := _skip(_FLAT, data, at, stop)) == stop:
            return stop
        if data[at] == 0x22:
            self.in_string = True
        elif data[at] in b"{[":
            self.depth += 1
        else:
            self.depth -= 1
            self.done = not self.depth
        return at + 1

    def _inside(self, data: bytes, at: int, stop: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        if (at := _skip(_STRING, data, at, stop)) == stop:
            return stop
        self._escaped = self.in_string = data[at] == 0x5C  # what it escapes has yet to arrive
        self.done = not self.in_string and not self.depth
        return at + 1


class _Reader:
    """The source in chunks, with the offset and the line that it stands at."""

    def __init__(self, source: BinaryIO) -> None:
        # read1 gives what a pipe holds; read would wait until it holds a whole chunk.
        self._read = getattr(source, "read1", source.read)
        self._data = b""
        while len(self._data) < 3 and (more := self._read(_CHUNK_BYTES)):
            self._data += more
        self._at = 3 if self._data.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark
        self._base = 0
        self.line = 1

    @property
    def offset(self) -> int:
        return self._base + self._at

    def next_byte(self, part: _Part | None = None) -> int | None:
        """Skip blanks; return the byte behind them without taking it, None at the end."""
        while self._more():
            stop = _skip(_BLANK, self._data, self._at, len(self._data))
            self.line += self._data.count(b"\n", self._at, stop)
            self._take(stop, part)
            if stop < len(self._data):
                return self._data[stop]
        return None

    def after_byte(self) -> int | None:
        """Take the byte that `next_byte` returned; return the next one."""
        self._at += 1
        return self.next_byte()

    def take_value(self, part: _Part) -> None:
        """Take bytes up to the end of the value, or of the source."""
        while not part.done and self._more():
            self._take(part.scan(self._data, self._at, len(self._data)), part)

    def take_line(self, part: _Part, *, scan: bool) -> None:
        """Take bytes up to a line feed, or the end of the source."""
        while self._more():
            found = self._data.find(b"\n", self._at)
            stop = len(self._data) if found < 0 else found
            if scan and not part.done:
                part.scan(self._data, self._at, stop)
            self._take(stop, part)
            if found >= 0:
                return

    def _more(self) -> bool:
        if self._at == len(self._data):
            self._base, self._at = self._base + self._at, 0
            self._data = self._read(_CHUNK_BYTES)
        return bool(self._data)

    def _take(self, stop: int, part: _Part | None) -> None:
        if part is not None and stop > self._at:
            part.add(self._data[self._at : stop])
        self._at = stop


def read_elements(source: BinaryIO, *, max_payload_bytes: int) -> Iterator[Element]:
    """Yield the values of a JSON array, or one object, or objects one per line.

    Holds one element and one chunk at a time. What is malformed ends an array, but only its own
    line otherwise; what is merely too large or too deep ends nothing.
    """
    reader = _Reader(source)
    first = reader.next_byte()
    if first == 0x5B:
        yield from _read_array(reader, max_payload_bytes)
    elif first == 0x7B:
        yield from _read_objects(reader, max_payload_bytes)
    else:
        yield _unexpected("input", reader, first, "an array, an object, or one object per line")


def _read_array(reader: _Reader, limit: int) -> Iterator[Element]:
    byte, index = reader.after_byte(), 0
    while byte != 0x5D or index:
        if byte is None or byte in b",]}":
            yield _unexpected(f"index {index}", reader, byte, "a value")
            return
        part = _Part(reader.offset, limit)
        reader.take_value(part)
        element, is_sound = part.element(f"index {index}")
        yield element
        if not is_sound:
            return
        index += 1
        if (byte := reader.next_byte()) == 0x5D:
            break
        if byte != 0x2C:
            yield _unexpected(f"index {index}", reader, byte, "',' or ']'")
            return
        byte = reader.after_byte()
    if (byte := reader.after_byte()) is not None:
        yield _unexpected("input", reader, byte, "nothing behind the array")


def _read_objects(reader: _Reader, limit: int) -> Iterator[Element]:
    """Tell by the first line whether each line has its object, or one has all the lines."""
    line, part = reader.line, _Part(reader.offset, limit)
    reader.take_line(part, scan=True)
    if not part.done and not _starts_anew(reader.next_byte(part), part):
        reader.take_value(part)
        element, is_sound = part.element("input")
        yield element
        if is_sound and (byte := reader.next_byte()) is not None:
            expected = "nothing behind the object (several go into an array, or one per line)"
            yield _unexpected("input", reader, byte, expected)
        return
    yield part.element(f"line {line}")[0]
    while reader.next_byte() is not None:
        line, part = reader.line, _Part(reader.offset, limit)
        reader.take_line(part, scan=False)
        yield part.element(f"line {line}")[0]


def _starts_anew(byte: int | None, part: _Part) -> bool:
    """Say whether the next line opens an object that cannot belong to the unfinished one."""
    goes_on = part.last == 0x3A or (part.last in b"[," and part.depth > 1)
    return byte == 0x7B and (part.in_string or not goes_on)


def _skip(pattern: re.Pattern[bytes], data: bytes, at: int, stop: int) -> int:
    found = pattern.match(data, at, stop)
    return found.end() if found else at


def _unexpected(where: str, reader: _Reader, byte: int | None, expected: str) -> Element:
    problem = f"malformed JSON at byte {reader.offset}: expected {expected}, found"
    return Element(where, b"", f"{problem} {_show_byte(byte)}")


def _show_byte(byte: int | None) -> str:
    if byte is None:
        return "the end"
    return repr(chr(byte)) if 0x20 <= byte < 0x7F else f"the byte 0x{byte:02x}"


def _explain_syntax(error: ValueError, raw: bytes, *, start: int = 0) -> str:
    problem, _, place = str(error).partition(" at line ")
    line, _, column = place.partition(" column ")
    if problem in _TOO_MUCH:
        return _TOO_MUCH[problem]
    if problem.startswith("EOF"):
        return f"malformed JSON: the value from byte {start} on never ends"
    lines = raw.split(b"\n", int(line or 1) - 1)
    at = len(raw) - len(lines[-1]) + int(column or 1) - 1
    found = _show_byte(raw[at] if at < len(raw) else None)
    return f"malformed JSON at byte {start + at}: {problem}, found {found}"


def parse_offer(raw: bytes) -> Offer:
    """Check one submitted value: the endpoint's object, or a bare flow run.

    Raises InvalidRun with the path of the first field at fault, as it is in what was given.
    """
    try:
        value = from_json(raw, allow_inf_nan=False)
        if bare := isinstance(value, dict) and "flow_run" not in value:
            from_json(b"[%b]" % raw)  # in its envelope it is one level deeper
    except ValueError as error:
        raise InvalidRun("", _explain_syntax(error, raw)) from None
    if not isinstance(value, dict) or value.keys().isdisjoint({"flow_run", "id", "flow_id"}):
        expected = "a flow run (id, flow_id, …) or one in an envelope (flow_run, work_pool_id, …)"
        raise InvalidRun("", f"must be {expected}; got {_show(value)}")
    try:
        if bare:
            run = FlowRun.model_validate_json(raw)
            pool_id, queue_id = None, run.work_queue_id
        else:
            whole = ScheduledFlowRun.model_validate_json(raw)
            pool_id, queue_id, run = whole.work_pool_id, whole.work_queue_id, whole.flow_run
    except ValidationError as error:
        raise _invalid_run(error) from None
    _refuse_begun(run, "" if bare else "flow_run.")
    return Offer(run, pool_id, queue_id, bare, raw)


def _refuse_begun(run: FlowRun, prefix: str) -> None:
    state_type, field = run.state_type, "state_type"
    if state_type is None and run.state is not None:
        state_type, field = run.state.type, "state.type"
    if state_type not in (None, StateType.SCHEDULED):
        raise InvalidRun(prefix + field, f"is {state_type}; only SCHEDULED runs can be submitted")


def _invalid_run(error: ValidationError) -> InvalidRun:
    first = error.errors(include_url=False)[0]
    path = ".".join(repr(str(name)[:_SHOWN])[1:-1] for name in first["loc"])
    if first["type"] == "missing":
        return InvalidRun(path, "is required")
    problem = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "timezone_aware":
        problem = "the time zone offset is missing, such as Z or +02:00"
    elif first["type"] == "uuid_type":
        problem = "must be a UUID"
    return InvalidRun(path, f"{problem}; got {_show(first['input'])}")


def _show(value: object) -> str:
    text = to_json(value, inf_nan_mode="constants").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def compose_run(
    *,
    name: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    command: str | None = None,
    tags: Sequence[str] = (),
    idempotency_key: str | None = None,
    due_ms: int | None = None,
) -> bytes:
    """Compose the bare flow run that options describe, once: its id is new with every call."""
    name = name or f"{secrets.choice(_MOODS.split())}-{secrets.choice(_THINGS.split())}"
    due = None if due_ms is None else from_ms(due_ms).isoformat(timespec="milliseconds")
    try:
        run = {
            "id": str(uuid4()),
            "name": name,
            "flow_id": str(uuid5(_FLOWS, name)),
            "parameters": dict(parameters or {}),
            "idempotency_key": idempotency_key,
            "tags": list(tags),
            "state_type": StateType.SCHEDULED,
            "state_name": "Scheduled",
            "expected_start_time": due,
            "next_scheduled_start_time": due,
            "job_variables": {} if command is None else {"command": command},
        }
        return json.dumps(run, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the run cannot be written as JSON: {error}") from None


def parse_when(text: str, now_ms: int) -> int:
    """Return the milliseconds since the epoch of `now`, a delay, or an RFC 3339 time."""
    given, shown = text.strip().upper(), repr(text[:_SHOWN])
    if given == "NOW" or _DELAY.fullmatch(given):
        parts = _DELAY_PART.findall(given)
        at_ms = now_ms + sum(int(count) * _UNITS_MS[unit] for count, unit in parts)
    else:
        at_ms = _parse_time(given, shown)
    if at_ms > _LAST_MS:
        raise InvalidInput(f"time {shown} is after the year 9999; give an earlier one")
    return at_ms


def _parse_time(given: str, shown: str) -> int:
    if found := _RFC_3339.fullmatch(given):
        if not found[3]:
            problem = "has no time zone offset; end it with Z for UTC, or with one such as +02:00"
            raise InvalidInput(f"time {shown} {problem}")
        with suppress(ValueError):  # the 31st of February
            return to_ms(datetime.fromisoformat(given))
    expected = "now, a delay such as +10m or +1h30m, or a time such as 2026-01-31T08:00:00Z"
    raise InvalidInput(f"time {shown} is not understood; give {expected}")
