"""Item versions of a service's log, as replay needs them: keys, texts, and rows of hashed features."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bandit import records
from bandit.errors import InvalidRequest
from bandit.features.hashing import resolve_item
from bandit.features.item_table import ItemTable, TableFull, TableView
from bandit.statistics.attribute_table import AttributeTable
from bandit.statistics.attributes import Attributes, attributes_of_item
from bandit.store.items import versions
from bandit.store.log import EventLog
from replay.errors import BadLog
from replay.events import U64, item_key

U32 = NDArray[np.uint32]
I32 = NDArray[np.int32]

T = TypeVar("T", bound=np.generic)

MAX_ROWS = 200_000
MAX_TEXTS = 100_000
# Of one query: a list of version numbers travels as JSON.
READ_AT_ONCE = 5_000


class ItemVersions:
    """What the log says of item versions, read when first asked for and kept.

    Hashed rows and texts are bounded; besides them up to 13 bytes are kept for each version of the log. Safe to share
    between threads: batches may be read ahead while policies score.

    :param traits: of the arguments of the log's models
    """

    def __init__(self, log: EventLog, *, traits: bool) -> None:
        self._log = log
        self._traits = traits
        self._lock = threading.Lock()
        self._table = ItemTable(MAX_ROWS, traits=traits)
        self._row_of = np.full(0, -1, np.int32)
        self._key_of = np.zeros(0, np.uint64)
        self._has_key = np.zeros(0, np.bool_)
        self._texts: dict[int, bytes] = {}
        self._attributes = AttributeTable(MAX_ROWS)
        self._attributes_at = np.full(0, -1, np.int32)
        self._n_attributes = 0

    def rows(self, numbers: U32) -> tuple[TableView, I32]:
        """The versions as rows of hashed features, as serving scores them.

        :param numbers: shape (n,), each at most once
        :returns: the table's view, and shape (n,): rows of it
        :raises BadLog: the log does not hold one of them
        """
        with self._lock:
            self._row_of = grown(self._row_of, numbers, -1)
            rows = self._row_of[numbers]
            missing = numbers[rows < 0]
            if len(missing):
                try:
                    self._hash(missing)
                except TableFull:
                    self._table = ItemTable(max(MAX_ROWS, len(numbers)), traits=self._traits)
                    self._row_of.fill(-1)
                    self._hash(numbers)
                rows = self._row_of[numbers]
            return self._table.view(), rows

    def _hash(self, numbers: U32) -> None:
        found = self.read(numbers.tolist())
        try:
            rows = self._table.add([one[0] for one in found], [one[1] for one in found])
        except InvalidRequest as error:
            raise _damaged(error) from None
        self._row_of[numbers] = rows

    def attributes(self, numbers: U32) -> Attributes:
        """What feed rules know of each version's item; shape (n,) each.

        :raises BadLog: the log does not hold one of them
        """
        with self._lock:
            self._attributes_at = grown(self._attributes_at, numbers, -1)
            missing = np.unique(numbers[self._attributes_at[numbers] < 0])
            if self._n_attributes + len(missing) > MAX_ROWS:
                missing = np.unique(numbers)
                self._attributes, self._n_attributes = AttributeTable(max(MAX_ROWS, len(missing))), 0
                self._attributes_at.fill(-1)
            for start in range(0, len(missing), READ_AT_ONCE):
                part = missing[start : start + READ_AT_ONCE]
                rows = np.arange(self._n_attributes, self._n_attributes + len(part), dtype=np.int32)
                self._attributes.put(rows, [attributes_of_item(*one) for one in self.read(part.tolist())])
                self._attributes_at[part] = rows
                self._n_attributes += len(part)
            return self._attributes.gather(self._attributes_at[numbers])

    def keys(self, numbers: U32) -> U64:
        """Shape (n,): :func:`replay.events.item_key` of each version's item.

        :raises BadLog: the log does not hold one of them
        """
        with self._lock:
            self._key_of = grown(self._key_of, numbers, 0)
            self._has_key = grown(self._has_key, numbers, 0)
            known = self._has_key[numbers]
            if not known.all():
                missing = np.unique(numbers[~known])
                for start in range(0, len(missing), READ_AT_ONCE):
                    part = missing[start : start + READ_AT_ONCE]
                    self._key_of[part] = [item_key(item_id) for item_id, _ in self.read(part.tolist())]
                    self._has_key[part] = True
            return self._key_of[numbers]

    def texts(self, numbers: Sequence[int]) -> list[bytes]:
        """Resolved features of each, as VW JSON: what was learned from and scored.

        :raises BadLog: the log does not hold one of them
        """
        with self._lock:
            missing = sorted({number for number in numbers if number not in self._texts})
            if len(self._texts) + len(missing) > MAX_TEXTS:
                self._texts = {number: self._texts[number] for number in set(numbers) if number in self._texts}
            for start in range(0, len(missing), READ_AT_ONCE):
                part = missing[start : start + READ_AT_ONCE]
                for number, (item_id, text) in zip(part, self.read(part), strict=True):
                    try:
                        features = records.decode(text, records.Features, what=f"item version {number}")
                        self._texts[number] = resolve_item(item_id, features, traits=self._traits)
                    except InvalidRequest as error:
                        raise _damaged(error) from None
            return [self._texts[number] for number in numbers]

    def read(self, numbers: list[int]) -> list[tuple[str, bytes]]:
        """(id, features text) of each, as the log has them; not kept.

        :raises BadLog: the log does not hold one of them
        """
        found = versions(self._log, numbers)
        missing = [number for number in numbers if number not in found]
        if missing:
            raise BadLog(
                f"the log is damaged: {len(missing)} item versions that decisions name are not in it "
                f"(the first is {missing[0]}); mend it, or restore a copy"
            )
        return [found[number] for number in numbers]


def _damaged(error: InvalidRequest) -> BadLog:
    return BadLog(f"the log is damaged: features that were checked when they were put are not ({error.message})")


def grown(array: NDArray[T], numbers: U32, fill: int) -> NDArray[T]:
    """The array with room for these numbers; never smaller."""
    most = int(numbers.max(initial=0))
    if most < len(array):
        return array
    bigger = np.full(max(1024, most + 1, 2 * len(array)), fill, array.dtype)
    bigger[: len(array)] = array
    return bigger
