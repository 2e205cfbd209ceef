"""Decisions by Personalizer's rules: one slot with all others ordered below it, or slots of a page, one by one.

A page is as many decisions as it has slots, in one transaction: each of one slot, from what the slots above left. So
each has an exact propensity of its own, and is joined, learned and evaluated like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from msgspec import UNSET, Struct
from msgspec.structs import replace

from bandit import records
from bandit.errors import IdConflict
from bandit.ranking.entry import Entry
from bandit.ranking.filling import kept_for_others
from bandit.ranking.ranker import Ranked, Ranker
from bandit.records import ActivateRequest, Decision, Door, Explanation, RankRequest
from bandit.store.events import (
    StoredDecision,
    find_decision,
    first_activation,
    put_activation,
    same_body,
    slots_of,
)
from bandit.store.items import versions
from bandit.store.log import AppLog, Txn

DOOR: Final[Door] = "personalizer"


class Whole(NamedTuple):
    """A durable decision of one slot with all that could have stood there.

    :ivar ids: of all candidates, as sent
    :ivar event_id: as sent, or made
    :ivar explanation: of what was drawn, if it was asked for
    """

    event_id: str
    ids: Sequence[str]
    decision: Decision
    explanation: list[Explanation]


class Page(NamedTuple):
    """A durable page.

    :ivar chosen: what stands at each slot
    :ivar decisions: of each slot; none if the page was answered before
    """

    event_id: str
    chosen: list[str]
    decisions: list[Decision]


class PageSlot(Struct):
    """A slot of a page.

    :param request: for this slot alone: its candidates, what it may not show, its context
    """

    id: str
    request: RankRequest


class Personalized:
    """Ranks by Personalizer's rules, for one worker; safe to share between threads.

    :param log: as the app sees it whose decisions these are
    """

    def __init__(self, ranker: Ranker, log: AppLog) -> None:
        self._ranker = ranker
        self._log = log

    # ------------------------------------------------------------ one slot

    def whole(self, request: RankRequest, *, body_hash: bytes | None) -> Whole:
        """Rank for one slot and log; a repeated event id gets what it got before.

        :param body_hash: of the request as it came; None if it came without an event id
        :raises IdConflict: the event id answered another request
        :raises LogUnavailable: nothing was logged, so nothing may be shown
        """
        if body_hash is not None and request.event_id is not UNSET:
            found = find_decision(self._log, request.event_id)
            if found is not None:
                return self._stored(request.event_id, same_body(found, body_hash, request.event_id))
        ranked = self._ranker.rank(request, door=DOOR, whole=True, app=self._log.app)._replace(body_hash=body_hash)
        reply = self._ranker.log(ranked)
        if reply is not ranked.reply:
            # Another worker was first.
            found = find_decision(self._log, reply.event_id)
            assert found is not None
            return self._stored(reply.event_id, found)
        explanation = [] if reply.explanation is UNSET else reply.explanation
        return Whole(reply.event_id, ranked.resolved.ids, ranked.decision, explanation)

    def _stored(self, event_id: str, found: StoredDecision) -> Whole:
        # Another worker may have written it a moment ago, and not be back from its fsync.
        self._log.log.sync()
        decision = records.read_stored(found.payload, Decision, what="this decision")
        numbers = np.frombuffer(found.candidates, np.uint32).tolist()
        known = versions(self._log.log, numbers)
        return Whole(event_id, [known[number][0] for number in numbers], decision, [])

    # ------------------------------------------------------------ a page

    def page(self, slots: Sequence[PageSlot], *, event_id: str | None, body_hash: bytes) -> Page:
        """Draw for each slot from what those above left, and log all; a repeated event id gets what it got before.

        :param slots: all with the same candidates, in any order
        :raises EmptySlate: the slots cannot all be filled
        :raises IdConflict: the event id answered another request
        :raises LogUnavailable: nothing was logged, so nothing may be shown
        """
        page_id = self._ranker.new_event_id() if event_id is None else event_id
        names = [slot_event(page_id, slot.id) for slot in slots]
        if event_id is not None:
            found = _answered(self._log, page_id, names, body_hash)
            if found is not None:
                return self._again(page_id, found)
        ranked = self._draw(slots, page_id, names)
        entries = [
            Entry(name, one.decision, one.resolved, body_hash) for name, one in zip(names, ranked, strict=True)
        ]
        deferred = slots[0].request.defer_activation

        def write(txn: Txn) -> list[StoredDecision] | None:
            found = None if event_id is None else _answered(txn, page_id, names, body_hash)
            if found is not None:
                return found
            for entry in entries:
                entry.write(txn)
            if deferred and first_activation(txn, page_id) is not None:
                shown = ActivateRequest()
                for name in names:
                    put_activation(txn, name, shown, records.body_hash(shown))
            return None

        before = self._log.append(write)
        if before is not None:
            return self._again(page_id, before)
        for entry in entries:
            entry.written()
        decisions = [one.decision for one in ranked]
        return Page(page_id, [decision.slots[0].id for decision in decisions], decisions)

    def _draw(self, slots: Sequence[PageSlot], page_id: str, names: Sequence[str]) -> list[Ranked]:
        out = set(self._ranker.withdrawn(slots[0].request.candidates))
        everybody = {one if isinstance(one, str) else one.id for one in slots[0].request.candidates} - out
        allowed = [everybody.difference(slot.request.exclude) for slot in slots]
        above: list[str] = []
        drawn = []
        for slot, name in zip(slots, names, strict=True):
            exclude = [*slot.request.exclude, *above, *sorted(kept_for_others(allowed, above))]
            request = replace(slot.request, event_id=name, exclude=exclude)
            one = self._ranker.rank(request, door=DOOR, dealt_by=page_id, app=self._log.app)
            above.append(one.decision.slots[0].id)
            drawn.append(one)
        return drawn

    def _again(self, page_id: str, found: Sequence[StoredDecision]) -> Page:
        self._log.log.sync()
        decisions = [records.read_stored(one.payload, Decision, what="this decision") for one in found]
        return Page(page_id, [decision.slots[0].id for decision in decisions], [])


def slot_event(page_id: str, slot_id: str) -> str:
    """Event id of the decision at a slot of a page.

    >>> slot_event("e1", "side bar"), slot_event("e1#x", "50%#2")
    ('e1#side bar', 'e1#x#50%25%232')
    """
    return f"{page_id}#{slot_id.replace('%', '%25').replace('#', '%23')}"


def _answered(
    source: AppLog | Txn, page_id: str, names: Sequence[str], body_hash: bytes
) -> list[StoredDecision] | None:
    """The decisions of a page that was answered before, in the order of these names.

    :raises IdConflict: the event id answered another request
    """
    known = slots_of(source, page_id)
    alone = find_decision(source, page_id)
    if not known and alone is None:
        return None
    found = [find_decision(source, name) for name in names]
    if alone is not None or set(known) != set(names) or any(one is None or one.body_hash != body_hash for one in found):
        raise IdConflict(
            f"event_id {page_id!r} was used before with another body; use a new event_id for a new request",
            event_id=page_id,
        )
    return [one for one in found if one is not None]
