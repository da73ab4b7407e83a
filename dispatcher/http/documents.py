"""An OpenAPI document as one HTML page without scripts: it works without any other server."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-bottom: 1px solid #ccc; margin-top: 2.5rem }
details { border: 1px solid #ddd; border-radius: 4px; margin: .4rem 0; padding: .3rem .7rem }
summary { cursor: pointer } code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { background: #f6f6f6; overflow: auto; padding: .6rem } table { border-collapse: collapse }
td { border-top: 1px solid #eee; padding: .2rem .8rem .2rem 0; vertical-align: top }
b.method { display: inline-block; width: 4.5rem; text-transform: uppercase }
"""


def as_html(document: dict[str, Any]) -> str:
    """Return the page: every operation by tag, with its parameters, bodies and answers."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in info.get("description", "").split("\n\n")),
        "<p>The same for programs: <a href=/openapi.json>/openapi.json</a>; any OpenAPI viewer "
        "shows that too.</p>",
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>")
        parts += _operations(document, tag["name"])
    parts.append("<h2>schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(
            f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary>"
            f"{_code(schema)}</details>"
        )
    return "".join(parts)


def _operations(document: dict[str, Any], tag: str) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation.get("tags", []):
                yield _operation(path, method, operation)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code><td>{each['in']}"
        f"{', required' if each.get('required') else ''}<td>{escape(_said(each))}"
        for each in operation.get("parameters", [])
    ]
    bodies = [
        f"<p>body, {escape(kind)}: {_schema(content.get('schema', {}))}</p>{_examples(content)}"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        f"<tr><td>{status}<td>{escape(each['description'])}<td>"
        + ", ".join(_schema(content.get("schema", {})) for content in _contents(each))
        for status, each in operation["responses"].items()
    ]
    return (
        f"<details id='{escape(operation['operationId'])}'><summary><b class=method>{method}</b>"
        f"<code>{escape(path)}</code> {escape(operation.get('summary', ''))}</summary>"
        f"<p>{escape(operation.get('description', ''))}</p><table>{''.join(rows)}</table>"
        f"{''.join(bodies)}<table>{''.join(answers)}</table></details>"
    )


def _contents(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer.get("content", {}).values())


def _said(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    return str(parameter.get("description") or schema.get("description") or schema.get("type", ""))


def _schema(schema: dict[str, Any]) -> str:
    """Return a link to a schema by its name, else the schema."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'><code>{name}</code></a>"
    for kind in ("anyOf", "oneOf"):
        if kind in schema:
            return " or ".join(_schema(each) for each in schema[kind])
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_schema(schema['items'])}"
    return f"<code>{escape(str(schema.get('type', 'anything')))}</code>"


def _examples(content: dict[str, Any]) -> str:
    found = [each["value"] for each in content.get("examples", {}).values()]
    found += [content["example"]] if "example" in content else []
    return "".join(_code(example) for example in found)


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"
