"""Whether a log holds what is not the demo's."""

from __future__ import annotations

from bandit.store.log import EventLog


def holds_others(log: EventLog, prefix: str) -> bool:
    """Whether there is an item or a decision whose id does not begin with ``prefix``.

    :param prefix: its last character has a successor in ASCII
    """
    # Ranges and not LIKE: both are looked up in an index, however much of the demo's there is.
    after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    found = log.query(
        "SELECT EXISTS (SELECT 1 FROM items WHERE id < :first) OR EXISTS (SELECT 1 FROM items WHERE id >= :after) "
        "OR EXISTS (SELECT 1 FROM log WHERE kind = 'decision' AND event_id < :first) "
        "OR EXISTS (SELECT 1 FROM log WHERE kind = 'decision' AND event_id >= :after)",
        {"first": prefix, "after": after},
    )
    return bool(found[0][0])
