"""The JSON Schema of a template's variables: whether it can be used, and what breaks it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_MOST_SHOWN: Final = 200
_MOST_REPEATED: Final = 60  # characters of a value that a message repeats
_DATA: Final = ("default", "const", "enum", "examples")  # what they hold is no schema


class SchemaError(Exception):
    """Something is wrong at `path`, a sequence of names; `problem` goes on with the sentence."""

    def __init__(self, path: Sequence[object], problem: str) -> None:
        super().__init__(problem)
        self.path = tuple(str(part)[:80] for part in path)
        self.problem = problem


class Schema:
    """A schema of draft 2020-12, read as Prefect reads those that its workers generate.

    What is not required may be null, and a list as `items` is a tuple. References lead to places
    in the same schema; nothing is fetched. Raises SchemaError for one that cannot be used, or
    whose defaults break it.
    """

    def __init__(self, variables: Mapping[str, Any]) -> None:
        # Slow to load, and most pools do without.
        from jsonschema import Draft202012Validator
        from referencing.jsonschema import EMPTY_REGISTRY

        properties = variables.get("properties", {})
        if not isinstance(properties, dict):
            raise SchemaError(["properties"], "must be an object")
        for name, declared in properties.items():
            if not isinstance(declared, dict):
                raise SchemaError(["properties", name], "must be an object")
        self.names = frozenset(properties)
        self.defaults = {n: d["default"] for n, d in properties.items() if "default" in d}
        schema = _lenient(variables)
        formats = Draft202012Validator.FORMAT_CHECKER
        rules = Draft202012Validator(Draft202012Validator.META_SCHEMA, format_checker=formats)
        for path, problem in _problems(rules, schema):
            raise SchemaError(path, problem)
        _check_references(schema)
        self._validator = Draft202012Validator(
            schema, format_checker=formats, registry=EMPTY_REGISTRY
        )
        optional = {name: part for name, part in schema.items() if name != "required"}
        given = {name: value for name, value in self.defaults.items() if value is not None}
        for path, problem in _problems(self._validator.evolve(schema=optional), given):
            name, *rest = path or [""]
            raise SchemaError(["properties", name, "default", *rest], problem)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise SchemaError for the first value that breaks the schema, or that is missing."""
        for path, problem in _problems(self._validator, dict(values)):
            raise SchemaError(path, problem)


def shown(text: str, most: int = _MOST_SHOWN) -> str:
    """Return a text on one line, cut where it gets too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _problems(validator: Any, value: Any) -> Iterator[tuple[list[object], str]]:
    """Yield path and sentence of what is wrong, the first alone: there may be very many."""
    import re

    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        first = next(validator.iter_errors(value), None)
        error = None if first is None else best_match(iter([first]))
    except RecursionError:
        yield [], "cannot be checked: the schema leads back to itself without end"
    except Unresolvable as problem:
        yield [], f"cannot be checked: {shown(str(problem))} is not in the schema"
    except re.error as problem:
        yield [], f"cannot be checked: a pattern of the schema is wrong: {problem}"
    else:
        if error is not None:
            yield _sentence(error)


def _sentence(error: Any) -> tuple[list[object], str]:
    path = list(error.absolute_path)
    if error.validator == "required":
        missing = next(n for n in error.validator_value if n not in error.instance)
        return [*path, missing], "is required by the pool's base job template"
    message, value = error.message, repr(error.instance)
    branches = error.context or []
    if branches and all(each.validator == "type" and not each.relative_path for each in branches):
        kinds = ", ".join(repr(each.validator_value) for each in branches)
        message = f"{value} is not of type {kinds}"
    if len(value) > _MOST_REPEATED:
        message = message.replace(value, "what is given")
    return path, shown(message)


def _lenient(schema: Any) -> Any:
    """Return a copy in which what is not required may be null, and `items` is no list."""
    if not isinstance(schema, dict):
        return schema
    copy = dict(schema)
    for group in ("properties", "definitions", "$defs"):
        if isinstance(copy.get(group), dict):
            copy[group] = {name: _lenient(each) for name, each in copy[group].items()}
    if isinstance(copy.get("items"), list) and "prefixItems" not in copy:
        copy["prefixItems"] = copy.pop("items")
    properties, required = copy.get("properties"), copy.get("required")
    for name, each in properties.items() if isinstance(properties, dict) else ():
        if isinstance(each, dict) and "type" in each and name not in _listed(required):
            kinds = _listed(each["type"]) or [each["type"]]
            each["type"] = kinds if "null" in kinds else [*kinds, "null"]
    return copy


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_references(schema: dict[str, Any]) -> None:
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    resolver = EMPTY_REGISTRY.with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for path, reference in _references(schema, []):
        if not reference.startswith("#"):
            raise SchemaError(path, f"{shown(reference)} leads out of the schema; only # is read")
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise SchemaError(path, f"{shown(reference)} is not in the schema") from None


def _references(value: Any, path: list[object]) -> Iterator[tuple[list[object], str]]:
    if not isinstance(value, dict | list):
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, each in pairs:
        if name in ("$ref", "$dynamicRef") and isinstance(each, str):
            yield [*path, name], each
        elif name not in _DATA:
            yield from _references(each, [*path, name])
