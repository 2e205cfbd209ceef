"""A viewer as of this moment: what was published of them, and their own records since."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bandit import records
from bandit.records import Decision, LoggedFeedback, Slot, Taste, UserReply
from bandit.statistics.attributes import ItemAttributes, attributes_of_item
from bandit.statistics.columns import told_tastes
from bandit.statistics.folding import TALLY_WIDTH, TOTAL, blocked_keys
from bandit.statistics.profiles import LENGTH_NAMES, NOTHING_SEEN, Glimpse, Tastes, Viewer
from bandit.store.events import find_decision
from bandit.store.items import versions
from bandit.store.log import EventLog, LogRow
from bandit.store.statistics import changed_tallies, names_of, own_rows, stored_viewer

#: Of a viewer's tastes, so many of the strongest are told.
MOST_TASTES = 50
#: Item versions whose attributes are kept: those of the last feeds are asked for again and again.
MOST_KEPT = 20_000


class ViewerNow(NamedTuple):
    """What a ranking knows of its viewer.

    :ivar seen, seen_at: shape (s,), identity keys of what stood in their feeds, and when; the last of a key holds
    :ivar blocked: shape (b,), keys of items, creators, sounds and tags that they do not want
    :ivar position: what was published of them holds the log up to here; tastes are from there
    :ivar read_to: the last record of theirs that was read beyond it
    """

    tastes: Tastes
    seen: npt.NDArray[np.int64]
    seen_at: npt.NDArray[np.float64]
    blocked: npt.NDArray[np.int64]
    position: int
    read_to: int


#: When nobody is named.
NOBODY = ViewerNow(*NOTHING_SEEN, position=0, read_to=0)


class ViewerReader:
    """Reads viewers; safe to share between threads."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._attributes: dict[int, ItemAttributes] = {}

    def read(self, user: str) -> ViewerNow:
        """A viewer, so that what they were shown and refused a moment ago holds.

        :raises LogUnavailable: the log cannot be read
        """
        stored = stored_viewer(self._log, user)
        glimpse, position = (NOTHING_SEEN, 0) if stored is None else (Glimpse.of(stored.body), stored.position)
        rows = own_rows(self._log, user, position)
        if not rows:
            return ViewerNow(*glimpse, position=position, read_to=position)
        return self._overlay(glimpse, position, rows)

    def _overlay(self, glimpse: Glimpse, position: int, rows: list[LogRow]) -> ViewerNow:
        seen: dict[int, float] = {}
        blocked: set[int] = set()
        unblocked: set[int] = set()
        tastes = glimpse.tastes
        for row in rows:
            if row.kind == "decision":
                decision = records.read_stored(row.payload, Decision, what="a decision")
                items = self._items_of(decision.slots)
                seen.update((items[slot.version].identity, row.ts) for slot in decision.slots)
            elif row.kind == "feedback":
                feedback = records.read_stored(row.payload, LoggedFeedback, what="feedback")
                self._said(row.event_id or "", feedback, blocked, unblocked)
            elif row.kind == "user":
                record = records.read_stored(row.payload, records.UserRecord, what="a viewer")
                tastes = tastes.with_interests(record.interests)
        kept = glimpse.blocked
        if unblocked:
            kept = kept[~np.isin(kept, list(unblocked))]
        return ViewerNow(
            tastes,
            np.concatenate([glimpse.seen, np.fromiter(seen, np.int64, len(seen))]),
            np.concatenate([glimpse.seen_at, np.fromiter(seen.values(), np.float64, len(seen))]),
            np.concatenate([kept, np.fromiter(blocked, np.int64, len(blocked))]),
            position,
            rows[-1].pos,
        )

    def _said(self, event_id: str, feedback: LoggedFeedback, blocked: set[int], unblocked: set[int]) -> None:
        told = [item for item in feedback.items if item.about or "not_interested" in item.signals]
        found = find_decision(self._log, event_id) if told else None
        if found is None:
            return
        decision = records.read_stored(found.payload, Decision, what="a decision")
        slots = {slot.id: slot for slot in decision.slots}
        for item in told:
            slot = slots.get(item.id)
            if slot is None:
                continue
            keys = blocked_keys(self._items_of([slot])[slot.version], item)
            if item.signals.get("not_interested", 1.0) > 0.0:
                blocked.update(keys)
                unblocked.difference_update(keys)
            else:
                blocked.difference_update(keys)
                unblocked.update(keys)

    def _items_of(self, slots: list[Slot]) -> dict[int, ItemAttributes]:
        """By version, of which each says the same for ever."""
        found = {slot.version: self._attributes.get(slot.version) for slot in slots}
        known = {version: attributes for version, attributes in found.items() if attributes is not None}
        if len(known) < len(found):
            texts = versions(self._log, [version for version in found if version not in known])
            new = {version: attributes_of_item(item_id, text) for version, (item_id, text) in texts.items()}
            if len(self._attributes) > MOST_KEPT:
                self._attributes = {}
            self._attributes.update(new)
            known |= new
        return known


def user_story(log: EventLog, user: str) -> UserReply | None:
    """What is believed of a viewer; None if nobody ever heard of them."""
    now = ViewerReader(log).read(user)
    stored = stored_viewer(log, user)
    if stored is None and now.read_to == 0:
        return None
    total = list(changed_tallies(log, after=1 << 62, keys=[TOTAL]).tallies.get(TOTAL, [0.0] * TALLY_WIDTH))
    told = told_tastes(now.tastes, total)[:MOST_TASTES]
    names = names_of(log, [one.key for one in told])
    interests = () if stored is None else Viewer.decode(stored.body).interests
    for row in own_rows(log, user, now.position):
        if row.kind == "user":
            interests = tuple(records.read_stored(row.payload, records.UserRecord, what="a viewer").interests)
    return UserReply(
        id=user,
        position=now.position,
        seen_slots=now.tastes.n,
        interests=list(interests),
        tastes=[
            Taste(*names.get(one.key, ("length_s", LENGTH_NAMES.get(one.key, "?"))), one.long, one.lately, one.slots)
            for one in told
        ],
        not_interested=len(now.blocked),
        recently_shown=len(np.unique(now.seen)),
    )
