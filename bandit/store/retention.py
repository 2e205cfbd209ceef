"""How far back the log reaches, and deleting what is older: small transactions, each of which can be the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bandit.store.bases import StoredBase
from bandit.store.log import EventLog, Txn
from bandit.store.serving import serving

#: Kinds of records that stay however old they are: few, small, and of nobody.
KEPT: Final = ("config", "base", "hold", "rollback", "release", "erase")
_KEPT: Final = ", ".join(f"'{kind}'" for kind in KEPT)


def cut_of(log: EventLog) -> int:
    """Position before which records were deleted; 1: none was."""
    return int(log.query("SELECT cut FROM retention")[0][0])


def used_bytes(log: EventLog) -> int:
    """What the database file holds, without the pages that are free to be used again."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(log.query(f"PRAGMA {name}")[0][0]) for name in names)
    return (pages - free) * size


def first_since(log: EventLog, ts: float, *, low: int, high: int) -> int:
    """Position in (``low``, ``high``] from which on log time is ``ts`` or later; ``high`` + 1 if it is nowhere.

    By halves: times never fall along the log.
    """
    low, high = low, high + 1
    while low < high:
        middle = (low + high) // 2
        if log.time_at(middle) < ts:
            low = middle + 1
        else:
            high = middle
    return low


def start_of(found: Sequence[StoredBase], wanted: int) -> StoredBase:
    """The base that the log is to begin with, if records before a position may go: the oldest that needs none of them.

    :param found: all bases, oldest first
    :returns: the newest if each needs some of them
    """
    return next((one for one in found if one.base.reads_from >= wanted), found[-1])


def delete_before(txn: Txn, cut: int, target: int, at_once: int) -> int:
    """Delete records from ``cut`` on, ``at_once`` positions at most and none from ``target`` on; the new cut."""
    until = min(target, cut + at_once)
    between = (cut, until)
    txn.execute("DELETE FROM outcomes WHERE decision_pos >= ? AND decision_pos < ?", between)
    txn.execute("DELETE FROM arm_decisions WHERE decision_pos >= ? AND decision_pos < ?", between)
    txn.execute(f"DELETE FROM log WHERE pos >= ? AND pos < ? AND kind NOT IN ({_KEPT})", between)
    now = serving(txn)
    txn.execute(
        "DELETE FROM models WHERE published_pos >= ? AND published_pos < ? AND digest NOT IN (?, ?)"
        " AND published_pos NOT IN (SELECT published_pos FROM arm_models WHERE digest = ?)"
        " AND published_pos < (SELECT max(published_pos) FROM models)",
        (*between, now.pinned or "", now.champion or "", now.pinned or ""),
    )
    txn.execute(
        "DELETE FROM arm_models WHERE published_pos >= ? AND published_pos < ?"
        " AND published_pos NOT IN (SELECT published_pos FROM models)",
        between,
    )
    txn.execute("DELETE FROM epochs WHERE position < ? AND position < (SELECT max(position) FROM epochs)", (until,))
    txn.execute("UPDATE retention SET cut = ?", (until,))
    return until
