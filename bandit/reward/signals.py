"""What is worked out from the signals that were sent: completion, rewatch, and watch time debiased by length.

All of it is a pure function of the raw signals, the length of the item version that was shown, and the table of the
config that made the decision, so that old logs can be worked out again, with this table or with another.

Long videos are watched longer, short ones are finished more often: by seconds the long ones win for their length, by
completion the short ones. `watch` is the position of the seconds watched among those of videos of the same length, so
that its mean is the same at every length. Source: Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction
for Video Recommendation", KDD 2022 (D2Q); here without buckets, by interpolating between lengths.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct, field

from bandit.reward.formula import Formula
from bandit.statistics.attributes import length_of

#: The signal that all of it is worked out from, and the one that says how long the video is, if the item does not.
WATCHED: Final = "watch_s"
LENGTH: Final = "length_s"
#: Names that a formula may use besides the signals. A signal of the caller's own with such a name goes before it.
DERIVED: Final = {
    "completion": "share of the video that was watched, at most 1",
    "rewatch": "complete plays beyond the first, at most 10",
    "watch": "position of watch_s among plays of videos of the same length, from 0 to 1",
    LENGTH: "length of the video in seconds, 0 if nobody said",
}
MOST_REWATCH: Final = 10
#: Players report the end of a video a little early or late: two percent are no difference.
SLACK: Final = 0.02
MAX_KEPT_LENGTHS: Final = 500_000


# ---------------------------------------------------------------- the table

Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Level = Annotated[float, Meta(gt=0, lt=1)]


class WatchRow(Struct, forbid_unknown_fields=True):
    """How long videos of one length are watched: one quantile of `watch_s` for each of the table's levels."""

    length_s: Annotated[float, Meta(gt=0, le=86_400)]
    watch_s: Annotated[list[Seconds], Meta(min_length=2, max_length=100)]


# What `reference-1` says, made by the model that its test writes out: four plays in ten are skips (log-normal, median
# 1.5 s, sigma .6), six last as Weibull (scale 30 s, shape .8) has it unless the video ends; a quarter of those who
# reach an end begin again. Made for a feed that knows its viewers: half of all plays of long videos pass 4 s.
_LEVELS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_REFERENCE: Final = (
    (2.0, (0.59, 0.84, 1.26, 1.75, 2.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0, 6.0)),
    (5.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 5.0, 5.0, 5.0, 8.66, 10.0, 15.0)),
    (10.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 9.73, 10.0, 10.0, 10.0, 20.0, 30.0)),
    (15.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 9.73, 15.0, 15.0, 15.0, 28.39, 33.35)),
    (30.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 9.73, 18.97, 30.0, 30.0, 31.66, 60.0)),
    (60.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 9.73, 18.97, 33.74, 60.0, 60.0, 88.77)),
    (120.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 9.73, 18.97, 33.74, 62.19, 93.6, 120.0)),
    (300.0, (0.59, 0.84, 1.26, 1.75, 2.52, 4.35, 9.73, 18.97, 33.74, 62.19, 93.6, 174.72)),
)


class WatchTable(Struct, forbid_unknown_fields=True):
    """How long videos of each length are watched, so that `watch` can compare like with like.

    `levels` are probabilities, and each row holds the quantiles of `watch_s` at these levels for one length; between
    lengths they are interpolated. `typical_s` stands in for a length that nobody said. The shipped table is a
    reference to begin with; `python -m replay watch-table LOG` makes one from what your own viewers did.
    """

    name: Annotated[str, Meta(min_length=1, max_length=100)] = "reference-1"
    typical_s: Annotated[float, Meta(gt=0, le=86_400)] = 27.0
    levels: Annotated[list[Level], Meta(min_length=2, max_length=100)] = field(default_factory=lambda: list(_LEVELS))
    rows: Annotated[list[WatchRow], Meta(min_length=1, max_length=100)] = field(
        default_factory=lambda: [WatchRow(length_s, list(watch_s)) for length_s, watch_s in _REFERENCE]
    )


def faults_of(table: WatchTable) -> list[str]:
    """Why a table cannot be used, in words; empty if it can."""
    faults = []
    if not _rises(table.levels, strictly=True):
        faults.append("watch.levels must rise")
    if not _rises([row.length_s for row in table.rows], strictly=True):
        faults.append("watch.rows must rise in length_s")
    for place, row in enumerate(table.rows):
        if len(row.watch_s) != len(table.levels):
            faults.append(
                f"watch.rows[{place}].watch_s has {len(row.watch_s)} values for {len(table.levels)} levels; give one "
                "for each"
            )
        elif not _rises(row.watch_s, strictly=False):
            faults.append(f"watch.rows[{place}].watch_s falls; quantiles never do")
    return faults


def _rises(values: Sequence[float], *, strictly: bool) -> bool:
    return all(a < b or (a == b and not strictly) for a, b in pairwise(values))


# ---------------------------------------------------------------- working it out


