"""What fixed-n intervals rest on: the estimate, what each viewer's events did to it, and what was not seen.

An estimate is a mean over events of something that is seldom large. What decides how far it may be off is then not
the spread of what was seen alone, but also the event that was *not* seen: so besides influences this holds how far
one more event, of a weight that this log might well have held, would move the sum.
"""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import Final, NamedTuple

import numpy as np

from replay.errors import BadQuestion
from replay.estimators import Estimator, difference_gradient
from replay.events import F64
from replay.intervals.rewards_seen import Moved, both_sides, degrees_of_freedom
from replay.intervals.scales import VANISHING
from replay.intervals.weights_seen import WeightsSeen
from replay.sums import Sums

LEAST_DF: Final = 2.0
"""Degrees of freedom that are left whatever the weights: with fewer, Student's quantile says nothing any more."""


HIGHEST_LEVERAGE: Final = 0.9


class Missed(NamedTuple):
    """An event that was not seen, by its weight on the scale of the estimator's divisor.

    :ivar up, down: weight if its reward is the best, the worst; less where such rewards are small or rare
    :ivar jump_up, jump_down: how far it would move the sum, both >= 0; infinite if nothing says how far
    :ivar whole_up, whole_down: how much of it a limit takes, 0.5 to 1
    """

    up: float
    down: float
    jump_up: float
    jump_down: float
    whole_up: float
    whole_down: float


class Evidence(NamedTuple):
    """Of a value, or of its difference to production, in units of one event's reward.

    :ivar n: how many events the estimate is a mean over
    :ivar psi: shape (used buckets,), sums to 0: what each bucket of viewers did to the sum, linearised
    :ivar divisor: shape (used buckets,): how much of what the sum is divided by is in each bucket; sums to ``n``
    :ivar df: degrees of freedom that uneven weights and few viewers leave to a standard error
    :ivar low, high: what the value cannot leave; infinite where nothing is known
    """

    n: float
    value: float
    psi: F64
    divisor: F64
    df: float
    missed: Missed
    low: float
    high: float

    @property
    def variance(self) -> float:
        """Of the sum, between buckets; 0 if there is only one, or no more to divide by than that."""
        buckets = len(self.psi)
        variance = float(self.psi @ self.psi) * buckets / (buckets - 1) if buckets > 1 else 0.0
        return variance if variance > VANISHING else 0.0

    @property
    def third_moment(self) -> float:
        """Of the sum, about its mean."""
        return float((self.psi**3).sum())

    @property
    def se(self) -> float:
        return sqrt(self.variance) / self.n


def gather(sums: Sums, estimator: Estimator, reward_range: tuple[float, float] | None, *, difference: bool) -> Evidence:
    """What the sums say of a value, or of its difference to production on the same events.

    :param reward_range: lowest and highest reward of an event, if known
    :raises BadQuestion: there is no estimate, or too little is known for any interval
    """
    value, production = estimator.value(sums), sums.mean("y")
    gradient = difference_gradient(estimator, sums) if difference else estimator.gradient(sums)
    buckets = sums.buckets[sums.buckets[:, 0] > 0]
    if len(buckets) < 2 and reward_range is None:
        raise BadQuestion("one viewer does not say how far another would be off; give the range of rewards")
    low, high = reward_range if reward_range is not None else (sums.lowest_reward, sums.highest_reward)
    if reward_range is None and low == high:
        raise BadQuestion(f"every reward was {low:g}; give the range of rewards: what else could they have been?")
    at = min(max(value, low), high)
    divisor, scale = buckets[:, 0].copy(), 1.0
    if is_self_normalised(estimator) and not sums.terms.slates:
        scale = sums.mean("w")
        divisor = buckets[:, sums.index("w")] / scale
    weights = WeightsSeen(sums, estimator)
    missed = weights.missed
    leverage = _leverage(sums, estimator, buckets)
    psi = sums.influence(gradient) * leverage
    room = high - at, at - low
    spread, known = high - low, reward_range is not None
    if len(buckets) < 2 or not isfinite(missed):
        unseen = Missed(inf, inf, inf, inf, 1.0, 1.0)
    elif sums.terms.slates and low < 0.0:
        of_value = sums.influence(estimator.gradient(sums)) * leverage if difference else psi
        unseen = _missed_feed(weights, of_value, psi, room, difference=difference)
    else:
        above, below = both_sides(sums, missed, low, high)
        parts = above.part, below.part
        unseen = Missed(
            missed / scale * above.part,
            missed / scale * below.part,
            *_jumps(weights, scale, parts, room, difference=difference),
            above.whole,
            below.whole,
        )
    return Evidence(
        n=sums.size,
        value=value - production if difference else value,
        psi=psi,
        divisor=divisor,
        df=_degrees_of_freedom(sums, weights, (low, high), len(buckets), difference=difference),
        missed=unseen,
        low=(-spread if difference else low) if known else -inf,
        high=(spread if difference else high) if known else inf,
    )


