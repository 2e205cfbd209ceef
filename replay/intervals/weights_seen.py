"""What the weights of a log say of an event that was not seen, and of how well a standard error is known."""

from __future__ import annotations

from functools import cached_property
from math import inf, isfinite, sqrt
from typing import Final, NamedTuple

import numpy as np

from replay.estimators import Estimator
from replay.events import F64
from replay.sums import Sums

CHANCE: Final = 3.0
"""In how many standard errors viewers who share a bucket by chance may look like one viewer."""

_SAME: Final = 1e-9
"""Distance of weights from 1 that is rounding."""


class Moments(NamedTuple):
    """Sums over events of the second to fourth power of a weight, or of its distance from 1."""

    second: float
    third: float
    fourth: float


class WeightsSeen:
    """Weights of events, as the estimator uses them: shaped, and of slates one for each slot.

    They are taken from the table of weights. Slices and slates have none: there buckets of viewers stand for events,
    which overrates heavy weights where a bucket holds many events.
    """

    def __init__(self, sums: Sums, estimator: Estimator | None = None) -> None:
        self._sums = sums
        self._slates = sums.terms.slates
        self._buckets: F64 = sums.buckets[sums.buckets[:, 0] > 0]
        names = _weights_of(estimator, sums.n_slots) if self._slates else ["w"]
        self._by_slot: F64 = self._buckets[:, [sums.index(name) for name in names]]
        # What these would be if target and logging policy were the same.
        ones = [f"one@{name.partition('@')[2]}" if "@" in name else "one" for name in names]
        self._expected: F64 = self._buckets[:, [sums.index(name) for name in ones]]
        self._cells: tuple[F64, F64] | None = None
        if not self._slates and sums.weights.faithful:
            cells = sums.weights.cells
            weight = cells.sum_weight / cells.counts
            self._cells = cells.counts, weight if estimator is None else shaped(estimator, weight)

    @cached_property
    def nothing(self) -> bool:
        """No weight was above 0, or none that can be squared."""
        return not (self._by_slot**2).any()

    @property
    def missed(self) -> float:
        """Weight of an event that was not seen, but might have been: that at which variance typically is.

        If viewers have several events, all events of one more viewer, as far as weights tell. inf if no weight was
        above 0: nothing was seen of the target then.
        """
        if self.nothing:
            return inf
        if self._slates:
            return min(max(self._together, 1.0), self._sums.weight_bound)
        of_event = self.moments(apart=False)
        typical = of_event.third / of_event.second if of_event.second > 0.0 else 1.0
        return self.clustered * min(typical, self._sums.largest_weight, self._sums.weight_bound)

    @property
    def missed_apart(self) -> float:
        """The same for how far its weight is from 1; 0 if target and logging policy do not differ."""
        if self._slates:
            return self._slots_apart()
        squares = self._squares(apart=True)
        second = float(squares.sum())
        if second <= _SAME**2 * self._sums.size:
            return 0.0
        if self._cells is not None:
            counts, weight = self._cells
            typical = float(counts @ np.abs(weight - 1.0) ** 3) / max(float(counts @ (weight - 1.0) ** 2), 1e-300)
        else:
            typical = float((squares**1.5).sum()) / second
        return self.clustered * min(typical, max(self._sums.largest_weight - 1.0, 1.0))

    @property
    def alone(self) -> float:
        """Of slates: what one event alone of those in `missed` weighs, by the weights of whole slates."""
        weight = self._sums.largest
        squares = float((weight**2).sum())
        return min(self.missed, max(float((weight**3).sum()) / squares, 1.0) if squares > 0.0 else 1.0)

    def _slots_apart(self) -> float:
        """Of slates, of the slot where it is largest: of a viewer, as an average over it."""
        apart = np.abs(self._by_slot - self._expected)
        totals = apart.sum(axis=0)
        some = totals > _SAME * self._sums.size
        return float(((apart[:, some] ** 2).sum(axis=0) / totals[some]).max()) if some.any() else 0.0

    @cached_property
    def clustered(self) -> float:
        """How many times the weight of an event that of its viewer is, at least 1; logs of single slots only."""
        if self.nothing:
            return 1.0
        return max(self._together * float(self._by_slot.sum()) / float(self._squares(apart=False).sum()), 1.0)

    @property
    def _together(self) -> float:
        """Weight of a viewer, as an average over weight; of slates that of the slot where it is largest."""
        totals = self._by_slot.sum(axis=0)
        # Viewers share a bucket by chance; what is more than that is one viewer's.
        n_buckets = len(self._sums.buckets)
        some = totals > 0.0
        own = (self._by_slot**2).sum(axis=0) - totals**2 / n_buckets
        return float((own[some] / totals[some]).max()) / (1.0 + CHANCE * sqrt(2.0 / n_buckets))

    def moments(self, *, apart: bool) -> Moments:
        """Of logs of single slots.

        :param apart: of the weights' distance from 1
        """
        if self._cells is not None:
            counts, weight = self._cells
            weight = weight - 1.0 if apart else weight
            return Moments(*(float(counts @ weight**power) for power in (2, 3, 4)))
        squares = self._squares(apart=apart)
        return Moments(float(squares.sum()), float((squares**1.5).sum()), float(squares @ squares))

    def degrees_of_freedom(self, *, apart: bool) -> float:
        """(sum q)^2 / sum q^2, with q each bucket's share of the squared weights: few heavy ones leave few.

        :param apart: of the weights' distance from 1
        """
        by_slot = self._by_slot - self._buckets[:, :1] if apart else self._by_slot
        shares = [(by_slot**2).sum(axis=1)]
        least = float(len(self._buckets))
        if self._cells is not None:
            of_event = self.moments(apart=apart)
            if of_event.fourth > 0.0:
                least = min(least, of_event.second**2 / of_event.fourth)
        elif not self._slates:
            shares.append(self._squares(apart=apart))
        for share in shares:
            squares = float(share @ share)
            if squares > 0.0:
                least = min(least, float(share.sum()) ** 2 / squares)
        return max(least, 1.0)

    def _squares(self, *, apart: bool) -> F64:
        """Shape (used buckets,): sums of w^2, or (w - 1)^2, over the events of each."""
        column = self._buckets[:, self._sums.index("ww")]
        if apart:
            column = np.maximum(column - 2.0 * self._by_slot[:, 0] + self._buckets[:, 0], 0.0)
        return column


def _weights_of(estimator: Estimator | None, n_slots: int) -> list[str]:
    """Terms of the weights that an estimator of slates multiplies rewards with: of each slot, or of the event."""
    if estimator is not None and estimator.needs_pseudo_inverse:
        return ["piw"]
    kind = "m" if estimator is not None and estimator.needs_marginals else "w"
    return [f"{kind}@{k}" for k in range(1, n_slots + 1)]


def shaped(estimator: Estimator, weight: F64) -> F64:
    """Shape (n,): weights as the estimator has them, see `replay.estimators.FAMILIES`."""
    lam = estimator.lam
    if estimator.name == "dm":
        return np.ones_like(weight)
    match estimator.family:
        case "clip" | "dr_clip":
            return np.minimum(weight, lam)
        case "switch":
            return np.where(weight <= lam, weight, 0.0)
        case "dros" if isfinite(lam):
            return lam * weight / np.maximum(weight**2 + lam, 1e-300)
        case "sgips" | "sgdr":
            return weight / np.maximum(1.0 - lam + lam * weight, 1e-300)
    return weight
