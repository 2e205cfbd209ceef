"""Parquet, a row a slot, with the columns that `replay.readers.parquet` finds by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replay.errors import BadLog
from replay.events import Batch, Candidates, event_of_slot, slot_numbers
from replay.readers.parquet import ROLES
from replay.readers.service_texts import whole_texts

# Names that have a part of their own; a field or column of such a name is written with a "field_" before it.
_TAKEN: Final = frozenset(name for usual in ROLES.values() for name in usual)


class ParquetWriter:
    """Writes one file.

    :param feeds: with event and slot; also for events of one slot
    """

    def __init__(self, path: Path, *, feeds: bool) -> None:
        self._path = path
        self._feeds = feeds
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: Batch) -> None:
        """
        :raises BadLog: columns come and go
        """
        table = self._table(batch)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        try:
            self._writer.write_table(table.select(self._writer.schema.names).cast(self._writer.schema))
        except (pa.ArrowException, KeyError) as error:
            raise BadLog(f"from event {int(batch.place[0])} on the log has other columns ({error})") from None

    def finish(self) -> None:
        """
        :raises BadLog: there was nothing to write
        """
        if self._writer is None:
            raise BadLog("the log has no events that could be written")
        self._writer.close()

    def abandon(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _table(self, batch: Batch) -> pa.Table:
        event = event_of_slot(batch.starts)
        columns: dict[str, Any] = {}
        if self._feeds:
            columns["event_id"] = batch.place[event]
            columns["slot"] = slot_numbers(batch.starts)
        columns["reward"] = batch.reward
        columns["propensity"] = batch.propensity
        if (batch.chosen >= 0).all():
            columns["action"] = batch.chosen
        columns["item"] = batch.item
        columns["n_candidates"] = batch.n_candidates
        columns["viewer"] = batch.viewer[event]
        columns["time"] = batch.time[event]
        columns["seen"] = np.ones(batch.n_slots, np.uint8) if batch.seen is None else batch.seen
        if batch.candidates is not None:
            offsets = pa.array(batch.candidates.starts, pa.int64())
            columns["candidates"] = pa.LargeListArray.from_arrays(offsets, pa.array(batch.candidates.item))
            if self._with_logged(batch.candidates):
                logged = batch.candidates.logged
                every = np.full(len(batch.candidates.item), np.nan) if logged is None else logged
                columns["candidate_propensities"] = pa.LargeListArray.from_arrays(offsets, pa.array(every))
            if batch.texts is not None:
                texts = pa.array([text.decode() for text in whole_texts(batch)], pa.string())
                columns["shared_text"] = pa.array([batch.texts.shared[i].decode() for i in event.tolist()], pa.string())
                columns["candidate_texts"] = pa.LargeListArray.from_arrays(offsets, texts)
        if batch.contexts is not None:
            wide = batch.contexts.shape[1]
            offsets = pa.array(np.arange(batch.n_slots + 1) * wide, pa.int64())
            columns["context"] = pa.LargeListArray.from_arrays(offsets, pa.array(batch.contexts[event].ravel()))
        for name, field in batch.fields.items():
            if name not in batch.columns:
                values = field[event]
                texts = values.dtype.kind in "UO"
                columns[self._free(name)] = pa.array(values.tolist(), pa.string()) if texts else values
        for name, column in batch.columns.items():
            columns[self._free(name)] = column
        return pa.table(columns)

    def _with_logged(self, candidates: Candidates) -> bool:
        """As the first batch has it: what comes later, or goes, must not end a file."""
        if self._writer is not None:
            return "candidate_propensities" in self._writer.schema.names
        return candidates.logged is not None and not np.isnan(candidates.logged).all()

    def _free(self, name: str) -> str:
        taken = name in _TAKEN and (self._feeds or name not in ROLES["slot"])
        return f"field_{name}" if taken else name
