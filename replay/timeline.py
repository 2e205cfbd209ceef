"""Sums over stretches of time, whose length grows with the log, so that there are never many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np

from replay.events import F64, I64
from replay.sums import Sums

LENGTHS: Final = (60, 300, 900, 3_600, 10_800, 43_200, 86_400, 604_800, 2_419_200, 29_030_400)
"""Seconds; each is a multiple of the one before, so stretches join into longer ones."""
MOST: Final = 60
"""Stretches; with more of them, the next length is taken."""


class Stretch(NamedTuple):
    """Events from ``start`` on, for ``length`` seconds."""

    start: float
    length: float
    sums: Sums


class Timeline:
    """Sums by stretch of time; the same whatever order the events came in, and however the log was cut.

    :param make: new empty sums
    """

    def __init__(self, make: Callable[[], Sums]) -> None:
        self._make = make
        self._level = 0
        self._stretches: dict[int, Sums] = {}

    def parts(self, time: F64) -> Iterator[tuple[Sums, I64]]:
        """The sums that these events belong to, each with the places of its events, ascending.

        :param time: shape (n,), seconds since 1970; events without a time (NaN) belong nowhere
        """
        known = np.flatnonzero(np.isfinite(time))
        if len(known) == 0:
            return
        stretch = self._numbers(time[known])
        while len(self._stretches.keys() | set(np.unique(stretch).tolist())) > MOST and self._lengthen():
            stretch = self._numbers(time[known])
        values, group = np.unique(stretch, return_inverse=True)
        for place, value in enumerate(values.tolist()):
            if value not in self._stretches:
                self._stretches[value] = self._make()
            yield self._stretches[value], known[group == place]

    def _numbers(self, time: F64) -> I64:
        return np.floor(time / LENGTHS[self._level]).astype(np.int64)

    def _lengthen(self) -> bool:
        if self._level + 1 == len(LENGTHS):
            return False
        ratio = LENGTHS[self._level + 1] // LENGTHS[self._level]
        self._level += 1
        joined: dict[int, Sums] = {}
        for number, sums in sorted(self._stretches.items()):
            coarse = number // ratio
            joined[coarse] = joined[coarse].merge(sums) if coarse in joined else sums
        self._stretches = joined
        return True

    def merge(self, other: Timeline) -> Timeline:
        """Both together; neither is changed."""
        both = Timeline(self._make)
        both._level = self._level
        both._stretches = dict(self._stretches)
        theirs = Timeline(self._make)
        theirs._level, theirs._stretches = other._level, dict(other._stretches)
        while both._level < theirs._level:
            both._lengthen()
        while theirs._level < both._level:
            theirs._lengthen()
        for number, sums in sorted(theirs._stretches.items()):
            mine = both._stretches.get(number)
            both._stretches[number] = sums if mine is None else mine.merge(sums)
        while len(both._stretches) > MOST and both._lengthen():
            pass
        return both

    def stretches(self) -> list[Stretch]:
        """In the order of time."""
        length = LENGTHS[self._level]
        return [Stretch(number * length, length, sums) for number, sums in sorted(self._stretches.items())]
