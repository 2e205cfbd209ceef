"""Mean rewards by item and slot, shrunk to what is known of the item, of the slot and of all: no features needed.

Exact sums over all events, kept by fold, so that the table for a fold is what the other folds say.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from replay.events import F64, FOLDS, I64, U64, Batch, event_of_slot, fold_of, mixed, slot_numbers


class SlotMeans(NamedTuple):
    """Mean reward of each slot, and how far rewards there spread beside those of the top slot.

    A reward is modelled as ``mean + scale * effect``: of a feed, slots further down are seen less often, and then
    everything earns less there by the same factor.
    """

    mean: F64
    """Shape (slots,)."""
    scale: F64
    """Shape (slots,), 1 for the top slot."""

    def at(self, slot: I64) -> tuple[F64, F64]:
        """Shape (m,) each; slots further down than any seen are like the last one."""
        known = np.minimum(slot, len(self.mean) - 1)
        return self.mean[known], self.scale[known]


class Table(NamedTuple):
    """Predictions of one set of folds."""

    slots: SlotMeans
    effect: F64
    """Shape (cells,): of item and slot."""
    item_effect: F64
    """Shape (items,): of the item, for slots where it was never shown."""

    def predict(self, places: Places, slot: I64) -> F64:
        """Shape (m,).

        :param places: where :meth:`TableSums.find` found item and slot
        """
        mean, scale = self.slots.at(slot)
        # The last of each is of what was never shown.
        effect = np.where(places.cell >= 0, self.effect[places.cell], self.item_effect[places.item])
        predicted: F64 = mean + scale * effect
        return predicted


class Places(NamedTuple):
    """Rows of a table; -1 where there is none."""

    cell: I64
    item: I64


class TableSums:
    """Counts, sums and sums of squares of rewards by item, slot and fold."""

    def __init__(self) -> None:
        self.keys = np.empty(0, np.uint64)
        """Shape (cells,), sorted: hashes of item and slot."""
        self.item = np.empty(0, np.uint64)
        self.slot = np.empty(0, np.int64)
        self.sums: F64 = np.empty((0, 3, FOLDS))
        """Count, sum, sum of squares."""
        self._pending: list[tuple[U64, U64, I64, F64]] = []
        self._n_pending = 0

    def add(self, batch: Batch) -> None:
        """Add a batch."""
        slot = slot_numbers(batch.starts)
        fold = fold_of(batch.viewer)[event_of_slot(batch.starts)]
        keys, first, inverse = np.unique(cell_keys(batch.item, slot), return_index=True, return_inverse=True)
        sums = np.empty((len(keys), 3, FOLDS))
        at = inverse * FOLDS + fold
        for k, weights in enumerate((None, batch.reward, batch.reward**2)):
            sums[:, k] = np.bincount(at, weights, len(keys) * FOLDS).reshape(-1, FOLDS)
        self._pending.append((keys, batch.item[first], slot[first], sums))
        self._n_pending += len(keys)
        if self._n_pending > max(4096, len(self.keys)):
            self.settle()

    def settle(self) -> None:
        """Sum up what was added; needed before asking."""
        if not self._pending:
            return
        parts = [(self.keys, self.item, self.slot, self.sums), *self._pending]
        keys, items, slots, sums = (np.concatenate([part[k] for part in parts]) for k in range(4))
        self.keys, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        self.item, self.slot = items[first], slots[first]
        self.sums = np.zeros((len(self.keys), 3, FOLDS))
        np.add.at(self.sums, inverse, sums)
        self._pending, self._n_pending = [], 0

    def items(self) -> tuple[U64, I64]:
        """Shape (items,), sorted; shape (cells,): which of them each cell is of."""
        found, inverse = np.unique(self.item, return_inverse=True)
        return found, inverse

    def find(self, items: U64, item: U64, slot: I64) -> Places:
        """Where items and slots are.

        :param items: as :meth:`items` gives them
        """
        return Places(found_at(self.keys, cell_keys(item, slot)), found_at(items, item))

    def without(self, *folds: int) -> Table:
        """What all other folds say."""
        count, total, squares = self.sums[:, :, [f for f in range(FOLDS) if f not in folds]].sum(2).T
        means = slot_means(self.slot, count, total)
        mean, scale = means.at(self.slot)
        items, of_item = self.items()
        exposure, surplus = count * scale, total - count * mean
        used = count > 0
        within = float((squares[used] - total[used] ** 2 / count[used]).sum())
        freedom = max(float(exposure.sum()) - float(scale[used].sum()), 1.0)
        noise = max(within, 0.0) / freedom
        item_exposure = np.bincount(of_item, exposure, len(items)).astype(np.float64)
        item_surplus = np.bincount(of_item, surplus, len(items)).astype(np.float64)
        item_effect = shrunk(item_surplus, item_exposure, noise)
        left = surplus - exposure * item_effect[of_item]
        several = np.bincount(of_item, used, len(items))[of_item] > 1
        effect = item_effect[of_item]
        effect[several] += shrunk(left[several], exposure[several], noise)
        return Table(means, np.append(effect, 0.0), np.append(item_effect, 0.0))


def shrunk(surplus: F64, exposure: F64, noise: float) -> F64:
    """Effects, shrunk to 0 as far as they look like noise: empirical Bayes, the spread by the method of moments.

    :param surplus: shape (m,), sums of rewards beyond what was expected
    :param exposure: shape (m,), how many rewards they are of
    :param noise: variance of a reward
    Source: DerSimonian, Laird 1986, Meta-analysis in clinical trials (the moment estimate of the spread).
    """
    used = exposure > 0
    effect = np.zeros(len(surplus))
    n = float(exposure.sum())
    if not used.any() or n <= 0:
        return effect
    room = n - float((exposure[used] ** 2).sum()) / n
    if room <= 1e-9 * n:
        return effect
    q = float((surplus[used] ** 2 / exposure[used]).sum()) - float(surplus.sum()) ** 2 / n
    spread = (q - (int(used.sum()) - 1) * noise) / room
    if spread > 0:
        effect[used] = surplus[used] / (exposure[used] + noise / spread)
    return effect


def slot_means(slot: I64, count: F64, total: F64) -> SlotMeans:
    """Of cells; slots in which nothing was shown are like the one above."""
    depth = int(slot.max(initial=0)) + 1
    shown, earned = np.bincount(slot, count, depth), np.bincount(slot, total, depth)
    overall = float(earned.sum() / shown.sum()) if shown.sum() > 0 else 0.0
    mean = np.where(shown > 0, earned / np.maximum(shown, 1.0), np.nan)
    if np.isnan(mean[0]):
        mean[0] = overall
    last = np.maximum.accumulate(np.where(np.isnan(mean), 0, np.arange(depth)))
    mean = mean[last]
    # Where rewards can be negative or nothing at all was earned, every slot is on the same scale.
    scale = mean / mean[0] if depth > 1 and mean.min() > 0 and (total >= 0).all() else np.ones(depth)
    return SlotMeans(mean, scale)


def cell_keys(item: U64, slot: I64) -> U64:
    """Hashes of item and slot; 64 bits, so that two cells of a million share one once in 1e7 logs."""
    return mixed(item) ^ (mixed(slot.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def found_at(ordered: U64, keys: U64) -> I64:
    """Shape (m,): places of keys, -1 for those that are not there."""
    if not len(ordered):
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[at] == keys, at, -1)
