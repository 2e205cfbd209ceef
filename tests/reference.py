"""The API reference as Markdown, from the document that the service serves: docs/api.md holds what this prints."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bandit.records import Features
from bandit.web import openapi
from bandit.web.routes import ROUTES

_PARAM = re.compile(r"^\s*:(?:param|ivar) (\w+): (.*?)(?=^\s*:|\Z)", re.M | re.S)
#: Lower limit, upper limit, and what they count.
_RANGES = (
    ("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " entries"),
    ("", "maxProperties", " entries"),
)  # fmt: skip
_BEYOND = {"exclusiveMinimum": "above", "exclusiveMaximum": "below"}
_FEATURES = msgspec.json.schema(Features)


def document() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(openapi.document(ROUTES, keys=True))
    return found


def routes_table() -> str:
    """Every route: what it does, and the scope that a key needs for it."""
    lines = ["| | | key |", "|---|---|---|"]
    for route in ROUTES:
        path = re.sub(r"<\w+:(\w+)>", r"{\1}", route.path)
        lines.append(f"| `{route.method} {path}` | {route.summary} | {route.scope or 'none'} |")
    return "\n".join(lines)


def operations() -> str:
    """A paragraph for each operation: what is sent, what comes back, what is refused."""
    lines = []
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            lines += [f"**`{method.upper()} {path}`** {operation['summary']}."]
            sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if sent is not None:
                lines.append(f"Body: {type_text(sent)}.")
            for status, reply in operation["responses"].items():
                content = reply.get("content", {}).get("application/json", {}).get("schema")
                if status < "300":
                    lines.append(f"Answers {status}{': ' + type_text(content) if content else ''}.")
            refused = [status for status in operation["responses"] if status >= "300"]
            lines += [f"Refuses: {', '.join(refused)}.", ""]
    return "\n".join(lines)


def types() -> str:
    """Every type of a body, with its fields."""
    return "\n".join(_type(name, schema) for name, schema in sorted(document()["components"]["schemas"].items()))


def _type(name: str, schema: dict[str, Any]) -> str:
    text = schema.get("description", "")
    meanings = {field: _flat(meaning) for field, meaning in _PARAM.findall(text)}
    said = _flat(text.split(":param", 1)[0].split(":ivar", 1)[0])
    lines = [f'### <a id="{name}"></a>{name}', "", said or "", ""]
    fields = schema.get("properties", {})
    if fields:
        lines += ["| field | type | |", "|---|---|---|"]
        for field, inner in fields.items():
            needed = "required" if field in schema.get("required", []) else _default(inner)
            told = "; ".join(part for part in (meanings.get(field, inner.get("description", "")), needed) if part)
            lines.append(f"| `{field}` | {type_text(inner)} | {_cell(told)} |")
        lines.append("")
    return "\n".join(lines)


def _default(schema: dict[str, Any]) -> str:
    if "default" not in schema or schema["default"] in (None, [], {}):
        return ""
    value = msgspec.json.encode(schema["default"]).decode()
    return f"default `{value}`" if len(value) <= 60 else ""


def type_text(schema: dict[str, Any]) -> str:
    """A schema in words, with links to the types that it names."""
    if {name: inner for name, inner in schema.items() if name not in ("description", "default")} == _FEATURES:
        return "[features](../README.md#what-you-send-what-you-get)"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            texts = dict.fromkeys(type_text(one) for one in schema[several])
            # A whole number is a number.
            texts.pop("integer" if "number" in texts else "", None)
            return " or ".join(texts)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{msgspec.json.encode(value).decode()}`" for value in values)
    kind = schema.get("type", "anything")
    text = kind if isinstance(kind, str) else " or ".join(kind)
    if text == "array":
        inner = schema.get("items")
        text = f"list of {type_text(inner)}" if isinstance(inner, dict) and inner else "list"
    elif text == "object":
        inner = schema.get("additionalProperties")
        text = f"object of {type_text(inner)}" if isinstance(inner, dict) and inner else "object"
    limits = _limits(schema)
    return f"{text} ({', '.join(limits)})" if limits else text


def _limits(schema: dict[str, Any]) -> list[str]:
    told = []
    for low, high, what in _RANGES:
        least, most = schema.get(low), schema.get(high)
        if least is not None and most is not None:
            told.append(f"{least:,} to {most:,}{what}" if least != most else f"{least:,}{what}")
        elif least is not None:
            told.append(f"at least {least:,}{what}")
        elif most is not None:
            told.append(f"at most {most:,}{what}")
    return told + [f"{word} {schema[name]:,}" for name, word in _BEYOND.items() if name in schema]


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
