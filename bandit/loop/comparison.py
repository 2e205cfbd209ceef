"""What is served against what else could have stood there: by chance, in the caller's order, without exploring.

At each slot, given what stands above it, a target's draw is weighed against the logged one: w = its probability of what
stands there over the recorded one. Differences are in reward a slot, of one slot at a time: what an item does to the
slots below it is not compared. Bounds hold at all looks together, see `bandit.learning.one_sided`.
"""

from __future__ import annotations

from math import ceil, sqrt
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from bandit.learning.one_sided import Evidence, LowerBound

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

Target = Literal["chance", "caller"]
#: Whom what is served is compared with by bounds that hold at every look.
TARGETS: Final[tuple[Target, ...]] = ("chance", "caller")
#: Chance that a comparison is ever wrong, at any look; either side has half of it.
ALPHA: Final = 0.05
#: A comparison begins anew after so long: what serves now is another model.
SEQUENCE_S: Final = 7 * 86_400.0
FEWEST: Final = 50
#: So many feeds tell how far rewards reach; they are not compared.
SCALED_BY: Final = 100
_TAIL: Final = 0.002
_POWER: Final = NormalDist().inv_cdf(0.8) / NormalDist().inv_cdf(1 - ALPHA / 2)
_MOST: Final = 10**9


class Difference(NamedTuple):
    """Served minus target, reward a slot.

    :ivar low: with ``high``, holds at every look; None before there are any feeds
    """

    value: float | None
    low: float | None
    high: float | None


class Sides(Struct):
    """Evidence that the target earns more, and that it earns less."""

    more: Evidence
    less: Evidence


class Scale(Struct):
    """How far rewards reach, found from the first feeds: the narrower, the sooner something is proven.

    :ivar limits: no reward can be outside
    :ivar rewards: of all slots of the first feeds
    :ivar least, most: of all rewards so far, and 0
    """

    limits: tuple[float, float]
    feeds: int = 0
    rewards: list[float] = field(default_factory=list)
    least: float = 0.0
    most: float = 0.0

    def add(self, reward: F64, starts: I64) -> int:
        """Feeds in their order, feed by feed until there is a range; how many of them that took."""
        n = len(starts) - 1
        needed = min(max(SCALED_BY - self.feeds, 0), n)
        self._take(reward[: starts[needed]], needed)
        while self.range is None and needed < n:
            self._take(reward[starts[needed] : starts[needed + 1]], 1)
            needed += 1
        return needed

    def _take(self, reward: F64, feeds: int) -> None:
        self.feeds += feeds
        if self.feeds <= SCALED_BY:
            self.rewards += reward.tolist()
        self.least = float(reward.min(initial=self.least))
        self.most = float(reward.max(initial=self.most))

    @property
    def range(self) -> tuple[float, float] | None:
        """Where nearly all rewards lie, and 0; None as long as all are 0, or there are too few feeds."""
        if self.feeds < SCALED_BY:
            return None
        low, high = self.limits
        ends = np.quantile(self.rewards, [_TAIL, 1.0 - _TAIL]).tolist()
        for least, most in (ends, (self.least, self.most)):
            found = max(low, min(0.0, least)), min(high, max(0.0, most))
            if found[0] < found[1]:
                return found
        return None


class Sequence(Struct):
    """A comparison from one moment on.

    :ivar low: with ``high``, the rewards that it is scaled by; others are taken for the nearer of the two
    :ivar reward_of: what rewards are, as text: another comparison begins with another
    :ivar began_at: log time
    :ivar slots: of the feeds that are compared, and what they earned
    :ivar sides: by target
    """

    low: float
    high: float
    reward_of: str
    began_at: float
    feeds: int = 0
    slots: int = 0
    reward: float = 0.0
    sides: dict[str, Sides] = field(default_factory=dict)

    def difference(self, target: Target) -> Difference:
        """Served minus target; the bounds hold at all looks together with probability 1 - `ALPHA`."""
        sides = self.sides.get(target)
        if sides is None or sides.more.n == 0:
            return Difference(None, None, None)
        more, less = LowerBound.of(sides.more), LowerBound.of(sides.less)
        width = self.high - self.low
        assert more.estimate is not None
        return Difference(
            -more.estimate * width, less.lower(ALPHA / 2) * width, -more.lower(ALPHA / 2) * width
        )


