"""Differences that are rounding become 0, before anything is written or drawn of them."""

from __future__ import annotations

from msgspec.structs import replace

from replay.report.words import ROUNDING
from replay.results import Difference, Evaluation, Interval, Part, PolicyAnswer


def quiet(evaluation: Evaluation) -> Evaluation:
    """The same evaluation; a policy that is production differs from it by 0, not by 1e-17."""
    noise = ROUNDING * abs(evaluation.production.value)
    return replace(evaluation, policies=[_policy(policy, noise) for policy in evaluation.policies])


def _policy(policy: PolicyAnswer, noise: float) -> PolicyAnswer:
    return replace(
        policy,
        difference=None if policy.difference is None else _difference(policy.difference, noise),
        slices={field: [_part(part, noise) for part in parts] for field, parts in policy.slices.items()},
        over_time=[_part(part, noise) for part in policy.over_time],
    )


def _difference(difference: Difference, noise: float) -> Difference:
    interval = _interval(difference.interval, noise)
    return replace(difference, value=_value(difference.value, noise), interval=interval)


def _part(part: Part, noise: float) -> Part:
    return replace(
        part,
        difference=None if part.difference is None else _value(part.difference, noise),
        difference_interval=None if part.difference_interval is None else _interval(part.difference_interval, noise),
    )


def _interval(interval: Interval, noise: float) -> Interval:
    return replace(interval, low=_value(interval.low, noise), high=_value(interval.high, noise))


def _value(value: float, noise: float) -> float:
    return 0.0 if abs(value) <= noise else value
