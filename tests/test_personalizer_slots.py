"""Several slots of one page, at Personalizer's preview route."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from scipy.stats import chisquare

from bandit.records import RankRequest
from replay import evaluate
from replay.rebuild import rebuild
from tests.conftest import Api, Loop

MULTISLOT = "/personalizer/v1.1-preview.1/multislot"
ACTIONS: list[dict[str, Any]] = [{"id": name, "features": [{"topic": name}]} for name in ("news", "cats", "diy", "run")]
SLOTS: list[dict[str, Any]] = [
    {"id": "main", "features": [{"size": "large"}], "excludedActions": ["cats"], "baselineAction": "news"},
    {"id": "side bar", "features": [{"size": "small"}], "baselineAction": "cats"},
]


def rank(api: Api, **more: Any) -> Any:
    reply = api.call("POST", f"{MULTISLOT}/rank", {"actions": ACTIONS, "slots": SLOTS, **more})
    assert reply.status == 201, reply.content
    return reply.body


def learned(api: Api, event_id: str) -> tuple[str, float | None]:
    (slot,) = api.call("GET", f"/v1/events/{event_id.replace('#', '%23')}").body["slots"]
    return slot["status"], slot["reward"]


def test_a_page(api: Api, loop: Loop) -> None:
    found = rank(api, eventId="p1", contextFeatures=[{"user": {"plan": "free"}}])
    assert found["eventId"] == "p1"
    assert [slot["id"] for slot in found["slots"]] == ["main", "side bar"]
    main, side = (slot["rewardActionId"] for slot in found["slots"])
    assert main != "cats"
    assert main != side
    assert rank(api, eventId="p1", contextFeatures=[{"user": {"plan": "free"}}]) == found
    rewards = [{"slotId": "side bar", "value": 0.5}]
    assert api.call("POST", f"{MULTISLOT}/events/p1/reward", {"reward": rewards}).status == 204
    loop.end_windows()
    assert learned(api, "p1#side bar") == ("learned", 0.5)
    assert learned(api, "p1#main") == ("learned", 0.0), "shown, and no reward came"
    story = api.call("GET", "/v1/events/p1%23main").body
    assert b'"slot.size":"large"' in api.call("GET", "/v1/events/p1%23main").content
    assert story["slots"][0]["propensity"] == pytest.approx(1 / 3)


def test_a_page_has_its_own_event_id_once(api: Api) -> None:
    rank(api, eventId="p1")
    for body in (
        {"actions": ACTIONS, "slots": SLOTS[:1], "eventId": "p1"},
        {"actions": ACTIONS, "slots": [*SLOTS, {"id": "more", "baselineAction": "diy"}], "eventId": "p1"},
        {"actions": ACTIONS[::-1], "slots": SLOTS, "eventId": "p1"},
    ):
        assert api.call("POST", f"{MULTISLOT}/rank", body).status == 409
    api.call("POST", "/personalizer/v1.0/rank", {"actions": ACTIONS, "eventId": "alone"})
    taken = api.call("POST", f"{MULTISLOT}/rank", {"actions": ACTIONS, "slots": SLOTS, "eventId": "alone"})
    assert taken.status == 409


def test_rewards_and_activations_in_any_order(api: Api, loop: Loop) -> None:
    def reward(event_id: str, value: float) -> None:
        rewards = [{"slotId": "main", "value": value}]
        assert api.call("POST", f"{MULTISLOT}/events/{event_id}/reward", {"reward": rewards}).status == 204

    reward("before", 0.5)
    assert api.call("POST", f"{MULTISLOT}/events/before/activate").status == 204
    for event_id in ("before", "after", "never"):
        rank(api, eventId=event_id, deferActivation=True)
    reward("after", -0.5)
    reward("never", 1.0)
    assert api.call("POST", f"{MULTISLOT}/events/after/activate").status == 204
    loop.end_windows()
    assert learned(api, "before#main") == ("learned", 0.5)
    assert learned(api, "before#side bar") == ("learned", 0.0)
    assert learned(api, "after#main") == ("learned", -0.5)
    assert learned(api, "never#main")[0] == "not_activated"


def test_rewards_of_no_slot_are_refused(api: Api) -> None:
    rank(api, eventId="p1")
    strange = api.call("POST", f"{MULTISLOT}/events/p1/reward", {"reward": [{"slotId": "footer", "value": 1.0}]})
    assert (strange.status, strange.body["error"]["detail"]["slot"]) == (400, "footer")
    whole = api.call("POST", "/personalizer/v1.0/events/p1/reward", {"value": 1.0})
    assert whole.status == 400
    assert "multislot" in whole.body["error"]["message"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"slots": [SLOTS[0], SLOTS[0] | {"baselineAction": "diy"}]}, "slots[1] repeats the id"),
        ({"slots": [SLOTS[0] | {"baselineAction": "nobody"}]}, "is no action"),
        ({"slots": [SLOTS[0] | {"baselineAction": "cats"}]}, "is among its excludedActions"),
        ({"slots": [SLOTS[0], {"id": "b", "baselineAction": "news"}]}, "is that of another slot"),
        ({"slots": [{"id": "a"}]}, "baselineAction"),
        ({"slots": []}, "slots"),
        ({"slots": [SLOTS[0] | {"features": "large"}]}, "slots[0].features"),
        ({"actions": [*ACTIONS, ACTIONS[0]]}, "actions["),
        ({"actions": []}, "actions"),
    ],
)
def test_what_is_no_page_is_named(api: Api, change: dict[str, Any], named: str) -> None:
    reply = api.call("POST", f"{MULTISLOT}/rank", {"actions": ACTIONS, "slots": SLOTS, **change})
    assert reply.status == 400, reply.content
    assert named in reply.body["error"]["message"]


def test_what_is_excluded_never_stands_there_and_no_slot_stays_empty(api: Api) -> None:
    """Whoever is drawn above, the last slot finds the only one that it may show."""
    slots = [
        {"id": "a", "baselineAction": "news"},
        {"id": "b", "baselineAction": "cats", "excludedActions": ["diy", "run"]},
        {"id": "c", "baselineAction": "run", "excludedActions": ["news", "cats", "diy"]},
    ]
    seen = set()
    for number in range(60):
        found = rank(api, slots=slots, eventId=f"p{number}")
        chosen = [slot["rewardActionId"] for slot in found["slots"]]
        assert len(set(chosen)) == 3
        assert chosen[1] in ("news", "cats")
        assert chosen[2] == "run"
        seen.add(chosen[0])
    assert seen == {"news", "cats", "diy"}
    withdrawn = [{"id": "run", "features": {}}]
    api.call("PUT", "/v1/items", {"items": withdrawn})
    api.call("DELETE", "/v1/items/run")
    refused = api.call("POST", f"{MULTISLOT}/rank", {"actions": ACTIONS, "slots": slots})
    assert (refused.status, refused.body["error"]["code"]) == (400, "empty_slate")


def test_an_apprentice_shows_the_baseline(api: Api) -> None:
    api.call("PUT", "/personalizer/v1.0/configurations/service", {"learningMode": "Apprentice"})
    found = rank(api)
    assert [slot["rewardActionId"] for slot in found["slots"]] == ["news", "cats"]


def test_slots_are_told_apart_while_learning(api: Api, loop: Loop) -> None:
    """Cats earn in the side bar and cost above: both are learned of the same action."""
    slots = [slot | {"excludedActions": []} for slot in SLOTS]
    for number in range(150):
        found = rank(api, slots=slots, eventId=f"p{number}")
        rewards = [
            {"slotId": slot["id"], "value": float((slot["rewardActionId"] == "cats") == (slot["id"] == "side bar"))}
            for slot in found["slots"]
        ]
        api.call("POST", f"{MULTISLOT}/events/p{number}/reward", {"reward": rewards})
    loop.end_windows()
    count = Counter(tuple(one["rewardActionId"] for one in rank(api, slots=slots)["slots"]) for _ in range(50))
    placed = sum(n for (main, side), n in count.items() if main != "cats" and side == "cats")
    assert placed >= 40, count


def test_pages_are_drawn_as_their_propensities_say(api: Api, loop: Loop) -> None:
    """One test in 10,000 that chance fails: chi-square over whole pages, at .0001, with a model that has learned."""
    slots = [*SLOTS, {"id": "c", "baselineAction": "run", "excludedActions": ["news", "diy"]}]
    for number in range(40):
        found = rank(api, slots=slots, eventId=f"t{number}")
        rewards = [{"slotId": "main", "value": float(found["slots"][0]["rewardActionId"] == "diy")}]
        api.call("POST", f"{MULTISLOT}/events/t{number}/reward", {"reward": rewards})
    loop.end_windows()
    drawn: Counter[tuple[str, ...]] = Counter()
    likely: dict[tuple[str, ...], float] = {}
    for number in range(700):
        found = rank(api, slots=slots, eventId=f"d{number}")
        page = tuple(slot["rewardActionId"] for slot in found["slots"])
        drawn[page] += 1
        if page not in likely:
            likely[page] = 1.0
            for slot in slots:
                name = f"d{number}%23{slot['id'].replace(' ', '%20')}"
                likely[page] *= api.call("GET", f"/v1/events/{name}").body["slots"][0]["propensity"]
    pages = [page for page, p in likely.items() if p * 700 >= 5]
    expected = [likely[page] * 700 for page in pages] + [700 * (1 - sum(likely[page] for page in pages))]
    found_ = [drawn[page] for page in pages] + [700 - sum(drawn[page] for page in pages)]
    kept = [(f, e) for f, e in zip(found_, expected, strict=True) if e > 1e-6]
    assert chisquare([f for f, _ in kept], [e for _, e in kept]).pvalue > 1e-4
    assert sum(likely.values()) <= 1.0 + 1e-9


def test_the_first_of_all_is_drawn_as_told(api: Api, loop: Loop) -> None:
    """One test in 10,000 that chance fails: of one slot with all actions told, by the same code as is logged."""
    for number in range(30):
        asked = {"actions": ACTIONS, "eventId": f"t{number}"}
        found = api.call("POST", "/personalizer/v1.0/rank", asked).body
        value = {"value": float(found["rewardActionId"] == "diy")}
        api.call("POST", f"/personalizer/v1.0/events/t{number}/reward", value)
    loop.end_windows()
    ranker = loop.service.ranker
    request = RankRequest(candidates=[one["id"] for one in ACTIONS], slots=1)
    count: Counter[str] = Counter()
    told: dict[str, float] = {}
    for _ in range(4_000):
        decision = ranker.rank(request, door="personalizer", whole=True).decision
        count[decision.slots[0].id] += 1
        order = decision.order
        assert order is not None
        places = [int.from_bytes(order.places[at : at + 2], "little") for at in range(0, len(order.places), 2)]
        every = order.probabilities + [order.probabilities[-1]] * (len(places) - len(order.probabilities))
        told = {ACTIONS[place]["id"]: p for place, p in zip(places, every, strict=True)}
        assert told[decision.slots[0].id] == decision.slots[0].propensity
    assert len(set(told.values())) > 1, "a model that has learned"
    assert chisquare([count[name] for name in told], [p * 4_000 for p in told.values()]).pvalue > 1e-4


def test_the_log_is_rebuilt_and_evaluated_like_any_other(api: Api, loop: Loop) -> None:
    config = api.call("GET", "/v1/config")
    body = config.body | {"rules": [{"rule": "quota", "of": "new", "share": 1.0, "shown_below": 5}]}
    assert api.call("PUT", "/v1/config", body, headers={"If-Match": config.headers["ETag"]}).status == 200
    for number in range(40):
        rank(api, eventId=f"p{number}")
        api.call("POST", "/personalizer/v1.0/rank", {"actions": ACTIONS, "eventId": f"e{number}"})
        api.call("POST", f"/personalizer/v1.0/events/e{number}/reward", {"value": number % 2})
        if number % 10 == 0:
            loop.learn()
    loop.end_windows()
    result = rebuild(loop.data.path)
    assert result.published > 1
    assert (result.matched, result.mismatch, result.epoch_mismatch) == (result.published, None, None)
    answer = evaluate(loop.data.path, {"same": "config:2", "random": "uniform"}, reward_range=(-1.0, 1.0))
    assert answer.log.events == 120
    same, random = answer.policies
    assert same.weights is not None
    assert (same.weights.mean, same.weights.largest) == pytest.approx((1.0, 1.0), abs=1e-9), "rules do not hold here"
    assert random.estimates
