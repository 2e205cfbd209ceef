"""Decisions and what follows them, as the log holds them: idempotent writes, and reads by event id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import UNSET

from bandit import records
from bandit.errors import IdConflict
from bandit.fold import closes_at
from bandit.records import ActivateReply, ActivateRequest, Decision, Feedback, FeedbackResult
from bandit.store.log import EventLog, Txn


class StoredDecision(NamedTuple):
    """A decision's row."""

    pos: int
    ts: float
    body_hash: bytes | None
    payload: bytes
    candidates: bytes


class FollowUp(NamedTuple):
    """A feedback or activation of a decision."""

    pos: int
    ts: float
    kind: str
    payload: bytes


class Outcome(NamedTuple):
    """What the trainer made of one slot."""

    slot: int
    status: str
    evidence: str | None
    reward: float | None
    weight: float | None
    closed_pos: int
    closed_at: float


def _read(found: StoredDecision) -> Decision:
    decision: Decision = records.read_stored(found.payload, Decision, what="this decision")
    return decision


_DECISION = (
    "SELECT pos, ts, body_hash, CAST(payload AS BLOB), candidates FROM log WHERE kind = 'decision' AND event_id = ?"
)


def find_decision(source: EventLog | Txn, event_id: str) -> StoredDecision | None:
    """The decision that bears this event id."""
    if isinstance(source, Txn):
        row = source.execute(_DECISION, (event_id,)).fetchone()
    else:
        rows = source.query(_DECISION, (event_id,))
        row = rows[0] if rows else None
    return None if row is None else StoredDecision._make(row)


def slots_of(source: EventLog | Txn, event_id: str) -> list[str]:
    """Event ids of the decisions that are slots of one page, which are its own with ``#`` and more behind it."""
    sql = "SELECT event_id FROM log WHERE kind = 'decision' AND event_id > ? AND event_id < ?"
    between = (f"{event_id}#", f"{event_id}$")
    rows = source.execute(sql, between).fetchall() if isinstance(source, Txn) else source.query(sql, between)
    return [row[0] for row in rows]


def decisions_at(log: EventLog, positions: Sequence[int]) -> dict[int, StoredDecision]:
    """The decisions at these positions, by position."""
    rows = log.query(
        "SELECT pos, ts, body_hash, CAST(payload AS BLOB), candidates FROM log"
        " WHERE kind = 'decision' AND pos IN (SELECT value FROM json_each(?))",
        (records.encode(positions).decode(),),
    )
    return {row[0]: StoredDecision._make(row) for row in rows}


def same_body(found: StoredDecision, body_hash: bytes, event_id: str) -> StoredDecision:
    """The decision found under a repeated event id.

    :raises IdConflict: it answered another request
    """
    if found.body_hash != body_hash:
        raise IdConflict(
            f"event_id {event_id!r} was used before with another body; use a new event_id for a new request",
            event_id=event_id,
        )
    return found


def follow_ups(log: EventLog, event_id: str) -> list[FollowUp]:
    """Feedback and activations of an event, in the log's order."""
    rows = log.query(
        "SELECT pos, ts, kind, CAST(payload AS BLOB) FROM log"
        " WHERE kind IN ('activation', 'feedback') AND event_id = ? ORDER BY pos",
        (event_id,),
    )
    return list(map(FollowUp._make, rows))


def outcomes(log: EventLog, decision_pos: int) -> list[Outcome]:
    """What was worked out for a decision's slots so far."""
    rows = log.query(
        "SELECT slot, status, evidence, reward, weight, closed_pos, closed_at FROM outcomes"
        " WHERE decision_pos = ? ORDER BY slot",
        (decision_pos,),
    )
    return list(map(Outcome._make, rows))


