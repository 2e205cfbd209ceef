"""Are the recorded propensities those that were drawn with? A test that may be looked at all the time.

At a slot where n candidates have a probability p above 0 of being drawn, the one that is drawn has 1 / p with the mean

    E[1 / p] = sum over the n of p * (1 / p) = n

whatever the probabilities are. So u = 1 / (n * p) has the mean 1 at every slot, given all that came before; if the
recorded p are not those of the draw, its mean is another. Bets on u above 1 and below 1 multiply their wealth by
1 + rate * (u - 1), never negative: u is at most 1 / phi where a share phi of the draw is uniform. If the propensities
are true, the chance that the mean wealth ever reaches 1 / alpha is at most alpha (Ville 1939). Slots without a floor
are not looked at: nothing bounds u there.

Each day of the log begins anew, so that what broke after a sound year is found as soon as what broke at the beginning.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

F64 = NDArray[np.float64]

#: Chance that the alarm is raised on a day whose propensities are true: one false alarm in so many days.
DAYS_A_FALSE_ALARM: Final = 1_000
_ABOVE: Final = np.array([0.5, 0.1, 0.02, 0.004])
_BELOW: Final = np.array([0.9, 0.3, 0.1])
# What floors and counts are rounded by.
_SLACK: Final = 1e-6


class Check(Struct):
    """One day's bets.

    :ivar day: of the log's time, days since 1970
    :ivar log_wealth: of each bet
    :ivar most: largest logarithm of the mean wealth at any look
    :ivar impossible: slots whose p is no probability, or smaller than the floor lets any be
    """

    day: int = 0
    slots: int = 0
    log_wealth: list[float] = field(default_factory=lambda: [0.0] * (len(_ABOVE) + len(_BELOW)))
    most: float = 0.0
    impossible: int = 0

    @property
    def alarm(self) -> bool:
        """The propensities of this day are not those that were drawn with."""
        return self.impossible > 0 or self.most >= np.log(DAYS_A_FALSE_ALARM)

    def add(self, u: F64, bound: F64) -> None:
        """Slots in their order.

        :param u: shape (S,), 1 / (n * p)
        :param bound: shape (S,), the most that u can be
        """
        sound = np.isfinite(u) & (u > 0.0) & (u <= bound * (1.0 + _SLACK))
        self.impossible += int(len(u) - sound.sum())
        gain = (np.minimum(u[sound], bound[sound]) - 1.0)[:, None]
        below = gain / np.maximum(bound[sound] - 1.0, 1.0)[:, None]
        grown = np.concatenate([np.log1p(_ABOVE * gain).sum(axis=0), np.log1p(-_BELOW * below).sum(axis=0)])
        self.slots += len(u)
        wealth = np.array(self.log_wealth) + grown
        self.log_wealth = wealth.tolist()
        self.most = max(self.most, float(np.logaddexp.reduce(wealth) - np.log(len(wealth))))
