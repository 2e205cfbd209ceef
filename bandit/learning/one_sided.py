"""One lower bound that holds at every look: of how much more a target would have earned than what was logged.

For the guard beside a service, which looks again and again and for as long as it likes. Of each event

    Z = mean over slots of (w - 1) * (g - b)

with w the target's probability of what stands at the slot over the logged one, both given the slots above, g the reward
scaled to [0, 1], and b any number chosen before the draw. As E[w | past] = 1, the mean of Z given the past is what the
target would earn more *at that slot, below what was logged above it*, summed over slots and divided by their number.
With one slot that is the difference of values. With more it is the difference of one step, not of whole feeds; weights
are not multiplied, so it can be told from thousands of feeds where the prefix weights of ten slots would need millions.

A bet multiplies wealth by f = 1 + rate * (Z - centre), never negative. As E[f] <= exp(rate * (E[Z] - centre)), the
product of all f over exp(rate * sum(E[Z] - centre)) is a non-negative supermartingale, and so is a mixture of bets: the
chance that it ever reaches 1 / alpha is at most alpha (Ville 1939). So the bound holds the *running mean* of E[Z], at
all looks together, whatever models, viewers and the log's own policy learned on the way. With b near the mean reward Z
varies least, and loses when w is large and g is 0: a bet uses its b only where the largest possible weight lets it.
Waudby-Smith and Ramdas 2020 (arXiv 2010.09686); Karampatziakis, Mineiro and Ramdas 2021 (2102.09540).
"""

from __future__ import annotations

from typing import Final, Self

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_AFFORDED: Final = 0.95
"""A bet loses at most this share of its wealth at one event."""
_BASELINES: Final = (0.0, 0.25, 0.5, 0.75)
_RATES: Final = _AFFORDED * 2.0 ** np.arange(0.0, -21.0, -1.0)
_STEPS: Final = 60
_AT_ONCE: Final = 1 << 20


class Evidence(Struct, array_like=True):
    """A `LowerBound` as it is kept between two runs."""

    n: int
    sums: tuple[float, float, float]
    gain: list[float]


class LowerBound:
    """Evidence that the mean of Z is large, and the bound that follows; see the module.

    :param centre: bets are sharpest at this mean, in [0, 1]
    """

    def __init__(self, *, centre: float = 0.0) -> None:
        if not 0.0 <= centre <= 1.0:
            raise ValueError(f"centre is {centre}; a difference of scaled rewards lies in [0, 1]")
        pairs = [(rate / (1.0 + centre), b) for rate in _RATES for b in _BASELINES]
        self._rate, self._b = (np.array(column) for column in zip(*pairs, strict=True))
        self._centre = centre
        self._gain = np.zeros(len(pairs))
        self.n = 0
        self._sum_a = self._sum_b = self._sum_g = 0.0

    def kept(self) -> Evidence:
        """What :meth:`of` goes on from."""
        return Evidence(self.n, (self._sum_a, self._sum_b, self._sum_g), self._gain.tolist())

    @classmethod
    def of(cls, kept: Evidence, *, centre: float = 0.0) -> Self:
        """The bound that was kept.

        :param centre: as it was
        :raises ValueError: it was kept by a release with other bets
        """
        found = cls(centre=centre)
        if len(kept.gain) != len(found._gain):
            raise ValueError(f"{len(kept.gain)} bets were kept; this release makes {len(found._gain)}")
        found.n, found._gain = kept.n, np.array(kept.gain)
        found._sum_a, found._sum_b, found._sum_g = kept.sums
        return found

    def add(self, w: F64, g: F64, bound: F64, starts: I64) -> None:
        """Events, in the order in which they are to be bet on.

        :param w, g: shape (S,): weights and scaled rewards of all slots
        :param bound: shape (S,): no weight of the slot could have been larger
        :param starts: shape (n + 1,): where each event's slots begin
        """
        if len(starts) < 2:
            return
        n_slots, first = np.diff(starts), starts[:-1]
        a = np.add.reduceat((w - 1.0) * g, first) / n_slots
        b = np.add.reduceat(w - 1.0, first) / n_slots
        top = np.maximum.reduceat(np.maximum(bound, w), first)
        step = max(_AT_ONCE // len(self._rate), 1)
        for i in range(0, len(a), step):
            self._bet(a[i : i + step], b[i : i + step], top[i : i + step])
        self.n += len(a)
        self._sum_a += float(a.sum())
        self._sum_b += float(b.sum())
        self._sum_g += float((np.add.reduceat(g, first) / n_slots).sum())

    def _bet(self, a: F64, b: F64, top: F64) -> None:
        worst = np.maximum((top[:, None] - 1.0) * self._b, 1.0 - self._b) + self._centre
        baseline = np.where(self._rate * worst <= _AFFORDED, self._b, 0.0)
        z = a[:, None] - baseline * b[:, None]
        self._gain += np.log1p(self._rate * (z - self._centre)).sum(axis=0)

    def log_wealth(self, mean: float) -> float:
        """Of all bets, if the mean of E[Z] so far were this; at least log(1 / alpha) with probability alpha at most."""
        of_each = self._gain - self.n * self._rate * (mean - self._centre)
        return float(np.logaddexp.reduce(of_each) - np.log(len(of_each)))

    def lower(self, alpha: float) -> float:
        """The mean of E[Z] so far is not below this, at all looks together with probability 1 - alpha; from -1 to 1."""
        threshold = float(np.log(1.0 / alpha))
        low, high = -1.0, 1.0
        if self.log_wealth(low) < threshold:
            return low
        for _ in range(_STEPS):
            middle = (low + high) / 2.0
            if self.log_wealth(middle) >= threshold:
                low = middle
            else:
                high = middle
        return low

    @property
    def estimate(self) -> float | None:
        """The mean of Z itself, with the mean reward as its b; None without events."""
        if self.n == 0:
            return None
        return (self._sum_a - self._sum_g / self.n * self._sum_b) / self.n


def clipped(reward: F64, reward_range: tuple[float, float]) -> F64:
    """Rewards scaled to [0, 1]."""
    low, high = reward_range
    return np.asarray((np.clip(reward, low, high) - low) / (high - low))
