"""Scenarios among simulated viewers (`replay.simulate`), whose taste is known: the truth is exact.

The numbers that count are true values (`Played.value`): what a ranking earns on average over the luck of the viewers.
All policies play the very same requests.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from vowpalwabbit import Workspace

from bandit.config import Config
from replay.simulate.ccb import _line
from replay.simulate.kernels import I64
from replay.simulate.play import Played, Table, play, policies_of
from replay.simulate.policies import Heard, NothingTwice, Policy
from replay.simulate.report import early_feeds, recovery
from replay.simulate.service import InProcess
from replay.simulate.truth import Truth, reward_of
from replay.simulate.world import Feed, World, hour_of
from replay.simulate.world import Scenario as Setting
from tests.bench.simulated import Gittins, installed
from tests.quality.peers import NoPeers
from tests.quality.scenario import OURS, Measured, Scenario, Target, Watched, beats, mean_of
from tests.quality.scenario import Policy as Measurable
from tests.quality.scenario import Table as Figures
from tests.quality.stream import IN_MEMORY

CCB: Final = "VW ccb_explore_adf"
LARGE: Final = "VW --large_action_space"
NO_DECAY: Final = "feed-bandit without decay"

#: Each scenario's world: in full, and quickly.
WORLDS: Final = {
    "simulator": (
        Setting(feeds=50_000, viewers=1_000, items=3_000, candidates=200, slots=10),
        Setting(feeds=800, viewers=40, items=1_000, candidates=200, slots=10),
    ),
    "cold-viewers": (
        Setting(feeds=8_000, viewers=1_000, items=2_000, candidates=200, slots=10, new_viewers=0.9),
        Setting(feeds=600, viewers=100, items=1_000, candidates=100, slots=10, new_viewers=0.9),
    ),
    "drift": (
        Setting(feeds=20_000, viewers=400, items=3_000, candidates=200, slots=10, drift=0.5),
        Setting(feeds=600, viewers=20, items=1_000, candidates=100, slots=10, drift=0.5),
    ),
    "candidates-1000": (
        Setting(feeds=3_000, viewers=150, items=3_000, candidates=1_000, slots=10),
        Setting(feeds=200, viewers=20, items=2_000, candidates=1_000, slots=10),
    ),
}
#: How much of the run after tastes changed is to bring back how much of what was gained before.
RECOVERS: Final = 0.9
QUARTER: Final = 0.25


class Timed:
    """A way to ask for a ranking, and the processor's seconds that each took."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask
        self.took: list[float] = []

    def __call__(self, *given: Any) -> Any:
        began = time.thread_time()
        answer = self._ask(*given)
        self.took.append(time.thread_time() - began)
        return answer


class VwLarge:
    """VW's squarecb over a large action space; slots are drawn from one prediction, without replacement.

    :param n_slots: VW is asked to keep twice as many actions
    """

    name = LARGE

    def __init__(self, world: World, n_slots: int) -> None:
        self._vw = Workspace(
            f"--quiet --cb_explore_adf --cb_type mtr --squarecb --large_action_space --max_actions {2 * n_slots} "
            f"-b 18 -q UI -q CI -l 0.2 --random_seed {world.scenario.seed + 1}"
        )
        self._rng = np.random.default_rng([world.scenario.seed, 31])
        listed = enumerate(world.catalogue.ids)
        self._items = [_line(world.catalogue.features(item), name).removeprefix("ccb action ") for item, name in listed]
        self._drawn: dict[int, tuple[str, dict[int, float]]] = {}

    def rank(self, feed: Feed, n_slots: int) -> I64:
        head = f"shared |U u{feed.viewer} |C hour{hour_of(feed.at) // 6}"
        items = feed.candidates.tolist()
        chances = np.array(self._vw.predict([head, *(self._items[item] for item in items)]))
        chances = np.maximum(chances, 0.0)
        likely = np.flatnonzero(chances)
        n = min(n_slots, len(likely))
        drawn = self._rng.choice(likely, n, replace=False, p=chances[likely] / chances[likely].sum())
        if n < n_slots:
            rest = np.setdiff1d(np.arange(len(items)), drawn)
            drawn = np.concatenate([drawn, self._rng.choice(rest, n_slots - n, replace=False)])
        floor = 1.0 / len(items)
        self._drawn[feed.number] = (head, {items[at]: max(float(chances[at]), floor) for at in drawn.tolist()})
        return np.asarray(drawn, np.int64)

    def hear(self, heard: Heard, *, now: float) -> None:
        head, chances = self._drawn[heard.feed.number]
        for item, reward in zip(heard.items.tolist(), heard.rewards.tolist(), strict=True):
            # mtr learns from the chosen action alone; the others count, and may be empty.
            empty = ["|"] * (len(heard.feed.candidates) - 1)
            self._vw.learn([head, f"0:{-reward}:{chances[item]} {self._items[item]}", *empty])


