"""The Flask app: routes in, one error shape out, never a 500 for what a caller can send."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import Map, PathConverter, Rule

from bandit.errors import BanditError, BodyTooLarge, InvalidRequest, NotFound
from bandit.service import Service
from bandit.web.admission import Admission
from bandit.web.answering import COMMON, Answerer, Wire, answerer, length_of, refused
from bandit.web.gate import Gate
from bandit.web.request_log import RequestLog
from bandit.web.routes import ROUTES
from bandit.web.routing import Route

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: They tell what is wrong, so they are answered whatever is: a few at a time, beside all others.
ANSWERED_ALWAYS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
ALWAYS: Final = 2
ALWAYS_WAITING: Final = 32
ALWAYS_WAIT_S: Final = 5.0


class _AnyText(PathConverter):
    """All that an id may be: werkzeug's own stops at newlines and at a slash in front."""

    regex = "(?s:.+?)"
    part_isolating = False


def create_app(service: Service, *, requests: RequestLog | None = None) -> Flask:
    """Every door, over a service.

    :param requests: hears of every request; None: nobody does
    """
    app = Flask("feed_bandit", static_folder=None)
    app.url_map = _paths(ROUTES)
    app.config["MAX_CONTENT_LENGTH"] = service.data.settings.max_body_mb * 1024 * 1024
    settings = service.data.settings
    gate = Gate(service.data, clock=service.clock)
    admission = Admission(settings.threads, waiting=settings.queue, wait_s=settings.queue_ms / 1000)
    always = Admission(ALWAYS, waiting=ALWAYS_WAITING, wait_s=ALWAYS_WAIT_S)
    answers = {
        route: answerer(
            service,
            route,
            gate=gate,
            admission=always if route.path in ANSWERED_ALWAYS else admission,
            requests=requests,
        )
        for route in ROUTES
    }
    app.view_functions |= {_name(route): _view(answer) for route, answer in answers.items()}
    # Flask takes as long to hand on a request as the kernel to score its candidates.
    hot = {(route.method, route.path): answer for route, answer in answers.items() if route.hot}
    app.wsgi_app = Front(app.wsgi_app, hot, app.config["MAX_CONTENT_LENGTH"])  # type: ignore[method-assign]

    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, lambda error: _response(refused("none", error)))
    return app


@cache
def _paths(routes: tuple[Route, ...]) -> Map:
    """The paths of all doors: they take a tenth of a second to compile, and are the same for every app."""
    # Ids may hold slashes, even two in a row.
    paths = Map(merge_slashes=False)
    paths.converters["path"] = _AnyText
    for route in routes:
        rule = Rule(route.path, endpoint=_name(route), methods=[route.method, "OPTIONS"])
        # Flask answers OPTIONS itself, as for rules that it makes.
        rule.provide_automatic_options = True  # type: ignore[attr-defined]
        paths.add(rule)
    return paths


def _name(route: Route) -> str:
    return f"{route.method} {route.path}"


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
        length = length_of(environ)
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


def _ours(error: BanditError) -> Response:
    rule = request.url_rule
    return _response(refused("none" if rule is None else rule.rule, error))
