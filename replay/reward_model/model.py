"""The reward model of an evaluation: five models in one, each asked only about viewers that it has never seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from replay.errors import BadLog, BadQuestion
from replay.events import F64, FOLDS, Batch, event_of_slot, fold_of, slot_numbers
from replay.reward_model.regress import (
    BoostedTrees,
    CallersEstimator,
    LogisticRegression,
    Regression,
    RidgeRegression,
    Rows,
)
from replay.reward_model.sample import Sample, ViewerSample
from replay.reward_model.tables import Table, TableSums
from replay.reward_model.texts import TextReader, empty_ragged

KINDS: Final = ("auto", "table", "ridge", "logistic", "boosting")
MOST_EVENTS: Final = 200_000


class _OfFold(NamedTuple):
    """What predicts the viewers of one fold: made from the others alone."""

    table: Table
    regression: Regression | None
    low: float
    high: float
    kind: str


class RewardModel:
    """Expected rewards of all candidates, cross-fitted by viewer.

    For each of the five folds (`replay.events.fold_of`, by viewer) there is a model that was made by one function
    from the events of the other four alone: features' scales, the choice of penalty and the choice between kinds
    included. :meth:`predict` takes the model by the event's fold. So what a viewer did has no way into a prediction
    for that viewer, and noise that is fitted cannot look like knowledge.

    A slot that was not seen has reward 0, and is learned from as such: predictions are of the reward that a slot
    earns, unseen or not, which is what a feed's value adds up.
    """

    def __init__(self, table: TableSums, folds: list[_OfFold], *, texts: bool, contexts: int) -> None:
        self._table = table
        self._items = table.items()[0]
        self._folds = folds
        self._texts = texts
        self._contexts = contexts
        self._reader = TextReader()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was chosen for each fold."""
        return tuple(fold.kind for fold in self._folds)

    @classmethod
    def fit(
        cls,
        batches: Iterable[Batch],
        *,
        kind: Any = "auto",
        folds: int = FOLDS,
        most_events: int = MOST_EVENTS,
        seed: int = 0,
    ) -> RewardModel:
        """In one pass, with memory for a sample and for a table of items and slots.

        :param kind: one of ``KINDS``, or a scikit-learn estimator, which is copied. ``auto``: ridge where the log has
            texts or numeric contexts and it predicts viewers left out better than the table does, else the table
        :param folds: as many as `replay.events.FOLDS`
        :param most_events: slots that a regression learns from, of whole viewers drawn by ``seed``; the table
            counts all events
        :raises BadLog: no events
        :raises BadQuestion: no such kind, or it does not fit this log
        """
        if isinstance(kind, str) and kind not in KINDS:
            raise BadQuestion(f"no reward model {kind!r}; there are {', '.join(KINDS)}, or bring an estimator")
        if not isinstance(kind, str) and not hasattr(kind, "fit"):
            raise BadQuestion(f"{type(kind).__name__} is no scikit-learn estimator; name one of {', '.join(KINDS)}")
        if folds != FOLDS:
            raise BadQuestion(f"{folds} folds, but viewers are put into {FOLDS}")
        if most_events < 1:
            raise BadQuestion(f"most_events is {most_events}, expected at least 1")
        table, sampled = TableSums(), ViewerSample(most_events, seed, TextReader())
        for batch in batches:
            _check(batch.reward)
            table.add(batch)
            if not (isinstance(kind, str) and kind == "table"):
                sampled.add(batch)
        table.settle()
        if not len(table.keys):
            raise BadLog("the log has no events to fit a reward model on")
        if isinstance(kind, str) and kind == "table":
            return cls(table, [_table_alone(table, f) for f in range(FOLDS)], texts=False, contexts=0)
        sample = sampled.whole()
        texts = len(sample.candidate.hashes) > 0 or len(sample.shared.hashes) > 0
        contexts = sample.contexts.shape[1]
        if not texts and not contexts and kind in KINDS and kind != "auto":
            raise BadQuestion(f"{kind} needs features, and this log has neither texts nor numeric contexts; use table")
        made = [_made_without(f, sample.take(np.flatnonzero(sample.fold != f)), table, kind) for f in range(FOLDS)]
        return cls(table, made, texts=texts, contexts=0 if texts else contexts)

    def predict(self, batch: Batch) -> F64:
        """Shape (C,): expected reward of every candidate of every slot, in the order of ``batch.candidates``.

        :raises BadLog: the batch does not say which candidates there were, or lacks the features that were learned
        """
        found = batch.candidates
        if found is None:
            raise BadLog("a reward model needs the candidates of each event, and this log does not list them")
        if self._texts and batch.texts is None:
            raise BadLog("the reward model was fitted on features, and these events have none")
        d = 0 if batch.contexts is None else batch.contexts.shape[1]
        if self._contexts and d != self._contexts:
            raise BadLog(f"the reward model was fitted on {self._contexts} numeric contexts, and these events have {d}")
        of_slot = np.diff(found.starts)
        event = np.repeat(event_of_slot(batch.starts), of_slot)
        slot = np.repeat(slot_numbers(batch.starts), of_slot)
        fold = fold_of(batch.viewer)[event]
        out = np.empty(len(event))
        for f, made in enumerate(self._folds):
            at = np.flatnonzero(fold == f)
            if not len(at):
                continue
            if made.regression is None:
                places = self._table.find(self._items, found.item[at], slot[at])
                predicted = made.table.predict(places, slot[at])
            else:
                events, local = np.unique(event[at], return_inverse=True)
                shared, candidate = empty_ragged(len(events)), empty_ragged(len(at))
                contexts = np.empty((len(events), 0))
                if self._texts and batch.texts is not None:
                    shared = self._reader.read([batch.texts.shared[i] for i in events.tolist()], keep=False)
                    candidate = self._reader.read([batch.texts.candidates[c] for c in at.tolist()], keep=True)
                elif batch.contexts is not None:
                    contexts = batch.contexts[events]
                predicted = made.regression.predict(Rows(local, found.item[at], slot[at], contexts, shared, candidate))
            out[at] = np.clip(predicted, made.low, made.high)
        return out


