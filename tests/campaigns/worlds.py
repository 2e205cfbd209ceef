"""Logs that are written while production learns, tastes drift or viewers return: where looking often is hardest.

Each world knows the target's expected reward at every event given what came before, so that the running mean, which
is what a sequence is about, is exact. Rewards are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Final, NamedTuple

import numpy as np

from replay.events import F64, I64
from tests.campaigns.cases import CASES


class World(NamedTuple):
    """One log."""

    w: F64
    """Shape (n,): weights; of feeds x / y, and w_{1:L} where y = 0."""
    r: F64
    """Shape (n,): rewards of events."""
    values: F64
    """Shape (n,): the target's expected reward given the past."""
    production: F64
    """Shape (n,): the same of production."""
    bound: float
    feeds: bool = False


def of_case(name: str, *, bound: float | None = None, events: int | None = None) -> Callable[[int], Iterator[World]]:
    """Independent events."""

    def draws(seeds: int) -> Iterator[World]:
        case = CASES[name]
        for seed in range(seeds):
            draw = case.draw(seed, events)
            n = len(draw.w)
            yield World(
                draw.w, draw.r, np.full(n, case.truth), np.full(n, case.production),
                case.weight_bound if bound is None else bound,
            )  # fmt: skip

    return draws


ACTIONS: Final = 5
EPSILON: Final = 0.2
VIEWERS: Final = 40
_MEANS: Final = np.array([0.1, 0.3, 0.35, 0.2, 0.5])
_TARGET: Final = np.array([0.05, 0.1, 0.15, 0.4, 0.3])


def learning(*, n: int, drift: bool = False, returning: bool = False) -> Callable[[int], Iterator[World]]:
    """Production is epsilon-greedy over running means of what it showed; all seeds are simulated side by side.

    :param drift: expected rewards swing as events go by
    :param returning: every event is one of a few viewers, each with expected rewards of their own; production learns
        for each of them apart
    """

    def draws(seeds: int) -> Iterator[World]:
        rng = np.random.default_rng([n, drift, returning])
        each = np.arange(seeds)
        viewers = VIEWERS if returning else 1
        tastes = np.clip(_MEANS + 0.15 * rng.normal(size=(seeds, viewers, ACTIONS)), 0.01, 0.99)
        if not returning:
            tastes[:] = _MEANS
        shown, earned = np.ones((seeds, viewers, ACTIONS)), np.full((seeds, viewers, ACTIONS), 0.5)
        columns = np.empty((4, seeds, n))
        for i in range(n):
            viewer = rng.integers(viewers, size=seeds)
            means = tastes[each, viewer]
            if drift:
                means = np.clip(means + 0.3 * np.sin(i / 150 + np.arange(ACTIONS)), 0.0, 1.0)
            logged = np.full((seeds, ACTIONS), EPSILON / ACTIONS)
            logged[each, (earned[each, viewer] / shown[each, viewer]).argmax(axis=1)] += 1.0 - EPSILON
            a = np.minimum((logged.cumsum(axis=1) <= rng.random((seeds, 1))).sum(axis=1), ACTIONS - 1)
            r = (rng.random(seeds) < means[each, a]).astype(np.float64)
            shown[each, viewer, a] += 1.0
            earned[each, viewer, a] += r
            columns[:, :, i] = _TARGET[a] / logged[each, a], r, means @ _TARGET, (means * logged).sum(axis=1)
        bound = float(_TARGET.max() / (EPSILON / ACTIONS))
        for seed in range(seeds):
            w, r, values, production = columns[:, seed]
            yield World(w, r, values, production, bound)

    return draws


SLOTS: Final = 3


def feeds(*, n: int, likely: float, bounded: bool) -> Callable[[int], Iterator[World]]:
    """Slots drawn without replacement; a slot's reward depends on the slots above. Values by enumeration.

    :param likely: scales the chance of a reward in each slot; an event's reward is their mean
    :param bounded: whether the bound on weights is told
    """

    def draws(seeds: int) -> Iterator[World]:
        slates = np.array(list(permutations(range(ACTIONS), SLOTS)))
        logged, target = (
            _slate_probabilities(np.ones(ACTIONS), slates),
            _slate_probabilities(1.0 + 4.0 * _MEANS, slates),
        )
        chance = likely * _MEANS[slates]
        chance[:, 1:] *= np.where(slates[:, :-1] > slates[:, 1:], 1.3, 0.8)  # what is above matters
        weights = np.cumprod(target / logged, axis=1)
        per_slate = chance.mean(axis=1)
        value, production = (float(p.prod(axis=1) @ per_slate) for p in (target, logged))
        rng = np.random.default_rng([n, int(1000 * likely), bounded])
        for _ in range(seeds):
            drawn = rng.choice(len(slates), size=n, p=logged.prod(axis=1))
            reward = (rng.random((n, SLOTS)) < chance[drawn]) / SLOTS
            y = reward.sum(axis=1)
            x = (weights[drawn] * reward).sum(axis=1)
            pair = np.where(y > 0, np.divide(x, y, out=np.ones(n), where=y > 0), weights[drawn, -1])
            bound = float(weights.max()) if bounded else np.inf
            yield World(pair, y, np.full(n, value), np.full(n, production), bound, feeds=True)

    return draws


def _slate_probabilities(preference: F64, slates: I64) -> F64:
    """Shape (slates, slots): of each slot's item given those above (Plackett-Luce)."""
    chosen = preference[slates]
    left = preference.sum() - np.concatenate([np.zeros((len(slates), 1)), chosen.cumsum(axis=1)[:, :-1]], axis=1)
    probabilities: F64 = chosen / left
    return probabilities


WORLDS: Final[dict[str, Callable[[int], Iterator[World]]]] = {
    **{name: of_case(name) for name in CASES},
    "mild, no bound": of_case("mild", bound=np.inf),
    "learning": learning(n=2000),
    "drifting": learning(n=2000, drift=True),
    "returning": learning(n=2000, returning=True),
    "feeds": feeds(n=2000, likely=0.8, bounded=True),
    "feeds, no bound": feeds(n=2000, likely=0.8, bounded=False),
    "sparse feeds": feeds(n=2000, likely=0.1, bounded=True),
}
