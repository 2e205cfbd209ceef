"""By how much a variance is larger because viewers have several events that resemble each other."""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np

from replay.events import F64
from replay.sums import Sums

_CHANCE: Final = 4.0


def design_effect(sums: Sums, combination: dict[str, float], squares: float) -> float:
    """Variance of a sum between buckets of viewers over that between events; 1 if it may be chance.

    Viewers who share a bucket move the ratio by chance, by about sqrt(2 / buckets); up to four times that is taken
    for chance. So where every event is its own viewer this is exactly 1.

    :param combination: factor of each term in what is summed
    :param squares: sum over events of the square of what is summed
    """
    used: F64 = sums.buckets[sums.buckets[:, 0] > 0]
    buckets = len(used)
    by_bucket: F64 = sum(
        (factor * used[:, sums.index(name)] for name, factor in combination.items()), np.zeros(buckets)
    )
    mean = float(by_bucket.sum()) / sums.size
    between_events = squares - sums.size * mean**2
    if buckets < 2 or between_events <= 1e-12 * squares:
        return 1.0
    off = by_bucket - mean * used[:, 0]
    ratio = float(off @ off) / between_events * buckets / (buckets - 1)
    return ratio if ratio > 1.0 + _CHANCE * sqrt(2.0 / len(sums.buckets)) else 1.0
