"""The live config over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Api, Loop
from tests.service import Reply, RunningService


def get(api: Api | RunningService) -> tuple[dict[str, Any], str]:
    """Document and ETag."""
    reply = api.call("GET", "/v1/config")
    assert reply.status == 200
    return reply.body, reply.headers["ETag"]


def put(api: Api | RunningService, document: Any, etag: str | None) -> Reply:
    return api.call("PUT", "/v1/config", document, headers={} if etag is None else {"If-Match": etag})


def test_a_config_is_read_whole_and_put_back_unchanged(api: Api) -> None:
    document, etag = get(api)
    assert etag == '"1"'
    assert set(document) == {
        "explorer", "shortlist", "floor", "slots", "learning_weight", "reward", "reward_range", "signals", "evidence",
        "reward_window_s", "default_reward", "reward_aggregation", "explain", "exploration",
        "watch", "stayed_s", "guard",
        "mode", "experiment",
        "rules",
    }  # fmt: skip
    reply = put(api, document, etag)
    assert (reply.status, reply.body, reply.headers["ETag"]) == (200, document, '"2"')


def test_a_config_without_if_match_is_refused(api: Api) -> None:
    document, _ = get(api)
    reply = put(api, document, None)
    assert (reply.status, reply.body["error"]["code"]) == (428, "version_required")
    assert get(api)[1] == '"1"'


@pytest.mark.parametrize(
    "given", ['"2"', '"0"', '"-1"', "*", "", '""', "W/", "x", '"1", "2"', "1e0", '"9999999999999999999"', "9" * 5000]
)
def test_if_match_with_anything_but_the_version_in_force_is_refused(api: Api, given: str) -> None:
    document, _ = get(api)
    reply = put(api, document, given)
    assert (reply.status, reply.body["error"]["code"]) == (412, "version_mismatch")
    assert get(api)[1] == '"1"'


def test_two_who_read_the_same_version_cannot_both_replace_it(api: Api) -> None:
    document, etag = get(api)
    assert put(api, document | {"slots": 3}, etag).status == 200
    lost = put(api, document | {"slots": 4}, etag)
    assert (lost.status, lost.body["error"]["detail"]) == (412, {"current": 2, "expected": 1})
    assert get(api)[0]["slots"] == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"explorer": {"kind": "thompson"}}, "kind"),
        ({"explorer": {"kind": "squarecb", "gamma_scale": 0}}, "gamma_scale"),
        ({"explorer": {"kind": "epsilon_greedy", "epsilon": 1.5}}, "epsilon"),
        ({"explorer": {"kind": "greedy", "epsilon": 0.1}}, "epsilon"),
        ({"explorer": {"kind": "softmax", "lambda": -1}}, "lambda"),
        ({"explorer": {"kind": "softmax", "anneal_after": 0}}, "anneal_after"),
        ({"explorer": {"kind": "epsilon_greedy", "anneal_exponent": 2}}, "anneal_exponent"),
        ({"exploration": {"share": 0}}, "share"),
        ({"exploration": {"share": 1.5}}, "share"),
        ({"exploration": {"budget": 0.1}}, "budget"),
        ({"explorer": None}, "explorer"),
        ({"shortlist": 0}, "shortlist"),
        ({"floor": -0.1}, "floor"),
        ({"floor": 1.1}, "floor"),
        ({"floor": []}, "floor"),
        ({"floor": [0.1, 2]}, "floor"),
        ({"floor": "0.1"}, "floor"),
        ({"slots": 0}, "slots"),
        ({"slots": 101}, "slots"),
        ({"slots": 2.5}, "slots"),
        ({"learning_weight": {"kind": "constant", "weight": 0.5}}, "weight"),
        ({"learning_weight": {"kind": "ips", "clamp": 0}}, "clamp"),
        ({"reward": ""}, "reward"),
        ({"reward": "like +"}, "like +"),
        ({"reward": "hype"}, "hype"),
        ({"reward": "__import__('os')"}, "calls"),
        ({"reward": "like ** 9"}, "Pow"),
        ({"reward": "like.real"}, "Attribute"),
        ({"reward": "min"}, "min"),
        ({"reward": "like + abs"}, "abs"),
        ({"reward": "min(like)"}, "min"),
        ({"reward": "1e10"}, "10000000000"),
        ({"reward": "True"}, "True"),
        ({"reward": "'x'"}, "'x'"),
        ({"reward": "(" * 500}, "expression"),
        ({"reward": "-" * 999 + "1"}, "formula"),
        ({"reward": "x" * 1_001}, "reward"),
        ({"reward_range": [1, 1]}, "reward_range"),
        ({"reward_range": [-1e7, 1]}, "reward_range"),
        ({"reward_range": [1]}, "reward_range"),
        ({"default_reward": 11}, "default_reward"),
        ({"signals": {"Like": {}}}, "signals"),
        ({"signals": {"like\n": {}}, "reward": "0"}, "signals"),
        ({"signals": {"like": {"combine": "mean"}}}, "combine"),
        ({"signals": {"like": {"weight": 1}}}, "weight"),
        ({"signals": {f"s{k}": {} for k in range(65)}}, "signals"),
        ({"evidence": "hope"}, "evidence"),
        ({"reward_window_s": 0}, "reward_window_s"),
        ({"reward_window_s": 1e9}, "reward_window_s"),
        ({"reward_window": 60}, "reward_window"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_config_is_refused_whole_and_the_old_one_stays(
    api: Api, change: dict[str, Any], told: str
) -> None:
    document, etag = get(api)
    reply = put(api, document | change, etag)
    assert reply.status == 400
    assert told in reply.body["error"]["message"]
    assert get(api) == (document, etag)


def test_all_faults_between_the_parts_are_listed_together(api: Api) -> None:
    document, etag = get(api)
    reply = put(api, document | {"reward": "hype + buzz", "reward_range": [3, 2]}, etag)
    assert reply.body["error"]["code"] == "invalid_config"
    assert len(reply.body["error"]["detail"]["faults"]) == 2
    assert all(name in reply.body["error"]["message"] for name in ("buzz", "hype", "reward_range"))


def test_a_signal_with_the_name_of_a_function_cannot_stand_in_the_formula(api: Api) -> None:
    document, etag = get(api)
    refused = put(api, document | {"signals": {"max": {"evidence": True}}, "reward": "max"}, etag)
    assert (refused.status, refused.body["error"]["code"]) == (400, "invalid_formula")


@pytest.mark.parametrize(
    "explorer",
    [
        {"kind": "squarecb", "gamma_scale": 10, "gamma_exponent": 0.5},
        {"kind": "epsilon_greedy", "epsilon": 0.2},
        {"kind": "epsilon_greedy", "anneal_after": 100, "least": 0.01},
        {"kind": "softmax", "lambda": 3},
        {"kind": "softmax", "lambda": 3, "anneal_after": 100},
        {"kind": "greedy"},
        {"kind": "uniform"},
    ],
    ids=lambda explorer: explorer["kind"],
)
def test_every_explorer_ranks_from_the_next_request_on(api: Api, explorer: dict[str, Any]) -> None:
    document, etag = get(api)
    assert put(api, document | {"explorer": explorer, "floor": [0.5, 0.0], "shortlist": None}, etag).status == 200
    body = api.call("POST", "/v1/rank", {"candidates": [f"v{k}" for k in range(20)]}).body
    assert (body["policy"], body["config_version"]) == (explorer["kind"], 2)
    assert len(body["ranking"]) == 10


def test_decisions_are_stamped_with_the_config_that_made_them(api: Api) -> None:
    events = []
    for version in (1, 2, 3):
        body = api.call("POST", "/v1/rank", {"candidates": ["a", "b", "c"]}).body
        assert body["config_version"] == version
        events.append(body["event_id"])
        document, etag = get(api)
        put(api, document | {"reward_window_s": 100.0 * version}, etag)
    stories = [api.call("GET", f"/v1/events/{event_id}").body for event_id in events]
    assert [story["config_version"] for story in stories] == [1, 2, 3]
    assert [story["window_ends_at"] - story["at"] for story in stories] == pytest.approx([600, 100, 200])


def test_a_decision_is_rewarded_by_the_config_that_made_it(api: Api, loop: Loop) -> None:
    first = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
    document, etag = get(api)
    put(api, document | {"reward": "5 * like"}, etag)
    second = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
    for event_id in (first, second):
        items = [{"id": "a", "signals": {"like": 1}, "seen": True}]
        api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items})
    loop.end_windows()
    rewards = [
        api.call("GET", f"/v1/events/{event_id}").body["slots"][0]["reward"] for event_id in (first, second)
    ]
    assert rewards == [1.0, 5.0]


def test_a_change_of_config_does_not_reset_the_model(api: Api, loop: Loop) -> None:
    event_id = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
    items = [{"id": "a", "reward": 1, "seen": True, "final": True}]
    api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items})
    loop.learn()
    before = api.call("GET", "/v1/model").body
    document, etag = get(api)
    put(api, document | {"explorer": {"kind": "greedy"}, "reward": "like"}, etag)
    loop.learn()
    after = api.call("GET", "/v1/model").body
    assert before["learned_slots"] == after["learned_slots"] == 1
    assert after["version"] == before["version"]


def test_a_formula_without_a_value_is_told_and_teaches_nothing(api: Api, loop: Loop) -> None:
    document, etag = get(api)
    assert put(api, document | {"reward": "like / watch_s"}, etag).status == 200
    event_id = api.call("POST", "/v1/rank", {"candidates": ["a"]}).body["event_id"]
    items = [{"id": "a", "signals": {"like": 1}, "seen": True}]
    api.call("POST", "/v1/feedback", {"event_id": event_id, "items": items})
    loop.end_windows()
    slot = api.call("GET", f"/v1/events/{event_id}").body["slots"][0]
    assert (slot["status"], slot["reward"]) == ("undefined_reward", None)


def test_a_config_is_in_force_in_every_worker_at_once(running: RunningService) -> None:
    original, etag = get(running)
    candidates = [f"v{k}" for k in range(30)]
    for slots in (3, 7, 5):
        etag = put(running, original | {"slots": slots}, etag).headers["ETag"]
        for _ in range(8):
            body = running.call("POST", "/v1/rank", {"candidates": candidates}).body
            assert (len(body["ranking"]), f'"{body["config_version"]}"') == (slots, etag)
            assert get(running)[1] == etag
    assert put(running, original, etag).status == 200
