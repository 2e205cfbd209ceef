"""What the value must lie in where the log never looked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from replay.errors import BadQuestion
from replay.estimators import parse_estimator, terms_for
from replay.events import F64
from replay.intervals.bounds import identification_bounds
from replay.intervals.sequence import sequence
from replay.results import Interval
from replay.sums import Sums

UNIT = (0.0, 1.0)


def log_of(
    w: F64, r: F64, *, bound: float = np.inf, reward_range: tuple[float, float] = UNIT, table: bool = True
) -> Sums:
    sums = Sums(terms_for([parse_estimator("ips", slates=False)], slates=False), reward_range=reward_range, table=table)
    sums.add_columns(reward=r, weight=w, viewer=np.arange(len(w), dtype=np.uint64), weight_bound=bound)
    return sums


def asked(sums: Sums, uncovered: float, reward_range: tuple[float, float] = UNIT) -> Interval:
    found = identification_bounds(sums, uncovered=uncovered, alpha=0.05, reward_range=reward_range)
    assert found is not None
    assert found.method == "bounds"
    assert reward_range[0] <= found.low <= found.high <= reward_range[1]
    return found


def partly_covered(seed: int, n: int, *, hidden: float) -> tuple[Sums, float]:
    """Of the target's choice .3 is on what the log never shows, which earns ``hidden``; with the target's value."""
    rng = np.random.default_rng(seed)
    a = rng.integers(2, size=n)
    w = np.where(a == 0, 0.5, 0.2) / 0.5
    r = (rng.random(n) < np.where(a == 0, 0.6, 0.2)).astype(float)
    return log_of(w, r, bound=1.0), 0.5 * 0.6 + 0.2 * 0.2 + 0.3 * hidden


@pytest.mark.parametrize("hidden", [0.0, 0.5, 1.0])
def test_holds_whatever_the_hidden_part_earns(hidden: float) -> None:
    """30 logs, seeds 0 to 29; more than 7 misses have probability 1e-4 if 5 % is the miss rate."""
    missed = 0
    for seed in range(30):
        sums, value = partly_covered(seed, 2_000, hidden=hidden)
        found = asked(sums, 0.3)
        missed += not found.low <= value <= found.high
    assert missed <= stats.binom.isf(1e-4, 30, 0.05)


def test_is_not_much_wider_than_it_must_be() -> None:
    found = asked(partly_covered(0, 50_000, hidden=0.5)[0], 0.3)
    assert found.low == pytest.approx(0.34, abs=0.03)
    assert found.high == pytest.approx(0.64, abs=0.03)
    assert found.low < 0.34
    assert found.high > 0.64


def test_negative_rewards() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(2, size=50_000)
    w = np.where(a == 0, 0.5, 0.2) / 0.5
    r = np.where(rng.random(50_000) < 0.5, 2.0, -1.0)
    found = asked(log_of(w, r, bound=1.0, reward_range=(-1.0, 2.0)), 0.3, (-1.0, 2.0))
    assert found.low == pytest.approx(0.7 * 0.5 - 0.3, abs=0.1)
    assert found.high == pytest.approx(0.7 * 0.5 + 0.6, abs=0.1)


def test_all_covered_is_the_sequence_and_none_covered_the_range() -> None:
    rng = np.random.default_rng(1)
    sums = log_of(rng.choice([0.5, 1.5], size=1_000), (rng.random(1_000) < 0.4).astype(float), bound=1.5)
    found, known = asked(sums, 0.0), sequence(sums, alpha=0.05, reward_range=UNIT)
    assert known is not None
    assert (found.low, found.high) == (known.low, known.high)
    nothing = asked(log_of(np.zeros(1_000), np.ones(1_000), bound=1.0), 1.0)
    assert nothing.low == 0.0
    assert nothing.high > 0.99


def test_more_uncovered_is_wider() -> None:
    sums, _ = partly_covered(2, 2_000, hidden=0.0)
    ends = [asked(sums, uncovered) for uncovered in (0.3, 0.35, 0.5)]
    assert ends[0].high <= ends[1].high <= ends[2].high
    assert ends[0].low >= ends[1].low >= ends[2].low


def test_a_handful_of_effective_events_is_told_honestly() -> None:
    """Ten thousand events, nearly all the weight on two of them: anything is possible, almost."""
    w = np.full(10_000, 1e-4)
    w[:2] = 5_000.0
    r = np.zeros(10_000)
    r[0] = 1.0
    found = asked(log_of(w, r), 0.0)
    assert found.low < 0.1
    assert found.high > 0.99


def test_without_a_range_there_are_none_and_without_a_table_the_range() -> None:
    sums, _ = partly_covered(3, 100, hidden=0.0)
    assert identification_bounds(sums, uncovered=0.3, alpha=0.05, reward_range=None) is None
    found = asked(log_of(np.ones(5), np.ones(5), table=False), 0.3)
    assert (found.low, found.high) == UNIT


def test_feeds() -> None:
    rng = np.random.default_rng(4)
    n = 20_000
    r = np.where(rng.random((n, 2)) < 0.4, 0.5, 0.0)
    w = np.tile([0.8, 1.0], (n, 1))  # a fifth of the first slot's choice is on what was never shown there
    sums = Sums(terms_for([parse_estimator("rips", slates=True)], slates=True), reward_range=UNIT)
    sums.add_columns(
        reward=r.ravel(), weight=w.ravel(), viewer=np.arange(n, dtype=np.uint64), starts=np.arange(0, 2 * n + 1, 2),
        weight_bound=1.0,
    )  # fmt: skip
    found = asked(sums, 0.2)
    assert found.low == pytest.approx(0.32, abs=0.03)
    assert found.high == pytest.approx(0.52, abs=0.03)
    assert found.low < 0.32 < 0.52 < found.high


@pytest.mark.parametrize("uncovered", [-0.1, 1.1, np.nan])
def test_impossible_mass(uncovered: float) -> None:
    with pytest.raises(BadQuestion, match="is no probability"):
        identification_bounds(log_of(np.ones(5), np.ones(5)), uncovered=uncovered, alpha=0.05, reward_range=UNIT)
