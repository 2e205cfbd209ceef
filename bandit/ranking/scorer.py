"""Scores of candidates from VW's own weights, several times faster than VW's engine.

A linear model is one array of weights. VW hashes features, learns and saves; this reads what it
saved and adds up the same products. The score is the expected reward, higher is better: the negative of
VW's cost. It agrees with VW to 1e-6 of the sum of the absolute terms: VW adds up in float32, one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from bandit.errors import CorruptModel
from bandit.features.hashing import DENSE, HashedFeatures, murmur3
from bandit.features.item_table import TableView
from bandit.features.model_args import ModelArgs

# VW's intercept is a feature of its own with this hash.
CONSTANT: Final = 11650396
_PRIME: Final = np.uint32(16777619)
_RECORD: Final = np.dtype([("index", "<u4"), ("weight", "<f4"), ("adaptive", "<f4"), ("normalized", "<f4")])

Weights = npt.NDArray[np.float32]

_DENSE_LETTER: Final = ord(DENSE)
#: Without dense columns.
NO_COLUMNS: Final = np.empty(0, np.uint32)


# -- weights from a saved model -----------------------------------------------------------------


class ModelState(NamedTuple):
    """What stands before the weights in a saved model.

    :param n_learned: events learned by this model since it began
    :param gravity, contraction: how far l1 and l2 have shrunk all weights, without touching them
    """

    bits: int
    options: str
    n_learned: int
    gravity: float
    contraction: float
    weights_at: int


def read_state(model: bytes) -> ModelState:
    """
    :raises CorruptModel: not a whole model of this VW version, or its header's checksum is wrong
    """
    reader = _Reader(model)
    version = reader.text()
    if not version.startswith("9."):
        raise _corrupt(f"it was saved by VW {version!a}; readable is version 9", version=version)
    reader.checksum = 0  # It covers what follows the version.
    reader.text()  # id
    if reader.take(1) != b"m":
        raise _corrupt("no model marker")
    reader.take(4), reader.take(4)  # least and greatest label
    (bits,) = reader.unpack("<I")
    lda, n_grams, n_skips = reader.unpack("<I"), reader.unpack("<I"), reader.unpack("<I")
    if lda != (0,) or n_grams != (0,) or n_skips != (0,):
        raise _corrupt("it has lda, n-grams or skips, which are not served")
    options = reader.text()
    checksum = reader.checksum
    if reader.unpack("<I") != (4,) or reader.unpack("<I") != (checksum,):
        raise _corrupt("the header's checksum is wrong")
    n_learned, _actions = reader.unpack("<QQ")
    if reader.take(1) != b"\x01":
        raise _corrupt("it was saved without the state of learning")
    # initial t, normaliser, t, losses, interval, labels, counts; see VW's save_load_online_state.
    reader.unpack("<fddddfffdddQQddQ")
    gravity, contraction = reader.unpack("<dd")
    if not (0.0 <= gravity < 1e9 and 0.0 < contraction <= 1.0):
        raise _corrupt("its regularisation is out of range", gravity=gravity, contraction=contraction)
    if not 0 < bits < 31:
        raise _corrupt(f"it has {bits} bits")
    return ModelState(bits, options.strip(), n_learned, gravity, contraction, reader.at)


def check_model(model: bytes, args: ModelArgs) -> tuple[ModelState, npt.NDArray[Any]]:
    """What was read of a whole and sound model: its state, and its records of nonzero weights.

    VW itself loads a truncated model without a word.

    :raises CorruptModel: truncated, of other bits than ``args``, out of order or not finite
    """
    state = read_state(model)
    if state.bits != args.bits:
        raise _corrupt(f"it has {state.bits} bits; expected are {args.bits}", given=state.bits)
    body = memoryview(model)[state.weights_at :]
    if len(body) % _RECORD.itemsize:
        raise _corrupt(f"{len(body) % _RECORD.itemsize} bytes stand after the last whole weight")
    records = np.frombuffer(body, _RECORD)
    index = records["index"]
    if len(index) and (int(index[-1]) >= 1 << args.bits or not bool((index[1:] > index[:-1]).all())):
        raise _corrupt("its weights are out of order or out of range")
    if not bool(np.isfinite(records["weight"]).all()):
        raise _corrupt("a weight is not finite")
    return state, records


def weights_from_model(model: bytes, args: ModelArgs) -> Weights:
    """The weights that VW would predict with, in natural order.

    :param model: what VW saved
    :returns: shape (2 ** bits,), float32
    :raises CorruptModel: as `check_model`: scores would be wrong without a sign
    """
    state, records = check_model(model, args)
    weights = np.zeros(1 << args.bits, np.float32)
    weights[records["index"]] = records["weight"]
    if state.gravity != 0.0 or state.contraction != 1.0:
        weights = _shrunk(weights, state.gravity, state.contraction)
    return weights


def _shrunk(weights: Weights, gravity: float, contraction: float) -> Weights:
    """l1 pulls every weight towards zero and l2 scales it; VW does so only as it predicts."""
    pull = np.float32(gravity)
    kept = np.where(np.abs(weights) < pull, np.float32(0), weights - np.sign(weights) * pull)
    return (kept * np.float32(contraction)).astype(np.float32)


class _Reader:
    """Reads a header and keeps VW's checksum of all that was read, write by write."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self.checksum = 0

    def take(self, n: int) -> bytes:
        piece = self._data[self.at : self.at + n]
        if len(piece) < n:
            raise _corrupt(f"it ends after {len(self._data)} bytes, inside its header", given=len(self._data))
        self.at += n
        self.checksum = murmur3(piece, self.checksum)
        return piece

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def text(self) -> str:
        (length,) = self.unpack("<I")
        if not 0 < length <= 1 << 20:
            raise _corrupt(f"a text of {length} bytes stands in its header")
        piece = self.take(length)
        if piece[-1] != 0:
            raise _corrupt("a text in its header does not end")
        return piece[:-1].decode("utf-8", "replace")


