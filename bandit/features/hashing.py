"""Features as they are learned from: resolved text, and the indices that VW gives it.

The API's features become one canonical JSON object, namespace -> {name: value}, in the form
that VW's own JSON parser reads. The same text trains the model (here, and under a plain ``vw``
that is given the exported log) and is hashed for scoring, so the two cannot drift apart.

What VW's parser does with that text (``--hash all``, version 9.11.9), and what is done here about it:

* a string is the one feature ``name + value``, with space, tab, ``|`` and ``:`` of the value (not of
  the name) turned into ``_``: reproduced. ``"a b"`` and ``"a_b"`` are therefore the same value.
* ``true``, ``1`` and ``""`` are all the feature ``name`` with value 1; ``false`` and numbers that are
  zero as float32 are nothing: reproduced, and what is nothing is left out of the text.
* a list of strings is refused by VW: rendered as one ``true`` for each ``name + element``, the very
  hash that a string has. A list is a set: elements that VW cannot tell apart count once.
* a NUL ends a name or value silently, and names beginning with ``_`` are commands: both refused.
* the interaction letter is the first *byte* of a namespace, read as a signed char: one above 127
  writes outside VW's table and aborts the process. Namespaces must begin with an ASCII letter or digit.
* without ``--hash all`` names that are all digits would be read as numbers, ``"07"`` the same as ``"7"``.
* its number parser is not always correctly rounded: numbers are written as the shortest decimal of the
  float32 that is meant, and in full where that lies too near a rounding boundary.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidFeatures
from bandit.features.tokenizer import hash_object, murmur3_span, new_work
from bandit.records import Features

USER: Final = "U"
CONTEXT: Final = "C"
ITEM: Final = "I"
#: What is said of an item besides what it is known by, where the model's arguments name it: `ModelArgs.traits`.
TRAITS: Final = "F"
#: What an item is known by, with its id: of these the service itself counts what they earn, see
#: `bandit.statistics.columns`.
KNOWN_BY: Final = frozenset({"group", "creator", "sound", "tags"})
SLOT: Final = "S"
#: What the service itself knows of an item and of how the viewer likes its kind: numbers, of every candidate.
DENSE: Final = "D"
#: What the service itself knows of the viewer.
PROFILE: Final = "P"
RESERVED_NAMESPACES: Final = frozenset({USER, CONTEXT, ITEM, SLOT, DENSE, PROFILE})

MAX_TEXT_CHARS: Final = 256
MAX_FEATURES: Final = 512
MAX_ABS: Final = 1e6

# Bytes that VW's JSON parser replaces in string values.
_AS_UNDERSCORE: Final = bytes.maketrans(b" \t|:", b"____")
_AS_UNDERSCORE_TEXT: Final = str.maketrans(" \t|:", "____")
_F32: Final = struct.Struct("<f")

# Read-only as all texts here are: of another type the kernel would be compiled a second time.
_NOTHING: Final = np.frombuffer(b"", np.uint8)
_LOCAL: Final = threading.local()

Namespaces = dict[str, dict[str, Any]]
_NO_PROFILE: Final[Mapping[str, float]] = {}


class HashedFeatures(NamedTuple):
    """What VW sees of a resolved text, grouped by interaction letter in VW's own order.

    :param letters: shape (n,), uint8: first byte of the namespace; non-decreasing
    :param idx: shape (n,), uint32: the whole hash; the model's mask is applied when scoring
    :param val: shape (n,), float32: never zero
    """

    letters: npt.NDArray[np.uint8]
    idx: npt.NDArray[np.uint32]
    val: npt.NDArray[np.float32]


def resolve_item(item_id: str, features: Features, *, traits: bool = False, path: str = "features") -> bytes:
    """What is learned and scored of one candidate, as canonical VW JSON.

    >>> said = {"creator": "c9", "decade": "1990", "size": {"mb": 12}, "tags": ["x", "y"]}
    >>> resolve_item("v1", said, traits=True)
    b'{"F":{"decade":"1990"},"I":{"creator":"c9","id":"v1","tagsx":true,"tagsy":true},"size":{"mb":12}}'
    >>> resolve_item("v1", said)
    b'{"I":{"creator":"c9","decade":"1990","id":"v1","tagsx":true,"tagsy":true},"size":{"mb":12}}'

    :param traits: of the model's arguments: what the item is not known by stands in `TRAITS`
    :param path: where the features stand in the request, for messages
    :raises InvalidFeatures: something that VW would refuse, or silently read as something else
    """
    return _render(_item_namespaces(item_id, features, traits, path))


def with_dense(item: bytes, names: Sequence[str], values: Sequence[float]) -> bytes:
    """A resolved item with its dense columns, as it is learned from.

    >>> with_dense(b'{"I":{"id":"v1"}}', ["seen", "liked"], [0.25, 0.0])
    b'{"D":{"seen":0.25},"I":{"id":"v1"}}'

    :param item: from `resolve_item`
    :param names, values: shape (d,) each; the values are of float32
    """
    spaces: Namespaces = msgspec.json.decode(item)
    spaces[DENSE] = {name: _number(value, DENSE, name) for name, value in zip(names, values, strict=True)}
    return _render(spaces)


def resolve_shared(
    user_id: str | None,
    user: Features,
    context: Features,
    slot: int = 0,
    profile: Mapping[str, float] = _NO_PROFILE,
    *,
    traits: bool = False,
) -> bytes:
    """What all candidates of a request share, as canonical VW JSON.

    >>> resolve_shared("u1", {"age": 31}, {"hour": "18", "geo": {"city": "Oslo"}})
    b'{"C":{"hour":"18"},"S":{"slot":"0"},"U":{"age":31,"id":"u1"},"geo":{"city":"Oslo"}}'

    :param slot: position in the slate, when learning; scoring leaves it at 0
    :param profile: what the service itself knows of the viewer
    :param traits: of the model's arguments: `TRAITS` is no name for a namespace
    :raises InvalidFeatures: as `resolve_item`; also a name given by user and context alike
    """
    spaces: Namespaces = {SLOT: {"slot": str(slot)}}
    if profile:
        spaces[PROFILE] = {name: _number(value, PROFILE, name) for name, value in profile.items()}
    _collect(spaces, USER, user, "user.features", own_id=user_id, traits=traits)
    _collect(spaces, CONTEXT, context, "context", traits=traits)
    return _render(spaces)


def hash_resolved(text: bytes) -> HashedFeatures:
    """The features of a resolved text with the indices that VW's JSON parser gives them.

    :param text: as `resolve_item` and `resolve_shared` make it; others are not understood
    """
    room = len(text) // 4 + 1
    letters, idx, val = np.empty(room, np.uint8), np.empty(room, np.uint32), np.empty(room, np.float32)
    data = np.frombuffer(text, np.uint8)
    n = hash_object(data, 0, len(text), _NOTHING, 0, 0, True, False, _work(), letters, idx, val, 0)
    if n < 0:
        return _hash_namespaces(msgspec.json.decode(text))
    return HashedFeatures(letters[:n], idx[:n], val[:n])


def hash_item(
    item_id: str, features: Features, *, traits: bool = False, path: str = "features"
) -> HashedFeatures:
    """`hash_resolved` of `resolve_item`, without the text between."""
    return _hash_namespaces(_in_order(_item_namespaces(item_id, features, traits, path)))


# -- checks and canonical form ------------------------------------------------------------------


def _item_namespaces(item_id: str, features: Features, traits: bool, path: str) -> Namespaces:
    spaces: Namespaces = {}
    _collect(spaces, ITEM, features, path, own_id=item_id, traits=traits)
    return spaces


def _collect(
    spaces: Namespaces, home: str, features: Features, path: str, *, own_id: str | None = None, traits: bool = False
) -> None:
    """Add one set's features to ``spaces``: scalars under ``home``, objects under their own name.

    :param traits: of an item, what it is not known by goes under `TRAITS`
    """
    if not isinstance(features, Mapping):
        raise _refuse(path, features, "is not an object", 'send {"name": value, ...}')
    count = 0
    scalars = spaces.setdefault(home, {})
    if own_id is not None:
        _check_text(own_id, path.removesuffix("features") + "id")
        scalars["id"] = own_id
    for name, value in features.items():
        if isinstance(value, Mapping):
            _check_namespace(name, path, traits)
            space = spaces.setdefault(name, {})
            for inner, scalar in value.items():
                count += _put(space, inner, scalar, _at(path, name))
        else:
            if name == "id" and home in (ITEM, USER):
                raise _refuse(f"{path}.id", value, "takes the place of the id itself", "use another name")
            apart = traits and home == ITEM and name not in KNOWN_BY
            space = spaces.setdefault(TRAITS, {}) if apart else scalars
            count += _put(space, name, value, path)
        if count > MAX_FEATURES:
            raise InvalidFeatures(
                f"{path} has more than {MAX_FEATURES} features; send fewer", path=path, allowed=MAX_FEATURES
            )


def _put(space: dict[str, Any], name: str, value: Any, path: str) -> int:
    """Render one value into ``space``; how many features it counts for."""
    if not _is_plain_name(name):
        _check_name(name, path)
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS or not value.isascii() or "\0" in value:
            _check_text(value, _at(path, name))
        rendered: Any = value
    elif isinstance(value, bool):
        rendered = value or None
    elif isinstance(value, int | float):
        rendered = _number(value, path, name)
    elif isinstance(value, list):
        return _put_list(space, name, value, path)
    else:
        raise _refuse(
            _at(path, name),
            value,
            "cannot be learned from",
            "allowed are strings, numbers, booleans, lists of strings, and one level of objects of these",
        )
    if name in space:
        raise _twice(name, _at(path, name))
    space[name] = rendered
    return 1


def _put_list(space: dict[str, Any], name: str, elements: list[Any], path: str) -> int:
    for place, element in enumerate(elements):
        _check_text(element, f"{_at(path, name)}[{place}]")
    for key in {name + element.translate(_AS_UNDERSCORE_TEXT) for element in elements}:
        if key in space:
            raise _twice(key, _at(path, name))
        space[key] = True
    return len(elements)


def _twice(key: str, where: str) -> InvalidFeatures:
    return InvalidFeatures(
        f"{where} is given twice: another feature already has the name {key!a} "
        "(a list's elements are named name + element); rename one of them",
        path=where,
        name=ascii(key),
    )


def _check_namespace(name: str, path: str, traits: bool) -> None:
    _check_name(name, path)
    if name in RESERVED_NAMESPACES or (traits and name == TRAITS):
        raise _refuse(_at(path, name), name, "is a reserved namespace", "rename it; taken are U, C, I, F, S, D, P")
    if not (name[0].isascii() and name[0].isalnum()):
        raise _refuse(_at(path, name), name, "is no namespace name", "begin it with a letter or digit of ASCII")


@lru_cache(maxsize=8192)
def _is_plain_name(name: str) -> bool:
    """Whether a name needs no closer look; most are seen again and again."""
    return name.isascii() and 0 < len(name) <= 64 and name[0] != "_" and "\0" not in name


def _check_name(name: str, path: str) -> None:
    if not name:
        raise _refuse(path, name, "holds an empty name", "give every feature a name")
    if name[0] == "_":
        raise _refuse(_at(path, name), name, "begins with '_', which VW reserves", "rename it")
    _check_text(name, _at(path, name))


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise _refuse(where, text, "is not a string", "lists hold strings alone")
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidFeatures(
            f"{where} has {len(text)} characters; allowed are {MAX_TEXT_CHARS}: shorten it, or send a digest",
            path=where,
            given=len(text),
            allowed=MAX_TEXT_CHARS,
        )
    if "\0" in text:
        raise _refuse(where, text, "holds a NUL character, where VW stops reading", "remove it")
    if not text.isascii() and not text.isprintable():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _refuse(where, text, "holds a lone surrogate", "send valid Unicode") from None


def _number(value: float, path: str, name: str) -> int | float | None:
    """The number whose text VW reads as exactly float32(value); None where that is zero."""
    if not -MAX_ABS <= value <= MAX_ABS:  # NaN is not within either.
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        raise InvalidFeatures(
            f"{_at(path, name)} is {shown}; allowed are finite numbers from -{MAX_ABS:g} to {MAX_ABS:g}: rescale it",
            path=_at(path, name),
            given=shown,
            allowed=[-MAX_ABS, MAX_ABS],
        )
    single: float = _F32.unpack(_F32.pack(value))[0]
    if single == int(single):
        return int(single) or None
    short = float(str(np.float32(single)))
    # VW's own number parser may be off by a few units of the last place of a double.
    for nudged in (short * (1 - 2e-15), short * (1 + 2e-15)):
        if _F32.unpack(_F32.pack(nudged))[0] != single:
            return single
    return short


def _at(path: str, name: str) -> str:
    """A path that can be printed and encoded, whatever the name."""
    return f"{path}.{name[:40].encode('utf-8', 'backslashreplace').decode()}"


def _refuse(where: str, given: Any, fault: str, remedy: str) -> InvalidFeatures:
    shown = ascii(given) if isinstance(given, str) else repr(given)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return InvalidFeatures(f"{where} = {shown} {fault}; {remedy}", path=where, given=shown)


def _in_order(spaces: Namespaces) -> Namespaces:
    """Names in code point order, which is the order of their UTF-8 bytes; nothing that VW drops."""
    ordered = {}
    for space in sorted(spaces):
        names = spaces[space]
        kept = {name: names[name] for name in sorted(names) if names[name] is not None}
        if kept:
            ordered[space] = kept
    return ordered


def _render(spaces: Namespaces) -> bytes:
    return msgspec.json.encode(_in_order(spaces))


def _work() -> Any:
    """The thread's own room for the tokenizer, which is handed out again and again."""
    work = getattr(_LOCAL, "work", None)
    if work is None:
        work = _LOCAL.work = new_work()
    return work


# -- hashing ------------------------------------------------------------------------------------


def _hash_namespaces(spaces: Namespaces) -> HashedFeatures:
    """:param spaces: in canonical order, so that letters come out grouped"""
    parts: list[bytes] = []
    letters: list[int] = []
    seeds: list[int] = []
    values: list[float] = []
    for space, names in spaces.items():
        encoded = space.encode()
        seed = murmur3(encoded)
        for name, value in names.items():
            if isinstance(value, str):
                parts.append(name.encode() + value.encode().translate(_AS_UNDERSCORE))
                values.append(1.0)
            else:
                parts.append(name.encode())
                values.append(float(value))
            letters.append(encoded[0])
            seeds.append(seed)
    idx = [murmur3(part, seed) for part, seed in zip(parts, seeds, strict=True)]
    return HashedFeatures(np.array(letters, np.uint8), np.array(idx, np.uint32), np.array(values, np.float32))


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 (x86, 32 bits) of ``data``; all hashes of VW are this one.

    >>> murmur3(b"hello")
    613153351
    """
    return int(murmur3_span(np.frombuffer(data, np.uint8), 0, len(data), np.uint32(seed)))