class Watch:
    """A table made ready to be asked.

    :param table: one without :func:`faults_of`
    """

    def __init__(self, table: WatchTable) -> None:
        self.typical_s = table.typical_s
        # Nothing is watched for no time; a level of its own makes the ends ordinary.
        self._levels = (0.0, *table.levels)
        self._lengths = [row.length_s for row in table.rows]
        self._rows = [(0.0, *row.watch_s) for row in table.rows]

    def position(self, watch_s: float, length_s: float) -> float:
        """Position of a play among those of videos of this length, from 0 to 1; the mean over a play's slack.

        Never falls as `watch_s` rises. Below the shortest length of the table plays are scaled to it; above the
        longest, seconds are compared as they are.

        >>> watch = Watch(WatchTable())
        >>> [round(watch.position(10.0, length_s), 2) for length_s in (10.0, 60.0)]
        [0.76, 0.6]
        """
        if watch_s <= 0:
            return 0.0
        quantiles: Sequence[float]
        after = bisect_right(self._lengths, length_s)
        if after == 0:
            watch_s *= self._lengths[0] / length_s
            quantiles = self._rows[0]
        elif after == len(self._lengths):
            quantiles = self._rows[-1]
        else:
            before = self._lengths[after - 1]
            part = (length_s - before) / (self._lengths[after] - before)
            pairs = zip(self._rows[after - 1], self._rows[after], strict=True)
            quantiles = [low + part * (high - low) for low, high in pairs]
        return (self._level(watch_s * (1 - SLACK), quantiles) + self._level(watch_s * (1 + SLACK), quantiles)) / 2

    def _level(self, watch_s: float, quantiles: Sequence[float]) -> float:
        low, high = bisect_left(quantiles, watch_s), bisect_right(quantiles, watch_s)
        if low < high:
            return (self._levels[low] + self._levels[high - 1]) / 2
        if high == len(quantiles):
            return 1.0 - (1.0 - self._levels[-1]) * quantiles[-1] / watch_s
        below, above = quantiles[high - 1], quantiles[high]
        part = (watch_s - below) / (above - below)
        return self._levels[high - 1] + part * (self._levels[high] - self._levels[high - 1])


def derive(signals: Mapping[str, float], length_s: float, watch: Watch) -> dict[str, float]:
    """Values of all names in :data:`DERIVED`.

    :param signals: combined, as sent. A `length_s` among them goes before the item's; without `watch_s` nothing was
        watched
    :param length_s: of the item version that was shown, 0 if it has none

    >>> found = derive({"watch_s": 25.0}, 10.0, Watch(WatchTable()))
    >>> found["completion"], found["rewatch"], round(found["watch"], 2)
    (1.0, 1.0, 0.97)
    """
    watched = max(0.0, signals.get(WATCHED, 0.0))
    length_s = max(0.0, signals.get(LENGTH, length_s))
    # Of an unknown length: completed or not, no one can say how often.
    plays = int(min(watched / length_s + SLACK, 1.0 + MOST_REWATCH)) if length_s > 0 else 0
    of = length_s if length_s > 0 else watch.typical_s
    return {
        "completion": min(watched / of, 1.0),
        "rewatch": float(max(0, plays - 1)),
        "watch": watch.position(watched, of),
        LENGTH: length_s,
    }


class Counted(NamedTuple):
    """What statistics count of a seen slot.

    :ivar stayed: from :func:`stayed`
    """

    reward: float
    stayed: float | None


def stayed(signals: Mapping[str, float], length_s: float, enough_s: float) -> float | None:
    """Whether a viewer stayed with a video, 1 or 0: for so long, or to its end; None where nobody can say.

    >>> stayed({"watch_s": 7.2}, 30.0, 7.0), stayed({"watch_s": 5.0}, 5.0, 7.0), stayed({"watch_s": 5.0}, 30.0, 7.0)
    (1.0, 1.0, 0.0)

    :param length_s: as :func:`derive` has it
    :param enough_s: `stayed_s` of the config; 0: nobody asks
    """
    watched = signals.get(WATCHED)
    if watched is None or enough_s <= 0.0:
        return None
    length_s = signals.get(LENGTH, length_s)
    enough = min(enough_s, length_s) if length_s > 0.0 else enough_s
    return float(watched >= enough * (1.0 - SLACK))


def worth(
    formula: Formula, signals: Mapping[str, float], length_s: float, watch: Watch, *, own: Collection[str]
) -> float | None:
    """What a formula over signals and derived names gives; None where it has no value. See :func:`derive`.

    :param own: signals that the config lists: such a name means what was sent, and 0 if nothing was
    """
    if formula.names.isdisjoint(DERIVED):
        return formula(signals)
    derived = derive(signals, length_s, watch)
    return formula({**{name: derived[name] for name in derived if name not in own or name == LENGTH}, **signals})


# ---------------------------------------------------------------- lengths

#: Lengths in seconds of item versions by their numbers, 0 where none was given.
LengthsOf = Callable[[Sequence[int]], Sequence[float]]


def no_lengths(numbers: Sequence[int]) -> Sequence[float]:
    """Where nothing is known of items."""
    return [0.0] * len(numbers)


class Lengths:
    """Lengths of item versions, read once and kept, in bounded memory.

    :param versions_of: (id, features text) of versions by number
    """

    def __init__(self, versions_of: Callable[[Sequence[int]], Mapping[int, tuple[str, bytes]]]) -> None:
        self._versions_of = versions_of
        self._kept: dict[int, float] = {}

    def __call__(self, numbers: Sequence[int]) -> Sequence[float]:
        missing = [number for number in numbers if number not in self._kept]
        if missing:
            if len(self._kept) + len(missing) > MAX_KEPT_LENGTHS:
                self._kept.clear()
                missing = list(numbers)
            found = self._versions_of(missing)
            for number in missing:
                # A version that the log does not hold is found out, and told of, where its features are learned from.
                self._kept[number] = length_of(found[number][1]) if number in found else 0.0
        return [self._kept[number] for number in numbers]
