"""Candidates, hashed once and kept: the rows that the scoring kernel reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidFeatures
from bandit.features.hashing import HashedFeatures, hash_item
from bandit.features.tokenizer import add_hashed, add_many, new_work

MEAN_FEATURES_A_ROW: Final = 64


class TableFull(Exception):
    """No room for these rows; begin a new table.

    :ivar room: how many more rows the table takes
    """

    def __init__(self, room: int) -> None:
        super().__init__(f"the item table has room for {room} more rows; begin a new one")
        self.room = room


class TableView(NamedTuple):
    """All rows written so far, as arrays. What a view shows never changes.

    Features of row r by interaction letter: segments ``s`` in
    ``row_segment[r]:row_segment[r + 1]`` are the features
    ``segment_start[s]:segment_start[s + 1]``, all of the letter ``segment_letter[s]``.

    :param letters: bit ``c`` is set where any row has features of the letter ``c``
    """

    row_segment: npt.NDArray[np.int64]
    segment_start: npt.NDArray[np.int64]
    segment_letter: npt.NDArray[np.uint8]
    idx: npt.NDArray[np.uint32]
    val: npt.NDArray[np.float32]
    n_rows: int
    letters: int


class ItemTable:
    """Append-only rows of hashed candidates, bounded by ``capacity`` rows.

    Rows written are immutable, and arrays that grow are replaced, never resized: a `TableView` may be
    read by a kernel, without the GIL, while another thread appends. ``add`` may be called by several
    threads; they take turns.

    :param capacity: most rows; also bounds the features, at 64 a row on average (9 bytes each), except
        that an empty table takes any one batch
    :param traits: of the model's arguments; see `bandit.features.hashing.resolve_item`
    """

    def __init__(self, capacity: int, *, traits: bool = False) -> None:
        self.capacity = capacity
        self._traits = traits
        self._feature_capacity = capacity * MEAN_FEATURES_A_ROW
        self._lock = threading.Lock()
        self._work = new_work()
        rows = min(capacity, 1024)
        self._row_segment = np.zeros(rows + 1, np.int64)
        self._segment_start = np.zeros(rows + 1, np.int64)
        self._segment_letter = np.zeros(rows, np.uint8)
        self._letters = np.zeros(8 * rows, np.uint8)
        self._idx = np.zeros(8 * rows, np.uint32)
        self._val = np.zeros(8 * rows, np.float32)
        # Committed: rows, segments, features. What lies behind them nobody sees.
        self._counts = (0, 0, 0)
        self._seen = 0
        self._publish()

    def __len__(self) -> int:
        return self._counts[0]

    def view(self) -> TableView:
        """The rows written so far; take it once a request."""
        return self._view

    def add(
        self, ids: Sequence[str], raws: Sequence[bytes], *, places: Sequence[int] | None = None
    ) -> npt.NDArray[np.int32]:
        """Hash candidates and append them; all or none.

        :param raws: JSON text of each one's ``features`` object, syntactically valid; empty for none
        :param places: where each stands in the request, for messages
        :returns: shape (n,): the row of each
        :raises InvalidFeatures: naming the candidate and the feature
        :raises TableFull: more than there is room for
        """
        n = len(ids)
        out = np.empty(n, np.int32)
        with self._lock:
            rows, segments, features = self._counts
            if rows + n > self.capacity:
                raise TableFull(self.capacity - rows)
            text, text_end, text_ok = _joined_bytes(raws)
            names, name_end, names_ok = _joined_text(ids)
            # Every feature takes at least four bytes of its text; one more is the id.
            self._reserve(rows + n, segments, features + n + len(text) // 4)
            if text_ok and names_ok:
                rows, segments, features, n_left = add_many(
                    text, text_end, names, name_end, self._traits, self._work,
                    self._row_segment, self._segment_start, self._segment_letter,
                    self._letters, self._idx, self._val,
                    rows, segments, features, out,
                )  # fmt: skip
            else:
                out[:] = -1
                n_left = n
            if n_left:
                for i in np.flatnonzero(out < 0).tolist():
                    place = places[i] if places is not None else i
                    hashed = _hash_slowly(ids[i], bytes(raws[i]), self._traits, f"candidates[{place}].features")
                    self._reserve(rows + n_left, segments, features + len(hashed.idx))
                    out[i] = rows
                    rows, segments, features = add_hashed(
                        hashed.letters, hashed.idx, hashed.val,
                        self._row_segment, self._segment_start, self._segment_letter,
                        self._letters, self._idx, self._val,
                        rows, segments, features,
                    )  # fmt: skip
            if self._counts[0] and features > self._feature_capacity:
                raise TableFull(0)
            self._seen |= _letter_bits(self._segment_letter, self._counts[1], segments)
            self._counts = (rows, segments, features)
            self._publish()
        return out

    def _reserve(self, rows: int, segments: int, features: int) -> None:
        """Room for this many; the old arrays stay as they are for those who hold them."""
        self._row_segment = _grown(self._row_segment, rows + 1, self.capacity + 1)
        # A segment has at least one feature.
        segments += features - self._counts[2] + 1
        self._segment_start = _grown(self._segment_start, segments + 1)
        self._segment_letter = _grown(self._segment_letter, segments + 1)
        self._letters = _grown(self._letters, features)
        self._idx = _grown(self._idx, features)
        self._val = _grown(self._val, features)

    def _publish(self) -> None:
        self._view = TableView(
            self._row_segment, self._segment_start, self._segment_letter,
            self._idx, self._val, self._counts[0], self._seen,
        )  # fmt: skip


def _grown(array: npt.NDArray[Any], needed: int, most: int | None = None) -> npt.NDArray[Any]:
    if needed <= len(array):
        return array
    size = max(needed, 2 * len(array))
    if most is not None:
        size = max(needed, min(size, most))
    bigger = np.zeros(size, array.dtype)
    bigger[: len(array)] = array
    return bigger


def _joined_bytes(parts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], bool]:
    """One array, where each part ends, and whether all of it is UTF-8."""
    joined = b"".join(parts)
    ends = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=ends[1:])
    ok = True
    if not joined.isascii():
        try:
            joined.decode()
        except UnicodeDecodeError:
            ok = False
    return np.frombuffer(joined, np.uint8), ends, ok


def _joined_text(parts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], bool]:
    joined = "".join(parts)
    if joined.isascii():
        lengths = map(len, parts)
        data = joined.encode()
    else:
        try:
            encoded = [part.encode() for part in parts]
        except UnicodeEncodeError:
            return np.empty(0, np.uint8), np.empty(0, np.int64), False
        lengths = map(len, encoded)
        data = b"".join(encoded)
    ends = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(parts)), out=ends[1:])
    return np.frombuffer(data, np.uint8), ends, True


def _letter_bits(letters: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    bits = 0
    for letter in set(letters[start:stop].tolist()):
        bits |= 1 << letter
    return bits


# -- the slow path: exact, and able to explain --------------------------------------------------


def _hash_slowly(item_id: str, raw: bytes, traits: bool, path: str) -> HashedFeatures:
    return hash_item(item_id, parse_features(raw, path=path) if raw else {}, traits=traits, path=path)


def parse_features(raw: bytes, *, path: str = "features") -> dict[str, Any]:
    """A client's ``features`` text as Python objects.

    :raises InvalidFeatures: a name given twice, which JSON readers silently disagree about;
        a text that is no JSON object
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidFeatures(f"{path} gives the name {twice!a} twice; send it once", path=path, name=ascii(twice))
        return members

    def constant(literal: str) -> NoReturn:
        raise InvalidFeatures(f"{path} holds {literal}, which is no JSON; send a finite number", path=path)

    try:
        # Digits beyond any float64 exist, and int() refuses the longest of them.
        value = json.loads(raw, object_pairs_hook=once, parse_constant=constant, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InvalidFeatures(
            f"{path} is not readable as JSON ({error}); send an object of features", path=path
        ) from None
    if not isinstance(value, dict):
        raise InvalidFeatures(f'{path} is not an object; send {{"name": value, ...}}', path=path)
    return value


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)
