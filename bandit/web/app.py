"""The Flask app: routes in, one error shape out, never a 500 for what a caller can send."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlencode

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import PathConverter

from bandit.errors import BanditError, BodyTooLarge, Forbidden, InvalidRequest, NotFound, Unauthorized
from bandit.records import ErrorBody, ErrorReply, encode
from bandit.service import Service
from bandit.web import metrics
from bandit.web.gate import Gate
from bandit.web.routes import ROUTES
from bandit.web.routing import HTML, JSON, Incoming, Route

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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
DRAINED_BYTES = 1 << 20
# So many at a time: who is not let in cannot hold more threads by sending slowly.
DRAINING = 8


class _AnyText(PathConverter):
    """All that an id may be: werkzeug's own stops at newlines and at a slash in front."""

    regex = "(?s:.+?)"
    part_isolating = False


def create_app(service: Service) -> Flask:
    """Every door, over a service."""
    app = Flask("feed_bandit", static_folder=None)
    app.url_map.converters["path"] = _AnyText
    app.config["MAX_CONTENT_LENGTH"] = service.data.settings.max_body_mb * 1024 * 1024
    # Ids may hold slashes, even two in a row.
    app.url_map.merge_slashes = False
    gate = Gate(service.data, clock=service.clock)
    working = threading.Semaphore(service.data.settings.threads)
    answers = {route: _answerer(service, route, gate, working) for route in ROUTES}
    for route, answer in answers.items():
        app.add_url_rule(route.path, endpoint=route.handler.__name__, view_func=_view(answer), methods=[route.method])
    # Flask takes as long to hand on a request as the kernel to score its candidates.
    hot = {(route.method, route.path): answer for route, answer in answers.items() if route.hot}
    app.wsgi_app = Front(app.wsgi_app, hot, app.config["MAX_CONTENT_LENGTH"])  # type: ignore[method-assign]

    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, lambda error: _response(_refused("none", error)))
    return app


