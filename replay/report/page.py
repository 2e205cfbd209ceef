"""An evaluation as one page of HTML that needs nothing else: no host, no script, no font."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Template
from markupsafe import Markup

from bandit.web.pages import STYLESHEET, TEMPLATES, environment_of
from bandit.web.pages.scale import Linear, around
from replay.report import charts, words
from replay.report.quiet import quiet
from replay.results import Check, Estimate, Evaluation, Part, PolicyAnswer

HERE: Final = Path(__file__).parent
STYLES: Final = (STYLESHEET, HERE / "style.css")
"""The look of all pages, and what only the report has."""
MOST_OPEN: Final = 3
"""Policies whose details stand open; with more of them, one is opened by whoever wants it."""
MOST_IN_SLICE: Final = 14
ENOUGH: Final = 10.0
"""Effective sample size below which a stretch of time is drawn as thin."""


class Row(NamedTuple):
    """A policy in the forest plot."""

    name: str
    spec: str
    anchor: str
    status: str
    value: str
    span: str
    verdict: str
    worth: str
    value_track: Markup
    difference_track: Markup


class SliceRow(NamedTuple):
    """A value of a sliced field."""

    label: str
    n: str
    status: str
    track: Markup
    text: str


class Slice(NamedTuple):
    """A sliced field: its largest values drawn, all of them in the table."""

    field: str
    rows: list[SliceRow]
    axis: Markup
    left: int
    parts: list[dict[str, str]]


class Fact(NamedTuple):
    """A figure at the head of a policy, and what is to be said of it."""

    name: str
    value: str
    small: str = ""


class Detail(NamedTuple):
    """All that is shown of one policy."""

    policy: PolicyAnswer
    anchor: str
    status: str
    verdict: str
    facts: list[Fact]
    time: dict[str, Markup] | None
    parts: list[dict[str, str]]
    weights: dict[str, Markup] | None
    bars: list[tuple[str, str]]
    slices: list[Slice]
    estimates: list[dict[str, str]]
    told: list[Check]
    passed: list[Check]
    open: bool


def render(evaluation: Evaluation) -> str:
    """The page, as text to be written to a file."""
    evaluation = quiet(evaluation)
    first, second = words.headline(evaluation)
    scale, difference_scale = _scales(evaluation)
    rows = [_row(policy, i, scale, difference_scale, evaluation) for i, policy in enumerate(evaluation.policies)]
    production = evaluation.production
    digits = words.places(words.width(production.interval, production.value))
    page = _template().render(
        evaluation=evaluation,
        css=Markup("\n".join(path.read_text(encoding="utf-8") for path in STYLES)),
        headline=first,
        second=second,
        mood=_mood(evaluation),
        dates=words.dates(evaluation.log),
        how_many=words.how_many(evaluation.log),
        sure=words.confidence(evaluation.alpha),
        production={
            "value": words.number(production.value, digits),
            "span": words.span(production.interval, digits) if production.interval else "",
            "value_track": charts.track(
                scale, production.value, production.interval, status="production", reference=production.value
            ),
            "difference_track": charts.track(difference_scale, None, None, status="production", reference=0.0),
        },
        rows=rows,
        value_axis=charts.axis(scale.ticks()),
        difference_axis=charts.axis(difference_scale.ticks(sign=True)),
        any_difference=any(policy.difference is not None for policy in evaluation.policies),
        details=[_detail(policy, i, evaluation) for i, policy in enumerate(evaluation.policies)],
        log_told=[check for check in evaluation.checks if check.level != "ok"],
        log_passed=[check for check in evaluation.checks if check.level == "ok"],
        seconds=f"{evaluation.seconds:,.1f} s",
    )
    # A number and its unit stay on one line.
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


@cache
def _template() -> Template:
    return environment_of(HERE, TEMPLATES).get_template("page.html.j2")


def _mood(evaluation: Evaluation) -> str:
    """The colour of the headline."""
    said = {_status(policy) for policy in evaluation.policies}
    return next((each for each in ("better", "undecided", "worse", "refused") if each in said), "undecided")


def _status(policy: PolicyAnswer) -> str:
    if policy.refused is not None:
        return "refused"
    return policy.difference.verdict if policy.difference is not None else "undecided"


def _primary(policy: PolicyAnswer) -> Estimate | None:
    if policy.refused is not None or not policy.estimates:
        return None
    return next((each for each in policy.estimates if each.estimator == policy.primary), policy.estimates[0])


def _scales(evaluation: Evaluation) -> tuple[Linear, Linear]:
    """Of values and of differences; refused policies' bounds run off them rather than squeeze the rest."""
    primaries = [each for each in map(_primary, evaluation.policies) if each is not None]
    intervals = [each.interval for each in (evaluation.production, *primaries) if each.interval is not None]
    values = [evaluation.production.value, *(each.value for each in primaries)]
    if not primaries:
        bounds = [policy.bounds for policy in evaluation.policies if policy.bounds is not None]
        values += [end for each in bounds for end in (each.low, each.high)]
    differences = [policy.difference for policy in evaluation.policies if policy.difference is not None]
    return (
        around(values, [(each.low, each.high) for each in intervals]),
        around([0.0, *(each.value for each in differences)], [(e.interval.low, e.interval.high) for e in differences]),
    )


