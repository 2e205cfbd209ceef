"""Whether estimators that assume more disagree with those that assume less: then what they assume is rejected.

SIPS weighs a feed by the whole list and assumes nothing. RIPS weighs a slot by the slots above it, and assumes that
its reward does not depend on those below. IIPS weighs a slot by itself alone; the pseudo-inverse assumes that
rewards of slots add up. Both estimate the same value if the assumption holds, so a difference between them beyond
chance rejects it. That there is none proves nothing: the weaker estimator may just be too noisy to tell.

The test must not see the events that the interval is made of, or picking the assumption by it would spoil the
interval: callers hand in sums of other viewers.
"""

from __future__ import annotations

from math import erfc, isfinite, sqrt
from typing import Final

from replay.errors import BadQuestion
from replay.estimators import Estimator, parse_estimator, standard_error
from replay.results import Check
from replay.sums import Sums

TEST_FOLD: Final = 0
"""Viewers of this fold are for the test, when it is asked for; the interval is made of the others."""

#: (assumes more, assumes less, what is assumed)
LADDER: Final = (
    ("rips", "sips", "a slot's reward does not depend on the slots below it"),
    ("iips", "rips", "a slot's reward does not depend on the other slots"),
    ("pi", "sips", "the rewards of slots add up, whatever else is shown"),
)


def pairs_for(*, marginals: bool) -> list[tuple[Estimator, Estimator, str]]:
    """What can be tested on a log of slates, by whether it has marginal propensities."""
    found = []
    for more, less, what in LADDER:
        pair = parse_estimator(more, slates=True), parse_estimator(less, slates=True)
        if marginals or not any(each.needs_marginals or each.needs_pseudo_inverse for each in pair):
            found.append((*pair, what))
    return found


def check(sums: Sums, more: Estimator, less: Estimator, what: str, *, alpha: float) -> Check:
    """
    :param sums: of viewers that no interval is made of
    :param alpha: chance that a true assumption is rejected (large samples)
    """
    name = f"assumption: {more.name}"
    untested = f"That {what} ({more.name}) could not be tested"
    if sums.n == 0:
        return Check(name, "ok", None, alpha, f"{untested}: no viewer is in that part.")
    try:
        gap = more.value(sums) - less.value(sums)
        error = standard_error(sums, more.gradient(sums) - less.gradient(sums))
    except BadQuestion as problem:
        return Check(name, "ok", None, alpha, f"{untested}: {problem.message}.")
    if error == 0 or not isfinite(error):
        return Check(name, "ok", None, alpha, f"{untested}: nothing varies.")
    chance = erfc(abs(gap) / error / sqrt(2))
    told = f"On {sums.n:,} events kept apart for this, {more.name} less {less.name} is {gap:+.4g} ± {error:.2g}"
    if chance < alpha:
        return Check(
            name, "warning", chance, alpha, f"Rejected: that {what}. {told} (p = {chance:.1g}).",
            f"Go by {less.name}, which does not assume it.",
        )  # fmt: skip
    return Check(name, "ok", chance, alpha, f"Not rejected, which is no proof: that {what}. {told}.")
