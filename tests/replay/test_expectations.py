"""Means of predictions under the target, ragged and as matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from replay.errors import BadQuestion
from replay.expectations import dense_expectations, expectations


def test_ragged_candidates() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 9, 100)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pmf = np.concatenate([rng.dirichlet(np.ones(size)) for size in sizes])
    q, chosen = rng.normal(size=len(pmf)), rng.integers(0, sizes)
    q_chosen, dm = expectations(pmf, q, starts, chosen)
    for s in range(100):
        part = slice(starts[s], starts[s + 1])
        assert dm[s] == pytest.approx(pmf[part] @ q[part], rel=1e-12)
        assert q_chosen[s] == q[part][chosen[s]]


@pytest.mark.parametrize("n_actions", [1, 7, 8, 9, 80])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [(50, 50), (1, 50), (50, 1), (1, 1)])
def test_matrices(n_actions: int, dtype: type, rows: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    pmf: NDArray[Any] = rng.random((rows[0], n_actions)).astype(dtype)
    q: NDArray[Any] = rng.random((rows[1], n_actions)).astype(dtype)
    chosen = rng.integers(0, n_actions, 50)
    p_chosen, q_chosen, dm = dense_expectations(pmf, q, chosen)
    wide_p = np.broadcast_to(pmf.astype(float), (50, n_actions))
    wide_q = np.broadcast_to(q.astype(float), (50, n_actions))
    np.testing.assert_allclose(dm, (wide_p * wide_q).sum(1), rtol=1e-13)
    np.testing.assert_array_equal(p_chosen, wide_p[np.arange(50), chosen])
    np.testing.assert_array_equal(q_chosen, wide_q[np.arange(50), chosen])
    only, nothing, neither = dense_expectations(pmf, None, chosen)
    np.testing.assert_array_equal(only, p_chosen)
    assert len(nothing) == len(neither) == 0


def test_a_mapped_file_is_not_copied(tmp_path: object) -> None:
    path = f"{tmp_path}/pmf.npy"
    np.save(path, np.full((10, 4), 0.25))
    mapped = np.load(path, mmap_mode="r")
    p_chosen, _, dm = dense_expectations(mapped, mapped, np.zeros(10, int))
    assert (p_chosen == 0.25).all()
    assert (dm == 0.25).all()


def test_what_does_not_fit_is_refused() -> None:
    pmf = np.full((5, 3), 1 / 3)
    with pytest.raises(BadQuestion, match=r"both must be \(n, actions\)"):
        dense_expectations(pmf, None, np.zeros(6, int))
    with pytest.raises(BadQuestion, match=r"both must be \(n, actions\)"):
        dense_expectations(pmf, np.zeros((5, 4)), np.zeros(5, int))
    with pytest.raises(BadQuestion, match=r"both must be \(n, actions\)"):
        dense_expectations(pmf[0], None, np.zeros(1, int))
    for wrong in (-1, 3):
        with pytest.raises(BadQuestion, match="the target has 3: 0 to 2"):
            dense_expectations(pmf, None, np.array([0, 1, wrong, 0, 0]))
    with pytest.raises(BadQuestion, match="4 probabilities and 3 predictions"):
        expectations(np.ones(4), np.ones(3), np.array([0, 4]), np.zeros(1, int))
    with pytest.raises(BadQuestion, match="not among its slot's candidates"):
        expectations(np.ones(4), np.ones(4), np.array([0, 2, 4]), np.array([0, 2]))
