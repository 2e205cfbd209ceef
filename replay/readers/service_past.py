"""What the service knew of candidates and viewers when it drew a decision: statistics folded from the log again.

They are never read from the tables of a live service, which are newer than the decision. Decisions come in the order
in which their windows end, and several workers see an epoch at slightly different times; so what each epoch changed is
kept for a while, and read back and forth. Whatever is asked for that is older is folded again from the beginning.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandit.config import own_label, own_labels
from bandit.errors import CorruptModel
from bandit.learning.fold import Fold, Joined
from bandit.learning.lessons import READ_AT_ONCE
from bandit.records import Decision, StatisticsStamp
from bandit.reward.signals import Lengths
from bandit.statistics.attribute_table import AttributeTable
from bandit.statistics.attributes import attributes_of_item
from bandit.statistics.columns import NAMES, Places, dense_columns, digest_of, known_to_arm
from bandit.statistics.folding import TALLY_WIDTH, TOTAL, Statistics
from bandit.statistics.knowledge import EVERYTHING, NOTHING
from bandit.statistics.profiles import NO_TASTES, Tastes, Viewer
from bandit.store.configs import all_configs, read_config
from bandit.store.items import versions
from bandit.store.log import LogRow
from bandit.store.reading import ReadOnlyLog
from bandit.store.statistics import LoggedEpoch, logged_epochs, own_interests
from replay.beginning import Beginning, beginning
from replay.errors import BadLog
from replay.events import F64, I64
from replay.readers.service_fold import Payloads, folded
from replay.readers.service_items import I32, U32, ItemVersions, grown
from replay.spill import Spill

F32 = NDArray[np.float32]

#: Of what epochs changed so much is kept: values of tallies, and tastes of viewers.
KEPT_BYTES: Final = 128 << 20
_NO_END: Final = 1 << 62


class Past:
    """Dense columns of logged decisions, as they stood. Safe to share between threads.

    :param items: item versions of the log
    :param data: the data directory, which holds what its base begins with
    """

    def __init__(self, log: ReadOnlyLog, items: ItemVersions, data: Path) -> None:
        self._log = log
        self._items = items
        self._data = data
        self._lock = threading.Lock()
        self._counted: _Counted | None = None

    def columns(
        self,
        decisions: Sequence[Decision],
        candidates: Sequence[U32],
        positions: Sequence[int],
        *,
        arm: str | None = None,
    ) -> list[F32 | BadLog | None]:
        """Columns of all candidates of each decision, shape (n, k); None of one from before there were any.

        Where the log gives others than the decision saw, the reason not to use it.

        :param candidates: item versions of each, in the caller's order
        :param positions: of the decisions' records
        :param arm: as another arm would have known them, where arms learn apart; of that the decision has no digest
        """
        stamps = [one.statistics for one in decisions]
        order = sorted((max(one.epoch, one.viewer_pos), i) for i, one in enumerate(stamps) if one is not None)
        found: list[F32 | BadLog | None] = [None] * len(decisions)
        with self._lock:
            for _, i in order:
                try:
                    found[i] = self._columns(decisions[i], candidates[i], positions[i], arm)
                except BadLog as error:
                    found[i] = error
        return found

    def _columns(self, decision: Decision, candidates: U32, position: int, arm: str | None) -> F32:
        stamp = decision.statistics
        assert stamp is not None
        width = len(decision.slots[0].dense) if decision.slots else len(NAMES)
        if width > len(NAMES):
            raise BadLog(f"the decision at position {position} has {width} columns; this release knows {len(NAMES)}")
        counted = self._as_of(stamp, position)
        tastes = counted.tastes(decision.user, max(stamp.epoch, stamp.viewer_pos))
        if decision.user is not None and stamp.read_to > stamp.viewer_pos:
            said = own_interests(self._log, decision.user, after=stamp.viewer_pos, to=stamp.read_to)
            tastes = tastes if said is None else tastes.with_interests(said)
        dense = counted.columns(candidates, decision, tastes, decision.arm if arm is None else arm)
        if width < len(NAMES):
            dense = np.ascontiguousarray(dense[:, :width])
        if arm is None and digest_of(dense) != stamp.digest:
            raise BadLog(
                f"the log gives other statistics at position {position} than the decision there saw; "
                "`replay rebuild` tells more"
            )
        return dense

    def _as_of(self, stamp: StatisticsStamp, position: int) -> _Counted:
        if self._counted is None or stamp.epoch < self._counted.oldest:
            self.close()
            try:
                self._counted = _Counted(self._log, self._items, beginning(self._log, self._data))
            except CorruptModel as error:
                raise BadLog(f"what the log begins with cannot be read: {error.message}") from None
        if stamp.epoch < self._counted.oldest:
            raise BadLog(
                f"the decision at position {position} saw statistics of position {stamp.epoch}, and the log begins at "
                f"position {self._counted.oldest}: what it saw cannot be built again; evaluate what came after"
            )
        try:
            self._counted.advance(max(stamp.epoch, stamp.viewer_pos), keep=stamp.epoch)
        except BaseException:
            # Half a record may have been counted.
            self.close()
            raise
        if not self._counted.go_to(stamp.epoch):
            raise BadLog(
                f"the decision at position {position} saw statistics of position {stamp.epoch}, where the log has "
                "none; `replay rebuild` tells more"
            )
        return self._counted

    def close(self) -> None:
        """Give back what is kept; it is folded again when it is asked for again."""
        if self._counted is not None:
            self._counted.close()
            self._counted = None


class _Change:
    """What an epoch changed.

    :ivar rows: of the table of tallies
    :ivar others: shape (len(rows), TALLY_WIDTH): their values on the side of the epoch where the table does not stand
    :ivar viewers: who changed
    """

    __slots__ = ("others", "position", "rows", "size", "viewers")

    def __init__(self, position: int, rows: I64, others: F64, viewers: list[str], size: int) -> None:
        self.position = position
        self.rows = rows
        self.others = others
        self.viewers = viewers
        self.size = size


class _Counted:
    """Statistics folded from the base of a log up to an epoch, and any of the last epochs before it.

    :ivar oldest: position of the first epoch that it can go to
    """

    def __init__(self, log: ReadOnlyLog, items: ItemVersions, begin: Beginning) -> None:
        self._log = log
        self._kept = Spill()
        self._before: dict[str, Tastes] = {}
        self._statistics = Statistics(
            self._texts_of,
            lambda user: self._kept.get(user) or begin.statistics.body(user),
            begin.statistics.tallies,
            begin.statistics.own,
            keep=self._kept.put,
            on_change=self._remember,
        )
        self._items = items
        self._base = begin.base.position
        every = [(row.pos, read_config(row.payload)) for row in log.read_kinds(["config"])]
        self._configs = {live.version: live for at, live in every if at < begin.base.reads_from}
        self._statistics.apart(own_labels({live.version: live for at, live in every if at <= begin.base.position}))
        self._all_configs = {live.version: live for _, live in every}
        self._payloads = Payloads(log)
        self._closed: list[Joined] = []
        self._fold = Fold(
            self._configs,
            self._payloads.at,
            lengths_of=Lengths(lambda numbers: versions(log, numbers)),
            on_close=self._closed.append,
            observer=self._statistics,
        )
        self._epochs: Iterator[LoggedEpoch] = iter(())
        self._next: LoggedEpoch | None = None
        self._seen, self._read, self._newest = begin.base_pos, begin.base.reads_from - 1, begin.base.epoch
        # Tallies as of the epoch where the table stands: after so many of the changes that are kept.
        self._tallies = np.zeros((1024, TALLY_WIDTH))
        self._row_of: dict[int | tuple[str, int], int] = {TOTAL: EVERYTHING}
        # Of arms that learn apart: by row of a tally of all, the row of their own.
        self._own_at: defaultdict[str, I64] = defaultdict(lambda: np.zeros(1024, np.int64))
        self._changes: deque[_Change] = deque()
        self._stands = 0
        self._size = 0
        for key, tally in begin.statistics.tallies.items():
            row = self._row(key)
            self._tallies[row] = tally
        for label, key in [(label, key) for label, rows in self._statistics.own.items() for key in rows]:
            row = self._row_of_own(label, key)
            self._tallies[row] = self._statistics.own_tally(label, key)
        self.oldest = begin.base.epoch
        # Of viewers, where they changed and what they were before.
        self._viewers: defaultdict[str, deque[tuple[int, Tastes]]] = defaultdict(deque)
        self._known = _Known(self._row)

    def close(self) -> None:
        self._kept.close()

    def _texts_of(self, numbers: Sequence[int]) -> dict[int, tuple[str, bytes]]:
        return dict(zip(numbers, self._items.read(list(numbers)), strict=True))

    def _remember(self, user: str, viewer: Viewer) -> None:
        self._before[user] = Tastes.of(viewer)

    # ------------------------------------------------------------ folding

    def advance(self, position: int, *, keep: int) -> None:
        """Fold up to the last epoch that is not after a position, and forget none from another position on."""
        while position > self._newest:
            if self._next is None:
                # A live log has grown meanwhile.
                self._epochs = logged_epochs(self._log, after=self._seen, end=_NO_END)
                self._next = next(self._epochs, None)
            if self._next is None or self._next.position > position:
                return
            while self._read < self._next.position:
                most = min(READ_AT_ONCE, self._next.position - self._read)
                rows = self._log.read(self._read, most, candidates=True)
                for row in rows:
                    if row.pos <= self._next.position:
                        self._take(row)
                # Positions may have gaps: what is beyond the epoch is read again.
                self._read = min(rows[-1].pos, self._next.position) if rows else self._next.position
            self._end_epoch(self._next.position, keep)
            self._seen, self._newest = self._next.pos, self._next.position
            self._next = next(self._epochs, None)

    def _take(self, row: LogRow) -> None:
        if row.kind == "config":
            live = read_config(row.payload)
            self._configs[live.version] = live
        elif row.kind == "decision":
            self._payloads.keep(row.pos, row.payload)
        self._fold.observing = row.pos > self._base
        folded(self._fold, row)
        for joined in self._closed:
            self._payloads.drop(joined.pos)
        self._closed.clear()

    def _end_epoch(self, position: int, keep: int) -> None:
        self._move_to(len(self._changes))
        keys, own = self._statistics.changed_tallies(), self._statistics.changed_own()
        rows = np.array([*map(self._row, keys), *(self._row_of_own(*one) for one in own)], np.int64)
        others = self._tallies[rows]
        if len(rows):
            self._tallies[rows] = [
                *map(self._statistics.tally, keys), *(self._statistics.own_tally(*one) for one in own)
            ]  # fmt: skip
        size = rows.nbytes + others.nbytes + 200
        for user, tastes in self._before.items():
            self._viewers[user].append((position, tastes))
            size += tastes.keys.nbytes + tastes.values.nbytes + tastes.interests.nbytes + 500
        self._changes.append(_Change(position, rows, others, list(self._before), size))
        self._stands += 1
        self._size += size
        self._before.clear()
        self._statistics.clean()
        while self._size > KEPT_BYTES and self._changes and self._changes[0].position <= keep:
            self._forget()

    def _forget(self) -> None:
        gone = self._changes.popleft()
        self._stands -= 1
        self._size -= gone.size
        self.oldest = gone.position
        for user in gone.viewers:
            kept = self._viewers[user]
            kept.popleft()
            if not kept:
                del self._viewers[user]

    def _row_of_own(self, label: str, key: int) -> int:
        """Where an arm's own tally stands; OFFERED is 0 there as long as it has none."""
        new = (label, key) not in self._row_of
        row = self._row((label, key))
        if new:
            at = self._row(key)
            if at >= len(self._own_at[label]):
                self._own_at[label] = np.concatenate([self._own_at[label], np.zeros(at, np.int64)])
            self._own_at[label][at] = row
        return row

    def _row(self, key: int | tuple[str, int]) -> int:
        row = self._row_of.get(key)
        if row is None:
            # Row 1 is nothing's.
            row = self._row_of[key] = len(self._row_of) + 1
            if row >= len(self._tallies):
                self._tallies = np.concatenate([self._tallies, np.zeros_like(self._tallies)])
        return row

    # ------------------------------------------------------------ back and forth

    def go_to(self, position: int) -> bool:
        """Let the table stand at the epoch of this position; False if there is none that is kept."""
        place = bisect_right(self._changes, position, key=lambda change: change.position)
        if (self._changes[place - 1].position if place else self.oldest) != position:
            return False
        self._move_to(place)
        return True

    def _move_to(self, place: int) -> None:
        while self._stands != place:
            back = self._stands > place
            change = self._changes[self._stands - 1 if back else self._stands]
            here = self._tallies[change.rows]
            self._tallies[change.rows] = change.others
            change.others = here
            self._stands += -1 if back else 1

    def tastes(self, user: str | None, position: int) -> Tastes:
        """Of a viewer as of an epoch's position that is not before the oldest."""
        if user is None:
            return NO_TASTES
        for changed_at, before in self._viewers.get(user, ()):
            if changed_at > position:
                return before
        return Tastes.of(self._statistics.viewer(user))

    def columns(self, candidates: U32, decision: Decision, tastes: Tastes, arm: str | None) -> F32:
        """Of a decision's candidates, as of where the table stands, as an arm knows them."""
        assert decision.statistics is not None
        rows = self._known.rows(candidates, self._items)
        places, tallies = self._known.places(rows), self._tallies
        if arm is not None and decision.config not in self._all_configs:
            # A live log has grown meanwhile.
            self._all_configs = all_configs(self._log)
        label = None if arm is None else own_label(self._all_configs, decision.config, arm)
        if label is not None:
            places, tallies = known_to_arm(places, tallies, tallies, self._own_at[label])
        return dense_columns(self._known.attributes.gather(rows), places, tallies, tastes, decision.statistics.at)