class Wire(NamedTuple):
    """A reply, ready to be sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


#: Of (WSGI environ, what reads the body), and the path's parameters.
Answerer = Callable[..., Wire]


def _answerer(service: Service, route: Route, gate: Gate, working: threading.Semaphore) -> Answerer:
    """Whatever comes in, a reply goes out: the handler's answer, or the error in the one shape.

    :param working: so many at a time. It is taken once the body is read: clients that send slowly, or never
        finish, hold a thread each but keep nobody from being answered.
    """
    counted = metrics.REQUESTS.labels(route.path, str(route.status))
    seconds = metrics.SECONDS.labels(route.path)

    def answer(environ: WSGIEnvironment, read: Callable[[], bytes], **parameters: str) -> Wire:
        started = time.monotonic()
        try:
            caller = gate.admit(environ, route)
        except Exception as error:
            _drain(environ)
            return _to_sign_in(environ, route, error) or _refused(route.path, error)
        incoming = Incoming(read(), environ, caller)
        try:
            gate.check_page(incoming)
            with working:
                given = route.handler(service.of(caller.app, sees_all="admin" in caller.scopes), incoming, **parameters)
            body = given.body if isinstance(given.body, bytes) else b"" if given.body is None else encode(given.body)
        except Exception as error:
            return _refused(route.path, error)
        counted.inc()
        seconds.observe(time.monotonic() - started)
        return Wire(given.status, _headers(given.media, given.headers), body)

    return answer


def _headers(media: str, own: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """The headers of a reply: what every reply has, unless it has its own."""
    if not own:
        return [("Content-Type", media), *COMMON.items()]
    return [("Content-Type", media), *{**COMMON, **own}.items()]


def _to_sign_in(environ: WSGIEnvironment, route: Route, error: Exception) -> Wire | None:
    """Where somebody is led who opens a page that their key does not show; None for everybody else."""
    browsing = environ["REQUEST_METHOD"] == "GET" and "text/html" in environ.get("HTTP_ACCEPT", "")
    if route.media != HTML or not browsing or not isinstance(error, Unauthorized | Forbidden):
        return None
    if isinstance(error, Forbidden) and "needed" not in error.detail:
        return None
    query = environ.get("QUERY_STRING")
    asked = {"next": f"{quote(environ['PATH_INFO'])}{'?' if query else ''}{query}"}
    if isinstance(error, Forbidden):
        asked["needed"] = error.detail["needed"]
    metrics.REQUESTS.labels(route.path, "303").inc()
    return Wire(303, _headers(HTML, {"Location": f"/signin?{urlencode(asked)}"}), b"")


_draining = threading.Semaphore(DRAINING)


def _drain(environ: WSGIEnvironment) -> None:
    """Read the body of a request that is refused, so that its connection lives on."""
    length = _length(environ)
    if 0 < length <= DRAINED_BYTES and _draining.acquire(blocking=False):
        try:
            with suppress(Exception):
                environ["wsgi.input"].read(length)
        finally:
            _draining.release()


def _length(environ: WSGIEnvironment) -> int:
    """Bytes of the body as the request tells; -1 if it does not."""
    told = environ.get("CONTENT_LENGTH") or ""
    return int(told) if told.isascii() and told.isdecimal() else -1


class Front:
    """Answers the hot routes itself, and hands everything else on to Flask.

    Only plain requests: one without a length, or with one over the limit, is Flask's too.
    """

    def __init__(self, flask: WSGIApplication, hot: Mapping[tuple[str, str], Answerer], max_length: int) -> None:
        self._flask = flask
        self._hot = hot
        self._max_length = max_length

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._hot.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if answer is None:
            return self._flask(environ, start_response)
        length = _length(environ)
        if not 0 <= length <= self._max_length:
            return self._flask(environ, start_response)
        reply = answer(environ, lambda: environ["wsgi.input"].read(length))
        headers = [*reply.headers, ("Content-Length", str(len(reply.body)))]
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        return [reply.body]


def _view(answer: Answerer) -> Callable[..., Response]:
    def view(**parameters: str) -> Response:
        return _response(answer(request.environ, _body, **parameters))

    return view


def _body() -> bytes:
    """:raises RequestEntityTooLarge: it has more bytes than a request may have"""
    data = request.get_data(cache=False)
    # Of a body that comes in chunks, without a length, werkzeug silently reads no more than it may.
    if request.content_length is None and len(data) >= (request.max_content_length or math.inf):
        raise RequestEntityTooLarge
    return data


def _response(reply: Wire) -> Response:
    return Response(reply.body, reply.status, reply.headers)


def _refused(path: str, error: Exception) -> Wire:
    """An error in the one shape; a fault of ours is logged whole and told without its insides."""
    if not isinstance(error, BanditError):
        log.exception("%s: a fault", path, exc_info=error)
        error = _Internal("a fault of the service; it was logged")
    elif error.status >= 500:
        log.error("%s: %s: %s", path, error.code, error.message)
    metrics.REQUESTS.labels(path, str(error.status)).inc()
    headers = _headers(JSON, None)
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", 'Bearer realm="feed-bandit"'))
    return Wire(error.status, headers, _encoded(error))


def _http_error(error: HTTPException) -> Response:
    """What Flask itself refuses, in our shape."""
    if isinstance(error, RequestEntityTooLarge):
        limit = (request.max_content_length or 0) // (1024 * 1024)
        return _ours(
            BodyTooLarge(f"the body is larger than {limit} MB; send fewer candidates, items or events", limit_mb=limit)
        )
    if error.code == 404:
        return _ours(NotFound(f"there is no {request.path!r} here; see /openapi.json", path=request.path))
    if error.code == 405:
        allowed = sorted(getattr(error, "valid_methods", None) or ())
        response = _ours(_MethodNotAllowed(f"{request.method} is not allowed here; allowed: {', '.join(allowed)}"))
        response.headers["Allow"] = ", ".join(allowed)
        return response
    if error.code is not None and 300 <= error.code < 400:
        return Response(status=error.code, headers=COMMON | dict(error.get_headers()))
    return _ours(InvalidRequest(f"the request cannot be read ({error.name}: {error.description})"))


class _MethodNotAllowed(BanditError):
    code = "method_not_allowed"
    status = 405


class _Internal(BanditError):
    code = "internal"
    status = 500


def _ours(error: BanditError) -> Response:
    rule = request.url_rule
    return _response(_refused("none" if rule is None else rule.rule, error))


def _encoded(error: BanditError) -> bytes:
    message = error.message.encode("utf-8", "backslashreplace").decode()
    try:
        return encode(ErrorReply(ErrorBody(error.code, message, error.detail)))
    except (TypeError, ValueError, UnicodeEncodeError):
        # The detail quotes what was sent, which may be no valid text.
        return encode(ErrorReply(ErrorBody(error.code, message, {"given": ascii(error.detail)})))
