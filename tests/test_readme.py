"""The README's three requests do what it says, and answer in the shape that it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.readme import examples, run_all
from tests.service import RunningService


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("readme")
    with RunningService(folder / "data") as service:
        return run_all(service.url)


def test_every_answer_has_the_shape_that_is_shown(answers: dict[str, Any]) -> None:
    assert list(answers) == ["rank", "feedback", "again", "items", "interests", "feed", "enough", "next", "believed"]
    for name, (_, shown) in examples().items():
        assert shape(answers[name]) == shape(json.loads(shown)), name


def test_the_first_ranking_knows_nothing_and_the_second_one_does(answers: dict[str, Any]) -> None:
    first, again = answers["rank"], answers["again"]
    assert {slot["score"] for slot in first["ranking"]} == {0.0}
    assert first["model_version"] != again["model_version"]
    scores = {slot["id"]: slot["score"] for slot in again["ranking"]}
    assert min(scores["v1"], scores["v3"]) > scores["v2"] + 0.1, "cats rather than news"


def test_what_was_refused_and_seen_is_gone_at_once(answers: dict[str, Any]) -> None:
    assert [slot["id"] for slot in answers["next"]["ranking"]] == ["w5"]
    told = {one["id"]: one["rules"] for one in answers["next"]["kept_out"]}
    assert told.keys() == {"w1", "w2", "w3", "w4", "w6"}
    liked = {(one["attribute"], one["value"]): one["long"] for one in answers["believed"]["tastes"]}
    assert liked["tag", "cats"] > liked["tag", "news"]


def test_the_output_shown_tells_the_same_story() -> None:
    shown = {name: json.loads(output) for name, (_, output) in examples().items()}
    scores = {slot["id"]: slot["score"] for slot in shown["again"]["ranking"]}
    assert min(scores["v1"], scores["v3"]) > scores["v2"] + 0.1, "cats rather than news"
    assert shown["feedback"]["status"] == "accepted"


def shape(value: Any) -> Any:
    """Names and kinds of JSON, without the values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
