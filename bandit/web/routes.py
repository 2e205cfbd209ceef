"""All doors of the service: from these tables Flask serves, and the OpenAPI document is made."""

from __future__ import annotations

from typing import Final

from bandit.service import Service
from bandit.web import metrics, native, openapi
from bandit.web.pages import dashboard, dashboard_models, events, feed, look, signin
from bandit.web.personalizer import routes as personalizer
from bandit.web.routing import Answer, Incoming, Route


def exposition(service: Service, http: Incoming) -> Answer:
    return Answer(200, metrics.exposition(service), media=metrics.MEDIA)


def document(service: Service, http: Incoming) -> Answer:
    return Answer(200, openapi.document(ROUTES, keys=service.data.settings.needs_keys))


ROUTES: Final[tuple[Route, ...]] = (
    *native.ROUTES,
    *dashboard.ROUTES,
    *dashboard_models.ROUTES,
    *look.ROUTES,
    *signin.ROUTES,
    *feed.ROUTES,
    *events.ROUTES,
    *personalizer.ROUTES,
    Route("GET", "/metrics", exposition, "read", "Prometheus metrics", 200, media=metrics.MEDIA),
    Route("GET", "/openapi.json", document, None, "All of this as OpenAPI 3.1", 200),
)
