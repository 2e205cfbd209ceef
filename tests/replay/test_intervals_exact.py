"""The exact interval against textbooks, and the likelihood one against vw-estimators and its own definition."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from scipy import optimize, stats

from replay.errors import BadQuestion
from replay.estimators import SINGLE
from replay.events import F64
from replay.intervals import interval
from replay.intervals.clustering import design_effect
from replay.intervals.likelihood import Moments, cressie_read
from replay.sums import Sums
from tests.replay.test_intervals import UNIT, ask, log_of, sums_of


def mid_p(clicks: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Clopper and Pearson's limits with half of the probability of what was seen."""

    def below(p: float) -> float:
        return float(stats.binom.cdf(clicks, n, p) - 0.5 * stats.binom.pmf(clicks, n, p))

    low = 0.0 if clicks == 0 else optimize.brentq(lambda p: 1 - below(p) - alpha / 2, 0, 1, xtol=1e-13)
    high = 1.0 if clicks == n else optimize.brentq(lambda p: below(p) - alpha / 2, 0, 1, xtol=1e-13)
    return low, high


@pytest.mark.parametrize("clicks", [0, 1, 3, 20, 39, 40])
@pytest.mark.parametrize("method", ["exact", "auto"])
def test_weights_of_zero_or_a_constant_are_a_plain_share(clicks: int, method: str) -> None:
    w = np.repeat([25.0, 0.0], [40, 960])
    r = np.zeros(1000)
    r[:clicks] = 1.0
    found = ask(sums_of(w, r, bound=25.0), method)
    expected = mid_p(clicks, 40)
    if method == "exact":
        # Variances have a factor 1000 / 999 that binomial ones have not.
        assert (found.low, found.high) == pytest.approx(expected, abs=2e-3)
    else:
        assert found.low <= expected[0] + 2e-3
        assert found.high >= expected[1] - 2e-3
        assert found.high - found.low < 1.25 * (expected[1] - expected[0])


def test_no_clicks_leave_three_times_the_largest_weight_over_n() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    w = rng.gamma(2.0, 0.5, n)
    sums = sums_of(w, np.zeros(n), bound=40.0)
    found = ask(sums, "exact")
    assert found.low == 0.0
    assert found.high == pytest.approx(-np.log(0.05) * 40.0 / w.sum(), rel=0.01)
    default = ask(sums)
    assert default.low == 0.0
    assert -np.log(0.05) / n < default.high < found.high
    few_misses = ask(sums_of(w, np.ones(n), bound=40.0), "exact")
    assert few_misses.low == pytest.approx(1.0 - found.high, abs=1e-9)


def test_an_exact_difference_without_rewards_is_what_either_may_have_missed() -> None:
    rng = np.random.default_rng(1)
    n = 10_000
    found = ask(sums_of(rng.gamma(2.0, 0.5, n), np.zeros(n), bound=21.0), "exact", difference=True)
    assert found.low == pytest.approx(np.log(0.05) / n, rel=0.01)
    assert found.high == pytest.approx(-np.log(0.05) * 20.0 / n, rel=0.01)


def test_an_exact_difference_counts_gains_and_losses_apart() -> None:
    """Weights 3 and 0: 30 clicks gain 2 each, 40 lose 1 each; both are Poisson counts with mid-P limits."""
    w = np.repeat([3.0, 0.0], [1000, 2000])
    r = np.zeros(3000)
    r[:30], r[1000:1040] = 1.0, 1.0

    def limit(count: int, probability: float) -> float:
        def below(x: float) -> float:
            return float(stats.gamma.cdf(x, count) + stats.gamma.cdf(x, count + 1)) / 2 - probability

        return float(optimize.brentq(below, 1e-9, 200))

    gain, loss = ([limit(count, q) for q in (0.025, 0.975)] for count in (30, 40))
    found = ask(sums_of(w, r, bound=3.0), "exact", difference=True)
    assert found.low == pytest.approx((20.0 - np.hypot(60 - 2 * gain[0], loss[1] - 40)) / 3000, abs=1e-6)
    assert found.high == pytest.approx((20.0 + np.hypot(2 * gain[1] - 60, 40 - loss[0])) / 3000, abs=1e-6)


def test_a_larger_bound_on_weights_widens_what_rests_on_it() -> None:
    w, r = log_of(2, rate=0.02)
    for method in ("exact", "likelihood"):
        near, far = (ask(sums_of(w, r, bound=bound), method) for bound in (10.0, 100.0))
        assert far.high > near.high
    assert "largest seen" in ask(sums_of(w, r), "exact").method


def test_slices_have_no_table_and_so_no_exact_difference() -> None:
    sums = sums_of(*log_of(3), table=False)
    for method in ("exact", "likelihood"):
        assert ask(sums, method).low > 0.0
        with pytest.raises(BadQuestion, match="table of weights"):
            ask(sums, method, difference=True)


# -- likelihood ------------------------------------------------------------------------------------

W = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 0.25, 3.0, 0.75, 0.0, 1.0] * 4)
R = np.array([0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0] * 2, float)


LIGHT = 0.9 * W
"""Their mean is below 1."""


@pytest.mark.parametrize(
    ("scale", "largest", "rewards", "expected"),
    [
        (1.0, inf, UNIT, (0.23833152638849014, 0.6852979320323244)),
        (1.0, 10.0, UNIT, (0.1924191865700961, 0.7117524780254701)),
        (1.0, 3.0, UNIT, (0.2179734841757724, 0.7149015382774278)),
        (1.0, 10.0, (-1.0, 3.0), (-0.2303232537196157, 1.8470099121018806)),
        (0.8, 10.0, UNIT, (0.15508638450423431, 0.7761897091800795)),
        (0.8, inf, UNIT, (0.16229896122036538, 0.7648643150719048)),
    ],
)
def test_likelihood_agrees_with_vw_estimators(
    scale: float, largest: float, rewards: tuple[float, float], expected: tuple[float, float]
) -> None:
    """Numbers of ``cressieread.Interval(wmax=largest, rmin=, rmax=).get(0.05)``, vw-estimators 0.2.2."""
    low, high = rewards
    found = ask(sums_of(W * scale, low + (high - low) * R, bound=largest, rewards=rewards), "likelihood")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def closest(w: F64) -> F64:
    """The most uniform p with sum p = sum p w = 1, not all >= 0."""
    a = np.vstack([np.ones(len(w)), w])
    p: F64 = a.T @ np.linalg.solve(a @ a.T, np.ones(2))
    return p


def least_by_definition(x: F64, weight: float, missed: float) -> float:
    """The least sum of p x over reweightings p of the events and one more, whose squares sum to no more than those of
    the most uniform one (the one more has weight 4 there, since weights are low on average) and what F allows: a
    quadratic programme."""
    n = len(LIGHT)
    budget = np.sum(closest(np.append(LIGHT, 4.0)) ** 2) + stats.f.isf(0.05, 1, n) / (n + 1) ** 2
    w, x = np.append(LIGHT, weight), np.append(x, missed)
    a = np.vstack([np.ones(n + 1), w])
    p = closest(w)
    residual = x - a.T @ np.linalg.solve(a @ a.T, a @ x)
    return float(p @ x - np.sqrt((budget - p @ p) * (residual @ residual)))


@pytest.mark.parametrize("less", [0.0, 1.0])
def test_likelihood_is_the_least_value_of_a_close_reweighting(less: float) -> None:
    x = (LIGHT - less) * R
    m = Moments(len(LIGHT), LIGHT.sum(), (LIGHT**2).sum(), x.sum(), (LIGHT * x).sum(), (x * x).sum(), less)
    low, high = cressie_read(m, 0.05, weights=(0.0, 4.0), rewards=UNIT)
    spots = [(weight, weight - less) for weight in (0.0, 4.0)]
    assert low == pytest.approx(min(least_by_definition(x, weight, min(0.0, most)) for weight, most in spots))
    assert high == pytest.approx(max(-least_by_definition(-x, weight, -max(0.0, most)) for weight, most in spots))


def test_constant_weights_and_rewards_do_not_make_likelihood_certain() -> None:
    """Where vw-estimators has [0, 1.4e-9]."""
    found = ask(sums_of(np.ones(100), np.zeros(100), bound=5.0), "likelihood")
    assert 1.0 / 100 < found.high < 5.0 / 100


def test_likelihood_counts_resembling_events_of_a_viewer_as_one() -> None:
    w, r = log_of(4, 1000)
    again = np.repeat(np.arange(1000), 4)
    sums = sums_of(w[again], r[again], again)
    x = w[again] * r[again]
    effect = design_effect(sums, {"wr": 1.0}, float(x @ x))
    assert effect == pytest.approx(4.0, rel=0.1)
    unrelated = sums_of(w[again], r[again])
    assert design_effect(unrelated, {"wr": 1.0}, float(x @ x)) == 1.0


def test_the_interval_of_events_that_stand_for_several_is_wider() -> None:
    """A log that is a sample: 1 in 4 was written, so each event stands for 4; that says no more than it did."""
    w, r = log_of(5)
    viewer = np.arange(400, dtype=np.uint64)
    plain, sampled = Sums(sums_of(w, r).terms, reward_range=UNIT), Sums(sums_of(w, r).terms, reward_range=UNIT)
    q = np.full(400, 0.3)
    plain.add_columns(reward=r, weight=w, viewer=viewer, q_chosen=q, dm=q)
    sampled.add_columns(reward=r, weight=w, viewer=viewer, q_chosen=q, dm=q, stands_for=np.full(400, 4.0))
    for method in ("auto", "normal", "likelihood", "exact"):
        one, four = (
            interval(method, sums, SINGLE["snips"], alpha=0.05, reward_range=UNIT) for sums in (plain, sampled)
        )
        assert (four.low, four.high) == pytest.approx((one.low, one.high), abs=0.02), method
