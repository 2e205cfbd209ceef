"""Zeroes what deleted rows leave behind inside the database file.

``secure_delete`` zeroes what is deleted, but when SQLite moves cells to another page of an index or a table it leaves
the old bytes in the gap between a page's cell pointers and its cells: a row that is deleted later is zeroed where it
stands, and its earlier copy is not. Only VACUUM would clean that, which writes the whole file anew while everybody
waits. Here those gaps alone are zeroed, a few pages at a time.

It goes past SQLite, so: only with the write lock held over an empty WAL, when no checkpoint can write pages; only bytes
that no cell and no pointer covers, looked at again under the lock; and a commit follows before the lock is given back,
so that nobody writes such a page again from memory. A crash in between leaves gaps that are not all zeros, as before.

Source: "Database File Format", section 1.6, sqlite.org.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bandit.store.log import EventLog, Txn

PAGES_READ_AT_ONCE: Final = 2_048
PAGES_ZEROED_AT_ONCE: Final = 64
# Beyond this the first byte of an overflow page, which is part of a page number, could be taken for a b-tree's.
MOST_PAGES: Final = 1 << 25
_KINDS: Final = (2, 5, 10, 13)
_INTERIOR: Final = (2, 5)
# Of a page: its kind, the first free block, how many cells, and where they begin.
_HEADER: Final = struct.Struct(">BHHH")

# Closing any descriptor of the database would drop the locks that SQLite holds in this process (POSIX has them so):
# what was opened once stays open.
_open: dict[tuple[int, int], int] = {}


def _descriptor(path: Path) -> int:
    stat = os.stat(path)
    found = _open.get((stat.st_dev, stat.st_ino))
    if found is None:
        found = _open[(stat.st_dev, stat.st_ino)] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return found


def scrub(log: EventLog, last: Callable[[Txn], None]) -> bool:
    """Zero all gaps of the database file, and then run ``last`` in a transaction; the lock is held some ms at a time.

    :returns: False if a reader is at work for so long that the WAL cannot be emptied: try again
    :raises LogUnavailable: the log cannot be written
    :raises OSError: the file cannot be
    """
    file = _descriptor(log.path)
    # What is committed goes to the file first; the rest, under the lock, is little.
    log.checkpoint()
    with log.alone() as txn:
        if txn is None:
            return False
        page_size = int(txn.execute("PRAGMA page_size").fetchone()[0])
    dirty = list(_dirty(file, page_size))
    for start in range(0, len(dirty), PAGES_ZEROED_AT_ONCE):
        # Of emptying the WAL the slow part is done before everybody has to wait.
        log.checkpoint()
        with log.alone() as txn:
            if txn is None:
                return False
            _zero(file, page_size, dirty[start : start + PAGES_ZEROED_AT_ONCE])
            # Changes a page, so that every connection reads again what it had in memory.
            txn.execute("UPDATE retention SET cut = cut")
    os.fdatasync(file)
    log.append(last)
    return True


def _dirty(file: int, page_size: int) -> Iterator[int]:
    """Numbers, from 0, of the pages whose gaps are not all zeros; without a lock, so some may have changed since."""
    n_pages = min(os.fstat(file).st_size // page_size, MOST_PAGES)
    for first in range(0, n_pages, PAGES_READ_AT_ONCE):
        data = os.pread(file, page_size * min(PAGES_READ_AT_ONCE, n_pages - first), page_size * first)
        pages = np.frombuffer(data, np.uint8, len(data) // page_size * page_size).reshape(-1, page_size)
        numbers, low, high = gaps(pages)
        if first == 0:
            # The first page begins with the file's header, and holds the schema alone.
            numbers, low, high = numbers[numbers > 0], low[numbers > 0], high[numbers > 0]
        if not len(numbers):
            continue
        ends = np.stack([numbers * page_size + low, numbers * page_size + high], axis=1).ravel()
        filled = np.add.reduceat(np.append(pages.ravel() != 0, False), ends, dtype=np.int64)[::2]
        yield from (first + numbers[filled > 0]).tolist()


I64 = npt.NDArray[np.int64]


def gaps(pages: npt.NDArray[np.uint8]) -> tuple[I64, I64, I64]:
    """Rows of the pages that are of a b-tree and have a gap, and where it begins and ends.

    :param pages: shape (n, page size)
    """
    kind = pages[:, 0]
    n_cells = pages[:, 3].astype(np.int64) * 256 + pages[:, 4]
    high = pages[:, 5].astype(np.int64) * 256 + pages[:, 6]
    low = np.where(np.isin(kind, _INTERIOR), 12, 8) + 2 * n_cells
    fits = np.isin(kind, _KINDS) & (low < high) & (high <= pages.shape[1])
    rows = np.flatnonzero(fits)
    return rows, low[rows], high[rows]


def _zero(file: int, page_size: int, numbers: Sequence[int]) -> None:
    """Zero the gaps of these pages as they are now; without numpy, whose calls take longer than a page does."""
    for number in numbers:
        page = os.pread(file, page_size, page_size * number)
        kind, _, n_cells, high = _HEADER.unpack_from(page)
        low = (12 if kind in _INTERIOR else 8) + 2 * n_cells
        if kind not in _KINDS or not low < high <= page_size:
            continue
        # No cell begins in the gap: else this is no page of a b-tree.
        if n_cells and min(struct.unpack_from(f">{n_cells}H", page, low - 2 * n_cells)) < high:
            continue
        os.pwrite(file, bytes(high - low), page_size * number + low)
