"""Is what replay says of a challenger true? From the champion's log among simulated viewers, who know the truth.

The question is the challenger's value for one request, in the states that the champion visited: at every request the
challenger is drawn too, from the very state of the service, and not shown; the simulator knows what those feeds would
have earned there. `replay` has the log alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from scipy import stats

from bandit.config import ExplorerConfig, LiveConfig
from replay.answer import Options, answer
from replay.collect import collect
from replay.evaluation import fitted, named, wanted
from replay.readers import open_log
from replay.results import PolicyAnswer
from replay.simulate.kernels import I64
from replay.simulate.play import Table, Visited, play
from replay.simulate.service import InProcess
from replay.simulate.truth import Truth, reward_of
from replay.simulate.world import Feed, World
from replay.simulate.world import Scenario as Setting
from tests.quality.scenario import Measured, Policy, Scenario, Target
from tests.quality.scenario import Table as Figures
from tests.quality.stream import IN_MEMORY

#: In full, and quickly.
WORLDS: Final = (
    Setting(feeds=2_000, viewers=200, items=500, candidates=40, slots=5),
    Setting(feeds=300, viewers=60, items=200, candidates=20, slots=4),
)
#: The champion explores enough that others can be judged by its log.
CHAMPION: Final[dict[str, Any]] = {"kind": "softmax", "lambda": 2.0}
#: Challengers by name: how they explore, with the champion's model, statistics and rules.
CHALLENGERS: Final[dict[str, dict[str, Any]]] = {
    "softmax, lambda 4": {"kind": "softmax", "lambda": 4.0},
    "softmax, lambda 1": {"kind": "softmax", "lambda": 1.0},
    "squarecb, gamma 10": {"kind": "squarecb", "gamma_scale": 10.0, "gamma_exponent": 0.0},
}
FLOOR: Final = 0.1
PUBLISH_EVERY: Final = 50
#: Feeds that are drawn of the challenger at each request, for the truth.
DRAWS: Final = 2
#: Logs of each challenger; no log serves two of them, so that all count.
RUNS: Final = 334
COVERS: Final = 0.935
REFUSED: Final = 0.2


class Champion:
    """The service as it plays, and beside it a challenger that is drawn at the same requests and never shown."""

    name = "champion"

    def __init__(self, service: InProcess, explorer: dict[str, Any]) -> None:
        self._service = service
        self._ranker = service.service.ranker
        self._own: LiveConfig = self._ranker.config
        other: ExplorerConfig = msgspec.convert(explorer, ExplorerConfig)
        self._other = LiveConfig(self._own.version, msgspec.structs.replace(self._own.document, explorer=other))
        self.challenged: list[I64] = []

    def rank(self, feed: Feed, n_slots: int) -> I64:
        shown = self._service.rank(feed, n_slots)
        request = self._service.words.request(feed, n_slots)
        self._ranker.config = self._other
        drawn = []
        for draw in range(DRAWS):
            request.event_id = f"challenger-{feed.number}-{draw}"
            slots = self._ranker.rank(request).decision.slots
            drawn.append(self._service.words.places(feed, [slot.id for slot in slots]))
        self._ranker.config = self._own
        self.challenged = drawn
        return shown

    def hear(self, heard: Any, *, now: float) -> None:
        self._service.hear(heard, now=now)


def one_log(challenger: str, seed: int, quick: bool) -> Measured:
    """Whether the interval holds the truth, whether replay refused, and how far off it was."""
    world = World(replace(WORLDS[quick], seed=len(CHALLENGERS) * seed + list(CHALLENGERS).index(challenger)))
    truths: list[float] = []
    where = IN_MEMORY if IN_MEMORY.is_dir() else None
    config = {"explorer": CHAMPION, "floor": FLOOR}
    with tempfile.TemporaryDirectory(prefix="feed-bandit-quality-", dir=where) as folder:
        data = Path(folder) / "data"
        data.mkdir()
        with InProcess(world, data, config=config, publish_every=PUBLISH_EVERY) as service:
            document = service.config
            truth = Truth(world.effects, world.lengths_s, reward_of(document))
            champion = Champion(service, CHALLENGERS[challenger])

            def watch(visited: Visited) -> None:
                truths.append(truth.value_of(visited.choices, np.array(champion.challenged)))

            play(Table(world, truth), champion, window_s=document.reward_window_s, watch=watch)
            service.wait(2 * document.reward_window_s)
        found = {"truth": float(np.mean(truths))}
        for told, mark in zip(_answers(data, challenger, ("auto", "normal")), ("", ", normal"), strict=True):
            found |= _held(told, found["truth"], mark)
    return found


def _answers(data: Path, challenger: str, intervals: Sequence[str]) -> list[PolicyAnswer]:
    """As `replay.evaluate` gives them, of one pass over the log."""
    log, targets, usual = open_log(data), named([f"new={_spec(challenger)}"]), Options()
    for target in targets:
        target.prepare(log)
    model = fitted(log, targets, usual, slates=True)
    collected = collect(log, targets, wanted(log, usual, slates=True), slates=True, model=model)
    asked = [Options(interval=name) for name in intervals]
    return [answer(log, collected, targets, options, seconds=0.0).policies[0] for options in asked]


def _held(told: PolicyAnswer, value: float, mark: str) -> Measured:
    if told.refused is not None:
        return {f"refused{mark}": 1.0}
    estimate = next(each for each in told.estimates if each.estimator.startswith(told.primary))
    assert estimate.interval is not None
    low, high = estimate.interval.low, estimate.interval.high
    return {
        f"refused{mark}": 0.0, f"covers{mark}": float(low <= value <= high), f"width{mark}": high - low,
        f"off{mark}": estimate.value - value,
    }  # fmt: skip


def _spec(challenger: str) -> str:
    given = dict(CHALLENGERS[challenger])
    kind = given.pop("kind")
    return ",".join(["feed:logged", f"explorer={kind}", *(f"{name}={value:g}" for name, value in given.items()),
                     f"floor={FLOOR}"])  # fmt: skip


def _share(table: Figures, figure: str) -> tuple[float, str] | None:
    """The share over all logs, and how it is told: with Clopper and Pearson's interval."""
    found = [table[name][figure] for name in CHALLENGERS if figure in table.get(name, {})]
    n = sum(each.seeds for each in found)
    if n == 0:
        return None
    k = round(sum(each.mean * each.seeds for each in found))
    low, high = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    return k / n, f"{k / n:.1%} of {n} (95 %: {low:.1%} to {high:.1%})"


