"""DISPATCHER_* settings: read once from the environment, with where each value comes from."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dispatcher.errors import InvalidSettings

PREFIX = "DISPATCHER_"
# Names that share our prefix and are not settings: what a worker tells its children, and the
# switches of the tests.
_NOT_SETTINGS = ("DISPATCHER_RUN_", "DISPATCHER_TEST_", "DISPATCHER_DEV_DIR")
_SECRETS = ("api_auth_string", "api_token")


class Settings(BaseModel):
    """Every setting of the `dispatcher` command; flags beat environment, environment defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis_url: str | None = Field(
        default=None,
        description="Where Redis is: redis://, rediss:// (TLS), unix://, redis+sentinel:// or "
        "redis+cluster://. Without it the server of a running `dispatcher dev` of the same user "
        "is used.",
    )
    redis_url_file: str | None = Field(
        default=None, description="A file that holds the URL, for secrets."
    )
    key_prefix: str = Field(
        default="dispatcher",
        pattern=r"^[^{}\s]+$",
        description="What every key begins with; tenants and tests have their own.",
    )
    max_payload_bytes: int = Field(
        default=1_048_576, ge=1_024, description="Largest flow run that is accepted."
    )
    sweep_s: float = Field(
        default=5.0,
        ge=0.1,
        description="How often a dispatcher looks at one pool without being told to.",
    )
    repair_s: float = Field(
        default=300.0,
        ge=0.1,
        description="How long a dispatcher rests between two passes that compare and repair what "
        "must agree.",
    )
    http: str | None = Field(
        default=None,
        description="Where HTTP is served: HOST:PORT, port 0 for any, or `off`. `dispatcher run` "
        "serves none without it, `dispatcher dev` a port of this machine.",
    )
    http_without_auth: bool = Field(
        default=False,
        description="Serve HTTP without a login to whoever reaches the address. Without it and "
        "without a login, HTTP is served to this machine alone.",
    )
    http_max_body_bytes: int = Field(
        default=16_777_216, ge=4_096, description="Largest body of an HTTP request."
    )
    api_auth_string: str | None = Field(
        default=None, description="USER:PASSWORD that HTTP asks for (Basic)."
    )
    api_auth_string_file: str | None = Field(
        default=None, description="A file that holds USER:PASSWORD."
    )
    api_token: str | None = Field(
        default=None, description="The bearer token that HTTP asks for, or takes beside a login."
    )
    api_token_file: str | None = Field(
        default=None, description="A file that holds the bearer token."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important log line that is written."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="How log lines look; auto is console on a terminal, else json."
    )


class Effective(NamedTuple):
    """One setting as it holds now: `source` is default, environment or flag."""

    name: str
    value: str
    source: str
    description: str


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def read_settings(
    environ: Mapping[str, str] | None = None, **flags: Any
) -> tuple[Settings, list[Effective], list[str]]:
    """Return the settings, each with its source, and warnings about unknown variables.

    `flags` are values given on the command line; None means not given.
    Raises InvalidSettings naming the variable or flag at fault.
    """
    environ = os.environ if environ is None else environ
    given = {
        name: environ[variable(name)]
        for name in Settings.model_fields
        if environ.get(variable(name))
    }
    chosen = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings.model_validate({**given, **chosen})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        source = f"--{name.replace('_', '-')}" if name in chosen else variable(name)
        raise InvalidSettings(f"{source}: {first['msg']}") from None
    effective = [
        Effective(
            variable(name),
            masked(name, getattr(settings, name)),
            "flag" if name in chosen else "environment" if name in given else "default",
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]
    return settings, effective, _unknown(environ)


def masked(name: str, value: Any) -> str:
    """Return a value for showing: what is secret in a URL, malformed ones too, becomes ***."""
    text = "" if value is None else str(value)
    if name == "redis_url" and text:
        scheme, mark, rest = text.partition("://")
        login, at, place = rest.rpartition("@")
        user = re.split("[:/?#]", login)[0]
        place, query, _ = place.partition("?")
        secret = "***" if query else ""
        return f"{scheme}{mark}{user}{':***' if user != login else ''}{at}{place}{query}{secret}"
    return "***" if name in _SECRETS and text else text


def read_secret(path: str, name: str) -> str:
    """Return the content of a secret's file without its line end; `name` is the setting.

    Raises InvalidSettings when it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InvalidSettings(f"{name}: {path} cannot be read: {reason}") from None


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = [variable(name) for name in Settings.model_fields]
    warnings = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name.startswith(_NOT_SETTINGS):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        warnings.append(f"{name} is not a setting; did you mean {near[0]}?")
    return warnings


def markdown_table() -> str:
    """Return the settings as the Markdown table of docs/operations.md."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{str(field.default).lower()}`"
        rows.append(f"| `{variable(name)}` | {default} | {field.description} |")
    return "\n".join(rows)
