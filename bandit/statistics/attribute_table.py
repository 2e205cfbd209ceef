"""Attributes of many items at once, as arrays that kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bandit.statistics.attributes import Attributes, ItemAttributes, attributes_of_item

I64 = npt.NDArray[np.int64]


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


def was_compiled() -> bool:
    """Whether this process compiled the kernel itself: there was nothing to load."""
    return bool(_gather.stats.cache_misses)
