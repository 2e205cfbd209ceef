"""The service among simulated viewers: in this process, over HTTP, and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay.__main__ import main
from replay.demo.client import Client
from replay.simulate.play import Played, Table, play, policies_of
from replay.simulate.service import InProcess, OverHttp
from replay.simulate.truth import Truth, reward_of
from replay.simulate.world import Scenario, World
from tests.service import RunningService

SMALL = Scenario(feeds=150, viewers=12, items=300, candidates=40, slots=5, told=0.5, new_items=0.2)


def in_process(directory: Path, scenario: Scenario = SMALL, **more: Any) -> tuple[Played, InProcess]:
    directory.mkdir()
    world = World(scenario)
    with InProcess(world, directory, **more) as service:
        truth = Truth(world.effects, world.lengths_s, reward_of(service.config))
        return play(Table(world, truth), service, window_s=service.config.reward_window_s), service


def test_the_same_numbers_twice(tmp_path: Path) -> None:
    odd = Scenario(
        feeds=150, viewers=12, items=300, candidates=40, slots=5, silent=0.1, late=0.1, duplicate=0.2, shuffled=True,
        leave="reward", drift=0.5,
    )  # fmt: skip
    (first, _), (second, _) = (in_process(tmp_path / name, odd) for name in ("a", "b"))
    assert all(map(np.array_equal, first[1:], second[1:]))


def test_it_learns_in_the_simulated_world(tmp_path: Path) -> None:
    # Few viewers and a reward that says little but whether they stayed: something can be learned in a short run. Many
    # videos: else the best ones are used up, and feeds get worse however well they are chosen.
    scenario = Scenario(
        feeds=700, viewers=3, items=10_000, candidates=40, slots=5, new_items=0, new_viewers=0, wander=0.0, seed=2
    )
    config = {"explorer": {"kind": "greedy"}, "floor": 0.02, "reward": "min(watch_s, 7) / 7"}
    once, service = in_process(tmp_path / "data", scenario, config=config)
    assert service.fallbacks == 0
    table = Table(service.world, Truth(service.world.effects, service.world.lengths_s, reward_of(service.config)))
    random = play(table, policies_of(table)["uniform"](), window_s=600.0)

    def gained(part: slice) -> float:
        """Of what could be earned there beyond showing anything."""
        return float((once.value - random.value)[part].sum() / (random.best - random.value)[part].sum())

    assert gained(slice(500, 700)) > 0.15
    assert gained(slice(500, 700)) > gained(slice(0, 100))
    assert once.reward.sum() > random.reward.sum()


def test_feedback_is_learned_at_once_and_late_feedback_never(tmp_path: Path) -> None:
    once, service = in_process(tmp_path / "prompt")
    learned = service.learned
    # What is told of the last feed of a viewer never comes: they do not ask again.
    assert 0.8 * once.n_seen.sum() < learned <= once.n_seen.sum()
    late, service = in_process(tmp_path / "late", Scenario(**{**_as_dict(SMALL), "late": 1.0}))
    assert service.learned == 0
    assert late.n_seen.sum() > 0


def _as_dict(scenario: Scenario) -> dict[str, Any]:
    return {name: getattr(scenario, name) for name in scenario.__dataclass_fields__}


def test_a_running_service_is_driven_over_http(running: RunningService) -> None:
    world = World(SMALL)
    with Client(running.url) as client:
        before = client.n_learned()
        service = OverHttp(world, client, event="simulated")
        truth = Truth(world.effects, world.lengths_s, reward_of(service.config))
        once = play(Table(world, truth), service, window_s=600.0)
        assert service.fallbacks == 0
        assert client.n_learned() > before
        told, _ = client.call("GET", "/v1/events/simulated-149")
    assert told["n_candidates"] == 40
    # The best feed is found slot by slot: one in another order can be a shade better.
    assert (once.value - once.best).max() < 0.1


def test_the_command_tells_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--feeds", "60", "--viewers", "8", "--items", "200", "--candidates", "30", "--slots", "5"]
    picture, log = tmp_path / "learning.svg", tmp_path / "log"
    assert main(["simulate", *small, "--out", str(picture), "--keep", str(log), "--drift", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "feed-bandit" in told
    assert "60 feeds of 8 simulated viewers" in told
    assert picture.read_text().startswith("<?xml")
    assert (log / "log.db").exists()
    assert main(["simulate", *small, "--out", str(picture), "--json", "--policies", "service,uniform"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["policy"] for each in document["policies"]] == ["feed-bandit", "uniform"]
    assert document["scenario"]["feeds"] == 60


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--slots", "50", "--candidates", "40"], "50 slots cannot be filled from 40 candidates"),
        (["--policies", "service,magic"], "names magic; known are service"),
        (["--out", "picture.gif"], "is no picture that can be drawn"),
        (["--url", "http://127.0.0.1:1", "--vw", "-b 20"], "with --url there is none"),
        (["--config", "no-such-file.json"], "cannot be read as JSON"),
    ],
)
def test_what_cannot_be_simulated_is_said(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_config_that_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"floor": 7}')
    assert main(["simulate", "--config", str(path)]) == 2
    assert "floor" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--url", "http://127.0.0.1:1", "--out", str(tmp_path / "x.svg")]) == 1
    assert "is it running?" in capsys.readouterr().err
