"""Candidates as rows of hashed features, kept and used again, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET
from numba import njit
from numpy.typing import NDArray

from bandit.errors import InvalidFeatures, InvalidRequest, LogUnavailable
from bandit.features.hashing import resolve_item
from bandit.features.item_table import ItemTable, TableFull, TableView, parse_features
from bandit.records import Candidate, check_ids
from bandit.statistics.attributes import attributes_of_item
from bandit.statistics.knowledge import Knowledge, Known, ReadTallies

NO_FEATURES = b"{}"

#: What the catalogue says of an id.
CATALOGUED, UNKNOWN, WITHDRAWN = 0, 1, 2


class Catalogued(NamedTuple):
    """What the catalogue holds of an id."""

    version: int
    features: bytes
    withdrawn: bool


class Resolved(NamedTuple):
    """The candidates of one request as rows of one generation of the table.

    :ivar ids: shape (n,), as sent
    :ivar rows: shape (n,), rows of ``view``
    :ivar standing: shape (n,), CATALOGUED, UNKNOWN or WITHDRAWN
    :ivar versions: shape (n,), item version numbers; 0 where the log has not given one yet
    :ivar known: their attributes, and tallies of one epoch
    """

    ids: Sequence[str]
    rows: NDArray[np.int32]
    view: TableView
    standing: NDArray[np.uint8]
    versions: NDArray[np.uint32]
    known: Known
    generation: _Generation


class _Generation:
    """A table and what is known of its rows. When it is full the next request begins a new one."""

    def __init__(self, capacity: int, read_tallies: ReadTallies, traits: bool) -> None:
        self.table = ItemTable(capacity, traits=traits)
        self.knowledge = Knowledge(capacity, read_tallies)
        self.row_of: dict[str | tuple[str, bytes], int] = {}
        self.inline_of: dict[str, list[tuple[str, bytes]]] = {}
        self.standing = np.zeros(capacity, np.uint8)
        self.versions = np.zeros(capacity, np.uint32)
        # What a row stands for, until the log has given it a version number.
        self.texts: dict[int, tuple[str, bytes]] = {}


class CandidateCache:
    """Rows of candidates by id, or by id and inline features.

    :param look_up: what the catalogue holds now of some ids
    :param version_text: features text of an item version
    :param read_tallies: tallies as of the newest epoch
    :param capacity: rows, at most; the rows of requests that are running come on top
    :param traits: of the model's arguments; see `bandit.features.hashing.resolve_item`
    """

    def __init__(
        self,
        look_up: Callable[[Sequence[str]], dict[str, Catalogued]],
        version_text: Callable[[int], bytes],
        read_tallies: ReadTallies,
        capacity: int,
        *,
        traits: bool = False,
    ) -> None:
        self._look_up = look_up
        self._version_text = version_text
        self._read_tallies = read_tallies
        self._capacity = capacity
        self._traits = traits
        self._generation = _Generation(capacity, read_tallies, traits)
        # Adding and forgetting: what was read of the catalogue before a change must not be kept after it.
        self.lock = threading.Lock()

    @property
    def size(self) -> int:
        """Rows in use."""
        return len(self._generation.table)

    def refresh(self) -> None:
        """See the newest epoch of statistics."""
        self._generation.knowledge.refresh()

    def forget(self, ids: Iterable[str]) -> None:
        """The catalogue changed for these; the caller holds ``lock``."""
        generation = self._generation
        for item_id in ids:
            generation.row_of.pop(item_id, None)
            for key in generation.inline_of.pop(item_id, ()):
                generation.row_of.pop(key, None)

    def resolve(self, candidates: Sequence[str | Candidate]) -> Resolved:
        """Rows for all candidates, hashing those that were never seen.

        :raises InvalidFeatures: names the candidate and the feature
        :raises InvalidRequest: an id stands twice
        """
        generation = self._generation
        ids: Sequence[str]
        try:
            # Bare ids that are all known, as most requests are: one pass in C.
            rows = np.fromiter(map(generation.row_of.__getitem__, candidates), np.int32, len(candidates))  # type: ignore[arg-type]
            ids = candidates  # type: ignore[assignment]
        except (KeyError, TypeError):
            ids = [one if isinstance(one, str) else one.id for one in candidates]
            keys = [
                one
                if isinstance(one, str)
                else one.id if one.features is UNSET else (one.id, bytes(one.features))
                for one in candidates
            ]  # fmt: skip
            if len(set(ids)) != len(ids):
                raise _twice(ids) from None
            found = list(map(generation.row_of.get, keys))
            if None in found:
                generation, found = self._add(ids, keys)
            rows = np.array(found, np.int32)
        standing, versions, repeated = _gather(rows, generation.standing, generation.versions)
        if repeated:
            raise _twice(ids)
        return Resolved(
            ids, rows, generation.table.view(), standing, versions, generation.knowledge.of(rows), generation
        )

    def text_of(self, resolved: Resolved, place: int) -> bytes:
        """Features text of one candidate; slow, for explanations."""
        text = resolved.generation.texts.get(int(resolved.rows[place]))
        if text is not None:
            return text[1]
        return self._version_text(int(resolved.versions[place]))

    def _add(self, ids: Sequence[str], keys: Sequence[str | tuple[str, bytes]]) -> tuple[_Generation, list[int | None]]:
        with self.lock:
            try:
                return self._add_to(self._generation, ids, keys)
            except TableFull:
                # Begin again: what is asked for is hashed anew, what is not is forgotten.
                self._generation = _Generation(max(self._capacity, len(keys)), self._read_tallies, self._traits)
                return self._add_to(self._generation, ids, keys)

    def _add_to(
        self, generation: _Generation, ids: Sequence[str], keys: Sequence[str | tuple[str, bytes]]
    ) -> tuple[_Generation, list[int | None]]:
        found = list(map(generation.row_of.get, keys))
        missing = [place for place, row in enumerate(found) if row is None]
        new_ids = [ids[place] for place in missing]
        check_ids(new_ids, where="candidates")
        known = self._look_up(new_ids)
        texts, standing, versions = [], [], []
        for place in missing:
            key, item = keys[place], known.get(ids[place])
            withdrawn = item is not None and item.withdrawn
            if isinstance(key, tuple):
                texts.append(key[1])
                standing.append(WITHDRAWN if withdrawn else CATALOGUED)
                versions.append(0)
            else:
                texts.append(NO_FEATURES if item is None else item.features)
                standing.append(UNKNOWN if item is None else WITHDRAWN if withdrawn else CATALOGUED)
                versions.append(0 if item is None else item.version)
        try:
            rows = generation.table.add(new_ids, texts, places=missing)
        except InvalidFeatures:
            catalogued = {ids[place]: known.get(ids[place]) for place in missing if isinstance(keys[place], str)}
            _check_catalogue(catalogued, self._traits)
            raise
        generation.knowledge.add(
            rows, [attributes_of_item(item_id, text) for item_id, text in zip(new_ids, texts, strict=True)]
        )
        generation.standing[rows] = standing
        generation.versions[rows] = versions
        for place, row, text, version in zip(missing, rows.tolist(), texts, versions, strict=True):
            key = keys[place]
            found[place] = generation.row_of[key] = row
            if isinstance(key, tuple):
                generation.inline_of.setdefault(key[0], []).append(key)
            if not version:
                generation.texts[row] = (ids[place], text)
        return generation, found


def unnumbered(resolved: Resolved) -> list[tuple[int, tuple[str, bytes]]]:
    """(place among the candidates, (id, features text)) of those that the log has no version number for."""
    if resolved.versions.all():
        return []
    texts = resolved.generation.texts
    found = []
    for place in np.flatnonzero(resolved.versions == 0).tolist():
        row = int(resolved.rows[place])
        text = texts.get(row)
        if text is None:
            # Another thread's decision had it numbered meanwhile.
            resolved.versions[place] = resolved.generation.versions[row]
        else:
            found.append((place, text))
    return found


def number(resolved: Resolved, places: Sequence[int], versions: Sequence[int]) -> None:
    """The log gave these candidates version numbers, durably."""
    generation = resolved.generation
    for place, version in zip(places, versions, strict=True):
        row = int(resolved.rows[place])
        generation.versions[row] = version
        generation.texts.pop(row, None)


@njit(cache=True, nogil=True)
def _gather(rows, standing, versions):  # type: ignore[no-untyped-def]
    """Standing and version of each row, and whether a row stands twice; 3 microseconds a thousand."""
    n = len(rows)
    size = 16
    while size < 2 * n:
        size *= 2
    seen = np.full(size, -1, np.int32)
    repeated = False
    found_standing = np.empty(n, np.uint8)
    found_versions = np.empty(n, np.uint32)
    for i in range(n):
        row = rows[i]
        found_standing[i] = standing[row]
        found_versions[i] = versions[row]
        at = (row * 40503) & (size - 1)
        while seen[at] >= 0:
            repeated = repeated or seen[at] == row
            at = (at + 1) & (size - 1)
        seen[at] = row
    return found_standing, found_versions, repeated


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache."""
    _gather(np.zeros(1, np.int32), np.zeros(1, np.uint8), np.zeros(1, np.uint32))


def _check_catalogue(known: Mapping[str, Catalogued | None], traits: bool) -> None:
    """:raises LogUnavailable: features that were checked when they were put are not what they were"""
    for item_id, item in known.items():
        if item is not None:
            try:
                resolve_item(item_id, parse_features(item.features), traits=traits)
            except InvalidFeatures as error:
                raise LogUnavailable(
                    f"the features of {item_id!r} in the catalogue are damaged ({error.message}); mend the log, or "
                    "restore a copy of it"
                ) from None


def _twice(ids: Sequence[str]) -> InvalidRequest:
    seen: set[str] = set()
    for place, item_id in enumerate(ids):
        if item_id in seen:
            return InvalidRequest(
                f"candidates[{place}] repeats the id {item_id!r}; each candidate may stand once", id=item_id
            )
        seen.add(item_id)
    raise AssertionError("no id stands twice")
