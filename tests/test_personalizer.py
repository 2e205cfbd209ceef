"""Personalizer's routes over HTTP, as their clients' words and ours meet; see also the tests with official clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vowpalwabbit import Workspace

from tests.conftest import Api, Loop

V1 = "/personalizer/v1.0"
ACTIONS: list[dict[str, Any]] = [
    {"id": "news", "features": [{"topic": "news"}]},
    {"id": "cats", "features": [{"topic": "cats"}, {"made": {"by": "kari", "year": 2024}}]},
    {"id": "diy", "features": [{"topic": "diy"}]},
]


def rank(api: Api, **more: Any) -> Any:
    reply = api.call("POST", f"{V1}/rank", {"actions": ACTIONS, **more})
    assert reply.status == 201, reply.content
    return reply.body


# ---------------------------------------------------------------- ranking


def test_all_actions_come_back_and_the_first_is_rewarded(api: Api) -> None:
    found = rank(api, eventId="e1", contextFeatures=[{"user": {"plan": "free"}}, {"hour": "9"}])
    assert found["eventId"] == "e1"
    assert sorted(one["id"] for one in found["ranking"]) == ["cats", "diy", "news"]
    assert found["ranking"][0]["id"] == found["rewardActionId"]
    assert sum(one["probability"] for one in found["ranking"]) == pytest.approx(1.0, abs=1e-12)


def test_probabilities_are_what_was_drawn_with(api: Api, loop: Loop) -> None:
    found = rank(api, eventId="e1")
    story = api.call("GET", "/v1/events/e1").body
    assert found["ranking"][0]["probability"] == story["slots"][0]["propensity"]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_what_is_excluded_keeps_its_place(api: Api, at: int) -> None:
    found = rank(api, excludedActions=[ACTIONS[at]["id"]])
    assert found["ranking"][at] == {"id": ACTIONS[at]["id"], "probability": 0.0}
    assert found["rewardActionId"] == found["ranking"][1 if at == 0 else 0]["id"]
    assert sum(one["probability"] for one in found["ranking"]) == pytest.approx(1.0, abs=1e-12)


def test_an_event_id_gives_the_same_ranking_again(api: Api) -> None:
    first = rank(api, eventId="e1", excludedActions=["diy"])
    assert rank(api, eventId="e1", excludedActions=["diy"]) == first
    other = api.call("POST", f"{V1}/rank", {"actions": ACTIONS[:2], "eventId": "e1"})
    assert (other.status, other.body["error"]["code"]) == (409, "id_conflict")


def test_without_an_event_id_one_is_made(api: Api) -> None:
    assert rank(api)["eventId"] != rank(api, eventId=None, contextFeatures=None, deferActivation=None)["eventId"]


# ---------------------------------------------------------------- features


@pytest.mark.parametrize(
    "features",
    [
        {"topic": "cats"},
        None,
        [],
        [None, {"a": None}],
        [{"id": "an id of its own", "_hidden": 5, "namespace": {"C": {"S": "x"}}}],
        [{"vector": [0.5, 1, 2], "words": ["a", "b"], "nested": {"of": [{"x": "1"}, {"x": "2"}]}}],
        [{"ø": "å", "text": "long " * 200, "flag": False, "n": -0.5}],
        [{"tags": ["a"], "creator": 7, "sound": {"s": "1"}, "length_s": "twelve", "language": True, "group": 1.5}],
    ],
)
def test_what_personalizer_takes_as_features_is_taken(api: Api, features: Any) -> None:
    actions = [{"id": "a", "features": features}, {"id": "b", "features": [{"x": "y"}]}, {"id": "c"}]
    found = rank(api, actions=actions, contextFeatures=features, eventId="e1")
    assert rank(api, actions=actions, contextFeatures=features, eventId="e1") == found


@pytest.mark.parametrize(
    ("features", "named"),
    [
        ("text", "actions[1].features"),
        ([{"a": 1}, 7], "actions[1].features[1]"),
        ([{"m": [[1, 2], [3, 4]]}], "'m'"),
        ([{"a": 1}, {"a": "x"}], "'a'"),
        ([{"n": 1e9}], "1000000000"),
        ([{"a\u0000b": "x"}], "NUL"),
        ([{"": "x"}], "empty name"),
        ([{f"f{n}": n for n in range(1, 600)}], "512"),
    ],
)
def test_features_that_cannot_be_learned_are_named(api: Api, features: Any, named: str) -> None:
    actions = [{"id": "a"}, {"id": "b", "features": features}]
    reply = api.call("POST", f"{V1}/rank", {"actions": actions})
    assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_features"), reply.content
    assert named in reply.body["error"]["message"]
    in_context = api.call("POST", f"{V1}/rank", {"actions": ACTIONS, "contextFeatures": features})
    assert in_context.status == 400, in_context.content
    assert "contextFeatures" in in_context.body["error"]["message"]


def test_context_and_actions_are_crossed(api: Api, loop: Loop) -> None:
    """Whatever the namespaces are called: a reward that only both together tell is learned."""
    put(api, rewardAggregation="earliest")
    for number in range(60):
        plan = ("free", "paid")[number % 2]
        found = rank(api, eventId=f"e{number}", contextFeatures=[{"user": {"plan": plan}}])
        reward(api, f"e{number}", float(found["rewardActionId"] == {"free": "cats", "paid": "diy"}[plan]))
    loop.end_windows()
    for plan, best in (("free", "cats"), ("paid", "diy")):
        found = rank(api, contextFeatures=[{"user": {"plan": plan}}])
        assert max(found["ranking"], key=lambda one: one["probability"])["id"] == best


# ---------------------------------------------------------------- rewards


def reward(api: Api, event_id: str, value: float) -> None:
    reply = api.call("POST", f"{V1}/events/{event_id}/reward", {"value": value})
    assert (reply.status, reply.content) == (204, b"")


def put(api: Api, **settings: Any) -> Any:
    reply = api.call("PUT", f"{V1}/configurations/service", settings)
    assert reply.status == 200, reply.content
    return reply.body


def learned(api: Api, event_id: str) -> tuple[str, float | None]:
    (slot,) = api.call("GET", f"/v1/events/{event_id}").body["slots"]
    return slot["status"], slot["reward"]


@pytest.mark.parametrize(
    ("how", "worth"),
    [("earliest", -0.5), ("average", -0.425), ("median", -0.45), ("sum", -1.7), ("min", -0.8), ("max", 0.0)],
)
def test_several_rewards_become_one(api: Api, loop: Loop, how: str, worth: float) -> None:
    put(api, rewardAggregation=how, defaultReward=0.25)
    for event_id in ("e1", "e2", "e3"):
        rank(api, eventId=event_id)
    for value in (-0.5, 0.0, -0.8, -0.4):
        reward(api, "e1", value)
    reward(api, "e2", 0.0)
    loop.end_windows()
    assert learned(api, "e1")[1] == pytest.approx(worth, abs=1e-12)
    assert learned(api, "e2") == ("learned", 0.0), "a reward of nothing is a reward"
    assert learned(api, "e3") == ("learned", 0.25), "none came"


def test_rewards_count_as_they_came_on_either_side_of_the_ranking(api: Api, loop: Loop) -> None:
    put(api, rewardAggregation="sum")
    reward(api, "e1", 0.25)
    reward(api, "e1", -1.0)
    rank(api, eventId="e1")
    reward(api, "e1", 0.5)
    loop.end_windows()
    assert learned(api, "e1") == ("learned", -0.25)


def test_a_late_reward_is_kept_and_not_learned(api: Api, loop: Loop) -> None:
    rank(api, eventId="e1")
    loop.end_windows()
    reward(api, "e1", 1.0)
    loop.end_windows()
    assert learned(api, "e1") == ("learned", 0.0)
    (told,) = api.call("GET", "/v1/events/e1").body["follow_ups"]
    assert (told["late"], told["body"]["reward"]) == (True, 1.0)


def test_native_feedback_is_not_aggregated_unless_it_is_asked_for(api: Api, loop: Loop) -> None:
    for event_id, aggregation in (("e1", None), ("e2", "earliest")):
        config = api.call("GET", "/v1/config")
        config.body["reward_aggregation"] = aggregation
        body = config.body | {"reward_aggregation": aggregation}
        assert api.call("PUT", "/v1/config", body, headers={"If-Match": config.headers["ETag"]}).status == 200
        api.call("POST", "/v1/rank", {"candidates": ["a"], "event_id": event_id})
        for value in (1.0, 2.0):
            items = [{"id": "a", "reward": value, "seen": True}]
            assert api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items}).status == 202
    loop.end_windows()
    assert (learned(api, "e1"), learned(api, "e2")) == (("learned", 2.0), ("learned", 1.0))


def test_deferred_events_teach_only_when_activated(api: Api, loop: Loop) -> None:
    for event_id in ("shown", "hidden"):
        rank(api, eventId=event_id, deferActivation=True)
        reward(api, event_id, 1.0)
    for _ in range(2):
        assert api.call("POST", f"{V1}/events/shown/activate").status == 204
    loop.end_windows()
    assert learned(api, "shown") == ("learned", 1.0)
    assert learned(api, "hidden")[0] == "not_activated"


def test_feed_rules_do_not_hold_here(api: Api, loop: Loop) -> None:
    """What was shown before, and what shares a creator, may stand anywhere; the native door goes on as it was."""
    actions = [{"id": name, "features": [{"creator": "kari", "group": "g"}]} for name in "abc"]
    for number in range(3):
        found = rank(api, actions=actions, eventId=f"e{number}")
        assert all(one["probability"] > 0.0 for one in found["ranking"])
    story = api.call("GET", "/v1/events/e2").body
    assert (story["ineligible"], story["relaxed"], story["passed"]) == ({}, {}, {})


# ---------------------------------------------------------------- settings


def test_settings_are_told_and_changed(api: Api) -> None:
    before = api.call("GET", f"{V1}/configurations/service").body
    assert {name: before[name] for name in ("rewardWaitTime", "defaultReward", "rewardAggregation")} == {
        "rewardWaitTime": "PT10M", "defaultReward": 0.0, "rewardAggregation": "earliest"
    }  # fmt: skip
    assert (before["learningMode"], before["logRetentionDays"], before["explorationPercentage"]) == ("Online", -1, 1.0)
    version = api.call("GET", "/v1/config").headers["ETag"]
    assert put(api, **before) == before, "what was read can be put back"
    assert api.call("GET", "/v1/config").headers["ETag"] == version, "and changes nothing"
    after = put(
        api, rewardWaitTime="00:00:30", defaultReward=-0.5, rewardAggregation="Sum", explorationPercentage=0.2,
        learningMode="Apprentice", isInferenceExplainabilityEnabled=True,
    )  # fmt: skip
    assert after["rewardWaitTime"] == "PT30S"
    config = api.call("GET", "/v1/config").body
    assert (config["reward_window_s"], config["default_reward"], config["reward_aggregation"]) == (30.0, -0.5, "sum")
    assert (config["exploration"]["share"], config["mode"], config["explain"]) == (0.2, "apprentice", True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rewardWaitTime": "ten minutes"}, "rewardWaitTime"),
        ({"rewardWaitTime": "P1Y"}, "rewardWaitTime"),
        ({"rewardWaitTime": "PT0S"}, "PT0.1S to P30D"),
        ({"rewardAggregation": "newest"}, "earliest, average, median, sum, min, max"),
        ({"explorationPercentage": 0}, "explorationPercentage"),
        ({"explorationPercentage": 20}, "0.2 for 20 %"),
        ({"defaultReward": 11.0}, "reward_range"),
        ({"modelExportFrequency": "PT5M"}, "--publish-ms 300000"),
        ({"logRetentionDays": 7}, "--retain-days 7"),
        ({"learningMode": "LoggingOnly"}, "learningMode"),
        ({"isAutoOptimizationEnabled": True}, "python -m replay evaluate"),
        ({"logMirrorEnabled": True}, "logMirrorEnabled"),
        ({"rewardWaitTimes": "PT5M"}, "rewardWaitTimes"),
    ],
)
def test_what_cannot_be_set_is_refused_whole(api: Api, settings: dict[str, Any], named: str) -> None:
    before = api.call("GET", "/v1/config")
    reply = api.call("PUT", f"{V1}/configurations/service", {"rewardAggregation": "max", **settings})
    assert reply.status == 400, reply.content
    assert named in reply.body["error"]["message"]
    assert api.call("GET", "/v1/config").content == before.content


def test_an_apprentice_serves_the_first_action(api: Api) -> None:
    put(api, learningMode="Apprentice")
    found = rank(api, excludedActions=["news"])
    assert [(one["id"], one["probability"]) for one in found["ranking"]] == [("news", 0.0), ("cats", 1.0), ("diy", 0.0)]


def test_explanations_are_told_if_asked_for(api: Api, loop: Loop) -> None:
    for number in range(10):
        found = rank(api, eventId=f"e{number}", contextFeatures=[{"hour": "9"}])
        reward(api, f"e{number}", float(found["rewardActionId"] == "cats"))
    loop.end_windows()
    assert "inferenceExplanation" not in rank(api)
    put(api, isInferenceExplainabilityEnabled=True)
    found = rank(api, contextFeatures=[{"hour": "9"}], excludedActions=["news", "diy"])
    (told,) = found["inferenceExplanation"]
    assert told["id"] == "cats"
    assert "hour=9^topic=cats" in {one["name"] for one in told["features"]}


def test_the_policy_is_told_and_fixed(api: Api) -> None:
    policy = api.call("GET", f"{V1}/configurations/policy").body
    assert policy["arguments"] == api.call("GET", "/v1/model").body["arguments"]
    same = {"name": "mine", "arguments": "-l 0.2 -q CF --quadratic CI --ignore_linear CI -b 18"}
    assert api.call("PUT", f"{V1}/configurations/policy", same).body == policy | {"name": "mine"}
    assert api.call("DELETE", f"{V1}/configurations/policy").body == policy
    for arguments in ("--cb_explore_adf --epsilon 0.2 --power_t 0 -l 0.001 --cb_type mtr -q ::", "-b 20", "\x00", ""):
        reply = api.call("PUT", f"{V1}/configurations/policy", {"name": "x", "arguments": arguments})
        assert (reply.status, reply.body["error"]["code"]) == (400, "invalid_config"), reply.content


def test_the_model_is_a_file_that_vw_loads(api: Api, loop: Loop, tmp_path: Path) -> None:
    rank(api, eventId="e1")
    reward(api, "e1", 1.0)
    loop.end_windows()
    reply = api.call("GET", f"{V1}/model")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/octet-stream")
    path = tmp_path / "exported.vw"
    path.write_bytes(reply.content)
    vw = Workspace(f"-i {path} --quiet")
    assert "--cb_adf" in vw.get_arguments() or "cb_adf" in vw.get_arguments()
    vw.finish()
    times = api.call("GET", f"{V1}/model/properties").body
    assert times["creationTime"] <= times["lastModifiedTime"]


def test_what_is_not_offered_says_what_is(api: Api) -> None:
    for method, path, status in (
        ("GET", "evaluations", 410), ("POST", "evaluations", 410), ("GET", "evaluations/x", 404),
        ("DELETE", "evaluations/x", 404),
    ):  # fmt: skip
        reply = api.call(method, f"{V1}/{path}", {"name": "x"} if method == "POST" else None)
        assert reply.status == status
        assert "python -m replay evaluate" in reply.body["error"]["message"]
    assert "--retain-days" in api.call("DELETE", f"{V1}/logs").body["error"]["message"]


def test_logs_and_status(api: Api, loop: Loop) -> None:
    rank(api)
    dates = api.call("GET", f"{V1}/logs/properties").body["dateRange"]
    assert dates["from"] <= dates["to"]
    assert dates["to"].startswith("2027-01-15T")
    assert api.call("GET", f"{V1}/status").body["apiStatus"] in ("Valid", "Degraded")