def _missed_feed(
    weights: WeightsSeen, of_value: F64, psi: F64, room: tuple[float, float], *, difference: bool
) -> Missed:
    """For feeds that may earn less than 0.

    They earn something in the middle of what is possible, and far from both ends: counted from an end all of them
    would look alike, and one more could be anything. So what is counted is what moved the estimate up, and what moved
    it down. One more viewer moves it as far as those did, with one event among theirs that may earn all that is
    possible.

    :param of_value, psi: shape (used buckets,), influences on the value, and on what is asked for
    :param room: from the value up to the highest reward, and down to the lowest
    """
    alone = weights.alone
    above, below = Moved.of(of_value), Moved.of(-of_value)
    up, down = (
        seen.then(alone * far, weights.missed * far) / far if far > 0.0 else weights.missed
        for seen, far in ((above, room[0]), (below, room[1]))
    )
    if not difference:
        return Missed(up, down, up * room[0], down * room[1], above.whole, below.whole)
    above, below = Moved.of(psi), Moved.of(-psi)
    apart = weights.missed_apart
    # Instead of w: how far w is from 1. An event that only production would have had counts too, by at most 1.
    alone = min(apart, max(alone - 1.0, 1.0))
    near, nearly = min(apart, 1.0), min(alone, 1.0)
    jump_up = above.then(max(alone * room[0], nearly * room[1]), max(apart * room[0], near * room[1]))
    jump_down = below.then(max(alone * room[1], nearly * room[0]), max(apart * room[1], near * room[0]))
    return Missed(up, down, jump_up, jump_down, above.whole, below.whole)


def _leverage(sums: Sums, estimator: Estimator, buckets: F64) -> F64 | float:
    """By how much the influence of each bucket looks too small, because the control variate was fitted to it as well.

    1 / (1 - h) with h its leverage in the regression on weights (HC3: MacKinnon, White 1985). One heavy weight decides
    the slope, and then seems to fit it. Shape (used buckets,), or 1 for estimators that fit nothing.
    """
    if not estimator.name.startswith("beta") or sums.terms.slates:
        return 1.0
    off = buckets[:, sums.index("w")] - sums.mean("w") * buckets[:, 0]
    spread = float(off @ off)
    if spread == 0.0:
        return 1.0
    factors: F64 = 1.0 / (1.0 - np.minimum(off**2 / spread, HIGHEST_LEVERAGE))
    return factors


def _jumps(
    weights: WeightsSeen, scale: float, parts: tuple[float, float], room: tuple[float, float], *, difference: bool
) -> tuple[float, float]:
    """How far the event that was not seen would move the sum, up and down.

    :param scale: what weights are divided by
    :param parts: how large its reward is likely to be, as a part of the room
    :param room: from the value up to the highest reward, and down to the lowest
    """
    missed = weights.missed / scale
    if not isfinite(missed):
        return inf, inf
    up, down = parts[0] * room[0], parts[1] * room[1]
    if not difference:
        return missed * up, missed * down
    # Instead of w: how far w is from 1. An event that only production would have had counts too, by at most 1.
    far = weights.missed_apart / scale
    near = min(far, 1.0)
    return max(far * up, near * down), max(far * down, near * up)


def _degrees_of_freedom(
    sums: Sums, weights: WeightsSeen, rewards: tuple[float, float], buckets: int, *, difference: bool
) -> float:
    """Uneven weights, rare rewards and few viewers each leave a standard error fewer.

    Between the first two variances add: 1 / df is the sum of theirs.
    """
    by_weights = weights.degrees_of_freedom(apart=difference)
    by_rewards = inf
    if not sums.terms.slates:
        moments = weights.moments(apart=difference)
        by_rewards = degrees_of_freedom(sums, moments, weights.missed, *rewards)
    df = max(1.0 / (1.0 / by_weights + 1.0 / by_rewards), LEAST_DF)
    return max(min(df, buckets - 1.0), 1.0)


def is_self_normalised(estimator: Estimator) -> bool:
    """Divided by the sum of the weights, not the number of events."""
    return estimator.name.startswith("sn")


def stays_in_range(estimator: Estimator) -> bool:
    """Roughly at least: a constant reward is recovered whatever the weights were. Not so the ips family."""
    return (
        is_self_normalised(estimator)
        or estimator.needs_q
        or estimator.name.startswith("beta")
        or estimator.name == "wpi"
    )
