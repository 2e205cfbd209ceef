"""The quality scenarios run and say something sane; how good anything is, is for `make bench-quality` to say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.records import Features
from replay.simulate.world import Scenario as Setting
from tests.quality import __main__ as command
from tests.quality import data, feeds, keel, ope, rankers, runs
from tests.quality.data import Request, Rows
from tests.quality.page import page
from tests.quality.results import Document, compare, read, write
from tests.quality.scenario import (
    OURS,
    Figure,
    Measured,
    Policy,
    Scenario,
    Watched,
    at_least,
    beats,
    figure_of,
    table_of,
)
from tests.quality.stream import Stream, stream

BEGINS = 1_800_000_000.0

# ---------------------------------------------------------------- the service on a stream of requests


@pytest.fixture
def feed() -> Iterator[Stream]:
    with stream(seed=3, begins=BEGINS) as opened:
        opened.put({f"v{number}": {"tags": ["a" if number % 2 else "b"]} for number in range(12)})
        yield opened


def play(feed: Stream, n: int) -> list[list[str]]:
    """Rankings; odd videos are liked."""
    shown = []
    for number in range(n):
        reply = feed.rank([f"v{video}" for video in range(12)], now=BEGINS + 60 * number, slots=3, viewer="u1")
        shown.append([slot.id for slot in reply.ranking])
        feed.tell(reply, [float(int(slot.id[1:]) % 2) for slot in reply.ranking])
        feed.learn()
    return shown


def test_what_was_told_is_in_the_model_that_ranks_next(feed: Stream) -> None:
    before = feed.service.model().learned_slots
    play(feed, 4)

    assert feed.service.model().learned_slots == before + 12


def test_the_service_learns_what_is_liked(feed: Stream) -> None:
    shown = play(feed, 60)

    liked = [np.mean([int(video[1:]) % 2 for video in each]) for each in shown]
    assert np.mean(liked[30:]) > 0.75


def test_the_same_seed_gives_the_same_rankings(feed: Stream) -> None:
    first = play(feed, 5)

    with stream(seed=3, begins=BEGINS) as again:
        again.put({f"v{number}": {"tags": ["a" if number % 2 else "b"]} for number in range(12)})
        assert play(again, 5) == first
    with stream(seed=4, begins=BEGINS) as other:
        other.put({f"v{number}": {"tags": ["a" if number % 2 else "b"]} for number in range(12)})
        assert play(other, 5) != first


def test_the_log_has_the_time_of_the_requests(feed: Stream) -> None:
    reply = feed.rank(["v1", "v2"], now=BEGINS + 1_000, slots=1)

    assert feed.service.event(reply.event_id).at == BEGINS + 1_000


def test_parts_of_the_config_can_be_changed() -> None:
    with stream(seed=1, begins=BEGINS, changes={"explorer": {"kind": "greedy"}}) as feed:
        feed.put({"v1": {}, "v2": {}})
        assert feed.rank(["v1", "v2"], now=BEGINS, slots=1).policy == "greedy"


# ---------------------------------------------------------------- learners by hand, and classification


class Films:
    """Forty films of two genres; every viewer likes one genre."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told: dict[str, Features] = {f"movielens-{film}": {"tags": ["xy"[film % 2]]} for film in range(1, 41)}
        for module in (data, rankers):
            monkeypatch.setattr(module, "films", lambda: told)
        monkeypatch.setattr(rankers, "viewer_features", lambda viewer: {"age": str(viewer % 3)})

    @staticmethod
    def requests(n: int) -> list[Request]:
        rng = np.random.default_rng(5)
        found = []
        for number in range(n):
            films = rng.permutation(40)[:20] + 1
            viewer = int(rng.integers(1, 4))
            found.append(Request(viewer, number * 3_600, films, (films % 2 == viewer % 2).astype(np.float64)))
        return found


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (rankers.LinUCB, 0.75),
        (rankers.VwHistory, 0.7),
        (rankers.Factors, 0.7),
        (rankers.Popular, 0.45),
        (partial(rankers.Vw, arguments="--cb_explore_adf --squarecb --cb_type mtr -q UG"), 0.7),
        (partial(rankers.VwSlots, arguments="--epsilon 0.05 -q UG"), 0.6),
    ],
    ids=["linucb", "history", "factors", "popular", "vw", "ccb"],
)
def test_a_learner_by_hand_learns(make: object, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    films = Films(monkeypatch)

    assert rankers.play(make(1), films.requests(300)) > least  # type: ignore[operator]


def test_random_and_best_are_exact() -> None:
    rewards = np.zeros(20)
    rewards[:2] = 1.0
    one = Request(1, 0, np.arange(20), rewards)

    assert rankers.exact([one]) == (0.1, 0.4)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=200)
    features: list[Features] = [{"x": f"is{label}", "noise": float(rng.random())} for label in labels]
    found = Rows(features, labels, 3)
    monkeypatch.setattr(keel, "keel", lambda name: found)
    return found


