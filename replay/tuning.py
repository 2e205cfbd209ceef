"""Which lambda: of clip, dr_clip, switch, dros, sgips and sgdr the one with the least estimated error.

Every rule works from sums alone, so the choice needs no second look at the log, and merges: the members of a grid are
estimators like others, and their terms are added up in the same pass.

``prior``, the default: the least (t share)^2 + variance, where ``share`` is the part of the weight that lambda takes
    away and t what the correction may be worth: half a mean absolute deviation of rewards (for clip and sgips, which
    have no reward model, the mean reward too), or more, if the log says so at about 2.5 standard deviations.
``mse``: squared distance to the unshrunk member, less its own variance, plus variance.
``mse_direct``: the same without taking off the variance. Su et al. 2020, Doubly robust off-policy evaluation with
    shrinkage, section 5; obp's with ``use_bias_upper_bound=False``.
``mse_bound``: with an upper bound on the bias; the same source, obp's default.
``slope``: the last member, from the widest interval to the narrowest, that agrees with all before it. Su, Srinath,
    Krishnamurthy 2020, Adaptive estimator selection for off-policy evaluation; obp's.
``cross_validation``: least squared distance to the unshrunk member on viewers left out. Cief, Kompan, Kveton 2024,
    Cross-validated off-policy evaluation.

Why ``prior``: the distance to the unshrunk member is all noise where shrinking is needed most, so the other rules
shrink far too little in sparse logs (bounds) or too much in plain ones (SLOPE); see `docs/accuracy.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, log, sqrt
from types import MappingProxyType
from typing import Final, NamedTuple, cast

import numpy as np
from scipy import stats

from replay.errors import BadQuestion
from replay.estimators import FAMILIES, Estimator, Means, family
from replay.events import F64
from replay.shrinkage import CONTRADICTED, MODEL_ERROR, covariances, mean_absolute_deviation
from replay.sums import Sums
from replay.terms import Term, number

_WEIGHTS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, inf)
_SQUARES: Final = (1.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e5, inf)
_SHARES: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5)
GRIDS: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "clip": _WEIGHTS, "dr_clip": _WEIGHTS, "switch": _WEIGHTS,
        "dros": _SQUARES, "sgips": _SHARES, "sgdr": _SHARES,
    }
)  # fmt: skip
"""The lambdas tried, by family; each grid has the one that shrinks nothing."""

DELTA: Final = 0.1
"""Of intervals and bounds within the rules, as obp has it."""
SPLITS: Final = 20
"""Of cross-validation."""


class Tuned(NamedTuple):
    """What was chosen.

    :param scores: of each candidate, in their order: what the rule made least; of ``slope`` the interval's half width
    """

    estimator: Estimator
    rule: str
    scores: tuple[float, ...]

    @property
    def note(self) -> str:
        """What was chosen and how."""
        return f"lambda={number(self.estimator.lam)} of {len(self.scores)} by {self.rule}"


def grid(name: str, lams: Iterable[float] | None = None) -> tuple[Estimator, ...]:
    """Members of a family, one for each lambda.

    :param lams: the family's own grid if None
    :raises BadQuestion: no such family, or a lambda out of range
    """
    if name not in FAMILIES:
        raise BadQuestion(f"{name} has no lambda to choose; families that have: {', '.join(FAMILIES)}")
    return tuple(family(name, lam) for lam in (GRIDS[name] if lams is None else lams))


def tuning_terms(candidates: Iterable[Estimator]) -> tuple[Term, ...]:
    """What :func:`tune` needs in the sums, the candidates' own terms included: for `terms_for(..., extra=...)`."""
    chosen = list(candidates)
    own = [term for each in chosen for term in each.terms]
    extra = [Term("w", term.shape, term.lam) for term in own if term.shape]
    full = [term for each in chosen for term in unshrunk(each).terms]
    return tuple(dict.fromkeys([*own, *extra, *full]))


def unshrunk(candidate: Estimator) -> Estimator:
    """The member of its family that leaves weights as they are: ips or dr."""
    return family(candidate.family, 0.0 if candidate.family in ("sgips", "sgdr") else inf)


def tune(sums: Sums, candidates: Sequence[Estimator], *, rule: str = "prior", seed: int = 0) -> Tuned:
    """The member of a grid with the least estimated error.

    :param candidates: members of one family
    :param rule: one of ``RULES``
    :param seed: of the splits of cross-validation
    :raises BadQuestion: no such rule, no candidates or of several families, or a term is missing
    """
    if rule not in RULES:
        raise BadQuestion(f"no rule {rule!r} to choose lambda by; there are {', '.join(RULES)}")
    families = {each.family for each in candidates}
    if len(families) != 1 or not families <= set(FAMILIES):
        raise BadQuestion("lambda is chosen among members of one family; " + (", ".join(families) or "there are none"))
    looked = _look(sums, candidates)
    if looked is None:
        return Tuned(unshrunk(candidates[0]), rule, (inf,) * len(candidates))
    if rule == "slope":
        at, scores = _slope(sums, looked)
    else:
        scores = _cross_validation(sums, candidates, looked, seed) if rule == "cross_validation" else (
            _SCORES[rule](sums, candidates, looked)
        )  # fmt: skip
        # Of equals the first one that shrinks least: weights may all be below several lambdas.
        order = sorted(range(len(candidates)), key=lambda k: (looked.share[k], k))
        at = min(order, key=lambda k: scores[k])
    return Tuned(candidates[at], rule, tuple(float(score) for score in scores))


