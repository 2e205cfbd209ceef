"""What one fold's regression is: fitted on the viewers of the other folds alone, asked about candidates of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from replay.errors import BadQuestion
from replay.events import F64, I64, U64
from replay.reward_model.linear import Linear, fit_logistic, fit_ridge, left_out
from replay.reward_model.sample import Sample
from replay.reward_model.tables import SlotMeans, found_at
from replay.reward_model.texts import CROSSES, WIDTH, Ragged, crossed_rows, crossed_scores, identity_hashes

CROSS_WEIGHT = 0.5
"""Of products of shared features and items beside the features themselves: their effects are smaller as a rule, so
they are shrunk four times as strongly."""
MOST_NONZERO = 8_000_000
"""Of a design matrix; products of features are left out where they would pass it."""
MOST_CATEGORIES = 63
"""Items that boosting tells apart; the most frequent."""
MOST_TREES = 100
DENSE_COLUMNS = 1000
"""A caller's estimator is handed a plain matrix up to so many columns, a sparse one beyond."""
AT_ONCE = 65_536


class Rows(NamedTuple):
    """Candidates to predict; columns of shape (m,) unless said."""

    event: I64
    """Row of ``contexts`` and ``shared``."""
    item: U64
    slot: I64
    contexts: F64
    shared: Ragged
    candidate: Ragged

    def part(self, first: int, last: int) -> Rows:
        """A stretch of them."""
        some = np.arange(first, last)
        return self._replace(
            event=self.event[some],
            item=self.item[some],
            slot=self.slot[some],
            candidate=self.candidate.take(some) if len(self.candidate.hashes) else self.candidate,
        )


def rows_of(sample: Sample) -> Rows:
    """What was shown, to learn from."""
    return Rows(
        np.arange(len(sample)), sample.item, sample.slot, sample.contexts, sample.shared, sample.candidate
    )  # fmt: skip


class Design(Protocol):
    """How candidates become columns, as the training viewers have them."""

    width: int

    def matrix(self, rows: Rows, *, crosses: bool) -> csr_matrix:
        """Shape (m, width)."""
        ...

    def score(self, rows: Rows, coef: F64) -> F64:
        """Shape (m,): ``matrix(rows, crosses=True) @ coef``, faster."""
        ...


class NumericDesign:
    """Columns: contexts, standardised; which item; contexts for each item by itself."""

    def __init__(self, sample: Sample) -> None:
        self.items = np.unique(sample.item)
        contexts = sample.contexts
        self.mean = contexts.mean(0)
        spread = contexts.std(0)
        self.spread = np.where(spread > 1e-12 * (1.0 + np.abs(self.mean)), spread, 1.0)
        self.d = contexts.shape[1]
        self.width = self.d + len(self.items) * (1 + self.d)

    def standard(self, contexts: F64) -> F64:
        standard: F64 = (contexts - self.mean) / self.spread
        return standard

    def matrix(self, rows: Rows, *, crosses: bool) -> csr_matrix:
        d, n_items, m = self.d, len(self.items), len(rows.item)
        x = self.standard(rows.contexts)[rows.event]
        at = found_at(self.items, rows.item)
        known = (at >= 0).astype(np.float64)[:, None]
        at = np.maximum(at, 0)
        columns = [np.broadcast_to(np.arange(d), (m, d)), d + at[:, None]]
        values = [x, known]
        if crosses:
            columns.append(d + n_items + (at * d)[:, None] + np.arange(d))
            values.append(CROSS_WEIGHT * x * known)
        column, value = np.concatenate(columns, axis=1), np.concatenate(values, axis=1)
        starts = np.arange(m + 1) * column.shape[1]
        width = self.width if crosses else d + n_items
        return csr_matrix((value.ravel(), column.ravel(), starts), shape=(m, width))

    def score(self, rows: Rows, coef: F64) -> F64:
        d, n_items = self.d, len(self.items)
        x = self.standard(rows.contexts)
        shared = x @ coef[:d]
        own = np.append(coef[d : d + n_items], 0.0)
        slopes = np.zeros((n_items + 1, d))
        slopes[:-1] = CROSS_WEIGHT * coef[d + n_items :].reshape(n_items, d)
        at = found_at(self.items, rows.item)
        scores: F64 = shared[rows.event] + own[at]
        for i in range(0, len(at), AT_ONCE):
            part = slice(i, i + AT_ONCE)
            scores[part] += np.einsum("cd,cd->c", x[rows.event[part]], slopes[at[part]])
        return scores


