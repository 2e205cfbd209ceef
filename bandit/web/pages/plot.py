"""Charts of the dashboard as inline SVG: curves with their bands, and differences with their intervals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import inf
from typing import Final

from markupsafe import Markup

from bandit.web.pages.curves import Bin, Curve, Point, period, time_ticks
from bandit.web.pages.scale import Linear, around
from bandit.web.pages.svg import el, pct, picture, silent, told
from bandit.wording import number, percent, places

HEIGHT: Final = 250
AXIS: Final = 26
#: Feeds behind the points, below the curves.
STRIP: Final = 30
# Inside it lengths are parts of a thousand across, whatever the width.
_ACROSS: Final = 1_000.0
#: From a value or a moment to where it is drawn.
Place = Callable[[float], float]


def scale_of(curves: Sequence[Curve]) -> Linear:
    """A scale that holds what is well known: all of the first curve, and of the others what is as usual."""
    points = [point for curve in curves for point in curve.points]
    first = [point.value for point in curves[0].points if point.value is not None]
    # Of what is hardly known no value says much; the table below has it.
    spans = [(point.low, point.high) for point in points if point.low is not None and point.high is not None]
    usual = sorted(high - low for low, high in spans)[len(spans) // 2] if spans else inf
    known = [
        point.value
        for point in points
        if point.value is not None
        and (point.low is None or point.high is None or point.high - point.low <= 4.0 * usual)
    ]
    return around([*first, *known], [span for span in spans if span[1] - span[0] <= 4.0 * usual])


def drawable(curves: Sequence[Curve], scale: Linear) -> list[Curve]:
    """The first curve, and of the others what is known to within the scale; without those of which that is little."""
    wide = scale.high - scale.low
    first, *others = curves
    found = [first]
    for curve in others:
        points = [
            point._replace(value=None, low=None, high=None)
            if point.low is not None and point.high is not None and point.high - point.low > wide
            else point
            for point in curve.points
        ]
        had, has = (sum(point.value is not None for point in each) for each in (curve.points, points))
        if 3 * has >= 2 * had:
            found.append(curve._replace(points=points))
    return found


def chart(curves: Sequence[Curve], bins: Sequence[Bin], *, title: str, feeds: Sequence[float] = (),
          share: bool = False, height: int = HEIGHT) -> Markup:  # fmt: skip
    """Curves over time.

    :param feeds: how many stand behind each bin; drawn as a strip below
    :param share: values are shares, told in percent; the axis begins at 0
    """
    begin, end = bins[0].begin, bins[-1].end
    scale = scale_of(curves)
    if share:
        scale = Linear(0.0, max(scale.high, 1e-3))
    floor = height - AXIS - (STRIP if feeds else 0)

    def y(value: float) -> float:
        return 4 + (floor - 8) * (1 - scale.at(value))

    lines, words = [], []
    for tick in scale.ticks(4):
        at = 4 + (floor - 8) * (1 - tick.at)
        text = percent(scale.low + tick.at * (scale.high - scale.low)) if share else tick.text
        lines.append(el("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
        words.append(el("text", text, x="0", y=max(at - 4, 11.0), class_="tick halo"))
    ticks = time_ticks(begin, end)
    for place, tick in enumerate(ticks):
        # At the ends writing would stand outside; on phones there is room for every second.
        anchor = "start" if tick.at < 0.04 else "end" if tick.at > 0.96 else "middle"
        look = "tick spare" if place % 2 and len(ticks) > 4 else "tick"
        words.append(el("text", tick.text, x=pct(tick.at), y=height - 6, class_=look, text_anchor=anchor))
    lines.append(el("line", x1="0", x2="100%", y1=floor, y2=floor, class_="base"))

    def across(at: float) -> float:
        return _ACROSS * (at - begin) / (end - begin)

    drawn = [*_strip(feeds, bins, floor), *_paths(drawable(curves, scale), across, y)]
    plot = el("svg", *drawn, x="0", y="0", width="100%", height=height, viewBox=f"0 0 {_ACROSS:.0f} {height}",
              preserveAspectRatio="none", class_="plot")  # fmt: skip
    looks = [
        el("rect", told(_reads(one, place, curves, feeds, share=share)), class_="look", y="0", height=floor,
           x=pct((one.begin - begin) / (end - begin)), width=pct((one.end - one.begin) / (end - begin)))
        for place, one in enumerate(bins)
    ]  # fmt: skip
    return picture(*lines, plot, *words, *looks, height=height, title=title, description=_story(curves, share=share))


def _strip(feeds: Sequence[float], bins: Sequence[Bin], floor: float) -> Iterator[Markup]:
    most = max(feeds, default=0.0)
    if most <= 0.0:
        return
    begin, end = bins[0].begin, bins[-1].end
    for n, one in zip(feeds, bins, strict=True):
        tall = (STRIP - 6) * n / most
        left = _ACROSS * (one.begin - begin) / (end - begin)
        wide = _ACROSS * (one.end - one.begin) / (end - begin)
        yield el("rect", x=left + 0.1 * wide, width=0.8 * wide, y=floor + STRIP - tall, height=tall, class_="column")


def _paths(curves: Sequence[Curve], across: Place, y: Place) -> Iterator[Markup]:
    for curve in reversed(curves):
        for run in _runs(curve.points, lambda point: point.low is not None):
            there = [(across(point.at), y(point.low or 0.0), y(point.high or 0.0)) for point in run]
            top = " L".join(f"{x:.1f},{high:.1f}" for x, _, high in there)
            bottom = " L".join(f"{x:.1f},{low:.1f}" for x, low, _ in reversed(there))
            yield el("path", d=f"M{top} L{bottom} Z", class_=f"band {curve.kind}")
    for curve in reversed(curves):
        for run in _runs(curve.points, lambda point: point.value is not None):
            dots = [f"{across(point.at):.1f},{y(point.value or 0.0):.1f}" for point in run]
            # A line of no length has round ends: a dot.
            d = f"M{' L'.join(dots)}" if len(dots) > 1 else f"M{dots[0]} h0"
            yield el("path", d=d, class_=f"stroke {curve.kind}")


def _runs(points: Sequence[Point], has: Callable[[Point], bool]) -> Iterator[list[Point]]:
    """Points that follow each other and have something to draw."""
    for there, run in groupby(points, has):
        if there:
            yield list(run)


def _reads(one: Bin, place: int, curves: Sequence[Curve], feeds: Sequence[float], *, share: bool) -> str:
    lines = [period(one)]
    for curve in curves:
        point = curve.points[place]
        if point.value is not None:
            lines.append(f"{curve.name} {written(point, share=share)}")
    if feeds:
        lines.append(f"{feeds[place]:,.0f} feeds")
    return "\n".join(lines)


def written(point: Point, *, share: bool = False) -> str:
    """A value and how well it is known.

    >>> written(Point(0.0, 0.31234, 0.29, 0.33)), written(Point(0.0, 0.1), share=True), written(Point(0.0, None))
    ('0.312 (0.290 to 0.330)', '10 %', '–')
    """
    if point.value is None:
        return "–"
    if share:
        return percent(point.value)
    if point.low is None or point.high is None:
        return number(point.value, 3)
    digits = places(point.high - point.low)
    return f"{number(point.value, digits)} ({number(point.low, digits)} to {number(point.high, digits)})"


def _story(curves: Sequence[Curve], *, share: bool) -> str:
    """For those who do not see it: where each curve begins and ends."""
    said = []
    for curve in curves:
        known = [point for point in curve.points if point.value is not None]
        if known:
            first, last = (percent(one.value or 0.0) if share else number(one.value or 0.0, 3)
                           for one in (known[0], known[-1]))  # fmt: skip
            said.append(f"{curve.name}: {first} at first, {last} at last")
    return "; ".join(said)


def swatch(kind: str) -> Markup:
    """The look of a curve, for a key."""
    line = el("line", x1="1", x2="27", y1="6", y2="6", class_=f"stroke {kind}")
    return el("svg", line, class_="swatch", width="28", height="12", aria_hidden="true", focusable="false")


def difference(low: float, value: float, high: float, scale: Linear, *, mood: str) -> Markup:
    """An interval about a difference, beside 0."""
    middle = 18
    zero = pct(scale.at(0.0))
    left, right = scale.at(low), scale.at(high)
    return silent(
        el("line", x1="0", x2="100%", y1=middle, y2=middle, class_="grid"),
        el("line", x1=zero, x2=zero, y1=4, y2=32, class_="reference"),
        el("text", "0", x=zero, y=46, class_="tick", text_anchor="middle"),
        el("rect", x=pct(left), width=pct(right - left), y=middle - 5, height=10, rx=5, class_="reach"),
        el("circle", cx=pct(scale.at(value)), cy=middle, r=7, class_="dot"),
        height=52,
        class_=f"chart difference {mood}",
    )
