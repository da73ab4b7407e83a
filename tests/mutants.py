"""Break each script on purpose: the property test must notice every one of these mutations.

Steps that it does not do are judged by tests of their own. `make mutants` does all mutations, two
at a time, with fixed seeds, and fails if one survives; `python tests/mutants.py claim 7` does those
of the scripts and numbers that are named.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LUA = ROOT / "dispatcher" / "lua"
PROPERTIES = ("tests/redis/test_properties.py",)
PARTS = ("", "_bounds", "_passes", "_walks")
RECONCILING = tuple(f"tests/redis/test_reconciling{part}.py" for part in PARTS)
DELETE = ("tests/redis/test_delete.py",)
TESTS = {  # by how the name of a script begins; all others: the property test
    "reconcile_": RECONCILING,
    "_found": RECONCILING,
    "_untouchable": RECONCILING,
    "delete_": DELETE,
    "_is_shut": DELETE,
    "_runs_left": DELETE,
    "_forget_queue": DELETE,
    "hand_over": ("tests/redis/test_hand_over.py",),
    "renew_run": ("tests/redis/test_hand_over.py",),
    "abandon": ("tests/redis/test_abandon.py",),
    "create_pool": ("tests/redis/test_create_pool.py",),
    "create_queue": ("tests/redis/test_create_queue.py",),
}
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


def tests_of(script: str) -> tuple[str, ...]:
    """Return the test files that must notice a mutation of this script."""
    return next((files for start, files in TESTS.items() if script.startswith(start)), PROPERTIES)


def occurrences(mutant: Mutant) -> int:
    """Return how often a mutation's old text is in its script: once, or the list has rotted."""
    return (LUA / f"{mutant.script}.lua").read_text().count(mutant.old)


class Verdict(NamedTuple):
    """What the property test said to a mutation."""

    passed: bool
    asserted: bool
    said: str


def judge(number: int) -> Verdict:
    """Run the tests of its script with one mutation, in a process of their own."""
    files = PROPERTIES if number == CONTROL else tests_of(MUTANTS[number].script)
    steered = {"DISPATCHER_TEST_STEPS": str(STEPS), "DISPATCHER_TEST_MUTANT": str(number)}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-qx", "-p", "no:randomly", *files]
    wanted = f"invariants and {BACKEND}" if files is PROPERTIES else BACKEND
    test = subprocess.run(
        [*command, "-k", wanted],
        cwd=ROOT,
        env=os.environ | steered,
        capture_output=True,
        text=True,
        check=False,
    )
    if test.returncode not in (0, 1):
        raise SystemExit(f"the tests did not run:\n{test.stdout[-2000:]}{test.stderr}")
    messages = re.findall(r"^[E |]*AssertionError(?:: (.+))?$", test.stdout, re.MULTILINE)
    asserts = re.findall(r"^> +(assert .+)$", test.stdout, re.MULTILINE)
    errors = re.findall(r"^E +(\w.+)$", test.stdout, re.MULTILINE)
    said = [*filter(None, messages), *reversed(asserts), *errors, ""]
    failed = re.search(r"^[E |]*(?:AssertionError|Failed)\b", test.stdout, re.MULTILINE)
    return Verdict(test.returncode == 0, bool(failed or asserts), said[0])


def chosen(words: Sequence[str]) -> list[int]:
    """Return the numbers of the mutations that are named by number or script; no words mean all."""
    numbers = [CONTROL, *range(len(MUTANTS))]
    return [
        n
        for n in numbers
        if not words or str(n) in words or (n < CONTROL and MUTANTS[n].script in words)
    ]


def main(words: Sequence[str]) -> int:
    """Judge these mutations; 1 when one survives, or is noticed only because it cannot run."""
    rotten = [mutant for mutant in MUTANTS if occurrences(mutant) != 1]
    for mutant in rotten:
        print(f"{mutant.script}: not there exactly once: {mutant.old!r}")
    if rotten:
        return 1
    numbers, survivors = chosen(words), []
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
    print(f"{len(numbers)} judged, {len(survivors)} not as they should be")
    for name in survivors:
        print(f"  {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
