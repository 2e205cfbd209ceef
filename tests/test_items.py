"""The catalogue over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Api, Loop
from tests.service import RunningService


def put(api: Api | RunningService, *items: dict[str, Any]) -> Any:
    reply = api.call("PUT", "/v1/items", {"items": list(items)})
    return reply.status, reply.body


def test_new_and_changed_items_are_counted_apart_from_unchanged_ones(api: Api, loop: Loop) -> None:
    a, b = {"id": "a", "features": {"x": 1}}, {"id": "b"}
    assert put(api, a, b) == (200, {"upserted": 2, "unchanged": 0})
    records = loop.data.log.last_position()
    assert put(api, a, b) == (200, {"upserted": 0, "unchanged": 2})
    assert loop.data.log.last_position() == records
    assert put(api, {"id": "a", "features": {"x": 2}}, b) == (200, {"upserted": 1, "unchanged": 1})


def test_an_item_is_read_as_it_was_put(api: Api, loop: Loop) -> None:
    features = {"x": 1.5, "name": 'q"uo\\te\n|:', "tags": ["ä", "😀"], "sound": {"bpm": 90}}
    put(api, {"id": "a", "features": features}, {"id": "b"})
    assert api.call("GET", "/v1/items/a").body == {
        "id": "a", "features": features, "withdrawn": False, "updated_at": loop.clock.now,
    }  # fmt: skip
    assert api.call("GET", "/v1/items/b").body["features"] == {}


def test_new_features_replace_all_the_old_ones(api: Api) -> None:
    put(api, {"id": "a", "features": {"x": 1, "y": 2}})
    put(api, {"id": "a", "features": {"z": 3}})
    assert api.call("GET", "/v1/items/a").body["features"] == {"z": 3}


def test_a_distinct_feature_set_is_stored_once(api: Api, loop: Loop) -> None:
    for x in (1, 2, 1, 2, 1):
        put(api, {"id": "a", "features": {"x": x}})
    for _ in range(3):
        api.call("POST", "/v1/rank", {"candidates": [{"id": "a", "features": {"x": 1}}, {"id": "b"}]})
    assert loop.data.log.query("SELECT count(*) FROM item_versions") == [(3,)]


def test_a_withdrawn_item_is_not_ranked_and_returns_when_put_again(api: Api) -> None:
    put(api, {"id": "a", "features": {"x": 1}}, {"id": "b"})

    def ranked() -> list[str]:
        body = api.call("POST", "/v1/rank", {"candidates": ["a", "b", {"id": "c"}]}).body
        return sorted(placed["id"] for placed in body["ranking"])

    assert ranked() == ["a", "b", "c"]
    reply = api.call("DELETE", "/v1/items/a")
    assert (reply.status, reply.content) == (204, b"")
    assert ranked() == ["b", "c"]
    assert api.call("GET", "/v1/items/a").body["withdrawn"] is True
    assert api.call("DELETE", "/v1/items/a").status == 204
    assert put(api, {"id": "a", "features": {"x": 1}}) == (200, {"upserted": 1, "unchanged": 0})
    assert ranked() == ["a", "b", "c"]


def test_a_withdrawn_item_is_not_ranked_with_inline_features_either(api: Api) -> None:
    put(api, {"id": "a"})
    inline = {"id": "a", "features": {"x": 1}}
    assert len(api.call("POST", "/v1/rank", {"candidates": [inline, "b"]}).body["ranking"]) == 2
    api.call("DELETE", "/v1/items/a")
    body = api.call("POST", "/v1/rank", {"candidates": [inline, "b"]}).body
    assert [placed["id"] for placed in body["ranking"]] == ["b"]
    reply = api.call("POST", "/v1/rank", {"candidates": ["a"]})
    assert (reply.status, reply.body["error"]["detail"]) == (400, {"withdrawn": 1})


def test_changed_features_are_scored_from_the_next_request_on(api: Api, loop: Loop) -> None:
    put(api, {"id": "a", "features": {"genre": "good"}}, {"id": "b", "features": {"genre": "bad"}})
    for _ in range(20):
        ranking = api.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).body
        items = [{"id": k, "reward": float(k == "a"), "seen": True, "final": True} for k in "ab"]
        api.call("POST", "/v1/feedback", {"event_id": ranking["event_id"], "items": items})
    loop.learn()

    def score(item: str | dict[str, Any]) -> float:
        value: float = api.call("POST", "/v1/rank", {"candidates": [item]}).body["ranking"][0]["score"]
        return value

    put(api, {"id": "c", "features": {"genre": "bad"}})
    before = score("c")
    assert before == pytest.approx(score({"id": "c", "features": {"genre": "bad"}}))
    put(api, {"id": "c", "features": {"genre": "good"}})
    assert score("c") > before + 0.1


def test_items_nobody_put_are_not_found(api: Api) -> None:
    api.call("POST", "/v1/rank", {"candidates": ["only ranked"]})
    for method in ("GET", "DELETE"):
        for item_id in ("nobody", "only%20ranked", "x" * 300, "%00"):
            reply = api.call(method, f"/v1/items/{item_id}")
            assert (reply.status, reply.body["error"]["code"]) == (404, "unknown_item")


def test_ids_of_any_printable_text_are_put_read_and_withdrawn(api: Api) -> None:
    ids = ["a b", "/videos/1", "a//b/", "..", "?x=1#y", "%2F", "ä€😀", '"\\|:', "x" * 256]
    put(api, *({"id": one} for one in ids))
    for item_id in ids:
        path = f"/v1/items/{quote(item_id, safe='')}"
        assert api.call("GET", path).body["id"] == item_id
        assert api.call("DELETE", path).status == 204
        assert api.call("GET", path).body["withdrawn"] is True


def test_all_items_are_checked_before_the_first_is_stored(api: Api, loop: Loop) -> None:
    good = [{"id": f"v{k}"} for k in range(600)]
    for bad, told in (
        ({"id": "bad", "features": {"x": 1e9}}, "items[600].features.x"),
        ({"id": "bad", "features": {"x": None}}, "items[600].features"),
        ({"id": "bad", "features": [1]}, "items[600].features"),
        ({"id": "bad", "features": {"a": {"b": {"c": 1}}}}, "items[600].features"),
        ({"id": "v0"}, "'v0'"),
        ({"id": "bad\n"}, "control character"),
        ({"id": ""}, "$.items[600].id"),
        ({"id": "bad", "feature": {}}, "feature"),
    ):
        status, body = put(api, *good, bad)
        assert status == 400, bad
        assert told in body["error"]["message"], bad
    assert loop.data.log.query("SELECT count(*) FROM items") == [(0,)]


def test_a_feature_given_twice_is_refused_before_it_can_spoil_rankings(api: Api) -> None:
    twice = b'{"items": [{"id": "a", "features": {"x": 1, "x": 2}}]}'
    reply = api.call("PUT", "/v1/items", twice)
    assert reply.status == 400
    assert "twice" in reply.body["error"]["message"]
    assert api.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).status == 200


def test_more_items_than_a_call_may_hold_are_refused(api: Api) -> None:
    assert put(api, *({"id": f"v{k}"} for k in range(10_001)))[0] == 400
    assert put(api)[0] == 400


def test_ten_thousand_items_fit_in_one_call(api: Api) -> None:
    items = [{"id": f"v{k}", "features": {"genre": f"g{k % 7}", "length_s": k % 60}} for k in range(10_000)]
    assert put(api, *items) == (200, {"upserted": 10_000, "unchanged": 0})


def test_a_withdrawal_holds_from_the_next_request_on_in_every_worker(running: RunningService) -> None:
    ids = [f"take{k}" for k in range(6)]
    put(running, *({"id": one} for one in ids))
    for _ in range(8):
        assert len(running.call("POST", "/v1/rank", {"candidates": ids}).body["ranking"]) == 6
    for gone in range(5):
        assert running.call("DELETE", f"/v1/items/take{gone}").status == 204
        for _ in range(8):
            body = running.call("POST", "/v1/rank", {"candidates": ids}).body
            assert sorted(placed["id"] for placed in body["ranking"]) == ids[gone + 1 :]
    put(running, *({"id": one} for one in ids))
    for _ in range(8):
        assert len(running.call("POST", "/v1/rank", {"candidates": ids}).body["ranking"]) == 6
