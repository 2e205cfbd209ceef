"""Decisions for people: found, told as a story, and every number the log's own."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from bandit.access.apps import app_and_id
from bandit.records import EventReply, RankRequest, User
from bandit.reward.formula import Formula
from bandit.service import Service
from bandit.web.pages.story import Story, signals_of, tell, terms_of
from tests.conftest import Api, Loop

ITEMS = [
    {"id": "v1", "features": {"creator": "kari", "sound": "s1", "tags": ["cats"], "length_s": 20}},
    {"id": "v2", "features": {"creator": "ola", "sound": "s2", "tags": ["news"], "length_s": 60}},
    {"id": "v3", "features": {"creator": "liv", "sound": "s3", "tags": ["diy"], "language": "no"}},
]


def rank(api: Api, event_id: str, **more: Any) -> list[str]:
    """Rank all three; gives their order."""
    request = {"event_id": event_id, "user": {"id": "ada"}, "candidates": ["v1", "v2", "v3"]} | more
    reply = api.call("POST", "/v1/rank", request)
    assert reply.status == 200, reply.content
    return [placed["id"] for placed in reply.body["ranking"]]


def say(api: Api, event_id: str, *items: dict[str, Any]) -> None:
    assert api.call("POST", "/v1/feedback", {"event_id": event_id, "items": list(items)}).status == 202


def told(service: Service, event_id: str) -> tuple[EventReply, Story]:
    event = service.event(event_id)
    decision, config, items = service.behind(event)
    return event, tell(event, decision, config, items)


def seen(api: Api, path: str, *, status: int = 200) -> str:
    """The words of a page."""
    reply = api.call("GET", path)
    assert reply.status == status, reply.content[-2_000:]
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    text = re.sub(r"<[^>]+>", " ", reply.content.decode())
    return re.sub(r"\s+", " ", html.unescape(text))


@pytest.fixture
def catalogue(api: Api) -> Api:
    assert api.call("PUT", "/v1/items", {"items": ITEMS}).status == 200
    return api


def test_a_story_goes_from_the_request_to_the_lesson(catalogue: Api, loop: Loop, service: Service) -> None:
    api = catalogue
    order = rank(api, "e1", context={"hour": "9"})
    loop.clock.pass_(12.0)
    say(api, "e1",
        {"id": "v1", "signals": {"watch_s": 20, "like": 1}, "final": True},
        {"id": "v2", "signals": {"watch_s": 1.5, "skip": 1}, "final": True})  # fmt: skip
    loop.learn()
    event, story = told(service, "e1")
    assert story.headline == "A feed of 3, drawn from 3 candidates."
    assert "2 of 3 slots taught something" in story.second
    assert ("hour", "9") in story.features
    assert [placed.id for placed in story.slots] == order
    assert [placed.chance for placed in story.slots] == [slot.propensity for slot in event.slots]
    assert story.slots[-1].says.startswith("Nothing else could stand here.")
    assert {deed.after for deed in story.deeds} == {"12 s"}
    by_id = {lesson.id: lesson for lesson in story.taught}
    assert (by_id["v1"].mood, by_id["v2"].mood, by_id["v3"].mood) == ("better", "worse", "undecided")
    assert by_id["v1"].why_seen == "watch_s was reported of it"
    page = seen(api, "/events/e1")
    assert "cats · by kari · 20 s" in page
    assert "watched 20 s, liked it, no more will come" in page
    for lesson in story.taught:
        assert lesson.reward in page


def test_the_terms_of_a_reward_add_up_to_what_was_learned(catalogue: Api, loop: Loop, service: Service) -> None:
    rank(catalogue, "e1")
    say(catalogue, "e1", {"id": "v1", "signals": {"watch_s": 5}})
    say(catalogue, "e1", {"id": "v1", "signals": {"watch_s": 12, "like": 1}})
    say(catalogue, "e1", {"id": "v1", "signals": {"share": 1}, "final": True})
    # After the final word: kept, and no part of the lesson.
    loop.clock.pass_(1.0)
    loop.learn()
    say(catalogue, "e1", {"id": "v1", "signals": {"share": 5}})
    loop.learn()
    event, story = told(service, "e1")
    (slot,) = (slot for slot in event.slots if slot.id == "v1")
    (lesson,) = (lesson for lesson in story.taught if lesson.id == "v1")
    assert slot.reward is not None
    assert signals_of(slot, event, service.behind(event).config) == {"watch_s": 12, "like": 1, "share": 1}
    values = [float(term.value.replace("\N{MINUS SIGN}", "-")) for term in lesson.terms]
    assert [term.text for term in lesson.terms] == ["watch", "like", "2 * share"]
    assert sum(values) == pytest.approx(slot.reward, abs=0.015), "each is rounded to two places"


def test_a_reward_that_came_as_it_is_has_no_sum(catalogue: Api, loop: Loop, service: Service) -> None:
    rank(catalogue, "e1")
    say(catalogue, "e1", {"id": "v1", "signals": {"like": 1}, "seen": True, "reward": -2.5, "final": True})
    loop.learn()
    _, story = told(service, "e1")
    (lesson,) = (lesson for lesson in story.taught if lesson.id == "v1")
    assert (lesson.reward, lesson.terms) == ("\N{MINUS SIGN}2.50", []), "better no sum than another one"


def test_a_reward_beyond_the_range_says_so(catalogue: Api, loop: Loop, service: Service) -> None:
    rank(catalogue, "e1")
    say(catalogue, "e1", {"id": "v1", "signals": {"watch_s": 1, "share": 50}, "final": True})
    loop.learn()
    _, story = told(service, "e1")
    (lesson,) = (lesson for lesson in story.taught if lesson.id == "v1")
    assert lesson.reward == "+10.00"
    assert "which reward_range [-10, 10] limits" in lesson.clipped


def test_silence_lateness_and_what_was_never_shown_are_told(catalogue: Api, loop: Loop) -> None:
    rank(catalogue, "silent")
    rank(catalogue, "ahead", defer_activation=True)
    rank(catalogue, "late")
    assert "Nothing is decided yet: its window is open." in seen(catalogue, "/events/silent")
    loop.end_windows()
    say(catalogue, "late", {"id": "v1", "signals": {"watch_s": 9}})
    loop.learn()
    assert "Nothing was heard of it" in seen(catalogue, "/events/silent")
    assert "nothing proves that it was seen" in seen(catalogue, "/events/silent")
    assert "nobody said that the feed was shown" in seen(catalogue, "/events/ahead")
    assert "too late to be learned" in seen(catalogue, "/events/late")


def test_rules_are_told_in_words(catalogue: Api, loop: Loop) -> None:
    rank(catalogue, "e1")
    say(catalogue, "e1", *({"id": one, "signals": {"watch_s": 3}, "final": True} for one in ("v1", "v2", "v3")))
    say(catalogue, "e1", {"id": "v2", "signals": {"not_interested": 1}, "about": ["tag:news"]})
    loop.learn()
    assert rank(catalogue, "e2", exclude=["v3"]) == ["v1"]
    page = seen(catalogue, "/events/e2")
    assert "1 candidate could not be shown: excluded by the caller." in page
    assert "1 candidate could not be shown: refused by the viewer before." in page
    assert "had stood in a feed of this viewer within the last 30 days" in page
    assert "“seen” gave way at slot 1" in page
    assert "did not want it, nor the tag news" in seen(catalogue, "/events/e1")


def test_decisions_are_found_by_event_and_by_viewer(catalogue: Api, loop: Loop) -> None:
    for n in range(3):
        rank(catalogue, f"ada-{n}")
    rank(catalogue, "other", user={"id": "bo"})
    rank(catalogue, "nobody", user=None)
    newest = seen(catalogue, "/events")
    places = [newest.index(one) for one in ("nobody", "other", "ada-2", "ada-0")]
    assert places == sorted(places), "the newest first"
    assert "A feed of 3" in seen(catalogue, "/events?find=ada-1")
    of_bo = seen(catalogue, "/events?find=bo")
    assert "Decisions for bo." in of_bo
    assert "ada-1" not in of_bo
    assert "Nothing found." in seen(catalogue, "/events?find=zoe")


def test_an_app_sees_its_own_decisions_alone(catalogue: Api, service: Service) -> None:
    rank(catalogue, "of-nobody")
    request = RankRequest(["v1", "v2"], event_id="of-web", user=User("ada"))
    web = service.of("web", sees_all=False)
    web.rank(request)
    assert [app_and_id(one.stored) for one in web.newest(limit=9)] == [("web", "of-web")]
    assert [app_and_id(one.stored) for one in web.newest(user="ada", limit=9)] == [("web", "of-web")]
    assert [app_and_id(one.stored)[1] for one in service.newest(limit=9)] == ["of-web", "of-nobody"]
    assert [one.stored for one in service.of("", sees_all=False).newest(limit=9)] == ["of-nobody"]


def test_an_empty_log_and_an_unknown_id_are_no_faults(api: Api) -> None:
    assert "Nobody has asked for a feed yet." in seen(api, "/events")
    assert "There is no such decision." in seen(api, "/events/e1", status=404)


def test_what_an_id_holds_never_becomes_markup(catalogue: Api, loop: Loop) -> None:
    nasty = "<script>alert(1)</script>\"'/../x"
    assert catalogue.call("PUT", "/v1/items", {"items": [{"id": nasty, "features": {"creator": nasty}}]}).status == 200
    rank(catalogue, nasty, candidates=[nasty], user={"id": nasty}, context={"where": nasty})
    say(catalogue, nasty, {"id": nasty, "signals": {"watch_s": 1}, "final": True})
    loop.learn()
    for path in ("/events", "/events/%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%2F..%2Fx", "/events?find=%3Cscript%3E"):
        assert b"<script>alert" not in catalogue.call("GET", path).content


@pytest.mark.parametrize(
    "formula", ["watch + like - skip / 2", "-(a - b) + 3", "(a + b) * 2 - -c", "min(a, b) - (a - (b - c))", "a"]
)
def test_terms_add_up_to_the_formula(formula: str) -> None:
    values = {"watch": 0.4, "like": 1.0, "skip": 1.0, "a": 0.3, "b": -1.7, "c": 2.2}
    terms = terms_of(formula, values)
    assert terms is not None
    assert sum(value for _, value in terms) == pytest.approx(Formula(formula)(values))


def test_a_term_without_a_value_gives_no_sum() -> None:
    assert terms_of("a + 1 / b", {"a": 1.0}) is None
