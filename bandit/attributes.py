"""What rules and statistics know of an item: who made it, its sound, language, tags, length, and what it is a copy of.

The names are fixed, so that nothing need be configured: `creator`, `sound`, `language` and `group` are strings,
`tags` is a list of strings, `length_s` a number of seconds. Each may be missing; of another type it counts as missing
here, and is a feature of the model all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from numba import njit

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


def attributes_of(items: Sequence[tuple[str, bytes]]) -> Attributes:
    """Attributes of these (id, features text)."""
    table = AttributeTable(max(1, len(items)))
    rows = np.arange(len(items), dtype=np.int32)
    table.put(rows, [attributes_of_item(item_id, features) for item_id, features in items])
    return table.gather(rows)


class AttributeTable:
    """Attributes by row of an item table. Rows are written once; one writer at a time, readers at any time.

    :param capacity: rows, at most
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys = np.zeros((min(capacity, 1024), 5), np.int64)
        self._length_s = np.zeros(len(self._keys), np.float32)
        self._tag_at = np.zeros((len(self._keys), 2), np.int64)
        self._tags = np.zeros(1024, np.int64)
        self._n_tags = 0

    def put(self, rows: npt.NDArray[np.int32], items: Sequence[ItemAttributes]) -> None:
        """Write these rows."""
        if not len(rows):
            return
        size = int(rows.max()) + 1
        if size > len(self._keys):
            size = max(size, min(2 * len(self._keys), self._capacity))
            # Replaced, never resized: a kernel may be reading the old ones.
            self._keys, self._length_s, self._tag_at = (
                _longer(array, size) for array in (self._keys, self._length_s, self._tag_at)
            )
        n_tags = self._n_tags + sum(len(item.tags) for item in items)
        if n_tags > len(self._tags):
            self._tags = _longer(self._tags, max(n_tags, 2 * len(self._tags)))
        self._keys[rows] = [item[:5] for item in items]
        self._length_s[rows] = [item.length_s for item in items]
        for row, item in zip(rows.tolist(), items, strict=True):
            end = self._n_tags + len(item.tags)
            self._tags[self._n_tags : end] = item.tags
            self._tag_at[row] = self._n_tags, end
            self._n_tags = end

    def gather(self, rows: npt.NDArray[np.int32]) -> Attributes:
        """Attributes of these rows, in their order; shape (n,) each. Some microseconds a thousand."""
        keys, length_s, tag_start, tags = _gather(rows, self._keys, self._length_s, self._tag_at, self._tags)
        return Attributes(keys[0], keys[1], keys[2], keys[3], keys[4], length_s, tag_start, tags)

    def gather_tags(self, rows: npt.NDArray[np.int32], values: I64) -> I64:
        """What stands in ``values`` for each tag of these rows, as `Attributes.tags`.

        :param values: one entry for each tag that was ever put, in that order
        """
        found: I64 = _gather_tags(rows, self._tag_at, values)
        return found


def _longer(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    longer = np.zeros((size, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True)
def _gather(rows, keys, length_s, tag_at, tags):  # type: ignore[no-untyped-def]
    n = len(rows)
    found = np.empty((5, n), np.int64)
    found_length = np.empty(n, np.float32)
    start = np.zeros(n + 1, np.int64)
    for i in range(n):
        row = rows[i]
        for k in range(5):
            found[k, i] = keys[row, k]
        found_length[i] = length_s[row]
        start[i + 1] = start[i] + tag_at[row, 1] - tag_at[row, 0]
    found_tags = np.empty(start[n], np.int64)
    for i in range(n):
        at = tag_at[rows[i], 0]
        for k in range(start[i], start[i + 1]):
            found_tags[k] = tags[at]
            at += 1
    return found, found_length, start, found_tags


@njit(cache=True, nogil=True)
def _gather_tags(rows, tag_at, values):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(len(rows)):
        n += tag_at[rows[i], 1] - tag_at[rows[i], 0]
    found = np.empty(n, np.int64)
    n = 0
    for i in range(len(rows)):
        for at in range(tag_at[rows[i], 0], tag_at[rows[i], 1]):
            found[n] = values[at]
            n += 1
    return found


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache."""
    table = AttributeTable(1)
    rows = np.zeros(1, np.int32)
    table.put(rows, [attributes_of_item("a", b'{"tags":["x"]}')])
    table.gather_tags(rows, table.gather(rows).tags)
