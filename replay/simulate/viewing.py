"""What a viewer does with one video that they see: how long they watch, and what they say of it. Pure.

Everything follows from the *logit* of a valid play: whether they stay, then for how long, then whether they like,
comment, share or follow; else whether they swipe on at once, are not interested, or report it. How long a play
lasts is fitted to `replay.simulate.facts`; how often viewers speak is a choice.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from replay.simulate import facts

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Beyond the moment from which a play is valid, the time watched is exponential with this mean.
STAYS_S: Final = 14.0
#: Other plays: the median, and the spread of the logarithm (logistic).
LEAVES_S: Final = 1.5
LEAVES_SPREAD: Final = 0.42
#: Of plays to the end, this share goes on into a second round.
REWATCHES: Final = 0.2
#: A swipe sooner than this is a skip.
SKIPS_S: Final = 1.0

#: Logit of each thing said: a constant, and what it gains with each logit of a valid play.
SAYS: Final = {
    "like": (-1.9, 0.6),
    "comment": (-4.2, 0.5),
    "share": (-4.0, 0.5),
    "follow": (-4.0, 0.6),
    "not_interested": (-6.0, -0.6),
    "report": (-8.5, -0.6),
}
#: What can be said of a valid play, and of another one.
SAID_OF: Final = {True: ("like", "comment", "share", "follow"), False: ("not_interested", "report")}
#: Random numbers that one video takes: stays, watches, one for each thing said, and whether they leave.
N_RANDOM: Final = 3 + len(SAYS)


def sigmoid(logits: F64) -> F64:
    """1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def valid_share(logits: F64) -> F64:
    """Probability of a valid play."""
    return sigmoid(logits)


def said_share(name: str, logits: F64) -> F64:
    """Probability that this is said, given that the play was valid (or was not; see `SAID_OF`)."""
    constant, slope = SAYS[name]
    return sigmoid(constant + slope * logits)


def watch_s(quantile: F64, length_s: F64, valid: bool | Bools) -> F64:
    """Seconds watched, at these quantiles of all valid (or of all other) plays of videos of these lengths.

    >>> watch_s(np.array([0.1, 0.5, 0.99]), np.array([27.0, 27.0, 27.0]), True).round(1).tolist()
    [8.5, 16.7, 51.4]
    """
    enough = np.minimum(facts.VALID_FROM_S, length_s)
    short = np.minimum(LEAVES_S * (quantile / (1.0 - quantile)) ** LEAVES_SPREAD, 0.98 * enough)
    stays = enough - STAYS_S * np.log1p(-quantile)
    ends_at = -np.expm1(-(length_s - enough) / STAYS_S)
    within_ends = (quantile - ends_at) / np.maximum(1.0 - ends_at, 1e-12)
    rounds = 1.0 + np.maximum(0.0, (within_ends - (1.0 - REWATCHES)) / REWATCHES)
    long = np.where(stays < length_s, stays, length_s * rounds)
    return np.where(valid, long, short)


def watched(watch_s: float, valid: bool) -> dict[str, float]:
    """The signals that tell of watching, to a tenth of a second; sent for whatever was seen."""
    told = {"watch_s": round(watch_s, 1)}
    return {**told, "skip": 1.0} if not valid and watch_s < SKIPS_S else told
