"""Logs for the coverage campaign: the cases that all campaigns share, and others that nothing was tuned to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from scipy.stats import norm

from replay.events import F64, U64
from tests.campaigns.cases import CASES, DIMENSIONS, Case, softmax

Rewards = Literal["clicks", "misses", "watched", "signed", "both rare", "normal", "lognormal"]


class Log(NamedTuple):
    """One draw of a setting; every column has shape (n,)."""

    w: F64
    r: F64
    q: F64
    """A reward model's prediction for what was shown: 0.7 of the truth, 0.3 of its mean."""
    dm: F64
    """Its mean under the target."""
    viewer: U64


@dataclass(frozen=True)
class Setting:
    """A policy, a number of events, a kind of reward.

    :param rewards: ``clicks`` 0 or 1; ``misses`` 1 less clicks; ``watched`` clicks times 5 beta(2, 2); ``signed`` -1
        or 1; ``both rare`` clicks less rare dislikes; ``normal`` with standard deviation 1; ``lognormal`` with mean
        the chance of a click and a coefficient of variation 1.3
    :param each: events of a viewer, all in the same context, with rewards that are correlated 0.5 (normal copula)
    :param reward_range: what the evaluation is told
    """

    name: str
    case: Case
    n: int
    rewards: Rewards = "clicks"
    each: int = 1
    reward_range: tuple[float, float] | None = (0.0, 1.0)

    @property
    def truth(self) -> float:
        """Value of the target."""
        return float(self._mean(self.case.truth))

    @property
    def production(self) -> float:
        """Value of the logging policy."""
        return float(self._mean(self.case.production))

    def _mean(self, chance: F64 | float) -> F64 | float:
        """Expected reward where a click has this chance."""
        match self.rewards:
            case "misses":
                return 1.0 - chance
            case "watched":
                return 2.5 * chance
            case "signed":
                return 2.0 * chance - 1.0
            case "both rare":
                return chance - 0.02
        return chance

    def draw(self, seed: int) -> Log:
        """One log; other seeds are independent."""
        case, n = self.case, self.n
        rng = np.random.default_rng([seed, *self.name.encode()])
        viewers = n // self.each
        chances = np.repeat(case._chances(rng.normal(size=(viewers, DIMENSIONS))), self.each, axis=0)
        logged, target = softmax(case.beta * chances), case._target(chances)
        rows = np.arange(n)
        a = np.minimum((logged.cumsum(axis=1) <= rng.random((n, 1))).sum(axis=1), case.n_actions - 1)
        own, shared = rng.normal(size=n), np.repeat(rng.normal(size=viewers), self.each)
        z = own if self.each == 1 else (own + shared) / np.sqrt(2.0)
        chance = chances[rows, a]
        clicks = np.where(norm.cdf(z) < chance, 1.0, 0.0)
        model = np.asarray(self._mean(0.7 * chances + 0.3 * chances.mean()))
        return Log(
            w=target[rows, a] / logged[rows, a],
            r=self._reward(clicks, chance, z, rng),
            q=model[rows, a],
            dm=(target * model).sum(axis=1),
            viewer=np.repeat(np.arange(viewers, dtype=np.uint64), self.each),
        )

    def _reward(self, clicks: F64, chance: F64, z: F64, rng: np.random.Generator) -> F64:
        n = len(clicks)
        match self.rewards:
            case "misses":
                return 1.0 - clicks
            case "watched":
                return clicks * 5.0 * rng.beta(2.0, 2.0, n)
            case "signed":
                return 2.0 * clicks - 1.0
            case "both rare":
                return clicks - np.where(rng.random(n) < 0.02, 1.0, 0.0)
            case "normal":
                return chance + z
            case "lognormal":
                return chance * np.exp(z - 0.5)
        return clicks


def _like(name: str, n: int, actions: int, beta: float, target_beta: float, scale: float, *, greedy: bool) -> Case:
    return Case(name, n, actions, beta, target_beta, scale, greedy, np.inf)


_MILD, _HEAVY, _SPARSE, _GREEDY = (CASES[name] for name in ("mild", "heavy", "sparse_clicks", "sparse_uniform_greedy"))
_NEAR: Final = _like("near", 2000, 10, 1.0, 1.5, 0.03, greedy=False)
_AWAY: Final = _like("away", 4000, 20, -40.0, 1.5, 0.05, greedy=False)
_BEST: Final = _like("best", 1000, 10, 0.0, 0.0, 1.0, greedy=True)

SHARED: Final = tuple(Setting(name, case, case.n) for name, case in CASES.items())
"""The reference's cases."""

OTHERS: Final = (
    Setting("mild, 30 events", _MILD, 30),
    Setting("mild, 100 events", _MILD, 100),
    Setting("heavy, 300 events", _HEAVY, 300),
    Setting("heavy, 5,000 events", _HEAVY, 5000),
    Setting("sparse clicks, 500 events", _SPARSE, 500),
    Setting("sparse clicks, 2,000 events", _SPARSE, 2000),
    Setting("sparse clicks, 20,000 events", _SPARSE, 20_000),
    Setting("uniform to greedy, 1,000 events", _GREEDY, 1000),
    Setting("uniform to greedy, dense", _BEST, 300),
    Setting("near policy, sparse", _NEAR, 3000),
    Setting("away policy, sparse", _AWAY, 3000),
    Setting("misses are rare", _SPARSE, 2000, "misses"),
    Setting("watched 0 to 5, mild", _MILD, 500, "watched", reward_range=(0.0, 5.0)),
    Setting("watched 0 to 5, heavy", _HEAVY, 1000, "watched", reward_range=(0.0, 5.0)),
    Setting("watched 0 to 5, sparse", _SPARSE, 3000, "watched", reward_range=(0.0, 5.0)),
    Setting("-1 or 1, mild", _MILD, 500, "signed", reward_range=(-1.0, 1.0)),
    Setting("-1 or 1, heavy", _HEAVY, 1000, "signed", reward_range=(-1.0, 1.0)),
    Setting("likes and dislikes, both rare", _SPARSE, 3000, "both rare", reward_range=(-1.0, 1.0)),
    Setting("clicks, range given as 0 to 20", _SPARSE, 3000, reward_range=(0.0, 20.0)),
    Setting("normal, no range", _MILD, 500, "normal", reward_range=None),
    Setting("normal, no range, heavy", _HEAVY, 1000, "normal", reward_range=None),
    Setting("lognormal, no range", _MILD, 500, "lognormal", reward_range=None),
    Setting("40 viewers, 25 events each", _MILD, 1000, each=25),
    Setting("1,000 viewers, 2 events each", _MILD, 2000, each=2),
    Setting("500 viewers, 4 each, heavy", _HEAVY, 2000, each=4),
    Setting("200 viewers, 20 each, sparse", _SPARSE, 4000, each=20),
    Setting("3,000 viewers, 3 each, sparse", _SPARSE, 9000, each=3),
)
"""Other numbers of events, policies, rewards and viewers. Weight bounds are not given."""
