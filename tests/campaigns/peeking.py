"""How often do sequences miss when one looks after every event, and how wide are they?

    python -m tests.campaigns.peeking [--seeds 500] [--ci] [--markdown docs/peeking.md]

A miss is a truth that was outside the interval after *any* event. Each row states how many misses would be too many:
more than a binomial with the promised rate has with probability 1e-4; that is the false-alarm rate of each test, 2.2e-3
for all 22 together. Widths are compared after the last event with vw-estimators' confidence sequence
(``estimators.bandits.cs``, 0.2.2), whose formula is written out here (the package agrees with it to 1e-9). Seeds are 0,
1, 2, ...; the outcome of a run is always the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammainc, gammaln

from replay.estimators import parse_estimator, terms_for
from replay.events import F64
from replay.intervals.bets import Bets, difference_bets, features, feed_bets, value_bets
from replay.intervals.sequence import sequence
from replay.sums import Sums
from tests.campaigns import worlds
from tests.campaigns.cases import CASES
from tests.campaigns.worlds import World

ALPHA: Final = 0.05
FALSE_ALARM: Final = 1e-4
GEOMETRIC_MEAN: Final = 0.8
_FIRST_LOOK: Final = 100
"""The normal interval, for comparison, is looked at from this event on."""


class Row(NamedTuple):
    """What was found of one question in one setting."""

    name: str
    seeds: int
    events: int
    misses: int
    most: int
    """No more than this is in keeping with what is promised."""
    normal_misses: int
    width: float
    """Mean, after the last event, over the spread of rewards."""
    normal_width: float


# ---------------------------------------------------------------- looking after every event


def log_wealth(mixtures: Sequence[Bets], seen: F64, truth: F64) -> F64:
    """Shape (n,): of equal parts of some mixtures after each event, held against the truth.

    :param seen: shape (n, 5), features of events in their order
    :param truth: shape (n,), running mean of the conditional values
    """
    n = np.arange(1, len(seen) + 1)[:, None]
    total = np.full(len(seen), -np.inf)
    for bets in mixtures:
        logs = np.log(seen @ bets.payoff.T).cumsum(axis=0)
        logs += bets.log_share - np.log(len(mixtures)) + n * (bets.rate * (bets.centre - truth[:, None]))
        if len(bets.rate):
            top = logs.max(axis=1)
            logs -= top[:, None]
            total = np.logaddexp(total, top + np.log(np.exp(logs, out=logs).sum(axis=1)))
    return total


def ever_missed(world: World, *, difference: bool) -> bool:
    """Whether a sequence at ALPHA missed the truth after any event."""
    truth = world.values - world.production if difference else world.values
    running = truth.cumsum() / np.arange(1, len(truth) + 1)
    w, g = world.w, world.r
    if world.feeds:
        gain, loss = (feed_bets(world.bound, upper=upper, difference=difference) for upper in (False, True))
        seen = [features(w, g), features(w, g)]
    else:
        gain = loss = [difference_bets(world.bound) if difference else value_bets(world.bound)]
        seen = [features(w, g), features(w, 1.0 - g)]
    mirrored = -running if difference else 1.0 - running
    highest = max(log_wealth(gain, seen[0], running).max(), log_wealth(loss, seen[1], mirrored).max())
    return bool(highest >= np.log(2.0 / ALPHA))


def normal_ever_missed(world: World, *, difference: bool) -> tuple[bool, float]:
    """The same of the usual 95 % interval of the mean, from the hundredth event on; and its last width."""
    x = (world.w - 1.0) * world.r if difference else world.w * world.r
    n = np.arange(1, len(x) + 1)
    truth = (world.values - world.production if difference else world.values).cumsum() / n
    mean = x.cumsum() / n
    arm = stats.norm.isf(ALPHA / 2) * np.sqrt(np.maximum(np.square(x).cumsum() / n - mean**2, 0.0) / n)
    return bool((np.abs(mean - truth) > arm)[_FIRST_LOOK:].any()), float(2 * arm[-1])


def sums_of(world: World) -> Sums:
    """The whole log through the public path."""
    sums = Sums(terms_for([parse_estimator("ips", slates=False)], slates=False), reward_range=(0.0, 1.0))
    viewer = np.arange(len(world.w), dtype=np.uint64)
    sums.add_columns(reward=world.r, weight=world.w, viewer=viewer, weight_bound=world.bound)
    sums.weights.mean_weight_is_one = not world.feeds
    return sums


def run(name: str, drawn: Iterator[World], seeds: int, *, difference: bool) -> Row:
    """Look at ``seeds`` logs after every event."""
    missed, normal, widths, events = 0, [], [], 0
    for world in drawn:
        missed += ever_missed(world, difference=difference)
        normal.append(normal_ever_missed(world, difference=difference))
        found = sequence(sums_of(world), alpha=ALPHA, reward_range=(0.0, 1.0), difference=difference)
        widths.append(0.0 if found is None else found.high - found.low)
        events = len(world.w)
    most = int(stats.binom.isf(FALSE_ALARM, seeds, ALPHA))
    return Row(
        f"{name}, {'difference' if difference else 'value'}", seeds, events, missed, most,
        sum(each for each, _ in normal), float(np.mean(widths)), float(np.mean([width for _, width in normal])),
    )  # fmt: skip


# ---------------------------------------------------------------- against vw-estimators


def peer_interval(w: F64, r: F64, alpha: float) -> tuple[float, float]:
    """vw-estimators' confidence sequence after the last event: gamma-exponential mixture, each side at alpha / 2."""

    def log_wealth(s: float, v: float) -> float:
        def log_lower_gamma(a: float, x: float) -> float:
            return float(np.log(gammainc(a, x)) + gammaln(a))

        return s + v - (v + 1) * np.log(s + v + 1) + log_lower_gamma(v + 1, s + v + 1) - log_lower_gamma(1, 1)

    def lower(x: F64) -> float:
        n, threshold = len(x), float(np.log(2 / alpha))
        guess = (np.concatenate([[0.0], x.cumsum()[:-1]]) + 0.5) / np.arange(1, n + 1)
        total, variance = float(x.sum()), float(np.square(x - guess).sum())
        if log_wealth(total, variance) <= threshold:
            return 0.0
        top = min(1.0, total / n)
        if log_wealth(total - n * top, variance) >= threshold:
            return top
        return float(brentq(lambda m: log_wealth(total - n * m, variance) - threshold, 0.0, top))

    return lower(w * r), 1.0 - lower(w * (1.0 - r))


