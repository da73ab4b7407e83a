"""Each rule of docs/semantics.md names a test, and every test that it names exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "docs" / "semantics.md").read_text()
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| (?!---|rule |stored )", line)]
NAMED = re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", TEXT)
ALL = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}


def defined(file: str, name: str) -> bool:
    """Whether a test is in the file, or in any file where none is named."""
    sources = [ALL.get(file, "")] if file else ALL.values()
    return any(re.search(rf"^def {name}\(", source, re.MULTILINE) for source in sources)


def test_every_test_that_a_rule_names_exists():
    assert len(NAMED) > 60
    assert [(file, name) for file, name in NAMED if not defined(file, name)] == []


@pytest.mark.parametrize("row", ROWS)
def test_every_rule_names_a_test(row):
    assert re.search(r"`(test_\w+\.py::)?test_\w+`", row)


def test_a_test_that_does_not_exist_is_seen():
    assert not defined("test_semantics.py", "test_of_nothing")
    assert not defined("", "test_of_nothing_at_all")
