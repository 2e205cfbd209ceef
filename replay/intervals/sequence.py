"""Intervals that hold at every look, however often one looks: bets against every value, all at once.

For a value m that is not the true one, somebody could get rich by betting against it. Here wealth starts at 1 and is
spread over some hundred constant bets (`replay.intervals.bets`); m is ruled out once the wealth reaches 1 / alpha. If
m is the truth, the chance that this ever happens is at most alpha (Ville 1939), at whatever events one looks.
Waudby-Smith and Ramdas 2020 (arXiv 2010.09686), Waudby-Smith et al. 2022 (2210.10768), Karampatziakis, Mineiro and
Ramdas 2021 (2102.09540).

**What is claimed.** Let V_i be the target's expected reward at event i given everything before it: viewers, contexts
and models that production used may depend on the past in any way, and so may the logging policy. At all looks
together, the interval holds the *running mean* of V_i over the events so far, with probability at least 1 - alpha. If
events are independent and alike, that is the target's value. A viewer who returns makes later events depend on earlier
ones: the claim is then about these viewers' conditional values, not about other viewers that could have come.

**What is assumed.** Weights are target over true logged probability, so E[w | past] = 1, and the log could show all
that the target would; rewards are in the range; no weight can exceed ``weight_bound``, which has to be known
beforehand: it is part of the bets. If the bound grows between two looks (a floor was lowered, more candidates), a new
sequence begins, and each of the two misses with probability alpha.

Constant bets do not care for the order of events, so the wealth follows from counts by weight and reward alone, which
merge; see :func:`points` for why cells never overstate it.
"""

from __future__ import annotations

from math import ceil, log
from typing import Final, NamedTuple

import numpy as np

from replay.errors import BadQuestion
from replay.events import F64, I64
from replay.intervals.bets import sides
from replay.intervals.scales import refuse_extremes
from replay.results import Interval
from replay.sums import Sums
from replay.weight_table import WeightTable

_SLACK: Final = 1e-9
_MOST_POINTS: Final = 16_384
_COARSE_RATIO: Final = 1.03
_SMALLEST: Final = 1e-8
"""Share of the largest weight below which weights are not told apart from 0 where there are many points."""
_COARSE_REWARDS: Final = 33


class Points(NamedTuple):
    """Weighted pairs of weight and scaled reward that a log's events may be taken for."""

    w: F64
    g: F64
    times: F64


def points(table: WeightTable, reward_range: tuple[float, float]) -> Points:
    """The corners of the table's cells, with what falls to each: bets on these never win more than on the events.

    A payoff f is bilinear in (w, g). Write an event's (w, g) as the mean of its cell's four corners, with the shares
    of bilinear interpolation: f of the event is the same mean of f of the corners, and log f, being concave, is at
    least that mean of log f. The shares are bilinear too, so their sums over a cell's events follow from its count
    and its sums of w, g and w * g. Cells are under 1 % wide, so next to nothing is lost.

    :raises BadQuestion: rewards were seen outside the range
    """
    low, high = reward_range
    spread = high - low
    cells = table.cells
    if len(cells.sum_weight) and (cells.low_reward.min() < low - _SLACK * spread):
        raise BadQuestion(
            f"reward {cells.low_reward.min():g} is below the range {low:g} to {high:g}; give the true one"
        )
    if len(cells.sum_weight) and (cells.high_reward.max() > high + _SLACK * spread):
        raise BadQuestion(
            f"reward {cells.high_reward.max():g} is above the range {low:g} to {high:g}; give the true one"
        )
    n = cells[0]  # the name means something else in a tuple, to a type checker
    g_ends = [np.clip((end - low) / spread, 0.0, 1.0) for end in (cells.low_reward, cells.high_reward)]
    w_ends = [cells.low_weight, cells.high_weight]
    g_sum, w_sum = (cells.sum_reward - low * n) / spread, cells.sum_weight
    product = (cells.sum_product - low * w_sum) / spread
    w_width, g_width = w_ends[1] - w_ends[0], g_ends[1] - g_ends[0]
    # Sums over a cell's events of how far up they are in w, in g, and of the product of both. Rounding is kept within
    # what any events could give: where a cell is so narrow that it matters, its corners are as good as one.
    w_up = np.divide(w_sum - n * w_ends[0], w_width, out=np.zeros_like(n), where=w_width > 0).clip(0.0, n)
    g_up = np.divide(g_sum - n * g_ends[0], g_width, out=np.zeros_like(n), where=g_width > 0).clip(0.0, n)
    area = w_width * g_width
    both_up = product - w_ends[0] * g_sum - g_ends[0] * w_sum + n * w_ends[0] * g_ends[0]
    both = np.divide(both_up, area, out=np.zeros_like(n), where=area > 0)
    both = both.clip(np.maximum(w_up + g_up - n, 0.0), np.minimum(w_up, g_up))
    shares = {(0, 0): n - w_up - g_up + both, (1, 0): w_up - both, (0, 1): g_up - both, (1, 1): both}
    w = np.concatenate([w_ends[i] for i, _ in shares])
    g = np.concatenate([g_ends[j] for _, j in shares])
    times = np.maximum(np.concatenate(list(shares.values())), 0.0)
    used = times > 0
    found = Points(w[used], g[used], times[used])
    return found if len(found.w) <= _MOST_POINTS else coarser(found)


