"""What a played demo says: the learning curve in words, and whether the recorded propensities are true."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from replay.demo.play import Played

N_BLOCKS: Final = 10
HALF: Final = 0.5
_BARS: Final = "▁▂▃▄▅▆▇█"

F64 = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean, and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: F64) -> Estimate:
        """:param values: shape (n,), one a visit"""
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        return cls(float(values.mean()), error)


def uniform_by_propensity(played: Played) -> F64:
    """What drawing at random earns, estimated from the service's log alone; shape (n,), one a visit.

    With the films above slot k given, ``r / p`` of the one drawn there has as its mean the sum of rewards
    of all films that are left. That and the rewards above make the sum over all candidates: one unbiased
    estimate a slot, uncorrelated with the others, if every p is true. Half is taken off each reward and
    put back in the end: so the sum of 1 / p is checked too, and the estimate is half as spread.
    Source: Des Raj, "Some estimators in sampling with varying probabilities", 1956.
    """
    rewards, propensities = played.slot_rewards - HALF, played.propensities
    above = np.cumsum(rewards, axis=1) - rewards
    return np.asarray((above + rewards / propensities).mean(axis=1) / played.n_candidates) + HALF


def describe(played: Played, *, n_films: int, n_viewers: int) -> str:
    """The learning curve as a table, the comparison, and the check of the propensities."""
    n, slots = played.slot_rewards.shape
    fewest, most = int(played.n_candidates.min()), int(played.n_candidates.max())
    lines = [
        f"{n:,} visits of {n_viewers:,} viewers, {fewest} to {most} candidates each from {n_films:,} films, "
        f"{slots} shown",
        "Share of the shown films that the viewer liked:",
        "",
        "visits             random   most popular   feed-bandit   gain over random",
    ]
    for block in blocks(n):
        lines.append(_row(f"{block.start + 1:,} to {block.stop:,}", played, block))
    lines += [_row("all", played, slice(0, n)), ""]
    gains = [float((played.service - played.uniform)[block].mean()) for block in blocks(n)]
    lines.append(f"gain over random, block by block   {sparkline(gains)}")
    for name, other in (("random", played.uniform), ("most popular", played.popular)):
        value, error = Estimate.of(played.service - other)
        lines.append(f"feed-bandit against {name:<13}  {value:+.4f} ± {error:.4f} (paired, standard error)")
    lines += ["", _propensity_check(played)]
    if played.fallbacks:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(played.fallbacks.items()))
        lines.append(f"Rankings that did not come from the model: {reasons}")
    return "\n".join(lines)


def _propensity_check(played: Played) -> str:
    estimated = uniform_by_propensity(played)
    value, exact = float(estimated.mean()), float(played.uniform.mean())
    error = Estimate.of(estimated - played.uniform).error
    away = f" That is {abs(value - exact) / error:.1f} standard errors away." if error > 0 else ""
    return (
        "Are the recorded propensities true? What random would earn, worked out from the rankings and their\n"
        f"propensities alone: {value:.4f} ± {error:.4f}. Exactly: {exact:.4f}.{away}"
    )


def blocks(n: int) -> list[slice]:
    """At most `N_BLOCKS` runs of visits, of nearly equal length, that make up all n."""
    edges = np.linspace(0, n, min(N_BLOCKS, n) + 1).round().astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def sparkline(values: list[float]) -> str:
    """Heights from 0 to the largest value; what is below 0 lies on the ground.

    >>> sparkline([0.0, 0.5, 1.0, -0.2])
    '▁▅█▁'
    """
    top = max([*values, 1e-9])
    return "".join(_BARS[round(max(value, 0.0) / top * (len(_BARS) - 1))] for value in values)


def _row(name: str, played: Played, block: slice) -> str:
    random, popular, service = (
        float(rewards[block].mean()) for rewards in (played.uniform, played.popular, played.service)
    )
    return f"{name:<16}   {random:6.3f}   {popular:12.3f}   {service:11.3f}   {service - random:+16.3f}"
