"""What a route is: every door of the service is a table of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from bandit import records
from bandit.access.keys import Scope
from bandit.errors import InvalidRequest

JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"
MAX_FIELDS: Final = 1_000


class Caller(NamedTuple):
    """Who asks.

    :ivar key: id of their key; empty where none is needed
    :ivar app: whose decisions they make and reach
    :ivar scopes: what they may do
    :ivar token: of who came by a session, what must come with each change; see `bandit.web.sessions.token_of`
    """

    key: str
    app: str
    scopes: frozenset[str]
    token: str = ""


class Incoming(NamedTuple):
    """What a handler needs of a request, whoever read it off the wire.

    :ivar environ: WSGI's, for what few handlers ask for
    :ivar caller: who asks; they may
    """

    body: bytes
    environ: Mapping[str, Any]
    caller: Caller

    def header(self, name: str) -> str | None:
        """A header's value, None without it."""
        found: str | None = self.environ.get("HTTP_" + name.upper().replace("-", "_"))
        return found

    def query(self) -> dict[str, str]:
        """The query's parameters; of one that stands twice the last."""
        return _last(self.environ.get("QUERY_STRING") or "")

    def form(self) -> dict[str, str]:
        """The fields of a form that was sent; of one that stands twice the last. None if it is no form."""
        kind: str = self.environ.get("CONTENT_TYPE") or ""
        if kind.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            return {}
        return _last(self.body.decode("utf-8", "replace"))


def _last(text: str) -> dict[str, str]:
    """:raises InvalidRequest: more fields than any of our pages has"""
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidRequest(f"there are more than {MAX_FIELDS} fields") from None
    return {name: values[-1] for name, values in found.items()}


class Answer(NamedTuple):
    """What a handler gives back; the app turns it into a response.

    :ivar body: what becomes JSON; bytes that are sent as they are where the media type is another
    :ivar told: what the line of the request log says of it; nothing that tells of a viewer
    """

    status: int
    body: Any = None
    headers: dict[str, str] | None = None
    media: str = JSON
    told: Mapping[str, Any] | None = None


Handler = Callable[..., Answer]


class Route(NamedTuple):
    """One operation.

    :ivar path: Flask's notation
    :ivar scope: what a key must be allowed; None: open to everybody
    :ivar request: type of the body, if it has one
    :ivar reply: type of a success
    :ivar errors: statuses that it may answer besides; 400 and 503 may come from any
    :ivar not_yet: another status, with the same body, of what was understood and goes on
    :ivar media: media type of a success
    :ivar hot: a feed server asks it all the time
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    summary: str
    status: int
    request: Any = None
    reply: Any = None
    errors: tuple[int, ...] = ()
    not_yet: int | None = None
    media: str = JSON
    hot: bool = False


def check_event_id(event_id: str) -> None:
    """What a path may hold in place of an event id.

    :raises InvalidRequest: it is too long, or not printable
    """
    if len(event_id) > 256:
        raise InvalidRequest(f"the event id has {len(event_id)} characters; at most 256 are allowed")
    records.check_ids([event_id], where="path")
