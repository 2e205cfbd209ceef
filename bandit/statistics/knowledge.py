"""What a worker knows of the candidates it has met: their attributes, and the tallies of one epoch.

Rows are those of an item table. Tallies are read when an item is first met, and again when an epoch says that they
changed; all that a request sees is of one epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Container, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bandit.statistics.attribute_table import AttributeTable
from bandit.statistics.attributes import Attributes, ItemAttributes
from bandit.statistics.columns import Places, known_to_arm
from bandit.statistics.folding import TALLY_WIDTH, TOTAL

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

#: Rows of the table of tallies.
EVERYTHING, NOTHING = 0, 1


class ReadTallies(Protocol):
    """Tallies as of the newest epoch."""

    def __call__(self, after: int, keys: Sequence[int], known: Container[str]) -> Read:
        """Those that changed after an earlier epoch, and those of some keys.

        :param known: arms whose own tallies are known as of the earlier epoch; of others all are given
        """


class Read(NamedTuple):
    """Position and log time of an epoch, and tallies as of it.

    :ivar labels: arms that learn apart
    :ivar own: their own tallies, by label and key
    """

    position: int
    at: float
    tallies: Mapping[int, Sequence[float]]
    labels: Collection[str]
    own: Mapping[tuple[str, int], Sequence[float]]


class EpochView(NamedTuple):
    """Tallies of one epoch; never changes.

    :ivar position: of the log, that they hold
    :ivar at: its log time
    :ivar tallies: shape (m, TALLY_WIDTH)
    :ivar own: shape (k, TALLY_WIDTH), those of arms that learn apart; row 0 is nothing's
    :ivar own_at: by label, see `known_to_arm`
    """

    position: int
    at: float
    tallies: F64
    own: F64
    own_at: Mapping[str, I64]


class Known(NamedTuple):
    """What is known of n candidates."""

    attributes: Attributes
    places: Places
    epoch: EpochView

    def to(self, label: str | None) -> tuple[Places, F64]:
        """Where the candidates' tallies stand in which table, as an arm knows them; None: as all do."""
        own_at = None if label is None else self.epoch.own_at.get(label)
        if own_at is None:
            return self.places, self.epoch.tallies
        return known_to_arm(self.places, self.epoch.tallies, self.epoch.own, own_at)


class Knowledge:
    """Of the rows of one item table. One writer at a time (`add`, `refresh`); readers at any time.

    :param capacity: rows, at most
    """

    def __init__(self, capacity: int, read: ReadTallies) -> None:
        self._read = read
        self._attributes = AttributeTable(capacity)
        self._writing = threading.Lock()
        self._place_of: dict[int, int] = {TOTAL: EVERYTHING}
        self._item_at = np.zeros(1024, np.int64)
        self._creator_at = np.zeros(1024, np.int64)
        self._tag_at = np.zeros(1024, np.int64)
        self._n_tags = 0
        self._own_row: dict[tuple[str, int], int] = {}
        self._epoch = EpochView(0, 0.0, np.zeros((2, TALLY_WIDTH)), np.zeros((1, TALLY_WIDTH)), {})
        self.refresh()

    def add(self, rows: I32, items: Sequence[ItemAttributes]) -> None:
        """New rows, each in the order in which the table has them.

        :raises LogUnavailable: nothing is known of them
        """
        if not len(rows):
            return
        with self._writing:
            wanted = {key for item in items for key in (item.item, item.creator, *item.tags) if key}
            new = [key for key in wanted if key not in self._place_of]
            self._update(new)
            place_of = self._place_of
            last = int(rows.max()) + 1
            self._item_at, self._creator_at = (_longer(a, last) for a in (self._item_at, self._creator_at))
            self._item_at[rows] = [place_of[item.item] for item in items]
            self._creator_at[rows] = [place_of[item.creator] if item.creator else NOTHING for item in items]
            tags = [place_of[tag] for item in items for tag in item.tags]
            self._tag_at = _longer(self._tag_at, self._n_tags + len(tags))
            self._tag_at[self._n_tags : self._n_tags + len(tags)] = tags
            self._n_tags += len(tags)
            self._attributes.put(rows, items)

    def refresh(self) -> None:
        """See the newest epoch.

        :raises LogUnavailable: the one before is still seen
        """
        with self._writing:
            self._update([])

    def _update(self, new: Sequence[int]) -> None:
        before = self._epoch
        read = self._read(before.position, new, before.own_at)
        if read.position == before.position and not new and set(read.labels) == set(before.own_at):
            return
        for key in new:
            self._place_of[key] = len(self._place_of) + 1
        size = len(self._place_of) + 1
        place_of = self._place_of
        changed = [(place, tally) for key, tally in read.tallies.items() if (place := place_of.get(key)) is not None]
        tallies = before.tallies
        if size > len(tallies):
            tallies = np.zeros((2 * size, TALLY_WIDTH))
            tallies[: len(before.tallies)] = before.tallies
        elif read.position != before.position:
            # Readers hold the old one. Rows of new keys alone nobody reads yet.
            tallies = tallies.copy()
        if changed:
            tallies[[place for place, _ in changed]] = [tally for _, tally in changed]
        own, own_at = self._own(before, read)
        self._epoch = EpochView(read.position, read.at, tallies, own, own_at)

    def _own(self, before: EpochView, read: Read) -> tuple[F64, Mapping[str, I64]]:
        """Tallies that arms have for themselves, and where they stand."""
        if not read.labels:
            self._own_row.clear()
            return np.zeros((1, TALLY_WIDTH)), {}
        own_at = {label: before.own_at.get(label, np.zeros(1, np.int64)) for label in read.labels}
        found = [(one, tally) for one, tally in read.own.items() if one[1] in self._place_of and one[0] in own_at]
        if not found:
            return before.own, own_at
        for label in {one[0] for one, _ in found}:
            own_at[label] = _longer(own_at[label], len(self._place_of) + 2)
        for one, _ in found:
            if one not in self._own_row:
                row = self._own_row[one] = len(self._own_row) + 1
                # A reader of an older epoch finds nothing there.
                own_at[one[0]][self._place_of[one[1]]] = row
        own = np.zeros((max(len(before.own), len(self._own_row) + 1), TALLY_WIDTH))
        own[: len(before.own)] = before.own
        own[[self._own_row[one] for one, _ in found]] = [tally for _, tally in found]
        return own, own_at

    def of(self, rows: I32) -> Known:
        """What is known of these rows, as of one epoch."""
        attributes = self._attributes.gather(rows)
        places = Places(self._item_at[rows], self._creator_at[rows], self._attributes.gather_tags(rows, self._tag_at))
        # Last: whatever the places point to is in it.
        return Known(attributes, places, self._epoch)


def _longer(array: I64, size: int) -> I64:
    if size <= len(array):
        return array
    longer = np.zeros(max(size, 2 * len(array)), np.int64)
    longer[: len(array)] = array
    return longer
