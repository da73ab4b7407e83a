"""Each Lua script says in its header what it takes and returns, and its code agrees."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

LUA = Path(__file__).parent.parent / "dispatcher" / "lua"
TOKEN = re.compile(r"--[^\n]*|\"[^\"\n]*\"|'[^'\n]*'")
SLOT = re.compile(r"-- (KEYS|ARGV)\[(\d+)(\.\.\.)?\] +(\w+)(?: {2,}\S.*)?")


def scripts() -> dict[str, str]:
    """The steps: source by file name."""
    return {p.name: p.read_text() for p in LUA.glob("*.lua") if not p.name.startswith("_")}


def shared() -> dict[str, str]:
    """The functions that steps share: source by file name."""
    return {path.name: path.read_text() for path in LUA.glob("_*.lua")}


def lua_code(source: str) -> str:
    """The source with its comments taken out and its strings emptied."""
    return TOKEN.sub(lambda token: "" if token[0].startswith("--") else '""', source)


def lua_parts(source: str) -> tuple[list[str], str, str]:
    """A script's header lines, its block of local assignments, and the code after them."""
    lines = source.splitlines()
    header = list(takewhile(lambda line: line.startswith("--"), lines))
    rest = lines[len(header) :]
    opening = re.compile(r"local (?!function\b)|\s|--|[)}]|$")
    block = list(takewhile(opening.match, rest))
    return header, lua_code("\n".join(block)), lua_code("\n".join(rest[len(block) :]))


def header_problems(source: str) -> list[str]:
    """What is wrong between the header of a script and its use of KEYS and ARGV."""
    header, block, body = lua_parts(source)
    slots = [line for line in header if line.startswith(("-- KEYS", "-- ARGV"))]
    problems = [f"cannot be read: {line}" for line in slots if not SLOT.fullmatch(line)]
    if not header or not re.match(r"-- [A-Z]\w+ ", header[0]) or header[0] in slots:
        problems.append("no first line that says what the script does")
    if not any(re.match(r"-- Returns +\S", line) for line in header):
        problems.append("no line `-- Returns`")
    declared = [match for line in slots if (match := SLOT.fullmatch(line))]
    for kind in ("KEYS", "ARGV"):
        own = [(int(match[2]), bool(match[3])) for match in declared if match[1] == kind]
        problems += slot_problems(kind, own, block, body)
    return problems


def slot_problems(kind: str, declared: list[tuple[int, bool]], block: str, body: str) -> list[str]:
    """Compare the declared numbers of KEYS or ARGV, the last perhaps a tail, with the code."""
    problems = []
    numbers = [number for number, _ in declared]
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"{kind} is not numbered from 1 without gaps: {numbers}")
    if any(tail for _, tail in declared[:-1]):
        problems.append(f"{kind} has a tail that is not its last")
    tail = numbers[-1] if declared and declared[-1][1] else None
    code = f"{block}\n{body}"
    used = {int(number) for number in re.findall(rf"\b{kind}\[(\d+)\]", code)}
    fixed = {number for number, is_tail in declared if not is_tail}
    at_once = used if tail is None else {number for number in used if number < tail}
    problems += [f"{kind}[{number}] is not declared" for number in sorted(at_once - fixed)]
    problems += [f"{kind}[{number}] is not used" for number in sorted(fixed - at_once)]
    if re.search(rf"\b{kind}\b(?!\[\d+\])", code) and tail is None:
        problems.append(f"{kind} is read in a loop without a tail `{kind}[n...]`")
    late = {int(number) for number in re.findall(rf"\b{kind}\[(\d+)\]", body)} & at_once
    problems += [f"{kind}[{number}] is read below the locals" for number in sorted(late)]
    return problems


def test_each_script_declares_what_it_takes_and_returns():
    found = {name: header_problems(source) for name, source in scripts().items()}
    assert found
    assert {name: problems for name, problems in found.items() if problems} == {}


GOOD_SCRIPT = """\
-- Do one thing.
--
-- KEYS[1]  pool
-- ARGV[1]  now_ms   empty: the server's clock
-- ARGV[2...]  ids   run ids
-- Returns  a word
local pool, now_ms = KEYS[1],
    ARGV[1]
for i = 2, #ARGV do redis.call("SADD", pool, ARGV[i]) end
return "ARGV[9]" -- KEYS[9]
"""


