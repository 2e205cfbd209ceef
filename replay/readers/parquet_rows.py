"""The rows of Parquet files in stretches that can be read apart from each other, whole events each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replay.errors import BadLog
from replay.readers.tables import changes

ROWS: Final = 65_536
"""Rows read at a time."""
BUFFER: Final = 1 << 20
"""Bytes of a column that are read ahead: a row group need not fit into memory."""
STRETCH: Final = 1 << 18
"""Rows of a stretch, at most, unless a single row group has more: small files are put together, large ones cut."""


class Piece(NamedTuple):
    """Row groups of a file; all of them, unless the file is large.

    :ivar first: number of the first row, from 1, counted over all files
    """

    file: Path
    groups: tuple[int, ...]
    first: int
    rows: int


Stretch = Sequence[Piece]


class Looked(NamedTuple):
    """What the files say of themselves."""

    schema: pa.Schema
    rows: int
    stretches: list[Stretch]


def look(files: Sequence[Path]) -> Looked:
    """Read what is at the files' ends; no rows.

    :raises BadLog: a file is no Parquet, or lacks a column that the first one has
    """
    schema: pa.Schema | None = None
    rows = size = 0
    stretches: list[list[Piece]] = []
    for file in files:
        with opened(file) as found:
            names, about = found.schema_arrow.names, found.metadata
            schema = found.schema_arrow if schema is None else schema
        missing = ", ".join(sorted(set(schema.names) - set(names)))
        if missing:
            raise BadLog(f"{file} has no column {missing}, which {files[0]} has; all files need the same")
        for group in range(about.num_row_groups):
            n = about.row_group(group).num_rows
            if not stretches or size + n > STRETCH:
                stretches.append([])
                size = 0
            stretch = stretches[-1]
            if stretch and stretch[-1].file == file:
                last = stretch.pop()
                stretch.append(Piece(file, (*last.groups, group), last.first, last.rows + n))
            elif n:
                stretch.append(Piece(file, (group,), rows + 1, n))
            rows += n
            size += n
    assert schema is not None
    return Looked(schema, rows, [stretch for stretch in stretches if stretch])


def opened(file: Path) -> Any:
    """
    :raises BadLog: no Parquet
    """
    try:
        return pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise BadLog(f"{file} is no Parquet that can be read ({_first_line(error)})") from None


def rows_of(
    stretches: Sequence[Stretch], which: int, columns: Sequence[str], event: str | None
) -> Iterator[tuple[int, pa.Table]]:
    """(number of its first row, some rows) one after another: the events that begin in a stretch, each whole.

    An event that began in the stretch before is left to that one, and one that goes on in the next is read to its end.

    :param event: the column that says which consecutive rows belong together; None if each row is an event
    :raises BadLog: a file is damaged
    """
    at = stretches[which][0].first
    if event is None:
        for table in _tables(stretches[which], columns):
            yield at, table
            at += table.num_rows
        return
    before = _last(stretches[which - 1][-1], event) if which else None
    carried: pa.Table | None = None
    for table in _tables(stretches[which], columns):
        if before is not None:
            gone_on = _going_on(before, table[event])
            at += gone_on
            table = table.slice(gone_on)
            if not table.num_rows:
                continue
            before = None
        if carried is not None:
            table = pa.concat_tables([carried, table], promote_options="permissive")
        last = int(np.flatnonzero(changes(table[event]))[-1])
        if last:
            yield at, table.slice(0, last)
            at += last
        carried = table.slice(last)
    if carried is None:
        return
    for table in _tables(chain.from_iterable(stretches[which + 1 :]), columns):
        gone_on = _going_on(carried[event].slice(carried.num_rows - 1), table[event])
        carried = pa.concat_tables([carried, table.slice(0, gone_on)], promote_options="permissive")
        if gone_on < table.num_rows:
            break
    yield at, carried


def _tables(pieces: Iterable[Piece], columns: Sequence[str]) -> Iterator[pa.Table]:
    for piece in pieces:
        with opened(piece.file) as found:
            batches = found.iter_batches(batch_size=ROWS, row_groups=list(piece.groups), columns=list(columns))
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    raise BadLog(f"{piece.file} cannot be read to its end ({_first_line(error)})") from None
                if batch is None:
                    break
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])


def _last(piece: Piece, column: str) -> pa.ChunkedArray:
    """The last value."""
    *_, table = _tables([piece._replace(groups=piece.groups[-1:])], [column])
    return table[column].slice(table.num_rows - 1)


def _going_on(last: pa.ChunkedArray, column: pa.ChunkedArray) -> int:
    """How many values at the beginning of a column are the same as the last one before it."""
    both = pa.concat_tables([pa.table({"": last}), pa.table({"": column})], promote_options="permissive")
    begins = np.flatnonzero(changes(both[""]))
    return len(column) if len(begins) == 1 else int(begins[1]) - 1


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
