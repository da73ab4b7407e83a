"""The table of findings in docs/operations.md names each finding that there is, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("lua/reconcile_*.lua", "reconciling.py", "preflight.py")
# `wrong("no-slot", …)` and `what = "stray-slot"` in Lua, `Finding("refused", …)` and
# `("version", …)` in Python.
CODE = re.compile(r'(?:wrong\(|what = |Finding\(|_finding\(|append\(\(|\[\()"([a-z-]+)"')
OTHERS = {"two-places", "no-record", "not-checked"}  # chosen by a condition, or a constant


def test_each_finding_is_in_the_table_of_the_docs():
    files = [path for name in SOURCES for path in (ROOT / "dispatcher").glob(name)]
    codes = {code for path in files for code in CODE.findall(path.read_text())}
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.split("<!-- findings -->\n")[1].split("<!-- /findings -->")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:]]

    assert len(codes) > 25
    assert set(re.findall(r"`([a-z-]+)`", " ".join(first_cells))) == codes | OTHERS