def _targets(table: Figures) -> list[Target]:
    covered, refused, normal = (_share(table, name) for name in ("covers", "refused", "covers, normal"))
    return [
        Target("`--interval normal` covers", normal[1] if normal else "not measured", None),
        Target(
            f"the interval covers the truth in at least {COVERS:.1%}",
            covered[1] if covered else "not measured",
            covered[0] >= COVERS if covered else None,
        ),
        Target(
            f"refused in at most {REFUSED:.0%}",
            refused[1] if refused else "not measured",
            refused[0] <= REFUSED if refused else None,
        ),
    ]


SCENARIO: Final = Scenario(
    name="ope",
    what=f"Off-policy estimates from the champion's log, rules and slates on: {WORLDS[0].feeds:,} feeds a log, "
    f"{WORLDS[0].candidates} candidates, {WORLDS[0].slots} slots. The value of a challenger's one request in the "
    "states that the champion visited. 95 % intervals: as `replay` chooses them for the shipped reward range, and with "
    "`--interval normal`.",
    policies=[Policy(name, partial(one_log, name), RUNS) for name in CHALLENGERS],
    figures=["covers", "refused", "width", "covers, normal", "width, normal", "truth", "off"],
    targets=_targets,
    quick=["softmax, lambda 4"],
    watched=[],
)