class _Known:
    """Attributes of the item versions that were candidates, and where their tallies stand."""

    def __init__(self, row_of_key: Callable[[int], int]) -> None:
        self._row_of_key = row_of_key
        self.attributes = AttributeTable(1 << 31)
        self._row_of = np.full(0, -1, np.int32)
        self._n = self._n_tags = 0
        self._item_at, self._creator_at, self._tag_at = (np.zeros(1024, np.int64) for _ in range(3))

    def rows(self, numbers: U32, items: ItemVersions) -> I32:
        """Rows of these versions, each read when it is first met."""
        self._row_of = grown(self._row_of, numbers, -1)
        rows = self._row_of[numbers]
        if (rows < 0).any():
            self._meet(np.unique(numbers[rows < 0]), items)
            rows = self._row_of[numbers]
        return rows

    def _meet(self, numbers: U32, items: ItemVersions) -> None:
        found = [attributes_of_item(item_id, text) for item_id, text in items.read(numbers.tolist())]
        rows = np.arange(self._n, self._n + len(found), dtype=np.int32)
        row_of = self._row_of_key
        self._item_at = _with(self._item_at, self._n, [row_of(one.item) for one in found])
        self._creator_at = _with(
            self._creator_at, self._n, [row_of(one.creator) if one.creator else NOTHING for one in found]
        )
        tags = [row_of(tag) for one in found for tag in one.tags]
        self._tag_at = _with(self._tag_at, self._n_tags, tags)
        self.attributes.put(rows, found)
        self._row_of[numbers] = rows
        self._n += len(found)
        self._n_tags += len(tags)

    def places(self, rows: I32) -> Places:
        return Places(self._item_at[rows], self._creator_at[rows], self.attributes.gather_tags(rows, self._tag_at))


def _with(array: I64, begin: int, values: Sequence[int]) -> I64:
    """The array with these values from a place on; longer if need be."""
    end = begin + len(values)
    if end > len(array):
        array = np.concatenate([array, np.zeros(max(end, 2 * len(array)) - len(array), np.int64)])
    array[begin:end] = values
    return array