class TextDesign:
    """Columns: hashes of shared features, of candidates', of which item it is, and of their products."""

    width = WIDTH

    def __init__(self, sample: Sample) -> None:
        n_shared, n_candidate = len(sample.shared.hashes), len(sample.candidate.hashes)
        m = max(len(sample), 1)
        plain = n_shared + n_candidate + m
        by_level = (plain, plain + n_shared, plain + n_shared + n_shared * n_candidate // m)
        self.level = max(level for level in range(len(CROSSES)) if level == 0 or by_level[level] <= MOST_NONZERO)
        self.scale: F64 = np.ones(WIDTH)
        rows = self.matrix(rows_of(sample), crosses=True)
        squares = np.bincount(rows.indices, rows.data**2, WIDTH)
        times = np.bincount(rows.indices, minlength=WIDTH)
        # Plain numbers (an age, a price) are brought to size 1; features that are there or not stay as they are.
        usual = np.isclose(squares, times) | np.isclose(squares, CROSS_WEIGHT**2 * times) | (times == 0)
        self.scale = np.where(usual, 1.0, 1.0 / np.sqrt(np.maximum(squares, 1e-300) / np.maximum(times, 1)))

    def matrix(self, rows: Rows, *, crosses: bool) -> csr_matrix:
        shared = rows.shared if _in_order(rows.event, rows.shared) else rows.shared.take(rows.event)
        level = self.level if crosses else 0
        n_s, n_c = np.diff(shared.starts), np.diff(rows.candidate.starts)
        lengths = n_s + n_c + 1 + (n_s if level >= 1 else 0) + (n_s * n_c if level >= 2 else 0)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        columns, values = np.empty(starts[-1], np.int32), np.empty(starts[-1])
        identity = identity_hashes(rows.item)
        crossed_rows(*shared, *rows.candidate, identity, level, CROSS_WEIGHT, starts, columns, values)
        return csr_matrix((values * self.scale[columns], columns, starts), shape=(len(identity), WIDTH))

    def score(self, rows: Rows, coef: F64) -> F64:
        scores = np.zeros(len(rows.item))
        identity = identity_hashes(rows.item)
        crossed_scores(
            *rows.shared, *rows.candidate, identity, rows.event, self.level, CROSS_WEIGHT, coef * self.scale, scores
        )
        return scores


def _in_order(event: I64, shared: Ragged) -> bool:
    """Every row has the shared features of its own number."""
    return len(event) == len(shared.starts) - 1 and bool((event == np.arange(len(event))).all())


class Regression(Protocol):
    """Fitted on some folds."""

    def predict(self, rows: Rows) -> F64:
        """Shape (m,): expected rewards."""
        ...


class RidgeRegression:
    """Least squares on rewards as they differ from their slot's mean."""

    def __init__(self, sample: Sample, slots: SlotMeans) -> None:
        self.slots = slots
        self.design: Design = _design(sample)
        mean, scale = slots.at(sample.slot)
        rows = self.design.matrix(rows_of(sample), crosses=True)
        # Where a slot's mean is lower by a factor, so is about its variance: rows count by that factor.
        self.linear: Linear = fit_ridge(rows, (sample.reward - mean) / scale, scale, sample.fold)

    def predict(self, rows: Rows) -> F64:
        mean, scale = self.slots.at(rows.slot)
        predicted: F64 = mean + scale * (self.linear.intercept + self.design.score(rows, self.linear.coef))
        return predicted


class LogisticRegression:
    """Chances of a reward of 1, by slot too."""

    def __init__(self, sample: Sample, slots: SlotMeans) -> None:
        if not np.isin(sample.reward, (0.0, 1.0)).all():
            odd = sample.reward[~np.isin(sample.reward, (0.0, 1.0))][0]
            raise BadQuestion(f"logistic regression needs rewards of 0 or 1, and one is {odd}; use ridge")
        self.n_slots = len(slots.mean)
        self.design: Design = _design(sample)
        rows = hstack(
            [self.design.matrix(rows_of(sample), crosses=True), _slot_columns(sample.slot, self.n_slots)], "csr"
        )
        self.linear: Linear = fit_logistic(rows, sample.reward, sample.fold)

    def predict(self, rows: Rows) -> F64:
        linear, width = self.linear, self.design.width
        by_slot = linear.coef[width:]
        odds = linear.intercept + self.design.score(rows, linear.coef[:width])
        if self.n_slots > 1:
            odds = odds + by_slot[np.minimum(rows.slot, self.n_slots - 1)]
        predicted: F64 = 1.0 / (1.0 + np.exp(-np.clip(odds, -700.0, 700.0)))
        return predicted


class BoostedTrees:
    """Histogram gradient boosting on numeric contexts, item and slot; as many trees as viewers left out ask for."""

    # Threads of OpenMP spin while they wait: with more of them than idle cores a tree takes a hundred times as long.
    @threadpool_limits.wrap(limits=1, user_api="openmp")  # type: ignore[untyped-decorator]
    def __init__(self, sample: Sample, slots: SlotMeans) -> None:
        if not sample.contexts.shape[1]:
            raise BadQuestion("boosting needs numeric contexts, and this log has none; use ridge or table")
        self.slots = slots
        items, counts = np.unique(sample.item, return_counts=True)
        self.items = np.sort(items[np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]])
        mean, scale = slots.at(sample.slot)
        x, y = self._columns(rows_of(sample)), (sample.reward - mean) / scale
        # Weights make the binning slow, so they are left out where they say nothing.
        weight = None if (scale == 1.0).all() else scale
        n_trees = 40
        for out in left_out(sample.fold)[:1]:
            kept, tested = sample.fold != out, sample.fold == out
            trial = self._boosting(MOST_TREES).fit(
                x[kept], y[kept], sample_weight=None if weight is None else weight[kept]
            )
            errors = [
                float(np.average((y[tested] - predicted) ** 2, weights=scale[tested]))
                for predicted in trial.staged_predict(x[tested])
            ]
            n_trees = int(np.argmin(errors)) + 1
        self.model = self._boosting(n_trees).fit(x, y, sample_weight=weight)

    def _boosting(self, n_trees: int) -> Any:
        return HistGradientBoostingRegressor(
            max_iter=n_trees, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=1.0,
            early_stopping=False, max_bins=64, categorical_features=[0], random_state=0,
        )  # fmt: skip

    def _columns(self, rows: Rows) -> F64:
        at = found_at(self.items, rows.item).astype(np.float64)
        at[at < 0] = np.nan
        return np.column_stack([at, rows.slot, rows.contexts[rows.event]])

    def predict(self, rows: Rows) -> F64:
        mean, scale = self.slots.at(rows.slot)
        parts = [rows.part(i, min(i + AT_ONCE, len(rows.item))) for i in range(0, len(rows.item), AT_ONCE)]
        predicted: F64 = mean + scale * np.concatenate([self.model.predict(self._columns(part)) for part in parts])
        return predicted


