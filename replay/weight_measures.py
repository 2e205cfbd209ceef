"""Measures of the weights of one policy: what they are worth, how heavy their tail is, whether their mean is right.

Everything is computed from :class:`replay.sums.Sums`; what to make of it is said in :mod:`replay.diagnostics`.
"""

from __future__ import annotations

from math import erfc, exp, isfinite, log, log10, sqrt
from typing import Final

import numpy as np

from replay.estimators import standard_error
from replay.events import F64
from replay.results import WeightSummary
from replay.sums import Sums
from replay.weight_table import Cells

PARETO_K: Final = 0.7
"""Tail shape above which the error shrinks too slowly with n to be of use; see :func:`pareto_threshold` for small n.
Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", JMLR 25, 2024, section 3.2."""

FEWEST_VALUES: Final = 20
"""Different values that a tail must have for a continuous distribution to be fitted to it."""

HISTOGRAM_BARS: Final = 28

_LOSSES: Final = 2.0 ** -np.arange(1, 21)
"""Bets on a mean weight that is off: from gross to hardly visible, half as bold each."""


def sum_of(sums: Sums, name: str) -> float:
    """Of a term, over all events."""
    return float(sums.total[sums.index(name)])


def counted(sums: Sums) -> Cells | None:
    """The table of weights; None where it does not hold every event."""
    table = sums.weights
    return table.cells if table is not None and sums.n and table.n == sums.n else None


def kish(total: float, squares: float) -> float:
    """Effective sample size: how many equal weights would be as informative.

    :param total: sum of weights
    :param squares: sum of their squares
    Source: Kish, "Survey Sampling", 1965.
    """
    return total * total / squares if squares > 0 else 0.0


def effective_events(sums: Sums) -> float:
    """How many events drawn by the target itself would say as much as this log does.

    Of single slots, Kish's formula over the weights. Of slates, how much rarer the effective rewards became by
    weighing, ``n * (|x|^2 / x^2) / (|y|^2 / y^2)`` with the weighted rewards ``x`` of the prefix estimator: the
    weight of the whole list, which says little of its upper slots, does not enter. 0 where all weights are 0.
    """
    whole = kish(sum_of(sums, "w"), sum_of(sums, "ww"))
    if sums.terms.slates:
        cells = counted(sums)
        if cells is None:
            plain = _worth(sums, "y")
        else:
            # Cell by cell, since rewards of both signs must not cancel.
            plain = kish(float(np.abs(cells.sum_reward).sum()), float((cells.sum_reward**2 / cells.counts).sum()))
        if plain > 0:
            return min(float(sums.n), sums.n * effective_rewards(sums) / plain)
    # Events may stand for several: what they are worth is counted in events that were read.
    return min(float(sums.n), whole * sums.n / sums.size) if sums.n else 0.0


def effective_rewards(sums: Sums) -> float:
    """How many equal weighted rewards would be as informative; 0 without any."""
    cells = counted(sums)
    if cells is None:
        return _worth(sums, "rips" if sums.terms.slates else "wr")
    return kish(float(np.abs(cells.sum_product).sum()), float((cells.sum_product**2 / cells.counts).sum()))


def _worth(sums: Sums, name: str) -> float:
    """Effective number of a term's values, from its spread between viewers."""
    mean, error = mean_with_error(sums, name)
    if mean == 0 or not isfinite(error):
        return 0.0
    return sums.n / (1 + sums.n * (error / mean) ** 2)


def largest_share(sums: Sums) -> float:
    """The heaviest event's share of all weight; of slates, of all weighted rewards (an upper bound by cells)."""
    cells = counted(sums)
    if cells is None or not sums.terms.slates:
        total = sum_of(sums, "w")
        return float(sums.largest_weight) / total if total > 0 else 1.0
    products = np.abs(cells.sum_product)
    total = float(products.sum())
    return float((products / cells.counts).max()) / total if total > 0 else 0.0


def pareto_k(largest: F64, n: int) -> float | None:
    """Shape of the tail of the weights; None if there is no tail to speak of (few events, or equal weights).

    :param largest: the largest weights in any order, at least ``min(n / 5, 3 sqrt(n))`` and one more, or all
    :param n: events in all
    Source: Vehtari et al. 2024 for the tail's length; fit by Zhang and Stephens, "A new and efficient estimation
    method for the generalized Pareto distribution", Technometrics 51, 2009, with the former's weak prior at 0.5.
    """
    length = min(int(min(0.2 * n, 3 * sqrt(n))), len(largest) - 1)
    if length < 5:
        return None
    tail = np.sort(largest)[-length - 1 :]
    excess = tail[1:] - tail[0]
    excess = excess[excess > 1e-12 * max(1.0, float(tail[-1]))]
    if len(excess) < 5 or len(np.unique(excess)) < min(FEWEST_VALUES, len(excess)):
        return None
    k = _generalised_pareto_shape(excess)
    return (len(excess) * k + 10 * 0.5) / (len(excess) + 10)


def _generalised_pareto_shape(excess: F64) -> float:
    """:param excess: shape (m,), ascending, above 0"""
    m = len(excess)
    grid = 30 + int(sqrt(m))
    quarter = float(excess[int(m / 4 + 0.5) - 1])
    theta = 1 / excess[-1] + (1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3 * quarter)
    theta = theta[theta != 0]
    k = np.log1p(-theta[:, None] * excess).mean(axis=1)
    likelihood = m * (np.log(-theta / k) - k - 1)
    weight = 1 / np.exp(np.clip(likelihood - likelihood[:, None], -700, 700)).sum(axis=1)
    return float(np.log1p(-float((theta * weight).sum() / weight.sum()) * excess).mean())


