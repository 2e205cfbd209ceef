"""Numbers and verdicts in plain words: what the terminal and the page both say."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

from bandit.wording import about as about
from bandit.wording import compact as compact
from bandit.wording import number as number
from bandit.wording import percent as percent
from bandit.wording import places as places
from bandit.wording import signed as signed
from replay.results import Difference, Evaluation, Interval, LogSummary, PolicyAnswer

ROUNDING = 1e-9
"""Difference to production, in shares of it, that is none."""
FAR = 1000
"""From how many times as many events on their number is no longer said: it would not be believed."""


def span(interval: Interval, digits: int, *, sign: bool = False) -> str:
    """``0.031 to 0.042``."""
    write = signed if sign else number
    return f"{write(interval.low, digits)} to {write(interval.high, digits)}"


def width(interval: Interval | None, value: float = 0.0) -> float:
    """Of an interval; without one, a hundredth of the value."""
    if interval is not None and isfinite(interval.high - interval.low) and interval.high > interval.low:
        return interval.high - interval.low
    return abs(value) / 100


def confidence(alpha: float) -> str:
    """``95 %``."""
    return f"{100 * (1 - alpha):.6g} %"


def same(difference: Difference) -> bool:
    """The target is production: nothing differs, and nothing can. See :mod:`replay.report.quiet` for rounding."""
    return difference.value == 0 and difference.interval.low == 0 == difference.interval.high


def verdict(difference: Difference, n: int) -> str:
    """``better by 12 % (5 to 19 %)``, ``undecided: about 41,000 more events needed``."""
    if same(difference):
        return "the same as production"
    if difference.verdict != "undecided":
        return f"{difference.verdict} by {amount(difference)}"
    if difference.events_needed is not None and difference.events_needed > n:
        if difference.events_needed > FAR * n:
            return f"undecided: over {FAR:,} times as many events needed"
        return f"undecided: about {about(difference.events_needed - n)} more events needed"
    return "undecided"


def amount(difference: Difference) -> str:
    """How much better or worse, with its interval: in percent of production's value where that is a sensible unit."""
    relative, digits = difference.relative, places(width(difference.interval, difference.value))
    low, high = sorted((abs(difference.interval.low), abs(difference.interval.high)))
    if relative is None or difference.value == 0 or abs(relative) > 10:
        return f"{number(abs(difference.value), digits)} ({number(low, digits)} to {number(high, digits)})"
    per = abs(relative / difference.value)
    shares = [100 * per * each for each in (abs(difference.value), low, high)]
    digits = 0 if shares[0] >= 10 and shares[2] - shares[1] >= 2 else 1
    value, bottom, top = (f"{share:,.{digits}f}" for share in shares)
    return f"{value} % ({bottom} to {top} %)"


_SHORT = {
    "effective sample size": "the log is worth too few of its events",
    "largest weight": "a single event would decide",
    "uncovered target mass": "the log never shows part of it",
    "mean weight": "its weights cannot be right",
}


def refusal(policy: PolicyAnswer) -> str:
    """Why there is no answer, in a few words: ``refused: the log never shows part of it``."""
    for check in policy.checks:
        if check.level == "refusal" and check.name in _SHORT:
            return f"refused: {_SHORT[check.name]}"
    return "refused"


def headline(evaluation: Evaluation) -> tuple[str, str]:
    """The answer in one sentence, and a second that says how sure it is."""
    answered = [policy for policy in evaluation.policies if policy.refused is None and policy.difference is not None]
    if not evaluation.policies:
        return "Production's own value.", "No other policy was asked for."
    if not answered:
        return _all_refused(evaluation)
    better = [policy for policy in answered if _is(policy, "better")]
    if better:
        return _better(evaluation, better)
    sure = f"with {confidence(evaluation.alpha)} confidence"
    worse = [policy for policy in answered if _is(policy, "worse")]
    if len(worse) == len(answered):
        if len(worse) == 1:
            return f"{worse[0].name} is worse than production.", f"By {_amount(worse[0])}, {sure}."
        return "Nothing here beats production.", f"All {len(worse)} policies are worse, {sure}."
    undecided = [policy for policy in answered if _is(policy, "undecided") and not same(_difference(policy))]
    if not undecided:
        return f"{answered[0].name} is production itself.", "It earns what was earned: the known answer."
    best = max(undecided, key=lambda policy: _difference(policy).value)
    seems = _difference(best)
    digits = places(width(seems.interval, seems.value))
    if len(undecided) == 1:
        text = f"Too close to call: {best.name} or production."
    else:
        text = f"Too close to call between production and {len(undecided)} policies."
    second = f"{best.name} differs by {signed(seems.value, digits)} ({span(seems.interval, digits, sign=True)})"
    if seems.events_needed is not None and evaluation.log.events < seems.events_needed <= FAR * evaluation.log.events:
        more = about(seems.events_needed - evaluation.log.events)
        second += f"; if that is what it is, about {more} more events would decide"
    return text, second + "."


def _better(evaluation: Evaluation, better: list[PolicyAnswer]) -> tuple[str, str]:
    best = max(better, key=lambda policy: _difference(policy).value)
    difference = _difference(best)
    if difference.relative is not None and 0 < difference.relative <= 10:
        text = f"{best.name} would have earned {percent(difference.relative)} more than production."
    else:
        digits = places(width(difference.interval, difference.value))
        text = f"{best.name} would have earned {number(difference.value, digits)} more an event than production."
    second = f"Better by {_amount(best)}, with {confidence(evaluation.alpha)} confidence, on the same events."
    if len(better) > 1:
        second += f" {len(better)} of {len(evaluation.policies)} policies are better than production."
    return text, second


def _all_refused(evaluation: Evaluation) -> tuple[str, str]:
    first = evaluation.policies[0]
    reasons = [check.sentence for check in first.checks if check.level == "refusal"] or [first.refused or ""]
    name = first.name if len(evaluation.policies) == 1 else "any of these policies"
    return f"This log cannot tell what {name} would have earned.", reasons[0]


def _is(policy: PolicyAnswer, verdict: str) -> bool:
    return policy.difference is not None and policy.difference.verdict == verdict


def _difference(policy: PolicyAnswer) -> Difference:
    assert policy.difference is not None
    return policy.difference


def _amount(policy: PolicyAnswer) -> str:
    return amount(_difference(policy))


def dates(log: LogSummary) -> str:
    """``2 to 14 November 2026``; empty where the log knows no times.

    >>> when = dict(name="", kind="", events=1, slots=1, viewers=None, reward="")
    >>> dates(LogSummary(**when, first_time=1.7e9, last_time=1.7005e9))
    '14 to 20 November 2023'
    """
    if log.first_time is None or log.last_time is None:
        return ""
    first, last = (datetime.fromtimestamp(at, UTC) for at in (log.first_time, log.last_time))
    end = f"{last.day} {last:%B %Y}"
    if first.date() == last.date():
        return f"{end}, {first:%H:%M} to {last:%H:%M} UTC"
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day} to {end}"
    if first.year == last.year:
        return f"{first.day} {first:%B} to {end}"
    return f"{first.day} {first:%B %Y} to {end}"


def how_many(log: LogSummary) -> str:
    """``10,000 events, 30,000 slots, 812 viewers``."""
    parts = [f"{log.events:,} event{'s' if log.events != 1 else ''}"]
    if log.slots != log.events:
        parts.append(f"{log.slots:,} slots")
    if log.viewers is not None:
        parts.append(f"{log.viewers:,} viewer{'s' if log.viewers != 1 else ''}")
    return ", ".join(parts)
