"""Ridge and logistic regression on sparse rows, as strong a penalty as viewers left out ask for."""

from __future__ import annotations

import warnings
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from replay.events import F64, I64

PENALTIES: Final = 10.0 ** np.arange(-0.5, 5.6, 0.5)
"""Of the exact ridge: from none to speak of, to nothing but the mean."""
STEPS: Final = 30
"""Of the iterative ridge: looks at all rows; what they do not reach is as good as shrunk to nothing."""
LEAST_ROWS: Final = 3
"""A column that is used in fewer rows is left out: of viewers left out it can say nothing."""
STRENGTHS: Final = (0.01, 0.05, 0.2, 1.0)
"""C of logistic regression."""
EXACT: Final = 1500
"""Up to so many columns in use, ridge is solved by the normal equations."""
MANY: Final = 40_000
"""From so many rows on, one fold is left out to choose the penalty, not each in turn."""


class Linear(NamedTuple):
    """``intercept + row @ coef``; of logistic regression the log odds.

    :param error: mean squared error on the viewers left out
    :param tested: which folds these were
    """

    coef: F64
    intercept: float
    penalty: float
    error: float
    tested: tuple[int, ...] = ()


def left_out(folds: I64) -> list[int]:
    """Which folds are left out in turn to choose by; none if there are not two."""
    present: list[int] = np.unique(folds).tolist()
    if len(present) < 2:
        return []
    return present[:1] if len(folds) > MANY else present


# Systems are small, and many: threads of BLAS would wait for each other, on a busy machine a hundred times as long.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def fit_ridge(rows: csr_matrix, y: F64, weight: F64, folds: I64) -> Linear:
    """Penalised least squares.

    :param rows: shape (m, width)
    :param weight: shape (m,): how much each row counts
    :param folds: shape (m,): by viewer
    """
    used = _worth_using(rows)
    fitted = _ridge_exact if len(used) <= EXACT else _ridge_by_iteration
    return _widened(fitted(rows[:, used], y, weight, folds), used, rows.shape[1])


def _worth_using(rows: csr_matrix) -> I64:
    """Columns that enough rows have."""
    return np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]) >= LEAST_ROWS)


def _widened(found: Linear, used: I64, width: int) -> Linear:
    """With coefficients of 0 for columns that were left out."""
    coef = np.zeros(width)
    coef[used] = found.coef
    return found._replace(coef=coef)


class _Moments(NamedTuple):
    """Of some rows: what the normal equations need."""

    weight: float
    x: F64
    y: float
    xx: F64
    xy: F64

    def plus(self, other: _Moments) -> _Moments:
        return _Moments(
            self.weight + other.weight, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy
        )

    def solve(self, penalties: F64) -> tuple[F64, F64]:
        """Coefficients, shape (columns, penalties), and intercepts, shape (penalties,)."""
        x, y = self.x / self.weight, self.y / self.weight
        xx, xy = self.xx - self.weight * np.outer(x, x), self.xy - self.weight * x * y
        coef = np.empty((len(x), len(penalties)))
        diagonal = np.diag_indices(len(x))
        for k, penalty in enumerate(penalties):
            system = xx.copy()
            system[diagonal] += penalty
            coef[:, k] = cho_solve(cho_factor(system, overwrite_a=True, check_finite=False), xy, check_finite=False)
        return coef, y - x @ coef


def _moments(rows: csr_matrix, y: F64, weight: F64) -> _Moments:
    heavy = rows.multiply(weight[:, None]).tocsr()
    return _Moments(
        float(weight.sum()),
        np.asarray(heavy.sum(axis=0)).ravel(),
        float(weight @ y),
        np.asarray((rows.T @ heavy).todense()),
        heavy.T @ y,
    )


def _ridge_exact(rows: csr_matrix, y: F64, weight: F64, folds: I64) -> Linear:
    present = np.unique(folds).tolist()
    of_fold = {f: np.flatnonzero(folds == f) for f in present}
    moments = {f: _moments(rows[at], y[at], weight[at]) for f, at in of_fold.items()}
    errors = np.zeros(len(PENALTIES))
    tested = 0.0
    for out in left_out(folds):
        coef, intercept = _summed([moments[f] for f in present if f != out]).solve(PENALTIES)
        at = of_fold[out]
        missed = y[at, None] - (rows[at] @ coef + intercept)
        errors += weight[at] @ missed**2
        tested += float(weight[at].sum())
    best = int(errors.argmin()) if tested else len(PENALTIES) // 2
    coef, intercept = _summed(list(moments.values())).solve(PENALTIES[best : best + 1])
    error = errors[best] / tested if tested else np.inf
    return Linear(coef[:, 0], float(intercept[0]), float(PENALTIES[best]), float(error), tuple(left_out(folds)))