def _row(policy: PolicyAnswer, i: int, scale: Linear, difference_scale: Linear, evaluation: Evaluation) -> Row:
    primary, status = _primary(policy), _status(policy)
    production = evaluation.production.value
    common = {"status": status, "reference": production}
    worth = words.compact(policy.weights.ess) if policy.weights is not None else "–"
    if primary is None:
        span = words.span(policy.bounds, words.places(words.width(policy.bounds))) if policy.bounds is not None else ""
        return Row(
            policy.name, policy.spec, f"policy-{i + 1}", status, "no answer", span, _verdict(policy, evaluation), worth,
            charts.track(scale, None, policy.bounds, hatched=True, **common),  # type: ignore[arg-type]
            charts.track(difference_scale, None, None, status=status, reference=0.0),
        )  # fmt: skip
    digits = words.places(words.width(primary.interval, primary.value))
    difference = policy.difference
    return Row(
        policy.name,
        policy.spec,
        f"policy-{i + 1}",
        status,
        words.number(primary.value, digits),
        words.span(primary.interval, digits) if primary.interval is not None else "",
        _verdict(policy, evaluation),
        worth,
        charts.track(scale, primary.value, primary.interval, **common),  # type: ignore[arg-type]
        charts.track(
            difference_scale,
            difference.value if difference is not None else None,
            difference.interval if difference is not None else None,
            status=status,
            reference=0.0,
        ),
    )


def _verdict(policy: PolicyAnswer, evaluation: Evaluation) -> str:
    if policy.refused is not None:
        return words.refusal(policy)
    return words.verdict(policy.difference, evaluation.log.events) if policy.difference is not None else ""


def _detail(policy: PolicyAnswer, i: int, evaluation: Evaluation) -> Detail:
    name = policy.name
    known = policy.difference is not None and words.same(policy.difference)
    return Detail(
        policy=policy,
        anchor=f"policy-{i + 1}",
        status=_status(policy),
        verdict=_verdict(policy, evaluation),
        facts=_facts(policy, evaluation),
        time=_time(policy.over_time, name) if len(policy.over_time) > 1 and not known else None,
        parts=[_part(part) for part in policy.over_time],
        weights=charts.weights(policy.weights, name=name) if policy.weights is not None else None,
        bars=_bars(policy),
        slices=[_slice(field, parts) for field, parts in policy.slices.items() if parts],
        estimates=[_estimate(each, policy.primary) for each in policy.estimates],
        told=sorted((check for check in policy.checks if check.level != "ok"), key=lambda c: c.level != "refusal"),
        passed=[check for check in policy.checks if check.level == "ok"],
        open=len(evaluation.policies) <= MOST_OPEN + 1 or i == 0,
    )


