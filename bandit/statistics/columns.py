"""What the service itself knows of every candidate, as numbers that the model learns from: the dense columns.

The table below is all there is. A column is 0 for what is as usual or not known, so a new item, or a new viewer, is
scored as the whole is. Columns are only ever added at the end: a decision keeps the values of what it drew, by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from bandit.statistics.attribute_table import attributes_of
from bandit.statistics.attributes import Attributes
from bandit.statistics.folding import OFFERED, TALLY_WIDTH
from bandit.statistics.profiles import LENGTH_KEYS, LENGTHS, LONG_HALF_LIFE, NO_TASTES, SHORT_HALF_LIFE, Tastes

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


class Column(NamedTuple):
    """One dense column.

    :ivar of: item, or viewer and item
    :ivar says: what it is; "drawn to" names the count that stands for what is not known yet
    """

    name: str
    of: str
    says: str


#: Drawn to the whole as if so many more slots had earned what all do.
ITEM_PRIOR: Final = 10.0
KIND_PRIOR: Final = 50.0
RATE_PRIOR: Final = 20.0
TASTE_PRIOR: Final = 5.0
LATELY_PRIOR: Final = 3.0

COLUMNS: Final = (
    Column("item_reward", "item", "mean reward of its seen slots less the mean of all, drawn to 0 by 10 slots"),
    Column("item_cold", "item", "how little of that is its own: 10 / (10 + seen slots)"),
    Column("item_completion", "item", "watched share of its length, less that of all, drawn to 0 by 20"),
    Column("item_negative", "item", "share of 'not interested' and reports, less that of all, drawn to 0 by 20"),
    Column("item_offered", "item", "log(1 + times it was a candidate) - 3"),
    Column("cold_offered", "item", "the same times item_cold: it stands in while its own reward is not known"),
    Column("tags_reward", "item", "mean reward of its tags' seen slots less the mean of all, by 50; averaged"),
    Column("cold_tags", "item", "the same times item_cold"),
    Column("creator_reward", "item", "mean reward of its creator's seen slots less the mean of all, drawn to 0 by 50"),
    Column("cold_creator", "item", "the same times item_cold"),
    Column("item_new", "item", "1 when it is first shown, halved every day"),
    Column("taste_tags", "viewer and item", "mean reward of the viewer's slots with its tags, less the viewer's, by 5"),
    Column("taste_creator", "viewer and item", "the same of its creator"),
    Column("taste_sound", "viewer and item", "the same of its sound"),
    Column("taste_language", "viewer and item", "the same of its language"),
    Column("taste_length", "viewer and item", "the same of its length's class"),
    Column("lately_tags", "viewer and item", "as taste_tags, of some 25 swipes before, drawn to 0 by 3"),
    Column("lately_creator", "viewer and item", "as taste_creator, of some 25 swipes before, drawn to 0 by 3"),
    Column("interest", "viewer and item", "share of its tags that the viewer picked at sign-up"),
    Column("item_stayed", "item", "share of its slots where viewers stayed, less that of all, drawn to 0 by 10 slots"),
    Column("stayed_tags", "viewer and item", "share of slots with its tags where the viewer stayed, less theirs, by 5"),
    Column("stayed_creator", "viewer and item", "the same of its creator"),
    Column("stayed_language", "viewer and item", "the same of its language"),
    Column("stayed_length", "viewer and item", "the same of its length's class"),
)  # fmt: skip
NAMES: Final = tuple(column.name for column in COLUMNS)

_DAY_S: Final = 86_400.0
_LENGTHS: Final = np.array(LENGTHS, np.float64)
_LENGTH_KEYS: Final = np.array(LENGTH_KEYS, np.int64)


class Places(NamedTuple):
    """Where the tallies of n candidates stand in a table of tallies; row 0 of it is everything's, row 1 nothing's.

    :ivar item, creator: shape (n,)
    :ivar tags: as `Attributes.tags`, candidate by candidate
    """

    item: I64
    creator: I64
    tags: I64


def known_to_arm(places: Places, tallies: F64, own: F64, own_at: I64) -> tuple[Places, F64]:
    """Places and tallies of the same candidates as an arm that learns apart knows them.

    :param own: shape (k, TALLY_WIDTH), tallies of its own; not yet where OFFERED is 0
    :param own_at: shape (m,) or shorter, by row of ``tallies`` where in ``own`` the arm's stands; 0 for none
    """
    n = len(places.item)
    used, at = np.unique(np.concatenate([[0, 1], places.item, places.creator, places.tags]), return_inverse=True)
    view = tallies[used]
    mine = own_at[np.minimum(used, len(own_at) - 1)] * (used < len(own_at))
    mine *= mine < len(own)
    has = own[mine, OFFERED] > 0.0
    # How often it was offered is the same for all.
    view[has, :OFFERED] = own[mine[has], :OFFERED]
    at = at[2:]
    return Places(at[:n], at[n : 2 * n], at[2 * n :]), view


def dense_columns(attributes: Attributes, places: Places, tallies: F64, tastes: Tastes, now: float) -> F32:
    """Values of all columns for n candidates, shape (n, len(COLUMNS)).

    :param tallies: shape (m, TALLY_WIDTH), which ``places`` point into
    :param now: log time of the epoch, UTC seconds
    """
    dense: F32 = _columns(
        attributes.creator, attributes.sound, attributes.language, attributes.length_s, attributes.tag_start,
        attributes.tags, places.item, places.creator, places.tags, tallies,
        float(tastes.n), tastes.keys, tastes.values, tastes.interests, now,
    )  # fmt: skip
    return dense


def viewer_features(tastes: Tastes, total: F64) -> dict[str, float]:
    """What of a viewer all candidates share.

    :param total: shape (TALLY_WIDTH,), of everything
    """
    if not len(tastes.keys) or tastes.keys[0] != 0:
        return {}
    mean = total[2] / (total[1] + 1.0)
    passed = tastes.n - tastes.values[0, 0]
    count, reward = (tastes.values[0, 1:3] * 0.5 ** (passed / LONG_HALF_LIFE)).tolist()
    return {"mean": float(np.float32((reward - count * mean) / (count + TASTE_PRIOR)))}


class TasteTold(NamedTuple):
    """One taste as the columns have it; see `records.Taste`."""

    key: int
    long: float
    lately: float
    slots: float


def told_tastes(tastes: Tastes, total: Sequence[float]) -> list[TasteTold]:
    """Every taste of a viewer, the strongest first.

    :param total: shape (TALLY_WIDTH,), of everything
    """
    if not len(tastes.keys):
        return []
    passed = tastes.n - tastes.values[:, 0]
    slow, fast = 0.5 ** (passed / LONG_HALF_LIFE), 0.5 ** (passed / SHORT_HALF_LIFE)
    slots, reward = slow * tastes.values[:, 1], slow * tastes.values[:, 2]
    slots_lately, reward_lately = fast * tastes.values[:, 3], fast * tastes.values[:, 4]
    mean = total[2] / (total[1] + 1.0)
    own = mean
    if tastes.keys[0] == 0:
        own = mean + (reward[0] - slots[0] * mean) / (slots[0] + TASTE_PRIOR)
    long = (reward - slots * own) / (slots + TASTE_PRIOR)
    lately = (reward_lately - slots_lately * own) / (slots_lately + LATELY_PRIOR)
    told = map(TasteTold, tastes.keys.tolist(), long.tolist(), lately.tolist(), slots.tolist())
    return sorted((one for one in told if one.key != 0), key=lambda one: abs(one.long) + abs(one.lately), reverse=True)


def digest_of(dense: F32) -> str:
    """Of the columns of all candidates, every bit; 64 bits, hex. A check against mistakes, not against malice."""
    return f"{int(_digest(dense.view(np.uint32).ravel())):016x}"


@njit(cache=True, nogil=True)
def _digest(words):  # type: ignore[no-untyped-def]
    """Four lanes of FNV-1a by words, each stirred, so that they can run beside one another."""
    prime = np.uint64(0x9E3779B97F4A7C15)
    a = np.uint64(0xCBF29CE484222325)
    b, c, d = a ^ np.uint64(1), a ^ np.uint64(2), a ^ np.uint64(3)
    n = len(words)
    at = 0
    while at + 4 <= n:
        a = (a ^ np.uint64(words[at])) * prime
        b = (b ^ np.uint64(words[at + 1])) * prime
        c = (c ^ np.uint64(words[at + 2])) * prime
        d = (d ^ np.uint64(words[at + 3])) * prime
        a ^= a >> np.uint64(32)
        b ^= b >> np.uint64(32)
        c ^= c >> np.uint64(32)
        d ^= d >> np.uint64(32)
        at += 4
    while at < n:
        a = (a ^ np.uint64(words[at])) * prime
        a ^= a >> np.uint64(32)
        at += 1
    a = (a ^ np.uint64(n)) * prime
    for lane in (b, c, d):
        a = (a ^ (a >> np.uint64(29)) ^ lane) * prime
    return a ^ (a >> np.uint64(32))


@njit(cache=True, nogil=True)
def _slot_of(key, table):  # type: ignore[no-untyped-def]
    """Place in the open table where the key stands, or would stand."""
    size = len(table)
    at = (key ^ (key >> 17)) & (size - 1)
    while table[at] >= 0 and table[at] != key:
        at = (at + 1) & (size - 1)
    return at


@njit(cache=True, nogil=True)
def _columns(  # type: ignore[no-untyped-def]
    creator, sound, language, length_s, tag_start, tags, item_at, creator_at, tag_at, tallies,
    n_seen, keys, values, interests, now,
):  # fmt: skip
    n = len(creator)
    out = np.zeros((n, 24), np.float32)
    total = tallies[0]
    mean = total[2] / (total[1] + 1.0)
    mean_completion = total[4] / (total[3] + 1.0)
    mean_negative = total[5] / (total[1] + 1.0)
    mean_stayed = total[8] / (total[7] + 1.0)

    # Of every taste, what it says of an item that has it, in the long run and lately: less the viewer's own mean.
    size = 16
    while size < 2 * len(keys):
        size *= 2
    table = np.full(size, -1, np.int64)
    long = np.zeros(size, np.float64)
    lately = np.zeros(size, np.float64)
    stayed = np.zeros(size, np.float64)
    own_mean = mean
    own_stayed = mean_stayed
    for k in range(len(keys)):
        passed = n_seen - values[k, 0]
        slow = 0.5 ** (passed / LONG_HALF_LIFE)
        if keys[k] == 0:
            # It is the first: the keys ascend.
            count, reward = values[k, 1] * slow, values[k, 2] * slow
            own_mean = mean + (reward - count * mean) / (count + TASTE_PRIOR)
            timed = values[k, 5] * slow
            own_stayed = mean_stayed + (values[k, 6] * slow - timed * mean_stayed) / (timed + TASTE_PRIOR)
            continue
        fast = 0.5 ** (passed / SHORT_HALF_LIFE)
        at = _slot_of(keys[k], table)
        table[at] = keys[k]
        long[at] = slow * (values[k, 2] - values[k, 1] * own_mean) / (slow * values[k, 1] + TASTE_PRIOR)
        lately[at] = fast * (values[k, 4] - values[k, 3] * own_mean) / (fast * values[k, 3] + LATELY_PRIOR)
        stayed[at] = slow * (values[k, 6] - values[k, 5] * own_stayed) / (slow * values[k, 5] + TASTE_PRIOR)

    for i in range(n):
        item = tallies[item_at[i]]
        seen = item[1]
        cold = ITEM_PRIOR / (seen + ITEM_PRIOR)
        out[i, 0] = (item[2] - seen * mean) / (seen + ITEM_PRIOR)
        out[i, 1] = cold
        out[i, 2] = (item[4] - item[3] * mean_completion) / (item[3] + RATE_PRIOR)
        out[i, 3] = (item[5] - seen * mean_negative) / (seen + RATE_PRIOR)
        out[i, 19] = (item[8] - item[7] * mean_stayed) / (item[7] + ITEM_PRIOR)
        offered = np.log1p(item[9]) - 3.0
        out[i, 4] = offered
        out[i, 5] = cold * offered
        if creator[i] != 0:
            its = tallies[creator_at[i]]
            reward = (its[2] - its[1] * mean) / (its[1] + KIND_PRIOR)
            out[i, 8] = reward
            out[i, 9] = cold * reward
            if len(keys) > 0:
                at = _slot_of(creator[i], table)
                out[i, 12] = long[at]
                out[i, 17] = lately[at]
                out[i, 21] = stayed[at]
        age = max(0.0, now - item[6]) if item[0] > 0.0 else 0.0
        out[i, 10] = 0.5 ** (age / _DAY_S)
        if len(keys) > 0:
            if sound[i] != 0:
                out[i, 13] = long[_slot_of(sound[i], table)]
            if language[i] != 0:
                at = _slot_of(language[i], table)
                out[i, 14] = long[at]
                out[i, 22] = stayed[at]
            if length_s[i] > 0.0:
                place = 0
                for k in range(1, len(_LENGTHS)):
                    if length_s[i] >= _LENGTHS[k]:
                        place = k
                at = _slot_of(_LENGTH_KEYS[place], table)
                out[i, 15] = long[at]
                out[i, 23] = stayed[at]
        n_tags = tag_start[i + 1] - tag_start[i]
        if n_tags > 0:
            reward = 0.0
            whole = 0.0
            whole_lately = 0.0
            whole_stayed = 0.0
            picked = 0
            for t in range(tag_start[i], tag_start[i + 1]):
                its = tallies[tag_at[t]]
                reward += (its[2] - its[1] * mean) / (its[1] + KIND_PRIOR)
                if len(keys) > 0:
                    at = _slot_of(tags[t], table)
                    whole += long[at]
                    whole_lately += lately[at]
                    whole_stayed += stayed[at]
                for k in range(len(interests)):
                    picked += interests[k] == tags[t]
            out[i, 6] = reward / n_tags
            out[i, 7] = cold * reward / n_tags
            out[i, 11] = whole / n_tags
            out[i, 16] = whole_lately / n_tags
            out[i, 18] = picked / n_tags
            out[i, 20] = whole_stayed / n_tags
    return out


def warm_up() -> None:
    """Compile the kernel, or load it from numba's cache."""
    one = np.ones(1, np.int64)
    places = Places(one, one, np.empty(0, np.int64))
    digest_of(dense_columns(attributes_of([("a", b"{}")]), places, np.zeros((2, TALLY_WIDTH)), NO_TASTES, 0.0))
