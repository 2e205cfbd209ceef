"""Curves of the dashboard: what was counted, stretch by stretch, as points over the log's time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil, floor, isfinite
from typing import Final, Literal, NamedTuple

import numpy as np

from bandit.loop.comparison import GROUPS, Mean
from bandit.loop.counts import (
    CHANCES,
    COMPARED,
    DAY,
    DRAWN,
    EXPLORED,
    GROUP_COLUMNS,
    HOUR,
    KEPT_S,
    MINUTE,
    PROPENSITY,
    SEEN,
    SLOT_REWARD,
    Stretch,
)
from bandit.loop.report import compared_reward_of, reward_of, target_of, total
from bandit.web.pages.scale import Tick

Span = Literal["hour", "day", "all"]
SPANS: Final[tuple[Span, ...]] = ("hour", "day", "all")
#: Points of a curve, at most; and feeds that a point should stand for, as long as enough points are left.
MOST: Final = 40
WORTH: Final = 40.0
FEWEST: Final = 10
#: So many stretches may stand for one point: rounds of a clock and a calendar.
_ROUND: Final = {
    MINUTE: (1, 2, 5, 10, 15, 30, 60),
    HOUR: (1, 2, 3, 4, 6, 12, 24),
    DAY: (1, 2, 4, 7, 14, 28, 56, 112, 224),
}
#: Of so many bins a point may be.
_POOLS: Final = (1, 3, 5, 9, 15)
_NOTHING: Final = Mean(None, None, None)
_STEPS_S: Final = (
    60, 120, 300, 600, 900, 1_800, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR,
    DAY, 2 * DAY, 4 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 56 * DAY, 112 * DAY, 365 * DAY, 730 * DAY, 3_650 * DAY,
)  # fmt: skip


class Window(NamedTuple):
    """What a span shows.

    :ivar step_s: length of the stretches that it is made of
    :ivar begin, end: log time; stretches that begin at ``begin`` or later count
    """

    span: Span
    step_s: int
    begin: float
    end: float


class Bin(NamedTuple):
    """Stretches that stand for one point; ``begin`` and ``end`` in log time."""

    begin: float
    end: float
    stretch: Stretch

    @property
    def at(self) -> float:
        """Its middle."""
        return (self.begin + self.end) / 2


class Point(NamedTuple):
    """A value at a moment; None where nothing is known, and ``low`` and ``high`` where it is not known how well."""

    at: float
    value: float | None
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    """One line of a chart.

    :ivar kind: names its look, see dashboard.css
    :ivar points: in order of time
    :ivar whole: over all of it
    :ivar pooled: each point is of so many bins, its own in their middle
    """

    name: str
    kind: str
    points: list[Point]
    whole: Point
    pooled: int = 1

    @property
    def known(self) -> bool:
        """Any point has a value."""
        return any(point.value is not None for point in self.points)


class SlotRow(NamedTuple):
    """One slot of feeds, from the top.

    :ivar seen: share of the drawn that were proven to be seen by now
    :ivar reward: what it earned when it was seen
    :ivar chances: mean number of candidates that could have stood there
    """

    number: int
    drawn: int
    seen: float
    reward: float | None
    propensity: float
    chances: float
    explored: float


def window_of(span: Span, *, at: float, since: float | None) -> Window:
    """The stretches that a span is made of: the finest that are still kept.

    :param at: log time of what was counted last
    :param since: of what was counted first
    """
    if span == "hour":
        return Window(span, MINUTE, at - at % MINUTE - HOUR, at)
    if span == "day":
        return Window(span, HOUR, at - at % HOUR - DAY, at)
    begin = at if since is None else min(since, at)
    # What is not a whole step older than is kept is there still.
    step = next((step for step in (MINUTE, HOUR, DAY) if at - begin < KEPT_S[step] - step), DAY)
    return Window(span, step, begin - begin % step, at)


def binned(stretches: Mapping[int, Stretch], window: Window) -> list[Bin]:
    """A window's stretches, put together to points that stand for enough; times without any have empty ones."""
    step = window.step_s
    inside = {start: one for start, one in stretches.items() if window.begin <= start <= window.end}
    feeds = sum(one.counts.get("feeds", 0.0) for one in inside.values())
    n_steps = floor((window.end - window.begin) / step) + 1
    width = step * _width(n_steps, feeds, _ROUND[step])
    first = window.begin - window.begin % width
    by_bin: dict[int, list[Stretch]] = {}
    for start, one in inside.items():
        by_bin.setdefault(int((start - first) // width), []).append(one)
    n_bins = int((window.end - first) // width) + 1
    return [
        Bin(max(first + place * width, window.begin), first + (place + 1) * width, total(by_bin.get(place, ())))
        for place in range(n_bins)
    ]


def _width(n_steps: int, feeds: float, rounds: Sequence[int]) -> int:
    """How many stretches stand for a point."""
    fitting = [width for width in rounds if n_steps / width <= MOST] or [ceil(n_steps / MOST)]
    worth = [width for width in fitting if feeds * width / n_steps >= WORTH and n_steps / width >= FEWEST]
    if worth:
        return worth[0]
    # Too few feeds for so many points: as few points as still make a curve.
    return next((width for width in reversed(fitting) if n_steps / width >= FEWEST), fitting[0])


def reward_curves(bins: Sequence[Bin]) -> list[Curve]:
    """What a slot earned, and what it would have with others' choice there; without what is never known.

    Others' rewards are known far less well than what was served; their points are pooled until they say something.
    """
    served = _curve("served", "served", bins, lambda one: _point(one, _served(one.stretch)))
    reach = _reach(served.points)
    others = [("without exploring", "best"), ("your own order", "caller"), ("chance", "chance")]
    return [curve for curve in (served, *(_pooled(*each, bins, reach) for each in others)) if curve.known]


def _curve(name: str, kind: str, bins: Sequence[Bin], of: Callable[[Bin], Point]) -> Curve:
    everything = Bin(bins[0].begin, bins[-1].end, total(one.stretch for one in bins))
    return Curve(name, kind, [of(one) for one in bins], of(everything))


def _reach(points: Sequence[Point]) -> float:
    """How far what was served lies from 0, and apart."""
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    return max([0.0, *ends]) - min([0.0, *ends])


def _pooled(name: str, kind: str, bins: Sequence[Bin], reach: float) -> Curve:
    """A target's curve, each point of as few bins as let nearly all of them be known to within ``reach``."""
    sums = np.concatenate([np.zeros((1, GROUPS, GROUP_COLUMNS)), np.cumsum([one.stretch.groups for one in bins], 0)])
    n = len(bins)

    def points(pool: int) -> list[Point]:
        half = pool // 2
        found = []
        for place, one in enumerate(bins):
            # Where nothing ended, what ended before and after does not stand for it.
            groups = sums[min(place + half + 1, n)] - sums[max(place - half, 0)]
            mean = target_of(Stretch(groups=groups), kind) if one.stretch.groups[:, COMPARED].any() else _NOTHING
            found.append(_point(one, mean))
        return found

    curve = _curve(name, kind, bins, lambda one: _point(one, target_of(one.stretch, kind)))
    for pool in _POOLS:
        if pool > 1:
            curve = curve._replace(points=points(pool), pooled=pool)
        told = [point for point in curve.points if point.value is not None]
        sure = [one for one in told if one.low is not None and one.high is not None and one.high - one.low <= reach]
        if len(sure) >= 0.9 * len(told) or 2 * pool > n:
            break
    return curve


def _served(stretch: Stretch) -> Mean:
    """Of the feeds that are compared; of all where none is."""
    return compared_reward_of(stretch) if stretch.groups[:, COMPARED].sum() > 0 else reward_of(stretch)


def _point(one: Bin, mean: Mean) -> Point:
    if mean.value is None or not isfinite(mean.value):
        return Point(one.at, None)
    if mean.low is None or mean.high is None or not (isfinite(mean.low) and isfinite(mean.high)):
        return Point(one.at, mean.value)
    return Point(one.at, mean.value, mean.low, mean.high)


def explored_curves(bins: Sequence[Bin]) -> list[Curve]:
    """Share of slots where another item stands than the best: as the draws' probabilities say it, and as it came."""
    found = [
        _curve("found", "served", bins, lambda one: _share(one, "explored", "slots")),
        _curve("expected", "chance", bins, lambda one: _share(one, "exploring", "exploring_slots")),
    ]
    return [curve for curve in found if curve.known]


def _share(one: Bin, part: str, whole: str) -> Point:
    count = one.stretch.counts.get
    n = count(whole, 0.0)
    value = count(part, 0.0) / n if n > 0 else None
    return Point(one.at, value if value is None or isfinite(value) else None)


def feeds_of(bins: Sequence[Bin]) -> list[float]:
    """Feeds whose windows ended, by bin."""
    return [max(one.stretch.counts.get("feeds", 0.0), 0.0) for one in bins]


def slot_rows(stretch: Stretch) -> list[SlotRow]:
    """Slots that were ever drawn, from the top."""
    rows = []
    for place, sums in enumerate(stretch.slots.tolist()):
        drawn = sums[DRAWN]
        if not (drawn > 0 and all(map(isfinite, sums))):
            continue
        rows.append(
            SlotRow(
                number=place + 1,
                drawn=round(drawn),
                seen=min(sums[SEEN] / drawn, 1.0),
                reward=sums[SLOT_REWARD] / sums[SEEN] if sums[SEEN] > 0 else None,
                propensity=sums[PROPENSITY] / drawn,
                chances=sums[CHANCES] / drawn,
                explored=sums[EXPLORED] / drawn,
            )
        )
    return rows


# ---------------------------------------------------------------- time


def moment(at: float, form: str) -> str:
    """UTC, as `strftime` writes it; a dash for what no calendar holds."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime(form).lstrip("0")
    except (ValueError, OverflowError, OSError):
        return "–"


def when(at: float) -> str:
    """
    >>> when(1_800_000_000.0)
    '15 Jan 2027, 08:00'
    """
    return moment(at, "%d %b %Y, %H:%M")


def period(one: Bin) -> str:
    """When a point is of.

    >>> period(Bin(1_800_000_000.0, 1_800_003_600.0, Stretch()))
    '15 Jan, 08:00 to 09:00'
    """
    if one.end - one.begin > DAY:
        return f"{moment(one.begin, '%d %b')} to {moment(one.end - 1, '%d %b')}"
    if one.end - one.begin == DAY:
        return moment(one.begin, "%d %b")
    return f"{moment(one.begin, '%d %b, %H:%M')} to {_clock(one.end)}"


def _clock(at: float) -> str:
    text = moment(at, "%d %H:%M")
    return text.rpartition(" ")[2]


def time_ticks(begin: float, end: float, most: int = 7) -> list[Tick]:
    """Round times on an axis from ``begin`` to ``end``, at most so many; midnights bear their date.

    >>> [tick.text for tick in time_ticks(1_800_000_000.0, 1_800_036_000.0)]
    ['08:00', '10:00', '12:00', '14:00', '16:00', '18:00']
    """
    length = end - begin
    if not (isfinite(length) and length > 0):
        return []
    step = next((step for step in _STEPS_S if length / step <= most), _STEPS_S[-1])
    first, last = ceil(begin / step - 1e-9), floor(end / step + 1e-9)
    if last - first > 2 * most:
        return []
    ticks = []
    for number in range(first, last + 1):
        at = number * step
        text = moment(at, "%b %Y") if step > 28 * DAY else moment(at, "%d %b") if at % DAY == 0 else _clock(at)
        ticks.append(Tick((at - begin) / length, text))
    return ticks