def _facts(policy: PolicyAnswer, evaluation: Evaluation) -> list[Fact]:
    facts: list[Fact] = []
    primary, difference, n = _primary(policy), policy.difference, evaluation.log.events
    if primary is not None:
        digits = words.places(words.width(primary.interval, primary.value))
        span = words.span(primary.interval, digits) if primary.interval is not None else ""
        facts.append(Fact(f"value, by {primary.estimator}", words.number(primary.value, digits), span))
    if difference is not None:
        digits = words.places(words.width(difference.interval, difference.value))
        span = words.span(difference.interval, digits, sign=True)
        facts.append(Fact("difference to production", words.signed(difference.value, digits), span))
        if difference.sequence is not None:
            span = words.span(difference.sequence, digits, sign=True)
            facts.append(Fact("however often you look", span, "holds at every look"))
    if policy.bounds is not None:
        span = words.span(policy.bounds, words.places(words.width(policy.bounds)))
        facts.append(Fact("the value must lie in", span, "whatever the log did not show"))
    if policy.weights is not None:
        facts.append(Fact("worth, in its own events", words.compact(policy.weights.ess), f"of {n:,} logged"))
    needed = policy.events_needed or (difference.events_needed if difference is not None else None)
    if needed is not None and n < needed <= words.FAR * n:
        facts.append(Fact("more events needed", f"about {words.about(needed - n)}", "logged like these"))
    if policy.updates is not None:
        facts.append(Fact("times it learned", f"{policy.updates:,}", "along the log"))
    return facts


def _time(parts: Sequence[Part], name: str) -> dict[str, Markup]:
    scale = charts.differences_scale(parts)
    return {
        "difference": charts.over_time(parts, scale, name=name),
        "gutter": charts.gutter(scale.ticks(5, sign=True), charts.PLOT),
        "worth": charts.worth_over_time(parts, name=name, enough=ENOUGH),
        "worth_gutter": charts.gutter(charts.worth_ticks(parts), charts.BARS),
        "axis": charts.time_axis([part.label for part in parts]),
    }


def _part(part: Part) -> dict[str, str]:
    """A line of a table."""
    width = words.width(part.difference_interval, part.difference or part.production)
    digits = words.places(width)
    return {
        "label": part.label,
        "n": f"{part.n:,}",
        "production": words.number(part.production, digits),
        "value": "–" if part.value is None else words.number(part.value, digits),
        "span": "–" if part.interval is None else words.span(part.interval, digits),
        "difference": "–" if part.difference is None else words.signed(part.difference, digits),
        "difference_span": (
            "–" if part.difference_interval is None else words.span(part.difference_interval, digits, sign=True)
        ),
        "worth": words.compact(part.ess),
    }


def _bars(policy: PolicyAnswer) -> list[tuple[str, str]]:
    if policy.weights is None:
        return []
    return [
        ("0" if high <= 0 else f"{words.compact(low)} to {words.compact(high)}", f"{count:,}")
        for low, high, count in policy.weights.histogram
        if count
    ]


def _slice(field: str, parts: Sequence[Part]) -> Slice:
    largest = sorted(parts, key=lambda part: -part.n)[:MOST_IN_SLICE]
    shown = [part for part in parts if part in largest]
    scale = charts.differences_scale(shown)
    rows = []
    for part in shown:
        interval = part.difference_interval
        status = "refused" if interval is None else charts.status_of(interval.low, interval.high)
        text = "too little to say"
        if part.difference is not None:
            text = words.signed(part.difference, words.places(words.width(interval, part.difference)))
        track = charts.track(scale, part.difference, interval, status=status, reference=0.0, height=26)
        rows.append(SliceRow(part.label, f"{part.n:,}", status, track, text))
    ticks = charts.axis(scale.ticks(4, sign=True), room=2)
    return Slice(field, rows, ticks, len(parts) - len(shown), [_part(part) for part in parts])


def _estimate(estimate: Estimate, primary: str) -> dict[str, str]:
    digits = words.places(words.width(estimate.interval, estimate.value))
    return {
        "name": estimate.estimator,
        "value": words.number(estimate.value, digits),
        "se": "–" if estimate.se is None else words.number(estimate.se, digits + 1),
        "span": "–" if estimate.interval is None else words.span(estimate.interval, digits),
        "method": estimate.interval.method if estimate.interval is not None else "",
        "note": estimate.note,
        "primary": "yes" if estimate.estimator == primary else "",
    }
