"""The default interval: right for two clicks and for a million, without a switch between the two.

Two pictures of how an estimate is off, both matched to its own variance between viewers:

*gamma*: the sum of influences is a compound Poisson sum. Given k jumps, what it may truly be is distributed as a
gamma variable with k of them, for the lower limit, and with one more for the upper (Garwood 1936; weighted: Fay and
Feuer 1997). Here the gamma also has the skewness of the influences; the one more is the event that was not seen; and
where rewards are few each limit takes half of both (mid-P: Fay and Kim 2017). Influences jump both up and down, so
there are four parts.

*beta*: the value is a share of a known range, estimated from as many events as have its variance. Clopper and
Pearson's limits with that number (Korn and Graubard 1998), mid-P again. Weights of 0 or a constant and rewards
of 0 or 1 give the textbook's interval.

The gamma knows that heavy weights are skew, the beta that a share near the end of its range has a variance that
changes fast; each fails where the other does not, and mostly they agree. The interval is the hull of both. Uneven
weights leave a standard error few degrees of freedom: variances are multiplied by (t / z)^2.
"""

from __future__ import annotations

from functools import partial
from math import isfinite, sqrt
from typing import Final, NamedTuple

from scipy import stats

from replay.errors import BadQuestion
from replay.intervals.evidence import Evidence
from replay.intervals.scales import Cdf, beta_cdf, quantile, shifted_gamma_cdf

_FAR: Final = 40.0
"""Standard deviations beyond which no limit is looked for."""


class Arms(NamedTuple):
    """How far an interval reaches down and up from the estimate; both >= 0 save where the estimate is out of range."""

    down: float
    up: float


def automatic_limits(e: Evidence, alpha: float, *, beta: bool, value: Evidence | None = None) -> tuple[float, float]:
    """Lower and upper limit, before they are cut to the possible range.

    :param beta: whether the estimate stays in the range of rewards
    :param value: if ``e`` is of a difference: of the value itself. A beta is no picture of a difference, so its arms
        are made longer by as much as the hull makes the value's
    :raises BadQuestion: nothing bounds the value
    """
    if not isfinite(e.missed.jump_up + e.missed.jump_down):
        if not isfinite(e.low + e.high):
            raise BadQuestion("no weight was above 0 and nothing bounds weights or rewards: there is no interval")
        return e.low, e.high
    inflation = variance_inflation(e.df, alpha)
    arms = gamma_arms(e, alpha, inflation)
    if not beta:
        return e.value - arms.down, e.value + arms.up
    if value is None:
        if not isfinite(e.low + e.high):
            return e.value - arms.down, e.value + arms.up
        low, high = beta_limits(e, alpha, inflation)
        return min(e.value - arms.down, low), max(e.value + arms.up, high)
    if isfinite(value.low + value.high) and isfinite(value.missed.jump_up + value.missed.jump_down):
        inflation = variance_inflation(value.df, alpha)
        by_gamma, (low, high) = gamma_arms(value, alpha, inflation), beta_limits(value, alpha, inflation)
        arms = Arms(
            arms.down * _longer(value.value - low, by_gamma.down), arms.up * _longer(high - value.value, by_gamma.up)
        )
    return e.value - arms.down, e.value + arms.up


def variance_inflation(df: float, alpha: float) -> float:
    """(t / z)^2: by which the normal's variance gives Student's quantile."""
    return float((stats.t.isf(alpha / 2.0, df) / stats.norm.isf(alpha / 2.0)) ** 2)


def gamma_arms(e: Evidence, alpha: float, inflation: float) -> Arms:
    """By shifted gammas with and without the event that was not seen, on either side."""
    variance, third = e.variance * inflation, e.third_moment * inflation**1.5
    up, down = e.missed.jump_up, e.missed.jump_down
    reach = _FAR * sqrt(variance + up**2 + down**2)
    if reach == 0.0:
        return Arms(0.0, 0.0)

    def limit(probability: float, share_up: float, share_down: float) -> float:
        parts = []
        for more, u in ((1.0 - share_up, 0.0), (share_up, up)):
            for less, d in ((1.0 - share_down, 0.0), (share_down, down)):
                cdf = partial(
                    shifted_gamma_cdf,
                    mean=u - d,
                    variance=variance + u**2 + d**2,
                    third=2.0 * (third + u**3 - d**3),
                )
                parts.append((more * less, cdf))
        return quantile(parts, probability, -reach, reach) / e.n

    return Arms(
        -limit(alpha / 2.0, 1.0 - e.missed.whole_up, e.missed.whole_down),
        limit(1.0 - alpha / 2.0, e.missed.whole_up, 1.0 - e.missed.whole_down),
    )


def beta_limits(e: Evidence, alpha: float, inflation: float) -> tuple[float, float]:
    """By betas with one more event at either end of the range, as Clopper and Pearson have it."""
    spread = e.high - e.low
    share = min(max((e.value - e.low) / spread, 0.0), 1.0)
    psi = e.psi / spread
    spare = len(psi) / max(len(psi) - 1, 1)

    def with_one_more(end: float, weight: float) -> Cdf:
        mean = (e.n * share + weight * end) / (e.n + weight)
        off = psi - (mean - share) * e.divisor
        variance = (float(off @ off) * spare + (weight * (end - mean)) ** 2) * inflation / (e.n + weight) ** 2
        return partial(beta_cdf, mean=mean, variance=variance)

    failed, rewarded = with_one_more(0.0, e.missed.down), with_one_more(1.0, e.missed.up)
    lower = [(e.missed.whole_down, failed), (1.0 - e.missed.whole_down, rewarded)]
    upper = [(1.0 - e.missed.whole_up, failed), (e.missed.whole_up, rewarded)]
    return (
        e.low + spread * quantile(lower, alpha / 2.0, 0.0, 1.0),
        e.low + spread * quantile(upper, 1.0 - alpha / 2.0, 0.0, 1.0),
    )


def _longer(arm: float, than: float) -> float:
    """By which factor one arm is longer than another, within reason."""
    return min(max(arm / than, 1.0), 3.0) if than > 0.0 else 1.0
