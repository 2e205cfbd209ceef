"""The pictures of the page: pure functions from numbers to inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Final, NamedTuple

from markupsafe import Markup

from bandit.web.pages.scale import Linear, Log, Tick, around
from bandit.web.pages.svg import el, pct, picture, silent, told
from replay.report import words
from replay.results import Interval, Part, WeightSummary

ROW: Final = 34
"""Height of a row of a forest plot."""
BAR: Final = 7
AXIS: Final = 24
PLOT: Final = 170
BARS: Final = 64
CROWDED: Final = 30
"""Stretches of time from which on their marks are drawn smaller."""
WITHIN: Final = 0.88
"""How much of its height a histogram fills: above it there is room for words."""


# ---------------------------------------------------------------- forest plots


def track(
    scale: Linear,
    value: float | None,
    interval: Interval | None,
    *,
    status: str,
    reference: float | None = None,
    height: int = ROW,
    hatched: bool = False,
) -> Markup:
    """One row: the interval as a bar, the value as a mark whose shape tells the verdict too, and the reference line.

    :param status: ``better``, ``worse``, ``undecided``, ``production`` or ``refused``
    :param hatched: the bar is what the value must lie in, not where it is likely to be
    """
    parts: list[Markup] = []
    if interval is not None:
        left, right = scale.at(interval.low), scale.at(interval.high)
        parts.append(
            el("rect", x=pct(left), width=pct(max(right - left, 0.002)), y=-BAR / 2, height=BAR, rx=BAR / 2,
               class_=f"bar {status}{' hatched' * hatched}", fill="url(#hatch)" if hatched else None)
        )  # fmt: skip
        for end, inside, direction in ((left, scale.holds(interval.low), -1), (right, scale.holds(interval.high), 1)):
            if not inside:
                parts.append(_beyond(end, 0, direction, status))
    if value is not None and scale.holds(value):
        parts.append(mark(scale.at(value), 0, status))
    # Rows are as tall as what is written beside them: the bar stands in the middle, the line goes all the way.
    drawn = [el("svg", *parts, x=0, y="50%", width="100%", height=1, overflow="visible")]
    if reference is not None:
        at = pct(scale.at(reference))
        drawn.insert(0, el("line", x1=at, x2=at, y1="0", y2="100%", class_="reference"))
    return silent(*drawn, height=height, class_="track")


def mark(at: float, middle: float, status: str, size: float = 6.5) -> Markup:
    """Up for better, down for worse, a disc for undecided, a square for production."""
    shapes = {
        "better": f"M0,{-size} L{size},{size * 0.8} L{-size},{size * 0.8} Z",
        "worse": f"M0,{size} L{size},{-size * 0.8} L{-size},{-size * 0.8} Z",
        "production": f"M{-size * 0.75},{-size * 0.75} H{size * 0.75} V{size * 0.75} H{-size * 0.75} Z",
    }
    # A nested picture moves to a percentage of the width, which a path's own coordinates cannot be.
    shape = (
        el("path", d=shapes[status], class_=f"mark {status}")
        if status in shapes
        else el("circle", r=size * 0.8, class_=f"mark {status}")
    )
    return el("svg", shape, x=pct(at), y=middle, overflow="visible", width=1, height=1)


def _beyond(at: float, middle: float, direction: int, status: str) -> Markup:
    """The bar goes on beyond the end of the scale."""
    arrow = f"M{-6 * direction},-5 L0,0 L{-6 * direction},5"
    return el(
        "svg",
        el("path", d=arrow, class_=f"beyond {status}"),
        x=pct(at),
        y=middle,
        overflow="visible",
        width=1,
        height=1,
    )


def axis(ticks: Sequence[Tick], *, room: int = 4) -> Markup:
    """Numbers below a plot; every second one, but never 0, gives way on narrow screens if there are more than fit.

    :param room: how many fit there
    """
    crowded = len(ticks) > room
    zero = next((i for i, tick in enumerate(ticks) if tick.text.strip("0.") == ""), 0)
    parts = []
    for i, tick in enumerate(ticks):
        anchor = "start" if tick.at < 0.06 else "end" if tick.at > 0.94 else "middle"
        spare = " spare" if crowded and (i - zero) % 2 else ""
        parts.append(el("line", x1=pct(tick.at), x2=pct(tick.at), y1=0, y2=4, class_="notch"))
        parts.append(el("text", tick.text, x=pct(tick.at), y=17, text_anchor=anchor, class_=f"tick{spare}"))
    return silent(*parts, height=AXIS, class_="axis")


# ---------------------------------------------------------------- over time


def gutter(ticks: Sequence[Tick], height: int) -> Markup:
    """What stands at the left of a plot, on the lines of its grid."""
    parts = [
        el("text", tick.text, x="100%", dx=-8, y=_clear(height * (1 - tick.at) + 4, height), text_anchor="end",
           class_="tick zero" if tick.text.strip("0.") == "" else "tick")
        for tick in ticks
    ]  # fmt: skip
    return silent(*parts, height=height, class_="gutter")


def _clear(y: float, height: int) -> float:
    """A text's line such that nothing of it is cut off."""
    return min(max(y, 10.0), float(height))


