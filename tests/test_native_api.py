"""Ranking over HTTP, decisions and their stories, and what the service says of itself."""

from __future__ import annotations

import json
from urllib.parse import quote

import numpy as np
import pytest

from bandit import records
from bandit.service import Service
from bandit.store.data import DataDirectory
from bandit.store.events import find_decision
from bandit.web.app import create_app
from tests.conftest import Api, Clock, Loop, watch_worth
from tests.service import RunningService


def put(api: Api, *ids: str, **features: object) -> None:
    reply = api.call("PUT", "/v1/items", {"items": [{"id": one, "features": features} for one in ids]})
    assert reply.status == 200


def ids_of(ranking: dict) -> list[str]:
    return [placed["id"] for placed in ranking["ranking"]]


# ---------------------------------------------------------------- the reply


def test_a_ranking_says_all_that_made_it(api: Api) -> None:
    put(api, "v1", "v2", genre="a")
    reply = api.call("POST", "/v1/rank", {"candidates": ["v1", "v2", "v3"], "user": {"id": "u1"}})
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    body = reply.body
    assert set(body) == {
        "event_id", "ranking", "model_version", "config_version", "policy", "scored", "unknown", "fallback",
        "relaxed",
    }  # fmt: skip
    assert [placed["slot"] for placed in body["ranking"]] == [0, 1, 2]
    assert sorted(ids_of(body)) == ["v1", "v2", "v3"]
    assert all(set(placed) == {"slot", "id", "propensity", "score"} for placed in body["ranking"])
    assert body["model_version"] == api.call("GET", "/v1/model").body["version"]
    assert (body["config_version"], body["policy"], body["scored"]) == (1, "squarecb", 3)
    assert (body["unknown"], body["fallback"]) == (["v3"], None)


def test_propensities_are_of_each_slot_given_the_slots_above(api: Api) -> None:
    # All scores of an empty model are equal, so every draw among the rest is uniform.
    body = api.call("POST", "/v1/rank", {"candidates": [f"v{k}" for k in range(4)]}).body
    assert [placed["propensity"] for placed in body["ranking"]] == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])


def test_slots_default_to_the_config_and_can_be_asked_for(api: Api) -> None:
    candidates = [f"v{k}" for k in range(30)]
    assert len(api.call("POST", "/v1/rank", {"candidates": candidates}).body["ranking"]) == 10
    assert len(api.call("POST", "/v1/rank", {"candidates": candidates, "slots": 3}).body["ranking"]) == 3
    assert len(api.call("POST", "/v1/rank", {"candidates": candidates[:2], "slots": 9}).body["ranking"]) == 2


