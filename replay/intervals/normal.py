"""The asymptotic interval: the delta method, Student's quantile and a correction for skewness, on the right scale."""

from __future__ import annotations

from math import exp, isfinite, log
from typing import Final, NamedTuple

from scipy import stats

from replay.intervals.evidence import Evidence

_MOST: Final = 1.0
"""Largest correction for skewness: beyond it the expansion that it comes from means nothing."""


class Scale(NamedTuple):
    """A function h of the value: 'plain', 'log', 'logit'.

    :ivar slope: h'
    :ivar bend: h'' / h'
    """

    name: str
    at: float
    slope: float
    bend: float


def normal_limits(e: Evidence, alpha: float, *, difference: bool) -> tuple[float, float, str] | None:
    """Lower and upper limit, and the name of the scale; None if the variance is 0, and so no guide.

    On a scale h, T = (h(estimate) - h(truth)) / se(h) has mean -g/2 - c and third cumulant -2g - 6c to first order,
    with g the skewness of the estimate and c = se h'' / (2 h'). Its quantiles by Cornish and Fisher's expansion are
    x + mean + third (x^2 - 1) / 6 (Johnson 1978 and Hall 1992 for the plain scale), x Student's.
    """
    if e.variance == 0.0:
        return None
    se = e.se
    scale = Scale("plain", e.value, 1.0, 0.0) if difference else _scale(e)
    skewness = e.third_moment / e.variance**1.5
    c = se * scale.bend / 2.0
    x = float(stats.t.isf(alpha / 2.0, e.df))
    shift = -skewness / 2.0 - c + (-2.0 * skewness - 6.0 * c) * (x * x - 1.0) / 6.0
    shift = min(max(shift, -_MOST), _MOST)
    step = se * scale.slope
    return (
        _back(e, scale, scale.at - step * (x + shift)),
        _back(e, scale, scale.at + step * (x - shift)),
        scale.name,
    )


def _scale(e: Evidence) -> Scale:
    """By what is known of the range: logit in a range with two ends, log with one, else plain.

    Plain too where the estimate is out of its range, or less than a standard error from an end; and for a difference
    to production, which has a range but is seldom near an end.
    """
    below, above = e.value - e.low, e.high - e.value
    if min(below, above) <= e.se:
        return Scale("plain", e.value, 1.0, 0.0)
    if isfinite(below) and isfinite(above):
        return Scale("logit", log(below / above), 1.0 / below + 1.0 / above, 1.0 / above - 1.0 / below)
    if isfinite(below):
        return Scale("log", log(below), 1.0 / below, -1.0 / below)
    return Scale("plain", e.value, 1.0, 0.0)


def _back(e: Evidence, scale: Scale, at: float) -> float:
    if scale.name == "logit":
        share = 1.0 / (1.0 + exp(-at)) if at > -700.0 else 0.0
        return e.low + (e.high - e.low) * share
    return e.low + exp(min(at, 700.0)) if scale.name == "log" else at
