"""The OpenAPI 3.1 document, made from the route table and the types that validate."""

from __future__ import annotations

import re
from functools import cache
from types import UnionType
from typing import Any, Final, get_args

import msgspec

from bandit.records import ErrorReply
from bandit.web.routing import HTML, JSON, Route

_PARAMETER = re.compile(r"<path:(\w+)>")
_MEANINGS = {
    400: "The request was refused; nothing was stored",
    401: "No key that is accepted came with the request",
    403: "The key does not allow this, or the request was not meant for this service",
    404: "No such thing",
    409: "An id was used before, with another body",
    410: "Not offered here; the message says what to do instead",
    412: "If-Match does not name the config in force",
    413: "The body is too large",
    428: "If-Match is missing",
    429: "The key has asked too often; ask again after Retry-After",
    503: "The log cannot be used now; try again after Retry-After",
}


#: The ways to send a key; any of them.
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "subscription": {"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
}


@cache
def document(routes: tuple[Route, ...], *, keys: bool) -> bytes:
    """The document as JSON.

    :param keys: whether requests need an API key
    """
    bodies = [body for route in routes for body in (route.request, route.reply) if body is not None]
    types = [*{type_: None for body in bodies for type_ in _alternatives(body)}, ErrorReply]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
        operations[route.method.lower()] = _operation(route, schema_of, keys=keys)
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {
                    "title": "feed-bandit",
                    "version": "1",
                    "description": "Ranks candidate short videos with a contextual bandit that learns online.",
                    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                },
                "paths": paths,
                "components": {"schemas": components, **({"securitySchemes": _SCHEMES} if keys else {})},
            }
        ),
        indent=1,
    )


def _alternatives(body: Any) -> tuple[Any, ...]:
    """The struct types of a body that may have one of several forms."""
    return get_args(body) if isinstance(body, UnionType) else (body,)


def _content(body: Any, schema_of: dict[Any, Any]) -> dict[str, Any]:
    """What a request or reply may hold."""
    schemas = [schema_of[type_] for type_ in _alternatives(body)]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}


def _operation(route: Route, schema_of: dict[Any, Any], *, keys: bool) -> dict[str, Any]:
    keyed = keys and route.scope is not None
    error = _content(ErrorReply, schema_of)
    if route.media == HTML:
        # A page says to people what is wrong; what stops a request before it gets there says it as everywhere.
        error = error | {HTML.partition(";")[0]: {}}
    success: dict[str, Any] = {"description": route.summary}
    if route.media != JSON or (route.reply is None and route.status == 200):
        success["content"] = {route.media.partition(";")[0]: {}}
        if route.reply is not None:
            # For programs, which say that they want it.
            success["content"] |= _content(route.reply, schema_of)
    elif route.reply is not None:
        success["content"] = _content(route.reply, schema_of)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "responses": {
            str(route.status): success,
            **{
                str(status): {"description": _MEANINGS[status], "content": error}
                for status in sorted({400, 403, 503, *route.errors, *((401, 429) if keyed else ())})
            },
        },
    }
    if keyed:
        operation["security"] = [{name: []} for name in _SCHEMES]
        operation["description"] = f"For keys with the scope `{route.scope}`, or `admin`."
        if route.media == HTML:
            operation["responses"]["303"] = {"description": "A browser is led to /signin"}
    if route.not_yet is not None:
        operation["responses"][str(route.not_yet)] = success | {"description": "It goes on; ask again"}
    if route.path == "/readyz":
        operation["responses"]["503"] = success | {"description": "Not ready"}
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 256},
        }
        for name in _PARAMETER.findall(route.path)
    ]
    if route.handler.__name__ == "put_config":
        parameters.append({"name": "If-Match", "in": "header", "required": True, "schema": {"type": "string"}})
    if route.handler.__name__ == "event":
        parameters.append({"name": "app", "in": "query", "schema": {"type": "string"}, "description": "whose event"})
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": route.handler.__name__ != "activate",
            "content": _content(route.request, schema_of),
        }
    return operation
