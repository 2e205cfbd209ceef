"""Candidates of many events as rows that the serving kernel scores at once, and explorers over all slots at once."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bandit.features.hashing import HashedFeatures
from bandit.features.item_table import TableView
from bandit.features.model_args import ModelArgs
from bandit.features.tokenizer import hash_object, new_work
from bandit.ranking.scorer import score
from bandit.slate.drawing import slot_probabilities
from bandit.slate.explorers import EPSILON_GREEDY, GREEDY, SOFTMAX, SQUARECB, Explorer
from replay.events import F64, I64, event_of_slot

MOST_TEXTS: Final = 200_000
"""Hashed candidates that are kept for later batches."""
_NO_IDS: Final = np.frombuffer(b"", np.uint8)
_NOTHING: Final = HashedFeatures(np.empty(0, np.uint8), np.empty(0, np.uint32), np.empty(0, np.float32))
# Without `--hash all` VW reads names of digits alone as numbers, and drops blanks that a name begins with.
_NUMERIC_NAME: Final = re.compile(rb'"(?:[0-9]+|[\x00-\x20][^"]*)"\s*:')


class Hashed(NamedTuple):
    """Features of some texts; those of text i are ``starts[i]`` up to ``starts[i + 1]``, grouped by letter."""

    starts: I64
    letters: NDArray[np.uint8]
    idx: NDArray[np.uint32]
    val: NDArray[np.float32]


class Hasher:
    """Hashes texts as VW's JSON parser does; knows texts of namespaces with plain members alone.

    :param hash_all: the model was made with ``--hash all``
    """

    def __init__(self, hash_all: bool) -> None:
        self._hash_all = hash_all
        self._work = new_work()
        self._row_of: dict[bytes, int] = {}
        self._kept: list[Hashed] = []
        self._table = Hashed(np.zeros(1, np.int64), *_NOTHING)

    def many(self, texts: list[bytes]) -> Hashed | int:
        """
        :returns: the place of the first text that it does not know, if there is one
        """
        joined = b"".join(texts)
        data = np.frombuffer(joined, np.uint8)
        room = len(joined) // 4 + len(texts) + 1
        letters, idx, val = np.empty(room, np.uint8), np.empty(room, np.uint32), np.empty(room, np.float32)
        starts = np.zeros(len(texts) + 1, np.int64)
        numeric = not self._hash_all and _NUMERIC_NAME.search(joined) is not None
        begin, n = 0, 0
        for i, text in enumerate(texts):
            end = begin + len(text)
            if numeric and _NUMERIC_NAME.search(text):
                return i
            added = hash_object(data, begin, end, _NO_IDS, 0, 0, True, False, self._work, letters, idx, val, n)
            if added < 0:
                return i
            n += added
            starts[i + 1] = n
            begin = end
        return Hashed(starts, letters[:n], idx[:n], val[:n])

    def rows(self, texts: list[bytes]) -> tuple[Hashed, I64] | int:
        """Texts that come again and again, as candidates do: each is hashed once.

        :returns: a table and the row of each text in it; or the place of the first text that it does not know
        """
        try:
            return self._table, np.fromiter(map(self._row_of.__getitem__, texts), np.int64, len(texts))
        except KeyError:
            pass
        if len(self._row_of) > MOST_TEXTS:
            self._row_of, self._table = {}, Hashed(np.zeros(1, np.int64), *_NOTHING)
        fresh = list(dict.fromkeys(text for text in texts if text not in self._row_of))
        hashed = self.many(fresh)
        if isinstance(hashed, int):
            return texts.index(fresh[hashed])
        old = self._table
        self._table = Hashed(
            np.concatenate([old.starts, hashed.starts[1:] + old.starts[-1]]),
            np.concatenate([old.letters, hashed.letters]),
            np.concatenate([old.idx, hashed.idx]),
            np.concatenate([old.val, hashed.val]),
        )
        self._row_of.update(zip(fresh, range(len(old.starts) - 1, len(self._table.starts) - 1), strict=True))
        return self._table, np.fromiter(map(self._row_of.__getitem__, texts), np.int64, len(texts))


def scores(
    shared: Hashed, table: Hashed, rows: I64, event: I64, weights: NDArray[np.float32], args: ModelArgs
) -> NDArray[np.float32]:
    """Expected reward of every candidate, by the kernel that serves.

    To the kernel each candidate together with its event's shared features is an item with all of these features, so
    that one call scores a whole batch.

    :param shared: features of each event
    :param table: features of different candidates
    :param rows: shape (C,), which of them each candidate is
    :param event: shape (C,), whose shared features it is scored with
    """
    sizes = np.diff(table.starts)[rows] + np.diff(shared.starts)[event]
    total = int(sizes.sum())
    row_segment = np.zeros(len(rows) + 1, np.int64)
    segment_start, segment_letter = np.zeros(total + 1, np.int64), np.zeros(total, np.uint8)
    idx, val = np.empty(total, np.uint32), np.empty(total, np.float32)
    letters = _merge(
        shared.starts, shared.letters, shared.idx, shared.val, table.starts, table.letters, table.idx, table.val,
        rows, event, row_segment, segment_start, segment_letter, idx, val,
    )  # fmt: skip
    seen = 0
    for letter in np.flatnonzero(letters).tolist():
        seen |= 1 << letter
    view = TableView(row_segment, segment_start, segment_letter, idx, val, len(rows), seen)
    out = np.empty(len(rows), np.float32)
    score(view, np.arange(len(rows), dtype=np.int32), _NOTHING, weights, args, out)
    return out


@njit(cache=True, nogil=True)
def _merge(  # type: ignore[no-untyped-def]
    shared_starts, shared_letters, shared_idx, shared_val, table_starts, table_letters, table_idx, table_val,
    rows, event, row_segment, segment_start, segment_letter, idx, val,
):  # fmt: skip
    """Both lists of a candidate, merged by letter; of one letter the candidate's come first, as VW has them."""
    seen = np.zeros(128, np.uint8)
    n, segments = 0, 0
    for r in range(len(rows)):
        i, i_end = table_starts[rows[r]], table_starts[rows[r] + 1]
        j, j_end = shared_starts[event[r]], shared_starts[event[r] + 1]
        last = -1
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and table_letters[i] <= shared_letters[j]):
                letter, idx[n], val[n] = table_letters[i], table_idx[i], table_val[i]
                i += 1
            else:
                letter, idx[n], val[n] = shared_letters[j], shared_idx[j], shared_val[j]
                j += 1
            if letter != last:
                segment_start[segments] = n
                segment_letter[segments] = letter
                segments += 1
                last = letter
                seen[letter] = 1
            n += 1
        row_segment[r + 1] = segments
    segment_start[segments] = n
    return seen


