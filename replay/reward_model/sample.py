"""A seeded sample of the log's slots, of whole viewers, in one pass and constant memory: regressions learn from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from replay.errors import BadLog
from replay.events import F64, I64, U64, Batch, event_of_slot, fold_of, mixed, slot_numbers
from replay.reward_model.texts import Ragged, TextReader, empty_ragged


@dataclass(slots=True)
class Sample:
    """Slots with what was shown and earned there; columns of shape (m,) unless said."""

    viewer: U64
    item: U64
    slot: I64
    reward: F64
    fold: I64
    contexts: F64
    """Shape (m, d); d is 0 where the log has no numeric contexts."""
    shared: Ragged
    """Hashed features of viewer and context; no columns where the log has no texts."""
    candidate: Ragged
    """Hashed features of what was shown."""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: I64) -> Sample:
        """Only these slots."""
        return Sample(
            self.viewer[rows],
            self.item[rows],
            self.slot[rows],
            self.reward[rows],
            self.fold[rows],
            self.contexts[rows],
            self.shared.take(rows),
            self.candidate.take(rows),
        )


def joined(parts: list[Sample]) -> Sample:
    """One after another."""

    def column(name: str) -> F64:
        columns: F64 = np.concatenate([getattr(part, name) for part in parts])
        return columns

    return Sample(
        column("viewer").astype(np.uint64),
        column("item").astype(np.uint64),
        column("slot").astype(np.int64),
        column("reward"),
        column("fold").astype(np.int64),
        column("contexts"),
        Ragged.joined([part.shared for part in parts]),
        Ragged.joined([part.candidate for part in parts]),
    )


@dataclass(slots=True)
class ViewerSample:
    """Keeps the viewers whose seeded hash is lowest, as many whole ones as fit: what is kept does not depend on how
    the log was cut into batches, and a viewer is kept with all slots or with none.

    :param most: slots; one viewer who alone has more is cut to the first ``most``
    """

    most: int
    seed: int
    reader: TextReader
    parts: list[Sample] = field(default_factory=list)
    n: int = 0
    below: int = 2**64
    """Viewers with this hash or a higher one are out."""

    def hashes(self, viewer: U64) -> U64:
        """Independent of folds and buckets, which key on the plain hash."""
        salt = np.uint64((self.seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) % 2**64)
        return mixed(mixed(viewer) ^ salt)

    def add(self, batch: Batch) -> None:
        """
        :raises BadLog: numeric contexts change their number
        """
        events = event_of_slot(batch.starts)
        hashes = self.hashes(batch.viewer)
        wanted = np.ones(batch.n, bool) if self.below == 2**64 else hashes < np.uint64(self.below)
        rows = np.flatnonzero(wanted[events])
        if not len(rows):
            return
        d = 0 if batch.contexts is None else batch.contexts.shape[1]
        if self.parts and self.parts[0].contexts.shape[1] != d:
            raise BadLog(
                f"event {batch.place[0]} has {d} numeric contexts, earlier ones {self.parts[0].contexts.shape[1]}; "
                "every event needs the same ones"
            )
        at = events[rows]
        shared = candidate = empty_ragged(len(rows))
        if batch.texts is not None and batch.candidates is not None:
            some = np.flatnonzero(wanted)
            of_event = self.reader.read([batch.texts.shared[i] for i in some.tolist()], keep=False)
            shared = of_event.take(np.searchsorted(some, at))
            chosen = (batch.candidates.starts[:-1] + batch.chosen)[rows].tolist()
            candidate = self.reader.read([batch.texts.candidates[c] for c in chosen], keep=True)
        viewer = batch.viewer[at]
        contexts = np.empty((len(rows), 0)) if batch.contexts is None else batch.contexts[at].astype(np.float64)
        slot = slot_numbers(batch.starts)[rows]
        self.parts.append(
            Sample(
                viewer, batch.item[rows], slot, batch.reward[rows], fold_of(viewer), contexts, shared, candidate
            )
        )  # fmt: skip
        self.n += len(rows)
        if self.n > self.most + self.most // 2:
            self._shrink()

    def _shrink(self) -> None:
        whole = joined(self.parts)
        hashes = self.hashes(whole.viewer)
        order = np.argsort(hashes, kind="stable")
        if len(order) > self.most:
            first_out = hashes[order[self.most]]
            self.below = min(self.below, max(int(first_out), int(hashes[order[0]]) + 1))
            kept = np.flatnonzero(hashes < np.uint64(self.below)) if self.below < 2**64 else np.arange(len(hashes))
            whole = whole.take(kept[: self.most])
        self.parts, self.n = [whole], len(whole)

    def whole(self) -> Sample:
        """What was kept.

        :raises BadLog: nothing was ever added
        """
        if not self.parts:
            raise BadLog("the log has no events to fit a reward model on")
        self._shrink()
        return self.parts[0]
