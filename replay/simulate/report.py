"""What a simulation says, as a table and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from replay.demo.report import Estimate, blocks, sparkline
from replay.simulate.kernels import I64
from replay.simulate.play import AGES, Played
from replay.simulate.world import Scenario

#: Feeds of a viewer who is met during the run, by how many they had before: from, to (not included).
EARLY: Final = ((0, 1), (1, 2), (2, 3), (3, 5), (5, 10), (10, 20), (20, 40))


#: New are items of the first so many ages.
NEW: Final = 3


def gini(shown: I64) -> float:
    """How unequally items were shown: 0 if all alike, near 1 if few take all.

    >>> gini(np.array([5, 5, 5])), round(gini(np.array([0, 0, 9])), 2)
    (0.0, 0.67)
    """
    n, total = len(shown), int(shown.sum())
    if total == 0:
        return 0.0
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ np.sort(shown) / (n * total))


def early_feeds(played: Played, new: npt.NDArray[np.bool_]) -> list[tuple[str, float | None, int]]:
    """Mean true value of a viewer's first feeds, as (which, value, feeds); None where there were none.

    :param new: shape (n_viewers,), viewers who were met during the run
    """
    rows: list[tuple[str, float | None, int]] = []
    for first, end in EARLY:
        at = new[played.viewer] & (played.nth >= first) & (played.nth < end)
        name = f"{first + 1}" if end == first + 1 else f"{first + 1}–{end}"
        rows.append((name, float(played.value[at].mean()) if at.any() else None, int(at.sum())))
    return rows


def summary(played: Played, scenario: Scenario, new: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """All that is told of one policy, as numbers."""
    n, half = len(played.value), len(played.value) // 2
    seen = int(played.n_seen.sum())
    reward = Estimate.of(played.reward)
    slots = n * scenario.slots
    return {
        "policy": played.name,
        "reward_per_feed": reward.value,
        "reward_per_feed_error": reward.error,
        "reward_per_seen_slot": float(played.reward.sum() / seen),
        "value_per_feed": float(played.value.mean()),
        "best_per_feed": float(played.best.mean()),
        "regret_per_feed": float(played.regret.mean()),
        "regret_first_half": float(played.regret[:half].mean()) if half else None,
        "regret_second_half": float(played.regret[half:].mean()),
        "regret_by_tenth": [float(played.regret[block].mean()) for block in blocks(n)],
        "value_by_tenth": [float(played.value[block].mean()) for block in blocks(n)],
        "seen_per_feed": seen / n,
        "valid_plays": float(played.n_valid.sum() / seen),
        "creators_per_feed": float(played.creators.mean()),
        "tags_per_feed": float(played.tags.mean()),
        "alike_pairs": float(played.likeness.mean()),
        "seen_before": float(played.again.sum() / slots),
        "new_items_shown": float(played.age_shown[:NEW].sum() / slots),
        "new_items_offered": float(played.age_offered[:NEW].sum() / played.age_offered.sum()),
        "items_by_age": _by_age(played),
        "exposure_gini": gini(played.shown),
        "exposure_top_hundredth": _top_share(played.shown),
        "new_viewers_value": {name: value for name, value, _ in early_feeds(played, new)},
    }


def _by_age(played: Played) -> list[dict[str, Any]]:
    """Of items by their age: how much of the slots and of the candidates they were, and what a slot earned."""
    names = [f"younger than {100 * age:g} % of the run" for age in AGES[:-1]] + ["older", "there before"]
    return [
        {"age": name, "shown": int(shown), "offered": int(offered), "reward_per_slot": float(reward / max(1, shown))}
        for name, shown, offered, reward in zip(
            names, played.age_shown, played.age_offered, played.age_reward, strict=True
        )
    ]


class Recovery(NamedTuple):
    """What a policy gains over showing anything, around the moment when all tastes change at once.

    :ivar before: over the tenth of the run before it; ``after``: over the hundredth after it
    :ivar later: from 5 to 10 % of the run after it
    :ivar recovered: later over before; None if nothing was gained before
    """

    before: float
    after: float
    later: float
    recovered: float | None


def recovery(played: Played, random: Played, drift: float) -> Recovery:
    """How soon a policy is back where it was.

    :param random: the play of `Uniform` on the same requests
    :param drift: the share of the run after which tastes changed, at most .9
    """
    gain = played.value - random.value
    n = len(gain)

    def mean(first: float, end: float) -> float:
        part = gain[round(max(first, 0.0) * n) : max(round(end * n), round(first * n) + 1)]
        return float(part.mean())

    before, later = mean(drift - 0.1, drift), mean(drift + 0.05, drift + 0.1)
    return Recovery(before, mean(drift, drift + 0.01), later, later / before if before else None)


def _top_share(shown: I64) -> float:
    top = np.sort(shown)[::-1][: max(1, len(shown) // 100)]
    return float(top.sum() / max(1, shown.sum()))


def as_document(
    plays: Sequence[Played], scenario: Scenario, new: npt.NDArray[np.bool_], took_s: dict[str, float]
) -> dict[str, Any]:
    """Everything told, ready for JSON."""
    policies = [{**summary(played, scenario, new), "seconds": took_s[played.name]} for played in plays]
    random = next((played for played in plays if played.name == "uniform"), None)
    if scenario.drift is not None and random is not None:
        for told, played in zip(policies, plays, strict=True):
            if played is not random:
                told["drift"] = recovery(played, random, scenario.drift)._asdict()
    return {"scenario": asdict(scenario), "policies": policies}


def describe(plays: Sequence[Played], scenario: Scenario, new: npt.NDArray[np.bool_]) -> str:
    """The comparison as tables."""
    told = [summary(played, scenario, new) for played in plays]
    lines = [
        f"{scenario.feeds:,} feeds of {scenario.viewers:,} simulated viewers, {scenario.candidates:,} candidates from "
        f"{scenario.items:,} videos, {scenario.slots} slots, seed {scenario.seed}",
        "All play the same requests with the same luck. Value and regret are the truth: means over luck.",
        "",
        "                reward        of a    true    regret: half       valid",
        "policy          per feed      slot    value   first   second     plays   regret, tenth by tenth",
    ]
    top = max(max(each["regret_by_tenth"]) for each in told)
    for each in told:
        first = each["regret_first_half"]
        lines.append(
            f"{each['policy']:<15} {each['reward_per_feed']:+6.3f} ± {each['reward_per_feed_error']:.3f} "
            f"{each['reward_per_seen_slot']:+7.3f} {each['value_per_feed']:+7.3f}  "
            f"{'' if first is None else f'{first:.3f}':>6}  {each['regret_second_half']:6.3f}   "
            f"{100 * each['valid_plays']:6.1f} %   {sparkline([*each['regret_by_tenth'], top])[:-1]}"
        )
    lines += [
        "",
        "                different in a feed   pairs    seen    new videos   unequal    to the top",
        "policy          creators     tags     alike    before  shown (off.) exposure   hundredth",
    ]
    for each in told:
        lines.append(
            f"{each['policy']:<15} {each['creators_per_feed']:8.2f} {each['tags_per_feed']:8.2f} "
            f"{100 * each['alike_pairs']:7.1f} % {100 * each['seen_before']:6.1f} % "
            f"{100 * each['new_items_shown']:5.1f} % ({100 * each['new_items_offered']:.1f}) "
            f"{each['exposure_gini']:8.2f} {100 * each['exposure_top_hundredth']:9.1f} %"
        )
    random = next((played for played in plays if played.name == "uniform"), None)
    if scenario.drift is not None and random is not None:
        lines += ["", "Gain over uniform:   before the change   just after   5 to 10 % of the run later   recovered"]
        for played in plays:
            if played is not random:
                found = recovery(played, random, scenario.drift)
                share = "" if found.recovered is None else f"{100 * found.recovered:.0f} %"
                lines.append(
                    f"{played.name:<20} {found.before:+18.3f} {found.after:+12.3f} {found.later:+28.3f} {share:>11}"
                )
    lines += ["", "True value of the first feeds of viewers who are met during the run:", ""]
    names = [name for name, _, n in early_feeds(plays[0], new) if n]
    lines.append(f"{'feed':<15} " + " ".join(f"{name:>9}" for name in names))
    lines.append(f"{'how many':<15} " + " ".join(f"{n:>9,}" for _, _, n in early_feeds(plays[0], new) if n))
    for each in told:
        values = [each["new_viewers_value"][name] for name in names]
        lines.append(f"{each['policy']:<15} " + " ".join(f"{value:>+9.3f}" for value in values))
    return "\n".join(lines)
