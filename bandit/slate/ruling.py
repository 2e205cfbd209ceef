"""The rules of one decision: bound to its candidates, written down with it, bound again from what was written, told.

What a decision keeps is enough to draw it again: which candidates were not eligible, which ones the viewer had seen,
which slots were set aside for what, and what was pinned. Attributes follow from the candidates' item versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.errors import EmptySlate, InvalidRequest
from bandit.records import Decision, KeptOut
from bandit.slate.binding import (
    BLOCKED_BY,
    Bound,
    Marks,
    bind,
    blocked_mask,
    has_some,
    off_interest_mask,
    seen_mask,
)
from bandit.slate.drawing import INELIGIBLE, Slate, reserve
from bandit.slate.rules import DAY_S, Cap, Duplicates, NotInterested, Quota, Rule, Seen, Spacing, name_of
from bandit.statistics.attributes import Attributes
from bandit.statistics.folding import REWARD, SEEN, SHOWN, TOTAL
from bandit.statistics.profiles import LONG_N, LONG_SUM, Tastes

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

#: Of an explanation, so many candidates that were kept out are told.
TOLD: Final = 50
PINS: Final = "pins"


class Facts(NamedTuple):
    """What is known of the viewer and the candidates when a decision is made; keys are `attributes.key_of`'s.

    :ivar now: log time, UTC seconds
    :ivar seen, seen_at: shape (s,), identities that stood in the viewer's feeds, and when
    :ivar blocked: shape (b,), what they are not interested in
    :ivar tallies: shape (m, TALLY_WIDTH), the first of everything
    :ivar item_at: shape (n,), rows of ``tallies``: those of the candidates
    :ivar mean: what the viewer's slots earn more than those of all, see `viewer_features`
    """

    now: float
    seen: I64
    seen_at: NDArray[np.float64]
    blocked: I64
    tastes: Tastes
    tallies: NDArray[np.float64]
    item_at: I64
    mean: float


class Ruling(NamedTuple):
    """The rules of one decision.

    :ivar ineligible: places by reason
    :ivar reserved: slots by quota
    :ivar pins: places by slot
    :ivar refused: slots whose pin may not be shown
    """

    rules: Sequence[Rule]
    attributes: Attributes
    marks: Marks
    bound: Bound
    n_slots: int
    ineligible: dict[str, list[int]]
    reserved: dict[str, list[int]]
    pins: dict[int, int]
    refused: list[int]

    def write(self, decision: Decision, slate: Slate) -> None:
        """Put into the decision what held for it, and what it did."""
        decision.ineligible = self.ineligible
        if self.pins:
            decision.pins = self.pins
            decision.pinned = np.flatnonzero(slate.pinned).tolist()
        if self.refused:
            decision.relaxed[PINS] = self.refused
        names = self.bound.names
        if not names:
            return
        if self.reserved:
            decision.reserved = self.reserved
        for name in names:
            mask = _mask_of(name, self.marks)
            if mask is not None:
                decision.marks[name] = np.packbits(mask).tobytes()
        for slot, bits in enumerate(slate.relaxed.tolist()):
            if bits:
                for row, name in enumerate(names):
                    if bits & (2 << row):
                        decision.relaxed.setdefault(name, []).append(slot)
        for slot, places in enumerate(slate.passed.tolist()):
            for name, place in zip(names, places, strict=True):
                # What was seen before stands in the marks, and is passed over at every slot.
                if place >= 0 and name != "seen":
                    decision.passed.setdefault(name, []).append((slot, place))


def rule(
    rules: Sequence[Rule],
    attributes: Attributes,
    facts: Facts,
    state: U8,
    *,
    ids: Sequence[str],
    withdrawn: NDArray[np.bool_] | None = None,
    exclude: Sequence[str] = (),
    pins: Mapping[int, str] = {},
    n_slots: int,
    seed: int,
) -> Ruling:
    """The rules for these candidates; sets ``state`` to INELIGIBLE where they may not be shown at all.

    :param attributes: of the candidates
    :param state: shape (n,), of `bandit.slate.drawing`; written
    :param withdrawn: shape (n,); None for none
    :param seed: of the decision: it settles which slots are set aside for quotas
    :raises InvalidRequest: a pin that is no candidate, stands twice, or below the last slot
    :raises EmptySlate: no candidate may be shown
    """
    n = len(state)
    ineligible: dict[str, list[int]] = {}
    if withdrawn is not None and withdrawn.any():
        ineligible["withdrawn"] = np.flatnonzero(withdrawn).tolist()
    if exclude:
        excluded = set(exclude)
        places = [place for place, item_id in enumerate(ids) if item_id in excluded]
        if places:
            ineligible["excluded"] = places
    marks = _marks(rules, attributes, facts)
    if marks.blocked is not None and has_some(marks.blocked):
        blocked = np.flatnonzero(marks.blocked)
        codes = marks.blocked[blocked]
        for code in sorted(set(codes.tolist())):
            ineligible[f"not_interested:{BLOCKED_BY[code]}"] = blocked[codes == code].tolist()
    n_ineligible = 0
    for places in ineligible.values():
        n_ineligible += len(places)
        state[places] = INELIGIBLE
    if n_ineligible >= n and (state == INELIGIBLE).all():
        raise EmptySlate(
            f"none of the {n} candidates may be shown: "
            + ", ".join(f"{len(places)} {reason}" for reason, places in ineligible.items())
            + "; send others",
            **{reason: len(places) for reason, places in ineligible.items()},
        )
    placed, refused = _pinned(pins, ids, state, attributes, rules, n_slots) if pins else ({}, [])
    # Of so many as are surely left no more are counted.
    last = n_slots if n - n_ineligible >= n_slots else min(n_slots, int(np.count_nonzero(state != INELIGIBLE)))
    reserved = _reserved(rules, marks, placed, last, seed)
    bound = bind(rules, attributes, marks, n_slots=n_slots, reserved=reserved, pins=placed)
    return Ruling(rules, attributes, marks, bound, n_slots, ineligible, reserved, placed, refused)


def again(rules: Sequence[Rule], attributes: Attributes | None, decision: Decision, n: int) -> Bound:
    """The rules of a logged decision as they were bound to its n candidates.

    :param rules: of the decision's config
    """
    if not rules and not decision.pins:
        return bind((), None, Marks(), n_slots=decision.n_slots)
    bits = {name: np.unpackbits(np.frombuffer(mask, np.uint8), count=n) for name, mask in decision.marks.items()}
    marks = Marks(seen=bits.get("seen"), new=bits.get("quota:new"), off_interest=bits.get("quota:off_interest"))
    return bind(rules, attributes, marks, n_slots=decision.n_slots, reserved=decision.reserved, pins=decision.pins)


def _mask_of(name: str, marks: Marks) -> U8 | None:
    if name == "seen":
        return marks.seen
    if name == "quota:new":
        return marks.new
    return marks.off_interest if name == "quota:off_interest" else None


def _marks(rules: Sequence[Rule], attributes: Attributes, facts: Facts) -> Marks:
    seen = blocked = new = off_interest = None
    for one in rules:
        if isinstance(one, Seen) and len(facts.seen):
            seen = seen_mask(attributes.identity, facts.seen, facts.seen_at, facts.now - one.window_s)
        elif isinstance(one, NotInterested) and len(facts.blocked):
            blocked = blocked_mask(attributes, facts.blocked)
        elif isinstance(one, Quota) and one.of == "new":
            new = np.asarray(facts.tallies[facts.item_at, SHOWN] < one.shown_below, np.uint8)
        elif isinstance(one, Quota):
            liked = liked_keys(facts.tastes, facts.tallies[TOTAL], facts.mean)
            if len(liked):
                off_interest = off_interest_mask(attributes, liked)
    return Marks(seen, blocked, new, off_interest)


def liked_keys(tastes: Tastes, total: NDArray[np.float64], mean: float) -> I64:
    """What a viewer takes better than what else they see, and what they picked at sign-up.

    :param total: shape (TALLY_WIDTH,), of everything
    :param mean: as `Facts.mean`
    """
    if not len(tastes.keys):
        return tastes.interests
    usual = float(total[REWARD]) / (float(total[SEEN]) + 1.0) + mean
    better = tastes.keys[tastes.values[:, LONG_SUM] > tastes.values[:, LONG_N] * usual]
    return np.concatenate([better, tastes.interests])


def _pinned(
    pins: Mapping[int, str],
    ids: Sequence[str],
    state: U8,
    attributes: Attributes,
    rules: Sequence[Rule],
    n_slots: int,
) -> tuple[dict[int, int], list[int]]:
    """Places by slot, and the slots whose pin may not be shown."""
    place_of = {item_id: place for place, item_id in enumerate(ids)}
    once = any(isinstance(one, Duplicates) for one in rules)
    placed: dict[int, int] = {}
    refused: list[int] = []
    taken: set[int] = set()
    for slot in sorted(pins):
        item_id = pins[slot]
        place = place_of.get(item_id)
        if slot >= n_slots:
            raise InvalidRequest(
                f"pins: slot {slot} is not drawn; this ranking has {n_slots} slots, from 0 to {n_slots - 1}",
                slot=slot,
                slots=n_slots,
            )
        if place is None:
            raise InvalidRequest(f"pins: {item_id!r} is no candidate; send it among the candidates too", id=item_id)
        if list(pins.values()).count(item_id) > 1:
            raise InvalidRequest(f"pins: {item_id!r} is wanted at two slots; pin it at one", id=item_id)
        identity = int(attributes.identity[place]) if once else place
        if state[place] == INELIGIBLE or identity in taken:
            refused.append(slot)
        else:
            placed[slot] = place
            taken.add(identity)
    return placed, refused


def _reserved(
    rules: Sequence[Rule], marks: Marks, pins: Mapping[int, int], last: int, seed: int
) -> dict[str, list[int]]:
    """Slots that quotas set aside, of the first ``last``."""
    quotas = [
        one
        for one in rules
        if isinstance(one, Quota) and (marks.new if one.of == "new" else marks.off_interest) is not None
    ]
    if not quotas:
        return {}
    free = [slot for slot in range(last) if slot not in pins]
    slots = reserve(seed, free, [one.share for one in quotas])
    return {name_of(one): some for one, some in zip(quotas, slots, strict=True) if some}


# ---------------------------------------------------------------- told to people


def reasons(ruling: Ruling, slate: Slate, scores: NDArray[np.float32]) -> list[list[str]]:
    """Of each slot, which rules moved the item that stands there, in words."""
    chosen = slate.chosen.tolist()
    told = []
    for slot, item in enumerate(chosen):
        if slate.pinned[slot]:
            told.append(["pinned by the caller"])
            continue
        words = []
        for above in range(slot):
            # It would have stood there, had no rule kept it away.
            if not slate.pinned[above] and scores[item] > scores[chosen[above]]:
                words += _kept_from(ruling, slate, item, above)
        for row, name in enumerate(ruling.bound.names):
            if int(slate.relaxed[slot]) & (2 << row):
                words.append(f"stands here although it breaks {name}: nothing else was left")
            elif slot in ruling.reserved.get(name, ()):
                words.append(f"slot set aside for {_KIND[name]}")
        told.append(words)
    return told


def kept_out(ruling: Ruling, slate: Slate, ids: Sequence[str], scores: NDArray[np.float32]) -> list[KeptOut]:
    """Candidates that rules kept out of the whole feed, and why; at most `TOLD`, those of reasons first."""
    chosen = set(slate.chosen.tolist())
    found = {
        place: [_INELIGIBLE.get(reason, reason)] for reason, places in ruling.ineligible.items() for place in places
    }
    seen = ruling.marks.seen
    rows = {name: 2 << row for row, name in enumerate(ruling.bound.names)}
    if seen is not None and "seen" in rows and not (slate.relaxed & rows["seen"]).any():
        (window_s,) = (one.window_s for one in ruling.rules if isinstance(one, Seen))
        for place in np.flatnonzero(seen).tolist():
            if place not in chosen:
                found.setdefault(place, [_shown_before(window_s)])
    shown = [float(scores[item]) for item in slate.chosen.tolist()]
    for item in np.argsort(-scores, kind="stable").tolist():
        if len(found) >= TOLD:
            break
        if item in chosen or item in found:
            continue
        words: list[str] = []
        for slot, other in enumerate(shown):
            if not slate.pinned[slot] and float(scores[item]) > other:
                words += _kept_from(ruling, slate, item, slot)
        if words:
            found[item] = list(dict.fromkeys(words))
    return [KeptOut(ids[place], words) for place, words in list(found.items())[:TOLD]]


_KIND: Final = {"quota:new": "new items", "quota:off_interest": "items off the viewer's interests"}
_INELIGIBLE: Final = {
    "withdrawn": "withdrawn from the catalogue",
    "excluded": "excluded by the caller",
    **{f"not_interested:{by}": f"the viewer is not interested in this {by}" for by in BLOCKED_BY[1:]},
}


def _shown_before(window_s: float) -> str:
    return f"shown to the viewer within the last {window_s / DAY_S:g} days"


def _kept_from(ruling: Ruling, slate: Slate, item: int, slot: int) -> list[str]:
    """Why an item could not stand at a slot, by the rules that held there."""
    attributes = ruling.attributes
    placed = {**ruling.pins, **dict(enumerate(slate.chosen[:slot].tolist()))}
    words = []
    rows = {name: 2 << row for row, name in enumerate(ruling.bound.names)}
    for one in ruling.rules:
        name = name_of(one)
        if isinstance(one, Duplicates):
            for other, its in sorted(placed.items()):
                if its != item and attributes.identity[its] == attributes.identity[item]:
                    words.append(f"the same video as the one at slot {other}")
        if name not in rows or int(slate.relaxed[slot]) & rows[name]:
            continue
        if isinstance(one, Seen):
            if ruling.marks.seen is not None and ruling.marks.seen[item]:
                words.append(_shown_before(one.window_s))
        elif isinstance(one, Quota):
            mask = _mask_of(name, ruling.marks)
            if slot in ruling.reserved.get(name, ()) and mask is not None and not mask[item]:
                words.append(f"slot {slot} is set aside for {_KIND[name]}")
        elif isinstance(one, Spacing):
            for other, its in sorted(placed.items()):
                if 0 < abs(other - slot) <= one.slots and _keys(attributes, one.of, its) & _keys(
                    attributes, one.of, item
                ):
                    words.append(f"kept apart from slot {other}: same {one.of}")
        elif isinstance(one, Cap):
            for key in sorted(_keys(attributes, one.of, item)):
                if sum(key in _keys(attributes, one.of, its) for its in placed.values()) >= one.most:
                    words.append(f"not more than {one.most} of one {one.of} in a feed")
    return words


def _keys(attributes: Attributes, of: str, item: int) -> set[int]:
    if of == "tag":
        return set(attributes.tags[attributes.tag_start[item] : attributes.tag_start[item + 1]].tolist())
    keys: Any = getattr(attributes, of)
    return {int(keys[item])} - {0}