def pareto_threshold(n: int) -> float:
    """What ``pareto_k`` may be: lower with fewer events than about 2,200. Source: Vehtari et al. 2024, equation 13."""
    return min(1 - 1 / log10(n), PARETO_K) if n > 1 else 0.0


def mean_weight_evidence(sums: Sums, *, expected: float = 1.0) -> tuple[float, float]:
    """Wealth won by betting that weights average more, and less, than they must: evidence, at each look.

    Weights average ``expected`` given all that went before if the propensities are true, whatever the viewers do.
    So the mixture of constant bets ``1 + l (w / expected - 1)`` is a non-negative martingale: that it reaches 1/a has
    probability at most a. For "less" the bets need the largest weight there can be; 0 where nothing bounds it, since
    rare large weights that were not drawn may be what is missing. Source: Ville 1939; Waudby-Smith and Ramdas, 2024.
    """
    cells = counted(sums)
    if expected <= 0 or sums.n == 0:
        return 1.0, 1.0
    if cells is None:
        chance = mean_weight_chance(sums, expected=expected)
        evidence = min(1 / chance, exp(700)) if chance > 0 else exp(700)
        return (evidence, 1.0) if sums.mean("w") > expected else (1.0, evidence)
    away = cells.sum_weight / cells.counts / expected - 1
    more = _mixture(np.log1p(_LOSSES[:, None] * away) @ cells.counts)
    bound = sums.weight_bound / expected
    bold = _LOSSES[_LOSSES * max(bound - 1, 0.0) < 1] if isfinite(bound) else np.zeros(0)
    # The bound comes from the logged floors: a weight above it is a fault of its own, and no bet may hit 0 there.
    bold = bold[bold * max(sums.largest_weight / expected - 1, 0.0) < 1]
    less = _mixture(np.log1p(-bold[:, None] * away) @ cells.counts) if len(bold) else 0.0
    return more, less


def _mixture(logs: F64) -> float:
    """Wealth of equal stakes in bets whose log-wealths these are."""
    top = float(logs.max())
    return exp(min(top + log(float(np.exp(logs - top).mean())), 700.0))


def mean_with_error(sums: Sums, name: str) -> tuple[float, float]:
    """A term's mean, and its standard error over viewers; inf if there is but one bucket of them."""
    gradient = np.zeros(len(sums.names))
    gradient[sums.index(name)] = 1.0
    return sums.mean(name), standard_error(sums, gradient)


def weight_summary(sums: Sums) -> WeightSummary:
    """Mean, spread, tail and histogram of a policy's weights.

    The histogram's bars are equally wide in log weight; the first, from 0 to 0, counts weights of exactly 0. In
    slates weights are those of :class:`replay.weight_table.WeightTable`.
    """
    mean, error = mean_with_error(sums, "w") if sums.n else (0.0, 0.0)
    return WeightSummary(
        mean=mean,
        mean_se=error if isfinite(error) else 0.0,
        largest=float(sums.largest_weight),
        bound=float(sums.weight_bound) if isfinite(sums.weight_bound) else None,
        ess=effective_events(sums),
        pareto_k=pareto_k(sums.largest, sums.n),
        histogram=histogram(sums),
    )


def histogram(sums: Sums) -> list[tuple[float, float, int]]:
    """(lower edge, upper edge, events), ascending; empty bars within are given, so that gaps show."""
    cells = counted(sums)
    if cells is None:
        return []
    mean = cells.sum_weight / np.maximum(cells.counts, 1)
    bars: list[tuple[float, float, int]] = []
    zero = int(cells.counts[mean <= 0].sum())
    if zero:
        bars.append((0.0, 0.0, zero))
    mean, count = mean[mean > 0], cells.counts[mean > 0]
    if not len(mean):
        return bars
    low, high = float(np.log10(mean.min())), float(np.log10(mean.max()))
    # Whole fractions of a decade as edges, so that 1 is one of them and pages of different runs look alike.
    width = next(w for w in (0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 20) if (high - low) / w <= HISTOGRAM_BARS)
    first = int(np.floor(low / width + 1e-9))
    n = int(np.floor(high / width + 1e-9)) - first + 1
    place = np.clip(np.floor(np.log10(mean) / width + 1e-9).astype(int) - first, 0, n - 1)
    counts = np.bincount(place, weights=count, minlength=n)
    for i in range(n):
        bars.append((10 ** ((first + i) * width), 10 ** ((first + i + 1) * width), round(counts[i])))
    return bars


def mean_weight_chance(sums: Sums, *, expected: float = 1.0) -> float:
    """How probable so odd a mean weight is in a sound log, at most; two-sided, without a table of weights.

    Above 1 a z-test is on the safe side, as the weights are skewed to the right. Below 1 it is not; what holds there
    for any distribution is ``exp(-n t^2 / (2 E w^2))``, and ``E w^2`` is at most the bound on the weights. Source:
    Maurer, "A bound on the deviation probability for sums of non-negative random variables", 2003.
    """
    mean, error = mean_with_error(sums, "w")
    away = mean - expected
    if not isfinite(error) or abs(away) <= 1e-6:
        return 1.0
    if away > 0:
        return erfc(away / error / sqrt(2)) if error > 0 else 0.0
    if not isfinite(sums.weight_bound) or sums.weight_bound <= 0:
        return 1.0
    return min(1.0, 2 * exp(-sums.n * away**2 / (2 * sums.weight_bound)))


def difference_with_error(sums: Sums, name: str, other: str) -> tuple[float, float]:
    """Mean of one term less that of another, and its standard error over viewers."""
    gradient = np.zeros(len(sums.names))
    gradient[sums.index(name)] = 1.0
    gradient[sums.index(other)] = -1.0
    return sums.mean(name) - sums.mean(other), standard_error(sums, gradient)
