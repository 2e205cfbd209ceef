"""Epochs of statistics: written by the trainer with the position they hold, read by workers in one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Final, NamedTuple

import msgspec

from bandit import records
from bandit.statistics.folding import REWARD, SEEN, SHOWN, TALLY_WIDTH, ChangedStatistics, Tally
from bandit.store.log import EventLog, LogRow, Txn
from bandit.store.tallies import TALLY, append_tallies, put_over, unsettled_tallies

# Of one viewer, so many records since what was published of them are read; the newest count.
MAX_OWN_ROWS = 200
# Of an arm that is no more, so many tallies are deleted at an epoch.
MOST_FORGOTTEN = 500

_LOGGED = "SELECT pos, CAST(payload AS BLOB) FROM log WHERE kind = 'epoch' AND pos > ? AND pos <= ?"
_VALUES = ", ".join("?" * TALLY_WIDTH)
# In rows of something else, what a tally has more values than they.
_NONE = ", ".join("0" * (TALLY_WIDTH - 2))


class StoredEpoch(NamedTuple):
    """A row of ``epochs``: statistics that hold the log up to ``position``, whose log time is ``at``."""

    position: int
    at: float
    digest: str


#: Before anything was counted.
NO_EPOCH = StoredEpoch(0, 0.0, "")


class StoredViewer(NamedTuple):
    """A viewer as published; ``body`` is `profiles.Viewer.encode`."""

    position: int
    body: bytes


def newest_epoch(log: EventLog) -> StoredEpoch:
    """The last one written; `NO_EPOCH` if there is none."""
    rows = log.query("SELECT position, at, digest FROM epochs ORDER BY position DESC LIMIT 1")
    return StoredEpoch._make(rows[0]) if rows else NO_EPOCH


class LoggedEpoch(NamedTuple):
    """An epoch as its record at ``pos`` says it."""

    pos: int
    position: int
    digest: str


def logged_epochs(log: EventLog, *, after: int = 0, end: int, at_once: int = 1_000) -> Iterator[LoggedEpoch]:
    """Epochs whose records are after ``after`` and not after ``end``, in order; by the log alone, read bit by bit."""
    while True:
        rows = log.query(f"{_LOGGED} ORDER BY pos LIMIT ?", (after, end, at_once))
        yield from starmap(_logged, rows)
        if len(rows) < at_once:
            return
        after = rows[-1][0]


def last_logged_epoch(log: EventLog, *, end: int) -> LoggedEpoch | None:
    """The last of `logged_epochs`; None if there is none."""
    rows = log.query(f"{_LOGGED} ORDER BY pos DESC LIMIT 1", (0, end))
    return _logged(*rows[0]) if rows else None


def _logged(pos: int, payload: bytes) -> LoggedEpoch:
    epoch: records.Epoch = records.read_stored(bytes(payload), records.Epoch, what=f"the epoch at {pos}")
    return LoggedEpoch(pos, epoch.position, epoch.digest)


def append_epoch(txn: Txn, changes: ChangedStatistics, epoch: StoredEpoch) -> None:
    """Log that the statistics hold everything up to a position, and let workers read what changed."""
    txn.append("epoch", records.encode(records.Epoch(position=epoch.position, digest=epoch.digest)))
    txn.execute("INSERT OR REPLACE INTO epochs (position, at, digest) VALUES (?, ?, ?)", epoch)
    append_tallies(txn, epoch.position, changes.tallies)
    txn.executemany(
        f"INSERT OR REPLACE INTO arm_tallies (epoch, label, key, {TALLY})"
        f" VALUES ({epoch.position:d}, ?, ?, {_VALUES})",
        changes.own,
    )
    # Of arms that are no more, some at a time.
    txn.execute(
        "DELETE FROM arm_tallies WHERE (label, key) IN (SELECT label, key FROM arm_tallies"
        " WHERE label NOT IN (SELECT value FROM json_each(?)) LIMIT ?)",
        (msgspec.json.encode(changes.arms).decode(), MOST_FORGOTTEN),
    )
    txn.executemany(
        f"INSERT OR REPLACE INTO viewers (position, user, body) VALUES ({epoch.position:d}, ?, ?)", changes.viewers
    )
    txn.executemany(
        "INSERT OR IGNORE INTO attribute_names (key, attribute, value) VALUES (?, ?, ?)",
        [(key, *name) for key, name in changes.names],
    )


def all_tallies(log: EventLog) -> dict[int, Tally]:
    """Every tally by key, as of the newest epoch."""
    sql = (
        f"SELECT 1, key, {TALLY} FROM tallies"
        f" UNION ALL SELECT 2, id, position, body, {_NONE} FROM unsettled_tallies"
    )
    rows = log.query(sql)
    tallies = {row[1]: list(row[2:]) for row in rows if row[0] == 1}
    put_over(tallies, [(row[1], row[2], row[3]) for row in rows if row[0] == 2])
    return tallies


def own_tallies(log: EventLog) -> dict[str, dict[int, Tally]]:
    """Those of arms that learn apart by label, as of the newest epoch; of ended ones too, as long as they are there."""
    found: dict[str, dict[int, Tally]] = {}
    for label, key, *tally in log.query(f"SELECT label, key, {TALLY} FROM arm_tallies"):
        found.setdefault(label, {})[key] = tally
    return found


class Changed(NamedTuple):
    """Tallies as of the newest epoch.

    :ivar own: of arms that learn apart, by label and key
    """

    epoch: StoredEpoch
    tallies: dict[int, Tally]
    own: dict[tuple[str, int], Tally]


def changed_tallies(
    log: EventLog, *, after: int, keys: Sequence[int] = (), labels: Mapping[str, int] | None = None
) -> Changed:
    """As of the newest epoch, the tallies that changed after an earlier one, and those of some keys.

    One statement, so one snapshot: what it says of one item is as old as what it says of another.

    :param labels: of arms that learn apart, each with the epoch after which its own are wanted
    """
    wanted = msgspec.json.encode(list(keys)).decode()
    sql = (
        f"SELECT * FROM (SELECT 0, NULL, position, at, digest, {_NONE} FROM epochs"
        " ORDER BY position DESC LIMIT 1)"
        f" UNION ALL SELECT 1, NULL, key, {TALLY} FROM tallies WHERE epoch > ?"
        f" UNION ALL SELECT 1, NULL, key, {TALLY} FROM tallies WHERE key IN (SELECT value FROM json_each(?))"
        f" UNION ALL SELECT 2, NULL, id, position, body, {_NONE} FROM unsettled_tallies"
        " WHERE position > ? OR ?"
    )
    parameters: list[str | int] = [after, wanted, after, len(keys)]
    for label, since in (labels or {}).items():
        sql += (
            f" UNION ALL SELECT 3, label, key, {TALLY} FROM arm_tallies WHERE label = ? AND epoch > ?"
            f" UNION ALL SELECT 3, label, key, {TALLY} FROM arm_tallies WHERE label = ?"
            " AND key IN (SELECT value FROM json_each(?))"
        )
        parameters += [label, since, label, wanted]
    rows = log.query(sql, parameters)
    if not rows or rows[0][0] != 0:
        return Changed(NO_EPOCH, {}, {})
    tallies = {row[2]: list(row[3:]) for row in rows if row[0] == 1}
    put_over(tallies, [(row[2], row[3], row[4]) for row in rows if row[0] == 2], after=after, keys=keys)
    own = {(row[1], row[2]): list(row[3:]) for row in rows if row[0] == 3}
    return Changed(StoredEpoch._make(rows[0][2:5]), tallies, own)


def stored_viewer(log: EventLog, user: str) -> StoredViewer | None:
    """What was published of a viewer."""
    rows = log.query("SELECT position, body FROM viewers WHERE user = ?", (user,))
    return StoredViewer(rows[0][0], bytes(rows[0][1])) if rows else None


def own_rows(log: EventLog, user: str, after: int) -> list[LogRow]:
    """A viewer's own records after a position, in order; 14 microseconds when there are none."""
    rows = log.query(
        "SELECT pos, ts, kind, event_id, CAST(payload AS BLOB) FROM log WHERE user = ? AND pos > ?"
        " ORDER BY pos DESC LIMIT ?",
        (user, after, MAX_OWN_ROWS),
    )
    return list(starmap(LogRow, reversed(rows)))


