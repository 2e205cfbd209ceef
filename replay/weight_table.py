"""How often each pair of weight and reward occurred, in cells that are narrow enough to bet on.

Counts in cells can be added, whatever was counted where; so anything that is a sum over events of a smooth function
of (weight, reward) can be had later from this table alone: anytime-valid sequences, histograms.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from replay.errors import BadQuestion
from replay.events import F64, I64

REWARD_CELLS: Final = 64
"""Equal parts of the reward range; its ends and 0 have cells of their own."""

# A float's sign, exponent and first 7 bits: 128 cells between a power of two and the next, ratio at most 1.0079.
_WEIGHT_SHIFT: Final = 45
# The same with 4 bits, for rewards whose range is unknown.
_REWARD_SHIFT: Final = 48
_TINY: Final = 2.0**-20
_COLUMNS: Final = 8
_FIRST: Final = 64


class Cells(NamedTuple):
    """The occupied cells, by ascending key; every column has shape (cells,).

    All events of a cell have their weight in ``[low_weight, high_weight]`` (both were seen; never further apart than
    a factor of 1.0079, save below 1e-6) and their reward in ``[low_reward, high_reward]``.
    """

    counts: F64
    sum_weight: F64
    sum_reward: F64
    sum_product: F64
    """Sum of weight times reward."""
    low_weight: F64
    high_weight: F64
    low_reward: F64
    high_reward: F64


class WeightTable:
    """Counts of events by (weight, reward) cell.

    In logs of single slots the pair is (w, r). In slates it is (x / y, y) with y the event's reward and
    x = sum_k w_{1:k} r_k; (w_{1:L}, 0) where y = 0. The mean of the weight is then not 1 in expectation.

    :param reward_range: lowest and highest reward of an event; None if unknown: rewards then have cells like weights
    :param mean_weight_is_one: whether weights have mean 1 in expectation
    """

    def __init__(self, reward_range: tuple[float, float] | None = None, *, mean_weight_is_one: bool = True) -> None:
        self.reward_range = reward_range
        self.mean_weight_is_one = mean_weight_is_one
        self.faithful = True
        """False once an event had reward 0 but weighted reward not 0 (slots of both signs): no pair can say that,
        and what rests on the table alone must refuse. Also where events stand for several: each is counted once."""
        self._keys: I64 = np.full(_FIRST, -1, np.int64)
        self._cells: F64 = np.zeros((_FIRST, _COLUMNS))
        self._used = 0
        self._sorted: Cells | None = None

    @property
    def cells(self) -> Cells:
        """What was counted."""
        if self._sorted is None:
            _, cells = self._compact()
            self._sorted = Cells(*(np.ascontiguousarray(column) for column in cells.T))
        return self._sorted

    @property
    def n(self) -> int:
        """How many events were counted."""
        return int(self.cells.counts.sum())

    def add(self, weight: F64, reward: F64) -> None:
        """Count events.

        :param weight: shape (n,), finite
        :param reward: shape (n,), finite
        """
        self._sorted = None
        low, high = self.reward_range if self.reward_range is not None else (0.0, 0.0)
        at = 0
        while True:
            at, self._used = _count(self._keys, self._cells, self._used, weight, reward, low, high, at)
            if at == len(weight):
                return
            self._grow()

    def merge(self, other: WeightTable) -> WeightTable:
        """Both together, as if one table had counted all.

        :raises BadQuestion: their cells are not the same
        """
        if (self.reward_range, self.mean_weight_is_one) != (other.reward_range, other.mean_weight_is_one):
            raise BadQuestion(
                f"tables over rewards {self.reward_range} and {other.reward_range} do not merge; "
                "give every part of a log the same reward range"
            )
        mine, theirs = self._compact(), other._compact()
        keys, at = np.unique(np.concatenate([mine[0], theirs[0]]), return_inverse=True)
        cells = np.zeros((len(keys), _COLUMNS))
        cells[:, [4, 6]], cells[:, [5, 7]] = np.inf, -np.inf
        for place, part in ((at[: len(mine[0])], mine[1]), (at[len(mine[0]) :], theirs[1])):
            cells[place, :4] += part[:, :4]
            cells[place[:, None], [4, 6]] = np.minimum(cells[place[:, None], [4, 6]], part[:, [4, 6]])
            cells[place[:, None], [5, 7]] = np.maximum(cells[place[:, None], [5, 7]], part[:, [5, 7]])
        both = WeightTable(self.reward_range, mean_weight_is_one=self.mean_weight_is_one)
        both.faithful = self.faithful and other.faithful
        both._store(keys, cells)
        return both

    def _compact(self) -> tuple[I64, F64]:
        used = np.flatnonzero(self._keys >= 0)
        used = used[np.argsort(self._keys[used])]
        return self._keys[used], self._cells[used]

    def _grow(self) -> None:
        keys, cells = self._compact()
        self._store(keys, cells, 2 * len(self._keys))

    def _store(self, keys: I64, cells: F64, capacity: int = _FIRST) -> None:
        while capacity < 2 * len(keys):
            capacity *= 2
        self._keys = np.full(capacity, -1, np.int64)
        self._cells = np.zeros((capacity, _COLUMNS))
        _restore(self._keys, self._cells, keys, cells)
        self._used = len(keys)


@njit(cache=True, nogil=True)
def _place(keys, key):  # type: ignore[no-untyped-def]
    """Where a key is, or is to go; there is always a free place."""
    mask = len(keys) - 1
    z = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64(z >> np.uint64(32)) & mask
    while keys[at] != key and keys[at] >= 0:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _reward_key(reward, low, high):  # type: ignore[no-untyped-def]
    if reward == 0.0:
        return np.int64(0)
    if low < high:
        if reward == low:
            return np.int64(1)
        if reward == high:
            return np.int64(2)
        part = np.int64((reward - low) / (high - low) * REWARD_CELLS)
        return np.int64(3) + min(max(part, np.int64(0)), np.int64(REWARD_CELLS - 1))
    if abs(reward) < _TINY:
        return np.int64(1 if reward > 0 else 2)
    return np.int64(np.float64(reward).view(np.uint64) >> np.uint64(_REWARD_SHIFT))


@njit(cache=True, nogil=True)
def _weight_key(weight):  # type: ignore[no-untyped-def]
    if weight == 0.0:
        return np.int64(0)
    if abs(weight) < _TINY:
        return np.int64(1 if weight > 0 else 2)
    return np.int64(np.float64(weight).view(np.uint64) >> np.uint64(_WEIGHT_SHIFT))


@njit(cache=True, nogil=True)
def _count(keys, cells, used, weight, reward, low, high, begin):  # type: ignore[no-untyped-def]
    """Count events from ``begin`` on, until the table is half full; returns where it stopped."""
    half = len(keys) // 2
    for i in range(begin, len(weight)):
        w, r = weight[i], reward[i]
        key = (_weight_key(w) << 16) | _reward_key(r, low, high)
        at = _place(keys, key)
        if keys[at] < 0:
            if used >= half:
                return i, used
            used += 1
            keys[at] = key
            cell = cells[at]
            cell[4], cell[5], cell[6], cell[7] = w, w, r, r
        cell = cells[at]
        cell[0] += 1.0
        cell[1] += w
        cell[2] += r
        cell[3] += w * r
        cell[4] = min(cell[4], w)
        cell[5] = max(cell[5], w)
        cell[6] = min(cell[6], r)
        cell[7] = max(cell[7], r)
    return len(weight), used


@njit(cache=True, nogil=True)
def _restore(keys, cells, some_keys, some_cells):  # type: ignore[no-untyped-def]
    for i in range(len(some_keys)):
        at = _place(keys, some_keys[i])
        keys[at] = some_keys[i]
        cells[at] = some_cells[i]