class _Look(NamedTuple):
    """What all rules start from; shape (m,)."""

    value: F64
    variance: F64
    full: float
    """Value of the unshrunk member."""
    gap_variance: F64
    """Of the distance to it."""
    share: F64
    """Part of the weight that is taken away."""


def _look(sums: Sums, candidates: Sequence[Estimator]) -> _Look | None:
    """None where all events are in one bucket: nothing says what varies."""
    full = unshrunk(candidates[0])
    every = [full, *candidates]
    values = np.array([each.value(sums) for each in every])
    covariance = covariances(sums, np.array([each.gradient(sums) for each in every]))
    if covariance is None:
        return None
    variance = np.maximum(np.diag(covariance), 0.0)
    gap = np.maximum(variance[0] + variance - 2.0 * covariance[0], 0.0)
    return _Look(values[1:], variance[1:], float(values[0]), gap[1:], _shares(sums, candidates))


def _shares(sums: Sums, candidates: Sequence[Estimator]) -> F64:
    mean = sums.mean("w")
    names = [Term("w", term.shape, term.lam).name for each in candidates for term in each.terms if term.shape]
    kept = np.array([sums.mean(name) for name in names])
    return np.clip(1.0 - kept / mean, 0.0, 1.0) if mean > 0 else np.zeros(len(candidates))


def _prior(sums: Sums, candidates: Sequence[Estimator], looked: _Look) -> F64:
    worth = MODEL_ERROR * mean_absolute_deviation(sums)
    if not candidates[0].needs_q:
        worth += abs(sums.mean("y"))
    seen = (looked.full - looked.value) ** 2 - CONTRADICTED * looked.gap_variance
    scores: F64 = np.maximum((worth * looked.share) ** 2, seen) + looked.variance
    return scores


def _mse(sums: Sums, candidates: Sequence[Estimator], looked: _Look) -> F64:
    scores: F64 = np.maximum((looked.full - looked.value) ** 2 - looked.gap_variance, 0.0) + looked.variance
    return scores


def _mse_direct(sums: Sums, candidates: Sequence[Estimator], looked: _Look) -> F64:
    scores: F64 = (looked.full - looked.value) ** 2 + looked.variance
    return scores


def _mse_bound(sums: Sums, candidates: Sequence[Estimator], looked: _Look) -> F64:
    n, miss = sums.size, log(2.0 / DELTA)
    slack = sqrt(2.0 * sums.mean("ww") * miss / n) + 2.0 * sums.largest_weight * miss / (3.0 * n)
    scores: F64 = (np.abs(looked.full - looked.value) + slack) ** 2 + looked.variance
    return scores


_SCORES: Final[Mapping[str, Callable[[Sums, Sequence[Estimator], _Look], F64]]] = MappingProxyType(
    {"prior": _prior, "mse": _mse, "mse_direct": _mse_direct, "mse_bound": _mse_bound}
)
RULES: Final = (*_SCORES, "slope", "cross_validation")


def _slope(sums: Sums, looked: _Look) -> tuple[int, F64]:
    width = stats.t(max(sums.used_buckets - 1, 1)).ppf(1.0 - DELTA) * np.sqrt(looked.variance)
    order = np.argsort(-width, kind="stable")
    for place, at in enumerate(order):
        before = order[:place]
        reach = width[at] + (sqrt(6.0) - 1.0) * width[before]
        if (np.abs(looked.value[before] - looked.value[at]) > reach).any():
            return int(order[place - 1]), width
    return int(order[-1]), width


class _Some:
    """Sums of some buckets: what `Means` needs of sums."""

    def __init__(self, sums: Sums, total: F64) -> None:
        self.means = total / total[0]
        self.n_slots = sums.n_slots
        self.index = sums.index


def _cross_validation(sums: Sums, candidates: Sequence[Estimator], looked: _Look, seed: int) -> F64:
    """Mean squared distance between a candidate on some viewers and the unshrunk member on the others.

    The more of the variance is a candidate's, the more viewers it gets, so that both sides are about as noisy.
    """
    used = sums.buckets[sums.buckets[:, 0] > 0]
    rng = np.random.default_rng(seed)
    full = unshrunk(candidates[0])
    whole = float(looked.variance[looked.share.argmin()])
    parts = np.clip(looked.variance / np.maximum(looked.variance + whole, 1e-300), 0.1, 0.9)
    scores = np.zeros(len(candidates))
    for _ in range(SPLITS):
        running = used[rng.permutation(len(used))].cumsum(0)
        for k, each in enumerate(candidates):
            cut = min(max(round(parts[k] * len(used)), 1), len(used) - 1)
            some, rest = running[cut - 1], running[-1] - running[cut - 1]
            scores[k] += (_value_of(each, sums, some) - _value_of(full, sums, rest)) ** 2
    return scores / SPLITS


def _value_of(estimator: Estimator, sums: Sums, total: F64) -> float:
    return estimator.function(Means(cast(Sums, _Some(sums, total))))[0]
