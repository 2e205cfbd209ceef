"""How the arms of an experiment, and an apprentice, do: counted from the log and what the trainer made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from bandit import records
from bandit.experiments import ArmSums, Shown
from bandit.records import Decision
from bandit.store.log import EventLog, Txn

#: An apprentice is judged by its newest decisions: it learns, and what it was is of little use.
NEWEST = 2_000


class ArmCounts(NamedTuple):
    """One arm so far.

    :ivar decisions: all, open windows too
    :ivar sums: of those whose windows are over
    """

    decisions: int
    learned_slots: int
    sums: ArmSums


_DECIDED = """
    SELECT arm, viewer, decision_pos AS pos,
        CASE WHEN deferred THEN
            ts <= :over - :window_s AND EXISTS (
                SELECT 1 FROM log WHERE kind IN ('activation', 'feedback') AND kind = 'activation'
                AND log.event_id = arm_decisions.event_id)
        ELSE ts <= :over END AS counts
    FROM arm_decisions WHERE experiment = :experiment"""

_BY_ARM = f"""
    SELECT arm, sum(decisions), sum(learned), sum(n > 0), sum(n), total(s), total(n * n), total(n * s), total(s * s)
    FROM (
        SELECT arm, viewer, count(*) AS decisions, sum(k) AS learned, sum(counts) AS n, total(counts * r) AS s
        FROM (
            SELECT arm, viewer, counts,
                (SELECT total(reward) FROM outcomes WHERE decision_pos = pos AND status = 'learned') AS r,
                (SELECT count(*) FROM outcomes WHERE decision_pos = pos AND status = 'learned') AS k
            FROM ({_DECIDED})
        ) GROUP BY arm, viewer
    ) GROUP BY arm"""


def note_arm(txn: Txn, position: int, event_id: str, decision: Decision) -> None:
    """Put a decision that was just logged down under its arm, if it has one."""
    if decision.arm is None:
        return
    stored = txn.stored(event_id)
    txn.execute(
        "INSERT INTO arm_decisions (experiment, arm, viewer, decision_pos, event_id, ts, deferred)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (decision.experiment, decision.arm, decision.user or stored, position, stored, txn.now, decision.deferred),
    )


def counts_by_arm(log: EventLog, experiment: str, *, over: float, window_s: float) -> dict[str, ArmCounts]:
    """Every arm that served a decision, by name.

    :param over: decisions up to this log time count: their windows have ended. One that waits to be activated may
        have another window, and counts only if it was activated
    """
    rows = log.query(_BY_ARM, {"experiment": experiment, "over": over, "window_s": window_s})
    return {arm: ArmCounts(decisions, learned, ArmSums(*sums)) for arm, decisions, learned, *sums in rows}


class _Decided(msgspec.Struct):
    """The part of a decision that an apprentice is judged by."""

    slots: list[records.Slot]
    user: str | None = None
    apprentice: list[tuple[float, float]] | None = None


def watched_slots(log: EventLog, *, over: float) -> Iterator[Shown]:
    """Seen slots of the newest decisions that an apprentice watched and could score, windows being over."""
    rows = log.query(
        "SELECT pos, event_id, CAST(payload AS BLOB) FROM log WHERE kind = 'decision' AND ts <= ?"
        " ORDER BY pos DESC LIMIT ?",
        (over, NEWEST),
    )
    for pos, event_id, payload in rows:
        decision: _Decided = records.read_stored(bytes(payload), _Decided, what="a decision")
        if not decision.apprentice:
            continue
        learned = log.query(
            "SELECT slot, reward FROM outcomes WHERE decision_pos = ? AND status = 'learned' ORDER BY slot", (pos,)
        )
        for place, reward in learned:
            slot, (own, says_own) = decision.slots[place], decision.apprentice[place]
            if slot.score is not None:
                yield Shown(decision.user or event_id, slot.propensity, own, says_own, slot.score, reward)
