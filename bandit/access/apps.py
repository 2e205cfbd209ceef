"""Whose an event is: ids as callers know them, and as they stand in the log. Pure.

Keys of one app reach each other's decisions and nobody else's. So an id stands in the log behind the name of the app
that used it, and whatever joins by ids, from a retried request to the fold, joins within an app without knowing it.
Ids of the app without a name stand as they are, as do all ids of a service without keys.
"""

from __future__ import annotations

from typing import Final

from bandit.errors import InvalidRequest

#: Between app and id; no id that is sent may hold a control character.
SEPARATOR: Final = "\x1f"


def stored_id(app: str, own_id: str) -> str:
    """The id as it stands in the log.

    :raises InvalidRequest: it would be another app's

    >>> stored_id("", "e1"), stored_id("web", "e1")
    ('e1', 'web\\x1fe1')
    """
    if SEPARATOR in own_id:
        raise InvalidRequest(f"the id {own_id!r} has a control character; ids are printable text", id=own_id)
    return f"{app}{SEPARATOR}{own_id}" if app else own_id


def app_and_id(stored: str) -> tuple[str, str]:
    """Whose an id of the log is, and what they call it.

    >>> app_and_id("e1"), app_and_id("web\\x1fe1")
    (('', 'e1'), ('web', 'e1'))
    """
    app, _, own_id = stored.rpartition(SEPARATOR)
    return app, own_id
