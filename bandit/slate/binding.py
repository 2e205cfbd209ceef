"""What the feed rules of a config mean for the candidates of one request, as the drawing kernel takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bandit.slate.rules import Cap, Duplicates, Quota, Rule, Seen, Spacing, name_of
from bandit.statistics.attributes import Attributes

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
_T = TypeVar("_T", bound=np.generic)

#: Why an item is not wanted: codes of `blocked_mask`, by place.
BLOCKED_BY: Final = ("", "item", "creator", "sound", "tag")


class Marks(NamedTuple):
    """What is known of the candidates of one request, besides their attributes; None where nothing is.

    :ivar seen: shape (n,), 1 where the viewer was shown the same within the window
    :ivar blocked: shape (n,), codes of `BLOCKED_BY`
    :ivar new: shape (n,), 1 where it was shown fewer than the quota's ``shown_below`` times
    :ivar off_interest: shape (n,), 1 where it has tags and the viewer likes none of them
    """

    seen: U8 | None = None
    blocked: U8 | None = None
    new: U8 | None = None
    off_interest: U8 | None = None


# Kinds of rows in `Restrictions.table`. Compiled into the kernels of bandit.slate.drawing.
MARK: Final = 0
SPACING: Final = 1
CAP: Final = 2
# What they count: rows of `Restrictions.keys`, and tags.
BY_CREATOR: Final = 0
BY_SOUND: Final = 1
BY_TAG: Final = 2
#: Bit of what may not be drawn at all; rule r has bit ``1 << (r + 1)``.
GONE: Final = 1

_BY: Final = {"creator": BY_CREATOR, "sound": BY_SOUND, "tag": BY_TAG}


class Restrictions(NamedTuple):
    """The rules as the drawing kernel takes them: those that can matter to these candidates.

    :ivar table: shape (rules, 3), strongest first: kind, what it counts, how many
    :ivar marks: shape (n,), int64: bits of the rules that an item breaks wherever it stands
    :ivar in_force: shape (n_slots,), int64: bits of the rules that hold at a slot
    :ivar identity: shape (n,), or (0,) where duplicates are not looked for
    :ivar keys: shape (2, n): creator and sound, 0 for none; or (2, 0)
    :ivar tag_start, tags: as in `Attributes`; or (0,)
    :ivar pins: shape (n_slots,), the candidate that the caller wants there, -1 for none
    """

    table: I32
    marks: I64
    in_force: I64
    identity: I64
    keys: I64
    tag_start: I64
    tags: I64
    pins: I32

    def same_as(self, other: Restrictions) -> bool:
        """Whether both leave the same at every slot, by all that settles it."""
        return all(np.array_equal(np.asarray(mine), np.asarray(its)) for mine, its in zip(self, other, strict=True))


_NO_TABLE: Final = np.zeros((0, 3), np.int32)
_NO_I64: Final = np.zeros(0, np.int64)
_NO_U8: Final = np.zeros(0, np.uint8)
#: What `_kinds` finds among candidates: two that are the same, a creator, a sound.
_ALIKE: Final = 1
_CREATORS: Final = 2
_SOUNDS: Final = 4
_NO_KEYS: Final = np.zeros((2, 0), np.int64)
_NO_PINS: Final = np.zeros(0, np.int32)

#: Nothing holds: slates are drawn from all that is eligible.
UNRESTRICTED: Final = Restrictions(_NO_TABLE, _NO_I64, _NO_I64, _NO_I64, _NO_KEYS, _NO_I64, _NO_I64, _NO_PINS)


class Bound(NamedTuple):
    """Rules, bound to the candidates of one request.

    :ivar names: of the rows of ``restrictions.table``
    """

    restrictions: Restrictions
    names: tuple[str, ...]

    @property
    def by_order(self) -> bool:
        """Whether what is left at a slot depends on more than which candidates stand above."""
        kinds, pins = self.restrictions.table[:, 0], self.restrictions.pins
        return bool((kinds == SPACING).any() or (pins >= 0).any())


NOTHING: Final = Bound(UNRESTRICTED, ())


def bind(
    rules: Sequence[Rule],
    attributes: Attributes | None,
    marks: Marks,
    *,
    n_slots: int,
    reserved: Mapping[str, Sequence[int]] = {},
    pins: Mapping[int, int] = {},
) -> Bound:
    """The rules as they concern these candidates; `Marks.blocked` is not looked at: it is a matter of eligibility.

    :param attributes: None: nothing is known of any
    :param reserved: slots of each quota by its name; see `bandit.slate.drawing.reserve`
    :param pins: candidates by slot
    """
    table: list[tuple[int, int, int]] = []
    names: list[str] = []
    always = 0
    at_slot: dict[int, int] = {}
    identity = creator = sound = None
    seen = new = off = _NO_U8
    seen_bit = new_bit = off_bit = 0
    tag_start = tags = _NO_I64
    kinds = 0
    if attributes is not None and any(isinstance(rule, Duplicates | Spacing | Cap) for rule in rules):
        kinds = int(_kinds(attributes.item, attributes.identity, attributes.creator, attributes.sound))
    for rule in rules:
        bit = 2 << len(table)
        row: tuple[int, int, int] | None = None
        if isinstance(rule, Seen):
            if marks.seen is not None and has_some(marks.seen):
                seen, seen_bit = marks.seen, bit
                row = (MARK, 0, 0)
        elif isinstance(rule, Quota):
            kind = marks.new if rule.of == "new" else marks.off_interest
            slots = reserved.get(name_of(rule), ())
            if kind is not None and slots:
                if rule.of == "new":
                    new, new_bit = kind, bit
                else:
                    off, off_bit = kind, bit
                row = (MARK, 0, 0)
                for slot in slots:
                    at_slot[slot] = at_slot.get(slot, 0) | bit
        elif attributes is not None:
            if isinstance(rule, Duplicates):
                # Of itself every candidate stands once.
                if kinds & _ALIKE:
                    identity = attributes.identity
            elif isinstance(rule, Spacing | Cap):
                if isinstance(rule, Cap) and rule.of == "tag":
                    if len(attributes.tags):
                        tag_start, tags = attributes.tag_start, attributes.tags
                        row = (CAP, BY_TAG, rule.most)
                else:
                    keys = attributes.creator if rule.of == "creator" else attributes.sound
                    if kinds & (_CREATORS if rule.of == "creator" else _SOUNDS):
                        if rule.of == "creator":
                            creator = keys
                        else:
                            sound = keys
                        kind_ = SPACING if isinstance(rule, Spacing) else CAP
                        row = (kind_, _BY[rule.of], rule.slots if isinstance(rule, Spacing) else rule.most)
        if row is None:
            continue
        if not isinstance(rule, Quota):
            always |= bit
        table.append(row)
        names.append(name_of(rule))
    if not table and identity is None and not pins:
        return NOTHING
    in_force = np.full(n_slots, always, np.int64)
    for slot, more in at_slot.items():
        in_force[slot] |= more
    return Bound(
        Restrictions(
            np.array(table, np.int32).reshape(len(table), 3),
            _bits(seen, seen_bit, new, new_bit, off, off_bit) if seen_bit | new_bit | off_bit else _NO_I64,
            in_force,
            _NO_I64 if identity is None else identity,
            _stacked(creator, sound),
            tag_start,
            tags,
            _pins(pins, n_slots),
        ),
        tuple(names),
    )


def _stacked(creator: I64 | None, sound: I64 | None) -> I64:
    if creator is None and sound is None:
        return _NO_KEYS
    keys = np.zeros((2, len(creator if creator is not None else sound)), np.int64)  # type: ignore[arg-type]
    for row, found in enumerate((creator, sound)):
        if found is not None:
            keys[row] = found
    return keys


def _pins(pins: Mapping[int, int], n_slots: int) -> I32:
    places = np.full(n_slots, -1, np.int32)
    for slot, place in pins.items():
        places[slot] = place
    return places


# ---------------------------------------------------------------- marks


def has_some(mask: U8) -> bool:
    """Whether any is not 0; some times as fast as ``mask.any()`` for a thousand."""
    return bool(mask.tobytes().strip(b"\0"))


def seen_mask(identity: I64, seen: I64, seen_at: F64, since: float) -> U8:
    """1 where the same was seen at ``since`` or later; shape (n,). Some 10 microseconds for 1,000 and 2,000 seen.

    :param identity: shape (n,), as in `Attributes`
    :param seen, seen_at: shape (m,), in any order; of a key that stands several times the latest counts
    """
    return _seen_among(identity, _own(seen), _own(seen_at), since)  # type: ignore[no-any-return]


def blocked_mask(attributes: Attributes, blocked: I64) -> U8:
    """Codes of `BLOCKED_BY`, 0 where nothing is wrong; shape (n,).

    :param blocked: shape (b,), keys of identities, items, creators, sounds and tags; see
        `bandit.statistics.attributes.key_of`
    """
    return _blocked(  # type: ignore[no-any-return]
        attributes.item, attributes.identity, attributes.creator, attributes.sound, attributes.tag_start,
        attributes.tags, _own(blocked),
    )  # fmt: skip


def off_interest_mask(attributes: Attributes, liked: I64) -> U8:
    """1 where an item has tags and none of them is liked; shape (n,).

    :param liked: shape (l,), keys of tags (others do no harm)
    """
    return _off_interest(attributes.tag_start, attributes.tags, _own(liked))  # type: ignore[no-any-return]


def _own(array: NDArray[_T]) -> NDArray[_T]:
    """To numba a read-only array is of another type, and would have the kernel compiled anew, in a request."""
    return array if array.flags.writeable and array.flags.c_contiguous else array.copy()


@njit(cache=True, nogil=True)
def _set_of(keys):  # type: ignore[no-untyped-def]
    """Open addressing over keys above 0; at most half full."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    table = np.zeros(size, np.int64)
    for key in keys:
        if key > 0:
            at = key & (size - 1)
            while table[at] != 0 and table[at] != key:
                at = (at + 1) & (size - 1)
            table[at] = key
    return table


