"""Sums by the values of a field, of which there are never many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from replay.events import I64
from replay.sums import Sums

MOST_VALUES: Final = 40
"""Values that are kept apart; the others are put together."""
REST: Final = "(all others)"


class Slices:
    """Sums by value; where there are too many values, those that come first in the alphabet are kept apart.

    So it depends on the values alone which are kept, not on their order: a value that is among the first of all is
    among the first of any part of them, and its sums are whole, however the log was cut.

    :param make: new empty sums
    """

    def __init__(self, make: Callable[[], Sums]) -> None:
        self._make = make
        self._apart: dict[str, Sums] = {}
        self._rest: Sums | None = None

    def parts(self, values: NDArray[Any], rows: I64 | None) -> Iterator[tuple[Sums, I64]]:
        """The sums that these events belong to, each with the places of its events, ascending.

        :param values: shape (n,)
        :param rows: only these events; all if None
        """
        different, group = np.unique((values if rows is None else values[rows]).astype(str), return_inverse=True)
        names = different.tolist()
        self._keep(sorted({*self._apart, *names})[:MOST_VALUES])
        others = np.ones(len(group), bool)
        for place, name in enumerate(names):
            if name not in self._apart:
                continue
            here = group == place
            others &= ~here
            found = np.flatnonzero(here)
            yield self._apart[name], found if rows is None else rows[found]
        if others.any():
            if self._rest is None:
                self._rest = self._make()
            found = np.flatnonzero(others)
            yield self._rest, found if rows is None else rows[found]

    def _keep(self, names: list[str]) -> None:
        """Keep these apart, and put what is none of them to the rest."""
        for name in sorted(self._apart.keys() - set(names)):
            sums = self._apart.pop(name)
            self._rest = sums if self._rest is None else self._rest.merge(sums)
        for name in names:
            if name not in self._apart:
                self._apart[name] = self._make()

    def merge(self, other: Slices) -> Slices:
        """Both together; neither is changed."""
        both = Slices(self._make)
        for name in sorted({*self._apart, *other._apart}):
            both._apart[name] = _together([each._apart.get(name) for each in (self, other)])
        if self._rest is not None or other._rest is not None:
            both._rest = _together([self._rest, other._rest])
        both._keep(sorted(both._apart)[:MOST_VALUES])
        return both

    @property
    def sums(self) -> dict[str, Sums]:
        """By value; ``REST`` for those that are not kept apart."""
        apart = dict(sorted(self._apart.items()))
        return apart if self._rest is None else {**apart, REST: self._rest}


def _together(parts: list[Sums | None]) -> Sums:
    there = [part for part in parts if part is not None]
    return there[0] if len(there) == 1 else there[0].merge(there[1])
