"""Azure Personalizer's official clients, unchanged, against a running service."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from azure.cognitiveservices.personalizer import PersonalizerClient
from azure.cognitiveservices.personalizer.models import ErrorResponseException, RankableAction, RankRequest
from msrest.authentication import CognitiveServicesCredentials
from msrest.exceptions import HttpOperationError, ValidationError

from tests.service import ROOT, RunningService, made_key, wait_for

JAVASCRIPT = ROOT / "tests" / "javascript"
V1 = "/personalizer/v1.0"
WINDOW = "PT0.3S"


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service as a Personalizer loop, with a short wait for rewards."""
    path = tmp_path_factory.mktemp("personalizer") / "data"
    with RunningService(path, workers=1, durable="no", publish_ms=50, tick_s=0.1) as started:
        put = started.call("PUT", f"{V1}/configurations/service", {"rewardWaitTime": WINDOW})
        assert put.status == 200, put.content
        yield started


@pytest.fixture
def client(loop: RunningService) -> Iterator[PersonalizerClient]:
    opened = PersonalizerClient(loop.url, CognitiveServicesCredentials("a key of old"))
    with opened:
        yield opened


ACTIONS = [
    RankableAction(id="pasta", features=[{"taste": "salty", "spice": "medium"}, {"nutrition": {"level": 5}}]),
    RankableAction(id="ice cream", features=[{"taste": "sweet", "spice": "none"}, {"nutrition": {"level": 2}}]),
    RankableAction(id="juice", features=[{"taste": "sweet", "spice": "none"}, {"drink": True}]),
]
CONTEXT = [{"timeOfDay": "morning"}, {"user": {"likes": ["sweet", "cold"], "age": 41}}]


def status_of(loop: RunningService, event_id: str) -> dict[str, object]:
    """What became of the event's one slot."""
    (slot,) = loop.call("GET", f"/v1/events/{event_id}").body["slots"]
    return {name: slot[name] for name in ("id", "status", "reward", "evidence")}


def test_a_whole_round(loop: RunningService, client: PersonalizerClient) -> None:
    ranked = client.rank(RankRequest(actions=ACTIONS, context_features=CONTEXT, event_id="round-1"))
    assert ranked.event_id == "round-1"
    assert sorted(one.id for one in ranked.ranking) == ["ice cream", "juice", "pasta"]
    assert ranked.reward_action_id == ranked.ranking[0].id
    assert sum(one.probability for one in ranked.ranking) == pytest.approx(1.0, abs=1e-12)
    assert client.events.reward("round-1", 0.75) is None
    learned = {"id": ranked.reward_action_id, "status": "learned", "reward": 0.75, "evidence": "activation"}
    wait_for(lambda: status_of(loop, "round-1") == learned, what="the lesson")


def test_excluded_actions_and_made_event_ids(client: PersonalizerClient) -> None:
    ranked = client.rank(RankRequest(actions=ACTIONS, excluded_actions=["pasta", "juice"]))
    assert [(one.id, one.probability) for one in ranked.ranking] == [("pasta", 0.0), ("ice cream", 1.0), ("juice", 0.0)]
    assert ranked.reward_action_id == "ice cream"
    assert ranked.event_id


def test_without_a_reward_the_default_one_is_learned(loop: RunningService, client: PersonalizerClient) -> None:
    client.rank(RankRequest(actions=ACTIONS, event_id="silent-1"))
    wait_for(lambda: status_of(loop, "silent-1")["status"] == "learned", what="the lesson")
    assert status_of(loop, "silent-1")["reward"] == 0.0


def test_deferred_activation(loop: RunningService, client: PersonalizerClient) -> None:
    for event_id in ("shown-1", "hidden-1"):
        client.rank(RankRequest(actions=ACTIONS, event_id=event_id, defer_activation=True))
        client.events.reward(event_id, 1.0)
    client.events.activate("shown-1")
    wait_for(lambda: status_of(loop, "shown-1")["status"] == "learned", what="the lesson")
    wait_for(lambda: status_of(loop, "hidden-1")["status"] == "not_activated", what="the end of the window")


def test_a_reward_may_come_before_its_event(loop: RunningService, client: PersonalizerClient) -> None:
    client.events.reward("early-1", 0.5)
    client.rank(RankRequest(actions=ACTIONS, event_id="early-1"))
    wait_for(lambda: status_of(loop, "early-1")["reward"] == 0.5, what="the lesson")


def test_errors_reach_the_client_as_its_own(client: PersonalizerClient) -> None:
    with pytest.raises(ErrorResponseException) as refused:
        client.rank(RankRequest(actions=[]))
    assert refused.value.response.status_code == 400
    told: Any = refused.value.error
    assert told.error.code == "invalid_request"
    assert "actions" in told.error.message
    client.rank(RankRequest(actions=ACTIONS, event_id="twice-1"))
    with pytest.raises(ErrorResponseException) as conflict:
        client.rank(RankRequest(actions=ACTIONS[:2], event_id="twice-1"))
    assert conflict.value.response.status_code == 409
    with pytest.raises(HttpOperationError):
        client.events.reward("round-1", 1e9)
    with pytest.raises(ValidationError):
        client.events.reward("x" * 257, 1.0)
    client.events.reward("never ranked", 1.0)