def _corrupt(fault: str, **detail: Any) -> CorruptModel:
    return CorruptModel(f"the model cannot be used: {fault}; take the last good one", **detail)


# -- scoring ------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """All of a request's arithmetic that no candidate changes.

    :param base: sum of the terms that have no item feature in them
    :param after_at, after_hash, after_val: for each letter (``after_at[c]:after_at[c + 1]``) what an item
        feature of that letter is crossed with, standing last in its interaction: half hash and value
    :param before_at, before_hash, before_val: the same, the item feature standing first
    :param terms: shape (k, 3), letters, -1 for none: interactions with more than one item feature in
        them, or one in the middle; evaluated one by one
    :param dense_idx: shape (d,), hashes of the dense columns
    :param dense_weight: shape (d,), of each column: its own weight and its crosses with what is shared
    """

    base: float
    mask: int
    ignored: npt.NDArray[np.bool_]
    after_at: npt.NDArray[np.int64]
    after_hash: npt.NDArray[np.uint32]
    after_val: npt.NDArray[np.float32]
    before_at: npt.NDArray[np.int64]
    before_hash: npt.NDArray[np.uint32]
    before_val: npt.NDArray[np.float32]
    terms: npt.NDArray[np.int64]
    shared_at: npt.NDArray[np.int64]
    shared_idx: npt.NDArray[np.uint32]
    shared_val: npt.NDArray[np.float32]
    dense_idx: npt.NDArray[np.uint32]
    dense_weight: npt.NDArray[np.float32]


def prepare(
    view: TableView,
    shared: HashedFeatures,
    weights: Weights,
    args: ModelArgs,
    dense_idx: npt.NDArray[np.uint32] = NO_COLUMNS,
) -> Prepared:
    """Once a request, for any number of `score_prepared` over its candidates with these weights.

    :param dense_idx: shape (d,), from `dense_indices`: features that every candidate has a value of its own for
    """
    item_letters = view.letters | (1 << _DENSE_LETTER if len(dense_idx) else 0)
    letters = item_letters
    for letter in set(shared.letters.tolist()):
        letters |= 1 << letter
    terms, lasting, ignored = _layout(args, letters, item_letters)
    mask = len(weights) - 1
    parts = _prepare(shared.letters, shared.idx, shared.val, terms, ignored, args.noconstant, weights, np.uint32(mask))
    base, after_at, after_hash, after_val, before_at, before_hash, before_val, shared_at = parts
    dense_weight = _weigh_columns(
        dense_idx, ignored, after_at, after_hash, after_val, before_at, before_hash, before_val, weights,
        np.uint32(mask),
    )  # fmt: skip
    return Prepared(
        base, mask, ignored, after_at, after_hash, after_val, before_at, before_hash, before_val,
        lasting, shared_at, shared.idx, shared.val, dense_idx, dense_weight,
    )  # fmt: skip


def score_prepared(
    prepared: Prepared,
    view: TableView,
    rows: npt.NDArray[np.int32],
    weights: Weights,
    out: npt.NDArray[np.float32],
    dense: npt.NDArray[np.float32] | None = None,
) -> None:
    """Expected reward of these rows into ``out``. Holds no GIL; any subset, in any order.

    :param dense: shape (n, d), values of the dense columns for ``rows``; None where there are no columns
    """
    if dense is None:
        dense = np.empty((len(rows), 0), np.float32)
    if dense.shape != (len(rows), len(prepared.dense_idx)):
        raise ValueError(f"dense is {dense.shape}; expected ({len(rows)}, {len(prepared.dense_idx)})")
    _score(
        view.row_segment, view.segment_start, view.segment_letter, view.idx, view.val, rows,
        prepared.base, np.uint32(prepared.mask), prepared.ignored,
        prepared.after_at, prepared.after_hash, prepared.after_val,
        prepared.before_at, prepared.before_hash, prepared.before_val,
        prepared.terms, prepared.shared_at, prepared.shared_idx, prepared.shared_val,
        prepared.dense_idx, prepared.dense_weight, np.ascontiguousarray(dense), weights, out,
    )  # fmt: skip


def score(
    view: TableView,
    rows: npt.NDArray[np.int32],
    shared: HashedFeatures,
    weights: Weights,
    args: ModelArgs,
    out: npt.NDArray[np.float32],
    *,
    dense_idx: npt.NDArray[np.uint32] = NO_COLUMNS,
    dense: npt.NDArray[np.float32] | None = None,
) -> None:
    """Expected reward of each candidate: higher is better; the negative of VW's cost.

    :param view: of the table that ``rows`` are of
    :param rows: shape (n,)
    :param shared: features of viewer, context and slot
    :param weights: shape (2 ** args.bits,), of a model learned with ``args``
    :param out: shape (n,), written
    :param dense_idx: shape (d,), as for `prepare`
    :param dense: shape (n, d), float32
    """
    score_prepared(prepare(view, shared, weights, args, dense_idx), view, rows, weights, out, dense)


def dense_indices(names: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Hashes of the columns of the dense namespace, as VW gives them to ``{"D": {name: number}}``; shape (d,)."""
    seed = murmur3(DENSE.encode())
    return np.array([murmur3(name.encode(), seed) for name in names], np.uint32)