class Comparing:
    """A sequence that goes on.

    :param sequence: as it was left
    """

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self._bounds = {
            target: (LowerBound.of(kept.more), LowerBound.of(kept.less))
            if kept
            else (LowerBound(), LowerBound())
            for target in TARGETS
            for kept in [sequence.sides.get(target)]
        }

    def add(self, weights: dict[Target, tuple[F64, F64]], reward: F64, starts: I64) -> None:
        """Feeds in the order in which their windows ended.

        :param weights: by target, w of each slot and the most that it could have been, shape (S,) both
        :param reward: shape (S,)
        :param starts: shape (n + 1,): where each feed's slots begin
        """
        one = self.sequence
        g = (np.clip(reward, one.low, one.high) - one.low) / (one.high - one.low)
        for target, (w, bound) in weights.items():
            more, less = self._bounds[target]
            more.add(w, g, bound, starts)
            # What a target earns less of the rewards it earns more of what they leave to the highest.
            less.add(w, 1.0 - g, bound, starts)
        one.feeds += len(starts) - 1
        one.slots += len(reward)
        one.reward += float(reward.sum())

    def kept(self) -> Sequence:
        """The sequence with all that was added."""
        self.sequence.sides = {
            target: Sides(more.kept(), less.kept()) for target, (more, less) in self._bounds.items()
        }
        return self.sequence


def feeds_needed(n: int, difference: Difference) -> int | None:
    """How many more feeds would decide, roughly, if the difference is what it seems; None if that cannot be said.

    Bounds narrow with the root of the number of feeds: with ``half`` their reach towards 0 after n of them,
    n * (half * (1 + z(.8) / z(.975)) / difference) ** 2 in all.
    """
    value, low, high = difference
    if value is None or low is None or high is None or n < FEWEST or value == 0.0:
        return None
    half = value - low if value > 0 else high - value
    ratio = half * (1 + _POWER) / abs(value)
    return max(1, ceil(n * (ratio * ratio - 1))) if n * ratio * ratio < _MOST else None


def effective(sum_w: float, sum_w2: float) -> float:
    """How many slots of the target's own the weighted ones are worth (Kish): (sum w)^2 / sum w^2."""
    return sum_w * sum_w / sum_w2 if sum_w2 > 0.0 else 0.0


# Student's t, 31 degrees of freedom.
_T: Final = 2.0395
#: Viewers are put into so many groups by a hash; intervals are read off the spread between groups.
GROUPS: Final = 32
_FEWEST_GROUPS: Final = 8


class Mean(NamedTuple):
    """A mean with a 95 % interval for one look; None where there is too little."""

    value: float | None
    low: float | None
    high: float | None


def ratio_of(total: F64, count: F64) -> Mean:
    """sum(total) / sum(count), whose error is that between groups: a group holds all of its viewers.

    :param total, count: by group, shape (GROUPS,) both

    >>> ratio_of(np.zeros(GROUPS), np.zeros(GROUPS))
    Mean(value=None, low=None, high=None)
    """
    n = float(count.sum())
    if n <= 0.0:
        return Mean(None, None, None)
    mean = float(total.sum()) / n
    used = int((count > 0).sum())
    if used < _FEWEST_GROUPS:
        return Mean(mean, None, None)
    residual = total - mean * count
    error = sqrt(float(residual @ residual) * used / (used - 1)) / n
    return Mean(mean, mean - _T * error, mean + _T * error)


def weighted(product: F64, weight: F64, reward: F64, count: F64) -> Mean:
    """Mean reward of a target: the served one's, plus that of (w - 1) * (r - mean r).

    :param product: by group, sum of w * r; ``weight`` of w, ``reward`` of r, ``count`` of slots
    """
    n = float(count.sum())
    if n <= 0.0:
        return Mean(None, None, None)
    served = float(reward.sum()) / n
    return ratio_of(product - served * weight + served * count, count)
