"""How often each item stood among the candidates: approximate counts that change seldom.

What is offered to every viewer says something of an item before anybody has seen it. Exact counts would change for a
thousand items with every ranking, and each change has to be published; a Morris counter of base 1 + 1/32 changes some
32 times as it doubles some 1.4 times, and is right to about an eighth. Its coin is a hash of the record's position and
the item, so the same log gives the same counts.

Source: Morris, "Counting large numbers of events in small registers", 1978.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from bandit.statistics.attributes import key_of

STEP: Final = 32.0

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


class Offered:
    """Counts by item key.

    :param ids_of: item ids by version number
    :param counts: as they were stored
    :param seen: keys of items that some viewer has seen
    """

    def __init__(
        self,
        ids_of: Callable[[Sequence[int]], Mapping[int, str]],
        counts: Mapping[int, float] | None = None,
        seen: Collection[int] = (),
    ) -> None:
        self._ids_of = ids_of
        counts = counts or {}
        self._place_of = {key: place for place, key in enumerate(counts)}
        self._keys = np.fromiter(counts, np.int64, len(counts))
        self._counts = np.fromiter(counts.values(), np.float64, len(counts))
        self._seen = np.fromiter((key in seen for key in counts), bool, len(counts))
        # By version: the place of its item, -1 if it was never met.
        self._place = np.full(1024, -1, np.int64)
        self._changed: set[int] = set()

    def __getitem__(self, key: int) -> float:
        place = self._place_of.get(key)
        return 0.0 if place is None else float(self._counts[place])

    def count(self, versions: npt.NDArray[np.uint32], position: int) -> None:
        """The candidates of a decision.

        :param versions: shape (n,), item versions
        :param position: of its record
        """
        if not len(versions):
            return
        places = self._places_of(versions)
        changed = _count(places, self._keys, self._counts, position)
        self._changed.update(changed.tolist())

    def mark_seen(self, key: int) -> None:
        """A viewer has seen this item."""
        place = self._place_of.get(key)
        if place is not None:
            self._seen[place] = True

    def never_seen(self, versions: npt.NDArray[np.uint32]) -> int:
        """How many of these candidates are items that no viewer has seen yet.

        :param versions: shape (n,), item versions
        """
        return len(versions) and int((~self._seen[self._places_of(versions)]).sum())

    def _places_of(self, versions: npt.NDArray[np.uint32]) -> I64:
        top = int(versions.max()) + 1
        if top > len(self._place):
            self._place = np.concatenate([self._place, np.full(max(top, 2 * len(self._place)) - len(self._place), -1)])
        places = self._place[versions]
        if (places < 0).any():
            self._meet(np.unique(versions[places < 0]).tolist())
            places = self._place[versions]
        return places

    def _meet(self, versions: Sequence[int]) -> None:
        new: list[int] = []
        for version, item_id in self._ids_of(versions).items():
            key = key_of("item", item_id)
            place = self._place_of.get(key)
            if place is None:
                place = self._place_of[key] = len(self._keys) + len(new)
                new.append(key)
            self._place[version] = place
        if new:
            self._keys = np.concatenate([self._keys, np.array(new, np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(len(new))])
            self._seen = np.concatenate([self._seen, np.zeros(len(new), bool)])

    def changed(self) -> set[int]:
        """Keys whose counts changed since `clean`."""
        return {int(self._keys[place]) for place in self._changed}

    @property
    def dirty(self) -> bool:
        """Whether there are any."""
        return bool(self._changed)

    def clean(self) -> None:
        """What changed has been stored."""
        self._changed.clear()


@njit(cache=True, nogil=True)
def _mix(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _count(places, keys, counts, position):  # type: ignore[no-untyped-def]
    changed = np.empty(len(places), np.int64)
    n_changed = 0
    salt = _mix(np.uint64(position) * np.uint64(0x9E3779B97F4A7C15))
    for i in range(len(places)):
        place = places[i]
        step = max(1.0, counts[place] / STEP)
        u = np.float64(_mix(np.uint64(keys[place]) ^ salt) >> np.uint64(11)) * 2.0**-53
        if u * step < 1.0:
            counts[place] += step
            changed[n_changed] = place
            n_changed += 1
    return changed[:n_changed]
