"""What the forensics of propensities keep of a log: wealth of bets against it, by day, model, config and slot.

If the logged propensities are those that were drawn from, then, given all that went before,

* ``1 / (p A)`` of what was drawn averages 1, with A candidates that all have a chance;
* ``1(drawn in G) / (p |G|)`` averages 1 for any group G of candidates that does not depend on the draw;
* the place of the draw among the candidates' probabilities (the PIT) is uniform, where all of them are logged.

A gambler who bets a constant share on the contrary then multiplies money by a non-negative martingale. Logs of
wealth add up over events: so they are kept for every cell (day, model, config, slot), added in any combination later,
and no sound log lets any of them grow, however its propensities are distributed. Source: Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86, 2024.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from replay.events import F64, I64, Batch, slot_numbers

DAY_S: Final = 86_400
FACETS: Final = ("day", "model", "config", "slot")
MOST_LABELS: Final = 2000
"""Labels of a facet that are told apart; the rest are put together."""
MOST_SLOTS: Final = 64
REST: Final = "(others)"
UNKNOWN: Final = "(unknown)"

GROUPS: Final = 8
"""Into how many groups the candidates are put: by place, by item, by their share of probability."""
LARGE_BETS: Final = 2.0 ** -np.arange(1, 15)
"""On the mean of 1 / (p A), up and down."""
GROUP_BETS: Final = np.array([0.5, 0.2, 0.05, 0.02])
"""On groups being drawn more often than they say."""
SURE: Final = 1 - 1e-9
"""Propensity from which on nothing else could have been shown."""
SUM_NOISE: Final = 1e-3
"""By how much probabilities of all candidates may miss 1 (they are often logged with few digits)."""

# Columns of a cell.
ALL, SEEN, REWARDED = range(3)
SLOTS, INVERSE, SQUARES, CANDIDATES, CERTAIN = range(3, 8)
PMFS, BAD_SUMS, NOT_ITS, UNIFORM = range(8, 12)
UP: Final = 12
DOWN: Final = UP + len(LARGE_BETS)
PLACES: Final = DOWN + len(LARGE_BETS)
ITEMS: Final = PLACES + GROUPS * (1 + len(GROUP_BETS))
SHARES: Final = ITEMS + GROUPS * (1 + len(GROUP_BETS))
COLUMNS: Final = SHARES + GROUPS


class Table(NamedTuple):
    """The cells, and what they are cells of.

    ``labels[facet][cell]`` names a cell's day, model, config or slot.
    """

    cells: F64
    """Shape (cells, COLUMNS)."""
    lowest: F64
    """Shape (cells, 2): smallest propensity, and how many slots have exactly it."""
    labels: dict[str, NDArray[np.str_]]
    """By facet; shape (cells,)."""
    largest: float
    """``1 / (p A)`` never was, and by what is left of probability never need be, larger on average."""


class ForensicSums:
    """Adds up a log, a batch at a time."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int, int, int], int] = {}
        self._codes: dict[str, dict[str, int]] = {"model": {}, "config": {}}
        self._cells: F64 = np.zeros((64, COLUMNS))
        self._lowest: F64 = np.tile([np.inf, 0.0], (64, 1))
        self._largest = 0.0
        self._slots = 0

    def add(self, batch: Batch) -> None:
        """Count a batch; its fields ``model`` and ``config``, if it has them, tell releases apart."""
        event = np.repeat(np.arange(batch.n), np.diff(batch.starts))
        number = np.minimum(slot_numbers(batch.starts), MOST_SLOTS)
        cell = self._cells_of(batch, event, number)
        candidates = batch.candidates
        starts = candidates.starts if candidates is not None else _NO_INTS
        items = candidates.item if candidates is not None else _NO_KEYS
        pmf = candidates.logged if candidates is not None and candidates.logged is not None else _NO_FLOATS
        seen = batch.seen if batch.seen is not None else np.ones(batch.n_slots, np.uint8)
        largest = _add(
            self._cells, self._lowest, cell, batch.propensity, batch.n_candidates.astype(np.int64),
            batch.chosen.astype(np.int64), batch.reward, seen, starts, items, pmf, self._slots, LARGE_BETS, GROUP_BETS,
        )  # fmt: skip
        self._largest = max(self._largest, largest)
        self._slots += batch.n_slots

    def _cells_of(self, batch: Batch, event: I64, number: I64) -> I64:
        """Shape (S,): the row of each slot's cell."""
        with np.errstate(invalid="ignore"):
            day = np.where(np.isfinite(batch.time), np.floor(batch.time / DAY_S), -(10**9)).astype(np.int64)
        codes = [self._code(facet, batch.fields.get(facet), batch.n) for facet in ("model", "config")]
        keys = np.stack([day[event], codes[0][event], codes[1][event], number])
        # One number for the four: days and codes within the batch are few.
        packed = np.zeros(keys.shape[1], np.int64)
        for row in keys:
            different, place = np.unique(row, return_inverse=True)
            packed = packed * len(different) + place
        _, first, place = np.unique(packed, return_index=True, return_inverse=True)
        rows = np.array([self._row(*(int(part) for part in keys[:, at])) for at in first], np.int64)
        return rows[place]

    def _code(self, facet: str, values: NDArray[Any] | None, n: int) -> I64:
        if values is None:
            return np.zeros(n, np.int64)
        known = self._codes[facet]
        different, place = np.unique(values.astype(str), return_inverse=True)
        codes = np.empty(len(different), np.int64)
        for at, label in enumerate(different.tolist()):
            known_as = label if label in known or len(known) < MOST_LABELS else REST
            codes[at] = known.setdefault(known_as, len(known) + 1)
        return codes[place]

    def _row(self, day: int, model: int, config: int, slot: int) -> int:
        key = (day, model, config, slot)
        row = self._rows.setdefault(key, len(self._rows))
        if row == len(self._cells):
            self._cells = np.concatenate([self._cells, np.zeros_like(self._cells)])
            self._lowest = np.concatenate([self._lowest, np.tile([np.inf, 0.0], (row, 1))])
        return row

    def table(self) -> Table:
        """All that was counted."""
        n = len(self._rows)
        keys = np.array(list(self._rows), np.int64).reshape(n, 4)
        names = {facet: {code: label for label, code in known.items()} for facet, known in self._codes.items()}
        labels = {
            "day": [str(np.datetime64(day, "D")) if day > -(10**8) else UNKNOWN for day in keys[:, 0].tolist()],
            "model": [names["model"].get(code, UNKNOWN) for code in keys[:, 1].tolist()],
            "config": [names["config"].get(code, UNKNOWN) for code in keys[:, 2].tolist()],
            "slot": [str(slot + 1) for slot in keys[:, 3].tolist()],
        }
        return Table(
            self._cells[:n],
            self._lowest[:n],
            {facet: np.array(labels[facet], dtype=np.str_) for facet in FACETS},
            self._largest,
        )


