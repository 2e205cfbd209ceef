"""Decisions and what follows them, as the log holds them: idempotent writes, and reads by event id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from bandit import records
from bandit.access.apps import app_and_id
from bandit.errors import IdConflict
from bandit.learning.fold import closes_at
from bandit.records import (
    ActivateReply,
    ActivateRequest,
    Decision,
    Feedback,
    FeedbackResult,
    ItemFeedback,
    LoggedFeedback,
)
from bandit.store.erasures import is_being_erased
from bandit.store.log import EventLog, Source, Txn, stored_in


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


def _rows(source: Source, sql: str, parameters: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return source.execute(sql, parameters).fetchall() if isinstance(source, Txn) else source.query(sql, parameters)


def find_decision(source: Source, event_id: str) -> StoredDecision | None:
    """The decision that bears this event id."""
    rows = _rows(source, _DECISION, (stored_in(source, event_id),))
    return StoredDecision._make(rows[0]) if rows else None


def slots_of(source: Source, event_id: str) -> list[str]:
    """Event ids of the decisions that are slots of one page, which are its own with ``#`` and more behind it."""
    sql = "SELECT event_id FROM log WHERE kind = 'decision' AND event_id > ? AND event_id < ?"
    stored = stored_in(source, event_id)
    found = [row[0] for row in _rows(source, sql, (f"{stored}#", f"{stored}$"))]
    return found if isinstance(source, EventLog) else [app_and_id(one)[1] for one in found]


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


def follow_ups(source: Source, event_id: str) -> list[FollowUp]:
    """Feedback and activations of an event, in the log's order."""
    rows = _rows(
        source,
        "SELECT pos, ts, kind, CAST(payload AS BLOB) FROM log"
        " WHERE kind IN ('activation', 'feedback') AND event_id = ? ORDER BY pos",
        (stored_in(source, event_id),),
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
    if feedback_id is not None and _told_before(txn, feedback_id) is not None:
        return FeedbackResult(event_id=event_id, status="duplicate", feedback_id=feedback_id)
    found = find_decision(txn, event_id)
    status: records.FeedbackStatus = "pending"
    unknown: list[str] = []
    decision = None
    if found is not None:
        decision = _read(found)
        status = "late" if txn.now >= _window_end(txn, event_id, found.ts, decision, window_s_of) else "accepted"
        ranked = {slot.id: slot.version for slot in decision.slots}
        unknown = [item.id for item in feedback.items if item.id not in ranked]
        if status == "late":
            feedback = _signed(txn, feedback, decision, ranked)
    txn.append(
        "feedback",
        records.encode(feedback),
        event_id=event_id,
        feedback_id=feedback_id,
        body_hash=body_hash,
        user=None if decision is None else decision.user,
    )
    return FeedbackResult(event_id=event_id, status=status, feedback_id=feedback_id, unknown=unknown)


def _signed(txn: Txn, feedback: Feedback, decision: Decision, versions: Mapping[str, int]) -> Feedback:
    """Late feedback with who says what they are (not) interested in, if it does; see `LoggedFeedback`."""
    of = {item.id: versions[item.id] for item in feedback.items if _is_taste(item) and item.id in versions}
    if not of or decision.user is None or is_being_erased(txn, decision.user):
        return feedback
    fields = {name: getattr(feedback, name) for name in feedback.__struct_fields__}
    return LoggedFeedback(**{**fields, "said_by": decision.user, "said_of": of})


def _is_taste(item: ItemFeedback) -> bool:
    return bool(item.about) or "not_interested" in item.signals


def _told_before(txn: Txn, feedback_id: str) -> bytes | None:
    """Body hash of the feedback that bears this id; None if none does."""
    row = txn.execute("SELECT body_hash FROM log WHERE feedback_id = ?", (txn.stored(feedback_id),)).fetchone()
    return None if row is None else bytes(row[0])


def check_feedback_ids(txn: Txn, sent: list[tuple[Feedback, bytes]]) -> None:
    """Refuse the whole call if a ``feedback_id`` in it was used before with another body.

    :raises IdConflict: names every such id; nothing was written
    """
    seen: dict[str, bytes] = {}
    conflicts = []
    for feedback, body_hash in sent:
        if feedback.feedback_id is UNSET:
            continue
        known = _told_before(txn, feedback.feedback_id)
        before = seen.setdefault(feedback.feedback_id, body_hash if known is None else known)
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


def first_activation(source: Source, event_id: str) -> tuple[float, bytes] | None:
    """(ts, body hash) of the activation that counts."""
    rows = _rows(source, _ACTIVATION, (stored_in(source, event_id),))
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
