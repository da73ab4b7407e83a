"""Base job templates: what a pool makes of the job variables of its runs, as Prefect's pools do.

Nothing in a template is code. A placeholder stands for a variable; what is put there is data and
is not searched for variables again. Size, depth, and the size of what comes out are bounded.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from dispatcher.errors import InvalidRun, InvalidSettings
from dispatcher.job_schemas import Schema, SchemaError, shown

VARIABLES: Final = "flow_run.job_variables"
TEMPLATE: Final = "base_job_template"
MOST_BYTES: Final = 262_144
MOST_FILE_BYTES: Final = 1_048_576  # a pool's JSON, with blanks
MOST_LEVELS: Final = 50
MOST_RESULT_BYTES: Final = 4_194_304
_MOST_PARTS: Final = 20
OWN: Final = frozenset({"timeout_s"})  # variables that work whatever a template says of them
_PLACEHOLDER: Final = re.compile(r"\{\{\s*([\w.\-\[\]$]+)\s*\}\}")
_MISSING: Final = object()
_KEPT: Final = object()
Lookup = Callable[[str], object]
Environ = Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class JobTemplate:
    """A pool's template, checked: `names` are the variables that its placeholders stand for."""

    configuration: Mapping[str, Any]
    defaults: Mapping[str, Any]
    names: frozenset[str]
    schema: Schema


@dataclass(frozen=True, slots=True)
class Configuration:
    """A run's job configuration; `given` are the job variables that the run brought."""

    fields: Mapping[str, Any]
    given: Mapping[str, Any]
    template: JobTemplate | None = None

    def path(self, name: str) -> str:
        """Return where a field comes from: the run's job variables, or the template alone."""
        template = self.template
        if template is None or name in self.given or name in template.names:
            return f"{VARIABLES}.{name}"
        return f"{TEMPLATE}.job_configuration.{name}"


def configure(
    job_variables: Mapping[str, Any] | None,
    base_job_template: str = "",
    *,
    environ: Environ | None = None,
    check: bool = True,
) -> Configuration:
    """Return what a pool's template makes of a run's job variables; without one, these are it.

    `environ` is what `{{ $NAME }}` is read from; None leaves it as it is, for a worker to read.
    `check` compares the variables with their schema. Raises InvalidRun with the field path.
    """
    given = _expanded(job_variables or {})
    if problem := next(_stored_elsewhere(given, VARIABLES), None):
        raise InvalidRun(*problem)
    try:
        template = parse_template(base_job_template)
    except InvalidSettings as error:
        raise InvalidRun("", f"the pool's {error}") from None
    filler = _Filler(environ)
    if template is None:
        return Configuration(filler.fill_environ(given), given)
    variables = {**template.defaults, **given}
    variables["env"] = _merged_env(template.defaults.get("env"), given.get("env"))
    if variables["env"] is None:
        del variables["env"]
    if check:
        _check(template, variables)
    filled = filler.fill_environ(variables)
    return Configuration(_filled(template, filled, filler), given, template)


def fill_text(text: str, values: Mapping[str, Any]) -> str:
    """Return a text with `{{ ctx.… }}` replaced from `values`; what is missing leaves nothing."""
    filled = _Filler(None, _named("ctx.", {"ctx": values})).fill(text)
    return "" if filled is _MISSING else _text(filled)


@lru_cache(maxsize=16)
def parse_template(text: str) -> JobTemplate | None:
    """Return a stored template; None for one that is empty, which leaves everything to the runs.

    Raises InvalidSettings with the path of what is wrong.
    """
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise InvalidSettings(f"{TEMPLATE}: is larger than {MOST_BYTES // 1024} KiB")
    whole = _object(text or "{}", TEMPLATE)
    if not whole:
        return None
    _check_depth(whole)
    parts = {}
    for name in ("job_configuration", "variables"):
        if not isinstance(whole.get(name), dict):
            problem = "must be an object" if name in whole else "is missing"
            raise InvalidSettings(f"{TEMPLATE}.{name}: {problem}")
        parts[name] = whole[name]
    schema = _schema(parts["variables"])
    for part in (parts["job_configuration"], schema.defaults):
        path = f"{TEMPLATE}.{'variables' if part is schema.defaults else 'job_configuration'}"
        for where, problem in _stored_elsewhere(part, path):
            raise InvalidSettings(f"{where}: {problem}")
    names = frozenset(_roots(parts["job_configuration"]))
    if unknown := sorted(names - schema.names):
        raise InvalidSettings(
            f"{TEMPLATE}.job_configuration: {{{{ {unknown[0]} }}}} is not among "
            "variables.properties; declare it there"
        )
    defaults = {name: value for name, value in schema.defaults.items() if value is not None}
    return JobTemplate(parts["job_configuration"], defaults, names, schema)


