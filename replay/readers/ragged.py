"""Batches put together and taken apart: ragged columns, gathered by event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.events import F64, I64, Batch, Candidates, Texts


def starts_of(counts: Sequence[int] | NDArray[Any]) -> I64:
    """Shape (n + 1,): where ragged parts of these sizes begin, and the end."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def gathered(starts: I64, parts: I64) -> tuple[I64, I64]:
    """(starts of the chosen parts one after another, index of each of their elements)."""
    counts = (starts[1:] - starts[:-1])[parts]
    new = starts_of(counts)
    return new, np.repeat(starts[:-1][parts] - new[:-1], counts) + np.arange(new[-1])


def taken(batch: Batch, events: I64) -> Batch:
    """The batch of these events, in this order.

    :param events: numbers of events; none may be there twice if order matters to what is asked
    """
    starts, slots = gathered(batch.starts, events)
    candidates, picked = None, None
    if batch.candidates is not None:
        candidate_starts, picked = gathered(batch.candidates.starts, slots)
        logged = batch.candidates.logged
        candidates = Candidates(
            candidate_starts, batch.candidates.item[picked], None if logged is None else logged[picked]
        )
    texts = None
    if batch.texts is not None:
        assert picked is not None
        texts = Texts(
            [batch.texts.shared[i] for i in events.tolist()], [batch.texts.candidates[i] for i in picked.tolist()]
        )
    return Batch(
        starts=starts,
        item=batch.item[slots],
        chosen=batch.chosen[slots],
        propensity=batch.propensity[slots],
        reward=batch.reward[slots],
        n_candidates=batch.n_candidates[slots],
        viewer=batch.viewer[events],
        time=batch.time[events],
        place=batch.place[events],
        seen=None if batch.seen is None else batch.seen[slots],
        fields={name: column[events] for name, column in batch.fields.items()},
        columns={name: column[slots] for name, column in batch.columns.items()},
        candidates=candidates,
        texts=texts,
        contexts=None if batch.contexts is None else batch.contexts[events],
        source=batch.source,
    )


def _joined_logged(parts: Sequence[Candidates]) -> F64 | None:
    """NaN where some parts know it and this one does not."""
    if all(part.logged is None for part in parts):
        return None
    return np.concatenate([np.full(len(part.item), np.nan) if part.logged is None else part.logged for part in parts])


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of all these, which have the same columns."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def all_of(name: str) -> Any:
        return np.concatenate([getattr(batch, name) for batch in batches])

    candidates = texts = None
    if first.candidates is not None:
        parts = [batch.candidates for batch in batches if batch.candidates is not None]
        candidates = Candidates(
            starts_of(np.concatenate([np.diff(part.starts) for part in parts])),
            np.concatenate([part.item for part in parts]),
            _joined_logged(parts),
        )
    if first.texts is not None:
        found = [batch.texts for batch in batches if batch.texts is not None]
        texts = Texts(
            [text for part in found for text in part.shared], [text for part in found for text in part.candidates]
        )
    seen = None
    if any(batch.seen is not None for batch in batches):
        seen = np.concatenate(
            [np.ones(batch.n_slots, np.uint8) if batch.seen is None else batch.seen for batch in batches]
        )
    return Batch(
        starts=starts_of(np.concatenate([np.diff(batch.starts) for batch in batches])),
        item=all_of("item"),
        chosen=all_of("chosen"),
        propensity=all_of("propensity"),
        reward=all_of("reward"),
        n_candidates=all_of("n_candidates"),
        viewer=all_of("viewer"),
        time=all_of("time"),
        place=all_of("place"),
        seen=seen,
        fields={name: np.concatenate([batch.fields[name] for batch in batches]) for name in first.fields},
        columns={name: np.concatenate([batch.columns[name] for batch in batches]) for name in first.columns},
        candidates=candidates,
        texts=texts,
        contexts=None if first.contexts is None else all_of("contexts"),
    )