# ---------------------------------------------------------------- playing


def setting_of(name: str, seed: int, quick: bool) -> Setting:
    """The world of a scenario."""
    return replace(WORLDS[name][quick], seed=seed)


@contextmanager
def _ours(world: World) -> Iterator[Policy]:
    where = IN_MEMORY if IN_MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="feed-bandit-quality-", dir=where) as folder,
        InProcess(world, Path(folder)) as service,
    ):
        yield service


@contextmanager
def _policy(name: str, table: Table) -> Iterator[Policy]:
    world = table.world
    if name == OURS:
        with _ours(world) as service:
            yield service
    elif name == "gittins":
        engine = installed()
        if engine is None:
            raise NoPeers("gittins cannot be had here")
        yield NothingTwice(Gittins(engine, world), table.unseen)
    elif name == LARGE:
        yield NothingTwice(VwLarge(world, world.scenario.slots), table.unseen)
    else:
        known = {CCB: "ccb", "best constant": "constant"}
        yield policies_of(table)[known.get(name, name)]()


def played(name: str, policy: str, seed: int, quick: bool) -> tuple[World, Played, list[float]]:
    """A whole run, and the seconds that its rankings took."""
    world = World(setting_of(name, seed, quick))
    document = Config()
    truth = Truth(world.effects, world.lengths_s, reward_of(document))
    table = Table(world, truth)
    with _policy(policy, table) as made:
        if isinstance(made, InProcess):
            # Between two requests it also trains, which is no part of an answer.
            timed: Any = Timed(made.service.rank)
            made.service.rank = timed  # type: ignore[method-assign]
        else:
            timed = Timed(made.rank)
            made.rank = timed  # type: ignore[method-assign]
        return world, play(table, made, window_s=document.reward_window_s), timed.took


# ---------------------------------------------------------------- simulator


def simulator(policy: str, seed: int, quick: bool) -> Measured:
    """Value a feed, and the regret by fifths of the run."""
    _, run, _ = played("simulator", policy, seed, quick)
    fifths = np.array_split(run.regret, 5)
    return {
        "value": float(run.value.mean()),
        "reward": float(run.reward.mean()),
        **{f"regret {place + 1}/5": float(part.mean()) for place, part in enumerate(fifths)},
    }


def _simulator_targets(table: Figures) -> list[Target]:
    others = [CCB, "gittins", "popularity", "best constant"]
    fourth, last = (mean_of(table, OURS, f"regret {place}/5") for place in (4, 5))
    falling = None if fourth is None or last is None else last < fourth
    told = "not measured" if fourth is None or last is None else f"{fourth:.4f}, then {last:.4f}"
    return [
        beats(table, "value", others, text="highest total reward (as true value a feed)"),
        Target("regret still falling in the last fifth", told, falling),
    ]


# ---------------------------------------------------------------- cold viewers


def cold_viewers(policy: str, seed: int, quick: bool) -> Measured:
    """Value of viewers' first feeds."""
    world, run, _ = played("cold-viewers", policy, seed, quick)
    rows = early_feeds(run, world.is_new)
    return {f"feed {name}": value for name, value, _ in rows if value is not None}


COLD: Final = ("feed 1", "feed 2", "feed 3", "feed 4–5", "feed 6–10")


def _cold_targets(table: Figures) -> list[Target]:
    return [
        beats(table, figure, ["popularity"], text=f"a new viewer's {figure} better than popularity's")
        for figure in COLD[1:]
    ]


# ---------------------------------------------------------------- drift


def drift(policy: str, seed: int, quick: bool) -> Measured:
    """What is gained over showing anything, around the moment when all tastes change."""
    world, run, _ = played("drift", policy, seed, quick)
    _, random, _ = played("drift", "uniform", seed, quick)
    assert world.scenario.drift is not None
    found = recovery(run, random, world.scenario.drift)
    return {
        "before": found.before, "after": found.after, "later": found.later,
        "recovered": found.recovered if found.recovered is not None else float("nan"),
    }  # fmt: skip


def without_decay(seed: int, quick: bool) -> Measured:
    """The same with statistics that forget nothing. In a process of its own, with kernels compiled for it."""
    with tempfile.TemporaryDirectory(prefix="feed-bandit-quality-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.quality.feeds", str(seed), str(int(quick))],
            capture_output=True, text=True, env={**os.environ, "NUMBA_CACHE_DIR": folder},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"without decay it failed: {done.stderr.strip()[-400:]}")
    found: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _forget_nothing() -> None:
    """Set every half-life so high that nothing is forgotten; only where no kernel was compiled yet."""
    for part in ("profiles", "columns", "folding"):
        module = importlib.import_module(f"bandit.statistics.{part}")
        for name in vars(module).copy():
            if name.endswith("HALF_LIFE"):
                setattr(module, name, 1e15)