def test_every_ranking_without_an_event_id_gets_one_of_its_own(api: Api) -> None:
    found = {api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"] for _ in range(50)}
    assert len(found) == 50


def test_excluded_candidates_are_not_ranked(api: Api) -> None:
    body = api.call("POST", "/v1/rank", {"candidates": ["a", "b", "c"], "exclude": ["b", "not there"]}).body
    assert sorted(ids_of(body)) == ["a", "c"]
    story = api.call("GET", f"/v1/events/{body['event_id']}").body
    assert story["ineligible"] == {"excluded": 1}


def test_nothing_left_to_rank_is_refused(api: Api) -> None:
    reply = api.call("POST", "/v1/rank", {"candidates": ["a"], "exclude": ["a"]})
    assert (reply.status, reply.body["error"]["code"]) == (400, "empty_slate")
    assert reply.body["error"]["detail"] == {"excluded": 1}


def test_a_candidate_that_stands_twice_is_refused(api: Api) -> None:
    for candidates in (["a", "b", "a"], ["a", {"id": "a"}], [{"id": "a", "features": {"x": 1}}, "a"]):
        reply = api.call("POST", "/v1/rank", {"candidates": candidates})
        assert reply.status == 400
        assert "'a'" in reply.body["error"]["message"]


def test_unknown_ids_rank_by_their_id_alone_and_are_told(api: Api) -> None:
    put(api, "known", genre="a")
    candidates = ["known", "new", {"id": "inline", "features": {"genre": "b"}}, {"id": "bare"}]
    assert api.call("POST", "/v1/rank", {"candidates": candidates}).body["unknown"] == ["new", "bare"]


def test_inline_features_never_alter_the_catalogue(api: Api, loop: Loop) -> None:
    put(api, "v1", genre="a")
    inline = {"id": "v1", "features": {"genre": "b"}}
    event_id = api.call("POST", "/v1/rank", {"candidates": [inline]}).body["event_id"]
    api.call("POST", "/v1/rank", {"candidates": [{"id": "v2", "features": {"genre": "b"}}]})
    assert api.call("GET", "/v1/items/v1").body["features"] == {"genre": "a"}
    assert api.call("GET", "/v1/items/v2").status == 404
    assert api.call("POST", "/v1/rank", {"candidates": ["v2"]}).body["unknown"] == ["v2"]
    # Each ranking holds the version that it was ranked with.
    bare = api.call("POST", "/v1/rank", {"candidates": ["v1"]}).body["event_id"]
    versions = []
    for one in (event_id, bare):
        found = find_decision(loop.data.log, one)
        assert found is not None
        versions.append(int(np.frombuffer(found.candidates, np.uint32)[0]))
    texts = dict(loop.data.log.query("SELECT version, features FROM item_versions"))
    assert [json.loads(texts[version]) for version in versions] == [{"genre": "b"}, {"genre": "a"}]


def test_all_kinds_of_features_are_taken(api: Api) -> None:
    features = {"s": "x", "i": 3, "f": -0.5, "yes": True, "no": False, "tags": ["p", "q"], "sound": {"bpm": 120}}
    put(api, "v1", **features)
    request = {
        "candidates": ["v1", {"id": "v2", "features": features}],
        "user": {"id": "u1", "features": features},
        "context": {"hour": 18, "device": {"os": "x"}},
    }
    assert api.call("POST", "/v1/rank", request).status == 200
    assert api.call("GET", "/v1/items/v1").body["features"] == features


def test_learned_features_move_the_scores(api: Api, loop: Loop) -> None:
    put(api, "good", "bad")
    config = api.call("GET", "/v1/config").body | {"explorer": {"kind": "greedy"}, "floor": 0.0}
    api.call("PUT", "/v1/config", config, headers={"If-Match": '"1"'})
    # Two rounds: what an item earns is a column of the second one, and what that is worth is learned there.
    for _ in range(2):
        for _ in range(10):
            event_id = api.call("POST", "/v1/rank", {"candidates": ["good", "bad"]}).body["event_id"]
            items = [
                {"id": "good", "reward": 1, "seen": True, "final": True},
                {"id": "bad", "reward": 0, "seen": True, "final": True},
            ]
            assert api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202
        loop.learn()
    body = api.call("POST", "/v1/rank", {"candidates": ["bad", "good"]}).body
    assert ids_of(body) == ["good", "bad"]
    assert body["ranking"][0]["score"] > body["ranking"][1]["score"] + 0.2
    assert body["ranking"][0]["propensity"] == 1.0


# ---------------------------------------------------------------- event ids


def test_a_repeated_event_id_with_the_same_body_gets_the_same_ranking(api: Api, loop: Loop) -> None:
    request = {"event_id": "e1", "candidates": [f"v{k}" for k in range(50)], "context": {"hour": 3}}
    first = api.call("POST", "/v1/rank", request)
    loop.learn()
    assert api.call("POST", "/v1/rank", request).body == first.body
    assert loop.data.log.query("SELECT count(*) FROM log WHERE kind = 'decision'") == [(1,)]


def test_a_repeated_event_id_with_another_body_is_a_conflict(api: Api) -> None:
    assert api.call("POST", "/v1/rank", {"event_id": "e1", "candidates": ["a", "b"]}).status == 200
    for other in (
        {"event_id": "e1", "candidates": ["b", "a"]},
        {"event_id": "e1", "candidates": ["a", "b"], "slots": 1},
        {"event_id": "e1", "candidates": ["a", {"id": "b"}]},
    ):
        reply = api.call("POST", "/v1/rank", other)
        assert (reply.status, reply.body["error"]["code"]) == (409, "id_conflict")


def test_an_event_id_that_the_service_gave_is_no_id_for_a_new_request(api: Api) -> None:
    event_id = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
    assert api.call("POST", "/v1/rank", {"event_id": event_id, "candidates": ["a"]}).status == 409


def test_the_same_event_id_draws_the_same_in_another_process(data: DataDirectory, loop: Loop) -> None:
    # The draw comes from the event id and the directory's secret alone.
    ranked = loop.service.ranker.rank
    request = records.decode(
        json.dumps({"event_id": "e1", "candidates": [f"v{k}" for k in range(40)]}).encode(), records.RankRequest
    )
    assert ranked(request).reply.ranking == Service(data).ranker.rank(request).reply.ranking


def test_a_repeated_event_id_gets_the_same_ranking_at_every_worker(running: RunningService) -> None:
    request = {"event_id": "same at all", "candidates": [f"w{k}" for k in range(60)], "user": {"id": "u"}}
    first = running.call("POST", "/v1/rank", request).body
    # Each over a connection of its own: all at one worker would be a chance of 1 in 2 ** 15.
    for _ in range(16):
        assert running.call("POST", "/v1/rank", request).body == first
        assert running.call("POST", "/v1/rank", request | {"slots": 2}).status == 409


# ---------------------------------------------------------------- deadlines


class Ticking:
    """A monotonic clock that moves on by ``step_s`` whenever it is read."""

    def __init__(self, step_s: float) -> None:
        self.now = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def test_a_deadline_that_passes_leaves_candidates_unscored_with_true_propensities(loop: Loop) -> None:
    ranker = loop.service.ranker
    ranker._monotonic = Ticking(0.001)
    body = {"event_id": "e", "candidates": [f"v{k}" for k in range(1_000)], "deadline_ms": 4}
    ranked = ranker.rank(records.decode(json.dumps(body).encode(), records.RankRequest))
    assert 0 < ranked.reply.scored < 1_000
    assert ranked.reply.fallback is None
    for placed in ranked.reply.ranking:
        assert 0.02 / 1_000 <= placed.propensity <= 1.0


def test_a_deadline_that_has_passed_falls_back_on_the_callers_order(api: Api) -> None:
    body = {"candidates": [f"v{k}" for k in range(1_000)], "deadline_ms": 0.000001}
    reply = api.call("POST", "/v1/rank", body).body
    assert (reply["fallback"], reply["policy"], reply["scored"]) == ("deadline", "caller_order", 0)
    assert all(placed["score"] is None and 0 < placed["propensity"] <= 1 for placed in reply["ranking"])
    assert reply["model_version"] is None


def test_a_generous_deadline_changes_nothing(api: Api) -> None:
    reply = api.call("POST", "/v1/rank", {"candidates": ["a", "b"], "deadline_ms": 60_000}).body
    assert (reply["scored"], reply["fallback"]) == (2, None)


# ---------------------------------------------------------------- fallbacks


def test_without_a_model_the_callers_order_is_explored(data: DataDirectory, clock: Clock) -> None:
    service = Service(data, clock=clock)
    api = Api(create_app(service).test_client())
    candidates = [f"v{k}" for k in range(5)]
    firsts = []
    for _ in range(200):
        body = api.call("POST", "/v1/rank", {"candidates": candidates}).body
        assert (body["fallback"], body["model_version"], body["policy"]) == ("no_model", None, "caller_order")
        firsts.append(body["ranking"][0])
    # 0.98 of epsilon-greedy (0.9 + 0.1 / 5) and 0.02 of uniform.
    for first in firsts:
        best = first["id"] == "v0"
        assert first["propensity"] == pytest.approx(0.98 * (0.92 if best else 0.02) + 0.004)
    assert sum(first["id"] == "v0" for first in firsts) > 150
    assert api.call("GET", "/readyz").status == 503
    assert api.call("GET", "/healthz").body["status"] == "degraded"


# ---------------------------------------------------------------- an event's story


def test_the_story_of_a_decision_before_and_after_it_is_learned(api: Api, loop: Loop) -> None:
    put(api, "a", "b", "c")
    ranking = api.call(
        "POST", "/v1/rank", {"candidates": ["a", "b", "c"], "user": {"id": "u1"}, "context": {"hour": 7}}
    ).body
    event_id = ranking["event_id"]
    story = api.call("GET", f"/v1/events/{event_id}").body
    assert (story["event_id"], story["user"], story["n_candidates"], story["scored"]) == (event_id, "u1", 3, 3)
    assert story["at"] == loop.clock.now
    assert story["window_ends_at"] == pytest.approx(story["at"] + 600)
    assert story["shared"] == {"C": {"hour": 7}, "S": {"slot": "0"}, "U": {"id": "u1"}}
    assert (story["model_version"], story["config_version"]) == (ranking["model_version"], 1)
    assert [slot["status"] for slot in story["slots"]] == ["open"] * 3
    assert [(slot["id"], slot["propensity"]) for slot in story["slots"]] == [
        (placed["id"], placed["propensity"]) for placed in ranking["ranking"]
    ]
    second = ids_of(ranking)[1]
    items = [{"id": second, "signals": {"watch_s": 30, "like": 1}}]
    api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items})
    loop.end_windows()
    story = api.call("GET", f"/v1/events/{event_id}").body
    assert [slot["status"] for slot in story["slots"]] == ["learned", "learned", "unseen"]
    assert [slot["evidence"] for slot in story["slots"]] == ["cascade", "signal:watch_s", None]
    assert [slot["reward"] for slot in story["slots"]] == [0.0, 1 + watch_worth(30), None]
    assert [slot["weight"] for slot in story["slots"]] == [1.0, 1.0, None]
    assert story["slots"][1]["learned_at"] >= story["window_ends_at"]
    assert story["slots"][1]["model"] == api.call("GET", "/v1/model").body["version"]
    assert [(one["kind"], one["late"]) for one in story["follow_ups"]] == [("feedback", False)]
    assert story["follow_ups"][0]["body"]["items"] == items


