"""What the dashboard says of the loop: the verdict, curves, comparisons, slots, exploration and health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from bandit.loop.counts import HOUR, MINUTE, Stretch
from bandit.loop.report import (
    Counted,
    Explored,
    LoopComparison,
    LoopReply,
    Sentence,
    explored_of,
    recent_of,
    total,
)
from bandit.service import Service
from bandit.store.loop import stretches
from bandit.web.pages.curves import (
    SPANS,
    Bin,
    Curve,
    SlotRow,
    Span,
    binned,
    explored_curves,
    feeds_of,
    period,
    reward_curves,
    slot_rows,
    when,
    window_of,
)
from bandit.web.pages.plot import chart, difference, drawable, scale_of, swatch, written
from bandit.web.pages.scale import Linear, around
from bandit.wording import about, compact, lasting, number, percent, places, signed

_SPAN_NAMES: Final[dict[Span, str]] = {"hour": "Hour", "day": "Day", "all": "All"}
_OF: Final[dict[Span, str]] = {"hour": "the last hour", "day": "the last day", "all": "all that was counted"}
_LEVELS: Final = {"ok": "ok", "warning": "warning", "waiting": "waiting", "broken": "refusal"}
_MOODS: Final = {"learning": "ok", "not_yet": "undecided", "broken": "worse"}


class Fact(NamedTuple):
    """One figure with its name."""

    name: str
    value: str
    small: str = ""


class Against(NamedTuple):
    """One comparison of what is served."""

    name: str
    verdict: str
    mood: str
    text: str
    picture: Markup | None


# ---------------------------------------------------------------- words


def verdict(reply: LoopReply) -> dict[str, Any]:
    """The first sentence as a headline with what follows, and the others."""
    first, rest = reply.sentences[0], reply.sentences[1:]
    headline, _, second = first.text.partition(": ")
    return {
        "name": reply.verdict,
        "headline": headline.rstrip(".") + ".",
        "second": second[:1].upper() + second[1:],
        "do": first.do,
        "mood": _MOODS[reply.verdict],
        "open": [_sentence(one) for one in rest if one.state != "ok"],
        "fine": [_sentence(one) for one in rest if one.state == "ok"],
    }


def _sentence(one: Sentence) -> dict[str, str]:
    return {"level": _LEVELS[one.state], "about": one.about, "text": one.text, "do": one.do}


def live(service: Service, counted: Counted, reply: LoopReply, query: Mapping[str, str]) -> dict[str, Any]:
    """Everything that is counted over a span of time."""
    spanned, _ = recent_of(counted)
    usual: Span = next(span for span, name in _OF.items() if name == spanned)
    span: Span = next((one for one in SPANS if one == query.get("span")), usual)
    window = window_of(span, at=counted.state.at, since=counted.state.since)
    kept = {MINUTE: counted.minutes, HOUR: counted.hours}.get(window.step_s, counted.days)
    if span == "all" and kept is not counted.days:
        kept = stretches(service.data.log, window.step_s, since=window.begin)
    bins = binned(kept, window)
    sums = total(one.stretch for one in bins)
    rewards, explored = reward_curves(bins), explored_curves(bins)
    return {
        "span": span,
        "of": _OF[span],
        "spans": [(one, _SPAN_NAMES[one]) for one in SPANS],
        "feeds": f"{sum(feeds_of(bins)):,.0f}",
        "reward": _figure("Reward of a slot", "rewards", rewards, bins, feeds=True) if rewards else None,
        "explored": _figure("Share of slots explored", "explored", explored, bins, share=True)
        if explored and len(bins) > 1
        else None,
        "against": _against(reply),
        "slots": [_slot(row) for row in slot_rows(sums)],
        "cost": _cost(explored_of(sums)),
        "exploration": _exploration(reply, sums, service),
        "propensities": _propensities(reply),
    }


def _figure(title: str, name: str, curves: list[Curve], bins: list[Bin], *, feeds: bool = False,
            share: bool = False) -> dict[str, Any]:  # fmt: skip
    """A chart, its key, and the same as a table."""
    behind = feeds_of(bins) if feeds else []
    drawn = {curve.kind for curve in drawable(curves, scale_of(curves))}
    rows = [
        [period(one), *(written(curve.points[place], share=share) for curve in curves),
         *([f"{behind[place]:,.0f}"] if feeds else [])]
        for place, one in enumerate(bins)
        if any(curve.points[place].value is not None for curve in curves)
    ]  # fmt: skip
    return {
        "name": name,
        "title": title,
        "svg": chart(curves, bins, title=title, feeds=behind, share=share, height=180 if share else 270),
        "key": [
            (
                swatch(curve.kind),
                curve.name,
                written(curve.whole._replace(low=None, high=None), share=share),
                _note(curve, bins, drawn=curve.kind in drawn),
            )
            for curve in curves
        ],
        "heads": ["when", *(curve.name for curve in curves), *(["feeds"] if feeds else [])],
        "rows": rows[::-1],
    }


def _note(curve: Curve, bins: Sequence[Bin], *, drawn: bool) -> str:
    """What is to be known of a curve."""
    if not drawn:
        return "too little is known for a curve"
    return f"each point over {lasting(curve.pooled * (bins[-1].end - bins[-1].begin))}" if curve.pooled > 1 else ""


# ---------------------------------------------------------------- compared


def _against(reply: LoopReply) -> list[Against]:
    known = [one for one in reply.comparisons if one.difference is not None]
    spans = [(one.low, one.high) for one in known if one.low is not None and one.high is not None]
    scale = around([0.0, *(one.difference or 0.0 for one in known)], spans, room=0.08)
    return [_compared(one, scale) for one in reply.comparisons]


def _compared(one: LoopComparison, scale: Linear) -> Against:
    name = "chance" if one.against == "chance" else "your own order"
    if one.difference is None or one.low is None or one.high is None or one.served is None:
        return Against(name, "not yet", "undecided", "Too few feeds are compared so far.", None)
    digits = places(one.high - one.low)
    mood = {"better": "better", "worse": "worse"}.get(one.verdict, "undecided")
    verdict = {"better": "earns more", "worse": "earns less"}.get(one.verdict, "undecided")
    text = (
        f"{signed(one.difference, digits)} a slot, surely between {signed(one.low, digits)} and "
        f"{signed(one.high, digits)}: {number(one.served, digits)} is earned, and {name} would earn "
        f"{number(one.target or 0.0, digits)}. Of {one.feeds:,} feeds"
    )
    text += "" if one.since is None else f" since {when(one.since)}"
    if one.feeds_needed is not None:
        text += f"; about {about(one.feeds_needed)} more would decide"
    return Against(name, verdict, mood, text + ".", difference(one.low, one.difference, one.high, scale, mood=mood))


# ---------------------------------------------------------------- slots


def _slot(row: SlotRow) -> list[Any]:
    return [
        str(row.number),
        f"{row.drawn:,}",
        (row.seen, percent(row.seen)),
        "–" if row.reward is None else number(row.reward, 3),
        compact(row.propensity),
        compact(row.chances),
        (row.explored, percent(row.explored)),
    ]


# ---------------------------------------------------------------- exploration


def _cost(found: Explored) -> str:
    if found.cost is None:
        return ""
    if found.low is None or found.high is None:
        return f"With the best there instead a slot would have earned {signed(found.cost)} more."
    digits = places(found.high - found.low)
    interval = f"{signed(found.low, digits)} to {signed(found.high, digits)}"
    cost = signed(found.cost, digits)
    text = f"What it cost: with the best there instead a slot would have earned {cost} ({interval}) more."
    return text + (" So far that cannot be told from nothing." if found.low <= 0.0 <= found.high else "")


def _exploration(reply: LoopReply, sums: Stretch, service: Service) -> list[Fact]:
    found = explored_of(sums)
    document = service.config().document
    floors = document.drawing(document.slots, 0, fallback=False).floors
    told = percent(floors[0]) if len(set(floors)) == 1 else f"{percent(min(floors))} to {percent(max(floors))}"
    return [
        Fact("explored", _percent(found.found), "of slots held another item than the best"),
        Fact("expected", _percent(found.expected), "as the probabilities of the draws say"),
        Fact("floor", told, "of each slot's draw falls on any candidate alike"),
        Fact("fell back", _percent(found.fallbacks), "of feeds were in your order"),
    ]


def _propensities(reply: LoopReply) -> dict[str, str]:
    found = reply.propensities
    if found.impossible:
        text = f"{found.impossible:,} slots bear a propensity that cannot be."
        return {"mood": "worse", "tag": "broken", "text": text}
    if found.ratio is None:
        return {"mood": "undecided", "tag": "not yet", "text": "No slot with a floor was drawn so far."}
    error = "" if found.error is None else f" ± {number(2 * found.error, places(found.error))}"
    ratio = number(found.ratio, places(found.error or 0.001))
    text = (
        f"The mean of 1/p over {found.slots:,} slots, against what it must be if the recorded propensities are those "
        f"of the draw: {ratio}{error}, and 1 is expected. The alarm stands at {percent(min(found.evidence, 1.0))} of "
        "its mark."
    )
    if found.alarm:
        return {"mood": "worse", "tag": "alarm", "text": text}
    return {"mood": "ok", "tag": "as drawn", "text": text}


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)


# ---------------------------------------------------------------- health


def health(reply: LoopReply) -> list[Fact]:
    """Figures of the loop that a glance should find."""
    joins, drift, model, recent = reply.joins, reply.drift, reply.model, reply.recent
    reward = "–" if recent.slot_reward is None else number(recent.slot_reward, 3)
    if recent.low is not None and recent.high is not None and recent.slot_reward is not None:
        digits = places(recent.high - recent.low)
        reward = number(recent.slot_reward, digits)
        interval = f"{number(recent.low, digits)} to {number(recent.high, digits)}, unseen ones 0"
    else:
        interval = "unseen ones 0"
    return [
        Fact("reward of a slot", reward, interval),
        Fact("feeds", f"{recent.feeds:,}", f"ended; {model.open_feeds:,} are open"),
        Fact("answered in time", _percent(joins.rate), "of feeds"),
        Fact("slots seen", _percent(joins.seen), "proven by what came back"),
        Fact("late", _percent(joins.late), f"of {joins.feedback:,} feedbacks"),
        Fact("orphans", _percent(joins.orphans), "feedback for no known feed"),
        Fact("model age", "–" if model.age_s is None else lasting(max(model.age_s, 0.0)),
             f"{model.learned_slots:,} slots learned"),
        Fact("trainer behind", lasting(max(model.lag_s, 0.0)), f"{model.lag_records:,} records"),
        Fact("weights in use", f"{drift.weights:,}", f"of {1 << drift.bits:,}"),
        Fact("shared by collision", percent(drift.shared), "of features, estimated"),
        Fact("new weights", "–" if drift.new_weights is None else f"{drift.new_weights:,}", "within a day"),
        Fact("never seen", _percent(drift.never_seen), "of candidates, by anybody"),
    ]  # fmt: skip
