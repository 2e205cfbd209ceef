"""Propensity forensics: is the log's word for how likely things were to be believed, and if not, since when?

Works on the log alone, without any target policy. Each test is a bet against the log (see
:mod:`replay.forensic_sums`); money won is evidence, and a sound log lets a bet reach 1/a with probability at most a.
Everything is tested by day, model, config and slot at once, with a correction for the number of all those tests.
"""

from __future__ import annotations

from math import log
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay import forensic_sums as fs
from replay.events import F64, I64

ALPHA: Final = 0.01
"""Chance that a sound log is called wrong anywhere, by any of the tests that rest on chance."""

CAREFUL: Final = 2.0
"""How many times the largest weight that the log shows, or must hold, no weight is expected to exceed: bets that the
mean of 1/p is too small rest on it."""

SAME: Final = 3.0
"""Groups whose log-evidence is this close are as good as each other."""

MOST_FINDINGS: Final = 12
TESTS: Final = ("inverse", "shares", "items", "places")


class Found(NamedTuple):
    """A test that failed, where it fails most.

    :ivar where: (facet, label) pairs that all name the same slots; empty: all of the log
    """

    test: str
    where: tuple[tuple[str, str], ...]
    cells: NDArray[np.bool_]
    evidence: float
    """Log of the wealth won."""


# ---------------------------------------------------------------- evidence


def evidence(test: str, cells: F64, largest: float) -> F64:
    """Log-wealth won by the bets of one test on each group of cells.

    :param cells: shape (..., COLUMNS), sums of the cells of each group
    :param largest: see :class:`replay.forensic_sums.Table`
    :returns: shape (...)
    """
    if test == "inverse":
        up = cells[..., fs.UP : fs.UP + len(fs.LARGE_BETS)]
        bold = fs.LARGE_BETS * max(CAREFUL * largest - 1, 0.0) < 1
        down = cells[..., fs.DOWN : fs.DOWN + len(fs.LARGE_BETS)][..., bold]
        return np.maximum(_mean_of_wealth(up), _mean_of_wealth(down)) - log(2)
    if test == "shares":
        counts = cells[..., fs.SHARES : fs.SHARES + fs.GROUPS, None]
        total = counts.sum(axis=-2, keepdims=True)
        bets = np.concatenate([fs.GROUP_BETS, -fs.GROUP_BETS])
        hit, miss = np.log1p(bets * (1 - 1 / fs.GROUPS)), np.log1p(-bets / fs.GROUPS)
        return _mean_of_wealth((counts * hit + (total - counts) * miss).reshape(*cells.shape[:-1], -1))
    at = fs.PLACES if test == "places" else fs.ITEMS
    n = cells[..., at : at + fs.GROUPS, None]
    won = cells[..., at + fs.GROUPS : at + fs.GROUPS * (1 + len(fs.GROUP_BETS))]
    logs = won.reshape(*cells.shape[:-1], fs.GROUPS, len(fs.GROUP_BETS)) + n * np.log1p(-fs.GROUP_BETS)
    return _mean_of_wealth(logs.reshape(*cells.shape[:-1], -1))


def _mean_of_wealth(logs: F64) -> F64:
    """Log of the mean of what the bets won; nothing bet is nothing won.

    :param logs: shape (..., bets)
    """
    if logs.shape[-1] == 0:
        return np.zeros(logs.shape[:-1])
    top = logs.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logs - top[..., None]).mean(axis=-1)))


class Facet(NamedTuple):
    """A way to split the log: its labels, and which of them each cell has."""

    name: str
    labels: list[str]
    place: I64
    """Shape (cells,)."""

    def sums(self, cells: F64) -> F64:
        """Shape (labels, columns): of the cells of each label."""
        result = np.zeros((len(self.labels), *cells.shape[1:]))
        np.add.at(result, self.place, cells)
        return result

    def mask(self, label: int) -> NDArray[np.bool_]:
        """Shape (cells,): those of a label."""
        mask: NDArray[np.bool_] = self.place == label
        return mask


def facets(table: fs.Table) -> list[Facet]:
    """The whole log, named "", then each facet that has several labels."""
    result = [Facet("", [""], np.zeros(len(table.cells), np.int64))]
    for name in fs.FACETS:
        different, place = np.unique(table.labels[name], return_inverse=True)
        if len(different) > 1:
            result.append(Facet(name, different.tolist(), place.astype(np.int64)))
    return result


def find(table: fs.Table, alpha: float = ALPHA) -> list[Found]:
    """What is wrong and where, strongest first in each test.

    The label with the most evidence is named, its events are set aside, and the rest is looked at again: so a bad day
    does not also accuse the models that served on it, nor wrong propensities the draws that they were held against.
    """
    split = facets(table)
    needed = log(len(TESTS) * sum(len(facet.labels) for facet in split) / alpha)
    found: list[Found] = []
    left = np.ones(len(table.cells), np.bool_)
    for test in TESTS:
        for _ in range(MOST_FINDINGS):
            cells = np.where(left[:, None], table.cells, 0.0)
            logs = [evidence(test, facet.sums(cells), table.largest) for facet in split]
            best = max(float(each.max()) for each in logs)
            if best < needed:
                break
            # The smallest group with all the evidence: a model that served on a bad day, and little else, is no
            # better known than the day.
            close = [
                (facet, int(label))
                for facet, each in zip(split, logs, strict=True)
                for label in np.flatnonzero(each > best - SAME)
            ]
            masks = [facet.mask(label) & left for facet, label in close]
            least = min(masks, key=lambda mask: float(table.cells[mask, fs.SLOTS].sum()))
            same = [
                (facet.name, facet.labels[label])
                for (facet, label), mask in zip(close, masks, strict=True)
                if np.array_equal(mask, least)
            ]
            found.append(Found(test, () if ("", "") in same else tuple(same), least, best))
            left &= ~least
    return found