class Comparison(NamedTuple):
    """Mean widths over the truth, after the last event."""

    name: str
    truth: float
    ours: float
    peer: float
    tight: float
    """Ours, when the bound is the largest weight that any candidate could have had, not the round one."""


def compare(name: str, seeds: int) -> Comparison:
    """Widths on one of the cases."""
    case = CASES[name]
    ours: list[float] = []
    peer: list[float] = []
    tight: list[float] = []
    for seed in range(seeds):
        draw = case.draw(seed)
        world = World(draw.w, draw.r, np.full(case.n, case.truth), np.zeros(case.n), case.weight_bound)
        largest = float((draw.pmf / draw.logged_pmf).max())
        for found, bound in ((ours, case.weight_bound), (tight, largest)):
            each = sequence(sums_of(world._replace(bound=bound)), alpha=ALPHA, reward_range=(0.0, 1.0))
            assert each is not None
            found.append(each.high - each.low)
        low, high = peer_interval(draw.w, draw.r, ALPHA)
        peer.append(min(high, 1.0) - low)
    means = [float(np.mean(each)) / case.truth for each in (ours, peer, tight)]
    return Comparison(name, case.truth, *means)


# ---------------------------------------------------------------- the campaign


def campaign(seeds: int, *, compared: int) -> tuple[list[Row], list[Comparison]]:
    """All settings. Worlds are drawn again for each question, in the same way."""
    rows = []
    for name, draw in worlds.WORLDS.items():
        for difference in (False, True):
            rows.append(run(name, draw(seeds), seeds, difference=difference))
            print(line(rows[-1]), flush=True)
    comparisons = [compare(name, compared) for name in CASES]
    for each in comparisons:
        print(compared_line(each), flush=True)
    return rows, comparisons


