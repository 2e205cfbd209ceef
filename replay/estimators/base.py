"""What an estimator is: a smooth function of the means of some terms, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf, sqrt

import numpy as np

from replay.events import F64
from replay.sums import Sums
from replay.terms import Term, TermSet, term_set

Partials = dict[str, float]
"""Derivative by term, with respect to the term's mean; terms that are not there have derivative 0."""


class Means:
    """Means of terms by name, and how many slots there are."""

    def __init__(self, sums: Sums) -> None:
        self._means = sums.means
        self._sums = sums
        self.n_slots = sums.n_slots

    def __getitem__(self, name: str) -> float:
        return float(self._means[self._sums.index(name)])


Function = Callable[[Means], tuple[float, Partials]]


@dataclass(frozen=True)
class Estimator:
    """One way to say what the target policy would have earned for an event.

    :ivar name: with its parameter written out: ``dros(lambda=10)``
    :ivar terms: what it needs in the sums, besides what is always there; of slates also ``slots``
    :ivar source: where it is from
    :ivar square: of a plain mean over events, the term that is the square of what it is the mean of
    """

    name: str
    function: Function = field(repr=False, compare=False)
    terms: tuple[Term, ...] = ()
    slots: tuple[str, ...] = ()
    slates: bool = False
    family: str = ""
    lam: float = inf
    square: Term | None = None
    source: str = field(default="", repr=False)

    @property
    def needs_q(self) -> bool:
        """Predictions of a reward model."""
        return self.term_set.needs_q

    @property
    def needs_marginals(self) -> bool:
        """Marginal weights of each slot."""
        return self.term_set.needs_marginals

    @property
    def needs_pseudo_inverse(self) -> bool:
        """Pseudo-inverse weights, or marginal weights of a factored logging policy."""
        return self.term_set.needs_pseudo_inverse

    @property
    def term_set(self) -> TermSet:
        """What sums must hold for it."""
        return term_set(self.terms, slots=self.slots, slates=self.slates)

    def value(self, sums: Sums) -> float:
        """Estimated reward of an event under the target policy.

        :raises BadQuestion: there are no events, or no weight to divide by, or a term is missing
        """
        return self.function(Means(sums))[0]

    def gradient(self, sums: Sums) -> F64:
        """Shape (p,): derivative of :meth:`value` with respect to the means of the terms.

        :raises BadQuestion: as :meth:`value`
        """
        out = np.zeros(len(sums.names))
        for name, partial in self.function(Means(sums))[1].items():
            out[sums.index(name)] += partial
        return out


def terms_for(estimators: Iterable[Estimator], *, extra: Iterable[Term] = (), slates: bool | None = None) -> TermSet:
    """What sums must hold for all of these, and no more.

    :param slates: only needed where there are no estimators
    """
    chosen = list(estimators)
    kinds = {each.slates for each in chosen} | ({slates} if slates is not None else set())
    assert len(kinds) <= 1, "estimators of single slots and of slates need sums of their own"
    terms = [*extra, *(term for each in chosen for term in each.terms)]
    slots = [kind for each in chosen for kind in each.slots]
    return term_set(terms, slots=slots, slates=kinds == {True})


def event_variance(estimator: Estimator, sums: Sums) -> float | None:
    """Variance of one event's contribution, as if events were independent; None if it is no plain mean.

    The sums need the terms ``estimator.square``: ``terms_for(estimators, extra=squares(estimators))``. Standard errors
    come from :func:`standard_error` instead, which knows of viewers.
    """
    if estimator.square is None:
        return None
    return max(0.0, sums.mean(estimator.square.name) - estimator.value(sums) ** 2)


def squares(estimators: Iterable[Estimator]) -> list[Term]:
    """Terms for :func:`event_variance`."""
    return [each.square for each in estimators if each.square is not None]


def standard_error(sums: Sums, gradient: F64) -> float:
    """Of a value with this gradient, by the delta method, between buckets of viewers.

    inf where all events are in one bucket: nothing says how far another viewer would be off.
    """
    psi = sums.influence(gradient)
    buckets = len(psi)
    return inf if buckets < 2 else sqrt(buckets / (buckets - 1) * float(psi @ psi)) / sums.size


def difference_gradient(estimator: Estimator, sums: Sums) -> F64:
    """Shape (p,): of the value less what production earned on the same events, ``mean(y)``."""
    gradient = estimator.gradient(sums)
    gradient[sums.index("y")] -= 1.0
    return gradient


def difference(estimator: Estimator, sums: Sums) -> float:
    """Target minus production, on the same events."""
    return estimator.value(sums) - sums.mean("y")
