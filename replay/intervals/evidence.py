"""What fixed-n intervals rest on: the estimate, what each viewer's events did to it, and what was not seen.

An estimate is a mean over events of something that is seldom large. What decides how far it may be off is then not
the spread of what was seen alone, but also the event that was *not* seen: so besides influences this holds how far
one more event, of a weight that this log might well have held, would move the sum.
"""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import Final, NamedTuple

import numpy as np

from replay.errors import BadQuestion
from replay.estimators import SINGLE, Estimator, difference_gradient
from replay.events import F64
from replay.sums import Sums

CHANCE: Final = 3.0
"""In how many standard errors viewers who share a bucket by chance may look like one viewer."""


class Missed(NamedTuple):
    """An event that was not seen, by its weight on the scale of the estimator's divisor.

    :ivar up, down: weight if its reward is the best, the worst; less where such rewards are small or rare
    :ivar jump_up, jump_down: how far it would move the sum, both >= 0
    """

    up: float
    down: float
    jump_up: float
    jump_down: float


class Evidence(NamedTuple):
    """Of a value, or of its difference to production, in units of one event's reward.

    :ivar n: how many events the estimate is a mean over
    :ivar psi: shape (used buckets,), sums to 0: what each bucket of viewers did to the sum, linearised
    :ivar divisor: shape (used buckets,): how much of what the sum is divided by is in each bucket; sums to ``n``
    :ivar df: degrees of freedom that uneven weights and few viewers leave to a standard error
    :ivar low, high: what the value cannot leave; infinite where nothing is known
    """

    n: float
    value: float
    psi: F64
    divisor: F64
    df: float
    missed: Missed
    low: float
    high: float

    @property
    def variance(self) -> float:
        """Of the sum, between buckets; 0 if there is only one."""
        buckets = len(self.psi)
        return float(self.psi @ self.psi) * buckets / (buckets - 1) if buckets > 1 else 0.0

    @property
    def third_moment(self) -> float:
        """Of the sum, about its mean."""
        return float((self.psi**3).sum())

    @property
    def se(self) -> float:
        return sqrt(self.variance) / self.n


def evidence(
    sums: Sums, estimator: Estimator, reward_range: tuple[float, float] | None, *, difference: bool
) -> Evidence:
    """What the sums say of a value, or of its difference to production on the same events.

    :param reward_range: lowest and highest reward of an event, if known
    :raises BadQuestion: there is no estimate, or too little is known for any interval
    """
    value, production = estimator.value(sums), sums.mean("y")
    gradient = difference_gradient(estimator, sums) if difference else estimator.gradient(sums)
    buckets = sums.buckets[sums.buckets[:, 0] > 0]
    if len(buckets) < 2 and reward_range is None:
        raise BadQuestion("one viewer does not say how far another would be off; give the range of rewards")
    low, high = reward_range if reward_range is not None else (sums.lowest_reward, sums.highest_reward)
    divisor, scale = buckets[:, 0].copy(), 1.0
    if is_self_normalised(estimator) and not sums.terms.slates:
        scale = sums.mean("w")
        divisor = buckets[:, sums.index("w")] / scale
    weights = _Weights(sums, estimator, buckets)
    weight = weights.missed / scale
    at = min(max(value, low), high)
    up, down = (weight * part for part in _parts(sums, weights.missed, low, high))
    jumps = (up * (high - at), down * (at - low)) if isfinite(weight) else (inf, inf)
    if difference and isfinite(weight):
        # Instead of w: how far w is from 1. An event that only production would have had counts too, by at most 1.
        far = weights.missed_apart
        near = min(far, 1.0)
        up, down = (up / weight, down / weight) if weight > 0.0 else (1.0, 1.0)
        jumps = (
            max(far * up * (high - at), near * down * (at - low)),
            max(far * down * (at - low), near * up * (high - at)),
        )
    spread, known = high - low, reward_range is not None
    return Evidence(
        n=sums.size,
        value=value - production if difference else value,
        psi=sums.influence(gradient),
        divisor=divisor,
        df=weights.degrees_of_freedom(apart=difference),
        missed=Missed(up, down, *jumps),
        low=(-spread if difference else low) if known else -inf,
        high=(spread if difference else high) if known else inf,
    )


def is_self_normalised(estimator: Estimator) -> bool:
    """Divided by the sum of the weights, not the number of events."""
    return estimator.name.startswith("sn")


def stays_in_range(estimator: Estimator) -> bool:
    """Roughly at least: a constant reward is recovered whatever the weights were. Not so the ips family."""
    return is_self_normalised(estimator) or estimator.needs_q or estimator.name in ("beta_ips", "wpi")


