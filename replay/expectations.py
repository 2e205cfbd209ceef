"""What a reward model says of the candidate shown, and on average under the target policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from replay.columns import plain
from replay.errors import BadQuestion
from replay.events import F64, I64


def expectations(pmf: F64, q: F64, starts: I64, chosen: I64) -> tuple[F64, F64]:
    """
    :param pmf: shape (C,), target probability of each candidate
    :param q: shape (C,), predicted reward of each candidate
    :param starts: shape (S + 1,), as in `Candidates`
    :param chosen: shape (S,), place of what was shown among the slot's candidates
    :returns: shape (S,) each: prediction for what was shown; mean prediction under the target
    :raises BadQuestion: the shapes do not fit
    """
    if not (len(pmf) == len(q) == starts[-1] and len(chosen) == len(starts) - 1):
        raise BadQuestion(
            f"{len(pmf)} probabilities and {len(q)} predictions for {starts[-1]} candidates "
            f"of {len(starts) - 1} slots, {len(chosen)} of them with a choice"
        )
    if len(chosen) and ((chosen < 0) | (chosen >= np.diff(starts))).any():
        raise BadQuestion("what was shown is not among its slot's candidates")
    q_chosen, dm = np.empty(len(chosen)), np.empty(len(chosen))
    columns = (plain(pmf, np.float64), plain(q, np.float64), plain(starts, np.int64), plain(chosen, np.int64))
    _ragged(*columns, q_chosen, dm)
    return q_chosen, dm


def dense_expectations(pmf: NDArray[Any], q: NDArray[Any] | None, chosen: I64) -> tuple[F64, F64, F64]:
    """The same for one slot with the same number of candidates each time, without a copy of either matrix.

    :param pmf: shape (n, A), float32 or float64; or (1, A) where it is the same for every event
    :param q: shape (n, A) or (1, A), float32 or float64; None without a reward model
    :param chosen: shape (n,)
    :returns: shape (n,) each: target probability of and prediction for what was shown, mean prediction; the last
        two have shape (0,) without a reward model
    :raises BadQuestion: the shapes do not fit
    """
    n, a = len(chosen), pmf.shape[1] if pmf.ndim == 2 else -1
    shapes_fit = (
        pmf.ndim == 2 and len(pmf) in (1, n) and (q is None or (q.ndim == 2 and q.shape[1] == a and len(q) in (1, n)))
    )
    if not shapes_fit:
        raise BadQuestion(
            f"shapes {pmf.shape} and {None if q is None else q.shape} for {n} events; both must be (n, actions)"
        )
    if n and not (chosen.min() >= 0 and chosen.max() < a):
        raise BadQuestion(f"actions from {chosen.min()} to {chosen.max()}, but the target has {a}: 0 to {a - 1}")
    if q is None:
        rows = np.arange(n) if len(pmf) == n else 0
        return pmf[rows, chosen].astype(np.float64, copy=False), np.empty(0), np.empty(0)
    p_chosen, q_chosen, dm = np.empty(n), np.empty(n), np.empty(n)
    _dense(_matrix(pmf), _matrix(q), plain(chosen, np.int64), p_chosen, q_chosen, dm)
    return p_chosen, q_chosen, dm


def _matrix(matrix: NDArray[Any]) -> NDArray[Any]:
    return plain(matrix, np.float32 if matrix.dtype == np.float32 else np.float64)


@njit(cache=True, nogil=True)
def _ragged(pmf, q, starts, chosen, q_chosen, dm):  # type: ignore[no-untyped-def]
    for s in range(len(chosen)):
        first, last = starts[s], starts[s + 1]
        total = 0.0
        for c in range(first, last):
            total += pmf[c] * q[c]
        dm[s] = total
        q_chosen[s] = q[first + chosen[s]]


@njit(cache=True, nogil=True)
def _dense(pmf, q, chosen, p_chosen, q_chosen, dm):  # type: ignore[no-untyped-def]
    """Eight running sums, added up at the end: the same bits however wide the machine's vectors are."""
    one_pmf, one_q = len(pmf) == 1, len(q) == 1
    n_actions = pmf.shape[1]
    whole = n_actions - n_actions % 8
    for i in range(len(chosen)):
        a, b = pmf[0 if one_pmf else i], q[0 if one_q else i]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
        for j in range(0, whole, 8):
            s0 += np.float64(a[j]) * np.float64(b[j])
            s1 += np.float64(a[j + 1]) * np.float64(b[j + 1])
            s2 += np.float64(a[j + 2]) * np.float64(b[j + 2])
            s3 += np.float64(a[j + 3]) * np.float64(b[j + 3])
            s4 += np.float64(a[j + 4]) * np.float64(b[j + 4])
            s5 += np.float64(a[j + 5]) * np.float64(b[j + 5])
            s6 += np.float64(a[j + 6]) * np.float64(b[j + 6])
            s7 += np.float64(a[j + 7]) * np.float64(b[j + 7])
        total = ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))
        for j in range(whole, n_actions):
            total += np.float64(a[j]) * np.float64(b[j])
        dm[i] = total
        p_chosen[i] = a[chosen[i]]
        q_chosen[i] = b[chosen[i]]
