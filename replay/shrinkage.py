"""The default point estimate: between what the reward model says and what the weights say, by their errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import erf, exp, log, pi, sqrt
from typing import Final, NamedTuple

import numpy as np

from replay.errors import BadQuestion
from replay.estimators import SINGLE, SLATES, Estimator, Means
from replay.events import F64
from replay.sums import Sums
from replay.terms import Term, number

RUNGS: Final = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Where weights may be clipped; the rung nearest the square root of the number of events is taken."""
MODEL_ERROR: Final = 0.5
"""How wrong the reward model is thought to be about a policy's value before the log is looked at: a standard
deviation of so many mean absolute deviations of a reward. For clicks at rate p that is p (1 - p): as large as p."""
CONTRADICTED: Final = 6.0
"""The log contradicts that where model and weights differ by more than the square root of this, in standard
deviations of what they should differ by; from there on the model is thought as wrong as it looks."""
UNSURE: Final = 0.1
"""Estimated variances are taken this much larger, covariances not: alike estimates then share weight."""


class Blend(NamedTuple):
    """What was put together.

    :param weights: of each part, by its estimator's name; they are at least 0 and sum to 1
    :param gradient: with the weights held fixed; a standard error from it leaves out the model's bias
    :param model_error: standard deviation that the reward model's bias was taken to have
    :param companion: name of the nearly unbiased estimator whose interval belongs beside this value
    """

    value: float
    weights: dict[str, float]
    gradient: F64
    model_error: float
    companion: str

    @property
    def note(self) -> str:
        """The weights, in a sentence."""
        shares = " + ".join(f"{100 * share:.0f} % {name}" for name, share in self.weights.items() if share >= 0.005)
        bias = "not unbiased: " if self.weights.get("dm") else ""
        return f"{shares}, by least estimated error; {bias}the interval is that of {self.companion}"


@dataclass(frozen=True)
class Shrunk(Estimator):
    """A blend of three estimators with the least estimated mean squared error.

    The parts: ``dm``, which has little variance and an unknown bias; ``sndr`` and ``snips`` with weights clipped at
    about the square root of n, which have little bias and, where weights are large, much variance. Blended are

        sum_j a_j V_j,  a >= 0,  sum_j a_j = 1,  with the least  a' (S + t^2 b b') a

    S is the parts' covariance between viewers, with variances of at least what they would be if rewards had nothing to
    do with weights: else few clicks, all at small weights, would look like certainty. The reward model's bias is taken
    to have standard deviation t, half a mean absolute deviation of rewards (``MODEL_ERROR``), more if the log
    contradicts that (``CONTRADICTED``); a part has the share b_j of it: 1 for ``dm``, and for the others the share of
    weight that clipping has cut away. With growing n, S goes to 0 and t does not, so the blend goes to ``sndr`` and
    ``snips``, whatever the model is worth. A symmetric function of the sums: no order, no seed.

    Sources: Thomas, Brunskill 2016, Data-efficient off-policy policy evaluation (MAGIC: blending by estimated
    covariance and bias); Su et al. 2020 (shrinkage between model and weights); Ionides 2008 (clipping at sqrt n).
    The scale of the bias is our own; `docs/accuracy.md` says what it brings.
    """

    parts: tuple[Estimator, ...] = ()

    def value(self, sums: Sums) -> float:
        """As :class:`Estimator`."""
        return self.blend(sums).value

    def gradient(self, sums: Sums) -> F64:
        """With the weights of the parts held fixed."""
        return self.blend(sums).gradient

    def blend(self, sums: Sums) -> Blend:
        """The value and how it came about.

        :raises BadQuestion: there are no events, or no weight to divide by, or a term is missing
        """
        if self.slates:
            companion, chosen = "cascade_dr", self.parts
            shares = np.zeros(len(chosen))
        else:
            companion = "sndr"
            rung = min(RUNGS, key=lambda each: abs(log(each) - log(max(sums.n, 1)) / 2))
            chosen = (SINGLE["dm"], *(each for each in self.parts if each.lam == rung))
            kept = sums.mean(Term("w", "clip", rung).name)
            cut = max(0.0, 1.0 - kept / sums.mean("w")) if kept > 0 else 1.0
            shares = np.array([1.0, cut, cut])
        values = np.array([each.value(sums) for each in chosen])
        gradients = np.array([each.gradient(sums) for each in chosen])
        covariance = covariances(sums, gradients)
        if covariance is None:
            weights = np.zeros(len(chosen))
            weights[1] = 1.0
            return _blend(chosen, values, gradients, weights, 0.0, companion)
        t2 = 0.0
        if not self.slates:
            floor = _least_variance(sums, rung)
            covariance[1:, 1:] += max(0.0, floor - min(covariance[1, 1], covariance[2, 2]))
            t2 = (MODEL_ERROR * mean_absolute_deviation(sums)) ** 2
            noise = covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1]
            t2 = max(t2, (values[1] - values[0]) ** 2 - CONTRADICTED * noise - (CONTRADICTED - 1.0) * t2)
        errors = covariance + t2 * np.outer(shares, shares)
        weights = least_error(errors + UNSURE * np.diag(np.diag(errors)))
        return _blend(chosen, values, gradients, weights, sqrt(t2), companion)


