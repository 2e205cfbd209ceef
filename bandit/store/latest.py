"""The newest decisions, for people who look around."""

from __future__ import annotations

from typing import NamedTuple

from bandit.access.apps import SEPARATOR
from bandit.store.log import EventLog

#: Where nobody is asked for, so many of the newest records are looked through.
LOOKED_THROUGH = 20_000


class Newest(NamedTuple):
    """A decision, and what has become of it so far.

    :ivar stored: its id as it stands in the log, see `bandit.access.apps`
    :ivar learned: slots that taught something
    :ivar reward: what these earned on average; None without any
    """

    stored: str
    at: float
    user: str | None
    slots: int
    learned: int
    reward: float | None


def newest_decisions(log: EventLog, *, app: str | None, user: str | None, limit: int) -> list[Newest]:
    """The newest first.

    :param app: whose; None: everybody's
    :param user: of this viewer alone, by the name that stands in the log
    """
    rows = log.query(
        f"""WITH newest AS (
            SELECT pos, ts, event_id, user, json_array_length(payload, '$.slots') AS slots FROM log
            WHERE kind = 'decision'
              AND {"user = :user" if user is not None else "pos > (SELECT max(pos) FROM log) - :looked"}
              AND {_OF_APP if app is not None else "TRUE"}
            ORDER BY pos DESC LIMIT :limit)
        SELECT newest.event_id, newest.ts, newest.user, newest.slots, count(outcomes.slot), avg(outcomes.reward)
        FROM newest LEFT JOIN outcomes ON outcomes.decision_pos = newest.pos AND outcomes.status = 'learned'
        GROUP BY newest.pos ORDER BY newest.pos DESC""",
        {"user": user, "looked": LOOKED_THROUGH, "limit": limit, "app": app, "separator": SEPARATOR},
    )
    return [Newest._make(row) for row in rows]


_OF_APP = """CASE WHEN :app = '' THEN instr(event_id, :separator) = 0
             ELSE substr(event_id, 1, length(:app) + 1) = :app || :separator END"""
