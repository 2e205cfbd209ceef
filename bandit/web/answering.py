"""From a request to the bytes of its reply: who asks, when it has its turn, and what went wrong, in one shape."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from bandit.errors import BanditError, Forbidden, Overloaded, Unauthorized
from bandit.records import ErrorBody, ErrorReply, encode
from bandit.service import Service
from bandit.web import metrics
from bandit.web.admission import Admission
from bandit.web.gate import ANYBODY, Gate
from bandit.web.pages.look import page
from bandit.web.request_log import RequestLog
from bandit.web.routing import HTML, JSON, Answer, Caller, Incoming, Route

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

log = logging.getLogger("feed_bandit")

#: Nothing that is answered is run, framed, guessed at, kept, or tells others where it was asked.
COMMON: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# The body of a request that is refused is read all the same, if it is no longer than this: a connection on which
# half a body is left has to be closed, often before the client has read why.
DRAINED_BYTES: Final = 1 << 20
# So many at a time: who is not let in cannot hold more threads by sending slowly.
DRAINING: Final = 8


class Wire(NamedTuple):
    """A reply, ready to be sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


#: Of (WSGI environ, what reads the body), and the path's parameters.
Answerer = Callable[..., Wire]


def answerer(
    service: Service, route: Route, *, gate: Gate, admission: Admission, requests: RequestLog | None
) -> Answerer:
    """Whatever comes in, a reply goes out: the handler's answer, or the error in the one shape.

    :param admission: gives a turn once the body is read: clients that send slowly, or never finish, hold a thread
        each but keep nobody from being answered
    :param requests: hears of every request; None: nobody does
    """
    counted = metrics.REQUESTS.labels(route.path, str(route.status))
    seconds = metrics.SECONDS.labels(route.path)

    def answer(environ: WSGIEnvironment, read: Callable[[], bytes], **parameters: str) -> Wire:
        started = time.monotonic()
        caller: Caller = ANYBODY
        told: Mapping[str, Any] | None = None
        try:
            caller = gate.admit(environ, route)
        except Exception as error:
            _drain(environ)
            wire, told = _to_sign_in(environ, route, error) or _refused(environ, route, error), _fault(error)
        else:
            incoming = Incoming(read(), environ, caller)
            try:
                gate.check_page(incoming)
                own = service.of(caller.app, sees_all="admin" in caller.scopes)
                with admission.turn():
                    given = route.handler(own, incoming, **parameters)
                wire, told = _answered(given), given.told
                counted.inc()
                seconds.observe(time.monotonic() - started)
            except Exception as error:
                wire, told = _refused(environ, route, error), _fault(error)
        if requests is not None:
            requests.add(route, wire.status, time.monotonic() - started, caller, parameters.get("event_id"), told)
        return wire

    return answer


def _answered(given: Answer) -> Wire:
    body = given.body if isinstance(given.body, bytes) else b"" if given.body is None else encode(given.body)
    return Wire(given.status, headers_of(given.media, given.headers), body)


def headers_of(media: str, own: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """The headers of a reply: what every reply has, unless it has its own."""
    if not own:
        return [("Content-Type", media), *COMMON.items()]
    return [("Content-Type", media), *{**COMMON, **own}.items()]


def length_of(environ: WSGIEnvironment) -> int:
    """Bytes of the body as the request tells; -1 if it does not."""
    told = environ.get("CONTENT_LENGTH") or ""
    return int(told) if told.isascii() and told.isdecimal() else -1


_draining = threading.Semaphore(DRAINING)


def _drain(environ: WSGIEnvironment) -> None:
    """Read the body of a request that is refused, so that its connection lives on."""
    length = length_of(environ)
    if 0 < length <= DRAINED_BYTES and _draining.acquire(blocking=False):
        try:
            with suppress(Exception):
                environ["wsgi.input"].read(length)
        finally:
            _draining.release()


def _to_sign_in(environ: WSGIEnvironment, route: Route, error: Exception) -> Wire | None:
    """Where somebody is led who opens a page that their key does not show; None for everybody else."""
    browsing = environ["REQUEST_METHOD"] == "GET" and "text/html" in environ.get("HTTP_ACCEPT", "")
    if route.media != HTML or not browsing or not _wants_another_key(error):
        return None
    query = environ.get("QUERY_STRING", "")
    asked = {"next": f"{quote(environ['PATH_INFO'])}{'?' if query else ''}{query}"}
    if isinstance(error, Forbidden):
        asked["needed"] = error.detail["needed"]
    metrics.REQUESTS.labels(route.path, "303").inc()
    return Wire(303, headers_of(HTML, {"Location": f"/signin?{urlencode(asked)}"}), b"")


# ---------------------------------------------------------------- what went wrong


class Internal(BanditError):
    """A fault of ours."""

    code = "internal"
    status = 500
    said = "a fault of the service; it was logged"


def refused(path: str, error: Exception) -> Wire:
    """An error in the one shape; a fault of ours is logged whole and told without its insides."""
    if not isinstance(error, BanditError):
        log.exception("%s: a fault", path, exc_info=error)
        error = Internal(Internal.said)
    elif error.status >= 500 and not isinstance(error, Overloaded):
        # Of an overload there is a line now and then, see `Admission`: one each would add to it.
        log.error("%s: %s: %s", path, error.code, error.message)
    metrics.REQUESTS.labels(path, str(error.status)).inc()
    headers = headers_of(JSON, None)
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", 'Bearer realm="feed-bandit"'))
    return Wire(error.status, headers, _encoded(error))


_HEADLINES: Final = {
    400: "That cannot be read.",
    401: "Sign in first.",
    403: "That is not allowed.",
    404: "There is no such thing here.",
    409: "Not as things stand.",
    429: "Too often.",
    503: "The service cannot answer now.",
}


def _wants_another_key(error: Exception) -> bool:
    """Whether signing in with a key, or with another one, would help."""
    return isinstance(error, Unauthorized) or (isinstance(error, Forbidden) and "needed" in error.detail)


def _refused(environ: WSGIEnvironment, route: Route, error: Exception) -> Wire:
    """`refused`, which people who use a page are told on a page."""
    wire = refused(route.path, error)
    if route.media != HTML or "text/html" not in environ.get("HTTP_ACCEPT", ""):
        return wire
    message = error.message if isinstance(error, BanditError) else Internal.said
    told = page(
        "refused.html",
        here="",
        status=wire.status,
        headline=_HEADLINES.get(wire.status, "It did not work."),
        message=f"{message[:1].upper()}{message[1:]}.",
        sign_in="/signin" if _wants_another_key(error) else "",
    )
    own = [(name, value) for name, value in wire.headers if name in ("Retry-After", "WWW-Authenticate")]
    return Wire(wire.status, headers_of(HTML, told.headers) + own, told.body)


def _fault(error: Exception) -> dict[str, str]:
    """What the request's line says of it."""
    return {"error": error.code if isinstance(error, BanditError) else Internal.code}


def _encoded(error: BanditError) -> bytes:
    message = error.message.encode("utf-8", "backslashreplace").decode()
    try:
        return encode(ErrorReply(ErrorBody(error.code, message, error.detail)))
    except (TypeError, ValueError, UnicodeEncodeError):
        # The detail quotes what was sent, which may be no valid text.
        return encode(ErrorReply(ErrorBody(error.code, message, {"given": ascii(error.detail)})))
