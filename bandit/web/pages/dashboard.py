"""The first page: is it learning? In words first, then curves, slots, items, exploration, models and config."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import urlencode

from msgspec import Struct

import bandit
from bandit.errors import BanditError
from bandit.service import Service
from bandit.web.pages import dashboard_config, dashboard_items, dashboard_loop, dashboard_models
from bandit.web.pages.curves import when
from bandit.web.pages.feed import offered
from bandit.web.pages.look import page
from bandit.web.routing import HTML, Answer, Incoming, Route

T = TypeVar("T")

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
#: What was done by a form, told at the top once it is.
NOTICES: Final = {
    "rolled-back": "Done: the model that you chose serves, in every worker from its next request on.",
    "released": "Done: the newest model serves again, in every worker from its next request on.",
}


class IndexReply(Struct):
    """What this service is, for programs that ask where people find the dashboard."""

    service: str
    version: str
    verdict: str
    text: str
    links: dict[str, str]


def dashboard(service: Service, http: Incoming) -> Answer:
    query = http.query()
    if _wants_json(http):
        return _index(service)
    now = service.clock()
    found, trouble = _tried(service.loop_and_counted)
    reply, counted = (None, None) if found is None else found
    empty = reply is not None and reply.recent.decisions == 0 and reply.model.open_feeds == 0
    items_by = "earned" if query.get("items") == "earned" else "shown"
    items, items_trouble = ([], "") if empty else _tried(lambda: dashboard_items.items(service, items_by, now))
    models, models_trouble = _tried(lambda: dashboard_models.view(service, now))
    config, config_trouble = _tried(lambda: dashboard_config.view(service, query))
    arms, arms_trouble = _tried(lambda: dashboard_items.arms(service))
    nothing = reply is None and models is None and config is None
    return page(
        "dashboard.html",
        here="/",
        http=http,
        # All that can be read is told; only where nothing can, the page is none.
        status=503 if nothing else 200,
        notice=NOTICES.get(query.get("notice", ""), ""),
        may_change="admin" in http.caller.scopes,
        host=_host(service, http),
        keyed=service.data.settings.needs_keys,
        demo=offered(service),
        empty=empty,
        trouble=trouble,
        verdict=None if reply is None else dashboard_loop.verdict(reply),
        live=None if counted is None or reply is None or empty else dashboard_loop.live(service, counted, reply, query),
        facts=[] if reply is None or empty else dashboard_loop.health(reply),
        items=items,
        items_by=items_by,
        items_trouble=items_trouble,
        models=models,
        models_trouble=models_trouble,
        config=config,
        config_trouble=config_trouble,
        arms=arms,
        arms_trouble=arms_trouble,
        at=when(now),
        link=lambda **change: _link(query, **change),
    )


def _tried(part: Callable[[], T]) -> tuple[T | None, str]:
    """A part of the page, or what is wrong with it: the others are told all the same."""
    try:
        return part(), ""
    except BanditError as error:
        return None, error.message


def _link(query: Mapping[str, str], *, to: str = "", **change: str) -> str:
    """The same page with something else chosen; what was done is told once."""
    kept = {name: query[name] for name in ("span", "items", "old", "new") if name in query} | change
    return f"/?{urlencode(kept)}" + (f"#{to}" if to else "")


# ---------------------------------------------------------------- for programs


def _wants_json(http: Incoming) -> bool:
    accepted = http.header("Accept") or ""
    return "application/json" in accepted and "text/html" not in accepted


def _index(service: Service) -> Answer:
    reply = service.loop()
    links = {"openapi": "/openapi.json", "loop": "/healthz/loop", "health": "/healthz", "metrics": "/metrics"}
    return Answer(200, IndexReply("feed-bandit", bandit.__version__, reply.verdict, reply.sentences[0].text, links))


def _host(service: Service, http: Incoming) -> str:
    """Where this service is asked, to be written into commands."""
    given = http.header("Host") or ""
    settings = service.data.settings
    return given if _HOST.fullmatch(given) else f"{settings.host}:{settings.port}"


ROUTES: Final = (
    Route("GET", "/", dashboard, "read", "Page: is it learning? For programs, what this service is", 200,
          None, IndexReply, media=HTML),
)  # fmt: skip
