"""Statistics of items and viewers, folded from the log: the fold tells what was served, seen and said.

Where the arms of an experiment learn apart each has tallies of its own beside those of all feeds: what an arm knows of
an item is what was known when the arm began, and what its own feeds have shown since. So one arm does not live off
another one's finds. They end with the arm; those of all feeds go on. Viewers are in one arm each.

What they become as features stands in `bandit.statistics.columns`. Nothing here asks a clock: an item forgets with its
own showings, a viewer with their own swipes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import starmap
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.records import Decision, ItemFeedback, Slot, UserRecord
from bandit.reward.signals import Counted
from bandit.statistics.attributes import ItemAttributes, attributes_of_item, key_of, names_of_item
from bandit.statistics.offered import Offered
from bandit.statistics.profiles import Viewer

#: Columns of a tally. Those of DECAYED are; OFFERED is approximate, see `bandit.statistics.offered`. TIMED are slots of
#: which it is known whether the viewer stayed.
SHOWN, SEEN, REWARD, WATCHED, COMPLETION, NEGATIVE, FIRST_AT, TIMED, STAYED, OFFERED = range(10)
TALLY_WIDTH: Final = 10
DECAYED: Final = (SEEN, REWARD, WATCHED, COMPLETION, NEGATIVE, TIMED, STAYED)
#: The tally of everything.
TOTAL: Final = 0
#: A tally halves after so many seen slots of its own.
HALF_LIFE: Final = 2_000.0
TOTAL_HALF_LIFE: Final = 20_000.0
MAX_KEPT_VERSIONS: Final = 100_000
#: Viewers that are kept in memory between epochs.
MAX_KEPT_VIEWERS: Final = 20_000

Tally = list[float]
_NOTHING: Final = (0.0,) * TALLY_WIDTH
#: A key and its tally: little-endian int64 and float64.
PACKED_TALLY: Final = struct.Struct(f"<q{TALLY_WIDTH}d")
_PACKED_UNTIMED: Final = struct.Struct(f"<q{TALLY_WIDTH - 2}d").pack


class ChangedStatistics(NamedTuple):
    """What changed in statistics since they were last stored.

    :ivar tallies: each as `PACKED_TALLY`, keys ascending
    :ivar own: (label, key, *tally) of the arms that learn apart, in order
    :ivar viewers: (id, `Viewer.encode`), in order of ids
    :ivar names: (key, (attribute, value)) of what was met for the first time, for people
    :ivar arms: labels of those that learn apart
    """

    tallies: bytes
    own: list[tuple[Any, ...]]
    viewers: list[tuple[str, bytes]]
    names: list[tuple[int, tuple[str, str]]]
    arms: list[str]

    def digest(self, before: str) -> str:
        """Of all of it, chained to the digest before; BLAKE2b-128, hex."""
        state = hashlib.blake2b(before.encode(), digest_size=16)
        state.update(b"".join(starmap(_digested, PACKED_TALLY.iter_unpack(self.tallies))))
        for label, *tally in self.own:
            state.update(label.encode() + b"\0" + _digested(*tally))
        for user, body in self.viewers:
            state.update(user.encode() + b"\0" + body)
        return state.hexdigest()


class Statistics:
    """Tallies by key (of items, creators and tags; 0 for everything) and viewers, as of one position of the log.

    :param versions_of: (id, features text) by item version
    :param viewer_of: a viewer as stored, None for one that was never stored
    :param tallies: as stored
    :param own: the same of arms that learn apart, by their labels; of what has changed since they began
    :param keep: given viewers that are let go from memory; where they are stored at every `clean`, nobody need
    :param on_change: told of a viewer before they change for the first time since `clean`
    """

    def __init__(
        self,
        versions_of: Callable[[Sequence[int]], Mapping[int, tuple[str, bytes]]],
        viewer_of: Callable[[str], bytes | None] = lambda user: None,
        tallies: Mapping[int, Tally] | None = None,
        own: Mapping[str, Mapping[int, Tally]] | None = None,
        *,
        keep: Callable[[str, bytes], None] | None = None,
        on_change: Callable[[str, Viewer], None] | None = None,
    ) -> None:
        self._versions_of = versions_of
        self._viewer_of = viewer_of
        self._keep = keep
        self._on_change = on_change
        self._tallies: dict[int, Tally] = dict(tallies or {})
        self._offered = Offered(
            lambda versions: {version: item_id for version, (item_id, _) in versions_of(versions).items()},
            {key: tally[OFFERED] for key, tally in self._tallies.items() if tally[OFFERED]},
            {key for key, tally in self._tallies.items() if tally[SEEN]},
        )
        self._own: dict[str, dict[int, Tally]] = {label: dict(rows) for label, rows in (own or {}).items()}
        self._changed_own: set[tuple[str, int]] = set()
        self._viewers: dict[str, Viewer] = {}
        self._items: dict[int, ItemAttributes] = {}
        self._changed_tallies: set[int] = set()
        self.changed_viewers: set[str] = set()
        # Since `clean`: (attribute, value) by key, for people.
        self._new_names: dict[int, tuple[str, str]] = {}

    @property
    def dirty(self) -> bool:
        """Whether anything changed since `clean`."""
        return bool(self._changed_tallies or self.changed_viewers or self._offered.dirty)

    def tally(self, key: int) -> Tally:
        """Of an item, a creator, a tag, or of everything; zeros for what was never met."""
        return [*self._tallies.get(key, _NOTHING)[:OFFERED], self._offered[key]]

    def never_seen(self, versions: NDArray[np.uint32]) -> int:
        """How many of these candidates, item versions, no viewer has seen yet."""
        return self._offered.never_seen(versions)

    def own_tally(self, label: str, key: int) -> Tally:
        """Of an arm that learns apart. How often items were offered is the same for all; here it is 1."""
        return [*self._own[label][key][:OFFERED], 1.0]

    def changed_own(self) -> list[tuple[str, int]]:
        """(label, key) of the tallies of arms that changed since `clean`, in order."""
        return sorted(self._changed_own)

    @property
    def own(self) -> Mapping[str, Mapping[int, Tally]]:
        """Of the arms that learn apart, by label, what is their own."""
        return self._own

    def changed_tallies(self) -> list[int]:
        """Keys of the tallies that changed since `clean`, ascending."""
        return sorted(self._changed_tallies | self._offered.changed())

    def clean(self) -> None:
        """What changed has been stored."""
        self._changed_tallies.clear()
        self._changed_own.clear()
        self._offered.clean()
        self.changed_viewers.clear()
        self._new_names.clear()
        if len(self._viewers) > MAX_KEPT_VIEWERS:
            if self._keep is not None:
                for user, viewer in self._viewers.items():
                    self._keep(user, viewer.encode())
            self._viewers.clear()

    def viewer(self, user: str) -> Viewer:
        """A viewer, new if they were never heard of."""
        viewer = self._viewers.get(user)
        if viewer is None:
            stored = self._viewer_of(user)
            viewer = self._viewers[user] = Viewer() if stored is None else Viewer.decode(stored)
        return viewer

    def forget(self, user: str) -> None:
        """The viewer was erased: nothing is known of them, and nothing is to be stored."""
        self._viewers.pop(user, None)
        self.changed_viewers.discard(user)

    def changes(self) -> ChangedStatistics:
        """What changed since `clean`."""
        return ChangedStatistics(
            b"".join(PACKED_TALLY.pack(key, *self.tally(key)) for key in self.changed_tallies()),
            [(label, key, *self.own_tally(label, key)) for label, key in self.changed_own()],
            [(user, self.viewer(user).encode()) for user in sorted(self.changed_viewers)],
            sorted(self._new_names.items()),
            list(self._own),
        )

    # ------------------------------------------------------------ told by the fold

    def apart(self, labels: Collection[str]) -> None:
        """The arms that learn apart are these: who is no more is forgotten, and who begins knows what all do."""
        self._own = {label: self._own.get(label, {}) for label in labels}
        self._changed_own = {one for one in self._changed_own if one[0] in self._own}

    def served(self, decision: Decision, candidates: bytes, ts: float, position: int, label: str | None) -> None:
        """A feed was drawn.

        :param candidates: item versions, as the log has them: little-endian uint32
        :param label: of the arm that it is part of, if that learns apart
        """
        self._offered.count(np.frombuffer(candidates, "<u4"), position)
        items = self._items_of(decision.slots)
        for item in items:
            for tally in self._touch(item.item, ts, label):
                tally[SHOWN] += 1.0
        if decision.user is not None:
            self._change(decision.user).served((item.identity for item in items), ts)

    def seen(
        self, user: str | None, slot: Slot, ts: float, counted: Counted, before: Counted | None,
        signals: Mapping[str, float], label: str | None,
    ) -> None:  # fmt: skip
        """A slot was seen, and this came of it as far as is known.

        :param before: what was counted of it earlier; None at the first time
        """
        (item,) = self._items_of([slot])
        keys = [key for key in (item.item, item.creator, *item.tags) if key]
        if before is None:
            self._offered.mark_seen(item.item)
            for key in (TOTAL, *keys):
                for tally in self._touch(key, ts, label):
                    _add(tally, counted, item, signals, HALF_LIFE if key else TOTAL_HALF_LIFE)
            if user is not None:
                self._change(user).observe(item, counted)
        elif counted != before:
            for key in (TOTAL, *keys):
                for tally in self._touch(key, ts, label):
                    tally[REWARD] += counted.reward - before.reward
                    tally[TIMED] += (counted.stayed is not None) - (before.stayed is not None)
                    tally[STAYED] += (counted.stayed or 0.0) - (before.stayed or 0.0)
            if user is not None:
                self._change(user).amend(item, counted, before)

    def unseen(self, user: str, slots: Sequence[Slot], served_at: float) -> None:
        """These were never seen: they may be served again."""
        viewer = self._change(user)
        for item in self._items_of(slots):
            viewer.unserved(item.identity, served_at)

    def said(self, user: str, slot: Slot, feedback: ItemFeedback, ts: float) -> None:
        """Not interested, or interested again, in an item and what of it was named."""
        said = feedback.signals.get("not_interested")
        if said is None and not feedback.about:
            return
        (item,) = self._items_of([slot])
        keys = blocked_keys(item, feedback)
        if said is not None and said <= 0.0:
            self._change(user).unblock(keys)
        else:
            self._change(user).block(keys, ts)

    def signed_up(self, record: UserRecord) -> None:
        """A viewer said what they are interested in."""
        self._change(record.id).interests = tuple(record.interests)

    # ------------------------------------------------------------ parts

    def _change(self, user: str) -> Viewer:
        viewer = self.viewer(user)
        if user not in self.changed_viewers:
            self.changed_viewers.add(user)
            if self._on_change is not None:
                self._on_change(user, viewer)
        return viewer

    def _touch(self, key: int, ts: float, label: str | None) -> list[Tally]:
        """Where something counts that happened in an arm: among all, and in the arm if it learns apart.

        What happened in none of those that learn apart is known to all of them.
        """
        self._changed_tallies.add(key)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = [*_NOTHING]
        found = [tally]
        if label in self._own:
            for other, rows in self._own.items():
                if key not in rows:
                    # Until now it has known what all did.
                    rows[key] = [*tally]
                    self._changed_own.add((other, key))
            found.append(self._own[label][key])
            self._changed_own.add((label, key))
        elif self._own:
            # Where an arm has none of its own this one is its, too.
            for other, rows in self._own.items():
                if key in rows:
                    found.append(rows[key])
                    self._changed_own.add((other, key))
        for one in found:
            if one[FIRST_AT] == 0.0:
                one[FIRST_AT] = ts
        return found

    def _items_of(self, slots: Sequence[Slot]) -> list[ItemAttributes]:
        # Not a difference of sets: that looks at all that is kept.
        missing = sorted({slot.version for slot in slots if slot.version not in self._items})
        if missing:
            if len(self._items) + len(missing) > MAX_KEPT_VERSIONS:
                self._items.clear()
                missing = sorted({slot.version for slot in slots})
            for version, (item_id, text) in self._versions_of(missing).items():
                self._items[version] = attributes_of_item(item_id, text)
                self._new_names.update(names_of_item(item_id, text))
        return [self._items[slot.version] for slot in slots]


def _digested(key: int, *tally: float) -> bytes:
    """As it is digested. Where nothing is known of who stayed, as before that was counted: older epochs are matched."""
    return PACKED_TALLY.pack(key, *tally) if tally[TIMED] else _PACKED_UNTIMED(key, *tally[:TIMED], tally[OFFERED])


def _add(tally: Tally, counted: Counted, item: ItemAttributes, signals: Mapping[str, float], half_life: float) -> None:
    keep = 0.5 ** (1.0 / half_life)
    for column in DECAYED:
        tally[column] *= keep
    tally[SEEN] += 1.0
    tally[REWARD] += counted.reward
    if counted.stayed is not None:
        tally[TIMED] += 1.0
        tally[STAYED] += counted.stayed
    watched = signals.get("watch_s")
    if watched is not None and item.length_s > 0.0:
        tally[WATCHED] += 1.0
        tally[COMPLETION] += min(max(watched / item.length_s, 0.0), 1.0)
    if signals.get("not_interested", 0.0) > 0.0 or signals.get("report", 0.0) > 0.0:
        tally[NEGATIVE] += 1.0


def blocked_keys(item: ItemAttributes, feedback: ItemFeedback) -> list[int]:
    """Keys of what the viewer is not interested in: the item if that was signalled, and what it is about."""
    keys = [item.identity] if "not_interested" in feedback.signals else []
    for about in feedback.about:
        role, _, value = about.partition(":")
        if role == "tag":
            keys.append(key_of("tag", value))
        else:
            keys.append(item.creator if role == "creator" else item.sound)
    return [key for key in keys if key]