def test_final_feedback_is_learned_before_the_window_ends(api: Api, loop: Loop) -> None:
    ranking = api.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).body
    first = ids_of(ranking)[0]
    item = {"id": first, "signals": {"watch_s": 60}, "final": True}
    api.call("POST", "/v1/feedback", {"event_id": ranking["event_id"], "items": [item]})
    loop.learn()
    slots = api.call("GET", f"/v1/events/{ranking['event_id']}").body["slots"]
    assert [slot["status"] for slot in slots] == ["learned", "open"]
    assert slots[0]["reward"] == watch_worth(60)


def test_a_decision_without_feedback_is_unseen(api: Api, loop: Loop) -> None:
    event_id = api.call("POST", "/v1/rank", {"candidates": ["a", "b"]}).body["event_id"]
    loop.end_windows()
    story = api.call("GET", f"/v1/events/{event_id}").body
    assert [slot["status"] for slot in story["slots"]] == ["unseen", "unseen"]


def test_the_story_of_an_event_nobody_ranked_is_not_found(api: Api) -> None:
    api.call("POST", "/v1/feedback", {"event_id": "only fed back", "items": [{"id": "a"}]})
    for event_id in ("nobody", "only%20fed%20back", "e/with/slashes", "%2Fx", "%00", "%0A", "%FF"):
        reply = api.call("GET", f"/v1/events/{event_id}")
        assert (reply.status, reply.body["error"]["code"]) == (404, "unknown_decision"), event_id