@pytest.mark.parametrize("measure", [keel.ours, keel.squarecb, keel.supervised])
def test_classification_is_learned(measure: object, rows: Rows) -> None:
    found = measure("any", 1, False)  # type: ignore[operator]

    assert found["error"] < 0.5


def test_numbers_are_brought_to_one_scale_and_names_are_left() -> None:
    assert data._scaled(("2", "4", "3")) == [0.0, 1.0, 0.5]
    assert data._scaled(("7", "7")) == [0.0, 0.0]
    assert data._scaled(("t", "f")) == ["t", "f"]


# ---------------------------------------------------------------- figures, targets, the file and the page


def test_a_figure_is_a_mean_with_its_standard_error() -> None:
    assert figure_of([1.0, 3.0]) == Figure(2.0, 1.0, 2)
    assert figure_of([2.0]) == Figure(2.0, None, 1)


def test_targets_say_met_missed_or_not_measured() -> None:
    table = table_of({OURS: [{"reward": 0.6}], "a": [{"reward": 0.5}], "b": [{"reward": 0.55}]})

    assert at_least(table, OURS, "reward", 0.6, text="").met is True
    assert at_least(table, OURS, "reward", 0.7, text="").met is False
    assert at_least(table, OURS, "regret", 0.7, text="").met is None
    assert beats(table, "reward", ["a", "b"], text="").met is True
    assert beats(table, "reward", ["a", "b"], text="", lower=True).met is False
    assert "not measured: c" in beats(table, "reward", ["a", "c"], text="").measured
    assert beats(table, "reward", ["c"], text="").met is None


def test_a_figure_fails_only_if_it_is_worse_by_more_than_its_tolerance() -> None:
    recorded = {"one": {OURS: [{"reward": 0.5, "error": 0.5}]}}
    higher, lower = Watched(OURS, "reward", "higher", 0.1), Watched(OURS, "error", "lower", 0.1)

    def verdict(watched: Watched, value: float) -> bool | None:
        return compare([watched], {OURS: [{watched.figure: value}]}, recorded, "one")[0].met

    assert verdict(higher, 0.45) is True
    assert verdict(higher, 0.35) is False
    assert verdict(higher, 0.9) is True
    assert verdict(lower, 0.55) is True
    assert verdict(lower, 0.65) is False
    assert verdict(lower, 0.1) is True
    assert compare([higher], {OURS: [{"reward": 1.0}]}, {}, "one")[0].met is False


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    document = Document(full={"one": {OURS: [{"reward": 0.25}]}}, quick={"one": {OURS: [{"reward": 1.0}]}})

    write(tmp_path / "q.json", document)

    assert read(tmp_path / "q.json").full == document.full
    assert read(tmp_path / "q.json").quick == document.quick
    assert read(tmp_path / "none.json").full == {}


def measured(seed: int, quick: bool) -> Measured:
    return {"reward": 0.5 + seed / 10}


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    scenario = Scenario(
        name="one",
        what="Nothing.",
        policies=[
            Policy(OURS, measured, 2),
            Policy("other", partial(_constant, 0.1)),
            Policy("third", partial(_constant, 0.2), note="slow"),
        ],
        figures=["reward"],
        targets=lambda table: [beats(table, "reward", ["other"], text="beats other")],
        quick=[OURS],
        watched=[Watched(OURS, "reward", "higher", 0.01)],
    )
    monkeypatch.setattr(runs, "SCENARIOS", {"one": scenario})
    monkeypatch.setattr(command, "SCENARIOS", {"one": scenario})
    # Another process would not know of this scenario.
    monkeypatch.setattr(command, "run", _in_process)
    return scenario


def _constant(value: float, seed: int, quick: bool) -> Measured:
    return {"reward": value}


def _in_process(
    todo: list[runs.Job], *, quick: bool, processes: int,
    tell: Callable[[runs.Job, Measured], None] = lambda job, found: None,
) -> dict[str, dict[str, list[Measured]]]:  # fmt: skip
    found: dict[str, dict[str, list[Measured]]] = {}
    for name, policy, seed in todo:
        one = runs.measure(name, policy, seed, quick)
        assert one is not None
        tell((name, policy, seed), one)
        found.setdefault(name, {}).setdefault(policy, []).append(one)
    return found


@pytest.mark.usefixtures("needs_movielens")
def test_a_run_has_a_process_of_its_own() -> None:
    found = runs.run([("movielens", "uniform", 1), ("movielens", "oracle", 1)], quick=True, processes=2)

    assert found["movielens"]["uniform"][0]["reward"] < found["movielens"]["oracle"][0]["reward"]


def test_a_run_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match="movielens, nobody, seed 1 failed"):
        runs.run([("movielens", "nobody", 1)], quick=True, processes=1)


@pytest.fixture
def needs_movielens() -> None:
    if not list(data.DEMO_DATA.glob("*.whl")):
        pytest.skip("the public data are downloaded by `make bench-quality`")


