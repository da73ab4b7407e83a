"""Break each script on purpose: the property test must notice every one of these mutations.

`make mutants` does them all, two at a time, with fixed seeds, and fails if one survives.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LUA = ROOT / "dispatcher" / "lua"
TEST = "tests/redis/test_properties.py"
BACKEND = "valkey"  # quicker than fakeredis, and it decides
STEPS = 12_000
CONTROL = 9999  # the scripts as they are: the same steps must pass


class Mutant(NamedTuple):
    """One mistake in one script, and the promise that it breaks."""

    script: str
    old: str
    new: str
    why: str


def listed(text: str) -> list[Mutant]:
    """Return the mutations of `mutations.txt`: one for each paragraph after the first two."""
    found = []
    for paragraph in text.strip().split("\n\n")[2:]:
        first, *lines = paragraph.split("\n")
        script, _, why = first.partition(": ")
        old, new = ("\n".join(x[2:] for x in lines if x[:2] == sign) for sign in ("- ", "+ "))
        found.append(Mutant(script, old, new, why))
    return found


MUTANTS = listed((ROOT / "tests" / "mutations.txt").read_text())


def occurrences(mutant: Mutant) -> int:
    """Return how often a mutation's old text is in its script: once, or the list has rotted."""
    return (LUA / f"{mutant.script}.lua").read_text().count(mutant.old)


class Verdict(NamedTuple):
    """What the property test said to a mutation."""

    passed: bool
    asserted: bool
    said: str


def judge(number: int) -> Verdict:
    """Run the property test with one mutation, in its own process."""
    steered = {"DISPATCHER_TEST_STEPS": str(STEPS), "DISPATCHER_TEST_MUTANT": str(number)}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:randomly", TEST]
    test = subprocess.run(
        [*command, "-k", f"invariants and {BACKEND}"],
        cwd=ROOT,
        env=os.environ | steered,
        capture_output=True,
        text=True,
        check=False,
    )
    if test.returncode not in (0, 1):
        raise SystemExit(f"the property test did not run:\n{test.stdout[-2000:]}{test.stderr}")
    messages = re.findall(r"^[E |]*AssertionError(?:: (.+))?$", test.stdout, re.MULTILINE)
    asserts = re.findall(r"^> +(assert .+)$", test.stdout, re.MULTILINE)
    errors = re.findall(r"^E +(\w.+)$", test.stdout, re.MULTILINE)
    said = [*filter(None, messages), *reversed(asserts), *errors, ""]
    return Verdict(test.returncode == 0, bool(messages), said[0])


def main() -> int:
    """Judge all mutations; 1 when one survives, or is noticed only because it cannot run."""
    rotten = [mutant for mutant in MUTANTS if occurrences(mutant) != 1]
    for mutant in rotten:
        print(f"{mutant.script}: not there exactly once: {mutant.old!r}")
    if rotten:
        return 1
    numbers = [CONTROL, *range(len(MUTANTS))]
    survivors = []
    with ThreadPoolExecutor(2) as pool:
        for number, verdict in zip(numbers, pool.map(judge, numbers), strict=True):
            expected = verdict.passed if number == CONTROL else verdict.asserted
            mutant = None if number == CONTROL else MUTANTS[number]
            name = (
                f"{number} {mutant.script}: {mutant.why}" if mutant else "the scripts as they are"
            )
            word = "passes" if verdict.passed else "noticed" if verdict.asserted else "cannot run"
            line = f"{'ok ' if expected else 'BAD'} {word:8} {name}\n       {verdict.said[:110]}"
            print(line, flush=True)  # it takes minutes
            survivors += [] if expected else [name]
    print(f"{len(MUTANTS)} mutations, {len(survivors)} not noticed")
    for name in survivors:
        print(f"  {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
