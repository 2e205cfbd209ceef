"""What rules and statistics know of an item: who made it, its sound, language, tags, length, and what it is a copy of.

The names are fixed, so that nothing need be configured: `creator`, `sound`, `language` and `group` are strings,
`tags` is a list of strings, `length_s` a number of seconds. Each may be missing; of another type it counts as missing
here, and is a feature of the model all the same.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

#: Of one item, so many tags count.
MAX_TAGS: Final = 16
#: No video of a feed is longer, in seconds.
MAX_LENGTH_S: Final = 86_400.0


class Attributes(NamedTuple):
    """Attributes of n candidates, in the caller's order; keys are `key_of` the value, 0 for none.

    :ivar item: shape (n,), key of the id
    :ivar identity: shape (n,), key of the group, else of the id: what counts as the same video
    :ivar creator, sound, language: shape (n,)
    :ivar length_s: shape (n,), seconds, 0 where it was not given
    :ivar tag_start: shape (n + 1,)
    :ivar tags: those of candidate i are ``tags[tag_start[i]:tag_start[i + 1]]``
    """

    item: I64
    identity: I64
    creator: I64
    sound: I64
    language: I64
    length_s: F32
    tag_start: I64
    tags: I64


class ItemAttributes(NamedTuple):
    """Attributes of one item; see `Attributes`."""

    item: int
    identity: int
    creator: int
    sound: int
    language: int
    length_s: float
    tags: tuple[int, ...]


def key_of(role: str, value: str) -> int:
    """A key that is the same everywhere and for ever: 63 bits of BLAKE2b, above 0.

    :param role: item, group, creator, sound, language or tag

    >>> key_of("creator", "c1") == key_of("creator", "c1"), key_of("creator", "c1") == key_of("sound", "c1")
    (True, False)
    """
    digest = hashlib.blake2b(f"{role}\0{value}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 1) or 1


# Ids are mostly new when they come here; creators, sounds and tags mostly old.
_kept_key_of = lru_cache(maxsize=65_536)(key_of)


class _Named(msgspec.Struct):
    creator: Any = None
    sound: Any = None
    language: Any = None
    group: Any = None
    tags: Any = None
    length_s: Any = None


_named = msgspec.json.Decoder(_Named).decode


def attributes_of_item(item_id: str, features: bytes) -> ItemAttributes:
    """Attributes of one item by its id and features text (JSON that was checked before)."""
    item = key_of("item", item_id)
    if len(features) <= 2:
        return ItemAttributes(item, item, 0, 0, 0, 0.0, ())
    named = _named(features)
    tags = named.tags if isinstance(named.tags, list) else ()
    return ItemAttributes(
        item=item,
        identity=_key("group", named.group) or item,
        creator=_key("creator", named.creator),
        sound=_key("sound", named.sound),
        language=_key("language", named.language),
        length_s=_length_s(named),
        tags=tuple(dict.fromkeys(_kept_key_of("tag", tag) for tag in tags if isinstance(tag, str) and tag))[:MAX_TAGS],
    )


def length_of(features: bytes) -> float:
    """`length_s` of an item by its features text (JSON that was checked before), in seconds; 0 if not given."""
    return _length_s(_named(features)) if len(features) > 2 else 0.0


def _length_s(named: _Named) -> float:
    length = named.length_s if isinstance(named.length_s, int | float) else 0.0
    return float(length) if 0.0 < length <= MAX_LENGTH_S else 0.0


def names_of_item(item_id: str, features: bytes) -> dict[int, tuple[str, str]]:
    """(attribute, value) by key of one item, for people."""
    named = _named(features)
    tags = named.tags if isinstance(named.tags, list) else ()
    pairs = [("item", item_id), *((role, getattr(named, role)) for role in ("creator", "sound", "language"))]
    pairs += [("tag", tag) for tag in tags[:MAX_TAGS]]
    return {_kept_key_of(role, value): (role, value) for role, value in pairs if isinstance(value, str) and value}


def _key(role: str, value: Any) -> int:
    return _kept_key_of(role, value) if isinstance(value, str) and value else 0
