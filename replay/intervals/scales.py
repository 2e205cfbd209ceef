"""Distributions that an estimate's error has, beyond the normal one, and where they have a given probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

from scipy import optimize, special

from replay.columns import LARGEST
from replay.errors import BadQuestion

VANISHING = 1e-150
"""Variances that are as good as 0: powers of them are."""

NARROWEST = 1e-60
"""Spread of rewards below which squares and cubes of them vanish, and with them all that tells a standard error; the
other end is `LARGEST`."""

SYMMETRIC = 1e-3
"""Skewness below which a gamma is taken for a normal distribution: the difference is below 1e-4 there."""


NARROW = 1e10
"""Events in effect from which on a beta is taken for a normal distribution: beyond, its function loses digits."""


def refuse_extremes(low: float, high: float) -> None:
    """
    :param low, high: of rewards, as far as they can be or were seen
    :raises BadQuestion: they are so close together that a variance of 0 would pass for certainty, or so far apart that
        squares overflow
    """
    if high - low > 2.0 * LARGEST:
        raise BadQuestion(f"the range of rewards, {low:g} to {high:g}, is beyond {LARGEST:g}, where squares overflow")
    if 0.0 < high - low < NARROWEST:
        raise BadQuestion(
            f"rewards from {low:g} to {high:g} are less than {NARROWEST:g} apart, where squares vanish; rescale them, "
            "or give the range that they are in"
        )


def shifted_gamma_cdf(x: float, mean: float, variance: float, third: float) -> float:
    """Of the gamma distribution, shifted and perhaps mirrored, with these moments.

    :param third: third moment about the mean
    """
    if variance <= VANISHING:
        return float(x >= mean)
    sd = sqrt(variance)
    z, skewness = (x - mean) / sd, third / sd**3
    if abs(skewness) < SYMMETRIC:
        return float(special.ndtr(z))
    shape = 4.0 / skewness**2
    if skewness > 0.0:
        return float(special.gammainc(shape, max(shape + sqrt(shape) * z, 0.0)))
    return float(special.gammaincc(shape, max(shape - sqrt(shape) * z, 0.0)))


def beta_cdf(x: float, mean: float, variance: float) -> float:
    """Of a share that was estimated from as many draws of 0 or 1 as have a mean of this variance.

    Beta(mean * size, (1 - mean) * size) with size = mean (1 - mean) / variance; a point if the mean is at an end.
    """
    if mean <= 0.0:
        return 1.0
    if mean >= 1.0:
        return float(x >= 1.0)
    if variance <= VANISHING:
        return float(x >= mean)
    size = mean * (1.0 - mean) / variance
    if size > NARROW:
        return float(special.ndtr((x - mean) / sqrt(variance)))
    return float(special.betainc(mean * size, (1.0 - mean) * size, min(max(x, 0.0), 1.0)))


Cdf = Callable[[float], float]


def quantile(parts: Sequence[tuple[float, Cdf]], probability: float, low: float, high: float) -> float:
    """Where a mixture of distributions passes a probability; ``low`` or ``high`` if it does so outside.

    :param parts: of the mixture: share, distribution function
    :param low, high: where to look
    """

    def excess(x: float) -> float:
        return sum(share * cdf(x) for share, cdf in parts if share > 0.0) - probability

    if excess(low) >= 0.0:
        return low
    if excess(high) <= 0.0:
        return high
    return float(optimize.brentq(excess, low, high, xtol=1e-12 * max(abs(low), abs(high)), rtol=1e-12))
