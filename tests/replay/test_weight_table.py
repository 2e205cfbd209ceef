"""The table of weights: exact sums, narrow cells, mergeable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import BadQuestion
from replay.sums import Sums
from replay.terms import term_set
from replay.weight_table import WeightTable

WEIGHTS = st.sampled_from([0.0, -0.0, 1e-300, 5e-324, 2.0**-20, 1.0, 1e300]) | st.floats(0, 1e6)
REWARDS = st.sampled_from([0.0, 1.0, -1.0, 5.0]) | st.floats(-1, 5)


@given(pairs=st.lists(st.tuples(WEIGHTS, REWARDS), min_size=1, max_size=300), known=st.booleans())
@settings(max_examples=60, deadline=None)
def test_cells_are_narrow_and_their_sums_exact(pairs: list[tuple[float, float]], known: bool) -> None:
    w, r = (np.array(column) for column in zip(*pairs, strict=True))
    table = WeightTable((-1.0, 5.0) if known else None)
    table.add(w, r)
    cells = table.cells
    assert cells.counts.sum() == len(w) == table.n
    assert cells.sum_weight.sum() == pytest.approx(w.sum())
    assert cells.sum_reward.sum() == pytest.approx(r.sum(), abs=1e-9)
    assert cells.sum_product.sum() == pytest.approx((w * r).sum(), rel=1e-9, abs=1e-6)
    heavy = cells.low_weight >= 2.0**-20
    assert (cells.high_weight[heavy] <= cells.low_weight[heavy] * (1 + 1 / 128)).all()
    assert (cells.high_weight[~heavy] < 2.0**-20).all()
    assert ((cells.low_weight == 0) == (cells.high_weight == 0)).all()
    if known:
        assert (cells.high_reward - cells.low_reward <= 6 / 64 + 1e-12).all()
    inside = [
        ((a <= w) & (w <= b) & (c <= r) & (r <= d)).sum()
        for a, b, c, d in zip(cells.low_weight, cells.high_weight, cells.low_reward, cells.high_reward, strict=True)
    ]
    assert (np.array(inside) >= cells.counts).all()


def test_clicks_are_told_apart_exactly() -> None:
    """Rewards at the ends of their range, and 0, have cells of their own: nothing is rounded."""
    rng = np.random.default_rng(1)
    w, r = np.repeat([0.0, 0.5, 2.0], 400), rng.integers(0, 2, 1200).astype(float)
    table = WeightTable((0.0, 1.0))
    table.add(w, r)
    cells = table.cells
    assert len(cells.counts) == 6
    np.testing.assert_array_equal(cells.low_weight, cells.high_weight)
    np.testing.assert_array_equal(cells.low_reward, cells.high_reward)
    for count, weight, reward in zip(cells.counts, cells.low_weight, cells.low_reward, strict=True):
        assert count == ((w == weight) & (r == reward)).sum()


@given(
    pairs=st.lists(st.tuples(WEIGHTS, REWARDS), max_size=100),
    cut=st.integers(0, 100),
    known=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_tables_merge(pairs: list[tuple[float, float]], cut: int, known: bool) -> None:
    columns = np.array(pairs).reshape(-1, 2)
    w, r = np.ascontiguousarray(columns[:, 0]), np.ascontiguousarray(columns[:, 1])
    whole, one, two = (WeightTable((-1.0, 5.0) if known else None) for _ in range(3))
    whole.add(w, r)
    one.add(w[:cut], r[:cut])
    two.add(w[cut:], r[cut:])
    merged = one.merge(two)
    for name, a, b in zip(whole.cells._fields, whole.cells, merged.cells, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-9, err_msg=name)
    merged.add(w, r)  # A merged table goes on counting.
    assert merged.n == 2 * len(w)


def test_a_table_grows_without_losing_anything() -> None:
    rng = np.random.default_rng(2)
    w, r = rng.lognormal(0, 5, 50_000), rng.random(50_000)
    table = WeightTable((0.0, 1.0))
    table.add(w, r)
    assert table.n == 50_000
    assert len(table.cells.counts) > 10_000
    assert table.cells.sum_product.sum() == pytest.approx((w * r).sum(), rel=1e-12)


def test_a_table_does_not_grow_with_the_log() -> None:
    """As many cells for twenty times the events, once the tails are filled. Seed 3."""
    rng = np.random.default_rng(3)
    table, sizes = WeightTable((0.0, 1.0)), []
    for _ in range(20):
        w = np.minimum(np.maximum(rng.lognormal(0, 1, 20_000), 0.05), 20.0)
        table.add(w, (rng.random(20_000) < 0.1).astype(np.float64))
        sizes.append(len(table.cells.counts))
    assert sizes[-1] < 1.1 * sizes[3]
    assert sizes[-1] < 2 * 128 * 10


def test_slates_count_the_pair_of_ratio_and_reward() -> None:
    sums = Sums(term_set(slates=True))
    assert not sums.weights.mean_weight_is_one
    sums.add_columns(
        reward=np.array([1.0, 1.0, 0.0, 0.0]), weight=np.array([0.5, 4.0, 3.0, 0.5]),
        viewer=np.arange(2, dtype=np.uint64), starts=np.array([0, 2, 4]),
    )  # fmt: skip
    cells = sums.weights.cells  # Event 1: y = 2, x = 0.5 + 2 = 2.5; event 2: y = 0, w_{1:2} = 1.5.
    assert sorted(zip(cells.low_weight, cells.low_reward, strict=True)) == [(1.25, 2.0), (1.5, 0.0)]
    assert sums.weights.faithful


def test_a_table_says_when_it_cannot_tell() -> None:
    """Rewards of both signs: y = 0, but x = 0.5 - 2 is not."""
    sums = Sums(term_set(slates=True))
    sums.add_columns(
        reward=np.array([1.0, -1.0]), weight=np.array([0.5, 4.0]), viewer=np.zeros(1, np.uint64),
        starts=np.array([0, 2]),
    )  # fmt: skip
    assert not sums.weights.faithful
    assert not sums.merge(Sums(term_set(slates=True))).weights.faithful


def test_tables_of_other_ranges_do_not_merge() -> None:
    with pytest.raises(BadQuestion, match="same reward range"):
        WeightTable((0.0, 1.0)).merge(WeightTable((0.0, 2.0)))
