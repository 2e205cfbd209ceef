"""Intervals for few rewards, exact up to what is said here: counts as they are, and the weight that none can exceed.

Rewards are counted from the end of their range where they mostly are: clicks if there are few, misses if there are
few of those. All are mid-P.
"""

from __future__ import annotations

from functools import partial
from math import isfinite, sqrt

import numpy as np
from scipy import special

from replay.errors import BadQuestion
from replay.estimators import SINGLE
from replay.events import F64
from replay.intervals.automatic import beta_limits
from replay.intervals.clustering import design_effect
from replay.intervals.evidence import gather
from replay.intervals.scales import quantile
from replay.intervals.weights_seen import WeightsSeen
from replay.sums import Sums


def exact_limits(
    sums: Sums, alpha: float, *, reward_range: tuple[float, float] | None, difference: bool
) -> tuple[float, float]:
    """Lower and upper limit for E[w r], or E[(w - 1) r], whatever estimator was asked for.

    :raises BadQuestion: the log has slates; the range of rewards is not known; weights were not tabled
    """
    if sums.terms.slates:
        raise BadQuestion("the exact interval is for events of one slot; for slates there are auto and bootstrap")
    if reward_range is None:
        raise BadQuestion("the exact interval needs the range of rewards; give it, or use auto")
    bound, weights = largest_possible(sums), WeightsSeen(sums)
    if weights.nothing or sums.used_buckets < 2:
        low, high = reward_range
        return (low - high, high - low) if difference else (low, high)
    return _difference(sums, alpha, reward_range, bound) if difference else _value(sums, alpha, reward_range, bound)


def largest_possible(sums: Sums) -> float:
    """The weight that none can exceed; if that is not known, the largest seen, which some will exceed."""
    return max(sums.weight_bound if isfinite(sums.weight_bound) else 0.0, sums.largest_weight)


def _value(sums: Sums, alpha: float, rewards: tuple[float, float], bound: float) -> tuple[float, float]:
    """Clopper and Pearson's limits (mid-P) for a share estimated from as many events as have its variance.

    One more reward than was seen has the largest weight possible (Fay and Feuer 1997), one more failure the weight
    that failures have. With weights 0 or c and rewards 0 or 1 these are the textbook's limits for the events of
    weight c; with no rewards at all the upper limit is 1 - (alpha) ^ (bound / n), some 3 bound / n at 95 %.
    """
    low, high = rewards
    e = gather(sums, SINGLE["snips"], rewards, difference=False)
    largest = max(bound * WeightsSeen(sums).clustered / sums.mean("w"), e.missed.up, e.missed.down)
    few_above = _effective(sums, low, 1.0) <= _effective(sums, high, -1.0)
    missed = e.missed._replace(whole_up=0.5, whole_down=0.5)
    missed = missed._replace(up=largest) if few_above else missed._replace(down=largest)
    return beta_limits(e._replace(missed=missed), alpha, 1.0)


def _effective(sums: Sums, end: float, sign: float) -> float:
    """Effective number of rewards, as counted from one end of their range."""
    ww, wwr, wwrr = (sums.mean(name) for name in ("ww", "wwr", "wwrr"))
    first = sign * (sums.mean("wr") - end * sums.mean("w"))
    second = wwrr - 2.0 * end * wwr + end**2 * ww
    return sums.size * first**2 / second if second > 0.0 else 0.0


def _difference(sums: Sums, alpha: float, rewards: tuple[float, float], bound: float) -> tuple[float, float]:
    """Rewards that the target would have had more of, less those that it would have had less of.

    They come from different events, so the two sums are independent; each is a weighted Poisson sum with gamma limits
    (Fay and Feuer 1997; mid-P: Fay and Kim 2017). Their limits are joined as Zou and Donner (2008) do.
    """
    if not sums.weights.faithful:
        raise BadQuestion("an exact difference needs the table of weights, which slices do without; use auto")
    low, high = rewards
    cells = sums.weights.cells
    weight, reward = cells.sum_weight / cells.counts, cells.sum_reward / cells.counts
    if bound <= 1.0 and (np.abs(weight - 1.0) < 1e-9).all():
        return 0.0, 0.0
    above = _effective(sums, low, 1.0) <= _effective(sums, high, -1.0)
    distance = reward - low if above else high - reward
    more, less = np.maximum(weight - 1.0, 0.0) * distance, np.maximum(1.0 - weight, 0.0) * distance
    squares = float(cells.counts @ ((weight - 1.0) * distance) ** 2)
    combination = (
        {"wr": 1.0, "y": -1.0, "w": -low, "one": low} if above else {"wr": -1.0, "y": 1.0, "w": high, "one": -high}
    )
    effect = max(design_effect(sums, combination, squares), WeightsSeen(sums).clustered)
    gains = _poisson(cells.counts, more, alpha, (bound - 1.0) * (high - low) * effect, effect, sums.size)
    losses = _poisson(cells.counts, less, alpha, (high - low) * effect, effect, sums.size)
    middle = gains[1] - losses[1]
    down = sqrt((gains[1] - gains[0]) ** 2 + (losses[2] - losses[1]) ** 2)
    up = sqrt((gains[2] - gains[1]) ** 2 + (losses[1] - losses[0]) ** 2)
    limits = middle - down, middle + up
    lower, upper = limits if above else (-limits[1], -limits[0])
    return max(lower, low - high), min(upper, high - low)


def _poisson(
    count: F64, jump: F64, alpha: float, largest: float, effect: float, n: float
) -> tuple[float, float, float]:
    """Lower limit, mean over n, upper limit of a sum of Poisson counts, each with a jump.

    :param count, jump: shape (cells,)
    :param largest: the jump of one that was not counted
    :param effect: jumps come that many at a time
    """
    total, squares = float(count @ jump), float(count @ jump**2) * effect
    largest = max(largest, 0.0)
    parts = [
        (0.5, partial(_gamma_cdf, total=total, squares=squares)),
        (0.5, partial(_gamma_cdf, total=total + largest, squares=squares + largest**2)),
    ]
    reach = 2.0 * (total + largest) + 40.0 * sqrt(squares + largest**2)
    if reach == 0.0:
        return 0.0, 0.0, 0.0
    low, high = quantile(parts, alpha / 2.0, 0.0, reach), quantile(parts, 1.0 - alpha / 2.0, 0.0, reach)
    return low / n, total / n, high / n


def _gamma_cdf(x: float, total: float, squares: float) -> float:
    if squares <= 0.0:
        return 1.0
    return float(special.gammainc(total**2 / squares, max(x, 0.0) * total / squares))