def test_a_good_header_has_no_problems():
    assert header_problems(GOOD_SCRIPT) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("-- Do one thing.\n--\n", "", "no first line that says what the script does"),
        ("-- Returns  a word\n", "", "no line `-- Returns`"),
        ("-- KEYS[1]  pool", "-- KEYS[1]: pool", "cannot be read: -- KEYS[1]: pool"),
        ("-- KEYS[1]  pool\n", "", "KEYS[1] is not declared"),
        ("-- KEYS[1]", "-- KEYS[2]", "KEYS is not numbered from 1 without gaps: [2]"),
        ("-- ARGV[1]", "-- ARGV[1...]", "ARGV has a tail that is not its last"),
        ("    ARGV[1]", "    nil", "ARGV[1] is not used"),
        (
            "-- ARGV[2...]  ids   run ids\n",
            "",
            "ARGV is read in a loop without a tail `ARGV[n...]`",
        ),
        ('"SADD", pool', '"SADD", KEYS[1]', "KEYS[1] is read below the locals"),
    ],
)
def test_a_bad_header_is_refused(old, new, problem):
    assert old in GOOD_SCRIPT
    assert problem in header_problems(GOOD_SCRIPT.replace(old, new))


def test_each_key_slot_of_a_script_is_named_as_in_keys():
    from dispatcher import keys

    known = {row[0] for row in keys.TABLE}
    unknown = {
        (name, slot[4])
        for name, source in scripts().items()
        for line in source.splitlines()
        if (slot := SLOT.fullmatch(line)) and slot[1] == "KEYS" and slot[4] not in known
    }
    assert unknown == set()


def uses(source: str) -> list[str]:
    """The shared functions that a header names."""
    lines = re.findall(r"^-- Uses +(.+)$", source, re.MULTILINE)
    return [name.strip() for line in lines for name in line.split(",")]


def test_scripts_use_shared_functions_that_exist_and_all_of_them():
    used = {f"_{name}.lua" for source in scripts().values() for name in uses(source)}
    assert used == set(shared())


def called(source: str, functions: dict[str, str]) -> set[str]:
    """The shared functions that a script calls, by itself or through another one."""
    found: set[str] = set()
    todo = [source]
    while todo:
        code = lua_code(todo.pop())
        new = {name for name in functions if re.search(rf"\b{name}\(", code)} - found
        found |= new
        todo += [functions[name] for name in new]
    return found


def test_each_script_names_just_the_shared_functions_that_it_calls():
    functions = {name[1:].removesuffix(".lua"): source for name, source in shared().items()}
    named = {name: set(uses(source)) for name, source in scripts().items()}
    assert named == {name: called(source, functions) for name, source in scripts().items()}


def test_a_call_through_another_shared_function_is_seen():
    functions = {"wake": "nudge(list)", "nudge": "return 1", "other": "wake()"}
    assert called("wake() -- other()", functions) == {"wake", "nudge"}


def test_each_shared_function_says_what_it_does():
    assert [name for name, source in shared().items() if not re.match(r"-- \S", source)] == []


def test_each_shared_function_is_handed_what_it_needs():
    found = [name for name, source in shared().items() if re.search("KEYS|ARGV", lua_code(source))]
    assert found == []


def lua_globals(source: str) -> list[str]:
    """Names that are assigned without `local`: on a real server the script would fail there."""
    code, count = lua_code(source), 1
    while count:
        code, count = re.subn(r"\{[^{}]*\}", "", code)  # fields of tables look like assignments
    name_list = r"([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)"
    local = re.findall(rf"\blocal\s+(?:function\s+)?{name_list}|\bfor\s+{name_list}\s", code)
    local += re.findall(r"\bfunction\b[^(]*\(([^)]*)()\)", code)
    known = set(re.findall(r"\w+", " ".join(" ".join(pair) for pair in local)))
    assigned = re.findall(rf"(?:^|\b(?:then|do|else)\b|;)[ \t]*{name_list}\s*=(?!=)", code, re.M)
    assigned += re.findall(r"^\s*function\s+(\w+)\s*\(", code, re.M)
    return [name for names in assigned for name in re.findall(r"\w+", names) if name not in known]


def test_scripts_always_say_local():
    found = {name: lua_globals(source) for name, source in (scripts() | shared()).items()}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source", ["found = 1", "local a\na, b = 1, 2", "if x then y = 1 end", "function f() end"]
)
def test_a_missing_local_is_seen(source):
    assert lua_globals(source)