def test_ids_of_any_printable_text_find_their_event(api: Api) -> None:
    for event_id in ("a b", "a/b", "/a", "a//b", "a?b=c", "a#b", "%41", "ä€😀", "a/activate", "..", '"', "a|b:c"):
        assert api.call("POST", "/v1/rank", {"event_id": event_id, "candidates": ["a"]}).status == 200
        reply = api.call("GET", f"/v1/events/{quote(event_id, safe='')}")
        assert (reply.status, reply.body["event_id"]) == (200, event_id), event_id


# ---------------------------------------------------------------- what the service says of itself


def test_the_model_reply_says_how_far_learning_has_come(api: Api, loop: Loop) -> None:
    before = api.call("GET", "/v1/model").body
    assert before["learned_slots"] == 0
    assert before["problem"] is None
    assert before["arguments"] == loop.data.args.text
    ranking = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body
    item = {"id": "a", "reward": 1, "seen": True, "final": True}
    api.call("POST", "/v1/feedback", {"event_id": ranking["event_id"], "items": [item]})
    behind = api.call("GET", "/v1/model").body
    assert behind["lag_records"] >= 2
    loop.learn()
    after = api.call("GET", "/v1/model").body
    assert (after["learned_slots"], after["published_at"]) == (1, loop.clock.now)
    assert after["version"] != before["version"]
    assert after["position"] > before["position"]
    assert after["trainer_position"] <= after["log_position"]


