"""Intervals: how far an estimate may be off, from the sums of one pass. For a fixed number of events.

Whoever looks again and again as events arrive needs `replay.intervals.sequence` instead.
"""

from __future__ import annotations

from math import isfinite, isinf
from typing import Final

from replay.errors import BadQuestion
from replay.estimators import Estimator
from replay.intervals.automatic import automatic_limits
from replay.intervals.bootstrap import REPLICATES, bootstrap_limits
from replay.intervals.evidence import Evidence, gather, stays_in_range
from replay.intervals.exact import exact_limits, largest_possible
from replay.intervals.likelihood import likelihood_limits
from replay.intervals.normal import normal_limits
from replay.intervals.scales import refuse_extremes
from replay.results import Interval
from replay.sums import Sums

__all__ = ["METHODS", "interval"]

METHODS: Final = ("auto", "normal", "bootstrap", "likelihood", "exact")
"""auto: hull of skew gamma and beta limits with one event more than was seen, the default; normal: delta method with
Student's quantile, corrected for skewness; bootstrap: BCa over viewers; likelihood: Cressie-Read with mean weight 1;
exact: mid-P with the largest weight possible. The last two are for E[w r] whatever the estimator."""

_ROUNDING: Final = 1e-12


def interval(
    method: str,
    sums: Sums,
    estimator: Estimator,
    *,
    alpha: float,
    reward_range: tuple[float, float] | None,
    difference: bool = False,
    seed: int = 0,
) -> Interval:
    """The interval of an estimator's value, or of its difference to what production earned on the same events.

    Events of a viewer may depend on each other, viewers not. Limits are cut to what is possible: the range of
    rewards, or for a difference plus and minus its width.

    :param method: one of ``METHODS``
    :param alpha: the truth is outside with about this probability, in (0, 1)
    :param reward_range: lowest and highest reward of an event, if known; without it rewards as far as seen
    :param seed: of the bootstrap
    :raises BadQuestion: no such method, or it does not fit this log; there is no estimate, or nothing bounds it, or
        rewards are too close together, or too far apart, to be squared
    """
    if method not in METHODS:
        raise BadQuestion(f"there is no interval {method!r}; there are {', '.join(METHODS)}")
    if not 0.0 < alpha < 1.0:
        raise BadQuestion(f"alpha is {alpha}; it must be above 0 and below 1: 0.05 for 95 %")
    if reward_range is not None and not reward_range[0] < reward_range[1]:
        raise BadQuestion(f"the range of rewards is {reward_range}; the first must be below the second")
    refuse_extremes(*(reward_range or (sums.lowest_reward, sums.highest_reward)))
    e = gather(sums, estimator, reward_range, difference=difference)
    low, high, text = _limits(method, sums, estimator, e, alpha, reward_range, difference=difference, seed=seed)
    # What is certain has width 0; rounding must not make it a finding.
    slack = _ROUNDING * max(abs(estimator.value(sums)), abs(sums.mean("y")))
    low, high = min(max(low - slack, e.low), e.high), max(min(high + slack, e.high), e.low)
    return Interval(low=low, high=high, method=text, alpha=alpha)


def _limits(
    method: str,
    sums: Sums,
    estimator: Estimator,
    e: Evidence,
    alpha: float,
    reward_range: tuple[float, float] | None,
    *,
    difference: bool,
    seed: int,
) -> tuple[float, float, str]:
    """Lower and upper limit, and how they were made."""
    if method == "likelihood":
        low, high = likelihood_limits(sums, alpha, reward_range=reward_range, difference=difference)
        return low, high, f"likelihood: Cressie-Read, mean weight 1, weights up to {_bound(sums)}"
    if method == "exact":
        seen = "" if isfinite(sums.weight_bound) else ", the largest seen: nothing bounds weights"
        low, high = exact_limits(sums, alpha, reward_range=reward_range, difference=difference)
        return low, high, f"exact: mid-P, one more reward with a weight up to {largest_possible(sums):.6g}{seen}"
    if method == "normal" and (found := normal_limits(e, alpha, difference=difference)) is not None:
        return found[0], found[1], f"normal: {found[2]} scale, corrected for skewness, {e.df:.0f} degrees of freedom"
    if method == "bootstrap":
        drawn = bootstrap_limits(sums, estimator, e, alpha, difference=difference, seed=seed)
        if drawn is not None:
            return *drawn, f"bootstrap: BCa, {REPLICATES} times {len(e.psi)} groups of viewers, seed {seed}"
    value = gather(sums, estimator, reward_range, difference=False) if difference else None
    low, high = automatic_limits(e, alpha, beta=stays_in_range(estimator), value=value)
    if isinf(e.missed.jump_up):
        return low, high, "auto: all that is possible; too little was seen of the target to say more"
    instead = "" if method == "auto" else f" (in place of {method}: nothing varies)"
    shape = "gamma and beta" if stays_in_range(estimator) and reward_range is not None else "gamma"
    text = (
        f"auto{instead}: {shape}, mid-P, one more event of weight {max(e.missed.up, e.missed.down):.3g}, "
        f"{e.df:.0f} degrees of freedom"
    )
    return low, high, text


def _bound(sums: Sums) -> str:
    bound = max(sums.weight_bound, sums.largest_weight)
    return "anything" if isinf(bound) else f"{bound:.6g}"
