"""Counts of how the loop does, as the trainer left them: all of it follows from the log, and can be made again."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit import records
from bandit.errors import LogUnavailable
from bandit.loop.comparison import GROUPS
from bandit.loop.counts import (
    ARM_COLUMNS,
    GROUP_COLUMNS,
    KEPT_S,
    SLOT_COLUMNS,
    SLOTS,
    Changes,
    LoopState,
    Stretch,
)
from bandit.store.log import EventLog, Txn

F64 = NDArray[np.float64]

#: No sum comes near, and squares of what is below it are numbers still.
_BEYOND = 1e100
_DAMAGED = "counts of the loop in the log are damaged; mend the log, or restore a copy of it"
_STRETCH = "CAST(counts AS BLOB), CAST(gauges AS BLOB), groups, slots"


def loop_state(log: EventLog) -> LoopState:
    """How far was counted, and what goes on; a new one if nothing was."""
    rows = log.query("SELECT CAST(body AS BLOB) FROM loop_state")
    if not rows:
        return LoopState()
    state: LoopState = records.read_stored(bytes(rows[0][0]), LoopState, what="the state of the counts")
    return state


def write_loop(txn: Txn, changes: Changes) -> None:
    """Store what was counted, and delete stretches that are too old."""
    body = msgspec.json.encode(changes.state).decode()
    txn.execute("INSERT OR REPLACE INTO loop_state (one, body) VALUES (1, ?)", (body,))
    txn.executemany(
        "INSERT OR REPLACE INTO loop_stretches (span_s, starts_at, counts, gauges, groups, slots)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (span, start, _json(one.counts), _json(one.gauges), one.groups.tobytes(), one.slots.tobytes())
            for (span, start), one in changes.stretches.items()
        ],
    )
    for span, start in changes.stretches:
        txn.execute(
            "DELETE FROM loop_stretches WHERE span_s = ? AND starts_at < ?", (span, start - KEPT_S[span])
        )
    for key, sums in changes.arms.items():
        row = txn.execute("SELECT groups FROM loop_arms WHERE experiment = ? AND arm = ?", key).fetchone()
        before = np.zeros_like(sums) if row is None else _array(row[0], ARM_COLUMNS)
        txn.execute(
            "INSERT OR REPLACE INTO loop_arms (experiment, arm, groups) VALUES (?, ?, ?)",
            (*key, (before + sums).tobytes()),
        )


def _json(values: dict[str, float]) -> str:
    return msgspec.json.encode(values).decode()


def stretch_at(log: EventLog, span_s: int, starts_at: int) -> Stretch | None:
    """What was counted in a stretch so far."""
    rows = log.query(
        f"SELECT {_STRETCH} FROM loop_stretches WHERE span_s = ? AND starts_at = ?", (span_s, starts_at)
    )
    return _stretch(*rows[0]) if rows else None


def stretches(log: EventLog, span_s: int, *, since: float) -> dict[int, Stretch]:
    """Stretches of a length, by when they begin, in order: from the one that holds a moment on."""
    rows = log.query(
        f"SELECT starts_at, {_STRETCH} FROM loop_stretches WHERE span_s = ? AND starts_at > ? ORDER BY starts_at",
        (span_s, since - span_s),
    )
    if not all(isinstance(row[0], int) for row in rows):
        raise LogUnavailable(_DAMAGED)
    return {row[0]: _stretch(*row[1:]) for row in rows}


def _stretch(counts: bytes, gauges: bytes, groups: bytes, slots: bytes) -> Stretch:
    return Stretch(
        _named(counts), _named(gauges), _array(groups, GROUP_COLUMNS), _array(slots, SLOT_COLUMNS, SLOTS)
    )


def _named(body: bytes) -> dict[str, float]:
    found: dict[str, float] = records.read_stored(bytes(body), dict[str, float], what="a count")
    if not all(abs(value) < _BEYOND for value in found.values()):
        raise LogUnavailable(_DAMAGED)
    return found


def _array(body: object, columns: int, rows: int = GROUPS) -> F64:
    """:raises LogUnavailable: these are no sums that anything counted could have"""
    if not isinstance(body, bytes) or len(body) != 8 * rows * columns:
        raise LogUnavailable(_DAMAGED)
    found = np.frombuffer(body, np.float64).reshape(rows, columns).copy()
    if not bool((np.abs(found) < _BEYOND).all()):
        raise LogUnavailable(_DAMAGED)
    return found


def arm_groups(log: EventLog, experiment: str) -> dict[str, F64]:
    """Sums of an experiment's arms by group of viewers, by arm; shape (GROUPS, ARM_COLUMNS) each."""
    rows = log.query("SELECT arm, groups FROM loop_arms WHERE experiment = ?", (experiment,))
    return {arm: _array(groups, ARM_COLUMNS) for arm, groups in rows}
