"""What people do by the documents: the commands of marked blocks, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.probes import ROOT
from tests.scenarios.fleet import BIN

# Speaks as redis-cli does to a pipe, so that the tests need none.
REDIS_CLI = """#!{python}
import sys
import redis

client = redis.Redis.from_url("{url}", protocol=2, decode_responses=True, socket_timeout=30)
client.response_callbacks.clear()
answer = client.execute_command(*sys.argv[1:])
print(*answer if isinstance(answer, list) else [answer], sep="\\n")
"""


def block(page: str, marker: str) -> str:
    """Return the commands between two marks of a page in docs/."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```\n<!-- /{marker} -->", text, re.DOTALL)
    assert found, f"docs/{page} has no commands marked {marker}"
    return found[1]


def redis_cli(directory: Path, url: str) -> Path:
    """Write a `redis-cli` that speaks to this server into a directory for PATH."""
    directory.mkdir(exist_ok=True)
    program = directory / "redis-cli"
    program.write_text(REDIS_CLI.format(python=sys.executable, url=url))
    program.chmod(0o700)
    return directory


def do(commands: str, *, path: Path | None = None, cwd: Path | None = None, **settings: str) -> str:
    """Run commands in a shell that stops at the first failure; return what they write.

    `path` has programs that come before all others; `settings` are environment variables.
    """
    paths = [str(path)] if path else []
    paths += [str(BIN), os.environ["PATH"]]
    done = subprocess.run(
        ["/bin/sh", "-euc", commands],
        env={**os.environ, **settings, "PATH": os.pathsep.join(paths)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout
