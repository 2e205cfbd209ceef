"""Scales: where a value stands on an axis, as a fraction of its length, and which ticks to write beside it."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor, isfinite, log10
from typing import Final, NamedTuple

import numpy as np

from bandit import wording

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


class Tick(NamedTuple):
    """A place on an axis and what is written there."""

    at: float
    text: str


class Linear(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Between 0 and 1; what lies outside is put at the end."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def holds(self, value: float) -> bool:
        """It is on the axis, not beyond an end."""
        slack = 1e-9 * (self.high - self.low)
        return self.low - slack <= value <= self.high + slack

    def ticks(self, most: int = 5, *, sign: bool = False) -> list[Tick]:
        """Round numbers, at most so many."""
        span = self.high - self.low
        power = 10.0 ** floor(log10(span / most))
        step = next(power * each for each in _STEPS if span / (power * each) <= most)
        digits = max(0, -floor(log10(step) + 1e-9) + (1 if abs(step / power - 2.5) < 1e-9 else 0))
        write = wording.signed if sign else wording.number
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [Tick(self.at(i * step), write(i * step, digits)) for i in range(first, last + 1)]


class Log(NamedTuple):
    """From ``low`` to ``high``, both above 0, in decades."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Between 0 and 1; what lies outside is put at the end."""
        if value <= self.low:
            return 0.0
        return min(log10(value / self.low) / log10(self.high / self.low), 1.0)

    def ticks(self, most: int = 6) -> list[Tick]:
        """Powers of ten, at most so many."""
        first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
        step = max(1, ceil((last - first + 1) / most))
        return [Tick(self.at(10.0**i), wording.compact(10.0**i)) for i in range(first, last + 1) if i % step == 0]


def around(values: Iterable[float], spans: Iterable[tuple[float, float]], *, room: float = 0.06) -> Linear:
    """A scale that holds all values, and all spans but those that are much longer than most: they run off it.

    :param values: what must be seen
    :param spans: (low, high)
    """
    points = [value for value in values if isfinite(value)] or [0.0]
    ends = [(low, high) for low, high in spans if isfinite(low) and isfinite(high)]
    low, high = min(points), max(points)
    if ends:
        usual = 2.5 * float(np.median([top - bottom for bottom, top in ends]))
        low = min(low, max(min(bottom for bottom, _ in ends), low - usual))
        high = max(high, min(max(top for _, top in ends), high + usual))
    reach = max(abs(low), abs(high))
    if high - low <= 1e-12 * max(reach, 1e-300):
        # Halves of the least floats are 0: what is as small as they is drawn as 0 is.
        half = reach / 2 if reach > 1e-300 else 0.5
        room, low, high = 0.0, low - half, high + half
    pad = room * (high - low)
    return Linear(low - pad, high + pad)
