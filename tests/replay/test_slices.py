"""Sums by value: the same values are kept apart, with the same sums, however the log is cut and ordered."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay.estimators import SINGLE, terms_for
from replay.slices import MOST_VALUES, REST, Slices
from replay.sums import Sums

TERMS = terms_for([SINGLE["ips"]])


def collected(names: np.ndarray, which: np.ndarray, batch: int) -> Slices:
    """Of these events, some at a time. Rewards are whole numbers, whose sums are exact in any order."""
    slices = Slices(lambda: Sums(TERMS, n_buckets=8, table=False, top=1))
    for first in range(0, len(which), batch):
        some = which[first : first + batch]
        for sums, rows in slices.parts(names[some], None):
            at = some[rows]
            sums.add_columns(reward=at.astype(float), weight=np.ones(len(at)), viewer=at.astype(np.uint64))
    return slices


@given(n_values=st.integers(1, 100), seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_any_cut_and_order_keeps_the_same_values_with_the_same_sums(n_values: int, seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    names = np.array([f"v{i:03}" for i in rng.integers(0, n_values, 300)])
    once = collected(names, np.arange(300), 300)
    parts = [
        collected(names, part, int(rng.integers(1, 100)))
        for part in np.split(rng.permutation(300), sorted(cuts)) if len(part)
    ]  # fmt: skip
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    apart = sorted(set(names.tolist()))
    assert list(once.sums) == list(merged.sums)
    assert list(once.sums) == apart[:MOST_VALUES] + [REST] * (len(apart) > MOST_VALUES)
    for name, sums in once.sums.items():
        assert sums.n == merged.sums[name].n
        np.testing.assert_array_equal(sums.buckets, merged.sums[name].buckets)
        expected = np.isin(names, apart[MOST_VALUES:]) if name == REST else names == name
        assert sums.total[sums.index("y")] == np.flatnonzero(expected).sum()