def _drift_targets(table: Figures) -> list[Target]:
    value = mean_of(table, OURS, "recovered")
    return [
        Target(
            f"recovers {RECOVERS:.0%} of what was gained before, 5 to 10 % of the run after",
            "not measured" if value is None else f"{value:.2f}",
            None if value is None else value >= RECOVERS,
        ),
        beats(table, "later", [NO_DECAY], text="gains more there than without decay"),
    ]


# ---------------------------------------------------------------- a thousand candidates


def many(policy: str, seed: int, quick: bool) -> Measured:
    """Value a feed, and the median time of a ranking."""
    _, run, took = played("candidates-1000", policy, seed, quick)
    return {"value": float(run.value.mean()), "rank_ms": 1_000 * float(np.median(took[len(took) // 10 :]))}


def _many_targets(table: Figures) -> list[Target]:
    ours, theirs = (mean_of(table, policy, "rank_ms") for policy in (OURS, LARGE))
    ratio = None if ours is None or not theirs else ours / theirs
    return [
        beats(table, "value", [LARGE], text="higher reward (as true value a feed)"),
        Target(
            "at a quarter of the time: processor time of a request, ours with its log and all features",
            "not measured" if ratio is None else f"{ratio:.2f}",
            None if ratio is None else ratio <= QUARTER,
        ),
    ]


# ---------------------------------------------------------------- all of them


def _of(measure: Callable[..., Measured], names: list[str], seeds: int) -> list[Measurable]:
    return [Measurable(name, partial(measure, name), seeds) for name in names]


_WORLD: Final = "{feeds:,} feeds of {viewers:,} viewers, {items:,} videos, {candidates:,} candidates, {slots} slots."


def _what(name: str, text: str) -> str:
    full: dict[str, Any] = vars(WORLDS[name][0])
    return f"Simulated viewers (`python -m replay simulate`), {_WORLD.format(**full)} {text}"


SCENARIOS: Final[list[Scenario]] = [
    Scenario(
        name="simulator",
        what=_what("simulator", "Value a feed: the expected sum of rewards over its slots, which only the simulator "
                   "knows; regret: what the best feed would have brought more, by fifths of the run."),
        policies=_of(simulator, [OURS, CCB, "gittins", "best constant", "popularity", "uniform", "oracle"], 1),
        figures=["value", *(f"regret {place}/5" for place in range(1, 6))],
        targets=_simulator_targets,
        quick=[OURS, "popularity", "uniform"],
        watched=[Watched(OURS, "value", "higher", 0.15)],
        hold=lambda table: [beats(table, "value", ["uniform"], text="beats uniform")],
    ),
    Scenario(
        name="cold-viewers",
        what=_what("cold-viewers", "Nine in ten viewers come for the first time during the run: true value of their "
                   "first feeds."),
        policies=_of(cold_viewers, [OURS, "popularity", "best constant", "uniform", "oracle"], 2),
        figures=list(COLD),
        targets=_cold_targets,
        quick=[],
        watched=[],
    ),
    Scenario(
        name="drift",
        what=_what("drift", "All tastes change at half time, and what makes videos good with them. What is gained over "
                   "showing anything: over the tenth of the run before, the hundredth after, and from 5 to 10 % after; "
                   "recovered is the last over the first. With `stayed_s` 7 it is .79 (before 1.174, after .757, "
                   "later .931, 2 seeds). Why not .9: by then a viewer has swiped some 20 to 40 times "
                   "since, a video was seen 2 to 5 times, and a swipe is mostly luck (what a slot earns goes with what "
                   "it is worth by a correlation of .35, staying by .47). What is still remembered is not in the way: "
                   "in a stand-in for the service (seed 1, within .04) that recovers .83 with `stayed_s` 7, it is "
                   ".78 if tastes are forgotten at the very moment, and without the counts of who stayed .82, with "
                   "all tastes forgotten .81, with what is known of items too .72, with the weights too .60. Were "
                   "statistics free of luck, a service begun anew would be where it stays after 5 to 10 % of a run, "
                   "and this one back "
                   "to .85."),
        policies=[*_of(drift, [OURS], 2), Measurable(NO_DECAY, without_decay, 2), *_of(drift, ["popularity"], 2)],
        figures=["before", "after", "later", "recovered"],
        targets=_drift_targets,
        quick=[],
        watched=[],
    ),
    Scenario(
        name="candidates-1000",
        what=_what("candidates-1000", "Value a feed, and the processor time of a ranking."),
        policies=_of(many, [OURS, LARGE, "popularity", "uniform", "oracle"], 1),
        figures=["value", "rank_ms"],
        targets=_many_targets,
        quick=[OURS],
        watched=[Watched(OURS, "value", "higher", 0.2)],
    ),
]  # fmt: skip


if __name__ == "__main__":
    _forget_nothing()
    print(json.dumps(drift(OURS, int(sys.argv[1]), bool(int(sys.argv[2])))))