def _check(reward: F64) -> None:
    if not np.isfinite(reward).all():
        raise BadLog(f"reward {reward[~np.isfinite(reward)][0]} is not a finite number")


def _table_alone(table: TableSums, fold: int) -> _OfFold:
    # A mean of rewards is within their range, so there is nothing to clip, shrinkage by slot scales aside.
    return _OfFold(table.without(fold), None, -np.inf, np.inf, "table")


def _made_without(fold: int, others: Sample, table: TableSums, kind: Any) -> _OfFold:
    """The model for a fold.

    :param others: slots of other folds alone; with ``table.without(fold)`` all that this sees of rewards
    """
    alone = _table_alone(table, fold)
    features = len(others.candidate.hashes) > 0 or len(others.shared.hashes) > 0 or others.contexts.shape[1] > 0
    if not len(others) or (kind == "auto" and not features):
        return alone
    slots = alone.table.slots
    low, high = float(others.reward.min()), float(others.reward.max())
    if not isinstance(kind, str):
        return _OfFold(alone.table, CallersEstimator(kind, others, slots), low, high, type(kind).__name__)
    made: Regression
    if kind == "auto":
        made = RidgeRegression(others, slots)
        if made.linear.error >= _error_of_table(fold, others, table, made.linear.tested):
            return alone
    elif kind == "logistic":
        made = LogisticRegression(others, slots)
    elif kind == "boosting":
        made = BoostedTrees(others, slots)
    else:
        made = RidgeRegression(others, slots)
    return _OfFold(alone.table, made, low, high, "ridge" if kind == "auto" else kind)


def _error_of_table(fold: int, others: Sample, table: TableSums, tested: tuple[int, ...]) -> float:
    """Of the table on viewers left out, as that of a ridge regression."""
    items = table.items()[0]
    squares = counted = 0.0
    for out in tested:
        some = others.take(np.flatnonzero(others.fold == out))
        trial = table.without(fold, out)
        scale = trial.slots.at(some.slot)[1]
        missed = some.reward - trial.predict(table.find(items, some.item, some.slot), some.slot)
        squares += float((missed**2 / scale).sum())
        counted += float(scale.sum())
    return squares / counted if counted else np.inf
