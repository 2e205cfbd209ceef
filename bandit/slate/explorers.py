"""Explorers: how likely each candidate is to be drawn, given the scores of those that may be.

An :class:`Explorer` is a plain definition, three numbers that a compiled kernel can take; the
kernel itself is in :mod:`bandit.slate.drawing`. The two are apart because numba's on-disk cache notices
a change of a kernel's own file only: a kernel compiled against another module's kernel would
outlive a change of it, and go on recording the probabilities of yesterday's explorer.
https://numba.readthedocs.io/en/stable/developer/caching.html

Scores are expected rewards: higher is better. Vowpal Wabbit's are costs; otherwise every
explorer here gives the probabilities that VW's ``--cb_explore_adf`` gives. Equal scores are
taken in the caller's order.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from bandit.errors import InvalidConfig

# Compiled into the kernels of bandit.slate.drawing: add codes, never renumber them.
SQUARECB: Final = 0
EPSILON_GREEDY: Final = 1
SOFTMAX: Final = 2
GREEDY: Final = 3
UNIFORM: Final = 4


class Explorer(NamedTuple):
    """An exploration rule as the kernel takes it; made by the functions of this module.

    :ivar a: gamma, epsilon or lambda, by ``kind``
    :ivar b: the most that all but the best may get together, in [0, 1]; 1 leaves the rule as it is. Where the rule
        gives them more, they share ``b`` in its proportions, and the best gets the rest
    """

    kind: int
    a: float
    b: float = 1.0

    @property
    def spread(self) -> float:
        """The share, before ``b``, that goes evenly to all that it sees, whatever their scores."""
        return self.a if self.kind == EPSILON_GREEDY else float(self.kind == UNIFORM)


def squarecb(*, gamma_scale: float = 10.0, gamma_exponent: float = 0.5, n_learned: int) -> Explorer:
    """SquareCB: each but the best gets 1 / (K + gamma * gap to the best), the best gets the rest.

    gamma = gamma_scale * n_learned ** gamma_exponent. Before anything was learned gamma is 0 and
    the draw uniform (for an exponent above 0), as in VW, which counts calls of learn.

    :param gamma_scale: greediness, at least 0; VW's default is 10
    :param gamma_exponent: how fast greediness grows with experience, at least 0; VW's default is 0.5
    :param n_learned: outcomes that the scoring model has learned from, at least 0
    :raises InvalidConfig: a parameter outside its range, or a gamma that is not finite
    Source: Foster and Rakhlin (2020), https://arxiv.org/abs/2002.04926
    """
    _check("squarecb", "gamma_scale", gamma_scale, math.inf)
    _check("squarecb", "gamma_exponent", gamma_exponent, math.inf)
    _check("squarecb", "n_learned", n_learned, math.inf)
    try:
        gamma = float(gamma_scale) * float(n_learned) ** float(gamma_exponent)
    except OverflowError:
        gamma = math.inf
    _check("squarecb", "gamma", gamma, math.inf)
    return Explorer(SQUARECB, gamma)


def epsilon_greedy(*, epsilon: float) -> Explorer:
    """The best with 1 - epsilon, and epsilon spread evenly over all, the best included.

    Of several best the first gets it all, as in VW with ``--first_only``; without it VW shares
    among the tied, which would make the top of an untrained ranker uniform noise whatever epsilon.

    :param epsilon: share of uniform exploration, in [0, 1]
    :raises InvalidConfig: epsilon is outside [0, 1]
    """
    _check("epsilon_greedy", "epsilon", epsilon, 1.0)
    return Explorer(EPSILON_GREEDY, float(epsilon))


def softmax(*, lambda_: float) -> Explorer:
    """Probability proportional to exp(lambda_ * score); slot by slot this is Plackett-Luce.

    :param lambda_: greediness, at least 0; 0 is uniform. VW's default is 1, and VW drops the sign
    :raises InvalidConfig: lambda_ is negative or not finite
    """
    _check("softmax", "lambda", lambda_, math.inf)
    return Explorer(SOFTMAX, float(lambda_))


def greedy() -> Explorer:
    """The best, always. Without a floor nothing else has any probability: a log that teaches little."""
    return Explorer(GREEDY, 0.0)


def uniform() -> Explorer:
    """Each with the same probability."""
    return Explorer(UNIFORM, 0.0)


def _check(explorer: str, name: str, value: float, most: float) -> None:
    if math.isfinite(value) and 0.0 <= value <= most:
        return
    allowed = f"at least 0 and at most {most:g}" if math.isfinite(most) else "finite and at least 0"
    raise InvalidConfig(
        f"{name} {value!r} of explorer {explorer} is refused; it must be {allowed}",
        explorer=explorer,
        parameter=name,
        value=repr(value),
        allowed=allowed,
    )