def own_interests(log: EventLog, user: str, *, after: int, to: int) -> list[str] | None:
    """What a viewer last said they are interested in, among those `own_rows` that a ranking read up to ``to``."""
    rows = log.query(
        "SELECT payload FROM (SELECT pos, kind, CAST(payload AS BLOB) AS payload FROM log WHERE user = ? AND pos > ?"
        " AND pos <= ? ORDER BY pos DESC LIMIT ?) WHERE kind = 'user' ORDER BY pos DESC LIMIT 1",
        (user, after, to, MAX_OWN_ROWS),
    )
    if not rows:
        return None
    record: records.UserRecord = records.read_stored(bytes(rows[0][0]), records.UserRecord, what="a viewer")
    return record.interests


def names_of(log: EventLog, keys: Sequence[int]) -> Mapping[int, tuple[str, str]]:
    """(attribute, value) by key, of those that were ever counted."""
    rows = log.query(
        "SELECT key, attribute, value FROM attribute_names WHERE key IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(list(keys)).decode(),),
    )
    return {row[0]: (row[1], row[2]) for row in rows}


class TopItem(NamedTuple):
    """An item and what was counted of it, as of the newest epoch; ``tally`` as in `bandit.statistics.folding`."""

    id: str
    tally: Tally


#: What items can be put in order by: in SQL, and of a tally.
ORDERS: Final[Mapping[str, tuple[str, Callable[[Tally], float]]]] = {
    "shown": ("shown", lambda tally: tally[SHOWN]),
    "earned": ("reward / seen", lambda tally: tally[REWARD] / tally[SEEN]),
}


def top_items(log: EventLog, *, by: str, limit: int, least_seen: float = 0.0) -> list[TopItem]:
    """The items that were shown most, or earn most: one look at every item that was ever counted, none at the log.

    :param by: of `ORDERS`
    :param least_seen: items that were seen less are left out; above 0 where they are ordered by what they earn
    """
    in_sql, of_tally = ORDERS[by]
    newer: dict[int, Tally] = {}
    put_over(newer, unsettled_tallies(log))
    rows = log.query(
        f"SELECT key, {TALLY} FROM tallies WHERE shown > 0 AND seen >= ?"
        f" AND key NOT IN (SELECT value FROM json_each(?)) ORDER BY {in_sql} DESC, key LIMIT ?",
        (least_seen, msgspec.json.encode(list(newer)).decode(), limit),
    )
    found = {row[0]: list(row[1:]) for row in rows}
    found |= {key: tally for key, tally in newer.items() if tally[SHOWN] > 0.0 and tally[SEEN] >= least_seen}
    top = sorted(found, key=lambda key: (-of_tally(found[key]), key))[:limit]
    names = names_of(log, top)
    return [TopItem(names[key][1], found[key]) for key in top if names.get(key, ("",))[0] == "item"]


def put_user(txn: Txn, record: records.UserRecord) -> int:
    """Log what a viewer said of themselves; the position of the record."""
    return txn.append("user", records.encode(record), user=record.id)
