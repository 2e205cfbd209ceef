"""The demo feed: a page that is a feed client, over the same routes as any other."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from bandit import records
from bandit.config import is_loopback
from bandit.errors import BanditError, NotFound
from bandit.records import Item, ItemsRequest
from bandit.service import Service
from bandit.store.items import current_items
from bandit.store.others import holds_others
from bandit.web.pages import crowd
from bandit.web.pages.clips import PREFIX, TAGS, ClipsReply, clips, features_of
from bandit.web.pages.look import edition, page
from bandit.web.routing import HTML, Answer, Incoming, Route


class BeginRequest(Struct, forbid_unknown_fields=True):
    """Put the demo into this service; `anyway`: though others use it too."""

    anyway: bool = False


class BeginReply(Struct):
    """How far the demo is: `ready` once its clips are in the catalogue and its invented viewers have seen `rounds`."""

    state: Literal["playing", "ready"]
    played: int
    rounds: int


class DemoIsOff(NotFound):
    """The demo is not offered here."""

    code = "demo_off"


class OthersAreHere(BanditError):
    """The demo would mix with what others do here."""

    code = "not_empty"
    status = 409


def offered(service: Service) -> bool:
    """Whether this start of the service has a demo: on, or as it comes and only this machine can ask."""
    settings = service.data.settings
    return settings.demo == "on" or (settings.demo == "auto" and is_loopback(settings.host))


def asks_first(service: Service) -> bool:
    """Whether somebody must say that the demo may be put in here: others' items or decisions are in the log."""
    if service.data.settings.demo == "on" or _is_in(service):
        return False
    return holds_others(service.data.log, PREFIX)


def _is_in(service: Service) -> bool:
    last = clips()[-1].id
    return last in current_items(service.data.log, [last])


def begin(service: Service, http: Incoming) -> Answer:
    """One step: clips into the catalogue, then a round of the invented viewers."""
    request: BeginRequest = records.decode(http.body, BeginRequest)
    if not offered(service):
        raise DemoIsOff("this service has no demo; start it with --demo on")
    if asks_first(service) and not request.anyway:
        raise OthersAreHere(
            "others use this service already, and the demo's clips and viewers would teach the same model; use another "
            'data directory, or send {"anyway": true}'
        )
    if not _is_in(service):
        items = [Item(clip.id, Raw(msgspec.json.encode(features_of(clip)))) for clip in clips()]
        service.put_items(ItemsRequest(items))
    played = crowd.rounds_played(service)
    if played < crowd.ROUNDS:
        # Theirs is no app's: whoever begins, they come once.
        crowd.play(service.of("", sees_all=True), played)
        played += 1
    return Answer(200, BeginReply("ready" if played == crowd.ROUNDS else "playing", played, crowd.ROUNDS))


def all_clips(service: Service, http: Incoming) -> Answer:
    headers = {"Cache-Control": "private, max-age=31536000, immutable"} if http.query() else None
    return Answer(200, ClipsReply(list(TAGS), list(clips())), headers)


def feed(service: Service, http: Incoming) -> Answer:
    return _page(service, http, "feed.html")


def compare(service: Service, http: Incoming) -> Answer:
    return _page(service, http, "compare.html")


def clips_url() -> str:
    """Where this release's clips are told, for as long as a browser likes to keep them."""
    return f"/feed/clips?{edition()}"


def _page(service: Service, http: Incoming, template: str) -> Answer:
    if not offered(service):
        return page("feed_off.html", here="/feed", http=http, status=404)
    return page(
        template,
        here="/feed",
        http=http,
        clips=clips_url(),
        tags=TAGS,
        asks=asks_first(service),
        signals=sorted(service.config().document.signals),
        clips_many=len(clips()),
        crowd=crowd.VIEWERS,
        rounds=crowd.ROUNDS,
        slots=crowd.SLOTS,
    )


ROUTES: Final = (
    Route("GET", "/feed", feed, "read", "Page: the demo feed", 200, errors=(404,), media=HTML),
    Route("GET", "/feed/compare", compare, "read", "Page: feeds of several viewers side by side", 200,
          errors=(404,), media=HTML),
    Route("GET", "/feed/clips", all_clips, "read", "The clips of the demo feed", 200, None, ClipsReply),
    Route("POST", "/feed/begin", begin, "admin", "Put the demo feed into this service, a step at a time", 200,
          BeginRequest, BeginReply, (404, 409, 413)),
)  # fmt: skip
