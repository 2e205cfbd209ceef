"""One viewer as the log knows them: tastes, what they were shown, what they do not want, what they said they like.

A taste is a pair of decayed sums over the seen slots of one creator, sound, tag, language or length: how many, and what
they earned. It forgets with the viewer's own swipes, not with the calendar:
who comes back after a month is still the same, and whose taste turns is followed after some tens of swipes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.reward.signals import Counted
from bandit.statistics.attributes import ItemAttributes, key_of

#: A taste halves after so many seen slots of the viewer: what they have long liked, and what they like lately.
LONG_HALF_LIFE: Final = 300.0
SHORT_HALF_LIFE: Final = 25.0
MAX_TASTES: Final = 512
MAX_SEEN: Final = 2_000
MAX_BLOCKED: Final = 2_000
MAX_INTERESTS: Final = 64

#: Columns of a taste. Of TIMED slots it is known whether the viewer stayed; they and those STAYED halve as LONG_N does.
SINCE, LONG_N, LONG_SUM, SHORT_N, SHORT_SUM, TIMED, STAYED = range(7)
TASTE_WIDTH: Final = 7
#: Stored of a viewer of whom it is never known.
UNTIMED_WIDTH: Final = 5
#: The taste for everything this viewer sees.
WHOLE: Final = 0

LENGTHS: Final = (0.0, 15.0, 30.0, 60.0, 120.0, 300.0)
LENGTH_KEYS: Final = tuple(key_of("length", f"{low:g}") for low in LENGTHS)
#: In words, by key.
LENGTH_NAMES: Final = {
    key: f"{low:g} to {high:g} s" if high else f"{low:g} s and more"
    for key, low, high in zip(LENGTH_KEYS, LENGTHS, (*LENGTHS[1:], None), strict=True)
}


def length_key(length_s: float) -> int:
    """Key of the length's class; 0 where the length is not known.

    >>> length_key(20.0) == length_key(29.9), length_key(30.0) == length_key(29.9), length_key(0.0)
    (True, False, 0)
    """
    if length_s <= 0.0:
        return 0
    return next(key for low, key in zip(LENGTHS[::-1], LENGTH_KEYS[::-1], strict=True) if length_s >= low)


def taste_keys(item: ItemAttributes) -> list[int]:
    """What of an item a viewer may have a taste for; never 0."""
    keys = (item.creator, item.sound, item.language, length_key(item.length_s), *item.tags)
    return [key for key in keys if key]


class Viewer:
    """Mutable, of one viewer; decay is applied when a taste is touched or read.

    :ivar n: seen slots that counted, ever
    :ivar tastes: key -> [viewer's n when last touched, decayed count and sum, the same decayed faster, decayed counts
        of slots of which it is known whether the viewer stayed, and of those where they did]
    :ivar seen: identity key -> log time when it was last in a feed of theirs; unseen ones are taken out again
    :ivar blocked: keys of items, creators, sounds and tags that they do not want
    :ivar interests: tags picked at sign-up, as given
    """

    __slots__ = ("blocked", "interests", "n", "seen", "tastes")

    def __init__(self) -> None:
        self.n = 0
        self.tastes: dict[int, list[float]] = {}
        self.seen: dict[int, float] = {}
        self.blocked: dict[int, float] = {}
        self.interests: tuple[str, ...] = ()

    def observe(self, item: ItemAttributes, counted: Counted) -> None:
        """One more seen slot."""
        self.n += 1
        timed = float(counted.stayed is not None)
        for key in (WHOLE, *taste_keys(item)):
            self._touch(key, 1.0, counted.reward, timed, counted.stayed or 0.0)
        if len(self.tastes) > MAX_TASTES:
            self._forget_tastes()

    def amend(self, item: ItemAttributes, counted: Counted, before: Counted) -> None:
        """Of a slot that was observed it turned out that something else came of it."""
        timed = float(counted.stayed is not None) - float(before.stayed is not None)
        stayed = (counted.stayed or 0.0) - (before.stayed or 0.0)
        for key in (WHOLE, *taste_keys(item)):
            self._touch(key, 0.0, counted.reward - before.reward, timed, stayed)

    def _touch(self, key: int, count: float, reward: float, timed: float, stayed: float) -> None:
        taste = self.tastes.get(key)
        if taste is None:
            self.tastes[key] = [float(self.n), count, reward, count, reward, timed, stayed]
            return
        passed = self.n - taste[SINCE]
        long, short = 0.5 ** (passed / LONG_HALF_LIFE), 0.5 ** (passed / SHORT_HALF_LIFE)
        taste[SINCE] = float(self.n)
        taste[LONG_N] = taste[LONG_N] * long + count
        taste[LONG_SUM] = taste[LONG_SUM] * long + reward
        taste[SHORT_N] = taste[SHORT_N] * short + count
        taste[SHORT_SUM] = taste[SHORT_SUM] * short + reward
        taste[TIMED] = taste[TIMED] * long + timed
        taste[STAYED] = taste[STAYED] * long + stayed

    def _forget_tastes(self) -> None:
        """Down to three quarters: what weighs least goes first."""

        def weight(key: int) -> float:
            taste = self.tastes[key]
            return float(taste[LONG_N] * 0.5 ** ((self.n - taste[SINCE]) / LONG_HALF_LIFE))

        # Among equals the key decides: their order in memory is another after a start.
        others = sorted(key for key in self.tastes if key != WHOLE)
        kept = sorted(others, key=weight, reverse=True)[: MAX_TASTES * 3 // 4]
        self.tastes = {key: self.tastes[key] for key in (WHOLE, *sorted(kept))}

    def served(self, identities: Iterable[int], ts: float) -> None:
        """These were put into a feed."""
        for identity in identities:
            # The newest stands last.
            self.seen.pop(identity, None)
            self.seen[identity] = ts
        while len(self.seen) > MAX_SEEN:
            del self.seen[next(iter(self.seen))]

    def unserved(self, identity: int, served_at: float) -> None:
        """It was in a feed, but never seen there; unless it was in another one since."""
        if self.seen.get(identity) == served_at:
            del self.seen[identity]

    def block(self, keys: Iterable[int], ts: float) -> None:
        """Not interested in these."""
        for key in keys:
            self.blocked.pop(key, None)
            self.blocked[key] = ts
        while len(self.blocked) > MAX_BLOCKED:
            del self.blocked[next(iter(self.blocked))]

    def unblock(self, keys: Iterable[int]) -> None:
        """Interested again."""
        for key in keys:
            self.blocked.pop(key, None)

    # ------------------------------------------------------------ kept

    def encode(self) -> bytes:
        """As stored; the same viewer gives the same bytes."""
        tastes = Tastes.of(self)
        return _encode(
            _Stored(
                n=self.n,
                keys=tastes.keys.tobytes(),
                tastes=_packed(tastes.values),
                seen=np.array(list(self.seen), np.int64).tobytes(),
                seen_at=np.array(list(self.seen.values()), np.float64).tobytes(),
                blocked=np.array(list(self.blocked), np.int64).tobytes(),
                blocked_at=np.array(list(self.blocked.values()), np.float64).tobytes(),
                interests=list(self.interests),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Viewer:
        """What `encode` made."""
        stored = _decode(data)
        viewer = cls()
        viewer.n = stored.n
        keys = np.frombuffer(stored.keys, np.int64)
        viewer.tastes = dict(zip(keys.tolist(), _unpacked(stored.tastes, len(keys)).tolist(), strict=True))
        viewer.seen = _pairs(stored.seen, stored.seen_at)
        viewer.blocked = _pairs(stored.blocked, stored.blocked_at)
        viewer.interests = tuple(stored.interests)
        return viewer


def _pairs(keys: bytes, values: bytes) -> dict[int, float]:
    return dict(zip(np.frombuffer(keys, np.int64).tolist(), np.frombuffer(values, np.float64).tolist(), strict=True))


def _packed(values: npt.NDArray[np.float64]) -> bytes:
    """Tastes as stored. Where it is never known who stays, as before that was counted: older epochs are matched."""
    timed = bool(values[:, TIMED].any())
    return values.tobytes() if timed else np.ascontiguousarray(values[:, :UNTIMED_WIDTH]).tobytes()


def _unpacked(data: bytes, n: int) -> npt.NDArray[np.float64]:
    """Shape (n, TASTE_WIDTH), of what `_packed` made."""
    values = np.frombuffer(data, np.float64)
    if len(values) == n * TASTE_WIDTH:
        return values.reshape(n, TASTE_WIDTH)
    whole = np.zeros((n, TASTE_WIDTH))
    whole[:, :UNTIMED_WIDTH] = values.reshape(n, UNTIMED_WIDTH)
    # As what is read from a buffer is: for another type the columns' kernel would be compiled a second time.
    whole.flags.writeable = False
    return whole


class _Stored(msgspec.Struct, array_like=True):
    n: int
    keys: bytes
    tastes: bytes
    seen: bytes
    seen_at: bytes
    blocked: bytes
    blocked_at: bytes
    interests: list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


class Tastes(NamedTuple):
    """A viewer's tastes as the columns' kernel reads them.

    :ivar n: seen slots that counted
    :ivar keys: shape (t,), ascending
    :ivar values: shape (t, TASTE_WIDTH)
    :ivar interests: shape (i,), keys of the tags that were picked
    """

    n: int
    keys: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    interests: npt.NDArray[np.int64]

    @classmethod
    def of(cls, viewer: Viewer) -> Tastes:
        """Tastes of a viewer as they stand."""
        keys = sorted(viewer.tastes)
        values = np.array([viewer.tastes[key] for key in keys], np.float64).reshape(-1, TASTE_WIDTH)
        tastes = cls(viewer.n, np.array(keys, np.int64), values, np.empty(0, np.int64))
        return tastes.with_interests(viewer.interests)

    def with_interests(self, interests: Iterable[str]) -> Tastes:
        """The same with other interests."""
        return self._replace(interests=np.array([key_of("tag", tag) for tag in interests], np.int64))


#: Of one who was never heard of.
NO_TASTES: Final = Tastes.of(Viewer())


class Glimpse(NamedTuple):
    """A stored viewer as a ranking needs them, without a dictionary made.

    :ivar seen, seen_at: shape (s,), identity keys and log times; of a key that stands twice the last holds
    :ivar blocked: shape (b,), keys of what they do not want
    """

    tastes: Tastes
    seen: npt.NDArray[np.int64]
    seen_at: npt.NDArray[np.float64]
    blocked: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: bytes) -> Glimpse:
        """What `Viewer.encode` made."""
        stored = _decode(data)
        keys = np.frombuffer(stored.keys, np.int64)
        tastes = Tastes(stored.n, keys, _unpacked(stored.tastes, len(keys)), np.empty(0, np.int64))
        return cls(
            tastes.with_interests(stored.interests),
            np.frombuffer(stored.seen, np.int64),
            np.frombuffer(stored.seen_at, np.float64),
            np.frombuffer(stored.blocked, np.int64),
        )


#: Of one who was never heard of.
NOTHING_SEEN: Final = Glimpse.of(Viewer().encode())
