"""Sequences: what they promise, that the table never overstates, and what they do with bad input."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from replay.errors import BadQuestion
from replay.estimators import parse_estimator, terms_for
from replay.events import F64
from replay.intervals.bets import Bets, Sides, difference_bets, features, feed_bets, sides, value_bets
from replay.intervals.sequence import Points, coarser, points, sequence
from replay.results import Interval
from replay.sums import Sums

UNIT = (0.0, 1.0)


def log_of(w: F64, r: F64, *, bound: float = np.inf, reward_range: tuple[float, float] = UNIT) -> Sums:
    """Sums of a log of single slots."""
    sums = Sums(terms_for([parse_estimator("ips", slates=False)], slates=False), reward_range=reward_range)
    keys = np.arange(len(w), dtype=np.uint64)
    sums.add_columns(reward=r, weight=w, viewer=keys, weight_bound=bound)
    return sums


def asked(
    sums: Sums, *, alpha: float = 0.05, reward_range: tuple[float, float] = UNIT, difference: bool = False
) -> Interval:
    found = sequence(sums, alpha=alpha, reward_range=reward_range, difference=difference)
    assert found is not None
    assert found.low <= found.high
    return found


def drawn(seed: int, n: int, *, rate: float = 0.3, actions: int = 4) -> tuple[F64, F64, float, float]:
    """Weights, rewards, bound and truth of a log with a skewed target."""
    rng = np.random.default_rng(seed)
    logged, target = np.arange(1.0, actions + 1), np.arange(actions, 0.0, -1) ** 2
    logged, target = logged / logged.sum(), target / target.sum()
    means = rate * np.linspace(0.5, 1.5, actions)
    a = rng.choice(actions, size=n, p=logged)
    r = (rng.random(n) < means[a]).astype(float)
    return (target / logged)[a], r, float((target / logged).max()), float(target @ means)


# ---------------------------------------------------------------- the bets


@pytest.mark.parametrize("bound", [1.0, 1.5, 10.0, 1e4, 1e12, np.inf])
@pytest.mark.parametrize(
    ("bets", "mean"),
    [(value_bets, "value"), (difference_bets, "difference")],
)
def test_no_bet_can_lose_all_and_none_is_favourable(bound: float, bets: Callable[[float], Bets], mean: str) -> None:
    """Under any distribution of events whose weights have mean 1, a bet gains at most rate * (mean - centre)."""
    made = bets(bound)
    assert np.isclose(np.exp(made.log_share).sum(), 1.0) or np.exp(made.log_share).sum() < 1.0
    rng = np.random.default_rng(0)
    top = min(bound, 1e6)
    w = np.concatenate([np.zeros(50), np.full(50, top), rng.uniform(0, top, 100)])
    g = rng.choice([0.0, 1.0, 0.5], size=200)
    payoffs = features(w, g) @ made.payoff.T
    assert payoffs.min() >= 0.0
    for _ in range(20):
        # A mixture of a distribution with too large weights and one with too small ones: mean weight 1.
        p = rng.dirichlet(np.full(200, 0.3))
        low = np.append(p * 0, 1.0)
        w_all, g_all = np.append(w, 0.0), np.append(g, float(rng.random() < 0.5))
        p = np.append(p, 0.0)
        if p @ w_all > 1.0:
            share = 1.0 / (p @ w_all)
            p = share * p + (1 - share) * low
        else:
            continue
        expected = p @ (features(w_all, g_all) @ made.payoff.T)
        truth = p @ ((w_all if mean == "value" else w_all - 1.0) * g_all)
        assert (expected <= 1.0 + made.rate * (truth - made.centre) + 1e-6 * (1.0 + made.rate * top)).all()


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("bound", [3.0, np.inf])
def test_no_bet_on_feeds_is_favourable(bound: float, difference: bool) -> None:
    rng = np.random.default_rng(1)
    top = min(bound, 50.0)
    n = 300
    full, y = rng.uniform(0, top, n), rng.choice([0.0, 0.25, 1.0], size=n)
    prefix = np.where(y > 0, rng.uniform(0, top, n), full)
    p = rng.dirichlet(np.ones(n))
    # Make the mean of the last prefix weight 1, with events of weight 0 and no reward.
    share = 1.0 / (p @ full)
    assert share < 1.0
    p = np.append(share * p, 1 - share)
    full, y, prefix = np.append(full, 0.0), np.append(y, 0.0), np.append(prefix, 0.0)
    value, production = p @ (prefix * y), p @ y
    # x is at most what its weights leave: the value of a policy cannot exceed the best reward on the same events.
    untouched_ok = p @ (full * (y == 0)) <= 1.0 - value
    seen = features(np.where(y > 0, prefix, full), y)
    gain, loss = (feed_bets(bound, upper=upper, difference=difference) for upper in (False, True))
    means = (value - production, production - value) if difference else (value, 1.0 - value)
    for mixture, mean in ((gain, means[0]), (loss if untouched_ok else loss[1:], means[1])):
        for bets in mixture:
            payoffs = seen @ bets.payoff.T
            assert (payoffs >= 0.0).all()
            assert (p @ payoffs <= 1.0 + bets.rate * (mean - bets.centre) + 1e-9 * (1 + bets.rate)).all()


# ---------------------------------------------------------------- the promise


@pytest.mark.parametrize("difference", [False, True])
def test_rarely_misses_though_looked_at_after_every_event(difference: bool) -> None:
    """60 logs of 600 events, seeds 0 to 59; more than 12 misses have probability 2e-5 if 5 % is the miss rate."""
    missed = 0
    for seed in range(60):
        w, r, bound, truth = drawn(seed, 600)
        if difference:
            logged = np.arange(1.0, 5.0) / 10.0
            truth -= float(logged @ (0.3 * np.linspace(0.5, 1.5, 4)))
        bets = (difference_bets if difference else value_bets)(bound)
        n = np.arange(1, 601)[:, None]
        highest = -np.inf
        for g, mean in ((r, truth), (1 - r, -truth if difference else 1 - truth)):
            logs = np.log(features(w, g) @ bets.payoff.T).cumsum(axis=0) + bets.log_share
            wealth = np.exp(logs + n * bets.rate * (bets.centre - mean)).sum(axis=1)
            highest = max(highest, wealth.max())
        missed += highest >= 40.0
    assert missed <= stats.binom.isf(2e-5, 60, 0.05)


def test_excludes_a_wrong_value_and_holds_the_right_one() -> None:
    w, r, bound, truth = drawn(3, 20_000)
    found = asked(log_of(w, r, bound=bound))
    assert found.low < truth < found.high
    assert found.high - found.low < 0.05
    assert found.method == "anytime"


def test_more_events_tighten() -> None:
    widths = []
    for n in (200, 2_000, 20_000, 200_000):
        w, r, bound, _ = drawn(5, n)
        found = asked(log_of(w, r, bound=bound))
        widths.append(found.high - found.low)
    assert all(later < 0.5 * earlier for earlier, later in pairwise(widths))


def test_a_known_bound_helps_and_smaller_alpha_widens() -> None:
    w, r, bound, _ = drawn(7, 3_000)
    known, unknown = asked(log_of(w, r, bound=bound)), asked(log_of(w, r))
    assert known.high - known.low < unknown.high - unknown.low
    careful = asked(log_of(w, r, bound=bound), alpha=0.001)
    assert careful.low < known.low
    assert known.high < careful.high


def test_paired_difference_is_far_narrower_for_a_policy_near_production() -> None:
    rng = np.random.default_rng(9)
    w = rng.choice([0.9, 1.1], size=5_000)
    r = (rng.random(5_000) < 0.5).astype(float)
    sums = log_of(w, r, bound=1.2)
    value, paired = asked(sums), asked(sums, difference=True)
    assert paired.high - paired.low < 0.3 * (value.high - value.low)


def test_same_policy_differs_by_nothing() -> None:
    r = (np.arange(1000) % 3 == 0).astype(float)
    found = asked(log_of(np.ones(1000), r, bound=1.0), difference=True)
    assert found.low < 0.0 < found.high
    assert found.high - found.low < 0.2


def test_no_clicks_gives_an_upper_bound_near_the_exact_one() -> None:
    """w is 0 or 50, bound 50: the exact one-sided 97.5 % bound at one look is 3.69 * 50 / n."""
    w = np.where(np.arange(5_000) % 50 == 0, 50.0, 0.0)
    found = asked(log_of(w, np.zeros(5_000), bound=50.0))
    assert found.low == 0.0
    assert 3.69 * 50 / 5_000 < found.high < 3 * 3.69 * 50 / 5_000


# ---------------------------------------------------------------- from the table alone


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(0.0), st.floats(0.001, 30.0)), st.one_of(st.just(0.0), st.just(2.0), st.floats(-1.0, 2.0))
        ),
        min_size=1,
        max_size=60,
    ),
    st.booleans(),
)
def test_the_table_never_overstates_and_nearly_says_it_all(events: list[tuple[float, float]], difference: bool) -> None:
    w, r = (np.array(column, dtype=float) for column in zip(*events, strict=True))
    seen = points(log_of(w, r, reward_range=(-1.0, 2.0)).weights, (-1.0, 2.0))
    assert np.isclose(seen.times.sum(), len(w))
    g = (r + 1.0) / 3.0
    assert np.allclose(
        seen.times @ features(seen.w, seen.g)[:, :4], features(w, g)[:, :4].sum(axis=0), rtol=1e-9, atol=1e-9
    )
    for bound in (40.0, np.inf):
        kept = sides(*seen, bound=bound, difference=difference)
        exact = sides(w, g, np.ones(len(w)), bound=bound, difference=difference)
        for mine, true in ((kept.larger, exact.larger), (kept.smaller, exact.smaller)):
            assert (mine.height <= true.height + 1e-7).all()
        ends, true_ends = kept.interval(0.05), exact.interval(0.05)
        if ends is not None and true_ends is not None:
            assert np.allclose(ends, true_ends, atol=0.01)


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("feeds", [False, True])
def test_many_points_become_few_that_never_overstate_either(difference: bool, feeds: bool) -> None:
    rng = np.random.default_rng(41)
    w = np.where(rng.random(20_000) < 0.1, 0.0, np.minimum(rng.lognormal(-0.4, 0.9, 20_000), 30.0))
    w /= w.mean()
    g = np.where(rng.random(20_000) < 0.2, 0.0, rng.beta(0.5, 3.0, 20_000))
    few = coarser(Points(w, g, np.ones(20_000)))
    assert len(few.w) < 10_000
    assert few.times.sum() == pytest.approx(20_000)
    assert few.times[few.g == 0.0].sum() == pytest.approx((g == 0.0).sum())
    for bound in (40.0, np.inf):
        kept = sides(*few, bound=bound, difference=difference, mean_weight_is_one=not feeds)
        exact = sides(w, g, np.ones(20_000), bound=bound, difference=difference, mean_weight_is_one=not feeds)
        for mine, true in ((kept.larger, exact.larger), (kept.smaller, exact.smaller)):
            assert (mine.height <= true.height + 1e-7).all()
        ends, true_ends = kept.interval(0.05), exact.interval(0.05)
        assert ends is not None
        assert true_ends is not None
        (low, high), (first, last) = ends, true_ends
        assert low <= first + 1e-9
        assert last <= high + 1e-9
        assert high - low <= 1.01 * (last - first)


@pytest.mark.parametrize("w", [0.0, 3.0])
@pytest.mark.parametrize("g", [0.0, 1.0])
def test_points_that_are_all_the_same_stay_so(w: float, g: float) -> None:
    few = coarser(Points(np.full(5, w), np.full(5, g), np.ones(5)))
    assert (few.w.tolist(), few.g.tolist(), few.times.tolist()) == ([w], [g], [5.0])


def test_parts_merge_to_the_whole_and_order_does_not_matter() -> None:
    w, r, bound, _ = drawn(11, 4_000)
    whole = asked(log_of(w, r, bound=bound))
    parts = log_of(w[:1_000], r[:1_000], bound=bound).merge(log_of(w[1_000:], r[1_000:], bound=bound))
    shuffled = np.random.default_rng(0).permutation(4_000)
    for other in (parts, log_of(w[shuffled], r[shuffled], bound=bound)):
        found = asked(other)
        assert found.low == pytest.approx(whole.low, abs=1e-10)
        assert found.high == pytest.approx(whole.high, abs=1e-10)


def test_rewards_on_another_scale_give_the_same_answer_there() -> None:
    w, r, bound, _ = drawn(13, 2_000)
    plain = asked(log_of(w, r, bound=bound))
    scaled = asked(log_of(w, 5.0 * r - 2.0, bound=bound, reward_range=(-2.0, 3.0)), reward_range=(-2.0, 3.0))
    assert scaled.low == pytest.approx(5.0 * plain.low - 2.0, abs=1e-9)
    assert scaled.high == pytest.approx(5.0 * plain.high - 2.0, abs=1e-9)
    paired = asked(log_of(w, r, bound=bound), difference=True)
    both = asked(
        log_of(w, 5.0 * r - 2.0, bound=bound, reward_range=(-2.0, 3.0)), reward_range=(-2.0, 3.0), difference=True
    )
    assert both.low == pytest.approx(5.0 * paired.low, abs=1e-9)
    assert both.high == pytest.approx(5.0 * paired.high, abs=1e-9)


def test_losses_mirror_gains() -> None:
    w, r, bound, _ = drawn(17, 2_000)
    gains, losses = asked(log_of(w, r, bound=bound)), asked(log_of(w, 1.0 - r, bound=bound))
    assert losses.low == pytest.approx(1.0 - gains.high, abs=1e-9)
    assert losses.high == pytest.approx(1.0 - gains.low, abs=1e-9)


# ---------------------------------------------------------------- feeds


def feed_log(seed: int, n: int, *, bound: float) -> tuple[Sums, float, float]:
    """Feeds of two slots, each one of two items, rewards 0 or 1/2; with the target's and production's values."""
    rng = np.random.default_rng(seed)
    good = rng.random((n, 2)) < 0.5
    chance = np.where(good, 0.8, 0.2)
    r = np.where(rng.random((n, 2)) < chance, 0.5, 0.0)
    w = np.where(good, 0.7 / 0.5, 0.3 / 0.5)
    sums = Sums(terms_for([parse_estimator("rips", slates=True)], slates=True), reward_range=UNIT)
    sums.add_columns(
        reward=r.ravel(), weight=w.ravel(), viewer=np.arange(n, dtype=np.uint64), starts=np.arange(0, 2 * n + 1, 2),
        weight_bound=bound,
    )  # fmt: skip
    return sums, 0.7 * 0.8 + 0.3 * 0.2, 0.5


@pytest.mark.parametrize("difference", [False, True])
def test_feeds(difference: bool) -> None:
    sums, value, production = feed_log(0, 20_000, bound=1.96)
    truth = value - production if difference else value
    found = asked(sums, difference=difference)
    assert found.low < truth < found.high
    assert found.high - found.low < 0.06
    unknown = asked(feed_log(0, 20_000, bound=np.inf)[0], difference=difference)
    assert unknown.low == pytest.approx(found.low)
    assert found.high <= unknown.high < 1.0


def test_feeds_that_are_clicked_at_most_once_need_no_bound() -> None:
    rng = np.random.default_rng(2)
    n = 20_000
    w = rng.choice([0.5, 1.5], size=(n, 2))
    first = rng.random(n) < 0.3
    r = np.stack([first, ~first & (rng.random(n) < 0.3)], axis=1).astype(float)
    sums = Sums(terms_for([parse_estimator("rips", slates=True)], slates=True), reward_range=UNIT)
    sums.add_columns(
        reward=r.ravel(), weight=w.ravel(), viewer=np.arange(n, dtype=np.uint64), starts=np.arange(0, 2 * n + 1, 2)
    )
    found = asked(sums)
    assert found.low < 0.51 < found.high
    assert found.high - found.low < 0.1


# ---------------------------------------------------------------- what cannot be


def test_nothing_known_is_the_whole_range() -> None:
    empty = Sums(terms_for([parse_estimator("ips", slates=False)], slates=False), reward_range=(0.0, 2.0))
    found = asked(empty, reward_range=(0.0, 2.0))
    assert (found.low, found.high) == (0.0, 2.0)
    paired = asked(empty, reward_range=(0.0, 2.0), difference=True)
    assert (paired.low, paired.high) == (-2.0, 2.0)


@pytest.mark.parametrize("w", [0.0, 1.0, 1e-7, 1e6, 1e60])
@pytest.mark.parametrize("r", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 1000])
def test_degenerate_logs_have_finite_ends_within_the_range_or_none(w: float, r: float, n: int) -> None:
    for difference in (False, True):
        for bound in (1.0, 2e6, np.inf):
            sums = log_of(np.full(n, w), np.full(n, r), bound=bound)
            found = sequence(sums, alpha=0.05, reward_range=UNIT, difference=difference)
            if found is not None:
                assert (-1.0 if difference else 0.0) <= found.low <= found.high <= 1.0
            assert found is not None or w != 1.0


def test_weights_that_cannot_have_mean_one_leave_no_value() -> None:
    w, r, bound, _ = drawn(43, 20_000)
    assert sequence(log_of(3.0 * w, r, bound=3.0 * bound), alpha=0.05, reward_range=UNIT) is None
    assert sequence(log_of(0.2 * w, r, bound=bound), alpha=0.05, reward_range=UNIT) is None


def test_a_bound_that_the_log_contradicts_is_not_used() -> None:
    w, r, bound, _ = drawn(19, 1_000)
    assert asked(log_of(w, r, bound=bound / 2)) == asked(log_of(w, r))


def test_no_range_no_sequence() -> None:
    w, r, _, _ = drawn(23, 100)
    assert sequence(log_of(w, r), alpha=0.05, reward_range=None) is None


def test_feeds_with_negative_rewards_have_none() -> None:
    sums, _, _ = feed_log(0, 100, bound=2.0)
    assert sequence(sums, alpha=0.05, reward_range=(-1.0, 1.0)) is None


def test_sums_without_a_table_have_none() -> None:
    sums = Sums(terms_for([parse_estimator("ips", slates=False)], slates=False), reward_range=UNIT, table=False)
    sums.add_columns(reward=np.ones(3), weight=np.ones(3), viewer=np.arange(3, dtype=np.uint64))
    assert sequence(sums, alpha=0.05, reward_range=UNIT) is None


def test_a_sample_whose_rate_changed_has_none() -> None:
    sums = Sums(terms_for([parse_estimator("ips", slates=False)], slates=False), reward_range=UNIT)
    sums.add_columns(
        reward=np.ones(3), weight=np.ones(3), viewer=np.arange(3, dtype=np.uint64), stands_for=np.array([1.0, 2.0, 1.0])
    )
    assert sequence(sums, alpha=0.05, reward_range=UNIT) is None


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, np.nan])
def test_impossible_alpha(alpha: float) -> None:
    w, r, _, _ = drawn(29, 100)
    with pytest.raises(BadQuestion, match="no chance of being wrong"):
        sequence(log_of(w, r), alpha=alpha, reward_range=UNIT)


def test_rewards_outside_the_range_are_named() -> None:
    w, r, _, _ = drawn(31, 100)
    with pytest.raises(BadQuestion, match=r"reward 1 is above the range 0 to 0.5"):
        sequence(log_of(w, r), alpha=0.05, reward_range=(0.0, 0.5))
    with pytest.raises(BadQuestion, match=r"reward 0 is below the range 0.5 to 2"):
        sequence(log_of(w, r), alpha=0.05, reward_range=(0.5, 2.0))
    with pytest.raises(BadQuestion, match="is empty"):
        sequence(log_of(w, r), alpha=0.05, reward_range=(1.0, 1.0))


def test_wealth_of_both_sides_is_the_test_of_one_value() -> None:
    w, r, bound, truth = drawn(37, 2_000)
    both: Sides = sides(w, r, np.ones(2_000), bound=bound)
    ends = both.interval(0.05)
    assert ends is not None
    low, high = ends
    assert both.log_wealth(truth) < np.log(20)
    assert both.log_wealth(low - 0.01) > np.log(20)
    assert both.log_wealth(high + 0.01) > np.log(20)


@pytest.mark.parametrize("difference", [False, True])
def test_the_unit_of_rewards_changes_nothing_and_one_that_vanishes_is_refused(difference: bool) -> None:
    rng = np.random.default_rng(14)
    w, r = rng.choice([0.0, 2.0], 500), (rng.random(500) < 0.3).astype(np.float64)
    one = asked(log_of(w, r, bound=2.0), difference=difference)
    for unit in (1e-59, 1e74):
        log = log_of(w, unit * r, bound=2.0, reward_range=(0.0, unit))
        other = asked(log, reward_range=(0.0, unit), difference=difference)
        assert (other.low / unit, other.high / unit) == pytest.approx((one.low, one.high), rel=1e-6, abs=1e-9)
    for unit in (5e-324, 1e-310):
        log = log_of(w, unit * r, bound=2.0, reward_range=(0.0, unit))
        with pytest.raises(BadQuestion, match="rescale them"):
            sequence(log, alpha=0.05, reward_range=(0.0, unit), difference=difference)
    log = log_of(w, r, bound=2.0, reward_range=(0.0, 1e300))
    with pytest.raises(BadQuestion, match="beyond"):
        sequence(log, alpha=0.05, reward_range=(0.0, 1e300), difference=difference)