def test_health_tells_of_a_silent_trainer(api: Api, clock: Clock) -> None:
    assert api.call("GET", "/healthz").body == {"status": "ok"}
    assert (api.call("GET", "/readyz").status, api.call("GET", "/readyz").body) == (200, {"status": "ok"})
    clock.pass_(45)
    health = api.call("GET", "/healthz")
    assert (health.status, health.body["status"]) == (200, "degraded")
    assert "trainer" in health.body["problems"][0]
    assert api.call("GET", "/readyz").status == 200


def test_metrics_are_in_prometheus_text_and_count_requests(running: RunningService) -> None:
    def counted() -> dict[str, float]:
        reply = running.call("GET", "/metrics")
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith("text/plain")
        lines = [line for line in reply.content.decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    before = counted()
    for _ in range(10):
        assert running.call("POST", "/v1/rank", {"candidates": ["a", "b", "c"]}).status == 200
    assert running.call("POST", "/v1/rank", {"candidates": []}).status == 400
    after = counted()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    # Summed over both workers.
    assert grown('feed_bandit_requests_total{route="/v1/rank",status="200"}') == 10
    assert grown('feed_bandit_requests_total{route="/v1/rank",status="400"}') == 1
    assert grown('feed_bandit_candidates_total{scored="yes"}') == 30
    assert grown('feed_bandit_request_seconds_count{route="/v1/rank"}') == 10
    assert after["feed_bandit_log_available"] == 1
    assert after["feed_bandit_log_position"] >= 10


def test_unknown_paths_and_methods_are_refused_in_the_one_shape(api: Api) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404), ("GET", "/v1", 404), ("GET", "/v1/events/", 404), ("POST", "/v1/rank/", 404),
        ("GET", "/v1/rank", 405), ("DELETE", "/v1/config", 405), ("POST", "/v1/items/x", 405),
        ("PUT", "/healthz", 405), ("BREW", "/v1/rank", 405), ("TRACE", "/metrics", 405),
    ):  # fmt: skip
        reply = api.call(method, path)
        assert reply.status == status, (method, path)
        assert set(reply.body) == {"error"}
        if status == 405:
            assert reply.headers["Allow"]


def test_a_body_may_come_in_chunks_of_unknown_length(running: RunningService) -> None:
    body = json.dumps({"candidates": ["a", "b"]}).encode()
    connection = running.connect()
    try:
        connection.request("POST", "/v1/rank", iter([body[:7], body[7:]]))
        response = connection.getresponse()
        assert (response.status, len(json.loads(response.read())["ranking"])) == (200, 2)
    finally:
        connection.close()


