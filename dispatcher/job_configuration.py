"""What a worker runs: a pool's template and a run's job variables made into one job."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatcher.errors import InvalidRun, InvalidSettings
from dispatcher.job_templates import (
    TEMPLATE,
    VARIABLES,
    Configuration,
    configure,
    fill_text,
    parse_template,
)
from dispatcher.stored import Pool

_MOST_S = 1e9  # about 30 years; a lock cannot be told to wait for much longer


@dataclass(frozen=True, slots=True)
class ProcessJob:
    """One child process to run; an `env` value of None takes the variable away.

    `timeout_s` is for each start of the run; None has no end. An empty `name` says nothing.
    """

    command: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    working_dir: str | None = None
    stream_output: bool = True
    timeout_s: float | None = None
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandlerJob:
    """What a handler worker runs; an empty `handler` is the default one of its program.

    `timeout_s` is for each start of the run; None has no end.
    """

    handler: str = ""
    timeout_s: float | None = None


def process_job(
    job_variables: Mapping[str, Any] | None,
    pool_command: str = "",
    *,
    base_job_template: str = "",
    timeout_ms: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> ProcessJob:
    """Return what to run for these job variables in a process pool (Prefect's process worker).

    `command` is a list of words, or a string that is split like a shell's words; no shell runs.
    `timeout_ms` is the queue's, for a job that says nothing of it: `timeout_s` null means no end.
    `environ` is for `{{ $NAME }}`, None leaves that as it is. Raises InvalidRun with the path.
    """
    job = configure(job_variables, base_job_template, environ=environ)
    return _process_job(job, pool_command, timeout_ms)


def payload_process_job(
    payload: bytes,
    pool_command: str = "",
    *,
    base_job_template: str = "",
    timeout_ms: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> ProcessJob:
    """Return what to run for a stored payload; raises InvalidRun as `process_job` does."""
    run = json.loads(payload)["flow_run"]
    job = configure(run.get("job_variables"), base_job_template, environ=environ)
    return _process_job(job, pool_command, timeout_ms, run)


def payload_handler_job(
    payload: bytes,
    *,
    base_job_template: str = "",
    timeout_ms: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> HandlerJob:
    """Return which handler is to run for a stored payload: the one named by `handler`.

    Raises InvalidRun as `process_job` does; nobody knows here which handlers there are.
    """
    run = json.loads(payload)["flow_run"]
    job = configure(run.get("job_variables"), base_job_template, environ=environ)
    return _handler_job(job, timeout_ms)


def check_template(text: str, pool_type: str = "") -> None:
    """Raise InvalidSettings for a template that cannot be used.

    In a process pool also for one that no run can make a job for a process of.
    """
    template = parse_template(text)
    if template is None or pool_type != "process":
        return
    try:
        _process_job(configure(None, text, check=False), "true", None)
    except InvalidRun as error:
        if error.path.startswith(TEMPLATE):
            raise InvalidSettings(str(error)) from None


def check_job(job_variables: Mapping[str, Any] | None, pool: Pool) -> None:
    """Raise InvalidRun, with the field path, for job variables that the pool makes no job of.

    What a process needs, such as a command, is asked of the runs of process pools, and of those of
    RQ pools that name no handler.
    """
    job = configure(job_variables, pool.base_job_template)
    handler = _handler_job(job, None).handler if pool.type in ("handler", "rq") else ""
    if pool.type == "process" or (pool.type == "rq" and not handler):
        _process_job(job, pool.command, None)


def _process_job(
    job: Configuration,
    pool_command: str,
    timeout_ms: int | None,
    run: Mapping[str, Any] | None = None,
) -> ProcessJob:
    fields = job.fields
    working_dir, stream_output = fields.get("working_dir"), fields.get("stream_output")
    if working_dir is not None and not isinstance(working_dir, str):
        raise InvalidRun(job.path("working_dir"), "must be a path")
    if stream_output is not None and not isinstance(stream_output, bool):
        raise InvalidRun(job.path("stream_output"), "must be true or false")
    return ProcessJob(
        command=_words(job, pool_command),
        env=_environment(job),
        working_dir=working_dir or None,
        stream_output=stream_output is not False,
        timeout_s=_timeout_s(job, timeout_ms),
        name=_name(job, run),
        labels=_labels(job),
    )


def _handler_job(job: Configuration, timeout_ms: int | None) -> HandlerJob:
    _check_override(job, "handler")
    handler = job.fields.get("handler")
    if handler is not None and not isinstance(handler, str):
        raise InvalidRun(job.path("handler"), "must be the name of a handler")
    return HandlerJob((handler or "").strip(), _timeout_s(job, timeout_ms))


def _check_override(job: Configuration, name: str) -> None:
    template = job.template
    if template and job.given.get(name) is not None and name not in template.names:
        raise InvalidRun(
            f"{VARIABLES}.{name}",
            f"cannot be given: the pool's base job template has no {{{{ {name} }}}}, "
            f"so nobody can override the {name}",
        )


def _words(job: Configuration, pool_command: str) -> tuple[str, ...]:
    path, command = job.path("command"), job.fields.get("command")
    _check_override(job, "command")
    if job.template is not None and isinstance(command, str) and not command.strip():
        command = None  # of placeholders that nothing was given for
    command = command or pool_command
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


def _environment(job: Configuration) -> dict[str, str | None]:
    path, env = job.path("env"), job.fields.get("env")
    if env is None:
        return {}
    if not isinstance(env, dict):
        raise InvalidRun(path, "must be an object of names and strings")
    if job.template is not None:
        env = {name: _as_text(value) for name, value in env.items()}
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidRun(path, f"has a name that no environment can hold: {name[:40]!r}")
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise InvalidRun(f"{path}.{name}", "must be a string, or null to take it away")
    return dict(env)


def _timeout_s(job: Configuration, queue_ms: int | None) -> float | None:
    if "timeout_s" not in job.fields:
        return None if queue_ms is None else queue_ms / 1000
    own = job.fields["timeout_s"]
    if own is None:
        return None
    if isinstance(own, bool) or not isinstance(own, int | float) or not 0 < own <= _MOST_S:
        raise InvalidRun(
            job.path("timeout_s"),
            "must be a number of seconds above 0 and not above 1e9, or null for no timeout",
        )
    return float(own)


def _name(job: Configuration, run: Mapping[str, Any] | None) -> str:
    name = job.fields.get("name")
    if name is None:
        return ""
    if not isinstance(name, str):
        raise InvalidRun(job.path("name"), "must be a string")
    if run is not None:
        name = fill_text(name, {"flow_run": run, "flow": {"id": run.get("flow_id")}})
    return name.replace("\0", "")


def _labels(job: Configuration) -> dict[str, str]:
    path, labels = job.path("labels"), job.fields.get("labels")
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise InvalidRun(path, "must be an object of names and strings")
    texts: dict[str, str] = {}
    for name, value in labels.items():
        text = _as_text(value)
        if text is not None and not isinstance(text, str):
            raise InvalidRun(f"{path}.{name}", "must be a string")
        texts |= {} if text is None else {name: text}
    return texts


def _as_text(value: object) -> object:
    """Return a number or a truth value as text, as Prefect's workers do; the rest stays."""
    return str(value) if isinstance(value, int | float) else value
