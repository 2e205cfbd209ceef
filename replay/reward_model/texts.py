"""Features of VW JSON texts as hashed, sparse rows. The hash is our own: nothing here needs to agree with VW's."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from replay.errors import BadLog
from replay.events import F64, I64, U64, mixed

BITS = 18
WIDTH = 1 << BITS
"""Columns that features are hashed into."""
MOST_CACHED = 500_000
"""Distinct candidate texts whose features are kept; a catalogue's texts come again and again."""
CROSSES = ("none", "item", "all")
"""What shared features are crossed with: nothing, the candidate's identity, or all its features too."""

U32 = NDArray[np.uint32]


class Ragged(NamedTuple):
    """Rows of hashed features, one after another."""

    starts: I64
    """Shape (m + 1,)."""
    hashes: U32
    value: F64

    def take(self, rows: I64) -> Ragged:
        """Only these rows, in this order."""
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        flat = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Ragged(starts, self.hashes[flat], self.value[flat])

    @staticmethod
    def joined(parts: list[Ragged]) -> Ragged:
        """One after another."""
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        index: U32 = np.concatenate([part.hashes for part in parts])
        return Ragged(starts, index, np.concatenate([part.value for part in parts]))


def empty_ragged(m: int) -> Ragged:
    """Rows without features."""
    return Ragged(np.zeros(m + 1, np.int64), np.empty(0, np.uint32), np.empty(0))


class TextReader:
    """Reads texts into rows, and remembers those that are likely to come again."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._row_of: dict[bytes, int] = {}
        self._starts, self._hashes, self._values = array("q", [0]), array("I"), array("d")

    def read(self, texts: list[bytes], *, keep: bool) -> Ragged:
        """
        :param keep: remember the features of each
        :raises BadLog: not a JSON object
        """
        if not keep:
            starts, hashes, values = array("q", [0]), array("I"), array("d")
            for text in texts:
                _append(text, starts, hashes, values)
            return _as_ragged(starts, hashes, values)
        if len(self._row_of) > MOST_CACHED:
            self._forget()
        row_of = self._row_of
        rows = [row_of.get(text, -1) for text in texts]
        if -1 in rows:
            for i, text in enumerate(texts):
                if rows[i] < 0:
                    if text not in row_of:
                        _append(text, self._starts, self._hashes, self._values)
                        row_of[text] = len(self._starts) - 2
                    rows[i] = row_of[text]
        return _as_ragged(self._starts, self._hashes, self._values).take(np.array(rows, np.int64))


def _append(text: bytes, starts: array[int], hashes: array[int], values: array[float]) -> None:
    some_hashes, some_values = features_of(text)
    hashes.extend(some_hashes)
    values.extend(some_values)
    starts.append(len(hashes))


def _as_ragged(starts: array[int], hashes: array[int], values: array[float]) -> Ragged:
    """Views: while they live, the arrays cannot grow."""
    return Ragged(np.frombuffer(starts, np.int64), np.frombuffer(hashes, np.uint32), np.frombuffer(values, np.float64))


def features_of(text: bytes) -> tuple[list[int], list[float]]:
    """Hashes and values of a VW JSON text's features: strings and true as 1, numbers as they are, lists as sets of
    strings or as numbered values; what begins with ``_`` is a command to VW, and no feature.

    >>> [len(part) for part in features_of(b'{"U": {"id": "u1", "age": 31, "tags": ["x", "y"]}, "_multi": []}')]
    [4, 4]

    :raises BadLog: not a JSON object
    """
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadLog(f"features {text[:80]!r} are not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadLog(f"features {text[:80]!r} are not a JSON object")
    pairs = list(_walk("", found))
    return [zlib.crc32(name.encode("utf-8", "surrogatepass")) for name, _ in pairs], [value for _, value in pairs]


def _walk(path: str, found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in found.items():
        if name.startswith("_"):
            continue
        yield from _scalar(f"{path}\x1f{name}", value)


def _scalar(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, str):
        yield f"{path}={value}", 1.0
    elif isinstance(value, bool):
        if value:
            yield path, 1.0
    elif isinstance(value, int | float):
        if value != 0 and np.isfinite(value):
            yield path, float(value)
    elif isinstance(value, dict):
        yield from _walk(path, value)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            plain = isinstance(each, str | dict)
            yield from _scalar(path if plain else f"{path}\x1f{i}", each)


def identity_hashes(item: U64) -> U32:
    """The feature that says which item it is."""
    hashes: U32 = (mixed(item) >> np.uint64(32)).astype(np.uint32)
    return hashes


@njit(cache=True, nogil=True)
def _column(h):  # type: ignore[no-untyped-def]
    """Column of a 32-bit hash."""
    z = np.uint64(h) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(z >> np.uint64(64 - 18))


@njit(cache=True, nogil=True)
def _crossed(a, b):  # type: ignore[no-untyped-def]
    """Column of the product of two features."""
    z = (np.uint64(a) * np.uint64(0xBF58476D1CE4E5B9)) ^ (np.uint64(b) * np.uint64(0x94D049BB133111EB))
    z = (z ^ (z >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(z >> np.uint64(64 - 18))


@njit(cache=True, nogil=True)
def crossed_rows(s_starts, s_index, s_value, c_starts, c_index, c_value, identity, level, weight, starts, cols, vals):  # type: ignore[no-untyped-def]
    """Write design rows: shared, candidate, identity and their products (times ``weight``) into cols and vals.

    :param level: place in ``CROSSES``
    :param starts: shape (m + 1,): where each row goes
    """
    for i in range(len(identity)):
        at = starts[i]
        for s in range(s_starts[i], s_starts[i + 1]):
            cols[at], vals[at] = _column(s_index[s]), s_value[s]
            at += 1
            if level >= 1:
                cols[at], vals[at] = _crossed(s_index[s], identity[i]), weight * s_value[s]
                at += 1
            if level >= 2:
                for c in range(c_starts[i], c_starts[i + 1]):
                    cols[at], vals[at] = _crossed(s_index[s], c_index[c]), weight * s_value[s] * c_value[c]
                    at += 1
        for c in range(c_starts[i], c_starts[i + 1]):
            cols[at], vals[at] = _column(c_index[c]), c_value[c]
            at += 1
        cols[at], vals[at] = _column(identity[i]), 1.0


@njit(cache=True, nogil=True)
def crossed_scores(s_starts, s_index, s_value, c_starts, c_index, c_value, identity, event, level, weight, coef, out):  # type: ignore[no-untyped-def]
    """The same rows times coefficients, without writing them down.

    :param event: shape (C,): whose shared features each candidate has
    :param coef: shape (WIDTH,)
    :param out: shape (C,): added to
    """
    for i in range(len(identity)):
        total = coef[_column(identity[i])]
        e = event[i]
        for s in range(s_starts[e], s_starts[e + 1]):
            total += coef[_column(s_index[s])] * s_value[s]
            if level >= 1:
                total += coef[_crossed(s_index[s], identity[i])] * weight * s_value[s]
            if level >= 2:
                for c in range(c_starts[i], c_starts[i + 1]):
                    total += coef[_crossed(s_index[s], c_index[c])] * weight * s_value[s] * c_value[c]
        for c in range(c_starts[i], c_starts[i + 1]):
            total += coef[_column(c_index[c])] * c_value[c]
        out[i] += total