def explored(values: NDArray[np.float32], starts: I64, *, explorer: Explorer, shortlist: int, floor: float) -> F64:
    """Probability of every candidate of every slot; shape (C,).

    As :func:`bandit.slate.drawing.slot_probabilities` has it, slot by slot; without a shortlist in one go.

    :param values: shape (C,), finite scores
    :param starts: shape (S + 1,)
    :param floor: share of uniform exploration on top of the explorer's own
    """
    out = np.empty(len(values), np.float64)
    if shortlist == 0:
        _explore_all(values, starts, explorer.kind, explorer.a, floor, out)
        return out
    floors, none_drawn = np.array([floor]), np.empty(0, np.int32)
    bounds: list[Any] = starts.tolist()
    for begin, end in pairwise(bounds):
        out[begin:end] = slot_probabilities(
            values[begin:end], np.zeros(end - begin, np.uint8), none_drawn,
            slot=0, explorer=explorer, shortlist=shortlist, floor=floors,
        )  # fmt: skip
    return out


@njit(cache=True, nogil=True)
def _explore_all(values, starts, kind, a, phi, out):  # type: ignore[no-untyped-def]
    for s in range(len(starts) - 1):
        begin, end = starts[s], starts[s + 1]
        n = end - begin
        if n == 0:
            continue
        best = begin
        for c in range(begin, end):
            if values[c] > values[best]:
                best = c
        top = np.float64(values[best])
        if kind == SQUARECB:
            others = 0.0
            for c in range(begin, end):
                out[c] = 1.0 / (n + a * (top - np.float64(values[c])))
                if c != best:
                    others += out[c]
            out[best] = 1.0 - others
        elif kind == EPSILON_GREEDY:
            for c in range(begin, end):
                out[c] = a / n
            out[best] += 1.0 - a
        elif kind == SOFTMAX:
            total = 0.0
            for c in range(begin, end):
                out[c] = np.exp(a * (np.float64(values[c]) - top))
                total += out[c]
            for c in range(begin, end):
                out[c] /= total
        elif kind == GREEDY:
            for c in range(begin, end):
                out[c] = 0.0
            out[best] = 1.0
        else:
            for c in range(begin, end):
                out[c] = 1.0 / n
        for c in range(begin, end):
            out[c] = (1.0 - phi) * out[c] + phi / n


def events_of_candidates(starts: I64, candidate_starts: I64) -> I64:
    """Shape (C,): the event of every candidate of every slot."""
    return np.repeat(event_of_slot(starts), np.diff(candidate_starts))