def _least_variance(sums: Sums, rung: float) -> float:
    """Of a self-normalised mean with weights clipped at ``rung``, if rewards had nothing to do with weights."""
    spread = max(sums.mean("yy") - sums.mean("y") ** 2, 0.0)
    top, bottom = sums.mean(Term("ww", "clip", rung).name), sums.mean(Term("w", "clip", rung).name)
    return top / bottom**2 * spread / sums.size


def _blend(
    chosen: Iterable[Estimator], values: F64, gradients: F64, weights: F64, model_error: float, companion: str
) -> Blend:
    named = {each.name: float(weight) for each, weight in zip(chosen, weights, strict=True)}
    return Blend(float(weights @ values), named, weights @ gradients, model_error, companion)


def covariances(sums: Sums, gradients: F64) -> F64 | None:
    """Shape (m, m): between estimators, over viewers; None where all events are in one bucket.

    :param gradients: shape (m, p)
    """
    psi = np.array([sums.influence(gradient) for gradient in gradients])
    buckets = psi.shape[1]
    if buckets < 2:
        return None
    covariance: F64 = buckets / (buckets - 1) * (psi @ psi.T) / sums.size**2
    return covariance


def least_error(errors: F64) -> F64:
    """Shape (m,): weights of at least 0 that sum to 1 with the least ``a' errors a``; m is small.

    By trying every set of parts that may share the weight: the least over a simplex is that of one of its faces.
    """
    m = len(errors)
    tiny = 1e-12 * float(np.trace(errors))
    if tiny <= 0.0:
        return np.full(m, 1.0 / m)
    best, least = np.full(m, 1.0 / m), np.inf
    for size in range(1, m + 1):
        for face in combinations(range(m), size):
            some = np.ix_(face, face)
            share = np.linalg.solve(errors[some] + tiny * np.eye(size), np.ones(size))
            if share.sum() <= 0.0:
                continue
            share /= share.sum()
            error = float(share @ errors[some] @ share)
            if share.min() >= 0.0 and error < least * (1.0 - 1e-12):
                best, least = np.zeros(m), error
                best[list(face)] = share
    return best


def mean_absolute_deviation(sums: Sums) -> float:
    """Of an event's reward from its mean, as if what is not 0 were normal: exact for clicks, and for normal rewards.

    :raises BadQuestion: there are no events
    """
    mean, square, nonzero = sums.mean("y"), sums.mean("yy"), sums.mean("nz")
    if nonzero <= 0.0:
        return 0.0
    centre = mean / nonzero - mean
    variance = max(square / nonzero - (mean / nonzero) ** 2, 0.0)
    spread = sqrt(variance)
    if spread <= 1e-9 * abs(mean / nonzero):
        off = abs(centre)
    else:
        z = centre / spread
        off = spread * sqrt(2.0 / pi) * exp(-z * z / 2.0) + centre * erf(z / sqrt(2.0))
    return (1.0 - nonzero) * abs(mean) + nonzero * off


def _clipped(name: str, rung: float, *, model: bool) -> Estimator:
    """E[dm] + E[v e] / E[v] with v = min(w, rung); without the model E[v r] / E[v]."""
    top, bottom = Term("we" if model else "wr", "clip", rung), Term("w", "clip", rung)
    function = partial(_clipped_ratio, name, top.name, bottom.name, model)
    terms = (Term("dm"), top, bottom, Term("ww", "clip", rung)) if model else (top, bottom)
    return Estimator(f"{name}(lambda={number(rung)})", function, terms, family=name, lam=rung)


def _clipped_ratio(name: str, top: str, bottom: str, model: bool, m: Means) -> tuple[float, dict[str, float]]:
    if m[bottom] == 0.0:
        raise BadQuestion(f"{name}: every weight is 0, the target never does what was logged; no estimate")
    ratio = m[top] / m[bottom]
    partials = {top: 1.0 / m[bottom], bottom: -ratio / m[bottom]}
    return (m["dm"] + ratio, partials | {"dm": 1.0}) if model else (ratio, partials)


def _unused(m: Means) -> tuple[float, dict[str, float]]:
    raise AssertionError("a blend is no function of means alone")


def _shrunk(parts: tuple[Estimator, ...], *, slates: bool) -> Shrunk:
    terms = tuple(dict.fromkeys(term for each in parts for term in each.terms))
    slots = tuple(dict.fromkeys(kind for each in parts for kind in each.slots))
    return Shrunk("shrunk", _unused, terms, slots, slates, source="see replay/shrinkage.py", parts=parts)


SHRUNK: Final = _shrunk(
    (
        SINGLE["dm"],
        *(_clipped("sndr_clip", rung, model=True) for rung in RUNGS),
        *(_clipped("snips_clip", rung, model=False) for rung in RUNGS),
    ),
    slates=False,
)
"""Of logs whose events have one slot; needs a reward model."""

SHRUNK_SLATES: Final = _shrunk((SLATES["snrips"], SLATES["cascade_dr"]), slates=True)
"""Of feeds: the blend of snrips and cascade_dr with the least estimated variance; neither has a bias to speak of."""
