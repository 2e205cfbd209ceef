"""Decisions for people: the newest ones, a search, and each told as a story."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from bandit.access.apps import app_and_id
from bandit.errors import UnknownDecision
from bandit.records import EventReply
from bandit.service import Service
from bandit.web.pages.clips import PREFIX
from bandit.web.pages.feed import clips_url
from bandit.web.pages.look import page
from bandit.web.pages.story import moment, number, tell
from bandit.web.routing import HTML, Answer, Incoming, Route

SHOWN: Final = 40
LONGEST: Final = 256


def events(service: Service, http: Incoming) -> Answer:
    wanted = http.query().get("find", "").strip()[:LONGEST]
    if wanted:
        try:
            return _told(service, http, service.event(wanted))
        except UnknownDecision:
            pass  # Then it is a viewer, or nothing.
    found = service.newest(user=wanted or None, limit=SHOWN)
    rows = []
    for one in found:
        app, event_id = app_and_id(one.stored)
        rows.append(
            {
                "id": event_id,
                "app": app,
                "path": path_of(event_id, app),
                "at": moment(one.at),
                "viewer": one.user or "",
                "learned": f"{one.learned} of {one.slots}",
                "reward": "" if one.reward is None else number(one.reward),
                "mood": "" if one.reward is None else "better" if one.reward > 0 else "worse",
            }
        )
    return page("events.html", here="/events", http=http, wanted=wanted, rows=rows)


def event_story(service: Service, http: Incoming, event_id: str) -> Answer:
    try:
        return _told(service, http, service.event(event_id, app=http.query().get("app")))
    except UnknownDecision:
        return page("event_unknown.html", here="/events", http=http, status=404, wanted=event_id)


def _told(service: Service, http: Incoming, event: EventReply) -> Answer:
    decision, config, items = service.behind(event)
    story = tell(event, decision, config, items)
    return page(
        "event.html",
        here="/events",
        http=http,
        story=story,
        event=event,
        model=event.model_version or "none",
        ends=moment(event.window_ends_at),
        raw=f"/v1/events/{quote(event.event_id, safe='')}" + (f"?{urlencode({'app': event.app})}" if event.app else ""),
        others=f"/events?{urlencode({'find': event.user})}" if event.user else "",
        pictures=clips_url() if any(slot.id.startswith(PREFIX) for slot in event.slots) else "",
    )


def path_of(event_id: str, app: str = "") -> str:
    """Where the story of an event is told."""
    return f"/events/{quote(event_id, safe='')}" + (f"?{urlencode({'app': app})}" if app else "")


ROUTES: Final = (
    Route("GET", "/events", events, "read", "Page: the newest decisions, and a search", 200, media=HTML),
    Route("GET", "/events/<path:event_id>", event_story, "read", "Page: one decision told as a story", 200,
          errors=(404,), media=HTML),
)  # fmt: skip