def _summed(parts: list[_Moments]) -> _Moments:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.plus(part)
    return whole


class _Krylov:
    """Least squares on a subspace that grows with each look at the rows; one subspace serves all penalties.

    Golub-Kahan bidiagonalisation, fully reorthogonalised.
    Source: O'Leary, Simmons 1981, A bidiagonalization-regularization procedure for large scale discretizations of
    ill-posed problems.
    """

    def __init__(self, rows: csr_matrix, y: F64, weight: F64) -> None:
        root, total = np.sqrt(weight), float(weight.sum())
        self.x, self.y = (rows.T @ weight) / total, float(weight @ y) / total
        back = rows.T.tocsr()
        u = root * (y - self.y)
        self.size = float(np.linalg.norm(u))
        n_steps = min(STEPS, *rows.shape)
        self.v = np.zeros((n_steps, rows.shape[1]))
        us = np.zeros((n_steps + 1, rows.shape[0]))
        self.b = np.zeros((n_steps + 1, n_steps))
        if self.size > 0:
            us[0] = u / self.size
        for k in range(n_steps):
            weighted = root * us[k]
            v = back @ weighted - self.x * weighted.sum()
            v -= self.v[:k].T @ (self.v[:k] @ v)
            v -= self.v[:k].T @ (self.v[:k] @ v)
            along = float(np.linalg.norm(v))
            if along <= 1e-10 * self.size:
                break
            self.v[k] = v / along
            u = root * (rows @ self.v[k] - self.x @ self.v[k])
            self.b[: k + 1, k] = us[: k + 1] @ u
            u -= us[: k + 1].T @ self.b[: k + 1, k]
            beyond = float(np.linalg.norm(u))
            self.b[k + 1, k] = beyond
            if beyond <= 1e-10 * self.size:
                break
            us[k + 1] = u / beyond

    def solve(self, penalties: F64) -> tuple[F64, F64]:
        """Coefficients, shape (columns, penalties), and intercepts, shape (penalties,)."""
        bb, target = self.b.T @ self.b, self.b[0] * self.size
        identity = np.eye(len(bb))
        coef = self.v.T @ np.stack([np.linalg.solve(bb + penalty * identity, target) for penalty in penalties], axis=1)
        return coef, self.y - self.x @ coef


def _ridge_by_iteration(rows: csr_matrix, y: F64, weight: F64, folds: I64) -> Linear:
    best, error = len(PENALTIES) // 2, float("inf")
    for out in left_out(folds)[:1]:
        kept, tested = np.flatnonzero(folds != out), np.flatnonzero(folds == out)
        coef, intercept = _Krylov(rows[kept], y[kept], weight[kept]).solve(PENALTIES)
        errors = weight[tested] @ (y[tested, None] - (rows[tested] @ coef + intercept)) ** 2
        best = int(errors.argmin())
        error = float(errors[best] / weight[tested].sum())
    coef, intercept = _Krylov(rows, y, weight).solve(PENALTIES[best : best + 1])
    return Linear(coef[:, 0], float(intercept[0]), float(PENALTIES[best]), error, tuple(left_out(folds)[:1]))


def fit_logistic(rows: csr_matrix, y: F64, folds: I64) -> Linear:
    """Log odds of a reward of 1.

    :param y: shape (m,), 0 or 1
    """
    chance = float(y.mean())
    if chance in (0.0, 1.0):
        return Linear(np.zeros(rows.shape[1]), np.inf if chance else -np.inf, 0.0, 0.0)
    used, width = _worth_using(rows), rows.shape[1]
    rows = rows[:, used]

    def fitted(at: I64, strength: float) -> Any:
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(rows[at], y[at])

    outs = left_out(folds)[: 1 if len(y) > 5_000 else 2]
    losses = np.zeros(len(STRENGTHS))
    squares, n = np.zeros(len(STRENGTHS)), 0
    for out in outs:
        kept, tested = np.flatnonzero(folds != out), np.flatnonzero(folds == out)
        if y[kept].min() == y[kept].max():
            continue
        for k, strength in enumerate(STRENGTHS):
            p = np.clip(fitted(kept, strength).predict_proba(rows[tested])[:, 1], 1e-12, 1 - 1e-12)
            losses[k] -= float((y[tested] * np.log(p) + (1 - y[tested]) * np.log1p(-p)).sum())
            squares[k] += float(((y[tested] - p) ** 2).sum())
        n += len(tested)
    best = int(losses.argmin()) if n else len(STRENGTHS) // 2
    model = fitted(np.arange(len(y)), STRENGTHS[best])
    error = float(squares[best] / n) if n else float("inf")
    found = Linear(model.coef_[0], float(model.intercept_[0]), STRENGTHS[best], error, tuple(outs))
    return _widened(found, used, width)