def test_the_command_writes_file_and_page(one: Scenario, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, text = tmp_path / "q.json", tmp_path / "q.md"

    assert command.main(["--json", str(file), "--keep", "--markdown", str(text)]) == 0

    assert json.loads(file.read_text())["full"]["one"] == {OURS: [{"reward": 0.6}, {"reward": 0.7}],
                                                            "other": [{"reward": 0.1}]}  # fmt: skip
    assert "met     one: beats other: 0.6500 against 0.1000 (other)" in capsys.readouterr().out
    assert f"| **{OURS}** | 0.6500 ± 0.0500 | 2 |" in text.read_text()


def test_more_runs_only_the_seeds_that_the_file_lacks(
    one: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "q.json"
    write(file, Document(full={"one": {OURS: [{"reward": 0.9}]}}))
    ran: list[runs.Job] = []

    def backwards(todo: list[runs.Job], **others: Any) -> None:
        ran.extend(todo)
        _in_process(todo[::-1], **others)

    monkeypatch.setattr(command, "run", backwards)
    assert command.main(["--more", "--json", str(file)]) == 0
    assert sorted(ran) == [("one", OURS, 2), ("one", "other", 1)]
    assert read(file).full["one"][OURS] == [{"reward": 0.9}, {"reward": 0.7}]


def test_what_ended_out_of_turn_is_kept_when_those_before_it_are_there(one: Scenario, tmp_path: Path) -> None:
    file = tmp_path / "q.json"

    def stopped(todo: list[runs.Job], **others: Any) -> None:
        _in_process([job for job in todo if job[1:] != (OURS, 1)], **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run", stopped)
        command.main(["--keep", "--json", str(file)])
    assert OURS not in read(file).full["one"]
    command.main(["--more", "--json", str(file)])
    assert len(read(file).full["one"][OURS]) == 2


def test_ci_holds_the_short_part_against_the_file(one: Scenario, tmp_path: Path) -> None:
    file = tmp_path / "q.json"

    assert command.main(["--ci", "--json", str(file)]) == 1
    assert command.main(["--ci", "--record", "--json", str(file)]) == 0
    assert command.main(["--ci", "--json", str(file)]) == 0
    document = read(file)
    document.quick["one"][OURS][0]["reward"] += 0.1
    write(file, document)
    assert command.main(["--ci", "--json", str(file)]) == 1


def test_the_page_says_what_was_not_measured(one: Scenario) -> None:
    text = page({"one": one}, Document(full={"one": {OURS: [{"reward": 0.5}]}}), [])

    assert "| other |  | not measured |" in text
    assert "| third |  | slow |" in text


def test_every_scenario_names_policies_that_it_has() -> None:
    for scenario in runs.SCENARIOS.values():
        names = {policy.name for policy in scenario.policies}
        assert set(scenario.quick) <= names
        assert {watched.policy for watched in scenario.watched} <= set(scenario.quick)
        assert all(watched.figure in scenario.figures for watched in scenario.watched)


# ---------------------------------------------------------------- simulated viewers


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Setting(feeds=40, viewers=10, items=120, candidates=30, slots=4, new_viewers=0.5)
    worlds = dict.fromkeys(feeds.WORLDS, (tiny, tiny))
    worlds["drift"] = (replace(tiny, drift=0.5), replace(tiny, drift=0.5))
    monkeypatch.setattr(feeds, "WORLDS", worlds)


@pytest.mark.parametrize("policy", [OURS, feeds.CCB, feeds.LARGE, "popularity", "best constant", "oracle"])
def test_a_policy_plays_among_simulated_viewers(policy: str, small: None) -> None:
    found = feeds.simulator(policy, 1, True)

    assert found["value"] > 0
    assert found["regret 1/5"] == pytest.approx(0, abs=1e-6) if policy == "oracle" else found["regret 1/5"] > 0


def test_the_same_seed_gives_the_same_figures(small: None) -> None:
    assert feeds.simulator(OURS, 2, True) == feeds.simulator(OURS, 2, True)


def test_first_feeds_recovery_and_time_are_figures(small: None) -> None:
    assert feeds.cold_viewers("popularity", 1, True)["feed 1"] > 0
    assert set(feeds.drift("popularity", 1, True)) == {"before", "after", "later", "recovered"}
    assert feeds.many("uniform", 1, True)["rank_ms"] > 0


def test_an_estimate_is_held_against_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Setting(feeds=120, viewers=30, items=100, candidates=15, slots=3)
    monkeypatch.setattr(ope, "WORLDS", (tiny, tiny))

    found = ope.one_log("softmax, lambda 4", 1, True)

    assert found["refused"] in (0.0, 1.0)
    if not found["refused"]:
        # The bounds of so few events are wide; a challenger that is drawn otherwise than replay thinks is far outside.
        assert found["covers"] == 1.0
        assert abs(found["off"]) < 0.5 * abs(found["truth"])
