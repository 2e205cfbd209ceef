"""Vowpal Wabbit's own lists, ``--ccb_explore_adf``, as a peer in the simulated world."""

from __future__ import annotations

from typing import Final

import numpy as np
from vowpalwabbit import Workspace

from replay.simulate.kernels import I64
from replay.simulate.policies import Heard
from replay.simulate.world import Feed, World, hour_of

ARGUMENTS: Final = "-b 18 -q UI -q CI -l 0.2 --epsilon 0.05"


class VwCcb:
    """VW draws every slot and says how likely it was; what was seen is learned with that probability.

    It is told what the service is told: who the viewer is, the time of day, and the features of all videos.

    :param arguments: besides ``--ccb_explore_adf``; the viewer is in namespace U, time in C, the video in I
    """

    name = "VW ccb"

    def __init__(self, world: World, *, arguments: str = ARGUMENTS) -> None:
        self._vw = Workspace(f"--quiet --ccb_explore_adf --random_seed {world.scenario.seed + 1} {arguments}")
        self._items = [_line(world.catalogue.features(item), name) for item, name in enumerate(world.catalogue.ids)]
        self._drawn: dict[int, list[list[tuple[int, float]]]] = {}

    def _head(self, feed: Feed) -> list[str]:
        shared = f"ccb shared |U u{feed.viewer} |C hour{hour_of(feed.at) // 6}"
        return [shared, *(self._items[item] for item in feed.candidates.tolist())]

    def rank(self, feed: Feed, n_slots: int) -> I64:
        slots = self._vw.predict([*self._head(feed), *["ccb slot |"] * n_slots])
        self._drawn[feed.number] = [[(int(action), float(chance)) for action, chance in slot] for slot in slots]
        return np.array([slot[0][0] for slot in self._drawn[feed.number]], np.int64)

    def hear(self, heard: Heard, *, now: float) -> None:
        if heard.late or heard.again:
            return
        reward_of = dict(zip(heard.items.tolist(), heard.rewards.tolist(), strict=True))
        slots = []
        for slot in self._drawn[heard.feed.number]:
            action, chance = slot[0]
            reward = reward_of.get(int(heard.feed.candidates[action]))
            others = "".join(f",{each}:{probability}" for each, probability in slot[1:])
            slots.append("ccb slot |" if reward is None else f"ccb slot {action}:{-reward}:{chance}{others} |")
        self._vw.learn([*self._head(heard.feed), *slots])


def _line(features: dict[str, object], name: str) -> str:
    words = [f"{name}", *(f"{key}={features[key]}".replace(" ", "_") for key in ("creator", "sound", "language"))]
    tags = features.get("tags")
    words += [f"tag={tag}" for tag in tags] if isinstance(tags, list) else []
    return "ccb action |I " + " ".join(words)