_NO_INTS: Final = np.empty(0, np.int64)
_NO_KEYS: Final = np.empty(0, np.uint64)
_NO_FLOATS: Final = np.empty(0)


@njit(cache=True, nogil=True)
def _mixed(key):  # type: ignore[no-untyped-def]
    """As `replay.events.mixed`."""
    z = np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _bet_on_groups(row, at, chosen_group, p, sizes, bets):  # type: ignore[no-untyped-def]
    """Of each group that has candidates: how many slots had it, and the log-wealth of those that drew from it over that
    of those that did not."""
    for group in range(GROUPS):
        if sizes[group] > 0:
            row[at + group] += 1.0
    away = 1.0 / (p * sizes[chosen_group]) - 1.0
    begin = at + GROUPS + chosen_group * len(bets)
    for bet in range(len(bets)):
        row[begin + bet] += np.log1p(bets[bet] * away) - np.log1p(-bets[bet])


@njit(cache=True, nogil=True)
def _add(  # type: ignore[no-untyped-def]
    cells, lowest, cell, propensity, n_candidates, chosen, reward, seen, starts, items, pmf, before,
    bets, group_bets,
):  # fmt: skip
    """Returns the largest ``1 / (p A)`` that there was, or must be there to make up what is left of probability."""
    largest = 0.0
    sizes = np.zeros(GROUPS, np.int64)
    for s in range(len(propensity)):
        row, low = cells[cell[s]], lowest[cell[s]]
        p, count = propensity[s], n_candidates[s]
        row[ALL] += 1.0
        row[SEEN] += seen[s]
        row[REWARDED] += reward[s] != 0.0
        if count <= 0 or not p > 0.0:
            continue
        away = 1.0 / (p * count) - 1.0
        row[SLOTS] += 1.0
        row[INVERSE] += 1.0 / p
        row[SQUARES] += 1.0 / (p * p)
        row[CANDIDATES] += count
        row[CERTAIN] += count > 1 and p >= SURE
        row[UNIFORM] += count > 1 and abs(away) < 1e-9
        largest = max(largest, away + 1.0)
        if p < SURE:
            largest = max(largest, (count - 1) / ((1.0 - p) * count))
        if p < low[0]:
            low[0], low[1] = p, 0.0
        if p == low[0]:
            low[1] += 1.0
        for bet in range(len(bets)):
            row[UP + bet] += np.log1p(bets[bet] * away)
            row[DOWN + bet] += np.log(max(1.0 - bets[bet] * away, 1e-300))
        place = chosen[s]
        if count > 1 and 0 <= place < count:
            for group in range(GROUPS):
                if count >= GROUPS:
                    sizes[group] = ((group + 1) * count + GROUPS - 1) // GROUPS - (group * count + GROUPS - 1) // GROUPS
                else:
                    sizes[group] = group < count
            _bet_on_groups(row, PLACES, place * GROUPS // count if count >= GROUPS else place, p, sizes, group_bets)
        if len(starts) == 0 or count <= 1:
            continue
        begin, end = starts[s], starts[s + 1]
        if end - begin != count or not 0 <= place < count:
            continue
        sizes[:] = 0
        for c in range(begin, end):
            sizes[_mixed(items[c]) % np.uint64(GROUPS)] += 1
        _bet_on_groups(row, ITEMS, _mixed(items[begin + place]) % np.uint64(GROUPS), p, sizes, group_bets)
        if len(pmf) == 0:
            continue
        own, above, total = pmf[begin + place], 0.0, 0.0
        for c in range(begin, end):
            total += pmf[c]
            if pmf[c] > own or (pmf[c] == own and c < begin + place):
                above += pmf[c]
        if np.isnan(total):
            continue
        row[PMFS] += 1.0
        row[BAD_SUMS] += abs(total - 1.0) > SUM_NOISE
        row[NOT_ITS] += abs(own - p) > SUM_NOISE * max(p, own)
        within = np.float64(_mixed(np.uint64(before + s) + np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53
        if total > 0.0:
            row[SHARES + min(int((above + within * own) / total * GROUPS), GROUPS - 1)] += 1.0
    return largest
