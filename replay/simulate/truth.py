"""The truth that only a simulator knows: what a slot, a feed, a ranking is worth on average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from bandit.config import Config, LiveConfig
from bandit.learning.fold import configured_reward
from replay.errors import BadQuestion
from replay.simulate import viewing
from replay.simulate.kernels import I64, Choices, Effects, RewardTable, best_slate, first_rewards, slate_values

F64 = npt.NDArray[np.float64]

#: Reward of what a viewer did with a video: from the signals and the video's length in seconds.
RewardOf = Callable[[Mapping[str, float], float], float]

LOWEST: Final = -12.0
HIGHEST: Final = 8.0
STEP: Final = 0.05
#: Watch times are averaged over so many quantiles.
N_QUANTILES: Final = 40


def reward_of(document: Config) -> RewardOf:
    """The reward that a config gives, as the service's fold computes it."""
    live = LiveConfig(0, document)

    def reward(signals: Mapping[str, float], length_s: float) -> float:
        value = configured_reward(signals, None, live, length_s)
        if value is None:
            raise BadQuestion(f"the reward {document.reward!r} has no value for the signals {dict(signals)}")
        return value

    return reward


def reward_table(lengths_s: F64, reward: RewardOf) -> RewardTable:
    """Expected reward of a seen slot, for videos of these lengths (shape (n_lengths,)) over a grid of logits.

    Exact but for the quantiles of watch time and the straight lines between the grid's logits: what a viewer says
    is enumerated.
    """
    logits = np.arange(LOWEST, HIGHEST + STEP / 2, STEP)
    quantiles = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
    values = np.zeros((len(lengths_s), len(logits)))
    for valid, share in ((True, viewing.valid_share(logits)), (False, 1.0 - viewing.valid_share(logits))):
        names = viewing.SAID_OF[valid]
        watched = [
            [viewing.watched(watch_s, valid) for watch_s in viewing.watch_s(quantiles, length_s, valid).tolist()]
            for length_s in np.broadcast_to(lengths_s[:, None], (len(lengths_s), N_QUANTILES))
        ]
        said = [viewing.said_share(name, logits) for name in names]
        for pattern in product((False, True), repeat=len(names)):
            likely = share.copy()
            for yes, probability in zip(pattern, said, strict=True):
                likely *= probability if yes else 1.0 - probability
            signals = {name: 1.0 for name, yes in zip(names, pattern, strict=True) if yes}
            for row, length_s in enumerate(lengths_s.tolist()):
                rewards = [reward({**signals, **told}, length_s) for told in watched[row]]
                values[row] += likely * (sum(rewards) / N_QUANTILES)
    return RewardTable(values, LOWEST, STEP)


class Truth:
    """What feeds are worth, under one reward.

    :param lengths_s: the lengths that the rows of `Choices.length` stand for
    """

    def __init__(self, effects: Effects, lengths_s: F64, reward: RewardOf) -> None:
        self.effects = effects
        self.reward = reward
        self.table = reward_table(lengths_s, reward)

    def first(self, choices: Choices) -> F64:
        """Expected reward of each candidate if it stood first; shape (n,)."""
        return first_rewards(choices, self.table)

    def slots(self, choices: Choices, slate: I64) -> tuple[F64, F64]:
        """Expected reward of each slot (unseen is 0), and how likely it is seen; both (n_slots,).

        :param slate: shape (n_slots,), places among the candidates
        """
        return slate_values(choices, self.effects, self.table, slate)

    def value(self, choices: Choices, slate: I64) -> float:
        """Expected sum of rewards of one feed."""
        return float(self.slots(choices, slate)[0].sum())

    def value_of(self, choices: Choices, slates: npt.NDArray[np.int64]) -> float:
        """Expected value of one request under another ranking, here and now: the mean over its draws.

        :param slates: shape (n_draws, n_slots), draws of that ranking for these candidates
        """
        return float(np.mean([self.value(choices, slate) for slate in slates]))

    def best(self, choices: Choices, n_slots: int) -> I64:
        """Places of the best feed, slot by slot: what each slot earns at most, given the slots above."""
        return best_slate(choices, self.effects, self.table, n_slots)