@lru_cache(maxsize=256)
def _layout(
    args: ModelArgs, letters: int, item_letters: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(all interactions, those that item features enter otherwise than alone at an end, ignored letters)."""
    names = "".join(chr(c) for c in range(128) if letters >> c & 1)
    rows = [[ord(c) for c in term] + [-1] * (3 - len(term)) for term in args.terms(names)]
    terms = np.array(rows, np.int64).reshape(-1, 3)

    def of_items(letter: int) -> bool:
        return bool(item_letters >> letter & 1)

    def lasts(a: int, b: int, c: int) -> bool:
        return (of_items(a) and of_items(b)) if c < 0 else (of_items(a) or of_items(b))

    ignored = np.zeros(128, np.bool_)
    for c in args.ignore_linear:
        ignored[ord(c)] = True
    return terms, np.array([row for row in rows if lasts(*row)], np.int64).reshape(-1, 3), ignored


@njit(cache=True, nogil=True)
def _prepare(letters, idx, val, terms, ignored, noconstant, weights, mask):  # type: ignore[no-untyped-def]
    shared_at = np.zeros(129, np.int64)
    for i in range(len(letters)):
        shared_at[np.int64(letters[i]) + 1] += 1
    for c in range(128):
        shared_at[c + 1] += shared_at[c]
    base = 0.0
    if not noconstant:
        base += np.float64(weights[np.uint32(CONSTANT) & mask])
    for i in range(len(idx)):
        if not ignored[letters[i]]:
            base += np.float64(weights[idx[i] & mask] * val[i])

    # How much each letter gets, then the same once more to fill.
    after_at = np.zeros(129, np.int64)
    before_at = np.zeros(129, np.int64)
    for k in range(len(terms)):
        a, b, c = terms[k, 0], terms[k, 1], terms[k, 2]
        n_a = shared_at[a + 1] - shared_at[a]
        n_b = shared_at[b + 1] - shared_at[b]
        if c < 0:
            if a != b:
                after_at[b + 1] += n_a
            before_at[a + 1] += n_b
        elif b != c:
            after_at[c + 1] += n_a * (n_a + 1) // 2 if a == b else n_a * n_b
    for c in range(128):
        after_at[c + 1] += after_at[c]
        before_at[c + 1] += before_at[c]
    after_hash = np.empty(after_at[128], np.uint32)
    after_val = np.empty(after_at[128], np.float32)
    before_hash = np.empty(before_at[128], np.uint32)
    before_val = np.empty(before_at[128], np.float32)
    after_n = after_at[:128].copy()
    before_n = before_at[:128].copy()
    for k in range(len(terms)):
        a, b, c = terms[k, 0], terms[k, 1], terms[k, 2]
        if c < 0:
            for j in range(shared_at[b], shared_at[b + 1]):
                before_hash[before_n[a]] = idx[j]
                before_val[before_n[a]] = val[j]
                before_n[a] += 1
        for i in range(shared_at[a], shared_at[a + 1]):
            half = np.uint32(_PRIME * idx[i])
            if c < 0 and a != b:
                after_hash[after_n[b]] = half
                after_val[after_n[b]] = val[i]
                after_n[b] += 1
            for j in range(i if a == b else shared_at[b], shared_at[b + 1]):
                value = val[i] * val[j]
                if c < 0:
                    base += np.float64(weights[(half ^ idx[j]) & mask] * value)
                    continue
                third = np.uint32(_PRIME * np.uint32(half ^ idx[j]))
                if b != c:
                    after_hash[after_n[c]] = third
                    after_val[after_n[c]] = value
                    after_n[c] += 1
                for m in range(j if b == c else shared_at[c], shared_at[c + 1]):
                    base += np.float64(weights[(third ^ idx[m]) & mask] * (value * val[m]))
    return base, after_at, after_hash, after_val, before_at, before_hash, before_val, shared_at


@njit(cache=True, nogil=True)
def _weigh_columns(  # type: ignore[no-untyped-def]
    dense_idx, ignored, after_at, after_hash, after_val, before_at, before_hash, before_val, weights, mask
):  # fmt: skip
    """What one unit of each dense column adds to a score."""
    found = np.empty(len(dense_idx), np.float32)
    for j in range(len(dense_idx)):
        index = dense_idx[j]
        part = np.float32(0.0) if ignored[_DENSE_LETTER] else weights[index & mask]
        for p in range(after_at[_DENSE_LETTER], after_at[_DENSE_LETTER + 1]):
            part += weights[(after_hash[p] ^ index) & mask] * after_val[p]
        half = np.uint32(_PRIME * index)
        for p in range(before_at[_DENSE_LETTER], before_at[_DENSE_LETTER + 1]):
            part += weights[(half ^ before_hash[p]) & mask] * before_val[p]
        found[j] = part
    return found


@njit(cache=True, nogil=True)
def _most_features(row_segment, segment_start, rows):  # type: ignore[no-untyped-def]
    most = 0
    for r in range(len(rows)):
        row = rows[r]
        most = max(most, segment_start[row_segment[row + 1]] - segment_start[row_segment[row]])
    return most


@njit(cache=True, nogil=True)
def _lay_out(  # type: ignore[no-untyped-def]
    row, row_segment, segment_start, segment_letter, idx, val, dense_idx, dense, own_idx, own_val, item_at, item_end
):  # fmt: skip
    """One candidate's features, by letter and in VW's order: its dense columns stand first of their letter."""
    at = 0
    placed = len(dense_idx) == 0
    for s in range(row_segment[row], row_segment[row + 1] + 1):
        letter = 128 if s == row_segment[row + 1] else np.int64(segment_letter[s])
        if not placed and letter >= _DENSE_LETTER:
            item_at[_DENSE_LETTER] = at
            for j in range(len(dense_idx)):
                own_idx[at] = dense_idx[j]
                own_val[at] = dense[j]
                at += 1
            item_end[_DENSE_LETTER] = at
            placed = True
        if letter == 128:
            break
        if letter != _DENSE_LETTER or len(dense_idx) == 0:
            item_at[letter] = at
        for f in range(segment_start[s], segment_start[s + 1]):
            own_idx[at] = idx[f]
            own_val[at] = val[f]
            at += 1
        item_end[letter] = at


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _score(  # type: ignore[no-untyped-def]
    row_segment, segment_start, segment_letter, idx, val, rows,
    base, mask, ignored,
    after_at, after_hash, after_val, before_at, before_hash, before_val,
    terms, shared_at, shared_idx, shared_val, dense_idx, dense_weight, dense, weights, out,
):  # fmt: skip
    item_at = np.zeros(128, np.int64)
    item_end = np.zeros(128, np.int64)
    room = _most_features(row_segment, segment_start, rows) + len(dense_idx) if len(terms) > 0 else 0
    own_idx = np.empty(room, np.uint32)
    own_val = np.empty(room, np.float32)
    for r in range(len(rows)):
        row = rows[r]
        total = base
        for s in range(row_segment[row], row_segment[row + 1]):
            letter = segment_letter[s]
            linear = np.float32(0.0) if ignored[letter] else np.float32(1.0)
            after, after_end = after_at[letter], after_at[letter + 1]
            before, before_end = before_at[letter], before_at[letter + 1]
            for f in range(segment_start[s], segment_start[s + 1]):
                index = idx[f]
                part = linear * weights[index & mask]
                for p in range(after, after_end):
                    part += weights[(after_hash[p] ^ index) & mask] * after_val[p]
                half = np.uint32(_PRIME * index)
                for p in range(before, before_end):
                    part += weights[(half ^ before_hash[p]) & mask] * before_val[p]
                total += np.float64(part * val[f])
        for j in range(len(dense_idx)):
            total += np.float64(dense_weight[j] * dense[r, j])
        if len(terms) > 0:
            item_end[:] = item_at[:]
            _lay_out(
                row, row_segment, segment_start, segment_letter, idx, val, dense_idx, dense[r], own_idx, own_val,
                item_at, item_end,
            )  # fmt: skip
            for k in range(len(terms)):
                total += _term(
                    terms[k, 0], terms[k, 1], terms[k, 2], own_idx, own_val, item_at, item_end,
                    shared_at, shared_idx, shared_val, weights, mask,
                )  # fmt: skip
        out[r] = np.float32(-total)


@njit(cache=True, nogil=True)
def _term(a, b, c, idx, val, item_at, item_end, shared_at, shared_idx, shared_val, weights, mask):  # type: ignore[no-untyped-def]
    """What of one interaction `_prepare` could not foresee.

    Each letter's features are the item's, then the shared ones. Of a letter that stands twice, only
    pairs in that order count, each feature with itself too.
    """
    total = 0.0
    own_a = item_end[a] - item_at[a]
    own_b = item_end[b] - item_at[b]
    if c < 0:
        for i in range(own_a):
            half = np.uint32(_PRIME * idx[item_at[a] + i])
            for j in range(i if a == b else 0, own_b):
                f = item_at[b] + j
                total += np.float64(weights[(half ^ idx[f]) & mask] * (val[item_at[a] + i] * val[f]))
        return total
    own_c = item_end[c] - item_at[c]
    n_a = own_a + shared_at[a + 1] - shared_at[a]
    n_b = own_b + shared_at[b + 1] - shared_at[b]
    n_c = own_c + shared_at[c + 1] - shared_at[c]
    for i in range(n_a):
        if i < own_a:
            index_a, value_a = idx[item_at[a] + i], val[item_at[a] + i]
        else:
            f = shared_at[a] + i - own_a
            index_a, value_a = shared_idx[f], shared_val[f]
        half = np.uint32(_PRIME * index_a)
        for j in range(i if a == b else 0, n_b):
            if i >= own_a and j >= own_b:
                break  # Two shared features: foreseen, whatever the third is.
            if j < own_b:
                index_b, value_b = idx[item_at[b] + j], val[item_at[b] + j]
            else:
                f = shared_at[b] + j - own_b
                index_b, value_b = shared_idx[f], shared_val[f]
            third = np.uint32(_PRIME * np.uint32(half ^ index_b))
            value = value_a * value_b
            for m in range(j if b == c else 0, n_c):
                if m < own_c:
                    index_c, value_c = idx[item_at[c] + m], val[item_at[c] + m]
                else:
                    f = shared_at[c] + m - own_c
                    index_c, value_c = shared_idx[f], shared_val[f]
                total += np.float64(weights[(third ^ index_c) & mask] * (value * value_c))
    return total
