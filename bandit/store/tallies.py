"""Tallies on disk: an epoch appends what changed in one piece, and `settle` puts it where it is looked up by key.

A row for each tally costs 7 microseconds, and 30 where the table is large, under the lock for which rankings wait: with
thousands of candidates it was the tail of their latency. So an epoch's tallies are appended packed; until they are
settled, a few in a transaction, they go before what stands in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from bandit.statistics.folding import PACKED_TALLY, TALLY_WIDTH, Tally
from bandit.store.log import EventLog, Txn

#: Of a tally, in the order of its values.
TALLY: Final = "shown, seen, reward, watched, completion, negative, first_at, timed, stayed, offered"
#: So many stand in one transaction of `settle`: a millisecond, three where the table is large.
SETTLED_AT_ONCE: Final = 100

_PACKED: Final = np.dtype([("key", "<i8"), ("tally", "<f8", (TALLY_WIDTH,))])
assert _PACKED.itemsize == PACKED_TALLY.size


def append_tallies(txn: Txn, position: int, packed: bytes) -> None:
    """Those that changed up to an epoch.

    :param position: of the epoch
    :param packed: as `ChangedStatistics.tallies`
    """
    if packed:
        txn.execute("INSERT INTO unsettled_tallies (position, body) VALUES (?, ?)", (position, packed))


def put_over(
    tallies: dict[int, Tally], unsettled: Iterable[tuple[int, int, bytes]], *, after: int = -1, keys: Sequence[int] = ()
) -> None:
    """Put what is not settled over what is, by key.

    :param tallies: changed
    :param unsettled: (id, position, body), rows of the table
    :param after, keys: only what changed after this epoch, and of what changed before it these keys
    """
    wanted = np.array(keys, np.int64)
    for _, position, body in sorted(unsettled):
        rows = np.frombuffer(body, _PACKED)
        if position <= after:
            rows = rows[np.isin(rows["key"], wanted)]
        tallies.update(zip(rows["key"].tolist(), rows["tally"].tolist(), strict=True))


def unsettled_tallies(log: EventLog) -> list[tuple[int, int, bytes]]:
    """(id, position, body) of what epochs changed and is not settled."""
    return [(row[0], row[1], row[2]) for row in log.query("SELECT id, position, body FROM unsettled_tallies")]


def settle(log: EventLog) -> int:
    """Settle what epochs changed, each tally once; how many that were.

    Whatever it is stopped by, what is known is the same: it may stand in both places.

    :raises LogUnavailable: the rest waits for the next call
    """
    unsettled = unsettled_tallies(log)
    if not unsettled:
        return 0
    newest: dict[int, tuple[Any, ...]] = {}
    for _, position, body in sorted(unsettled):
        newest.update((key, (key, position, *tally)) for key, *tally in PACKED_TALLY.iter_unpack(body))
    rows = sorted(newest.values())
    for start in range(0, len(rows), SETTLED_AT_ONCE):
        part = rows[start : start + SETTLED_AT_ONCE]
        log.append(lambda txn, part=part: _put(txn, part))  # type: ignore[misc]
    last = max(each[0] for each in unsettled)
    log.append(lambda txn: txn.execute("DELETE FROM unsettled_tallies WHERE id <= ?", (last,)))
    return len(rows)


def _put(txn: Txn, rows: Sequence[tuple[Any, ...]]) -> None:
    txn.executemany(
        f"INSERT OR REPLACE INTO tallies (key, epoch, {TALLY}) VALUES (?, ?, {', '.join('?' * TALLY_WIDTH)})", rows
    )
