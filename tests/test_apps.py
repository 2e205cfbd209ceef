"""Keys of one app cannot reach what another decided, by whatever route; keys of the same app can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlite_utils import Database

from bandit.config import Settings
from bandit.store.data import DataDirectory
from bandit.web.app import create_app
from replay.rebuild import rebuild
from tests.conftest import Api, Clock, Loop, make_key
from tests.service import Reply


class Apps(NamedTuple):
    """A service with keys of two apps, and of the one without a name."""

    api: Api
    loop: Loop
    keys: dict[str, str]

    def call(self, key: str, method: str, path: str, body: Any = None) -> Reply:
        return self.api.call(method, path, body, headers={"X-API-Key": self.keys[key]})

    def rank(self, key: str, event_id: str, **more: Any) -> dict[str, Any]:
        body = {"event_id": event_id, "candidates": ["v1", "v2", "v3"], "slots": 2, **more}
        reply = self.call(key, "POST", "/v1/rank", body)
        assert reply.status == 200, reply.content
        assert reply.body["event_id"] == event_id
        found: dict[str, Any] = reply.body
        return found

    def tell(self, key: str, event_id: str, *, feedback_id: str | None = None, watch_s: float = 9.0) -> dict[str, Any]:
        items = [{"id": one, "signals": {"watch_s": watch_s}, "final": True} for one in ("v1", "v2", "v3")]
        body = {"event_id": event_id, "items": items} | ({"feedback_id": feedback_id} if feedback_id else {})
        reply = self.call(key, "POST", "/v1/feedback", body)
        assert reply.status == 202, reply.content
        found: dict[str, Any] = reply.body
        return found

    def statuses(self, key: str, event_id: str) -> set[str]:
        self.loop.learn()
        return {slot["status"] for slot in self.call(key, "GET", f"/v1/events/{event_id}").body["slots"]}


@pytest.fixture
def apps(data: DataDirectory, clock: Clock) -> Iterator[Apps]:
    keyed = DataDirectory(Settings(data.path, durable=False, keys="on"), clock=clock)
    loop = Loop(keyed, clock)
    every = ("rank", "feedback", "read")
    keys = {
        "a": make_key(keyed, *every, now=clock.now, app="a"),
        "a2": make_key(keyed, *every, now=clock.now, app="a"),
        "b": make_key(keyed, *every, now=clock.now, app="b"),
        "none": make_key(keyed, *every, now=clock.now),
        "admin": make_key(keyed, "admin", now=clock.now, app="ops"),
    }
    yield Apps(Api(create_app(loop.service).test_client()), loop, keys)
    loop.close()
    keyed.close()


OTHERS = ("b", "none", "admin")


@pytest.mark.parametrize("other", OTHERS)
def test_feedback_of_another_app_joins_nothing(apps: Apps, other: str) -> None:
    apps.rank("a", "e")
    before = apps.loop.service.model().learned_slots
    assert apps.tell(other, "e", watch_s=100.0)["status"] == "pending"
    assert apps.statuses("a", "e") == {"open"}
    assert apps.call("a", "GET", "/v1/events/e").body["follow_ups"] == []
    assert apps.tell("a2", "e", watch_s=5.0)["status"] == "accepted"
    assert apps.statuses("a", "e") == {"learned"}
    assert apps.loop.service.model().learned_slots == before + 2


@pytest.mark.parametrize("other", OTHERS)
def test_feedback_that_comes_before_its_decision_waits_for_its_own(apps: Apps, other: str) -> None:
    assert apps.tell(other, "early", watch_s=100.0)["status"] == "pending"
    assert apps.call(other, "POST", "/v1/events/early/activate", {}).body["status"] == "pending"
    apps.rank("a", "early", defer_activation=True)
    apps.loop.end_windows()
    assert apps.statuses("a", "early") == {"not_activated"}
    assert apps.tell("a", "soon")["status"] == "pending"
    apps.rank("a", "soon")
    apps.loop.end_windows()
    assert apps.statuses("a", "soon") == {"learned"}


@pytest.mark.parametrize("other", OTHERS)
def test_another_app_cannot_activate(apps: Apps, other: str) -> None:
    apps.rank("a", "e", defer_activation=True)
    assert apps.call(other, "POST", "/v1/events/e/activate", {"shown": ["v9"]}).body["status"] == "pending"
    assert apps.call("a", "POST", "/v1/events/e/activate", {}).body == {
        "event_id": "e", "status": "activated", "learns": True,
    }  # fmt: skip


def test_only_admins_read_events_of_other_apps(apps: Apps) -> None:
    apps.rank("a", "e")
    assert apps.call("a2", "GET", "/v1/events/e").body["app"] == "a"
    for key, query in (("b", ""), ("b", "?app=a"), ("none", ""), ("none", "?app=a")):
        reply = apps.call(key, "GET", f"/v1/events/e{query}")
        assert (reply.status, reply.body["error"]["code"]) == (404, "unknown_decision")
    assert apps.call("admin", "GET", "/v1/events/e").body["app"] == "a"
    apps.rank("b", "e")
    assert apps.call("admin", "GET", "/v1/events/e?app=b").body["app"] == "b"
    assert apps.call("admin", "GET", "/v1/events/e?app=nobody").status == 404


@pytest.mark.parametrize("written", ["a%1Fe", "%1Fe", "a\x1fe"])
def test_no_id_leads_into_another_app(apps: Apps, written: str) -> None:
    apps.rank("a", "e")
    for key in ("none", "b"):
        assert apps.call(key, "GET", f"/v1/events/{written}").status == 404
        assert apps.call(key, "POST", f"/v1/events/{written}/activate", {}).status == 400
        assert apps.call(key, "POST", f"/personalizer/v1.0/events/{written}/reward", {"value": 1}).status == 400
        items = [{"id": "v1", "seen": True}]
        for event_id in ("a\x1fe", "\x1fe"):
            assert apps.call(key, "POST", "/v1/rank", {"event_id": event_id, "candidates": ["v1"]}).status == 400
            assert apps.call(key, "POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 400
            body = {"event_id": "e", "feedback_id": event_id, "items": items}
            assert apps.call(key, "POST", "/v1/feedback", body).status == 400


def test_the_same_ids_are_everybodys_own(apps: Apps) -> None:
    first = apps.rank("a", "e")
    other = apps.rank("b", "e", candidates=["w1", "w2"])
    assert {one["id"] for one in other["ranking"]} == {"w1", "w2"}
    assert apps.rank("a2", "e") == first, "a retry with another key of the app"
    assert apps.call("a2", "POST", "/v1/rank", {"event_id": "e", "candidates": ["x"]}).status == 409
    assert apps.tell("a", "e", feedback_id="f")["status"] == "accepted"
    assert apps.tell("b", "e", feedback_id="f", watch_s=1.0)["status"] == "accepted"
    again = apps.tell("a2", "e", feedback_id="f")
    assert (again["status"], again["feedback_id"]) == ("duplicate", "f")
    items = [{"id": "v1", "seen": True}]
    reply = apps.call("a", "POST", "/v1/feedback", {"event_id": "e", "feedback_id": "f", "items": items})
    assert reply.body["error"]["detail"]["feedback_ids"] == ["f"]


def test_ids_that_were_made_here_lead_back(apps: Apps) -> None:
    for key in ("a", "none"):
        made = apps.call(key, "POST", "/v1/rank", {"candidates": ["v1", "v2"]}).body["event_id"]
        assert made.isalnum()
        assert len(made) == 32
        assert apps.tell(key, made)["status"] == "accepted"
        assert apps.call(key, "GET", f"/v1/events/{made}").body["event_id"] == made


def test_a_viewer_of_two_apps_is_one_and_what_they_refuse_holds_in_both(apps: Apps) -> None:
    shown = apps.rank("a", "e", user={"id": "ann"})["ranking"][0]["id"]
    items = [{"id": shown, "signals": {"not_interested": 1}}]
    assert apps.call("a", "POST", "/v1/feedback", {"event_id": "e", "items": items}).status == 202
    told = apps.rank("b", "e", user={"id": "ann"}, slots=1, explain=True, candidates=[shown, "w1"])
    assert told["ranking"][0]["id"] == "w1"
    assert told["kept_out"][0]["rules"] == ["the viewer is not interested in this item"]


# ---------------------------------------------------------------- Personalizer's door


def test_rewards_of_another_app_join_nothing(apps: Apps) -> None:
    body = {"eventId": "e", "actions": [{"id": "v1", "features": [{"x": 1}]}, {"id": "v2", "features": [{"x": 2}]}]}
    ranked = {key: apps.call(key, "POST", "/personalizer/v1.0/rank", body) for key in ("a", "b", "a2")}
    assert {reply.status for reply in ranked.values()} == {201}
    assert {reply.body["eventId"] for reply in ranked.values()} == {"e"}
    assert ranked["a"].body == ranked["a2"].body
    assert apps.call("b", "POST", "/personalizer/v1.0/events/e/reward", {"value": 1.0}).status == 204
    apps.loop.end_windows()
    assert apps.call("a", "GET", "/v1/events/e").body["follow_ups"] == []
    assert len(apps.call("b", "GET", "/v1/events/e").body["follow_ups"]) == 1


def test_pages_are_everybodys_own(apps: Apps) -> None:
    rank, events = "/personalizer/v1.1-preview.1/multislot/rank", "/personalizer/v1.1-preview.1/multislot/events"
    body = {
        "eventId": "p",
        "actions": [{"id": "v1", "features": [{"x": 1}]}, {"id": "v2", "features": [{"x": 2}]}],
        "slots": [{"id": "s1", "baselineAction": "v1"}, {"id": "s2", "baselineAction": "v2"}],
    }
    first = apps.call("a", "POST", rank, body)
    assert (first.status, first.body["eventId"]) == (201, "p")
    assert apps.call("a2", "POST", rank, body).body == first.body
    reward = {"reward": [{"slotId": "s1", "value": 1.0}]}
    assert apps.call("b", "POST", f"{events}/p/reward", reward).status == 204
    assert apps.call("a", "GET", "/v1/events/p%23s1").body["follow_ups"] == []
    assert apps.call("b", "GET", "/v1/events/p%23s1").status == 404
    strange = apps.call("a", "POST", f"{events}/p/reward", {"reward": [{"slotId": "s9", "value": 1.0}]})
    assert strange.body["error"]["detail"]["slots"] == ["p#s1", "p#s2"]
    assert apps.call("a", "POST", f"{events}/p/reward", reward).status == 204
    assert len(apps.call("a", "GET", "/v1/events/p%23s1").body["follow_ups"]) == 1


# ---------------------------------------------------------------- the log


def test_what_two_apps_taught_is_rebuilt_byte_for_byte(apps: Apps) -> None:
    for k in range(4):
        for key, watch_s in (("a", 3.0), ("b", 40.0)):
            apps.tell("none", f"e{k}", watch_s=90.0)
            apps.rank(key, f"e{k}")
            apps.tell(key, f"e{k}", watch_s=watch_s)
            apps.loop.learn()
    apps.loop.end_windows()
    found = rebuild(apps.loop.data.path)
    assert found.mismatch is None
    assert found.learned == 16
    assert found.matched == found.published > 8


def test_an_erased_viewer_is_erased_in_every_app(apps: Apps) -> None:
    for key in ("a", "none"):
        apps.rank(key, "e", user={"id": "ann"})
        apps.tell(key, "e")
    apps.loop.service.erase("ann", wait_s=0.0)
    apps.loop.end_windows()
    kinds = "SELECT kind FROM log WHERE kind IN ('decision', 'feedback', 'activation')"
    assert apps.loop.data.log.query(kinds) == []


def test_without_keys_ids_stand_as_they_are(loop: Loop, api: Api) -> None:
    api.call("POST", "/v1/rank", {"event_id": "e", "candidates": ["v1"]})
    api.call("POST", "/v1/feedback", {"event_id": "e", "feedback_id": "f", "items": [{"id": "v1", "seen": True}]})
    api.call("POST", "/v1/events/e/activate", {})
    rows = loop.data.log.query("SELECT kind, event_id, feedback_id FROM log WHERE event_id IS NOT NULL ORDER BY pos")
    assert rows == [("decision", "e", None), ("feedback", "e", "f"), ("activation", "e", None)]


def test_what_was_decided_without_keys_is_the_app_without_a_name(apps: Apps) -> None:
    assert apps.rank("none", "e")
    assert apps.loop.service.event("e").app == ""
    assert apps.loop.data.log.query("SELECT event_id FROM log WHERE kind = 'decision'") == [("e",)]


def test_the_views_tell_the_app_apart_from_the_id(apps: Apps) -> None:
    for key in ("a", "none"):
        apps.rank(key, "e")
        apps.tell(key, "e", feedback_id="f")
    database = Database(apps.loop.data.log.path)
    for view, columns in (("decisions", "app, event_id"), ("slots", "app, event_id"),
                          ("feedback", "app, event_id, feedback_id")):  # fmt: skip
        rows = {tuple(row.values()) for row in database.query(f"SELECT {columns} FROM {view}")}
        assert rows == {("a", "e", "f")[: columns.count(",") + 1], ("", "e", "f")[: columns.count(",") + 1]}
    database.conn.close()
