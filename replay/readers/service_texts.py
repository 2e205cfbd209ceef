"""Candidates' features with what the service itself knew of them, as a model learned and scored them."""

from __future__ import annotations

import numpy as np

from bandit.features.hashing import with_dense
from bandit.statistics.columns import NAMES
from replay.events import Batch
from replay.readers.service_feeds import Feeds, candidates_of


def whole_texts(batch: Batch) -> list[bytes]:
    """Shape (C,): `Texts.candidates`, in a service's log each with its dense columns as they stood.

    Other logs have all there is in their texts. Some 50 microseconds for each candidate of a decision, and nearly all
    of these texts are different: whoever can do without the columns takes ``batch.texts``.

    :raises BadLog: the log gives other statistics than a decision saw
    """
    assert batch.texts is not None
    feeds = batch.source
    if not isinstance(feeds, Feeds):
        return batch.texts.candidates
    if feeds.whole is None:
        every = np.array([*feeds.items.texts(feeds.versions.tolist()), None], object)[:-1]
        for i, (begin, end) in enumerate(zip(feeds.of[:-1].tolist(), feeds.of[1:].tolist(), strict=True)):
            dense = feeds.dense(i)
            if dense is not None:
                names = NAMES[: dense.shape[1]]
                # As lessons do: an item of which all columns are 0 is as it was.
                every[begin:end] = [
                    with_dense(text, names, values) if any(values) else text
                    for text, values in zip(every[begin:end].tolist(), dense.tolist(), strict=True)
                ]
        feeds.whole = every[candidates_of(feeds)[1]].tolist()
    return feeds.whole
