"""Empirical likelihood by Cressie and Read's power divergence, in closed form from moments.

The interval holds every value that a reweighting of the events gives, if the reweighting is close to uniform and
makes the mean weight 1, where one more event may have any weight up to the bound and the worst reward. Source:
Karampatziakis, Langford, Mineiro 2019, Empirical Likelihood for Contextual Bandits (arXiv 1906.03323), as in
vw-estimators' ``cressieread.Interval``, with which it agrees except where noted below.

The value is E[w r] whatever estimator was asked for: of those that rest on weights alone, this is the interval.
"""

from __future__ import annotations

from math import frexp, inf, isclose, isinf, ldexp, sqrt
from typing import NamedTuple

from scipy import stats

from replay.errors import BadQuestion
from replay.intervals.clustering import design_effect
from replay.sums import Sums

_CLOSE = 1e-9


class Moments(NamedTuple):
    """Sums over events: of the weight w, of the weighted reward x, and of their products.

    :ivar less: x is (w - less) r: 0 for the value, 1 for its difference to production
    """

    n: float
    w: float
    ww: float
    x: float
    wx: float
    xx: float
    less: float = 0.0


def likelihood_limits(
    sums: Sums, alpha: float, *, reward_range: tuple[float, float] | None, difference: bool
) -> tuple[float, float]:
    """Lower and upper limit.

    :raises BadQuestion: the log has slates; or a difference is asked for and weights were not tabled
    """
    if sums.terms.slates:
        raise BadQuestion("the likelihood interval is for events of one slot; for slates there are auto and bootstrap")
    rewards = reward_range if reward_range is not None else (sums.lowest_reward, sums.highest_reward)
    n = sums.size
    w, ww, y, wr, wwr, wwrr = (n * sums.mean(name) for name in ("w", "ww", "y", "wr", "wwr", "wwrr"))
    if difference:
        wrr = _weighted_squares(sums)
        moments = Moments(n, w, ww, wr - y, wwr - wr, wwrr - 2.0 * wrr + n * sums.mean("yy"), less=1.0)
        combination = {"wr": 1.0, "y": -1.0}
    else:
        moments = Moments(n, w, ww, wr, wwr, wwrr)
        combination = {"wr": 1.0}
    spread = ww - w * w / n
    slope = (moments.wx - w * moments.x / n) / spread if spread > 0.0 else 0.0
    squares = moments.xx - 2.0 * slope * moments.wx + slope**2 * ww
    # Events of a viewer that resemble each other count as fewer.
    effect = design_effect(sums, {**combination, "w": -slope}, squares)
    fewer = Moments(*(each / effect for each in moments[:-1]))._replace(less=moments.less)
    weights = 0.0, max(sums.weight_bound, sums.largest_weight)
    # What is as good as 0 is so beside rewards of size 1; by a power of two nothing is rounded.
    unit = ldexp(1.0, frexp(max(abs(rewards[0]), abs(rewards[1])))[1] - 1)
    fewer = fewer._replace(x=fewer.x / unit, wx=fewer.wx / unit, xx=fewer.xx / unit / unit)
    low, high = cressie_read(fewer, alpha, weights=weights, rewards=(rewards[0] / unit, rewards[1] / unit))
    return unit * low, unit * high


def cressie_read(
    m: Moments,
    alpha: float,
    *,
    weights: tuple[float, float],
    rewards: tuple[float, float],
) -> tuple[float, float]:
    """Lower and upper limit.

    :param weights: smallest and largest that a weight could be; the largest may be inf
    :param rewards: the same of rewards, finite
    """
    n = m.n
    fake = weights[1] if m.w < n else weights[0]
    if isinf(fake):
        closest = 1.0 + 1.0 / n
    else:
        first, second = (fake + m.w) / (1.0 + n), (fake**2 + m.ww) / (1.0 + n)
        closest = (1.0 + n) * (first - 1.0) ** 2 / (second - first**2) if second > first**2 else 0.0
    allowed = float(stats.f.isf(alpha, 1, n))
    phi = (-closest - allowed) / (2.0 * (1.0 + n))
    ends = []
    for sign in (1.0, -1.0):
        candidates = []
        if m.ww * n - m.w**2 <= _CLOSE * m.ww * n and m.xx * n - m.x**2 <= _CLOSE * m.xx * n:
            # vw-estimators has an interval of width 1e-9 here: an event of another weight cannot have been missed if
            # the mean is 1 and all that was seen had the same. One of that weight with another reward can.
            candidates.append(_least_mean(m, sign, rewards, allowed))
        for weight in weights:
            worst = min if sign > 0.0 else max
            missed = worst((1.0 if isinf(weight) else weight - m.less) * reward for reward in rewards)
            candidates.append(_least_value(m, weight, missed, sign, phi))
        least = min(candidates)
        # No reweighting at all gives a mean weight of 1: nothing follows, and nothing is ruled out.
        ends.append(sign * (least if least < inf else -inf))
    spread = rewards[1] - rewards[0]
    lowest, highest = (-spread, spread) if m.less else rewards
    return min(max(ends[0], lowest), highest), max(min(ends[1], highest), lowest)


def _least_value(m: Moments, weight: float, missed: float, sign: float, phi: float) -> float:
    """The least of sign * value, if the event that was not seen has this weight; inf if it cannot have it.

    :param missed: its weighted reward; if its weight is infinite, for each unit of weight
    """
    n = m.n
    if isinf(weight):
        x = sign * (missed + (m.x - m.w * missed) / n)
        y = (missed * m.w - m.x) ** 2 / (n * (1.0 + n)) - (missed**2 * m.ww - 2.0 * missed * m.wx + m.xx) / (1.0 + n)
        z = phi + 1.0 / (2.0 * n)
        if isclose(y * z, 0.0, abs_tol=_CLOSE**2):
            return x - sqrt(2.0) * _CLOSE
    else:
        w, ww = (weight + m.w) / (1.0 + n), (weight**2 + m.ww) / (1.0 + n)
        spread = ww - w**2
        if spread <= 0.0:
            return inf
        rest = sign * (missed + m.x) / (1.0 + n)
        product = sign * (weight * missed + m.wx) / (1.0 + n)
        together = product - w * rest
        x = rest + (1.0 - w) * together / spread
        y = together**2 / spread - ((missed**2 + m.xx) / (1.0 + n) - rest**2)
        z = phi + (1.0 - w) ** 2 / spread / 2.0
        if isclose(y * z, 0.0, abs_tol=_CLOSE**2):
            return x - sqrt(2.0) * _CLOSE
    return x - sqrt(2.0 * y * z) if z <= 0.0 and y * z >= 0.0 else inf


def _least_mean(m: Moments, sign: float, rewards: tuple[float, float], allowed: float) -> float:
    """The least of sign * value if all weights and all rewards were the same, and one more event has another reward."""
    worst = min if sign > 0.0 else max
    missed = worst((m.w / m.n - m.less) * reward for reward in rewards)
    rest = (missed + m.x) / (1.0 + m.n)
    variance = (missed**2 + m.xx) / (1.0 + m.n) - rest**2
    return sign * rest - sqrt(max(variance, 0.0) * allowed / (1.0 + m.n))


def _weighted_squares(sums: Sums) -> float:
    """Sum of w r^2, from the table: exact where rewards are 0 or 1, else good to a few parts in a thousand.

    :raises BadQuestion: there is no table
    """
    if not sums.weights.faithful:
        raise BadQuestion("a difference by likelihood needs the table of weights, which slices do without; use auto")
    cells = sums.weights.cells
    return float((cells.sum_product * cells.sum_reward / cells.counts).sum())