def test_it_learns_what_the_context_decides(client: PersonalizerClient) -> None:
    """Reward 1 for the one action of three that fits the context. Chance would earn 1/3 of the last 100: that it earns
    60 has a probability below 1e-7. Five runs of a service that learns earned 97 to 100."""
    rng = random.Random(7)
    fits = {"morning": "juice", "noon": "pasta", "evening": "ice cream"}
    earned = []
    for number in range(400):
        context = rng.choice(list(fits))
        ranked = client.rank(
            RankRequest(actions=ACTIONS, context_features=[{"timeOfDay": context}], event_id=f"learn-{number}")
        )
        reward = float(ranked.reward_action_id == fits[context])
        client.events.reward(ranked.event_id, reward)
        earned.append(reward)
    assert sum(earned[-100:]) >= 60, f"earned by hundreds: {[sum(earned[i : i + 100]) for i in range(0, 400, 100)]}"


def test_the_page_shows_what_works(loop: RunningService) -> None:
    page = (ROOT / "docs" / "personalizer.md").read_text()
    (shown,) = re.findall(r"<!-- example: client -->\n```python\n(.*?)```", page, re.S)
    found: dict[str, Any] = {}
    exec(shown.replace("http://127.0.0.1:8080", loop.url), found)
    found["client"].close()
    ranked = found["ranked"]
    assert {one.id for one in ranked.ranking} == {"pasta", "juice"}
    earned = float(ranked.reward_action_id == "juice")
    wait_for(lambda: status_of(loop, "e1")["reward"] == earned, what="the lesson")


# ---------------------------------------------------------------- JavaScript


def by_javascript(url: str, key: str = "a key of old") -> Any:
    """What the official JavaScript client got, as its script tells it."""
    lacking = None
    if shutil.which("node") is None:
        lacking = "no node here (apt install nodejs npm)"
    elif not (JAVASCRIPT / "node_modules").is_dir():
        lacking = f"the JavaScript client is not installed (npm ci in {JAVASCRIPT.relative_to(ROOT)})"
    if lacking is not None:
        said = f"{lacking}: Personalizer's JavaScript client is not tested"
        if os.environ.get("FEED_BANDIT_CI") == "1":
            pytest.fail(said)
        pytest.skip(said)
    done = subprocess.run(
        ["node", "client.mjs", url, key], cwd=JAVASCRIPT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(loop: RunningService) -> Any:
    """What it got of a service without keys."""
    return by_javascript(loop.url)


def test_the_javascript_client_makes_a_whole_round(loop: RunningService, told: Any) -> None:
    assert told["rankedStatus"] == 201
    ranked = told["ranked"]
    assert ranked["eventId"] == "js-1"
    assert sorted(one["id"] for one in ranked["ranking"]) == ["ice cream", "juice", "pasta"]
    assert ranked["rewardActionId"] == ranked["ranking"][0]["id"]
    assert told["again"] == ranked["ranking"]
    assert (told["rewarded"], told["activated"]) == (204, 204)
    assert told["excluded"] == {
        "ranking": [
            {"id": "pasta", "probability": 0}, {"id": "ice cream", "probability": 1}, {"id": "juice", "probability": 0},
        ],
        "rewardActionId": "ice cream",
    }  # fmt: skip
    wait_for(lambda: status_of(loop, "js-1")["reward"] == 0.25, what="the lesson")
    wait_for(lambda: status_of(loop, "js-deferred")["reward"] == 1.0, what="the lesson")


def test_errors_reach_the_javascript_client(told: Any) -> None:
    refused = {name: (told[name]["status"], told[name]["code"]) for name in ("empty", "conflict")}
    assert refused == {"empty": (400, "invalid_request"), "conflict": (409, "id_conflict")}
    assert told["unlearnable"]["code"] == "invalid_features"
    assert "actions[0].features" in told["unlearnable"]["message"]
    assert told["tooMuch"]["status"] == 400


# ---------------------------------------------------------------- with keys


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that asks for keys."""
    path = tmp_path_factory.mktemp("keyed") / "data"
    with RunningService(path, workers=1, durable="no", publish_ms=50, tick_s=0.1, keys="on") as started:
        yield started


def test_a_key_is_given_as_the_subscription_key(keyed: RunningService) -> None:
    key = made_key(keyed.data, "rank,feedback,read")
    client = PersonalizerClient(keyed.url, CognitiveServicesCredentials(key))
    with client:
        ranked = client.rank(RankRequest(actions=ACTIONS, context_features=CONTEXT, event_id="keyed-1"))
        client.events.reward(ranked.event_id, 0.5)
        client.rank(RankRequest(actions=ACTIONS, event_id="keyed-2", defer_activation=True))
        client.events.activate("keyed-2")
    for event_id, kind in (("keyed-1", "feedback"), ("keyed-2", "activation")):
        story = keyed.call("GET", f"/v1/events/{event_id}", headers={"Ocp-Apim-Subscription-Key": key}).body
        assert [one["kind"] for one in story["follow_ups"]] == [kind]


@pytest.mark.parametrize("key", ["a key of old", "feed's"])
def test_without_the_right_key_the_client_is_told(keyed: RunningService, key: str) -> None:
    given, status = (made_key(keyed.data, "rank"), 403) if key == "feed's" else (key, 401)
    client = PersonalizerClient(keyed.url, CognitiveServicesCredentials(given))
    with client:
        with pytest.raises(HttpOperationError) as refused:
            client.events.reward("keyed-1", 1.0)
        assert refused.value.response.status_code == status
        if status == 401:
            with pytest.raises(ErrorResponseException) as unknown:
                client.rank(RankRequest(actions=ACTIONS))
            said: Any = unknown.value.error
            assert said.error.code == "unauthorized"


def test_the_javascript_client_too(keyed: RunningService) -> None:
    told = by_javascript(keyed.url, made_key(keyed.data, "rank,feedback"))
    assert (told["rankedStatus"], told["rewarded"], told["activated"]) == (201, 204, 204)
    assert told["again"] == told["ranked"]["ranking"]
