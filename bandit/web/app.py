"""The Flask app: routes in, one error shape out, never a 500 for what a caller can send."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flask import Flask, Request, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import PathConverter

from bandit.errors import BanditError, BodyTooLarge, InvalidRequest, NotFound
from bandit.records import ErrorBody, ErrorReply, encode
from bandit.service import Service
from bandit.web import metrics, openapi
from bandit.web.routes import ROUTES, Handler, Route

log = logging.getLogger("feed_bandit")


class _AnyText(PathConverter):
    """All that an id may be: werkzeug's own stops at newlines and at a slash in front."""

    regex = "(?s:.+?)"
    part_isolating = False


def create_app(service: Service) -> Flask:
    """The native API over a service."""
    app = Flask("feed_bandit", static_folder=None)
    app.url_map.converters["path"] = _AnyText
    app.config["MAX_CONTENT_LENGTH"] = service.data.settings.max_body_mb * 1024 * 1024
    # Ids may hold slashes, even two in a row.
    app.url_map.merge_slashes = False
    for route in ROUTES:
        app.add_url_rule(
            route.path,
            endpoint=route.handler.__name__,
            view_func=_view(service, route, route.handler),
            methods=[route.method],
        )

    @app.get("/metrics")
    def metrics_() -> Response:
        return Response(metrics.exposition(service), mimetype="text/plain; version=0.0.4")

    @app.get("/openapi.json")
    def openapi_() -> Response:
        return Response(openapi.document(), mimetype="application/json")

    app.register_error_handler(BanditError, _refused)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unforeseen)
    return app


def _view(service: Service, route: Route, handler: Handler) -> Callable[..., Response]:
    counted = metrics.REQUESTS.labels(route.path, str(route.status))
    # Ranking times itself, without the framework around it.
    seconds = None if route.path == "/v1/rank" else metrics.SECONDS.labels(route.path)

    def view(**parameters: str) -> Response:
        started = time.monotonic()
        http: Request = request._get_current_object()  # type: ignore[attr-defined]
        answer = handler(service, http, **parameters)
        counted.inc()
        if seconds is not None:
            seconds.observe(time.monotonic() - started)
        body = b"" if answer.body is None else encode(answer.body)
        return Response(body, answer.status, answer.headers, content_type="application/json")

    return view


def _refused(error: BanditError) -> Response:
    rule = request.url_rule
    metrics.REQUESTS.labels("none" if rule is None else rule.rule, str(error.status)).inc()
    if error.status >= 500:
        log.error("%s %s: %s: %s", request.method, request.path, error.code, error.message)
    body = ErrorReply(ErrorBody(error.code, _printable(error.message), error.detail))
    response = Response(_encoded(body), error.status, content_type="application/json")
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _http_error(error: HTTPException) -> Response:
    """What Flask itself refuses, in our shape."""
    if isinstance(error, RequestEntityTooLarge):
        limit = (request.max_content_length or 0) // (1024 * 1024)
        return _refused(
            BodyTooLarge(f"the body is larger than {limit} MB; send fewer candidates, items or events", limit_mb=limit)
        )
    if error.code == 404:
        return _refused(NotFound(f"there is no {request.path!r} here; see /openapi.json", path=request.path))
    if error.code == 405:
        allowed = sorted(getattr(error, "valid_methods", None) or ())
        response = _refused(_MethodNotAllowed(f"{request.method} is not allowed here; allowed: {', '.join(allowed)}"))
        response.headers["Allow"] = ", ".join(allowed)
        return response
    if error.code is not None and 300 <= error.code < 400:
        return Response(status=error.code, headers=dict(error.get_headers()))
    return _refused(InvalidRequest(f"the request cannot be read ({error.name}: {error.description})"))


class _MethodNotAllowed(BanditError):
    code = "method_not_allowed"
    status = 405


class _Internal(BanditError):
    code = "internal"
    status = 500


def _unforeseen(error: Exception) -> Response:
    """A fault of ours: logged whole, told without its insides."""
    log.exception("%s %s", request.method, request.path, exc_info=error)
    return _refused(_Internal("a fault of the service; it was logged"))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _encoded(body: ErrorReply) -> bytes:
    try:
        return encode(body)
    except (TypeError, ValueError, UnicodeEncodeError):
        # The detail quotes what was sent, which may be no valid text.
        return encode(ErrorReply(ErrorBody(body.error.code, body.error.message, {"given": ascii(body.error.detail)})))