def over_time(parts: Sequence[Part], scale: Linear, *, name: str) -> Markup:
    """Difference to production, stretch by stretch: bars are intervals, marks are values, zero is production."""
    n = len(parts)
    drawn: list[Markup] = []
    for tick in scale.ticks(5, sign=True):
        y = PLOT * (1 - tick.at)
        drawn.append(el("line", x1="0", x2="100%", y1=y, y2=y, class_="grid"))
    zero = PLOT * (1 - scale.at(0.0))
    drawn.append(el("line", x1="0", x2="100%", y1=zero, y2=zero, class_="reference"))
    for i, part in enumerate(parts):
        drawn.append(_stretch(part, (i + 0.5) / n, 1 / n, scale))
    known = [part for part in parts if part.difference is not None]
    description = f"{n} stretches of time"
    if known:
        best, worst = (f(known, key=lambda part: part.difference or 0.0) for f in (max, min))
        description += f"; from {words.compact(worst.difference or 0)} to {words.compact(best.difference or 0)}"
    return picture(*drawn, height=PLOT, title=f"Difference of {name} to production over time", description=description)


def _stretch(part: Part, at: float, width: float, scale: Linear) -> Markup:
    target = el("rect", x=pct(at - width / 2), y=0, width=pct(width), height=PLOT, class_="hover")
    if part.difference is None or part.difference_interval is None:
        gone = el("text", "×", x=pct(at), y=PLOT - 6, text_anchor="middle", class_="tick")
        thin = f"{part.label}: too little to say ({part.n:,} events, worth {words.compact(part.ess)})"
        return el("g", told(thin), target, gone)
    low, high = part.difference_interval.low, part.difference_interval.high
    status = status_of(low, high)
    top, bottom = PLOT * (1 - scale.at(high)), PLOT * (1 - scale.at(low))
    digits = words.places(high - low)
    span = words.span(part.difference_interval, digits, sign=True)
    said = f"{part.label}: {words.signed(part.difference, digits)} ({span})"
    return el(
        "g",
        told(said),
        target,
        el("line", x1=pct(at), x2=pct(at), y1=top, y2=bottom, class_=f"whisker {status}"),
        mark(at, PLOT * (1 - scale.at(part.difference)), status, size=4.5 if width > 1 / CROWDED else 3.2),
    )


def status_of(low: float, high: float) -> str:
    """What an interval of a difference says of it."""
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def worth_ticks(parts: Sequence[Part]) -> list[Tick]:
    """The largest effective size, for the gutter."""
    return [Tick(1.0, words.compact(max((part.ess for part in parts), default=0.0)))]


def worth_over_time(parts: Sequence[Part], *, name: str, enough: float) -> Markup:
    """Effective sample size, stretch by stretch, as bars from zero."""
    n = len(parts)
    most = max((part.ess for part in parts), default=0.0) or 1.0
    drawn: list[Markup] = []
    for i, part in enumerate(parts):
        height = max(BARS * part.ess / most, 1.0)
        thin = " thin" if part.ess < enough else ""
        said = f"{part.label}: {part.n:,} events are worth {words.compact(part.ess)}"
        drawn.append(
            el("g", told(said), el("rect", x=pct((i + 0.1) / n), width=pct(0.8 / n), y=BARS - height, height=height,
                                   class_=f"column{thin}"))
        )  # fmt: skip
    drawn.append(el("line", x1="0", x2="100%", y1=BARS, y2=BARS, class_="base"))
    description = f"between {words.compact(min((part.ess for part in parts), default=0))} and {words.compact(most)}"
    return picture(*drawn, height=BARS + 1, title=f"Effective sample size of {name} over time", description=description)


def time_axis(labels: Sequence[str]) -> Markup:
    """The first, the last and a few between."""
    n = len(labels)
    shown = sorted({0, n - 1, *(round(i * (n - 1) / 4) for i in range(5))}) if n > 5 else list(range(n))
    parts = []
    for rank, i in enumerate(shown):
        at = (i + 0.5) / n
        anchor = "start" if at < 0.08 else "end" if at > 0.92 else "middle"
        at = 0.0 if anchor == "start" else 1.0 if anchor == "end" else at
        # With the time of day there is room for the first and the last alone.
        inner = 0 < rank < len(shown) - 1
        spare = " spare" if inner and (rank % 2 or "T" in labels[i]) and len(shown) > 3 else ""
        parts.append(el("text", when(labels[i]), x=pct(at), y=15, text_anchor=anchor, class_=f"tick{spare}"))
    return silent(*parts, height=20, class_="axis")


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def when(label: str) -> str:
    """A stretch of time in few letters; other labels as they are.

    >>> when("2026-11-03"), when("2026-11-03T09:30Z"), when("week 3")
    ('3 Nov', '3 Nov 09:30', 'week 3')
    """
    day, _, clock = label.partition("T")
    parts = day.split("-")
    if len(parts) != 3 or not all(part.isdigit() for part in parts) or not 1 <= int(parts[1]) <= 12:
        return label
    return f"{int(parts[2])} {_MONTHS[int(parts[1]) - 1]}" + (f" {clock.rstrip('Z')}" if clock else "")