def read_template(raw: bytes) -> str:
    """Return a template as it is stored, from its JSON or that of a pool; empty for `{}`.

    Raises InvalidSettings when it is neither, or cannot be used.
    """
    if len(raw) > MOST_FILE_BYTES:
        raise InvalidSettings(f"{TEMPLATE}: a file of more than {MOST_FILE_BYTES // 1024} KiB")
    try:
        whole = _object(raw.decode("utf-8-sig"), TEMPLATE)
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{TEMPLATE}: is not UTF-8: {error.reason}") from None
    template = whole.get(TEMPLATE, whole)
    if template is whole and whole and "job_configuration" not in whole:
        raise InvalidSettings(
            f"{TEMPLATE}: is neither a template (job_configuration, variables) nor a pool with one"
        )
    if not isinstance(template, dict):
        raise InvalidSettings(f"{TEMPLATE}: must be an object")
    text = json.dumps(template, separators=(",", ":"), ensure_ascii=False) if template else ""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidSettings(f"{TEMPLATE}: holds one half of a surrogate pair") from None
    parse_template(text)
    return text


def template_fields(text: str) -> dict[str, Any]:
    """Return a stored template as an object; empty for none, and for what is no JSON object."""
    try:
        return _object(text or "{}", TEMPLATE)
    except InvalidSettings:
        return {}