@njit(cache=True, nogil=True)
def _at(table, key):  # type: ignore[no-untyped-def]
    """Where the key stands; -1 if it does not."""
    at = key & (len(table) - 1)
    while table[at] != 0:
        if table[at] == key:
            return at
        at = (at + 1) & (len(table) - 1)
    return -1


@njit(cache=True, nogil=True)
def _kinds(item, identity, creator, sound):  # type: ignore[no-untyped-def]
    found = 0
    for i in range(len(item)):
        if identity[i] != item[i]:
            found |= _ALIKE
        if creator[i] != 0:
            found |= _CREATORS
        if sound[i] != 0:
            found |= _SOUNDS
        if found == _ALIKE | _CREATORS | _SOUNDS:
            break
    return found


@njit(cache=True, nogil=True)
def _bits(seen, seen_bit, new, new_bit, off, off_bit):  # type: ignore[no-untyped-def]
    """What each breaks wherever it stands: what was seen, and what is not of a quota's kind. Bit 0: no such rule."""
    bits = np.zeros(max(len(seen), len(new), len(off)), np.int64)
    if seen_bit != 0:
        for i in range(len(bits)):
            bits[i] |= seen_bit if seen[i] != 0 else 0
    if new_bit != 0:
        for i in range(len(bits)):
            bits[i] |= new_bit if new[i] == 0 else 0
    if off_bit != 0:
        for i in range(len(bits)):
            bits[i] |= off_bit if off[i] == 0 else 0
    return bits


