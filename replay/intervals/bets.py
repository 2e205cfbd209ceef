"""Constant bets against every value at once, and what they have won.

With rewards g scaled to [0, 1] and weights w, a bet multiplies wealth by

    f(w, g) = 1 + rate * (w * (g - b) - (c - b))

Chosen so that f is not negative for any event that could occur. Its expectation given the past is
1 + rate * (V_i - c), as E[w] = 1; that is at most exp(rate * (V_i - c)). So the product of all f, divided by
exp(rate * sum(V_i - c)), is a non-negative supermartingale; so is a mixture with fixed shares. Of the V_i only their
mean counts.

**b** is what makes intervals narrow: w * (g - b) with b near V has the small variance of the self-normalised
estimate, but loses when w is large and g = 0; a bound on weights says how much of it can be afforded. Without a bound,
b is 0. Losses 1 - g are bet on in the same way, for the upper end.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from replay.events import F64

_BASELINES: Final = {0.0: 0.25, 0.25: 0.2, 0.5: 0.25, 0.75: 0.1, 1.0: 0.2}
"""Where bets think the value is, and with which share: a value between two loses little to either."""
_HEDGED: Final = 0.7
"""Share of the bets with b > 0, where there is a bound."""
_RATES: Final = 2.0 ** np.arange(4.0, -21.0, -1.0)
"""The best rate is about 3.6 / (sd * sqrt(n)): this spans a hundred events to 10^10."""
_USUAL_RATE: Final = -3.0
_RATE_SPREAD: Final = 1.75
_AFFORDED: Final = 0.97
"""A hedged bet loses at most this share of its wealth at one event."""
_ANCHOR: Final = 0.9
_TINY: Final = 1e-9
_AT_ONCE: Final = 1 << 21


class Bets(NamedTuple):
    """A mixture of constant bets that some mean is larger than whatever value it is held against."""

    log_share: F64
    """Shape (k,): of the starting wealth."""
    rate: F64
    """Shape (k,), positive."""
    centre: F64
    """Shape (k,): c."""
    exposed: F64
    """Shape (k,): by how much the mean is larger for each unit of the target's mass that the log could never show."""
    payoff: F64
    """Shape (k, 5): f is this times an event's features, see :func:`features`."""


def features(w: F64, g: F64) -> F64:
    """Shape (n, 5): what payoffs are linear in: 1, w, g, w * g, and w where g = 0.

    :param w: shape (n,), weights
    :param g: shape (n,), rewards scaled to [0, 1]
    """
    return np.stack([np.ones_like(w), w, g, w * g, w * (g == 0.0)], axis=1)


# ---------------------------------------------------------------- the bets


def _share(rate: F64 | float, baseline: float) -> F64:
    """Broad in the logarithm of the rate (a Cauchy), and slower for what is rarely zero, whose errors are larger."""
    away = (np.log2(rate) - (_USUAL_RATE - baseline)) / _RATE_SPREAD
    shares: F64 = 1.0 / (1.0 + np.square(away))
    return shares


def _grid(bound: float) -> F64:
    """Rows of (share, rate, centre or baseline, b)."""
    rows: list[tuple[float, float, float, float]] = []
    for baseline, weight in _BASELINES.items():
        hedged = _HEDGED if np.isfinite(bound) and baseline > 0.0 else 0.0
        rows += [
            (weight * (1.0 - hedged) * float(_share(rate, baseline)), float(rate), baseline, 0.0) for rate in _RATES
        ]
        if not hedged:
            continue
        # Rates in powers of two from the largest at which b = baseline can be afforded; beyond it, a smaller b.
        spare = max(bound - 1.0, _TINY)
        affordable = min(_ANCHOR / (baseline * spare), _RATES[0])
        power = np.floor(np.log2(_RATES[0] / affordable))
        for rate in affordable * 2.0 ** np.arange(power, np.floor(np.log2(_RATES[-1] / affordable)), -1.0):
            b = min(baseline, max((_AFFORDED - rate * baseline) / (rate * spare), 0.0))
            rows.append((weight * hedged * float(_share(rate, baseline)), float(rate), baseline, b))
    return np.array(rows)


def _mixture(grid: F64, centre: F64, exposed: F64, payoff: F64, corners: F64) -> Bets:
    """Bets that could lose more than all at some corner of what can occur are left out; they only lower the wealth."""
    allowed = (corners @ payoff.T).min(axis=0) > _TINY
    log_share = np.log(grid[:, 0] / grid[:, 0].sum())
    return Bets(log_share[allowed], grid[allowed, 1], centre[allowed], exposed[allowed], payoff[allowed])


def _corners(bound: float) -> F64:
    """Features at the ends of what can occur; every payoff is least at one of them."""
    top = bound if np.isfinite(bound) else 1e100
    return features(np.array([0.0, 0.0, top, top]), np.array([0.0, 1.0, 0.0, 1.0]))


def value_bets(bound: float) -> Bets:
    """That the mean of w * g is larger, where E[w | past] = 1.

    :param bound: no weight can be larger; inf if nothing is known
    """
    grid = _grid(bound)
    _, rate, c, b = grid.T
    zero = np.zeros_like(rate)
    payoff = np.stack([1.0 - rate * (c - b), -rate * b, zero, rate, zero], axis=1)
    return _mixture(grid, c, b, payoff, _corners(bound))


def difference_bets(bound: float) -> Bets:
    """That the mean of (w - 1) * g is larger, where E[w | past] = 1.

    :param bound: as for :func:`value_bets`
    """
    grid = _grid(bound)
    _, rate, _, b = grid.T
    one, zero = np.ones_like(rate), np.zeros_like(rate)
    payoff = np.stack([one + rate * b, -rate * b, -rate, rate, zero], axis=1)
    return _mixture(grid, zero, b, payoff, _corners(bound))


