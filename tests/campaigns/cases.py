"""Synthetic logs with a known truth, for the campaigns: the regimes that off-policy evaluation is usually shown on.

The model is that of obp's ``SyntheticBanditDataset`` with its logistic reward function: five normal contexts, logits
linear in contexts, actions and their products with uniform coefficients, a logging policy softmax(beta * expected
reward), a target softmax(target_beta * expected reward / its spread), or greedy. Two deliberate differences: obp
shifts the logits by the mean of the *batch* it draws, so its truth moves from batch to batch, and it draws actions
with the same uniform numbers in every batch; here the shift is a constant, that of a large batch, and each seed has
random numbers of its own. Events are then independent, with exactly the truth that is stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, qmc

from replay.events import F64, I64, U64

DIMENSIONS = 5
COEFFICIENTS_SEED = 7
LARGE_BATCH_SEED = 99
LARGE_BATCH = 100_000


class Draw(NamedTuple):
    """One log of a case: n events of one slot."""

    w: F64
    """Shape (n,): target over logged probability of what was shown."""
    r: F64
    """Shape (n,): rewards."""
    a: I64
    """Shape (n,): what was shown, from 0."""
    p: F64
    """Shape (n,): its logged probability."""
    pmf: F64
    """Shape (n, actions): the target's probabilities."""
    contexts: F64
    """Shape (n, 5)."""
    expected_reward: F64
    """Shape (n, actions): of each action, given the context."""
    viewer: U64
    """Shape (n,): each event is its own viewer."""
    logged_pmf: F64
    """Shape (n, actions): the logging policy's probabilities."""


@dataclass(frozen=True)
class Case:
    """A regime; ``draw`` gives as many logs of it as there are seeds.

    :param n: events of a draw, unless asked otherwise
    :param beta: how much the logging policy prefers what is good; negative: what is bad
    :param target_beta: the same for the target, on standardised rewards; ignored if ``greedy``
    :param scale: expected rewards are this times a logistic function: .03 for sparse clicks
    :param weight_bound: what the evaluation is told of the largest possible weight
    :param reward_range: rewards are the lower or the higher end
    """

    name: str
    n: int
    n_actions: int
    beta: float
    target_beta: float
    scale: float
    greedy: bool
    weight_bound: float
    reward_range: tuple[float, float] = (0.0, 1.0)

    @cached_property
    def _coefficients(self) -> tuple[F64, F64]:
        """Intercepts, shape (actions,), and slopes, shape (5, actions), of the logits."""
        rng = np.random.RandomState(COEFFICIENTS_SEED)
        context = rng.uniform(-1, 1, size=DIMENSIONS + 1)
        action = rng.uniform(-1, 1, size=self.n_actions + 1)
        product = rng.uniform(-1, 1, size=(DIMENSIONS + 1, self.n_actions + 1))
        both = context[:, None] + product[:, :1] + product[:, 1:]
        intercept = both[0] + action[0] + action[1:]
        large = np.random.RandomState(LARGE_BATCH_SEED).normal(size=(LARGE_BATCH, DIMENSIONS))
        logits = intercept + large @ both[1:]
        return intercept - logits.mean() / logits.std(), both[1:]

    @cached_property
    def _spread(self) -> float:
        large = np.random.RandomState(LARGE_BATCH_SEED).normal(size=(LARGE_BATCH, DIMENSIONS))
        return float(self._chances(large).std())

    def _chances(self, contexts: F64) -> F64:
        """Shape (n, actions): probability of the higher reward."""
        intercept, slope = self._coefficients
        return self.scale / (1.0 + np.exp(-(intercept + contexts @ slope)))

    def _target(self, chances: F64) -> F64:
        if self.greedy:
            pmf = np.zeros_like(chances)
            pmf[np.arange(len(chances)), chances.argmax(axis=1)] = 1.0
            return pmf
        return softmax(self.target_beta * chances / self._spread)

    @cached_property
    def truth(self) -> float:
        """The target's value: an integral over contexts by 2^17 quasi-random points, good to about 1e-5 of it."""
        points = norm.ppf(qmc.Sobol(DIMENSIONS, seed=0).random_base2(17))
        chances = self._chances(points)
        low, high = self.reward_range
        return low + (high - low) * float((chances * self._target(chances)).sum(axis=1).mean())

    @cached_property
    def production(self) -> float:
        """The logging policy's value, as exactly."""
        points = norm.ppf(qmc.Sobol(DIMENSIONS, seed=0).random_base2(17))
        chances = self._chances(points)
        low, high = self.reward_range
        return low + (high - low) * float((chances * softmax(self.beta * chances)).sum(axis=1).mean())

    def draw(self, seed: int, n: int | None = None) -> Draw:
        """One log; other seeds are independent.

        :param n: events; the case's own number if None
        """
        n = self.n if n is None else n
        rng = np.random.default_rng([seed, *self.name.encode()])
        contexts = rng.normal(size=(n, DIMENSIONS))
        chances = self._chances(contexts)
        logged = softmax(self.beta * chances)
        rows = np.arange(n)
        a = np.minimum((logged.cumsum(axis=1) <= rng.random((n, 1))).sum(axis=1), self.n_actions - 1)
        low, high = self.reward_range
        r = low + (high - low) * (rng.random(n) < chances[rows, a]).astype(np.float64)
        target = self._target(chances)
        p = logged[rows, a]
        return Draw(
            w=target[rows, a] / p,
            r=r,
            a=a,
            p=p,
            pmf=target,
            contexts=contexts,
            expected_reward=low + (high - low) * chances,
            viewer=np.arange(n, dtype=np.uint64),
            logged_pmf=logged,
        )


def softmax(logits: F64) -> F64:
    """Shape (n, actions): each row sums to 1."""
    powers: F64 = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("mild", 1000, 10, 1.0, 1.0, 1.0, False, 30.0),
        Case("heavy", 1000, 20, -3.0, 3.0, 1.0, False, 20_000.0),
        Case("sparse_clicks", 5000, 10, 2.0, 2.0, 0.03, False, 100.0),
        Case("sparse_uniform_greedy", 5000, 50, 0.0, 0.0, 0.03, True, 50.0001),
    )
}
