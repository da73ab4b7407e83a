"""The documents say what the code does: generated tables are equal, snippets run."""

import re
import subprocess
import sys
from pathlib import Path

from dispatcher import scripts, settings
from dispatcher.http import counting, metrics

ROOT = Path(__file__).parents[1]


def between(text: str, marker: str) -> str:
    return text.split(f"<!-- {marker} -->\n")[1].split(f"\n<!-- /{marker} -->")[0]


def test_the_table_of_steps_in_the_protocol_is_generated_from_the_headers():
    text = (ROOT / "docs" / "protocol.md").read_text()

    assert between(text, "steps") == scripts.markdown_table()


def test_the_table_of_settings_is_generated_from_their_descriptions():
    text = (ROOT / "docs" / "operations.md").read_text()

    assert between(text, "settings") == settings.markdown_table()


def test_the_python_snippet_of_the_readme_runs_as_it_stands(real_server, prefix, tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    command = [sys.executable, "-c", snippet]
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "DISPATCHER_REDIS_URL": real_server.url,
        "DISPATCHER_KEY_PREFIX": prefix,
    }
    create = ["-m", "dispatcher.cli", "pool", "create", "etl"]
    subprocess.run([sys.executable, *create], env=environ, check=True, capture_output=True)

    done = subprocess.run(command, env=environ, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"accepted [0-9a-f-]{36} due \d+\n", done.stdout)


def test_every_decision_is_numbered_and_says_what_was_decided_and_why():
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(path.name[:4]) for path in decisions]

    assert numbers == list(range(1, len(decisions) + 1))
    for path in decisions:
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]} ")
        assert "**Decision.**" in text
        assert "**Why.**" in text


def test_the_metrics_of_the_docs_are_those_that_are_scraped():
    text = (ROOT / "docs/http.md").read_text()
    section = text.partition("## Metrics\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    told: set[str] = set()
    for cell in cells:
        names = re.findall(r"`([^`]+)`", cell)
        whole = names[0].rpartition("_")[0]  # what `…` stands for is as far as they agree
        while not whole.endswith(("dispatcher", "dispatcher_runs")):
            whole = whole.rpartition("_")[0]
        told |= {name.replace("…", whole) for name in names}
    counts = counting.Counts(lambda pool, runs: [])
    found = [
        *metrics._pool_metrics([]),
        *metrics._queue_metrics([]),
        *metrics._count_metrics(counts),
    ]
    names = {f"{each.name}_total" if each.type == "counter" else each.name for each in found}
    rest = {"redis_up", "loop_last_turn_timestamp_seconds", "http_requests_total", "held_claims"}
    assert told == names | {f"dispatcher_{name}" for name in rest}