class _Weights:
    """Weights of events, as the estimator uses them: shaped, and of slates one for each slot."""

    def __init__(self, sums: Sums, estimator: Estimator, buckets: F64) -> None:
        self._sums = sums
        self._buckets = buckets
        self._slates = sums.terms.slates
        names = [f"w@{k}" for k in range(1, sums.n_slots + 1)] if self._slates else ["w"]
        self._by_slot: F64 = buckets[:, [sums.index(name) for name in names]]
        self._cells: tuple[F64, F64] | None = None
        if (estimator.family or estimator.name == "dm") and not self._slates and sums.weights.faithful:
            cells = sums.weights.cells
            self._cells = cells.counts, _shaped(estimator, cells.sum_weight / cells.counts)

    @property
    def missed(self) -> float:
        """Weight of an event that was not seen, but might have been: that at which variance typically is.

        If viewers have several events, all events of one more viewer, as far as weights tell.
        """
        if not self._by_slot.any():
            return self._sums.weight_bound
        if self._slates:
            return min(max(self._together, 1.0), self._sums.weight_bound)
        squares = self._column("ww")
        clustered = self.clustered
        if self._cells is not None:
            count, weight = self._cells
            second = float(count @ weight**2)
            return clustered * (float(count @ weight**3) / second if second > 0.0 else 1.0)
        typical = float((squares**1.5).sum() / squares.sum())
        return clustered * min(typical, self._sums.largest_weight, self._sums.weight_bound)

    @property
    def clustered(self) -> float:
        """How many times the weight of an event that of its viewer is, at least 1; logs of single slots only."""
        total = float(self._by_slot.sum())
        return max(self._together * total / float(self._column("ww").sum()), 1.0) if total > 0.0 else 1.0

    @property
    def _together(self) -> float:
        """Weight of a viewer, as an average over weight; of slates that of the slot where it is largest."""
        totals = self._by_slot.sum(axis=0)
        # Viewers share a bucket by chance; what is more than that is one viewer's.
        n_buckets = len(self._sums.buckets)
        some = totals > 0.0
        own = (self._by_slot**2).sum(axis=0) - totals**2 / n_buckets
        return float((own[some] / totals[some]).max()) / (1.0 + CHANCE * sqrt(2.0 / n_buckets))

    @property
    def missed_apart(self) -> float:
        """The same for how far its weight is from 1."""
        if self._slates:
            return max(self.missed, 1.0)
        squares = self._squares_apart()
        if squares.sum() <= 1e-18 * self._sums.size:
            return 0.0
        typical = float((squares**1.5).sum() / squares.sum())
        single = min(typical, max(self._sums.largest_weight - 1.0, 1.0))
        return single * max(self.missed / self._sums.largest_weight, 1.0)

    def degrees_of_freedom(self, *, apart: bool) -> float:
        """(sum q)^2 / sum q^2 - 1, with q each bucket's share of the squared weights: few heavy ones leave few.

        :param apart: of the weights' distance from 1
        """
        by_slot = self._by_slot - self._buckets[:, :1] if apart else self._by_slot
        shares = [(by_slot**2).sum(axis=1)]
        if self._cells is not None and not apart:
            count, weight = self._cells
            second, fourth = float(count @ weight**2), float(count @ weight**4)
            return max(min(len(self._buckets), second**2 / fourth if fourth > 0.0 else inf) - 1.0, 1.0)
        if not self._slates:
            shares.append(self._squares_apart() if apart else self._column("ww"))
        least = float(len(self._buckets))
        for share in shares:
            total = float(share.sum())
            if total > 0.0:
                least = min(least, total**2 / float(share @ share))
        return max(least - 1.0, 1.0)

    def _column(self, name: str) -> F64:
        column: F64 = self._buckets[:, self._sums.index(name)]
        return column

    def _squares_apart(self) -> F64:
        """Shape (used buckets,): sums of (w - 1)^2."""
        return np.maximum(self._column("ww") - 2.0 * self._column("w") + self._buckets[:, 0], 0.0)


def _shaped(estimator: Estimator, weight: F64) -> F64:
    """Shape (n,): weights as the estimator has them."""
    lam = estimator.lam
    match estimator.family:
        case "clip" | "dr_clip":
            return np.minimum(weight, lam)
        case "switch":
            return np.where(weight <= lam, weight, 0.0)
        case "dros":
            return lam * weight / (weight**2 + lam) if isfinite(lam) else weight
        case "sgips" | "sgdr":
            shaped: F64 = weight / (1.0 - lam + lam * weight)
            return shaped
    return np.ones_like(weight) if estimator.name == "dm" else weight


def _parts(sums: Sums, weight: float, low: float, high: float) -> tuple[float, float]:
    """Which part of the largest possible jump, up and down, the next one is likely to be.

    Of k effective jumps seen of typical size j, and one that is as large as may be: (k j + largest) / (k + 1). All
    of it where nothing was seen, hardly less where rewards are 0 or 1; much less where the range is wider than what
    occurs.
    """
    largest = weight * (high - low)
    if not 0.0 < largest < inf:
        return 1.0, 1.0
    if sums.terms.slates:
        if low != 0.0:
            return 1.0, 1.0
        terms = [({"rips": 1.0}, sums.mean("rips2"))]
    else:
        ww, wwr, wwrr = (sums.mean(name) for name in ("ww", "wwr", "wwrr"))
        terms = [
            ({"wr": 1.0, "w": -low}, wwrr - 2.0 * low * wwr + low * low * ww),
            ({"wr": -1.0, "w": high}, wwrr - 2.0 * high * wwr + high * high * ww),
        ]
    parts = [1.0, 1.0]
    for side, (combination, second) in enumerate(terms):
        gradient = np.zeros(len(sums.names))
        for name, factor in combination.items():
            gradient[sums.index(name)] = factor
        by_bucket = sums.buckets @ gradient
        total = float(by_bucket.sum())
        squares = max(float(by_bucket @ by_bucket) - total**2 / len(by_bucket), second * sums.size)
        if total > 0.0 and squares > 0.0:
            count, typical = total**2 / squares, squares / total
            parts[side] = min((count * typical + largest) / (count + 1.0) / largest, 1.0)
    return parts[0], parts[1]


def clustered_weights(sums: Sums) -> float:
    """How many times the weight of an event that of its viewer is, at least 1; logs of single slots only."""
    buckets = sums.buckets[sums.buckets[:, 0] > 0]
    return _Weights(sums, SINGLE["ips"], buckets).clustered