def coarser(many: Points) -> Points:
    """Fewer points, for the same reason still no better: each goes to the four corners of the cell of a grid.

    Rewards of 0 stay there, and no other becomes 0.
    """
    top = float(many.w.max())
    positive = many.g[many.g > 0.0]
    steps = ceil(-log(_SMALLEST) / log(_COARSE_RATIO))
    w_grid = np.concatenate([[0.0], np.geomspace(_SMALLEST * top, top, steps)]) if top > 0.0 else np.zeros(1)
    g_grid = np.unique([0.0, *np.linspace(positive.min(), 1.0, _COARSE_REWARDS)]) if len(positive) else np.zeros(1)
    w_at, w_up = _between(many.w, w_grid)
    g_at, g_up = _between(many.g, g_grid)
    times = np.zeros((len(w_grid) + 1, len(g_grid) + 1))
    for i, w_share in ((0, 1.0 - w_up), (1, w_up)):
        for j, g_share in ((0, 1.0 - g_up), (1, g_up)):
            np.add.at(times, (w_at + i, g_at + j), many.times * w_share * g_share)
    used = np.nonzero(times > 0.0)
    return Points(w_grid[used[0]], g_grid[used[1]], times[used])


def _between(x: F64, edges: F64) -> tuple[I64, F64]:
    """The edge at or below each, and how far it is towards the next, in [0, 1]."""
    at = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 1)
    width = np.diff(edges, append=edges[-1])[at]
    return at, np.divide(x - edges[at], width, out=np.zeros_like(x), where=width > 0.0).clip(0.0, 1.0)


def sequence(
    sums: Sums, *, alpha: float, reward_range: tuple[float, float] | None, difference: bool = False
) -> Interval | None:
    """An interval for the target's value, or for target minus production, that holds at every look together.

    It may be asked for after any number of events and as often as one likes; the intersection of what was answered
    so far holds too. For what exactly is claimed and assumed, see the module.

    Of feeds, slots' rewards must not be negative.

    :param reward_range: lowest and highest reward of an event
    :returns: None where bets cannot be settled: no reward range, a sample whose rate changed, sums without a table,
        feeds with rewards of both signs; or where no value is left, as weights do not have mean 1
    :raises BadQuestion: alpha is not between 0 and 1; rewards were seen outside the range
    """
    ends = settled(sums, alpha=alpha, reward_range=reward_range, difference=difference, uncovered=0.0)
    return None if ends is None else Interval(low=ends[0], high=ends[1], method="anytime", alpha=alpha)


def settled(
    sums: Sums, *, alpha: float, reward_range: tuple[float, float] | None, difference: bool, uncovered: float
) -> tuple[float, float] | None:
    """The ends of :func:`sequence`, in rewards.

    :param uncovered: the target's mass on what the log could never show, see :func:`sides`
    :returns: None where bets cannot be settled, or leave nothing
    :raises BadQuestion: alpha is not between 0 and 1; rewards were seen outside the range
    """
    if not 0.0 < alpha < 1.0:
        raise BadQuestion(f"alpha {alpha} is no chance of being wrong; give one between 0 and 1, such as .05")
    table = sums.weights
    if reward_range is None or not table.faithful:
        return None
    low, high = reward_range
    if not table.mean_weight_is_one:
        if low < 0.0 or (len(table.cells.sum_weight) and table.cells.low_weight.min() < 0.0):
            return None
        low = 0.0  # what is weighted is the sum of slots' rewards: 0 must stay 0
    if not low < high:
        raise BadQuestion(f"reward range {low:g} to {high:g} is empty; give the lowest and the highest reward")
    refuse_extremes(low, high)
    seen = points(table, (low, high))
    ends: tuple[float, float] | None = (-1.0, 1.0) if difference else (0.0, 1.0)
    if len(seen.times):
        ends = sides(
            *seen,
            bound=weight_bound(sums, seen),
            difference=difference,
            mean_weight_is_one=table.mean_weight_is_one,
            uncovered=uncovered,
        ).interval(alpha)
    if ends is None:
        return None
    start, spread = (0.0 if difference else low), high - low
    return start + spread * ends[0], start + spread * ends[1]


def weight_bound(sums: Sums, seen: Points) -> float:
    """The bound on weights; none, if a larger one was seen."""
    bound = max(sums.weight_bound, 1.0) * (1.0 + _SLACK)
    return bound if seen.w.max() <= bound else np.inf
