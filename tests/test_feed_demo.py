"""The demo behind the page: what it puts into a service, when, and when it asks first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bandit.config import Settings
from bandit.store.data import DataDirectory
from bandit.web.app import create_app
from bandit.web.pages import crowd
from bandit.web.pages.clips import PREFIX, TAGS, clips, features_of
from tests.conftest import Api, Clock, Loop

Start = Callable[..., tuple[Api, Loop]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A service of its own, with these settings."""
    opened: list[tuple[Loop, DataDirectory]] = []

    def begin(**settings: Any) -> tuple[Api, Loop]:
        (path := tmp_path / f"data-{len(opened)}").mkdir()
        clock = Clock()
        data = DataDirectory(Settings(path, durable=False, **settings), clock=clock)
        loop = Loop(data, clock)
        opened.append((loop, data))
        return Api(create_app(loop.service).test_client()), loop

    yield begin
    for loop, data in opened:
        loop.close()
        data.close()


def begin_all(api: Api, *, anyway: bool = False) -> int:
    """Every step of the beginning; how many there were."""
    for steps in range(1, 100):
        reply = api.call("POST", "/feed/begin", {"anyway": anyway})
        assert reply.status == 200, reply.content
        if reply.body["state"] == "ready":
            return steps
    raise AssertionError("it never ends")


def test_clips_are_many_distinct_and_always_the_same() -> None:
    found = clips()
    assert len(found) == len({clip.id for clip in found}) == 480
    assert len({clip.creator for clip in found}) == 40
    assert {clip.tags[0] for clip in found} == set(TAGS)
    assert len({(clip.tags[0], clip.seed, clip.hue) for clip in found}) == len(found)
    assert all(clip.id.startswith(PREFIX) and len(clip.tags) == len(set(clip.tags)) for clip in found)
    # Ids name these very clips in logs that exist: another order of drawing would make them others.
    assert (found[0].id, found[0].tags, found[0].seed) == ("demo-waves-01", ["waves", "garden"], 442382839)


def test_it_begins_by_itself_in_an_empty_log_and_adds_nothing_twice(start: Start) -> None:
    api, loop = start()
    assert api.call("GET", "/feed").status == 200
    assert loop.service.data.log.query("SELECT count(*) FROM items") == [(0,)], "looking changes nothing"
    assert begin_all(api) == crowd.ROUNDS
    first = clips()[0]
    assert api.call("GET", f"/v1/items/{first.id}").body["features"] == features_of(first)
    log = loop.service.data.log
    assert log.query("SELECT count(*) FROM log WHERE kind = 'decision'") == [(crowd.VIEWERS * crowd.ROUNDS,)]
    position = log.last_position()
    assert begin_all(api) == 1
    for number in range(crowd.ROUNDS):
        crowd.play(loop.service, number)
    told = crowd.crowd()[1]
    kinds = log.query("SELECT DISTINCT kind FROM log WHERE pos > ?", (position,))
    assert kinds in ([], [("user",)]), "who signs up twice says the same twice; nothing is ranked or taught again"
    assert api.call("GET", f"/v1/users/{told.id}").body["interests"] == list(told.told)


def test_no_tag_is_more_popular_than_another_among_the_invented() -> None:
    likes = Counter(tag for viewer in crowd.crowd() for tag in viewer.likes)
    assert likes == dict.fromkeys(TAGS, crowd.VIEWERS * crowd.LIKED // len(TAGS))
    assert len({viewer.id for viewer in crowd.crowd()}) == len(crowd.crowd()) == crowd.VIEWERS


def test_the_invented_viewers_teach_what_a_taste_is_worth(start: Start) -> None:
    api, loop = start()
    for number in range(crowd.ROUNDS):
        assert api.call("POST", "/feed/begin", {}).body["played"] == number + 1
        loop.learn()
    viewer = crowd.crowd()[0]
    story = api.call("GET", f"/v1/users/{viewer.id}").body
    assert story["seen_slots"] == crowd.ROUNDS * crowd.SLOTS
    best = [one["value"] for one in story["tastes"] if one["attribute"] == "tag" and one["long"] > 0.15]
    assert set(best) & set(viewer.likes)


@pytest.mark.parametrize("theirs", ["an item", "a decision", "an item that sorts first"])
def test_it_asks_before_it_joins_others(start: Start, theirs: str) -> None:
    api, _ = start()
    if theirs == "a decision":
        assert api.call("POST", "/v1/rank", {"candidates": ["a"], "event_id": "theirs"}).status == 200
    else:
        item = "theirs" if theirs == "an item" else "a"
        assert api.call("PUT", "/v1/items", {"items": [{"id": item}]}).status == 200
    refused = api.call("POST", "/feed/begin", {})
    assert (refused.status, refused.body["error"]["code"]) == (409, "not_empty")
    assert b'data-asks="yes"' in api.call("GET", "/feed").content
    assert api.call("GET", f"/v1/items/{clips()[0].id}").status == 404
    assert begin_all(api, anyway=True) == crowd.ROUNDS
    assert b'data-asks="no"' in api.call("GET", "/feed").content
    assert begin_all(api) == 1, "once it is in, nobody is asked again"


@pytest.mark.parametrize("settings", [{"demo": "off"}, {"host": "0.0.0.0", "keys": "off"}], ids=["off", "reachable"])
def test_it_is_not_there_where_it_would_surprise(start: Start, settings: dict[str, str]) -> None:
    api, _ = start(**settings)
    for path in ("/feed", "/feed/compare"):
        reply = api.call("GET", path)
        assert (reply.status, reply.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert b"The demo feed is off here." in reply.content
    refused = api.call("POST", "/feed/begin", {})
    assert (refused.status, refused.body["error"]["code"]) == (404, "demo_off")


def test_switched_on_it_asks_nobody(start: Start) -> None:
    api, _ = start(demo="on", host="0.0.0.0", keys="off")
    api.call("PUT", "/v1/items", {"items": [{"id": "theirs"}]})
    assert b'data-asks="no"' in api.call("GET", "/feed").content
    assert api.call("POST", "/feed/begin", {}).status == 200


def test_signals_that_the_config_does_not_list_are_not_sent(start: Start) -> None:
    api, _ = start()
    config = api.call("GET", "/v1/config")
    document = config.body | {"signals": {"watch_s": config.body["signals"]["watch_s"]}, "reward": "watch"}
    assert api.call("PUT", "/v1/config", document, headers={"If-Match": config.headers["ETag"]}).status == 200
    assert api.call("POST", "/feed/begin", {}).status == 200
    assert b'data-signals="watch_s"' in api.call("GET", "/feed").content


def test_pages_are_sent_with_a_policy_that_lets_nothing_else_in(start: Start) -> None:
    api, _ = start()
    reply = api.call("GET", "/feed")
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert b"<style" not in reply.content
    assert b" style=" not in reply.content
    assert b"<script>" not in reply.content
    assert b" onclick" not in reply.content
