"""gittins, an engine for one choice at a time, in the simulated world: ``python -m tests.bench.simulated``.

It is installed into a folder of its own, `.cache/gittins`, at the first call.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from bandit.config import Config
from replay.simulate.kernels import I64
from replay.simulate.play import Table, play, policies_of
from replay.simulate.policies import Heard, NothingTwice
from replay.simulate.report import describe
from replay.simulate.truth import Truth, reward_of
from replay.simulate.world import Feed, Scenario, World, hour_of

FOLDER: Final = Path(__file__).resolve().parent.parent.parent / ".cache" / "gittins"
PINNED: Final = "gittins==2.0.1"
#: Nothing is given up: what was never seen must not be learned as worth nothing.
HORIZON_S: Final = 1e9


def installed() -> Any:
    """The module, or None if it cannot be had here."""
    if not FOLDER.exists():
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(FOLDER), PINNED], capture_output=True, text=True)
        if done.returncode:
            print(f"gittins cannot be had here: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        return importlib.import_module("gittins")
    except ImportError as error:
        print(f"gittins cannot be had here: {error}", file=sys.stderr)
        return None


class Gittins:
    """Chooses slot by slot among what is left; hears what the service hears.

    :param engine: the module
    """

    name = "gittins"

    def __init__(self, engine: Any, world: World) -> None:
        self._engine = engine
        self._state = engine.create(bits=18, horizon=HORIZON_S)
        self._items = [(name, _flat(world.catalogue.features(item))) for item, name in enumerate(world.catalogue.ids)]
        self._open: dict[int, dict[int, Any]] = {}

    def rank(self, feed: Feed, n_slots: int) -> I64:
        context = {"viewer": f"u{feed.viewer}", "daypart": f"d{hour_of(feed.at) // 6}"}
        left = list(range(len(feed.candidates)))
        items = feed.candidates.tolist()
        drawn: dict[int, Any] = {}
        chosen = []
        for slot in range(n_slots):
            offered = [self._items[items[place]] for place in left]
            record = self._engine.decide(self._state, context, offered, feed.at, f"{feed.number}-{slot}")
            place = left.pop(record.chosen)
            drawn[items[place]] = record.decision_id
            chosen.append(place)
        self._open[feed.number] = drawn
        return np.array(chosen, np.int64)

    def hear(self, heard: Heard, *, now: float) -> None:
        if heard.late or heard.again:
            return
        for item, reward in zip(heard.items.tolist(), heard.rewards.tolist(), strict=True):
            self._engine.learn(self._state, self._open[heard.feed.number][item], reward, now)


def _flat(features: dict[str, Any]) -> dict[str, Any]:
    tags = features.pop("tags", [])
    return {**features, **{f"tag {tag}": True for tag in tags}}


def main() -> int:
    """Exit status: 0 played, 1 gittins cannot be had."""
    parser = argparse.ArgumentParser(description="Play gittins among simulated viewers.")
    for name in ("feeds", "viewers", "candidates", "slots", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Scenario(), name))
    engine = installed()
    if engine is None:
        return 1
    world = World(Scenario(**vars(parser.parse_args())))
    truth = Truth(world.effects, world.lengths_s, reward_of(Config()))
    plays = []
    for name in ("gittins", "popularity", "uniform"):
        table = Table(world, truth)
        theirs = NothingTwice(Gittins(engine, world), table.unseen)
        policy = theirs if name == "gittins" else policies_of(table)[name]()
        plays.append(play(table, policy, window_s=Config().reward_window_s))
    print(describe(plays, world.scenario, world.is_new))
    return 0


if __name__ == "__main__":
    sys.exit(main())
