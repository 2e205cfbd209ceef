"""What the weighted rewards of a log say of an event that was not seen: how large, how rare."""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

import numpy as np

from replay.events import F64
from replay.intervals.weights_seen import Moments
from replay.sums import Sums

MANY: Final = 20.0
"""Effective number of rewards from which on they are many rather than few."""


class Side(NamedTuple):
    """Weighted rewards as counted from one end of their range.

    :ivar number: effective number of them, (sum)^2 / sum of squares; 0 if unknown
    :ivar part: by how much the next one is likely to be smaller than the largest possible; 1 if unknown
    """

    number: float
    part: float

    @property
    def whole(self) -> float:
        """How much of the one more event a limit takes: half where rewards are few (mid-P), all where they are many.

        Counts are discrete. With few of them a whole one is far too much, and half is right on average over what the
        truth may be; with many, a whole one costs little and keeps limits from erring to the wrong side.
        """
        return 0.5 + 0.5 * self.number**4 / (self.number**4 + MANY**4)


def both_sides(sums: Sums, weight: float, low: float, high: float) -> tuple[Side, Side]:
    """Counted up from the lowest reward, and down from the highest.

    Of k effective rewards seen of typical size j and one that is as large as may be, the next is (k j + largest) /
    (k + 1): the largest where nothing was seen, hardly less where rewards are 0 or 1, much less where the range is
    wider than what occurs.

    :param weight: of the event that was not seen
    """
    largest = weight * (high - low)
    if sums.terms.slates:
        if low != 0.0:
            return Side(0.0, 1.0), Side(0.0, 1.0)
        return _side(sums, {"rips": 1.0}, 0.0, largest), Side(0.0, 1.0)
    above, below = _second_moments(sums, low, high)
    return (
        _side(sums, {"wr": 1.0, "w": -low}, above, largest),
        _side(sums, {"wr": -1.0, "w": high}, below, largest),
    )


class Moved(NamedTuple):
    """What moved an estimate to one side.

    :ivar number: of viewers in effect, (sum)^2 / sum of squares; 0 if there was none
    :ivar size: how far one of them typically moved the sum
    """

    number: float
    size: float

    @classmethod
    def of(cls, influences: F64) -> Moved:
        """:param influences: shape (used buckets,); those above 0 count"""
        up = influences[influences > 0.0]
        total, squares = float(up.sum()), float(up @ up)
        return cls(total**2 / squares, squares / total) if squares > 0.0 else cls(0.0, 0.0)

    def then(self, largest: float, most: float) -> float:
        """How far one more viewer is likely to move it, by the rule of `both_sides`.

        :param largest: how far one event alone could, whose reward is as large as may be
        :param most: how far all events of a viewer together could
        """
        return min(self.size + largest / (self.number + 1.0), most)

    @property
    def whole(self) -> float:
        """As `Side.whole`."""
        return Side(self.number, 1.0).whole


def _second_moments(sums: Sums, low: float, high: float) -> tuple[float, float]:
    """Means of w^2 (r - low)^2 and w^2 (high - r)^2."""
    ww, wwr, wwrr = (sums.mean(name) for name in ("ww", "wwr", "wwrr"))
    above, below = (max(wwrr - 2.0 * end * wwr + end**2 * ww, 0.0) for end in (low, high))
    return above, below


def _side(sums: Sums, combination: dict[str, float], second: float, largest: float) -> Side:
    by_bucket = np.zeros(len(sums.buckets))
    for name, factor in combination.items():
        by_bucket += factor * sums.buckets[:, sums.index(name)]
    total = float(by_bucket.sum())
    # Viewers share a bucket by chance; what is more than that is several rewards of one viewer.
    squares = max(float(by_bucket @ by_bucket) - total**2 / len(by_bucket), second * sums.size)
    if total <= 0.0 or squares <= 0.0:
        return Side(0.0, 1.0)
    count, typical = total**2 / squares, squares / total
    if not 0.0 < largest < inf:
        return Side(count, 1.0)
    return Side(count, min((count * typical + largest) / (count + 1.0) / largest, 1.0))


def degrees_of_freedom(sums: Sums, weights: Moments, missed: float, low: float, high: float) -> float:
    """What rare rewards and uneven weights leave to a standard error, as if rewards did not depend on weights.

    The variance of a variance, less what the skewness of the estimate explains: of x = a (r - mean), with weights a,
    2 M2^2 / (M4 - M2^2 / n - M3^2 / M2). With equal weights and rewards 0 or 1 there is no limit: given the mean,
    the variance is known.

    :param weights: of single slots
    :param missed: weight of one more event, half of them rewarded: so rewards are never impossible
    """
    w, wr = sums.mean("w"), sums.mean("wr")
    ww = sums.mean("ww")
    if w <= 0.0 or ww <= 0.0 or high <= low or weights.second <= 0.0:
        return inf
    above, below = _second_moments(sums, low, high)
    # Rewards as if each were 0 or one size: counted from the end where that describes them best.
    shares = [
        (total / w) ** 2 / (second / ww)
        for total, second in ((wr - low * w, above), (high * w - wr, below))
        if second / ww > 0.0
    ]
    share = max(shares, key=lambda p: p * (1.0 - p), default=0.0)
    seen = w * sums.size
    share = min((share * seen + missed / 2.0) / (seen + missed), 1.0)
    spread = share * (1.0 - share)
    second = weights.second * spread
    third = weights.third * spread * (1.0 - 2.0 * share)
    fourth = weights.fourth * spread * (1.0 - 3.0 * spread)
    rest = fourth - second**2 / sums.size - third**2 / second if second > 0.0 else 0.0
    return 2.0 * second**2 / rest if rest > 1e-12 * second**2 else inf
