"""An explanation adds up to the score that the kernel gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import Raw

from bandit.features.hashing import hash_resolved, resolve_item, resolve_shared
from bandit.features.item_table import ItemTable
from bandit.features.model_args import ModelArgs
from bandit.learning.learner import Learner
from bandit.ranking.explain import SHARED, contributions
from bandit.ranking.scorer import score, weights_from_model
from bandit.records import Features, Item, ItemsRequest
from tests.conftest import Api, Loop

ITEM: Features = {"creator": "c1", "length": 0.5, "tags": ["cats", "dogs"], "sound": {"bpm": 120, "name": "x"}}
RAW = b'{"creator":"c1","length":0.5,"tags":["cats","dogs"],"sound":{"bpm":120,"name":"x"}}'


@pytest.mark.parametrize(
    "arguments",
    [
        "-b 18",
        "-b 18 -q UI -q CI",
        "-b 18 -q ::",
        "-b 18 --cubic UIs",
        "-b 10 --ignore_linear I -q UI --noconstant",
    ],
)
def test_the_parts_of_an_explanation_add_up_to_the_score(arguments: str, tmp_path: Path) -> None:
    args = ModelArgs.parse(arguments)
    shared = resolve_shared("u1", {"age": 31, "country": "no"}, {"hour": "18", "Sunny": {"degrees": 20.5}})
    item = resolve_item("v1", ITEM)
    with Learner(args, scratch=tmp_path) as learner:
        for reward in (1.0, 0.2, 0.7):
            learner.learn(shared, item, reward=reward)
        weights = weights_from_model(learner.save(), args)
    table = ItemTable(1)
    out = np.zeros(1, np.float32)
    rows = table.add(["v1"], [RAW])
    score(table.view(), rows, hash_resolved(shared), weights, args, out)
    parts = contributions(shared, item, weights, args)
    assert sum(value for _, value in parts) == pytest.approx(float(out[0]), rel=1e-5, abs=1e-6)
    assert float(out[0]) != 0.0
    assert [abs(value) for _, value in parts] == sorted((abs(value) for _, value in parts), reverse=True)


def test_what_does_not_depend_on_the_item_is_one_part() -> None:
    args = ModelArgs.parse("-b 18 -q UC")
    shared, item = resolve_shared("u1", {"a": 1}, {"b": 2}), resolve_item("v1", {"creator": "c1"})
    names = {name for name, _ in contributions(shared, item, np.ones(1 << 18, np.float32), args)}
    assert names == {SHARED, "I.creator=c1", "I.id=v1"}


def test_a_ranking_explains_itself_when_asked(api: Api, loop: Loop) -> None:
    loop.service.put_items(ItemsRequest([Item("v1", Raw(b'{"creator":"c1"}')), Item("v2", Raw(b'{"creator":"c2"}'))]))
    candidates = ["v1", "v2", {"id": "v3", "features": {"creator": "c3"}}, "unknown"]
    ranked = api.call("POST", "/v1/rank", {"event_id": "e1", "user": {"id": "u1"}, "candidates": candidates}).body
    items = [{"id": slot["id"], "signals": {"watch_s": 30}, "final": True} for slot in ranked["ranking"]]
    api.call("POST", "/v1/feedback", {"event_id": "e1", "items": items})
    loop.learn()

    asked = {"user": {"id": "u1"}, "candidates": candidates, "explain": True}
    reply = api.call("POST", "/v1/rank", asked).body
    assert [told["id"] for told in reply["explanation"]] == [slot["id"] for slot in reply["ranking"]]
    for told, slot in zip(reply["explanation"], reply["ranking"], strict=True):
        assert sum(part for _, part in told["features"]) == pytest.approx(slot["score"], rel=1e-4)
        assert any(name == "D.item_cold" for name, _ in told["features"])
    assert "explanation" not in api.call("POST", "/v1/rank", {"candidates": candidates}).body
