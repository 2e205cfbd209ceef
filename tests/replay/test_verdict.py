"""Verdicts: what decides, and how many events are needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from replay.errors import BadQuestion
from replay.results import Interval
from replay.verdict import difference, events_needed


def between(low: float, high: float, *, alpha: float = 0.05) -> Interval:
    return Interval(low=low, high=high, method="auto", alpha=alpha)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.02, "undecided"), (0.0, 0.02, "undecided"),
     (-0.01, 0.0, "undecided"), (0.0, 0.0, "undecided")],
)  # fmt: skip
def test_the_interval_decides(low: float, high: float, verdict: str) -> None:
    found = difference(value=(low + high) / 2, se=0.005, interval=between(low, high), production=0.5, n=1_000)
    assert found.verdict == verdict


def test_an_interval_and_a_sequence_that_contradict_decide_nothing() -> None:
    found = difference(
        value=0.1, se=0.01, interval=between(0.05, 0.15), production=1.0, n=100, sequence=between(-0.3, -0.1)
    )
    assert found.verdict == "undecided"
    agree = difference(
        value=0.1, se=0.01, interval=between(0.05, 0.15), production=1.0, n=100, sequence=between(-0.3, 0.4)
    )
    assert agree.verdict == "better"
    assert agree.sequence == between(-0.3, 0.4)


def test_decided_needs_no_events() -> None:
    found = difference(value=0.1, se=0.01, interval=between(0.08, 0.12), production=2.0, n=100)
    assert found.events_needed is None
    assert found.relative == pytest.approx(0.05)


def test_production_of_nothing_has_no_relative_difference() -> None:
    found = difference(value=0.1, se=0.01, interval=between(0.08, 0.12), production=0.0, n=100)
    assert found.relative is None


# ---------------------------------------------------------------- how many events


def test_as_many_events_as_are_needed_decide_with_the_stated_power() -> None:
    """4,000 simulated means, seed 0: the share that decides is within 4 standard errors (6e-5 false alarms) of .8."""
    needed = events_needed(1_000, 0.05, 1.0 / np.sqrt(1_000), 0.05)
    assert needed is not None
    means = np.random.default_rng(0).normal(0.05, 1.0 / np.sqrt(needed), size=4_000)
    decided = (means - stats.norm.isf(0.025) / np.sqrt(needed) > 0).mean()
    assert decided == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 4_000))


@given(st.integers(1, 10**6), st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_what_is_undecided_needs_more_than_there_are(n: int, value: float, se: float) -> None:
    """Whatever the interval, as long as it is honest about 0."""
    arm = max(1.96 * se, value)
    found = difference(value=value, se=se, interval=between(value - arm, value + se), production=1.0, n=n)
    assert found.verdict == "undecided"
    assert found.events_needed is not None
    assert found.events_needed > 2.0 * n


def test_a_wide_side_towards_zero_needs_more_events_than_its_standard_error_says() -> None:
    plain = difference(value=0.01, se=0.01, interval=between(-0.0096, 0.03), production=1.0, n=1_000)
    skewed = difference(value=0.01, se=0.01, interval=between(-0.05, 0.03), production=1.0, n=1_000)
    assert plain.events_needed is not None
    assert skewed.events_needed is not None
    assert skewed.events_needed > 5 * plain.events_needed


def test_a_smaller_alpha_and_more_power_need_more() -> None:
    assert events_needed(100, 0.1, 0.1, 0.05) == 785
    smaller, surer = events_needed(100, 0.1, 0.1, 0.001), events_needed(100, 0.1, 0.1, 0.05, power=0.95)
    assert smaller is not None
    assert surer is not None
    assert smaller > 785
    assert surer > 785


@pytest.mark.parametrize(
    ("n", "value", "se"),
    [(0, 0.1, 0.1), (100, 0.0, 0.1), (100, 0.1, 0.0), (100, 0.1, None), (100, 0.1, np.nan), (100, 0.1, np.inf),
     (100, 1e-12, 0.1), (100, 1e-320, 0.1), (100, np.nan, 0.1)],
)  # fmt: skip
def test_nothing_to_go_by_says_nothing(n: int, value: float, se: float | None) -> None:
    assert events_needed(n, value, se, 0.05) is None


def test_the_same_policy_is_no_difference() -> None:
    found = difference(value=0.0, se=0.0, interval=between(0.0, 0.0), production=0.3, n=500)
    assert found.verdict == "undecided"
    assert found.events_needed is None


@pytest.mark.parametrize(("alpha", "power"), [(0.0, 0.8), (1.0, 0.8), (0.05, 0.0), (0.05, 1.0)])
def test_impossible_chances(alpha: float, power: float) -> None:
    with pytest.raises(BadQuestion, match="is no chance"):
        events_needed(100, 0.1, 0.1, alpha, power=power)