def feed_bets(bound: float, *, upper: bool, difference: bool) -> list[Bets]:
    """Of feeds, where w is x / y (x the prefix-weighted reward, y the plain one), w_{1:L} where y = 0.

    Only E[x] is known. To bet on the losses 1 - y, what is left of w_{1:L} (1 - y) if all feeds with any reward are
    taken for worthless: w_{1:L} where y = 0, whose mean is at most 1 - V. Exact if a feed has reward 0 or 1; else the
    bet that x is smaller, which needs the bound, may be better.
    """
    grid = _grid(np.inf)
    _, rate, c, _ = grid.T
    one, zero = np.ones_like(rate), np.zeros_like(rate)
    corners = _corners(bound)
    centre = zero if difference else c
    if not upper:
        lower = [one, zero, -rate, rate, zero] if difference else [1 - rate * c, zero, zero, rate, zero]
        return [_mixture(grid, centre, zero, np.stack(lower, axis=1), corners)]
    untouched = [1 - rate, zero, rate, zero, rate] if difference else [1 - rate * c, zero, zero, zero, rate]
    smaller = [one, zero, rate, -rate, zero] if difference else [1 + rate * (1 - c), zero, zero, -rate, zero]
    return [
        _mixture(grid, centre, zero, np.stack(untouched, axis=1), corners),
        _mixture(grid, centre, one, np.stack(smaller, axis=1), corners),
    ]


# ---------------------------------------------------------------- wealth


class Evidence(NamedTuple):
    """The wealth of a mixture as a function of the value that it is held against: log(sum(exp(height - slope * m)))."""

    height: F64
    slope: F64

    def log_wealth(self, m: float) -> float:
        """Falls with ``m``."""
        return float(logsumexp(self.height - self.slope * m)) if len(self.height) else -np.inf

    def bound(self, threshold: float, low: float, high: float) -> float:
        """The least ``m`` from ``low`` to ``high`` that is not ruled out; ``high`` if all are."""
        if self.log_wealth(low) < threshold:
            return low
        if self.log_wealth(high) >= threshold:
            return high
        return float(brentq(lambda m: self.log_wealth(m) - threshold, low, high, xtol=1e-13, rtol=1e-12))


def evidence(mixtures: list[Bets], seen: F64, times: F64, *, uncovered: float = 0.0) -> Evidence:
    """What equal parts of some mixtures have become.

    :param seen: shape (n, 5), features of events
    :param times: shape (n,), how often each occurred
    :param uncovered: the target's mass that the log could never show: E[w] is less than 1 by this
    """
    n = float(times.sum())
    heights, slopes = [], []
    for bets in mixtures:
        gains = np.zeros(len(bets.rate))
        step = max(_AT_ONCE // max(len(bets.rate), 1), 1)
        for i in range(0, len(seen), step):
            gains += times[i : i + step] @ np.log(seen[i : i + step] @ bets.payoff.T)
        centre = bets.centre - uncovered * bets.exposed
        heights.append(bets.log_share + gains + n * bets.rate * centre - np.log(len(mixtures)))
        slopes.append(n * bets.rate)
    return Evidence(np.concatenate(heights), np.concatenate(slopes))


class Sides(NamedTuple):
    """That a mean is larger than ``m``; and that it is smaller, as that its mirror image is larger than that of m."""

    larger: Evidence
    smaller: Evidence
    difference: bool

    def mirrored(self, m: float) -> float:
        """Of losses: -m for differences, 1 - m for values."""
        return -m if self.difference else 1.0 - m

    def log_wealth(self, m: float) -> float:
        """Of both sides with half the stake each: at least log(1 / alpha) with probability alpha if m is the truth."""
        return float(np.logaddexp(self.larger.log_wealth(m), self.smaller.log_wealth(self.mirrored(m))) - np.log(2.0))

    def interval(self, alpha: float) -> tuple[float, float] | None:
        """What neither side has ruled out at alpha / 2.

        :returns: None if nothing is left. Then weights do not have mean 1, or the truth was missed, by bad luck
        """
        threshold, low = float(np.log(2.0 / alpha)), (-1.0 if self.difference else 0.0)
        first = self.larger.bound(threshold, low, 1.0)
        last = self.mirrored(self.smaller.bound(threshold, low, 1.0))
        return (first, last) if first <= last else None


def sides(
    w: F64,
    g: F64,
    times: F64,
    *,
    bound: float,
    difference: bool = False,
    mean_weight_is_one: bool = True,
    uncovered: float = 0.0,
) -> Sides:
    """The evidence in events with rewards in [0, 1].

    :param w, g, times: shape (n,): weights, scaled rewards, and how often each pair occurred
    :param bound: no weight can be larger; inf if nothing is known
    :param difference: of target minus production
    :param mean_weight_is_one: False for feeds
    :param uncovered: the target's mass on what the log could never show, taken for worthless by one side and for
        perfect by the other
    """
    up, down = features(w, g), features(w, 1.0 - g)
    if mean_weight_is_one:
        bets = [difference_bets(bound) if difference else value_bets(bound)]
        larger = evidence(bets, up, times, uncovered=uncovered)
        smaller = evidence(bets, down, times, uncovered=uncovered)
    else:
        gain, loss = (feed_bets(bound, upper=upper, difference=difference) for upper in (False, True))
        larger = evidence(gain, up, times, uncovered=uncovered)
        smaller = evidence(loss, up, times, uncovered=uncovered)
    return Sides(larger, smaller, difference)
