"""What a process worker runs for a flow run: its job variables over the pool's own command."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatcher.errors import InvalidRun

_PATH = "flow_run.job_variables"


@dataclass(frozen=True, slots=True)
class ProcessJob:
    """One child process to run; an `env` value of None takes the variable away."""

    command: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    working_dir: str | None = None
    stream_output: bool = True


def process_job(job_variables: Mapping[str, Any] | None, pool_command: str = "") -> ProcessJob:
    """Return what to run for these job variables in a process pool (Prefect's process worker).

    `command` is a list of words, or a string that is split like a shell's words; no shell runs.
    Raises InvalidRun with the field path.
    """
    variables = dict(job_variables or {})
    command = variables.get("command") or pool_command
    working_dir = variables.get("working_dir")
    if working_dir is not None and not isinstance(working_dir, str):
        raise InvalidRun(f"{_PATH}.working_dir", "must be a path")
    stream_output = variables.get("stream_output")
    if stream_output is not None and not isinstance(stream_output, bool):
        raise InvalidRun(f"{_PATH}.stream_output", "must be true or false")
    return ProcessJob(
        command=_words(command),
        env=_environment(variables.get("env")),
        working_dir=working_dir,
        stream_output=stream_output is not False,
    )


def payload_process_job(payload: bytes, pool_command: str = "") -> ProcessJob:
    """Return what to run for a stored payload; raises InvalidRun as `process_job` does."""
    return process_job(json.loads(payload)["flow_run"].get("job_variables"), pool_command)


def _words(command: object) -> tuple[str, ...]:
    path = f"{_PATH}.command"
    if not command:
        raise InvalidRun(
            path, "is missing, and the pool has no command of its own (`pool create --command`)"
        )
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise InvalidRun(path, f"cannot be split into words: {error}") from None
    elif isinstance(command, list) and all(isinstance(word, str) for word in command):
        words = command
    else:
        raise InvalidRun(path, "must be a string or a list of strings")
    if not words or not words[0]:
        raise InvalidRun(path, "names no program")
    if any("\0" in word for word in words):
        raise InvalidRun(path, "contains a NUL character")
    return tuple(words)


def _environment(env: object) -> dict[str, str | None]:
    path = f"{_PATH}.env"
    if env is None:
        return {}
    if not isinstance(env, dict):
        raise InvalidRun(path, "must be an object of names and strings")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidRun(path, f"has a name that no environment can hold: {name[:40]!r}")
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise InvalidRun(f"{path}.{name}", "must be a string, or null to take it away")
    return dict(env)