class CallersEstimator:
    """A copy of any scikit-learn regressor, or classifier of rewards that are 0 or 1."""

    def __init__(self, estimator: Any, sample: Sample, slots: SlotMeans) -> None:
        self.n_slots = len(slots.mean)
        self.design: Design = _design(sample)
        self.model = clone(estimator)
        self.constant: float | None = None
        classes = hasattr(self.model, "predict_proba")
        if classes and not np.isin(sample.reward, (0.0, 1.0)).all():
            raise BadQuestion(f"{type(estimator).__name__} is a classifier, and rewards are not all 0 or 1")
        if classes and sample.reward.min() == sample.reward.max():
            self.constant = float(sample.reward[0])
            return
        self.model.fit(self._columns(rows_of(sample)), sample.reward)

    def _columns(self, rows: Rows) -> Any:
        columns = hstack([self.design.matrix(rows, crosses=False), _slot_columns(rows.slot, self.n_slots)], "csr")
        return columns.toarray() if columns.shape[1] <= DENSE_COLUMNS else columns

    def predict(self, rows: Rows) -> F64:
        if self.constant is not None:
            return np.full(len(rows.item), self.constant)
        out = np.empty(len(rows.item))
        step = AT_ONCE // 4
        for i in range(0, len(out), step):
            columns = self._columns(rows.part(i, min(i + step, len(out))))
            if hasattr(self.model, "predict_proba"):
                out[i : i + step] = self.model.predict_proba(columns)[:, 1]
            else:
                out[i : i + step] = self.model.predict(columns)
        return out


def _slot_columns(slot: I64, n_slots: int) -> csr_matrix:
    """Shape (m, n_slots), one 1 in each row; none where there is but one slot."""
    m = len(slot)
    if n_slots == 1:
        return csr_matrix((m, 0))
    return csr_matrix((np.ones(m), np.minimum(slot, n_slots - 1), np.arange(m + 1)), shape=(m, n_slots))


def _design(sample: Sample) -> Design:
    if len(sample.candidate.hashes) or len(sample.shared.hashes):
        return TextDesign(sample)
    return NumericDesign(sample)