def append_feedback(
    txn: Txn, feedback: Feedback, body_hash: bytes, window_s_of: Callable[[int], float]
) -> FeedbackResult:
    """Write one feedback; a repeated ``feedback_id`` writes nothing.

    :param window_s_of: reward window in seconds by config version
    """
    event_id = feedback.event_id
    feedback_id = None if feedback.feedback_id is UNSET else feedback.feedback_id
    if feedback_id is not None and txn.execute("SELECT 1 FROM log WHERE feedback_id = ?", (feedback_id,)).fetchone():
        return FeedbackResult(event_id=event_id, status="duplicate", feedback_id=feedback_id)
    found = find_decision(txn, event_id)
    status: records.FeedbackStatus = "pending"
    unknown: list[str] = []
    decision = None
    if found is not None:
        decision = _read(found)
        status = "late" if txn.now >= _window_end(txn, event_id, found.ts, decision, window_s_of) else "accepted"
        ranked = {slot.id for slot in decision.slots}
        unknown = [item.id for item in feedback.items if item.id not in ranked]
    txn.append(
        "feedback",
        records.encode(feedback),
        event_id=event_id,
        feedback_id=feedback_id,
        body_hash=body_hash,
        user=None if decision is None else decision.user,
    )
    return FeedbackResult(event_id=event_id, status=status, feedback_id=feedback_id, unknown=unknown)


def check_feedback_ids(txn: Txn, sent: list[tuple[Feedback, bytes]]) -> None:
    """Refuse the whole call if a ``feedback_id`` in it was used before with another body.

    :raises IdConflict: names every such id; nothing was written
    """
    seen: dict[str, bytes] = {}
    conflicts = []
    for feedback, body_hash in sent:
        if feedback.feedback_id is UNSET:
            continue
        row = txn.execute("SELECT body_hash FROM log WHERE feedback_id = ?", (feedback.feedback_id,)).fetchone()
        before = seen.setdefault(feedback.feedback_id, row[0] if row else body_hash)
        if before != body_hash:
            conflicts.append(feedback.feedback_id)
    if conflicts:
        raise IdConflict(
            f"feedback_id {', '.join(map(repr, conflicts))} was used before with another body; "
            "nothing of this call was stored: give new feedback a new feedback_id",
            feedback_ids=conflicts,
        )


def _window_end(txn: Txn, event_id: str, ts: float, decision: Decision, window_s_of: Callable[[int], float]) -> float:
    """When a decision's reward window ends, in log time."""
    activated = first_activation(txn, event_id) if decision.deferred else None
    return closes_at(ts, window_s_of(decision.config), None if activated is None else activated[0])


_ACTIVATION = (
    "SELECT ts, body_hash FROM log WHERE kind IN ('activation', 'feedback') AND kind = 'activation'"
    " AND event_id = ? ORDER BY pos LIMIT 1"
)


def first_activation(source: EventLog | Txn, event_id: str) -> tuple[float, bytes] | None:
    """(ts, body hash) of the activation that counts."""
    if isinstance(source, Txn):
        row = source.execute(_ACTIVATION, (event_id,)).fetchone()
        return None if row is None else (row[0], row[1])
    rows = source.query(_ACTIVATION, (event_id,))
    return (rows[0][0], rows[0][1]) if rows else None


def put_activation(txn: Txn, event_id: str, request: ActivateRequest, body_hash: bytes) -> None:
    """Write an activation of an event that has none."""
    txn.append("activation", records.encode(request), event_id=event_id, body_hash=body_hash)


def append_activation(
    txn: Txn, event_id: str, request: ActivateRequest, body_hash: bytes, window_s_of: Callable[[int], float]
) -> ActivateReply:
    """Write an activation, once.

    :raises IdConflict: it was activated before with another list
    """
    before = first_activation(txn, event_id)
    found = find_decision(txn, event_id)
    learns = decision = None
    if found is not None:
        decision = _read(found)
        ranked = [slot.id for slot in decision.slots]
        learns = request.shown is None or ranked[: len(request.shown)] == request.shown
    if before is not None:
        if before[1] != body_hash:
            raise IdConflict(
                f"event {event_id!r} was activated before with another list; the first one holds",
                event_id=event_id,
            )
        return ActivateReply(event_id, "duplicate", learns)
    ends = None
    if found is not None and decision is not None:
        ends = _window_end(txn, event_id, found.ts, decision, window_s_of)
    put_activation(txn, event_id, request, body_hash)
    if ends is None:
        return ActivateReply(event_id, "pending", None)
    return ActivateReply(event_id, "late" if txn.now >= ends else "activated", learns and txn.now < ends)