def line(row: Row) -> str:
    """For the table."""
    return (
        f"| {row.name} | {row.events:,} | {row.misses} of {row.seeds} ({row.misses / row.seeds:.1%}) | {row.most} "
        f"| {row.normal_misses / row.seeds:.1%} | {row.width:.3g} | {row.width / row.normal_width:.2f} |"
    )


def compared_line(each: Comparison) -> str:
    """For the table."""
    return (
        f"| {each.name} | {each.truth:.5f} | {each.ours:.3f} | {each.peer:.3f} | {each.ours / each.peer:.2f} "
        f"| {each.tight:.3f} | {each.tight / each.peer:.2f} |"
    )


def geometric_mean(comparisons: Sequence[Comparison]) -> float:
    """Of our widths over the peer's."""
    return float(np.exp(np.mean([np.log(each.ours / each.peer) for each in comparisons])))


def failures(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[str]:
    """What does not hold."""
    return [
        *(f"{row.name}: {row.misses} misses, at most {row.most} allowed" for row in rows if row.misses > row.most),
        *(f"{each.name}: wider than vw-estimators" for each in comparisons if each.ours >= each.peer),
        *(
            [f"geometric mean {geometric_mean(comparisons):.2f}"]
            if geometric_mean(comparisons) > GEOMETRIC_MEAN
            else []
        ),
    ]


def markdown(rows: Sequence[Row], comparisons: Sequence[Comparison], *, command: str) -> str:
    """The page."""
    return "\n".join(
        [
            "# Looking as often as one likes",
            "",
            "A sequence is an interval that holds at every look together. Here one looks after *every* event; a miss",
            "is a truth outside the interval after any of them. The promise is at most 5 %. Made by",
            "",
            f"    {command}",
            "",
            "| setting | events | missed, ever | most allowed | normal interval missed, ever | width | over normal |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(line(row) for row in rows),
            "",
            "*Most allowed*: a run fails beyond this many misses; a method that misses exactly 5 % fails with",
            "probability 1e-4. *Normal interval*: the usual mean ± 1.96 standard errors, looked at after every event",
            "from the hundredth on. *Width*: mean after the last event, in units of the reward range; *over normal*:",
            "over the width of that normal interval of the plain weighted mean, which holds at one look only.",
            "",
            "Settings: `learning`: production is an epsilon-greedy bandit that learns from the log as it is written;",
            "`drifting`: and rewards drift, so the truth is the running mean of the conditional values; `returning`:",
            "40 viewers return, each with tastes of their own; `no bound`: nothing is known of the largest weight;",
            "`feeds`: three slots drawn without replacement, the value by prefix weights.",
            "",
            "## Width against vw-estimators' confidence sequence",
            "",
            "`estimators.bandits.cs.Interval` 0.2.2, on the same logs, after the last event. Widths over the truth.",
            "The round bound on weights is 30, 20,000, 100 and 50; the tight one is the largest weight that any",
            "candidate could have had.",
            "",
            "| case | truth | ours, round bound | vw-estimators | ratio | ours, tight bound | ratio |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(compared_line(each) for each in comparisons),
            "",
            f"Geometric mean of the ratios with the round bound: {geometric_mean(comparisons):.2f}.",
            "",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 if all holds, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.peeking", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="logs of each setting (default: %(default)s)")
    parser.add_argument("--ci", action="store_true", help="40 logs of each setting: under two minutes")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    given = parser.parse_args(arguments)
    seeds = 40 if given.ci else given.seeds
    rows, comparisons = campaign(seeds, compared=min(seeds, 100))
    print(f"geometric mean of widths over vw-estimators': {geometric_mean(comparisons):.3f}")
    if given.markdown is not None:
        command = f"python -m tests.campaigns.peeking --{'ci' if given.ci else f'seeds {seeds}'}"
        given.markdown.write_text(markdown(rows, comparisons, command=command), encoding="utf-8")
    wrong = failures(rows, comparisons)
    print("\n".join(f"FAILED {each}" for each in wrong) or "all hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