@njit(cache=True, nogil=True)
def _seen_among(identity, keys, times, since):  # type: ignore[no-untyped-def]
    table = _set_of(identity)
    found = np.zeros(len(table), np.uint8)
    for k in range(len(keys)):
        if times[k] >= since:
            at = _at(table, keys[k])
            if at >= 0:
                found[at] = 1
    seen = np.zeros(len(identity), np.uint8)
    for i in range(len(identity)):
        seen[i] = found[_at(table, identity[i])]
    return seen


@njit(cache=True, nogil=True)
def _blocked(item, identity, creator, sound, tag_start, tags, keys):  # type: ignore[no-untyped-def]
    table = _set_of(keys)
    # Nearly all are not in it, and one look says so.
    perhaps = np.zeros(4096, np.bool_)
    for key in keys:
        perhaps[key & 4095] = True
    codes = np.zeros(len(item), np.uint8)
    for i in range(len(item)):
        same = perhaps[identity[i] & 4095] and _at(table, identity[i]) >= 0
        if same or (perhaps[item[i] & 4095] and _at(table, item[i]) >= 0):
            codes[i] = 1
        elif creator[i] != 0 and perhaps[creator[i] & 4095] and _at(table, creator[i]) >= 0:
            codes[i] = 2
        elif sound[i] != 0 and perhaps[sound[i] & 4095] and _at(table, sound[i]) >= 0:
            codes[i] = 3
        else:
            for k in range(tag_start[i], tag_start[i + 1]):
                if perhaps[tags[k] & 4095] and _at(table, tags[k]) >= 0:
                    codes[i] = 4
                    break
    return codes


@njit(cache=True, nogil=True)
def _off_interest(tag_start, tags, keys):  # type: ignore[no-untyped-def]
    table = _set_of(keys)
    n = len(tag_start) - 1
    off = np.zeros(n, np.uint8)
    for i in range(n):
        off[i] = tag_start[i + 1] > tag_start[i]
        for k in range(tag_start[i], tag_start[i + 1]):
            if _at(table, tags[k]) >= 0:
                off[i] = 0
                break
    return off


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache."""
    one = np.ones(1, np.int64)
    starts = np.array([0, 1], np.int64)
    _seen_among(one, one, np.zeros(1), 0.0)
    _blocked(one, one, one, one, starts, one, one)
    _off_interest(starts, one, one)
    _kinds(one, one, one, one)
    mask = np.ones(1, np.uint8)
    _bits(mask, 2, mask, 4, mask, 8)
