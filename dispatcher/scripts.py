"""The atomic steps: Lua files loaded as package data, their names bound to KEYS and ARGV.

The header of a script is its contract: it names every KEYS and ARGV slot, and the shared
functions (files that begin with `_`) that are put in front of it. Callers use names only.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dispatcher.keys import PoolKeys

Value = str | bytes | int
_SLOT = re.compile(r"^-- (KEYS|ARGV)\[(\d+)(?:\.\.\.)?\] +(\w+)", re.MULTILINE)
_USES = re.compile(r"^-- Uses +(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One atomic step, ready to be called: `names` of its slots, whole `source`, its `sha`."""

    name: str
    source: str
    sha: str
    keys: tuple[str, ...]
    args: tuple[str, ...]

    def bind(
        self, keys: PoolKeys, args: Mapping[str, Value], tail: Sequence[str] = ()
    ) -> tuple[Sequence[str], list[Value]]:
        """Return KEYS and ARGV in the script's order; `tail` fills its `ARGV[n...]`.

        Raises KeyError when a name is missing, ValueError when one is not the script's.
        """
        fixed = self.args[:-1] if tail else self.args
        values = [args[name] for name in fixed]
        if len(args) > len(fixed):
            unknown = sorted(args.keys() - fixed)
            raise ValueError(f"{self.name}.lua has no argument {', '.join(unknown)}")
        return keys.of(self.keys), [*values, *tail]


def _read(name: str) -> str:
    return files("dispatcher").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


@cache
def load(name: str) -> Script:
    """Return the script of that name with the shared functions it uses in front of it."""
    text = _read(name)
    slots = [(kind, label) for kind, _, label in _SLOT.findall(text)]
    uses = _USES.search(text)
    shared = [_read(f"_{used.strip()}") for used in uses.group(1).split(",")] if uses else []
    source = "\n".join([*shared, text])
    return Script(
        name=name,
        source=source,
        sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(),
        keys=tuple(label for kind, label in slots if kind == "KEYS"),
        args=tuple(label for kind, label in slots if kind == "ARGV"),
    )


def names() -> list[str]:
    """Return the names of all atomic steps."""
    found = (path.name for path in files("dispatcher").joinpath("lua").iterdir())
    return sorted(n.removesuffix(".lua") for n in found if not n.startswith("_"))


def markdown_table() -> str:
    """Return the steps with their slots as the Markdown table of docs/protocol.md."""
    rows = ["| step | KEYS, in order | ARGV, in order | returns |", "| --- | --- | --- | --- |"]
    for name in names():
        script, text = load(name), _read(name)
        args = [*script.args]
        if re.search(r"^-- ARGV\[\d+\.\.\.\]", text, re.MULTILINE):
            args[-1] += " …"
        returns = re.search(r"^-- Returns +(.+)$", text, re.MULTILINE)
        answer = returns.group(1).replace("|", "\\|") if returns else ""
        rows.append(f"| `{name}` | {_listed(script.keys)} | {_listed(args)} | {answer} |")
    return "\n".join(rows)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
