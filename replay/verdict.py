"""Better than production, worse, or not decided yet: the difference and how many events would decide."""

from __future__ import annotations

from math import ceil, isfinite
from typing import Final

from scipy.special import ndtri

from replay.errors import BadQuestion
from replay.results import Difference, Interval, Verdict

POWER: Final = 0.8
"""Chance that as many events as are said to be needed do decide."""
_MOST: Final = 10**15
"""Events beyond this are not worth telling: the difference seems to be nothing."""


def difference(
    *,
    value: float,
    se: float | None,
    interval: Interval,
    production: float,
    n: int,
    sequence: Interval | None = None,
    power: float = POWER,
) -> Difference:
    """Target minus production, with its verdict.

    The interval decides; it is for who looks once. Who looks again and again goes by the sequence. If the two
    contradict each other, nothing is decided.

    :param production: what production earned; ``relative`` is over it
    :param n: events so far
    """
    verdict = _verdict(interval)
    if sequence is not None and {verdict, _verdict(sequence)} == {"better", "worse"}:
        verdict = "undecided"
    return Difference(
        value=value,
        se=se,
        interval=interval,
        verdict=verdict,
        relative=value / production if production != 0.0 else None,
        events_needed=(
            events_needed(n, value, _reach(value, se, interval), interval.alpha, power=power)
            if verdict == "undecided"
            else None
        ),
        sequence=sequence,
    )


def _verdict(interval: Interval) -> Verdict:
    if interval.low > 0.0:
        return "better"
    if interval.high < 0.0:
        return "worse"
    return "undecided"


def _reach(value: float, se: float | None, interval: Interval) -> float | None:
    """The standard error that a normal interval reaching as far towards 0 would have, if that is more.

    Where weights are heavy or rewards sparse the interval is wider on one side than any multiple of ``se`` says, and
    that is what more events must shrink.
    """
    arm = value - interval.low if value > 0.0 else interval.high - value
    implied = max(arm, 0.0) / _quantile(interval.alpha)
    known = [each for each in (se, implied) if each is not None and isfinite(each)]
    return max(known, default=None)


def events_needed(n: int, difference: float, se: float | None, alpha: float, power: float = POWER) -> int | None:
    """How many events in all, logged like these, would decide, if the difference is what it seems.

    The usual sample size of a two-sided test: n * ((z(1 - alpha / 2) + z(power)) * se / difference)^2.

    >>> events_needed(10_000, 0.01, 0.01, 0.05)
    78489

    :param n: events so far
    :param se: standard error of the difference after these
    :param power: chance of deciding with that many
    :returns: never fewer than ``n``; None if the difference or its error is nothing at all, or unknown
    :raises BadQuestion: alpha or power is not between 0 and 1
    """
    if not 0.0 < power < 1.0:
        raise BadQuestion(f"power {power} is no chance of deciding; give one between 0 and 1, such as .8")
    quantiles = _quantile(alpha) + float(ndtri(power))
    if n == 0 or se is None or not se > 0.0 or difference == 0.0 or not isfinite(se / difference):
        return None
    ratio = quantiles * se / abs(difference)
    if not ratio < (_MOST / n) ** 0.5:
        return None
    return max(n, ceil(n * ratio * ratio))


def _quantile(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise BadQuestion(f"alpha {alpha} is no chance of being wrong; give one between 0 and 1, such as .05")
    return float(ndtri(1.0 - alpha / 2.0))