# ---------------------------------------------------------------- weights


class Heights(NamedTuple):
    """Of counts, in a logarithmic scale on which 1 is not 0: one event among a million must be seen."""

    most: int

    def at(self, count: int) -> float:
        """Between 0 and 1."""
        return (log10(count) + 0.3) / (log10(max(self.most, 10)) + 0.3) if count else 0.0

    def ticks(self) -> list[Tick]:
        """Powers of ten."""
        return [Tick(self.at(10**i), f"{10**i:,}") for i in range(int(log10(max(self.most, 1)) + 1e-9) + 1)]


class Histogram(NamedTuple):
    """How the weights of a policy are laid out: a column for 0, if need be, and then decades."""

    bars: list[tuple[float, float, int]]
    zeros: int
    scale: Log
    heights: Heights

    @classmethod
    def of(cls, summary: WeightSummary) -> Histogram | None:
        """None where all weights are 0, or none are known."""
        bars = [bar for bar in summary.histogram if bar[1] > 0]
        if not bars:
            return None
        zeros = sum(count for _, high, count in summary.histogram if high <= 0)
        scale = Log(min(bars[0][0], 1.0) / 1.05, max(bars[-1][1], 1.0) * 1.05)
        return cls(bars, zeros, scale, Heights(max(count for *_, count in summary.histogram)))

    @property
    def left(self) -> float:
        """Where the decades begin."""
        return 0.11 if self.zeros else 0.0

    def x(self, value: float) -> float:
        """Between ``left`` and 1."""
        return self.left + (1 - self.left) * self.scale.at(value)


def weights(summary: WeightSummary, *, name: str) -> dict[str, Markup] | None:
    """How many events have which weight: the chart, its gutter and its axis. Both scales are logarithmic."""
    laid = Histogram.of(summary)
    if laid is None:
        return None
    drawn: list[Markup] = []
    ticks = [Tick(tick.at * WITHIN, tick.text) for tick in laid.heights.ticks()]
    for tick in ticks:
        y = PLOT * (1 - tick.at)
        drawn.append(el("line", x1="0", x2="100%", y1=y, y2=y, class_="grid"))
    if laid.zeros:
        said = f"{laid.zeros:,} events of weight 0"
        drawn.append(_column(0.01, laid.left - 0.045, PLOT * WITHIN * laid.heights.at(laid.zeros), said))
    for low, high, count in laid.bars:
        if count:
            said = f"{count:,} event{'s' if count != 1 else ''} of weight {words.compact(low)} to {words.compact(high)}"
            begin, end = laid.x(low), laid.x(high)
            drawn.append(_column(begin, end - begin - 0.002, PLOT * WITHIN * laid.heights.at(count), said))
    one = pct(laid.x(1.0))
    drawn.append(el("line", x1=one, x2=one, y1=0, y2=PLOT, class_="reference"))
    late = laid.x(1.0) > 0.55
    drawn.append(
        el("text", "counted once", x=one, y=10, dx=-6 if late else 6, text_anchor="end" if late else "start",
           class_="label halo")
    )  # fmt: skip
    drawn.append(el("line", x1="0", x2="100%", y1=PLOT, y2=PLOT, class_="base"))
    below = [Tick(laid.left + (1 - laid.left) * tick.at, tick.text) for tick in laid.scale.ticks()]
    description = f"largest {words.compact(summary.largest)}, worth {words.compact(summary.ess)} events"
    return {
        "chart": picture(*drawn, height=PLOT, title=f"Weights of {name}", description=description),
        "gutter": gutter(ticks, PLOT),
        "axis": axis([*([Tick(0.0375, "0")] if laid.zeros else []), *below]),
    }


def _column(x: float, width: float, height: float, said: str) -> Markup:
    bar = el("rect", x=pct(x), width=pct(max(width, 0.004)), y=PLOT - height, height=height, class_="column")
    return el("g", told(said), bar)


def differences_scale(parts: Sequence[Part]) -> Linear:
    """One that holds the differences of these parts, and 0."""
    spans = [part.difference_interval for part in parts if part.difference_interval is not None]
    values = [0.0, *(part.difference for part in parts if part.difference is not None)]
    return around(values, [(each.low, each.high) for each in spans])
