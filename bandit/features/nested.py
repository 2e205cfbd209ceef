"""Features as Personalizer has them, lists of nested objects, as this service's: flat names to plain values.

All of a context becomes the service's namespace ``C``, all of an action ``F`` or ``I``, so that every feature of the
one is crossed with every feature of the other by the default arguments, as Personalizer's ``-q ::`` did. Nested names
are joined by dots.

What VW's JSON parser made of them is kept: objects of a list are one; null, and names that begin with ``_``, are
nothing; two strings under one name are both features, two numbers are added up; the numbers of an array are told apart
by their places.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw

from bandit.errors import InvalidFeatures
from bandit.features.hashing import MAX_TEXT_CHARS
from bandit.records import Features

MAX_DEPTH: Final = 16
_HEAD_CHARS: Final = 200
_decode = msgspec.json.Decoder().decode


def flat(raw: bytes, *, path: str, taken: str | None = None) -> Features:
    """Flat features of JSON text; see the module.

    >>> flat(b'[{"user":{"plan":"free","age":30}},{"hour":"9"}]', path="contextFeatures")
    {'user.plan': 'free', 'user.age': 30, 'hour': '9'}
    >>> flat(b'[{"tags":["a","b"],"size":[1,2]},{"tags":"c"}]', path="actions[0].features")
    {'tags': ['a', 'b', 'c'], 'size[0]': 1, 'size[1]': 2}

    :param path: where they stand in the request, for messages
    :param taken: a name that the service needs for itself; such a feature gets a dot in front
    :raises InvalidFeatures: names the feature
    """
    found: dict[str, Any] = {}
    value = _decode(raw)
    if not isinstance(value, list | dict | None):
        raise InvalidFeatures(f"{path} is not a list of objects; send [{{...}}, ...]", path=path)
    for place, part in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(part, dict | None):
            raise InvalidFeatures(f"{path}[{place}] is not an object; send a list of objects", path=path)
        add(found, "", part, path=path)
    if taken is not None and taken in found:
        found["." + taken] = found.pop(taken)
    return found


def with_slot(context: Features, slot_id: str, raw: bytes, *, path: str) -> Features:
    """The flat features of a context and of a slot of a page.

    >>> with_slot({"hour": "9"}, "side", b'[{"size":"small"}]', path="slots[0].features")
    {'hour': '9', 'slot.id': 'side', 'slot.size': 'small'}

    :raises InvalidFeatures: names the feature
    """
    found = dict(context)
    add(found, "slot.id", slot_id, path=path)
    value = _decode(raw)
    if not isinstance(value, list | dict | None):
        raise InvalidFeatures(f"{path} is not a list of objects; send [{{...}}, ...]", path=path)
    add(found, "slot", value, path=path)
    return found


@lru_cache(maxsize=65_536)
def flat_action(raw: bytes) -> Raw:
    """The flat features of an action as JSON text; most are seen again.

    >>> bytes(flat_action(b'[{"id":"7"},{"topic":"cats"}]'))
    b'{"topic":"cats",".id":"7"}'
    """
    return Raw(msgspec.json.encode(flat(raw, path="features", taken="id")))


def add(found: dict[str, Any], name: str, value: Any, *, path: str) -> None:
    """Put a value into flat features: under its name, and what is nested in it under names of its own.

    :param name: empty for an object whose members stand for themselves
    :raises InvalidFeatures: names the feature
    """
    _add(found, name, value, path, MAX_DEPTH)


def _add(found: dict[str, Any], name: str, value: Any, path: str, depth: int) -> None:
    if value is None:
        return
    if depth == 0:
        raise InvalidFeatures(f"{path} is nested deeper than {MAX_DEPTH} levels; send it flatter", path=path)
    if isinstance(value, dict):
        for inner, its in value.items():
            if not inner.startswith("_"):
                _add(found, f"{name}.{inner}" if name else inner, its, path, depth - 1)
    elif isinstance(value, list):
        for place, its in enumerate(value):
            if isinstance(its, list):
                raise InvalidFeatures(f"{path}: {name!a} is a list of lists; send names to values", path=path)
            number = isinstance(its, int | float) and not isinstance(its, bool)
            _add(found, f"{name}[{place}]" if number else name, its, path, depth - 1)
    else:
        value = _short(value) if isinstance(value, str) else value
        found[name] = _both(found[name], value, name, path) if name in found else value


def _short(text: str) -> str:
    """A text that is too long to be kept, told apart by its digest: only sameness counts."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[:_HEAD_CHARS]}~{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"


def _both(before: Any, value: Any, name: str, path: str) -> Any:
    """What two values under one name come to."""
    if isinstance(value, str) and isinstance(before, str | list):
        values = before if isinstance(before, list) else [before]
        return before if value in values else [*values, value]
    if type(value) is bool and type(before) is bool:
        return before or value
    if isinstance(value, int | float) and isinstance(before, int | float) and bool not in (type(value), type(before)):
        return before + value
    raise InvalidFeatures(
        f"{path} gives {name!a} twice, as {type(before).__name__} and as {type(value).__name__}; rename one of them",
        path=path,
        name=ascii(name),
    )
