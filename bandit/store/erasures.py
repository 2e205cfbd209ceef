"""Erasures of viewers, as they are asked for and carried out: small transactions, each of which can be the last.

``asked``: the record stands in the log; nothing else has changed. ``deleting``: a base without the viewer is written,
their profile is gone, and rows go. ``scrubbing``: the rows are gone, and so is the id; what is left of them in files
goes. ``done``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from bandit import records
from bandit.store.log import EventLog, Txn

ROWS_AT_ONCE: Final = 20


class Erasure(NamedTuple):
    """A row of ``erasures``.

    :ivar names: what their records bear; empty once those are gone
    """

    erase_pos: int
    who: str
    names: list[str]
    state: str
    base_pos: int | None
    decisions: int
    feedback: int
    activations: int
    sign_ups: int
    outcomes: int
    profile: bool
    asked_at: float


_COLUMNS = (
    "erase_pos, who, names, state, base_pos, decisions, feedback, activations, sign_ups, outcomes, profile, asked_at"
)


def _erasure(row: Sequence[object]) -> Erasure:
    found = Erasure._make(row)
    names = msgspec.json.decode(str(found.names), type=list[str])
    return found._replace(names=names, profile=bool(found.profile))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def ask_erasure(txn: Txn, names: Sequence[str], who: str) -> Erasure | None:
    """Log that a viewer is to be erased, unless nothing is known of them that is not being erased already.

    :returns: the erasure that is under way, else the last one that is done; None if there never was one
    """
    row = txn.execute(
        f"SELECT {_COLUMNS} FROM erasures WHERE who = ? ORDER BY erase_pos DESC LIMIT 1", (who,)
    ).fetchone()
    last = None if row is None else _erasure(row)
    under_way = last is not None and last.state != "done"
    after = last.erase_pos if last is not None and under_way else 0
    known = txn.execute(
        f"SELECT 1 FROM log WHERE user IN ({_marks(names)}) AND pos > ? LIMIT 1", (*names, after)
    ).fetchone()
    if known is None and not under_way:
        known = txn.execute(f"SELECT 1 FROM viewers WHERE user IN ({_marks(names)})", tuple(names)).fetchone()
    if known is None:
        return last
    position = txn.append("erase", records.encode(records.Erase(who)))
    txn.execute(
        "INSERT INTO erasures (erase_pos, who, names, state, asked_at) VALUES (?, ?, ?, 'asked', ?)",
        (position, who, msgspec.json.encode(list(names)).decode(), txn.now),
    )
    return Erasure(position, who, list(names), "asked", None, 0, 0, 0, 0, 0, False, txn.now)


def erasure_at(log: EventLog, erase_pos: int) -> Erasure:
    """The erasure whose record stands at a position."""
    return _erasure(log.query(f"SELECT {_COLUMNS} FROM erasures WHERE erase_pos = ?", (erase_pos,))[0])


def unfinished(log: EventLog) -> list[Erasure]:
    """Erasures that are not done, oldest first."""
    rows = log.query(f"SELECT {_COLUMNS} FROM erasures WHERE state <> 'done' ORDER BY erase_pos")
    return list(map(_erasure, rows))


def is_being_erased(txn: Txn, user: str) -> bool:
    """Whether what bears this name is about to be deleted: nothing new may bear it."""
    sql = "SELECT 1 FROM erasures, json_each(names) WHERE state <> 'done' AND value = ? LIMIT 1"
    return txn.execute(sql, (user,)).fetchone() is not None


def begin_deleting(txn: Txn, erasures: Sequence[Erasure], base_pos: int) -> None:
    """Delete the profiles, and older bases; in the transaction that writes the base without these viewers."""
    for one in erasures:
        profile = txn.execute(f"DELETE FROM viewers WHERE user IN ({_marks(one.names)})", tuple(one.names)).rowcount
        txn.execute(
            "UPDATE erasures SET state = 'deleting', base_pos = ?, profile = ? WHERE erase_pos = ?",
            (base_pos, int(profile > 0), one.erase_pos),
        )
    drop_bases(txn, base_pos)


def drop_bases(txn: Txn, before: int) -> None:
    """Delete the records of the bases before a position."""
    txn.execute("DELETE FROM log WHERE kind IN ('config', 'publish', 'base') AND kind = 'base' AND pos < ?", (before,))


def delete_some(txn: Txn, one: Erasure) -> bool:
    """Delete some of a viewer's rows from before the erasure was asked for; False once there are none."""
    until = one.erase_pos
    decisions = [
        (pos, event_id)
        for name in one.names
        for pos, event_id in txn.execute(
            "SELECT pos, event_id FROM log WHERE user = ? AND pos < ? AND kind = 'decision' LIMIT ?",
            (name, until, ROWS_AT_ONCE),
        ).fetchall()
    ]
    n = dict.fromkeys(("decisions", "feedback", "activations", "sign_ups", "outcomes"), 0)
    for pos, event_id in decisions:
        n["outcomes"] += txn.execute("DELETE FROM outcomes WHERE decision_pos = ?", (pos,)).rowcount
        txn.execute("DELETE FROM arm_decisions WHERE decision_pos = ?", (pos,))
        for kind, column in (("feedback", "feedback"), ("activation", "activations")):
            n[column] += txn.execute(
                "DELETE FROM log WHERE kind IN ('activation', 'feedback') AND event_id = ? AND kind = ? AND pos < ?",
                (event_id, kind, until),
            ).rowcount
        # What comes later stays, as feedback on nothing: without it, lessons of others would close in another order.
        txn.execute("UPDATE log SET user = NULL WHERE kind IN ('activation', 'feedback') AND event_id = ?", (event_id,))
        n["decisions"] += txn.execute("DELETE FROM log WHERE pos = ?", (pos,)).rowcount
    if not decisions:
        for name in one.names:
            n["sign_ups"] += txn.execute(
                "DELETE FROM log WHERE pos IN (SELECT pos FROM log WHERE user = ? AND pos < ? LIMIT ?)",
                (name, until, 10 * ROWS_AT_ONCE),
            ).rowcount
    if not any(n.values()):
        return False
    txn.execute(
        "UPDATE erasures SET " + ", ".join(f"{name} = {name} + {count}" for name, count in n.items())
        + " WHERE erase_pos = ?",
        (one.erase_pos,),
    )  # fmt: skip
    return True


def forget_names(txn: Txn, one: Erasure) -> None:
    """All rows are gone; now the id goes too."""
    txn.execute("UPDATE erasures SET names = '[]', state = 'scrubbing' WHERE erase_pos = ?", (one.erase_pos,))


def finish(txn: Txn, one: Erasure) -> None:
    """Nothing is left."""
    txn.execute("UPDATE erasures SET state = 'done' WHERE erase_pos = ?", (one.erase_pos,))