class _Filler:
    """Replaces placeholders, and counts what that makes, as a text can be put in many places."""

    def __init__(self, environ: Environ | None, lookup: Lookup | None = None) -> None:
        self._environ = environ
        self.lookup = lookup or (lambda _: _KEPT)
        self._left = MOST_RESULT_BYTES
        self._sizes: dict[str, int] = {}  # of values, by name

    def fill_environ(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return values with `{{ $NAME }}` read from the environment, if there is one."""
        filled: dict[str, Any] = value if self._environ is None else self.fill(value)
        return filled

    def fill(self, value: Any) -> Any:
        """Return a value with its placeholders replaced; keys and items without one go."""
        if isinstance(value, str):
            return self._fill_text(value) if "{{" in value else value
        if isinstance(value, dict):
            pairs = ((name, self.fill(each)) for name, each in value.items())
            return {name: each for name, each in pairs if each is not _MISSING}
        if isinstance(value, list):
            return [each for each in map(self.fill, value) if each is not _MISSING]
        return value

    def _fill_text(self, text: str) -> Any:
        alone = _PLACEHOLDER.fullmatch(text)
        if alone is None:
            return _PLACEHOLDER.sub(self._as_text, text)
        value = self._value(alone[1])
        if value is _KEPT:
            return text
        if alone[1] not in self._sizes:
            self._sizes[alone[1]] = _size(value)
        self._spend(self._sizes[alone[1]])
        return value

    def _as_text(self, found: "re.Match[str]") -> str:
        value = self._value(found[1])
        if value is _KEPT:
            return found[0]
        text = "" if value is _MISSING else _text(value)
        self._spend(len(text))
        return text

    def _value(self, name: str) -> object:
        if not name.startswith("$"):
            return self.lookup(name)
        return _KEPT if self._environ is None else self._environ.get(name.lstrip("$"), "")

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            size_mib = MOST_RESULT_BYTES // 1_048_576
            raise InvalidRun(VARIABLES, f"make a job configuration of more than {size_mib} MiB")


def _filled(
    template: JobTemplate, variables: Mapping[str, Any], filler: _Filler
) -> Mapping[str, Any]:
    configuration = template.configuration
    filler.lookup = _named("", variables)
    fields: dict[str, Any] = filler.fill(configuration)
    env = configuration.get("env", {} if template.defaults.get("env") else None)
    if isinstance(env, dict):
        fields["env"] = _merged_env(fields.get("env", {}), variables.get("env"))
    own = {name: variables[name] for name in OWN if name in variables}
    return {**{n: v for n, v in own.items() if n not in configuration}, **fields}


def _named(prefix: str, values: Mapping[str, Any]) -> Lookup:
    """Return what looks up names that begin so, `a.b` and `a[0]` inside of values too."""

    def lookup(name: str) -> object:
        if not name.startswith(prefix) or (not prefix and name.startswith("ctx.")):
            return _KEPT
        found: Any = values
        for part in name.replace("[", ".").replace("]", "").split("."):
            if isinstance(found, list) and part.isdecimal() and int(part[:9]) < len(found):
                found = found[int(part[:9])]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                return _MISSING
        return found

    return lookup


def _expanded(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables with `env.FOO` as FOO in env; what is nested already wins."""
    plain = {name: value for name, value in variables.items() if "." not in name}
    if len(plain) == len(variables):
        return plain
    tree: dict[str, Any] = {}
    ours = {id(tree)}
    for name in sorted(variables.keys() - plain.keys(), key=lambda name: name.count(".")):
        *way, last = name.split(".")
        if len(way) >= _MOST_PARTS:
            raise InvalidRun(f"{VARIABLES}.{name[:80]}", f"has more than {_MOST_PARTS} parts")
        place: Any = tree
        for part in way:
            inner = place.setdefault(part, {})
            if isinstance(inner, dict) and id(inner) not in ours:
                inner = place[part] = dict(inner)  # what the caller gave stays as it is
                ours.add(id(inner))
            place = inner
            if not isinstance(place, dict):
                break
        else:
            place.setdefault(last, variables[name])
    merged: dict[str, Any] = _merged(tree, plain)
    return merged


def _merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    both = {name: _merged(under[name], over[name]) for name in under.keys() & over.keys()}
    return {**under, **over, **both}


def _merged_env(under: Any, over: Any) -> Any:
    """Return an environment with another one over it; one that is null says nothing."""
    if isinstance(under, dict) and isinstance(over, dict):
        return {**under, **over}
    return under if over is None else over


def _check(template: JobTemplate, variables: Mapping[str, Any]) -> None:
    declared = template.schema.names
    values = {n: v for n, v in variables.items() if n in declared or n not in OWN}
    try:
        template.schema.check(values)
    except SchemaError as error:
        raise InvalidRun(".".join((VARIABLES, *error.path)), error.problem) from None


def _schema(variables: dict[str, Any]) -> Schema:
    path = f"{TEMPLATE}.variables"
    try:
        return Schema(variables)
    except SchemaError as error:
        raise InvalidSettings(f"{'.'.join((path, *error.path))}: {error.problem}") from None


def _stored_elsewhere(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield where something refers to what a Prefect server keeps, with the sentence for it."""
    if isinstance(value, str):
        names = _PLACEHOLDER.findall(value) if "{{" in value else ()
        yield from ((path, _elsewhere(f"{{{{ {shown(n)} }}}}")) for n in names if _is_kept(n))
        return
    reference = value.get("$ref") if isinstance(value, dict) else None
    if isinstance(reference, dict) and "block_document_id" in reference:
        yield path, _elsewhere("a block document")
    for name, each in _items(value):
        yield from _stored_elsewhere(each, f"{path}.{str(name)[:80]}")


def _is_kept(name: str) -> bool:
    return name.startswith(("prefect.blocks.", "prefect.variables."))


def _elsewhere(what: str) -> str:
    return (
        f"{what} is kept by a Prefect server, which nobody asks here; give the value, "
        "or {{ $NAME }} to read it from the worker's environment"
    )


def _roots(value: Any) -> Iterator[str]:
    """Yield the names of the variables that placeholders stand for."""
    if isinstance(value, str):
        for name in _PLACEHOLDER.findall(value):
            if not name.startswith(("$", "ctx.")):
                yield re.split(r"[.\[]", name, maxsplit=1)[0]
    for _, each in _items(value):
        yield from _roots(each)


def _object(text: str, path: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        whole = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise InvalidSettings(f"{path}: is nested too deep") from None
    except ValueError as error:
        raise InvalidSettings(f"{path}: is not JSON: {error}") from None
    if not isinstance(whole, dict):
        raise InvalidSettings(f"{path}: must be an object")
    return whole


def _check_depth(value: Any, level: int = 0) -> None:
    if level > MOST_LEVELS:
        raise InvalidSettings(f"{TEMPLATE}: is nested more than {MOST_LEVELS} levels deep")
    for _, each in _items(value):
        _check_depth(each, level + 1)


def _items(value: Any) -> Iterable[tuple[object, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _text(value: Any) -> str:
    """Return a value inside of a text, as Prefect writes it: Python's `str`."""
    return value if isinstance(value, str) else str(value)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + _size(each) for name, each in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else 1
