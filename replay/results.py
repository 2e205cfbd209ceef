"""What an evaluation answers: plain typed results, the same in Python, as JSON, on the terminal and on the page."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Interval(Struct, frozen=True):
    """``low`` to ``high`` holds the truth with probability ``1 - alpha``, in the sense that ``method`` gives it."""

    low: float
    high: float
    method: str
    alpha: float


class Estimate(Struct, omit_defaults=True):
    """One estimator's answer.

    :param estimator: its name, with a tuned parameter written out: ``dros(lambda=10)``
    :param se: standard error, over viewers; None where there is none to give
    :param note: what was chosen and how, what was assumed
    :param monte_carlo: how much of ``se`` is from drawing policies again: the error over other re-draws of this log,
        contained in ``se`` and so in the interval; None where nothing had to be drawn again
    """

    estimator: str
    value: float
    se: float | None = None
    interval: Interval | None = None
    note: str = ""
    monte_carlo: float | None = None


Verdict = Literal["better", "worse", "undecided"]


class Difference(Struct, omit_defaults=True):
    """Target minus production on the same events: the question that is asked.

    :param relative: ``value`` over production's value; None if that is 0
    :param events_needed: how many events in all, logged like these, would decide, if the difference is what it
        seems; None once decided, or if it seems to be nothing at all
    :param sequence: holds at every look, however often; None if it was not asked for
    """

    value: float
    se: float | None
    interval: Interval
    verdict: Verdict
    relative: float | None = None
    events_needed: int | None = None
    sequence: Interval | None = None


class Check(Struct, omit_defaults=True):
    """One diagnostic: what was measured, what is allowed, and what to do.

    :param level: ``ok``; ``warning``: the answer stands, look at it; ``refusal``: there is no answer
    :param where: the day, model version or slot that it is about; empty for the whole log
    """

    name: str
    level: Literal["ok", "warning", "refusal"]
    measured: float | None
    threshold: float | None
    sentence: str
    advice: str = ""
    where: str = ""


class Part(Struct, omit_defaults=True):
    """A slice, or a stretch of time: the primary estimate there."""

    label: str
    n: int
    production: float
    value: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    ess: float


class WeightSummary(Struct):
    """The weights of one policy. ``histogram``: (lower edge, upper edge, how many events)."""

    mean: float
    mean_se: float
    largest: float
    bound: float | None
    ess: float
    pareto_k: float | None
    histogram: list[tuple[float, float, int]]


class PolicyAnswer(Struct, omit_defaults=True):
    """What the log says of one policy.

    :param refused: why there is no answer; None if there is one
    :param bounds: what the value must lie in whatever the truth is where the log never looked; given when refused
    :param primary: name of the estimator that ``difference``, ``slices`` and ``over_time`` use
    """

    name: str
    spec: str
    refused: str | None
    primary: str
    estimates: list[Estimate]
    difference: Difference | None
    weights: WeightSummary | None
    checks: list[Check]
    bounds: Interval | None = None
    sequence: Interval | None = None
    events_needed: int | None = None
    updates: int | None = None
    slices: dict[str, list[Part]] = {}
    over_time: list[Part] = []


class LogSummary(Struct, omit_defaults=True):
    """What was read.

    :param left_out: decisions or lines that were not evaluated, by plain reason
    """

    name: str
    kind: str
    events: int
    slots: int
    viewers: int | None
    first_time: float | None
    last_time: float | None
    reward: str
    left_out: dict[str, int] = {}
    examples: list[str] = []


class Evaluation(Struct, omit_defaults=True):
    """All that was asked. ``production`` is what was really earned, a mean over events: the known answer."""

    log: LogSummary
    production: Estimate
    policies: list[PolicyAnswer]
    checks: list[Check]
    alpha: float
    seconds: float
    version: str
