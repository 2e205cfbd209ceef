"""What the value must lie in where the log could never show some of what the target would.

The value is what the target earns on what the log supports, plus what it earns on the rest: no log can say that, but
rewards have a range. So the value is at least the supported part with the rest as bad as can be, and at most with the
rest as good as can be (Manski 1990, "Nonparametric bounds on treatment effects").
"""

from __future__ import annotations

from replay.errors import BadQuestion
from replay.intervals.sequence import settled
from replay.results import Interval
from replay.sums import Sums


def identification_bounds(
    sums: Sums, *, uncovered: float, alpha: float, reward_range: tuple[float, float] | None
) -> Interval | None:
    """An interval for the target's value, whatever the truth is where the log never looked.

    The supported part's sampling error is included, by the bets of `replay.intervals.sequence`: they need no
    effective sample size and no normal distribution, so this may be told where an estimate is refused. It holds at
    every look, too. With ``uncovered`` 1 it is the reward range.

    :param uncovered: mean probability that the target gives to what the log could never show: propensity 0, floor 0,
        or no candidate; then weights have mean 1 - uncovered
    :param reward_range: lowest and highest reward of an event
    :returns: None if there is no reward range; the whole range where nothing narrower holds (a sample whose rate
        changed, sums without a table, feeds with rewards of both signs, weights whose mean contradicts ``uncovered``)
    :raises BadQuestion: uncovered or alpha is no probability; rewards were seen outside the range
    """
    if not 0.0 <= uncovered <= 1.0:
        raise BadQuestion(f"uncovered mass {uncovered} is no probability; it is a mean of the target's probabilities")
    found = settled(sums, alpha=alpha, reward_range=reward_range, difference=False, uncovered=uncovered)
    if found is None:
        if reward_range is None:
            return None
        found = reward_range
    return Interval(low=found[0], high=found[1], method="bounds", alpha=alpha)
