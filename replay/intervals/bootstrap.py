"""The pairs bootstrap over viewers: whole buckets are drawn with replacement, and the estimate made anew each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from scipy import special

from replay.errors import BadQuestion
from replay.estimators import Estimator, Means
from replay.events import F64
from replay.intervals.evidence import Evidence
from replay.sums import Sums

REPLICATES: Final = 1000
_AT_ONCE: Final = 100
_LEAST: Final = 0.5
"""Part of the replicates that must have an estimate at all."""


@dataclass(frozen=True, slots=True)
class _Resampled:
    """As much of `Sums` as estimators look at."""

    means: F64
    n_slots: int
    index: Callable[[str], int]


def bootstrap_limits(
    sums: Sums, estimator: Estimator, e: Evidence, alpha: float, *, difference: bool, seed: int
) -> tuple[float, float] | None:
    """Lower and upper limit: bias-corrected and accelerated (Efron 1987), so the same on every scale.

    :param e: of the same estimate; its skewness is the acceleration
    :returns: None if no replicate differs from another, which says nothing
    :raises BadQuestion: most replicates have no estimate
    """
    if e.variance == 0.0:
        return None
    values = replicates(sums, estimator, difference=difference, seed=seed)
    spread = float(values.max() - values.min())
    if spread == 0.0:
        return None
    # Ties count half: with few clicks there are many.
    below = float(np.mean(values < e.value) + np.mean(values == e.value) / 2.0)
    bias = float(special.ndtri(min(max(below, 0.5 / len(values)), 1.0 - 0.5 / len(values))))
    acceleration = e.third_moment / e.variance**1.5 / 6.0
    limits = []
    for z in (float(special.ndtri(alpha / 2.0)), float(special.ndtri(1.0 - alpha / 2.0))):
        slack = 1.0 - acceleration * (bias + z)
        level = special.ndtr(bias + (bias + z) / slack) if slack > 0.0 else float(z > 0.0)
        limits.append(float(np.quantile(values, level)))
    return limits[0], limits[1]


def replicates(sums: Sums, estimator: Estimator, *, difference: bool, seed: int, n_replicates: int = REPLICATES) -> F64:
    """Shape (at most n_replicates,): the estimate of each resampled log that has one.

    :raises BadQuestion: most have none
    """
    rng = np.random.default_rng(seed)
    used = sums.buckets[sums.buckets[:, 0] > 0]
    production = sums.index("y")
    if type(estimator) is not Estimator:
        # No function of means: its line at the estimate is.
        at, slope = sums.means, estimator.gradient(sums)
        around = np.vstack([_resampled_means(used, 1, rng) for _ in range(n_replicates)])
        drawn: F64 = estimator.value(sums) + (around - at) @ slope
        return drawn - around[:, production] if difference else drawn
    values = []
    for begin in range(0, n_replicates, _AT_ONCE):
        means = _resampled_means(used, min(_AT_ONCE, n_replicates - begin), rng)
        for row in means:
            try:
                value, _ = estimator.function(Means(cast(Sums, _Resampled(row, sums.n_slots, sums.index))))
            except BadQuestion:
                continue
            values.append(value - row[production] if difference else value)
    if len(values) < _LEAST * n_replicates:
        lost = n_replicates - len(values)
        raise BadQuestion(f"{lost} of {n_replicates} resampled logs have no estimate: too few events have weight")
    return np.array(values)


def _resampled_means(used: F64, count: int, rng: np.random.Generator) -> F64:
    """Shape (count, p): means of terms when as many buckets as there are have been drawn with replacement."""
    buckets = len(used)
    drawn = rng.integers(0, buckets, size=(count, buckets), dtype=np.int32)
    # Row by row, which stays in the cache.
    totals = np.array([np.bincount(row, minlength=buckets) @ used for row in drawn])
    means: F64 = totals / totals[:, :1]
    return means
